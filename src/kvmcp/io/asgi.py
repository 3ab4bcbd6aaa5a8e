"""The ASGI application: which path is what, who may come in, when it starts and stops.

It mounts in any ASGI server or framework, on asyncio and on trio. A server that speaks ASGI's lifespan protocol
starts and stops it; where it is mounted inside another application, that one's lifespan holds `running()`.
"""

import logging
import math
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from typing import Final, Protocol
from urllib.parse import parse_qs, quote

import anyio
from msgspec import Struct

from kvmcp.backends.base import Backend
from kvmcp.core.http.guard import PASSED, Guard, Passed, Turned
from kvmcp.core.http.heads import Head, Heads
from kvmcp.core.http.messages import Field, Part, Request, json_response
from kvmcp.core.http.old_sse import OldSseServer
from kvmcp.core.http.server import HttpServer
from kvmcp.core.plan import Caller
from kvmcp.core.service import Service
from kvmcp.core.subscriptions import Event
from kvmcp.io import health
from kvmcp.io.driver import Listener
from kvmcp.io.endpoint import BODY_NOW, App, BodyNow, Endpoint, Message, Receive, Response, Send
from kvmcp.io.health import Counters, Health, Metrics, Readiness
from kvmcp.io.short_calls import Peer, ShortCall

logger = logging.getLogger("kvmcp.io")

MCP_PATH: Final = "/mcp"
WEBSOCKET_PATH: Final = "/ws"
SSE_PATH: Final = "/sse"
MESSAGES_PATH: Final = "/messages"

LAST_WORDS: Final = 0.1
"""Seconds after the shutdown grace for what other processes are to be told."""


