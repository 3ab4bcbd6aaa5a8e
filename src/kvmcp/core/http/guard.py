"""Who may talk to us at all: Host, Origin and CORS, before anything else of a request is looked at.

A web page anywhere can make a browser send requests to a local server, under its own name (another `Origin`)
or, by rebinding its DNS name to our address, under ours (another `Host`). "Servers MUST validate the Origin
header on all incoming connections" (MCP, Streamable HTTP, security warning). Clients that are no browsers send
no Origin.

An allowed host is written `name` (any port) or `name:port`, an allowed origin `scheme://name`,
`scheme://name:port` or `scheme://name:*`; `*` alone allows all.
"""

import re
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from kvmcp.core.errors import INVALID_REQUEST, RpcError
from kvmcp.core.http.messages import SAFE, BodyPart, Field, Part, Request, ResponseStart, json_response
from kvmcp.core.jsonrpc import error_response

LOOPBACK: Final = ("localhost", "127.0.0.1", "[::1]")

_HOST: Final = re.compile(r"([a-z0-9._-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::([0-9]{1,5}))?\Z")
_ORIGIN: Final = re.compile(
    r"([a-z][a-z0-9+.-]{0,31})://([a-z0-9._-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::([0-9]{1,5}|\*))?\Z"
)
_ADDRESS: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}\Z|\[")
"""A literal address. No name leads to it, so DNS cannot be rebound."""
_HEADER_NAMES: Final = re.compile(rb"[A-Za-z0-9-]+(?:[ \t]*,[ \t]*[A-Za-z0-9-]+)*\Z")

_PORTS: Final = {"http": "80", "https": "443"}
_EXPOSED: Final = b"Mcp-Session-Id, MCP-Protocol-Version, WWW-Authenticate, Retry-After"
_PREFLIGHT_SECONDS: Final = b"600"
"""How long a browser need not ask again; all of them take ten minutes."""
_MAX_NAMES: Final = 4096
"""Bytes of header names that a preflight may ask for."""


class Passed(Struct, frozen=True):
    """Go on; `headers` belong on the response, whatever it will be."""

    headers: list[Field]


class Turned(Struct, frozen=True):
    """Nothing more to do but write this: a refusal, or the answer to a browser's preflight."""

    parts: list[Part]


def refuse_caller(error: RpcError) -> Turned:
    """The answer to a request of which the edge cannot say on whose behalf it comes."""
    return Turned(json_response(400, error_response(None, error)))


class Guard:
    """The hosts and origins that are allowed.

    `bound` is the address that the server listens on. Bound to loopback, loopback names and pages are allowed;
    bound to anything else, every literal address is a name of ours, and no page is allowed. What `hosts` and
    `origins` name is allowed besides. Raises ValueError for an entry that is none.
    """

    def __init__(self, bound: str, hosts: Iterable[str] = (), origins: Iterable[str] = ()) -> None:
        self._is_local = is_loopback(bound)
        named = [_entry(_HOST, host) for host in hosts]
        self._hosts = {*LOOPBACK, *named}
        self._origins = {_canonical(_entry(_ORIGIN, origin)) for origin in origins}
        if self._is_local:
            self._origins |= {f"{scheme}://{name}:*" for scheme in _PORTS for name in LOOPBACK}

    def check(self, request: Request) -> Passed | Turned:
        """Whether a request may go on. Host first: 421; then Origin: 403; a preflight ends here, too."""
        host = _values(request, b"host")
        if len(host) != 1:
            return _refused(400, "a request needs exactly one Host")
        if not self._is_our_host(_text(host[0])):
            return _refused(421, "Host is none of this server's names; allow it with --allowed-host")
        origin = _values(request, b"origin")
        if not origin:
            return PASSED
        if len(origin) > 1 or not self._is_allowed_origin(_text(origin[0])):
            return _refused(403, "Origin is not allowed; allow it with --allowed-origin")
        return _passed(request, origin[0])

    def _is_our_host(self, text: str) -> bool:
        match = _HOST.match(text)
        if match is None:
            return False
        name = match[1]
        if name in self._hosts or text in self._hosts or "*" in self._hosts:
            return True
        return not self._is_local and _ADDRESS.match(name) is not None

    def _is_allowed_origin(self, text: str) -> bool:
        if "*" in self._origins:
            return True
        match = _ORIGIN.match(text)
        if match is None or match[3] == "*":
            return False
        return _canonical(text) in self._origins or f"{match[1]}://{match[2]}:*" in self._origins


def is_loopback(bound: str) -> bool:
    """Whether an address to listen on can only be reached from this machine."""
    return bound in ("localhost", "::1", "[::1]") or bound.startswith("127.")


def _entry(form: re.Pattern[str], text: str) -> str:
    entry = text.strip().lower().removesuffix("/")
    if entry != "*" and form.match(entry) is None:
        raise ValueError(f"not a host or origin to allow: {text!r}")
    return entry


def _canonical(origin: str) -> str:
    """With its port, also where that is the scheme's own."""
    match = _ORIGIN.match(origin)
    if match is None or match[3] is not None:
        return origin
    return f"{origin}:{_PORTS.get(match[1], '')}"


def _values(request: Request, name: bytes) -> list[bytes]:
    return [value for field, value in request.headers if field.lower() == name]


def _text(value: bytes) -> str:
    return value.strip().decode("latin-1").lower()


PASSED: Final = Passed([])
"""The common verdict: the request comes from no page, so that nothing has to be said to a browser."""


def _passed(request: Request, origin: bytes) -> Passed | Turned:
    """A browser's request: it must be told that the page may read the answer. No cookies, so no credentials."""
    allowed: list[Field] = [(b"access-control-allow-origin", origin), (b"vary", b"Origin")]
    if request.method != "OPTIONS":
        return Passed([*allowed, (b"access-control-expose-headers", _EXPOSED)])
    wanted = b", ".join(_values(request, b"access-control-request-headers"))
    if len(wanted) <= _MAX_NAMES and _HEADER_NAMES.match(wanted):
        # Echoed: `Mcp-Param-…` cannot be listed, and `*` does not cover Authorization.
        allowed.append((b"access-control-allow-headers", wanted))
    allowed.append((b"access-control-allow-methods", b"GET, POST, DELETE"))
    allowed.append((b"access-control-max-age", _PREFLIGHT_SECONDS))
    return Turned([ResponseStart(204, [*SAFE, *allowed]), BodyPart(b"")])


def _refused(status: int, problem: str) -> Turned:
    return Turned(json_response(status, error_response(None, RpcError(INVALID_REQUEST, problem))))
