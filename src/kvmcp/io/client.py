"""A client on the running event loop: drives a client machine over a socket, and lets coroutines wait for answers.

    async with connect_websocket("ws://127.0.0.1:8920/mcp", profile) as client:
        result = await client.request("tools/list", b"{}")

`request` waits for one answer; what else the server says goes to `on_event` (progress, changes, questions), which
may act on `client.session` and then calls `client.wake`.
"""

import math
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, Protocol
from urllib.parse import urlsplit

import anyio
from msgspec import Raw

from kvmcp.core.client.connection import ClientConnection
from kvmcp.core.client.events import (
    Connected,
    ConnectionFailed,
    ConnectionLost,
    ErrorReceived,
    Event,
    ProtocolViolated,
    ResultReceived,
    TimedOut,
)
from kvmcp.core.client.opening import Mode
from kvmcp.core.client.profile import ClientProfile
from kvmcp.core.client.session import ClientSession
from kvmcp.core.commands import Ticket
from kvmcp.core.errors import RpcError
from kvmcp.io.patience import hear_first
from kvmcp.io.sockets import (
    PlainTransport,
    SocketTransport,
    TlsTransport,
    connect_tcp,
    connect_unix,
    plain_transport,
)
from kvmcp.io.transport import Transport
from kvmcp.io.websocket.client import WebSocketAddress, WebSocketClientConnection
from kvmcp.io.websocket.limits import WebSocketLimits

CONNECT_TIMEOUT: Final = 10.0
"""Seconds for name, TCP and TLS together: SYNs are repeated after 1, 3 and 7 s."""

GOODBYE: Final = 1.0
"""Seconds for the last words to leave, after the machine has said them."""


class NotConnected(Exception):
    """There is no connection, or there was no common way to talk; the message says why."""


class Answered(Exception):
    """The server refused a request."""

    def __init__(self, error: RpcError) -> None:
        super().__init__(f"{error.code}: {error.message}")
        self.error = error


class Unanswered(Exception):
    """What the request did is unknown: no answer in time, none that can be read, or the connection was lost."""


class ClientMachine(Protocol):
    """The core's side: `ClientConnection`, `WebSocketClientConnection`."""

    @property
    def session(self) -> ClientSession: ...
    def receive_data(self, data: bytes, now: float) -> None: ...
    def receive_eof(self, now: float) -> None: ...
    def handle_timeout(self, now: float) -> None: ...
    def data_to_send(self) -> bytes: ...
    def take_events(self) -> list[Event]: ...
    def next_deadline(self) -> float | None: ...
    @property
    def closed(self) -> bool: ...


OnEvent = Callable[[Event], None]


class _Waiter:
    """A coroutine that waits for what settles its request."""

    def __init__(self) -> None:
        self.settled = anyio.Event()
        self.outcome: Event | None = None