class Host(Protocol):
    """The server that an application belongs to; `kvmcp.Server` is one."""

    @property
    def backend(self) -> Backend: ...
    def running(self) -> AbstractAsyncContextManager[None]: ...
    def service(self) -> Service: ...
    def listening(self, listener: Listener) -> AbstractContextManager[None]: ...
    def caller(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller | Turned: ...


class HttpOptions(Struct, frozen=True, kw_only=True):
    """How the application is reached."""

    path: str = MCP_PATH
    """Of the MCP endpoint, below where the application is mounted; `/` is that place itself. Nothing else is served
    below it."""
    bound: str = "127.0.0.1"
    """The address that is listened on: decides which hosts and origins are allowed besides those named."""
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    legacy_sse: bool = False
    """Whether `/sse` and `/messages` serve clients of 2024-11-05."""
    resumable: bool = False
    """Whether every answer to a client of a legacy revision is a stream, which it can come back for when its
    connection breaks. Costs a copy of each answer (`Limits.stored_bytes`), and time: one JSON body is faster."""
    replicated: bool = False
    """Whether other processes serve the same clients; they share the store and the server's `state_key`."""
    health: bool = True
    """Whether the operators' paths are served here; they may have an address of their own."""


class _Open(Struct):
    """What there is between start and stop."""

    endpoint: Endpoint
    server: HttpServer
    old_sse: OldSseServer | None
    service: Service
    counters: Counters
    readiness: Readiness
    stopping: bool = False
    give_up_at: float = math.inf
    """When the grace of `stop` is over."""


class HttpApp:
    """`await app(scope, receive, send)`, as ASGI has it.

    app = Server("shop").http_app()          # uvicorn shop:app
    Starlette(routes=[Mount("/kv", app)], lifespan=lambda _: app.running())

    Raises ValueError for hosts or origins that cannot be any, and for a path that cannot be reached.
    """

    def __init__(self, host: Host, options: HttpOptions | None = None) -> None:
        self._host = host
        self._options = options if options is not None else HttpOptions()
        self._guard = Guard(self._options.bound, self._options.allowed_hosts, self._options.allowed_origins)
        self._heads = Heads(self._guard)
        self._path = _own_path(self._options)
        self._open: _Open | None = None
        self._is_running = False
        self._was_told = False
        """Whether it is known that nobody runs it: said once, however many ask."""
        self._operators: Mapping[str, Callable[[_Open, Request], list[Part]]] = {
            "/healthz": lambda _open, _request: health.live_response(),
            "/health": self._health,
            "/metrics": self._metrics,
        }

    # --- start and stop ---

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Requests are answered inside this context. Leaving it is `stop`, and the wait for those who are still there."""
        if self._is_running:
            raise RuntimeError("this application is running already")
        self._is_running = self._was_told = True
        try:
            async with self._running():
                yield
        finally:
            self._is_running = False

    @asynccontextmanager
    async def _running(self) -> AsyncGenerator[None]:
        host = self._host
        async with host.running(), anyio.create_task_group() as tasks:
            service = host.service()
            server = HttpServer(
                service, replicated=self._options.replicated, resumable=self._options.resumable
            )
            old_sse = OldSseServer(service, MESSAGES_PATH) if self._options.legacy_sse else None
            endpoint = Endpoint(
                server,
                old_sse,
                host.backend,
                tasks,
                service.limits.keep_alive,
                replicated=self._options.replicated,
            )
            endpoint.start()
            counters = Counters(anyio.current_time())
            readiness = Readiness(host.backend.check, endpoint.problem)
            self._open = _Open(endpoint, server, old_sse, service, counters, readiness)
            try:
                with host.listening(self):
                    yield
                await self._finish(self._open)
            finally:
                self.stop()
                endpoint.close()
                self._open = None
                tasks.cancel_scope.cancel()

    def publish(self, event: Event) -> None:
        """Something changed that clients may want to know."""
        if self._open is not None:
            self._open.endpoint.publish(event)

    def stop(self) -> None:
        """Not ready from now on: no new requests, what was accepted is finished within the shutdown grace."""
        if self._open is not None and not self._open.stopping:
            self._open.stopping = True
            self._open.give_up_at = anyio.current_time() + self._open.service.limits.shutdown_grace
            self._open.endpoint.stop()

    async def _finish(self, open: _Open) -> None:
        self.stop()
        with anyio.CancelScope(deadline=max(open.give_up_at, anyio.current_time()) + LAST_WORDS):
            await open.endpoint.finish()

    @property
    def idle(self) -> bool:
        """Whether no request is open."""
        return self._open is None or self._open.endpoint.requests == 0

    # --- ASGI ---

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, Response(send, scope["method"]))
        elif scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            raise ValueError(f"kvmcp does not serve ASGI's {scope['type']}")

    async def _websocket(self, scope: Message, receive: Receive, send: Send) -> None:
        if self._open is None or self._open.stopping or _path(scope) != WEBSOCKET_PATH:
            await receive()
            await send({"type": "websocket.close", "code": 1000})  # Before it was accepted: 403.
            return
        from kvmcp.io.websocket.asgi import AsgiWebSocket  # Not loaded before somebody comes.
        from kvmcp.io.websocket.upgrade import Door

        door = Door(self._guard, lambda request: self._host.caller(request.headers))
        await AsgiWebSocket(self._host, self._open.service, door)(scope, receive, send)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        """To raise would mean that there is no lifespan here, and servers would go on without."""
        await receive()
        phase = "startup"
        try:
            async with self.running():
                await send({"type": "lifespan.startup.complete"})
                phase = "shutdown"
                await receive()
        except Exception as error:
            logger.error("%s failed", phase, exc_info=error)
            await send({"type": f"lifespan.{phase}.failed", "message": f"kvmcp: {error}"})
        else:
            await send({"type": "lifespan.shutdown.complete"})

    def operators(self, bound: str) -> App:
        """An ASGI application with the operators' paths alone, for an address of their own: `bound`."""
        guard = Guard(bound, self._options.allowed_hosts, self._options.allowed_origins)

        async def app(scope: Message, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                raise ValueError(f"health and metrics are not served over ASGI's {scope['type']}")
            response = Response(send, scope["method"])
            request = Request(scope["method"], list(scope["headers"]))
            open = await self._admit(guard.check(request), response)
            if open is not None:
                await response.write(await self._operator(open, _path(scope), request))

        return app

    async def _http(self, scope: Message, receive: Receive, response: Response) -> None:
        head, verdict = self._heads.read(scope["method"], scope["headers"])
        open = self._open
        if open is None or verdict is not PASSED:
            open = await self._admit(verdict, response)
        if open is not None:
            await self._route(open, scope, head, receive, response)

    async def _admit(self, verdict: Passed | Turned, response: Response) -> _Open | None:
        """What there is to serve with; None where the request was turned away."""
        if isinstance(verdict, Turned):
            await response.write(verdict.parts)
            return None
        response.headers = verdict.headers
        if self._open is None:
            if not self._was_told:
                self._was_told = True
                logger.error(_NOT_RUNNING)
            await response.write(json_response(503, b'{"error":"%b"}' % _NOT_RUNNING.encode()))
        return self._open

    async def _route(
        self, open: _Open, scope: Message, head: Head, receive: Receive, response: Response
    ) -> None:
        request, path = head.request, scope["path"]
        if path != self._path or scope.get("root_path"):
            path = _path(scope)
        if path != self._path and (open.old_sse is None or path not in (SSE_PATH, MESSAGES_PATH)):
            operator = self._options.health and path in health.PATHS
            parts = await self._operator(open, path, request) if operator else health.not_found(path)
            await response.write(parts)
            return
        endpoint, counters = open.endpoint, open.counters
        counters.requests += 1
        caller, now = self._host.caller(scope["headers"]), endpoint.clock()
        if isinstance(caller, Turned):
            counters.errors += 1
            await response.write(caller.parts)
            return
        if open.old_sse is None or path == self._path:
            exchange = open.server.open_read(head, caller, now)
        elif path == SSE_PATH:
            exchange = open.old_sse.open_stream(request, caller, now, quote(_root(scope)))
        else:
            token = parse_qs(scope["query_string"].decode("latin-1")).get("session", [""])[0]
            exchange = open.old_sse.open_post(request, token, caller, now)
        body_now = scope.get("extensions", _NONE).get(BODY_NOW)
        await counters.counted(response, endpoint.serve(exchange, receive, response, body_now))

    # --- without ASGI ---

    def post(self, path: str, fields: Sequence[Field], body: bytes, peer: Peer) -> bool:
        """Begin a whole POST without a task, if that is possible; False, and nothing has happened, where it is not.

        For servers of ours, on asyncio: what answers False here is called as an ASGI application.
        """
        open = self._open
        if open is None or path != self._path or not open.endpoint.store_is_prompt:
            return False
        head, verdict = self._heads.read("POST", fields)
        if verdict is not PASSED or head.plain is None:
            return False
        endpoint, caller = open.endpoint, self._host.caller(fields)
        if isinstance(caller, Turned):
            return False
        exchange = open.server.open_plain(head, body, caller, endpoint.clock())
        if exchange is None:
            return False
        open.counters.requests += 1
        ShortCall(exchange, endpoint, self._host.backend, peer, open.counters.counted).begin()
        return True

    # --- for operators ---

    async def _operator(self, open: _Open, path: str, request: Request) -> list[Part]:
        if path not in health.PATHS:
            return health.not_found(path)
        if request.method not in ("GET", "HEAD"):
            return health.wrong_method()
        if path == "/readyz":
            problem = "it is stopping" if open.stopping else await open.readiness.problem()
            return health.ready_response(problem)
        return self._operators[path](open, request)

    def _health(self, open: _Open, request: Request) -> list[Part]:
        info = open.service.info
        status = "stopping" if open.stopping else "ok"
        return health.health_response(
            Health(status, health.timestamp(), self._uptime(open), info.version, info.name)
        )

    def _metrics(self, open: _Open, request: Request) -> list[Part]:
        info = open.service.info
        accept = ",".join(value.decode("latin-1") for name, value in request.headers if name == b"accept")
        metrics = Metrics(
            uptime_seconds=self._uptime(open),
            total_requests=open.counters.requests,
            total_errors=open.counters.errors,
            active_sessions=open.server.sessions,
            registered_tools=open.service.catalog.count("tools"),
            server_name=info.name,
            version=info.version,
            timestamp=health.timestamp(),
        )
        return health.metrics_response(metrics, accept)

    def _uptime(self, open: _Open) -> float:
        return round(anyio.current_time() - open.counters.started, 3)


_NONE: Final[Mapping[str, BodyNow]] = {}

_NOT_RUNNING: Final = "kvmcp was not started: the ASGI server must run its lifespan, or the application around it `app.running()`"


def _path(scope: Message) -> str:
    """Below where the application is mounted, without a slash at the end."""
    path: str = scope["path"]
    root = _root(scope)
    if root and path.startswith(f"{root}/"):  # Some servers have taken it away.
        path = path[len(root) :]
    return path.rstrip("/") or "/"


def _root(scope: Message) -> str:
    """Where the application is mounted."""
    root: str = scope.get("root_path", "")
    return root.rstrip("/")


def _own_path(options: HttpOptions) -> str:
    path = options.path.rstrip("/") or "/"
    taken = (*health.PATHS, WEBSOCKET_PATH, *((SSE_PATH, MESSAGES_PATH) if options.legacy_sse else ()))
    if not options.path.startswith("/"):
        raise ValueError(f"the path of the endpoint must begin with a slash: {options.path!r}")
    if path in taken:
        raise ValueError(
            f"the path of the endpoint is one of {', '.join(taken)}, which are for something else"
        )
    return path
