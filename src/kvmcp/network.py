"""Serves on the network: whichever transports the settings name, in one process, over one store."""

import logging
import signal
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final, Protocol

import anyio

from kvmcp.assembly import StartError
from kvmcp.config import DEFAULT_PORTS, Settings
from kvmcp.core.http.guard import Guard
from kvmcp.core.limits import Limits
from kvmcp.io.asgi import HttpApp, HttpOptions
from kvmcp.io.endpoint import App
from kvmcp.io.hypercorn import HypercornServer
from kvmcp.io.listening import Listener, ListenLimits, listen_tcp, listen_unix
from kvmcp.server import Server

logger = logging.getLogger("kvmcp.server")

LAST_SECOND: Final = 1.0
"""Seconds after the shutdown grace in which whatever still runs is cancelled and ends."""


class Service(Protocol):
    """A transport that serves until it is told to stop, and then ends by itself within the grace."""

    async def run(self) -> None: ...
    def stop(self) -> None: ...


Run = Callable[[Settings, Callable[[], Awaitable[int]]], int]


def serve_network(server: Server, settings: Settings, run: Run) -> int:
    """Serve until a signal comes; the exit status. `run` runs a coroutine function on the loop that is set.

    Raises StartError where an address is taken, a file cannot be read, or settings do not fit each other.
    """
    _check(settings)
    return run(settings, lambda: _serve(server, settings))


def _check(settings: Settings) -> None:
    named = [name for name in settings.transport if ":" not in name and name in DEFAULT_PORTS]
    if settings.port is not None and len(named) > 1:
        given = ", ".join(named)
        raise StartError(
            f"--port is for one transport, got {given}: write --transport {named[0]}:PORT for each"
        )
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise StartError("--tls-cert and --tls-key go together: give both or none")
    if settings.workers > 1 and settings.backend.startswith("memory:"):
        raise StartError("--workers above 1 needs a store that processes share: --backend redis://…")
    if settings.http_server == "uvicorn" and settings.loop == "trio":
        raise StartError(
            "uvicorn does not run on trio: use --loop asyncio or uvloop, or --http-server hypercorn"
        )


async def _serve(server: Server, settings: Settings) -> int:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with server.running():
            services = [
                service for name in settings.transport for service in await _open(server, settings, name)
            ]
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_stop_on, signals, server, services, tasks.cancel_scope)
                async with anyio.create_task_group() as running:
                    for service in services:
                        running.start_soon(service.run)
                tasks.cancel_scope.cancel()
    return 0


async def _stop_on(
    signals: AsyncIterator[signal.Signals],
    server: Server,
    services: Sequence[Service],
    scope: anyio.CancelScope,
) -> None:
    """The first signal begins the end, the second does not wait for anybody."""
    stopping = False
    async for number in signals:
        logger.info("%s: %s", number.name, "ending at once" if stopping else "stopping")
        if stopping:
            scope.cancel()
            return
        stopping = True
        server.stop()
        for service in services:
            service.stop()


async def _open(server: Server, settings: Settings, transport: str) -> list[Service]:
    name, _, port = transport.partition(":")
    if name == "stdio":
        return [_Stdio(server)]
    if name == "http":
        return await _open_http(server, settings, _port(settings, name, port))
    if name == "websocket":
        return [await _open_websocket(server, settings, _port(settings, name, port))]
    if name == "tcp":
        listeners = await _listen(settings.host, _port(settings, name, port))
        return [_open_lines(server, settings, listeners)]
    return [_open_lines(server, settings, [_listen_unix(settings)])]


def _port(settings: Settings, name: str, port: str) -> int:
    if port:
        return int(port)
    return settings.port if settings.port is not None else DEFAULT_PORTS[name]


async def _listen(host: str, port: int) -> list[Listener]:
    try:
        return await listen_tcp(host, port)
    except OSError as error:
        raise StartError(
            f"cannot listen on {_shown(host, port)}: {error.strerror or error}; choose another --port or --host"
        ) from None


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _tls(settings: Settings) -> ssl.SSLContext | None:
    if not settings.tls_cert:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or type(error).__name__
        raise StartError(f"--tls-cert and --tls-key cannot be used: {reason}") from None
    return context


