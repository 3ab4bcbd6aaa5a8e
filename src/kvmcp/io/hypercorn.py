"""Serves an ASGI application with Hypercorn's protocols (HTTP/1.1, HTTP/2, h2c) on connections of our own.

Hypercorn parses and writes HTTP; sockets, tasks, deadlines and the end are ours, because its own server lets one
connection's failure end the process (trio) or its stop hang (asyncio): measured with 0.18. Here each connection
has a task group, whatever goes wrong in it ends there, and everything that waits has a deadline:

    reader ─ bytes ▸ protocol ▸ application (a task per request)
    writer ◂ bytes ─ all that was written since it last looked, in one piece

One sweep per second looks at the deadlines of all connections, instead of a timer in each.
"""

import logging
import math
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Final, cast
from wsgiref.handlers import format_date_time

import anyio
from anyio.abc import TaskGroup
from hypercorn.config import Config
from hypercorn.events import Closed, Event as WireEvent, RawData, Updated
from hypercorn.protocol import ProtocolWrapper
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.typing import ConnectionState
from msgspec import Struct

from kvmcp.core.errors import clip
from kvmcp.io.endpoint import BODY_NOW, App, Message
from kvmcp.io.listening import Acceptor, Listener, ListenLimits, Peer
from kvmcp.io.patience import hear_first
from kvmcp.io.transport import Transport

logger = logging.getLogger("kvmcp.io")


class HttpLimits(Struct, frozen=True):
    """What one connection may take. All sizes are bytes, all times seconds."""

    head_timeout: float = 5.0
    """From the first byte of a request to the end of its head: a kilobyte, in one or two packets."""
    idle_timeout: float = 75.0
    """How long a connection is kept for another request: as nginx does, above the pools of common clients."""
    sweep: float = 1.0
    """How late a deadline may be noticed: a look at some thousand connections is a millisecond."""
    head_bytes: int = 32 * 1024
    """The head of a request: room for long tokens. Common servers take 8 to 64 KiB."""
    streams: int = 100
    """HTTP/2 streams of one connection at once, as many as RFC 9113 recommends to allow at least."""
    resets: int = 200
    """HTTP/2 requests that one connection may break off before they are answered (CVE-2023-44487)."""
    requests: int = 100_000
    """After these a connection is closed, so that a balancer can spread its client anew."""


UNREAD_PARTS: Final = 16
"""Parts of one request's body that wait for the application. Then the connection is not read from."""
UNSENT_BYTES: Final = 256 * 1024
"""Bytes that wait for the peer. Then the application waits."""

_BUSY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
)
_BAD_REQUEST: Final = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class _Hostile(Exception):
    """The peer does what no client needs."""


class _Unsendable(Exception):
    """Hypercorn, or a library below it, could not write: mostly for what the peer had sent."""


class _Config(Config):
    """Hypercorn's settings. The date is rendered once a second: it is a third of rendering a head."""

    include_server_header = False

    def __init__(self, limits: HttpLimits) -> None:
        self.errorlog = logger
        self.h11_max_incomplete_size = limits.head_bytes
        self.h2_max_header_list_size = limits.head_bytes
        self.h2_max_concurrent_streams = limits.streams
        self.keep_alive_max_requests = limits.requests
        self._date = b""
        self._date_of = 0

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        now = int(time.time())
        if now != self._date_of:
            self._date_of, self._date = now, format_date_time(now).encode()
        return [(b"date", self._date)]


class _Event:
    """Hypercorn's event: one that can be cleared."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    async def clear(self) -> None:
        if self._event.is_set():
            self._event = anyio.Event()

    async def wait(self) -> None:
        await self._event.wait()

    async def set(self) -> None:
        self._event.set()

    def set_now(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()


class _Context:
    """What Hypercorn's protocols share. `single_task_class` is for QUIC, `terminate` for request limits."""

    event_class: Any = _Event
    single_task_class: Any = None

    def __init__(self) -> None:
        self.terminate = _Event()
        self.terminated = _Event()

    async def mark_request(self) -> None:
        """Requests are not limited."""

    @staticmethod
    async def sleep(wait: float) -> None:
        await anyio.sleep(wait)

    @staticmethod
    def time() -> float:
        return anyio.current_time()


