"""What operators ask: is it alive, is it ready, how is it doing. Answers for probes, people and Prometheus.

Paths: `/healthz` the process answers; `/readyz` it can serve now; `/health` and `/metrics` numbers.
Nothing here holds a key, a value, a session or a secret.
"""

import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Final

import anyio
import msgspec
from msgspec import Struct

from kvmcp.core.http.messages import SAFE, BodyPart, Field, Part, ResponseStart
from kvmcp.io.endpoint import Response

logger = logging.getLogger("kvmcp.io")

PATHS: Final = ("/healthz", "/readyz", "/health", "/metrics")

READY_FOR: Final = 1.0
"""Seconds for which an answer of the store stands, so that however many ask, it is asked once a second."""
READY_TIMEOUT: Final = 2.0
"""Seconds after which a store that says nothing is not ready. Probes give up after one to five."""

PROMETHEUS: Final = b"text/plain; version=0.0.4; charset=utf-8"

_encode = msgspec.json.Encoder().encode


class Counters:
    """What has been counted since the start."""

    def __init__(self, started: float) -> None:
        self.started = started
        """The moment of the start, on the event loop's clock."""
        self.requests = 0
        self.errors = 0
        """Responses with a status of 400 or above."""

    async def counted(self, response: Response, serving: Awaitable[None]) -> None:
        """Write a response, which may be an error."""
        try:
            await serving
        except Exception:
            self.errors += 1
            raise
        if response.status >= 400:
            self.errors += 1


class Health(Struct, frozen=True):
    """What `/health` says."""

    status: str
    timestamp: str
    uptime_seconds: float
    version: str
    server_name: str


class Metrics(Struct, frozen=True):
    """What `/metrics` says as JSON."""

    uptime_seconds: float
    total_requests: int
    total_errors: int
    active_sessions: int
    registered_tools: int
    server_name: str
    version: str
    timestamp: str


_HELP: Final[Mapping[str, tuple[str, str, str]]] = {
    "uptime_seconds": ("kvmcp_uptime_seconds", "gauge", "Seconds since the start of this process's server."),
    "total_requests": ("kvmcp_http_requests_total", "counter", "HTTP requests to the MCP endpoints."),
    "total_errors": ("kvmcp_http_errors_total", "counter", "Responses with a status of 400 or above."),
    "active_sessions": ("kvmcp_sessions", "gauge", "Legacy sessions that this process remembers."),
    "registered_tools": ("kvmcp_tools", "gauge", "Tools that are offered."),
}


def health_response(health: Health) -> list[Part]:
    return _response(200 if health.status == "ok" else 503, b"application/json", _encode(health))


def metrics_response(metrics: Metrics, accept: str) -> list[Part]:
    """Prometheus's text unless the client asks for JSON and not for text."""
    accept = accept.lower()
    if "application/json" in accept and "text/" not in accept:
        return _response(200, b"application/json", _encode(metrics))
    return _response(200, PROMETHEUS, _prometheus(metrics))


def live_response() -> list[Part]:
    return _response(200, b"text/plain; charset=utf-8", b"ok\n")


def ready_response(problem: str | None) -> list[Part]:
    """503 with the reason where it is not ready."""
    if problem is None:
        return _response(200, b"text/plain; charset=utf-8", b"ready\n")
    return _response(503, b"text/plain; charset=utf-8", f"not ready: {problem}\n".encode())


def not_found(path: str) -> list[Part]:
    shown = path[:100].encode(errors="replace").decode()  # Servers decode it as they like.
    body = _encode({"error": f"there is nothing at {shown}"})
    return _response(404, b"application/json", body)


def wrong_method() -> list[Part]:
    return _response(405, b"text/plain; charset=utf-8", b"only GET and HEAD\n", (b"allow", b"GET, HEAD"))


def timestamp() -> str:
    """Now, in UTC (RFC 3339)."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _prometheus(metrics: Metrics) -> bytes:
    """Exposition format 0.0.4. The label values are ours: name and version of the server."""
    lines: list[str] = []
    for field, (name, kind, text) in _HELP.items():
        value = getattr(metrics, field)
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", f"{name} {value}"]
    labels = f'server_name="{_label(metrics.server_name)}",version="{_label(metrics.version)}"'
    lines += [
        "# HELP kvmcp_info What is running.",
        "# TYPE kvmcp_info gauge",
        f"kvmcp_info{{{labels}}} 1",
        "",
    ]
    return "\n".join(lines).encode()


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _response(status: int, kind: bytes, body: bytes, *more: Field) -> list[Part]:
    head: list[Field] = [
        (b"content-type", kind),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        *SAFE,
        *more,
    ]
    return [ResponseStart(status, head), BodyPart(body)]


class Readiness:
    """Asks the store and whatever else must be there, seldom: callers that come meanwhile get the same answer."""

    def __init__(self, *checks: Callable[[], Awaitable[str | None]]) -> None:
        """They are asked in this order; the first problem is told."""
        self._checks = checks
        self._problem: str | None = None
        self._until = -math.inf
        self._asking: anyio.Event | None = None

    async def problem(self) -> str | None:
        """Why it cannot serve now; None where it can."""
        while anyio.current_time() >= self._until:
            if self._asking is None:
                await self._ask()
            else:
                await self._asking.wait()
        return self._problem

    async def _ask(self) -> None:
        self._asking = anyio.Event()
        try:
            self._problem = await self._answer()
            self._until = anyio.current_time() + READY_FOR
        finally:
            self._asking.set()
            self._asking = None

    async def _answer(self) -> str | None:
        try:
            with anyio.move_on_after(READY_TIMEOUT):
                for check in self._checks:
                    if (problem := await check()) is not None:
                        return problem
                return None
        except Exception:
            # The contract forbids it; whoever probes must not find out what is in it.
            logger.exception("asking the store failed, which is a bug in it")
        return "the store does not answer"