# --- HTTP -----------------------------------------------------------------------------------------------------


async def _open_http(server: Server, settings: Settings, port: int) -> list[Service]:
    app = server.http_app(_http_options(settings, settings.host))
    tls = _tls(settings)
    limits = Limits(shutdown_grace=settings.shutdown_grace)
    listeners = await _listen(settings.host, port)
    scheme = "http" if tls is None else "https"
    for listener in listeners:
        logger.info("MCP over HTTP: %s://%s/mcp", scheme, listener.name)
    services: list[Service] = [_Http(app, _http_service(app, listeners, settings, limits, tls))]
    if settings.admin_bind is not None:
        host, _, admin_port = settings.admin_bind.rpartition(":")
        admin = await _listen(host.strip("[]"), int(admin_port))
        logger.info("health and metrics: http://%s/", admin[0].name)
        services.append(_http_service(app.operators(host), admin, settings, limits, None))
    return services


def _http_options(settings: Settings, bound: str) -> HttpOptions:
    return HttpOptions(
        bound=bound,
        allowed_hosts=settings.allowed_host or (),
        allowed_origins=settings.allowed_origin or (),
        legacy_sse=settings.legacy_sse,
        replicated=_has_replicas(settings),
        health=settings.admin_bind is None,
    )


def _has_replicas(settings: Settings) -> bool:
    """Whether other processes may serve the same clients: they would need the store and the key in common."""
    return not settings.backend.startswith("memory:") and settings.state_key is not None


def _http_service(
    app: App, listeners: list[Listener], settings: Settings, limits: Limits, tls: ssl.SSLContext | None
) -> Service:
    if settings.http_server == "uvicorn":
        from kvmcp.io.uvicorn import UvicornServer

        return UvicornServer(app, listeners, limits.shutdown_grace, tls)
    return HypercornServer(app, listeners, ListenLimits(shutdown_grace=limits.shutdown_grace), tls)


class _Http:
    """The application, up for as long as what speaks HTTP for it."""

    def __init__(self, app: HttpApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def run(self) -> None:
        async with self._app.running():
            await self._service.run()

    def stop(self) -> None:
        self._service.stop()


# --- WebSocket and lines ---------------------------------------------------------------------------------------


async def _open_websocket(server: Server, settings: Settings, port: int) -> Service:
    from kvmcp.io.serving import websocket_acceptor
    from kvmcp.io.websocket.limits import WebSocketLimits

    guard = Guard(settings.host, settings.allowed_host or (), settings.allowed_origin or ())
    tls = _tls(settings)
    listeners = await _listen(settings.host, port)
    for listener in listeners:
        logger.info("MCP over WebSocket: %s://%s/mcp", "ws" if tls is None else "wss", listener.name)
    return websocket_acceptor(
        server,
        listeners,
        guard,
        limits=WebSocketLimits(compression=settings.ws_compression),
        listening=ListenLimits(shutdown_grace=settings.shutdown_grace),
        tls=tls,
    )


def _open_lines(server: Server, settings: Settings, listeners: list[Listener]) -> Service:
    from kvmcp.io.serving import lines_acceptor

    for listener in listeners:
        logger.info("MCP in lines: %s", listener.name)
    return lines_acceptor(
        server,
        listeners,
        caller=server.caller(()),
        listening=ListenLimits(shutdown_grace=settings.shutdown_grace),
        tls=_tls(settings) if listeners[0].address is not None else None,
    )


def _listen_unix(settings: Settings) -> Listener:
    if not settings.path:
        raise StartError("--transport unix needs --path, where its socket is to be")
    try:
        return listen_unix(settings.path)
    except OSError as error:
        raise StartError(f"cannot listen on {settings.path}: {error.strerror or error}") from None


# --- standard input and output ----------------------------------------------------------------------------------


class _Stdio:
    """The client at standard input and output, beside those on the network."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def run(self) -> None:
        from kvmcp.io.stdio import claim_stdio

        with claim_stdio() as transport:
            await self._server.serve(transport)

    def stop(self) -> None:
        """`Server.stop` tells its connection."""
