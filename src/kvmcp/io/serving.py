"""What a listener serves: WebSocket, or lines as on stdio. Both give an `Acceptor`: `run` it, and `stop` it."""

import ssl
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol

import anyio

from kvmcp.backends.base import Backend
from kvmcp.core.connection import ServerConnection
from kvmcp.core.http.guard import Guard, Turned
from kvmcp.core.http.messages import Request
from kvmcp.core.plan import Caller
from kvmcp.core.service import Service
from kvmcp.io.driver import Driver, Listener as Told, Machine
from kvmcp.io.listening import Acceptor, Listener, ListenLimits, Peer
from kvmcp.io.transport import Transport
from kvmcp.io.websocket.limits import WebSocketLimits
from kvmcp.io.websocket.server import WebSocketConnection
from kvmcp.io.websocket.upgrade import PATHS, Door, render, text_response

FULL: Final = render(text_response(503, "all connections are taken", (b"retry-after", b"1")))


class Host(Protocol):
    """The server that listeners belong to; `kvmcp.Server` is one."""

    @property
    def backend(self) -> Backend: ...
    def service(self) -> Service: ...
    def listening(self, listener: Told) -> AbstractContextManager[None]: ...
    def caller(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller | Turned: ...


def websocket_acceptor(
    host: Host,
    listeners: Sequence[Listener],
    guard: Guard,
    *,
    paths: frozenset[str] = PATHS,
    limits: WebSocketLimits | None = None,
    listening: ListenLimits | None = None,
    tls: ssl.SSLContext | None = None,
) -> Acceptor:
    """MCP over WebSocket. Call it on the event loop that will serve."""
    service = host.service()

    def caller_of(request: Request) -> Caller | Turned:
        return host.caller(request.headers)

    door = Door(guard, caller_of, paths)

    async def serve(transport: Transport, peer: Peer) -> None:
        machine = WebSocketConnection(service, door, anyio.current_time(), limits)
        await _drive(host, service, machine, transport)

    return Acceptor(listeners, serve, listening, tls=tls, full=FULL)


def lines_acceptor(
    host: Host,
    listeners: Sequence[Listener],
    *,
    caller: Caller | None = None,
    listening: ListenLimits | None = None,
    tls: ssl.SSLContext | None = None,
) -> Acceptor:
    """A message a line, as on stdio, for local daemons and sidecars: who can connect is `caller`.

    There is no head that a browser would have to send, and no message of HTTP is one of MCP; still, listen on
    loopback and on Unix sockets only, or with TLS that asks for certificates.
    """
    service = host.service()

    async def serve(transport: Transport, peer: Peer) -> None:
        await _drive(host, service, ServerConnection(service, caller), transport)

    return Acceptor(listeners, serve, listening, tls=tls)


async def _drive(host: Host, service: Service, machine: Machine, transport: Transport) -> None:
    driver = Driver(machine, transport, host.backend, service.limits.shutdown_grace)
    with host.listening(driver):
        await driver.run()
