"""Serves on the network: whichever transports the settings name, over one store, in one process or several."""

import gc
import logging
import signal
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Protocol

import anyio

from kvmcp.assembly import StartError
from kvmcp.binding import Bound, announce, bind
from kvmcp.config import DEFAULT_PORTS, Settings
from kvmcp.core.http.guard import Guard
from kvmcp.io.asgi import HttpApp, HttpOptions
from kvmcp.io.endpoint import App
from kvmcp.io.hypercorn import HypercornServer
from kvmcp.io.listening import Listener, ListenLimits
from kvmcp.io.workers import STOP, UNUSABLE, Workers, until_orphaned
from kvmcp.server import Server

logger = logging.getLogger("kvmcp.server")


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
    bound = bind(settings)
    if settings.workers == 1:
        announce(settings, bound)
        return run(settings, lambda: _serve(server, settings, bound))
    return _serve_in_workers(server, settings, run, bound)


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
    alone = next((name for name in settings.transport if name in ("stdio", "unix")), None)
    if settings.workers > 1 and alone is not None:
        raise StartError(f"--transport {alone} is for one process: leave --workers out")
    if settings.admin_bind is not None and sum(name.startswith("http") for name in settings.transport) != 1:
        raise StartError("--admin-bind goes with one --transport http: it is that one's health")
    _tls(settings)  # Rather now than in each worker.
    _guard(settings)
    if settings.http_server == "uvicorn" and settings.loop == "trio":
        raise StartError(
            "uvicorn does not run on trio: use --loop asyncio or uvloop, or --http-server hypercorn"
        )


# --- one process, or several --------------------------------------------------------------------------------------


def _serve_in_workers(server: Server, settings: Settings, run: Run, first: Bound) -> int:
    """A worker has sockets of its own at the common port (SO_REUSEPORT), so that the kernel spreads connections
    evenly; from one socket whoever woke first would take all that wait. They outlive the worker: what has come
    to them is served by its successor.

    `first` was bound without sharing: had another program the port, that would have failed.
    """
    ports = first.ports()
    first.close()  # Nobody knows of it yet.
    sockets = [bind(settings, ports) for _ in range(settings.workers)]

    def work(index: int, lifeline: int) -> int:
        for other in sockets:
            if other is not sockets[index]:
                other.close()
        try:
            return run(settings, lambda: _serve(server, settings, sockets[index], lifeline))
        except StartError as error:
            logger.error("%s", error)
            return UNUSABLE

    def close() -> None:
        for bound in sockets:
            bound.close()

    gc.freeze()  # What is there now stays in memory that all processes share.
    announce(settings, sockets[0])
    logger.info("%d workers", settings.workers)
    try:
        return Workers(settings.workers, work, settings.shutdown_grace, close).run()
    finally:
        close()


async def _serve(server: Server, settings: Settings, bound: Bound, lifeline: int | None = None) -> int:
    """`lifeline` is that of a worker."""
    with anyio.open_signal_receiver(*(STOP if lifeline is not None else _SIGNALS)) as signals:
        async with server.running():
            services = [
                service
                for name, at in bound.transports
                for service in _open(server, settings, name, at, bound.admin)
            ]
            async with anyio.create_task_group() as tasks:
                end = _End(server, services, tasks.cancel_scope)
                if lifeline is None:
                    tasks.start_soon(end.on_signals, signals)
                else:
                    tasks.start_soon(end.on_signals_of_parent, signals)
                    tasks.start_soon(end.when_orphaned, lifeline)
                async with anyio.create_task_group() as running:
                    for service in services:
                        running.start_soon(service.run)
                tasks.cancel_scope.cancel()
    return 0


_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class _End:
    """What signals do: first everybody may finish, then nobody is waited for."""

    def __init__(self, server: Server, services: Sequence[Service], scope: anyio.CancelScope) -> None:
        self._server = server
        self._services = services
        self._scope = scope
        self._begun = False

    async def on_signals(self, signals: AsyncIterator[signal.Signals]) -> None:
        """The first begins the end, the second does not wait for anybody."""
        async for number in signals:
            logger.info("%s: %s", number.name, "ending at once" if self._begun else "stopping")
            if self._begun:
                self._scope.cancel()
            self._begin()

    async def on_signals_of_parent(self, signals: AsyncIterator[signal.Signals]) -> None:
        """In a worker each signal has one meaning, however often it comes, and the parent writes the log."""
        async for number in signals:
            if number == signal.SIGQUIT:
                self._scope.cancel()
            self._begin()

    async def when_orphaned(self, lifeline: int) -> None:
        await until_orphaned(lifeline)
        if not self._begun:
            logger.error("the parent of this worker is gone: stopping")
        self._begin()

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._server.stop()
            for service in self._services:
                service.stop()