class Client:
    """One connection. `run` it in a task; the other methods are for the tasks beside it."""

    def __init__(self, machine: ClientMachine, transport: Transport, on_event: OnEvent | None = None) -> None:
        self._machine = machine
        self._transport = transport
        self._on_event = on_event
        self._waiting: dict[Ticket, _Waiter] = {}
        self._opened = anyio.Event()
        self._failure: str | None = None
        self._woken = anyio.Event()
        self._alarm = anyio.CancelScope()
        self._is_over = False

    @property
    def session(self) -> ClientSession:
        """For what has no method here; call `wake` behind it."""
        return self._machine.session

    # --- for the application ---

    async def connect(self, mode: Mode | Connected = "auto") -> Connected:
        """Find out how the server talks. Raises NotConnected."""
        self.session.connect(anyio.current_time(), mode)
        self.wake()
        await self._opened.wait()
        connected = self.session.connected
        if connected is None or self._failure is not None:
            raise NotConnected(self._failure or "the connection ended")
        return connected

    async def request(
        self, method: str, params: bytes = b"{}", *, progress: bool = False, timeout: float | None = None
    ) -> Raw:
        """The result of one request, a JSON object. Raises Answered, Unanswered, and as `ClientSession.request`."""
        ticket = self.session.request(
            method, params, anyio.current_time(), progress=progress, timeout=timeout
        )
        waiter = self._waiting[ticket] = _Waiter()
        self.wake()
        try:
            await waiter.settled.wait()
        except BaseException:
            self.session.cancel(ticket)
            self.wake()
            raise
        finally:
            self._waiting.pop(ticket, None)
        match waiter.outcome:
            case ResultReceived(result=result):
                return result
            case ErrorReceived(error=error):
                raise Answered(error)
            case TimedOut():
                raise Unanswered("no answer in time")
            case ProtocolViolated(reason=reason):
                raise Unanswered(reason)
            case _:
                raise Unanswered("the connection was lost")

    def wake(self) -> None:
        """Something was said to the session: send it."""
        self._woken.set()

    # --- driving ---

    async def run(self) -> None:
        """Drive the connection until it is over."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._read)
                tasks.start_soon(self._keep_time)
                await self._write()
                tasks.cancel_scope.cancel()
        finally:
            self._is_over = True
            self._machine.receive_eof(anyio.current_time())
            self._dispatch()
            self._opened.set()

    async def _read(self) -> None:
        while not self._machine.closed:
            try:
                data = await self._transport.receive()
            except OSError:
                data = b""
            if data:
                self._machine.receive_data(data, anyio.current_time())
            else:
                self._machine.receive_eof(anyio.current_time())
            self._dispatch()
            self.wake()

    async def _write(self) -> None:
        machine = self._machine
        while True:
            deadline = machine.next_deadline()
            if deadline is not None and deadline < self._alarm.deadline:
                self._alarm.deadline = deadline
            is_over = machine.closed
            data = memoryview(machine.data_to_send())
            while data:
                try:
                    with anyio.move_on_after(GOODBYE if is_over else math.inf) as scope:
                        data = data[await self._transport.send_some(data) :]
                except OSError:
                    machine.receive_eof(anyio.current_time())
                    return
                if scope.cancelled_caught:
                    return
            if is_over:
                return
            await self._woken.wait()
            self._woken = anyio.Event()

    async def _keep_time(self) -> None:
        while True:
            deadline = self._machine.next_deadline()
            with anyio.CancelScope(deadline=math.inf if deadline is None else deadline) as self._alarm:
                await anyio.sleep_forever()
            await hear_first(self._alarm.deadline)
            self._machine.handle_timeout(anyio.current_time())
            self._dispatch()
            self.wake()

    def _dispatch(self) -> None:
        for event in self._machine.take_events():
            match event:
                case Connected():
                    self._opened.set()
                case ConnectionFailed(reason=reason):
                    self._failure = reason
                    self._opened.set()
                case ConnectionLost(tickets=tickets):
                    for ticket in tickets:
                        self._settle(ticket, event)
                case ResultReceived() | ErrorReceived() | TimedOut() | ProtocolViolated():
                    if event.ticket is not None and self._settle(event.ticket, event):
                        continue
                case _:
                    pass
            if self._on_event is not None:
                self._on_event(event)

    def _settle(self, ticket: Ticket, event: Event) -> bool:
        waiter = self._waiting.get(ticket)
        if waiter is None:
            return False
        waiter.outcome = event
        waiter.settled.set()
        return True


# --- connecting ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def connect_websocket(
    url: str,
    profile: ClientProfile,
    *,
    mode: Mode | Connected = "auto",
    headers: Sequence[tuple[bytes, bytes]] = (),
    tls: ssl.SSLContext | None = None,
    limits: WebSocketLimits | None = None,
    on_event: OnEvent | None = None,
) -> AsyncGenerator[Client]:
    """A connected client for a `ws://` or `wss://` URL; said goodbye when the context is left.

    Raises ValueError for a URL that is none, OSError where nobody answers, NotConnected.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError(f"no WebSocket URL: {url!r}")
    is_secure = parts.scheme == "wss"
    if is_secure and tls is None:
        tls = ssl.create_default_context()
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    address = WebSocketAddress(parts.netloc.rpartition("@")[2], target, headers)
    transport = await _connect(
        parts.hostname, parts.port or (443 if is_secure else 80), tls if is_secure else None
    )
    machine = WebSocketClientConnection(profile, address, anyio.current_time(), limits)

    def say_goodbye() -> None:
        machine.close(anyio.current_time())

    async with _running(machine, transport, mode, on_event, say_goodbye, lambda: machine.ending) as client:
        yield client


@asynccontextmanager
async def connect_lines(
    where: str | tuple[str, int],
    profile: ClientProfile,
    *,
    mode: Mode | Connected = "auto",
    tls: ssl.SSLContext | None = None,
    on_event: OnEvent | None = None,
) -> AsyncGenerator[Client]:
    """A connected client for lines over TCP (host, port) or a Unix socket (path). Raises OSError, NotConnected."""
    if isinstance(where, str):
        transport: SocketTransport = plain_transport(await connect_unix(where))
    else:
        transport = await _connect(*where, tls)
    async with _running(ClientConnection(profile), transport, mode, on_event, None, lambda: "") as client:
        yield client


async def _connect(host: str, port: int, tls: ssl.SSLContext | None) -> SocketTransport:
    with anyio.fail_after(CONNECT_TIMEOUT):
        plain: PlainTransport = plain_transport(await connect_tcp(host, port))
        if tls is None:
            return plain
        try:
            transport = TlsTransport(plain, tls, host)
            await transport.handshake()
        except BaseException:
            plain.close()
            raise
        return transport


@asynccontextmanager
async def _running(
    machine: ClientMachine,
    transport: SocketTransport,
    mode: Mode | Connected,
    on_event: OnEvent | None,
    say_goodbye: Callable[[], None] | None,
    ending: Callable[[], str],
) -> AsyncGenerator[Client]:
    client = Client(machine, transport, on_event)
    failure: Exception | None = None
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.run)
            try:
                await client.connect(mode)
                yield client
            except NotConnected as error:
                failure = NotConnected(ending() or str(error))
            except Exception as error:  # noqa: BLE001  # raised below, where no group is wrapped around it
                failure = error
            if say_goodbye is None or failure is not None:
                tasks.cancel_scope.cancel()
            else:
                say_goodbye()
                client.wake()
    finally:
        with anyio.CancelScope(shield=True):
            await transport.aclose(GOODBYE)
    if failure is not None:
        raise failure