class _Inbox:
    """What the peer sent for one request, until the application takes it. Bounded."""

    def __init__(self, on_reset: Callable[[], None]) -> None:
        self._messages: deque[Message] = deque()
        self._changed: anyio.Event | None = None
        """There while somebody waits."""
        self._on_reset = on_reset
        self.answered = False
        """Whether the response is complete."""
        self.complete = False
        """Whether all of the request has come."""
        self.closed = False

    async def put(self, message: Message) -> None:
        if self.closed:
            return
        self.complete = not message.get("more_body", False)
        if message["type"].endswith("disconnect"):
            if not self.answered:
                self._on_reset()
        else:
            while len(self._messages) >= UNREAD_PARTS and not self.closed:
                await self._change()
        self._messages.append(message)
        self._note_change()

    def body_now(self) -> bytes | None:
        """All of the body, if it is here and nothing has gone wrong with the request."""
        messages = self._messages
        if not self.complete or any(message["type"] != "http.request" for message in messages):
            return None
        body = b"".join([message["body"] for message in messages])
        messages.clear()
        self._note_change()
        return body

    async def get(self) -> Message:
        while not self._messages:
            await self._change()
        message = self._messages[0]
        if not message["type"].endswith("disconnect"):  # Whoever asks again is told again.
            self._messages.popleft()
            self._note_change()
        return message

    def close(self) -> None:
        """The application has finished: nobody will take anything."""
        self.closed = True
        self._messages.clear()
        self._note_change()

    def _note_change(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def _change(self) -> None:
        if self._changed is None:
            self._changed = anyio.Event()
        await self._changed.wait()


class _Tasks:
    """Hypercorn's task group: the tasks of one connection."""

    def __init__(self, app: App, tasks: TaskGroup, max_resets: int, ending: _Event) -> None:
        self._app = app
        self._tasks = tasks
        self._max_resets = max_resets
        self._ending = ending
        self._resets = 0

    async def spawn_app(
        self, app: object, config: Config, scope: Message, send: Callable[[Any], Awaitable[None]]
    ) -> Callable[[Message], Awaitable[None]]:
        if self._resets > self._max_resets:
            raise _Hostile(f"{self._resets} requests broken off")
        inbox = _Inbox(self._reset)
        self._tasks.start_soon(self._run_app, scope, inbox, send)
        return inbox.put

    def _reset(self) -> None:
        self._resets += 1

    async def _run_app(self, scope: Message, inbox: _Inbox, send: Callable[[Any], Awaitable[None]]) -> None:
        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start" and scope["http_version"].startswith("1"):
                # Hypercorn closes the connection in both cases; unless told, a client would use it once more.
                if not inbox.complete or self._ending.is_set():
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            elif message["type"] == "http.response.body" and not message.get("more_body", False):
                inbox.answered = True
            try:
                await send(message)
            except Exception as error:
                raise _Unsendable from error

        try:
            if _is_ambiguous(scope):
                await _refuse(answer)
            else:
                scope["extensions"][BODY_NOW] = inbox.body_now
                await self._app(scope, inbox.get, answer)
        except _Unsendable as error:
            logger.warning("a response could not be sent: %s", _first(error.__cause__ or error))
        except Exception:
            logger.exception("the application failed")
        finally:
            inbox.close()
        with suppress(Exception):  # The connection may be past sending anything.
            await send(None)

    def spawn(self, function: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        self._tasks.start_soon(function, *args)


def _is_ambiguous(scope: Message) -> bool:
    """Two lengths: a proxy before us may have seen another request (RFC 9112, section 6.3)."""
    names = [name for name, _ in scope["headers"]]
    return b"transfer-encoding" in names and b"content-length" in names


async def _refuse(send: Callable[[Any], Awaitable[None]]) -> None:
    headers = [(b"content-length", b"0"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


class Connection:
    """One connection. `run` returns when it is over, whatever ended it; only cancellation escapes it."""

    def __init__(
        self,
        server: "HypercornServer",
        transport: Transport,
        client: tuple[str, int] | None,
        address: tuple[str, int] | None,
        *,
        tls: bool = False,
        alpn: str | None = None,
    ) -> None:
        self._server = server
        self._transport = transport
        self._peers = (tls, client, address)
        self._alpn = alpn
        self._scope = anyio.CancelScope()
        self._reading = anyio.CancelScope()
        self._protocol: ProtocolWrapper
        self._unsent = bytearray()
        self._wanted = anyio.Event()
        self._drained = anyio.Event()
        self._answered = False
        """Whether anything was written for the request that is being read."""
        self._in_head = False
        """Whether bytes of a request have come that has not begun."""
        self._idle = True
        self._finishing = False
        """Whether nothing more is read: what is being answered is finished and written."""
        self.deadline = math.inf
        """When a sweep shall end it."""

    async def run(self) -> None:
        server = self._server
        server.connections.add(self)
        self.deadline = anyio.current_time() + server.limits.idle_timeout
        try:
            with self._scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._write)
                    await self._serve()
                    self._finishing, self.deadline = True, math.inf
                    self._wake_writer()  # It ends the connection when all is written.
        except Exception as error:  # noqa: BLE001  # peers cause it, so no traceback for each
            # Nothing of one connection may reach another.
            logger.warning("a connection failed and was closed: %s", _first(error))
        finally:
            server.connections.discard(self)

    async def _serve(self) -> None:
        """Read and answer, until the peer's end or ours. What still runs then has nobody to answer to."""
        server = self._server
        async with anyio.create_task_group() as tasks:
            self._protocol = ProtocolWrapper(
                cast(Any, server.app),
                server.config,
                cast(Any, server.context),
                cast(Any, _Tasks(server.app, tasks, server.limits.resets, server.context.terminated)),
                ConnectionState({}),
                *self._peers,
                self._send,
                self._alpn,
            )
            with self._reading:
                try:
                    await self._protocol.initiate()
                    await self._read()
                except Exception as error:  # noqa: BLE001  # peers cause it, so no traceback for each
                    # A parser's bug, or ours. It ends this connection alone, and what it had begun.
                    logger.warning("a request broke the parser: %s", _first(error))
                    if not self._answered:
                        self._unsent += _BAD_REQUEST
            # Not told but cancelled: Hypercorn lets an HTTP/2 request wait for ever for a connection that is gone.
            tasks.cancel_scope.cancel()

    async def _read(self) -> None:
        while True:
            try:
                data = await self._transport.receive()
            except OSError:
                return
            if not data:
                return
            if self._idle and not self._in_head and isinstance(self._protocol.protocol, H11Protocol):
                self._in_head, self._answered = True, False
                self.deadline = anyio.current_time() + self._server.limits.head_timeout
            await self._protocol.handle(RawData(data))

    async def _send(self, event: WireEvent) -> None:
        """What the protocol wants of us."""
        if isinstance(event, RawData):
            self._answered = True
            self._unsent += event.data
            self._wake_writer()
            while len(self._unsent) > UNSENT_BYTES:
                if self._drained.is_set():  # Otherwise others wait for it: streams of HTTP/2, and the reader.
                    self._drained = anyio.Event()
                await self._drained.wait()
        elif isinstance(event, Closed):
            self._reading.cancel()
        elif isinstance(event, Updated):
            self._idle, self._in_head = event.idle, False
            self.deadline = (
                anyio.current_time() + self._server.limits.idle_timeout if event.idle else math.inf
            )
            if event.idle and self._server.stopping:
                self._reading.cancel()

    def _wake_writer(self) -> None:
        self._wanted.set()

    async def _write(self) -> None:
        """The only one that writes: each time it looks, all that is there."""
        while True:
            await self._wanted.wait()
            self._wanted = anyio.Event()
            while self._unsent:
                data, self._unsent = self._unsent, bytearray()
                await self._write_all(memoryview(data))
            self._drained.set()
            if self._finishing:
                self._scope.cancel()

    async def _write_all(self, data: memoryview) -> None:
        try:
            while data:
                data = data[await self._transport.send_some(data) :]
        except OSError as error:
            logger.debug("the peer is gone: %s", error)
            self._scope.cancel()

    # --- for the server ---

    def end(self) -> None:
        """No more requests: at once where none is being read or answered, otherwise after that."""
        if self._idle:
            self._reading.cancel()

    def cancel(self) -> None:
        self._scope.cancel()


class HypercornServer:
    """Serves an application on listeners, of which it takes the connections. `tls` is for https."""

    def __init__(
        self,
        app: App,
        listeners: Sequence[Listener],
        listen_limits: ListenLimits,
        tls: ssl.SSLContext | None = None,
        limits: HttpLimits | None = None,
    ) -> None:
        self.app = app
        self.limits = limits if limits is not None else HttpLimits()
        self.config = _Config(self.limits)
        self.context = _Context()
        self.connections: set[Connection] = set()
        self.stopping = False
        self._address = listeners[0].address
        if tls is not None:
            tls.set_alpn_protocols(self.config.alpn_protocols)
        self._acceptor = Acceptor(listeners, self._converse, listen_limits, tls=tls, full=_BUSY)

    async def run(self) -> None:
        """Serve until `stop`; then returns within the limits' grace and a second, whatever peers do."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._sweep)
            await self._acceptor.run()
            tasks.cancel_scope.cancel()

    def stop(self) -> None:
        """No more connections and requests; what is being answered is finished. The application has been told."""
        self.stopping = True
        self.context.terminated.set_now()
        self._acceptor.stop()
        for connection in list(self.connections):
            connection.end()

    async def _converse(self, transport: Transport, peer: Peer) -> None:
        client = (peer.address, 0) if peer.address else None
        await Connection(self, transport, client, self._address, tls=peer.is_tls, alpn=peer.alpn).run()

    async def _sweep(self) -> None:
        """Ends the connections whose deadlines have passed."""
        while True:
            due = anyio.current_time() + self.limits.sweep
            await anyio.sleep_until(due)
            await hear_first(due)
            now = anyio.current_time()
            for connection in list(self.connections):
                if now >= connection.deadline:
                    connection.cancel()


def _first(error: BaseException) -> str:
    """What went wrong, in short: the first of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = cast(BaseExceptionGroup[BaseException], error).exceptions[0]
    return f"{type(error).__name__}: {clip(str(error))}"