def _open(
    server: Server, settings: Settings, name: str, listeners: list[Listener], admin: list[Listener]
) -> list[Service]:
    if name == "stdio":
        return [_Stdio(server)]
    if name == "http":
        return _open_http(server, settings, listeners, admin)
    if name == "websocket":
        return [_open_websocket(server, settings, listeners)]
    return [_open_lines(server, settings, listeners)]


def _guard(settings: Settings) -> Guard:
    try:
        return Guard(settings.host, settings.allowed_host or (), settings.allowed_origin or ())
    except ValueError as error:
        raise StartError(
            f"{error}; --allowed-host takes NAME or NAME:PORT, --allowed-origin SCHEME://NAME or SCHEME://NAME:PORT"
        ) from None


def _limits(settings: Settings) -> ListenLimits:
    return ListenLimits(per_address=settings.max_per_address, shutdown_grace=settings.shutdown_grace)


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


def _open_http(
    server: Server, settings: Settings, listeners: list[Listener], admin: list[Listener]
) -> list[Service]:
    app = server.http_app(_http_options(settings, settings.host))
    service = partial(_http_service, settings=settings, limits=_limits(settings))
    services: list[Service] = [_Http(app, service(app, listeners, tls=_tls(settings)))]
    if settings.admin_bind is not None:
        host, _, _ = settings.admin_bind.rpartition(":")
        services.append(service(app.operators(host), admin, tls=None))
    return services


def _http_options(settings: Settings, bound: str) -> HttpOptions:
    return HttpOptions(
        bound=bound,
        allowed_hosts=settings.allowed_host or (),
        allowed_origins=settings.allowed_origin or (),
        legacy_sse=settings.legacy_sse,
        resumable=settings.resumable,
        replicated=_has_replicas(settings),
        health=settings.admin_bind is None,
    )


def _has_replicas(settings: Settings) -> bool:
    """Whether other processes may serve the same clients: they would need the store and the key in common."""
    return not settings.backend.startswith("memory:") and (
        settings.state_key is not None or settings.workers > 1
    )


def _http_service(
    app: App, listeners: list[Listener], settings: Settings, limits: ListenLimits, tls: ssl.SSLContext | None
) -> Service:
    if settings.http_server == "uvicorn":
        from kvmcp.io.uvicorn import UvicornServer

        return UvicornServer(app, listeners, limits.shutdown_grace, tls)
    return HypercornServer(app, listeners, limits, tls)


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


def _open_websocket(server: Server, settings: Settings, listeners: list[Listener]) -> Service:
    from kvmcp.io.serving import websocket_acceptor
    from kvmcp.io.websocket.limits import WebSocketLimits

    guard = _guard(settings)
    return websocket_acceptor(
        server,
        listeners,
        guard,
        limits=WebSocketLimits(compression=settings.ws_compression),
        listening=_limits(settings),
        tls=_tls(settings),
    )


def _open_lines(server: Server, settings: Settings, listeners: list[Listener]) -> Service:
    from kvmcp.io.serving import lines_acceptor

    return lines_acceptor(
        server,
        listeners,
        caller=server.stream_caller(),
        listening=_limits(settings),
        tls=_tls(settings) if listeners[0].address is not None else None,
    )


# --- standard input and output ----------------------------------------------------------------------------------


class _Stdio:
    """The client at standard input and output, beside those on the network."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._stopped = False

    async def run(self) -> None:
        from kvmcp.io.stdio import claim_stdio

        if self._stopped:  # Before there was anything that `Server.stop` could tell.
            return
        with claim_stdio() as transport:
            await self._server.serve(transport)

    def stop(self) -> None:
        """`Server.stop` tells its connection, where it has begun."""
        self._stopped = True
