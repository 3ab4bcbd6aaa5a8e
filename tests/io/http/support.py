"""A server on a loopback port, and clients for it: one that behaves (httpx) and one that writes what it likes."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, TypeAlias, cast

import anyio
import httpx
from anyio.abc import SocketStream

from kvmcp.io.asgi import HttpApp, HttpOptions
from kvmcp.io.endpoint import App
from kvmcp.io.hypercorn import HttpLimits, HypercornServer
from kvmcp.io.listening import ListenLimits, listen_tcp
from kvmcp.io.work import Work
from kvmcp.server import Server
from tests.io.support import MODERN_META, NoArguments, make_server
from tests.patience import PATIENCE
from tests.schema import validate_server_message

Json: TypeAlias = Any  # JSON as json.loads gives it: tests look into it freely
Message: TypeAlias = Any  # an ASGI message

GRACE: Final = 1.0
"""The shutdown grace of the servers here."""

ACCEPTS: Final = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
LEGACY: Final = "2025-11-25"
_NAMED: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


def modern(method: str, id: int = 1, **params: Json) -> Json:
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": {**params, "_meta": MODERN_META}}


def modern_headers(message: Json) -> dict[str, str]:
    headers = {**ACCEPTS, "mcp-protocol-version": "2026-07-28", "mcp-method": message["method"]}
    name = message["params"].get(_NAMED.get(message["method"], ""))
    return headers if name is None else {**headers, "mcp-name": name}


def legacy(method: str, id: int | None = 1, **params: Json) -> Json:
    message = {"jsonrpc": "2.0", "method": method, "params": params}
    return message if id is None else {**message, "id": id}


INITIALIZE: Final = legacy(
    "initialize",
    0,
    protocolVersion=LEGACY,
    capabilities={"elicitation": {}},
    clientInfo={"name": "test", "version": "1"},
)


class Mcp:
    """An MCP client as far as these tests need one. Every message is held to its revision's schema."""

    def __init__(self, http: httpx.AsyncClient, path: str = "/mcp") -> None:
        self.http = http
        self.path = path
        self.session: dict[str, str] = {}
        self.direct = True
        """Whether there is no proxy between: nginx obeys this header and keeps it for itself."""

    async def call_modern(self, tool: str, **arguments: Json) -> Json:
        message = modern("tools/call", name=tool, arguments=arguments)
        response = await self.http.post(self.path, json=message, headers=modern_headers(message))
        assert response.status_code == 200, response.text
        validate_server_message("2026-07-28", response.content, "tools/call")
        return response.json()["result"]

    async def initialize(self) -> None:
        response = await self.http.post(self.path, json=INITIALIZE, headers=ACCEPTS)
        assert response.status_code == 200, response.text
        validate_server_message(LEGACY, response.content, "initialize")
        self.session = {"mcp-session-id": response.headers["mcp-session-id"], "mcp-protocol-version": LEGACY}
        accepted = await self.notify("notifications/initialized")
        assert accepted.status_code == 202

    async def notify(self, method: str, **params: Json) -> httpx.Response:
        return await self.post(legacy(method, None, **params))

    async def post(self, message: Json) -> httpx.Response:
        return await self.http.post(self.path, json=message, headers={**ACCEPTS, **self.session})

    async def request(self, method: str, id: int = 1, **params: Json) -> Json:
        response = await self.post(legacy(method, id, **params))
        assert response.status_code == 200, response.text
        validate_server_message(LEGACY, response.content, method)
        return response.json()["result"]

    @asynccontextmanager
    async def stream(
        self, method: str, body: Json = None, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator["Events"]:
        """An open response that is a stream of events."""
        sent = {**ACCEPTS, **self.session} if headers is None else headers
        content = None if body is None else json.dumps(body)
        async with self.http.stream(method, self.path, content=content, headers=sent) as response:
            assert response.status_code == 200, await response.aread()
            assert response.headers["content-type"] == "text/event-stream"
            assert not self.direct or response.headers["x-accel-buffering"] == "no"
            async with aclosing(cast(AsyncGenerator[bytes], response.aiter_raw())) as chunks:
                yield Events(chunks)


class Events:
    """The events of a response, one at a time."""

    def __init__(self, chunks: AsyncGenerator[bytes]) -> None:
        self._chunks = chunks
        self._pending = b""
        self.comments = 0
        self.last_id = ""

    async def event(self) -> dict[str, str] | None:
        """The next one, None at the end."""
        found: dict[str, str] = {}
        while (line := await self._line()) is not None:
            if line.startswith(":"):
                self.comments += 1
            elif line:
                name, _, value = line.partition(": ")
                found[name] = value
            elif found:
                self.last_id = found.get("id", self.last_id)
                return found
        return None

    async def _line(self) -> str | None:
        with anyio.fail_after(PATIENCE):
            while b"\n" not in self._pending:
                chunk = await anext(self._chunks, None)
                if chunk is None:
                    return None
                self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode()

    async def message(self) -> Json:
        """The next event that holds a message."""
        while (event := await self.event()) is not None:
            if event.get("data"):
                return json.loads(event["data"])
        return None


Serve: TypeAlias = Callable[..., Any]


@asynccontextmanager
async def listening(
    app: App, *, kind: str = "hypercorn", tls: Any = None, limits: HttpLimits | None = None
) -> AsyncIterator[int]:
    """What speaks HTTP for an application, on a free port; stopped at the end, within its bound."""
    listeners = await listen_tcp("127.0.0.1", 0)
    service: Any
    if kind == "uvicorn":
        from kvmcp.io.uvicorn import UvicornServer

        service = UvicornServer(app, listeners, GRACE, tls)
    else:
        service = HypercornServer(app, listeners, ListenLimits(shutdown_grace=GRACE), tls, limits)
    port = listeners[0].port
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(service.run)
        if kind == "uvicorn":
            await _answers(port)
        yield port
        if isinstance(app, HttpApp):
            app.stop()
        service.stop()


async def _answers(port: int) -> None:
    """uvicorn does not tell when it has begun to read."""
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        await stream.send(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        await stream.receive()


@asynccontextmanager
async def serving(
    server: Server | None = None,
    options: HttpOptions | None = None,
    *,
    kind: str = "hypercorn",
    **limits: Any,
) -> AsyncIterator[Mcp]:
    """A server, and a client of it."""
    app = (server if server is not None else make_server()).http_app(options)
    async with app.running(), listening(app, kind=kind) as port, connected(port) as client:
        yield client


@asynccontextmanager
async def connected(port: int, **options: Any) -> AsyncIterator[Mcp]:
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE, trust_env=False, **options
    ) as http:
        yield Mcp(http)


async def until_closed(stream: SocketStream) -> bytes:
    """All that comes until the other side closes, or breaks off."""
    received = bytearray()
    with anyio.fail_after(PATIENCE):
        while True:
            try:
                received += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return bytes(received)


def add_waiting_tool(server: Server) -> dict[str, Any]:
    """Add `wait`, which runs until it is let go (`go`), and notes how it ended."""
    seen: dict[str, Any] = {"started": anyio.Event(), "ended": anyio.Event(), "go": anyio.Event(), "how": ""}

    @server.tool()
    async def wait(arguments: NoArguments, work: Work) -> str:
        seen["started"].set()
        try:
            await seen["go"].wait()
            seen["how"] = "finished"
            return "finished"
        except anyio.get_cancelled_exc_class():
            seen["how"] = "cancelled"
            raise
        finally:
            seen["ended"].set()

    return seen
