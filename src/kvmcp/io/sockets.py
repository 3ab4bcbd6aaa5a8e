"""Connected sockets as transports, plain and TLS, on any event loop.

Each has a task that reads and a task that writes; both may be cancelled at any wait. All faults are OSError
(`ssl.SSLError` is one).
"""

import errno
import socket
import ssl
from functools import partial
from typing import Final, Protocol

import anyio
from anyio.lowlevel import cancel_shielded_checkpoint

from kvmcp.io.reading import AsyncioReader, on_trio

CHUNK: Final = 16 * 1024
"""Bytes read at once. What one peer's chunk can make the core do is done before any other peer's turn: 16 KiB of
the smallest messages are some 10 ms. A pipeline of 64 calls fits."""

STALL: Final = 30.0
"""Seconds in which a peer must take at least a byte of what is written to it; then it counts as gone. A process
that is stopped or a laptop that is closed holds its answers, up to `Limits.output_bytes`, only that long."""

LINGER: Final = 2.0
"""Seconds for a peer to close its end after us. A socket that is closed while something has arrived that nobody
read is reset, and a reset overtakes the last answers."""

_RECORD: Final = 16 * 1024
"""Bytes in one TLS record, its largest size."""


class SocketTransport(Protocol):
    """A `kvmcp.io.transport.Transport` that has an end."""

    async def receive(self) -> bytes: ...

    async def send_some(self, data: bytes | memoryview) -> int: ...

    async def aclose(self, linger: float = LINGER) -> None:
        """Say the end, let the peer read what is under way, close."""
        ...


class PlainTransport:
    """A connected socket of any family, which it owns from now on."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    async def receive(self) -> bytes:
        """The next chunk; empty at the end of the stream. Raises OSError."""
        try:
            data = self.socket.recv(CHUNK)
        except BlockingIOError:
            return await self._receive_later()
        # A peer that never pauses must not keep other tasks from running; whoever is cancelled has what was read.
        await cancel_shielded_checkpoint()
        return data

    async def _receive_later(self) -> bytes:
        while True:
            await anyio.wait_readable(self.socket)
            try:
                return self.socket.recv(CHUNK)
            except BlockingIOError:  # a spurious wake-up
                continue

    async def send_some(self, data: bytes | memoryview) -> int:
        """As `kvmcp.io.transport.Transport` has it. Raises OSError, also where the peer takes nothing for `STALL`."""
        while not (written := self.send_now(data)):
            await self.writable()
        return written

    def send_now(self, data: bytes | memoryview) -> int:
        """As `kvmcp.io.transport.PromptTransport` has it."""
        try:
            return self.socket.send(data)
        except BlockingIOError:
            return 0

    async def writable(self) -> None:
        """Until the peer has taken something. Raises OSError where it does not."""
        with anyio.move_on_after(STALL):
            await anyio.wait_writable(self.socket)
            return
        raise TimeoutError(errno.ETIMEDOUT, "the peer takes nothing")

    async def aclose(self, linger: float = LINGER) -> None:
        """Say the end, read until the peer's end or for `linger` seconds, close. Never raises."""
        try:
            with anyio.move_on_after(linger):
                self.socket.shutdown(socket.SHUT_WR)
                while await self.receive():
                    pass
        except OSError:
            pass
        finally:
            self.close()

    def close(self) -> None:
        """At once."""
        if self.socket.fileno() >= 0:
            anyio.notify_closing(self.socket)
            self.socket.close()


class AsyncioTransport(PlainTransport):
    """The same on asyncio, where reading has a cheaper way."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._reader = AsyncioReader(sock.fileno(), partial(sock.recv, CHUNK))

    async def receive(self) -> bytes:
        return await self._reader.receive()

    def close(self) -> None:
        self._reader.close()
        super().close()


class TlsTransport:
    """TLS over a plain transport, through memory buffers.

    A record is encrypted once and then has to leave whole. Where the wait for that is cancelled, the same bytes
    are not encrypted again: the next `send_some`, which begins with the same ones, finds them on their way.
    """

    def __init__(self, plain: PlainTransport, context: ssl.SSLContext, host: str | None = None) -> None:
        """`host` makes it the client's side, and is what the certificate must be for."""
        self._plain = plain
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=host is None, server_hostname=host
        )
        self._rest = b""
        self._under_way = 0

    async def handshake(self) -> None:
        """Raises OSError. Bound it with a cancel scope."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._push_all()
                if not await self._pull():
                    raise ConnectionResetError(
                        errno.ECONNRESET, "the peer left during the TLS handshake"
                    ) from None
            except ssl.SSLError:
                self._push()  # the alert that says why
                raise
            else:
                return await self._push_all()

    @property
    def alpn(self) -> str | None:
        """The protocol that the handshake has settled on."""
        return self._tls.selected_alpn_protocol()

    async def receive(self) -> bytes:
        while True:
            try:
                data = self._tls.read(CHUNK)
            except ssl.SSLWantReadError:
                if not await self._pull():
                    return b""
            except ssl.SSLZeroReturnError:
                return b""
            else:
                await cancel_shielded_checkpoint()
                return data

    async def send_some(self, data: bytes | memoryview) -> int:
        if not self._under_way:
            await self._push_all()
            self._under_way = self._tls.write(data[:_RECORD])
        await self._push_all()
        written, self._under_way = self._under_way, 0
        return written

    async def aclose(self, linger: float = LINGER) -> None:
        """Say the end in TLS and in TCP, as `PlainTransport.aclose`."""
        try:
            with anyio.move_on_after(linger):
                await self._push_all()
                self._say_end()
                await self._push_all()
        except OSError:
            pass
        finally:
            await self._plain.aclose(linger)

    def close(self) -> None:
        self._plain.close()

    def _say_end(self) -> None:
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # The peer's own end has not come; ours is in the buffer.

    async def _pull(self) -> bool:
        if self._outgoing.pending:  # what the peer's TLS has asked for: a session ticket, new keys
            self._push()
        data = await self._plain.receive()
        self._incoming.write(data)
        if not data:
            self._incoming.write_eof()
        return bool(data)

    def _push(self) -> bool:
        """Send what is encrypted, as far as it goes; whether all of it has left."""
        self._rest += self._outgoing.read()
        if self._rest:
            try:
                self._rest = self._rest[self._plain.socket.send(self._rest) :]
            except BlockingIOError:
                return False
        return not self._rest

    async def _push_all(self) -> None:
        while not self._push():
            await self._plain.writable()


def plain_transport(sock: socket.socket) -> PlainTransport:
    """The transport of a connected socket that suits the running loop."""
    sock.setblocking(False)
    return PlainTransport(sock) if on_trio() else AsyncioTransport(sock)


_KEEPALIVE: Final = (
    ("TCP_KEEPIDLE", 60),
    ("TCP_KEEPINTVL", 15),
    ("TCP_KEEPCNT", 4),
    ("TCP_USER_TIMEOUT", 120_000),
)
"""Silence is asked about after a minute and is the end a minute later. The last, in milliseconds, is for data that is
under way to a machine that is gone: the kernel asks nothing then, and sends it again for a quarter of an hour."""


def set_tcp_options(sock: socket.socket) -> None:
    """Answers leave at once; a peer whose machine is gone is noticed by the kernel, within two minutes.

    This is all the heartbeat that lines have: MCP's ping is gone from 2026-07-28 on, and a client need not read while
    it waits for its user. On a Unix socket the kernel knows at once.
    """
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):  # not on every system
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


async def connect_tcp(host: str, port: int) -> socket.socket:
    """A connected socket to the first of the host's addresses that answers. Raises OSError."""
    fault: OSError | None = None
    for family, _, _, _, address in await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        try:
            return await _connect(family, address)
        except OSError as error:
            fault = error
    raise fault if fault is not None else OSError(errno.EADDRNOTAVAIL, "the host has no address")


async def connect_unix(path: str) -> socket.socket:
    """A connected socket. Raises OSError."""
    return await _connect(socket.AF_UNIX, path)


async def _connect(family: int, address: object) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        set_tcp_options(sock)
        code = sock.connect_ex(address)  # type: ignore[arg-type]  # an address as the resolver gave it
        if code in (errno.EINPROGRESS, errno.EAGAIN):
            await anyio.wait_writable(sock)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, f"no connection: {errno.errorcode.get(code, str(code))}")
    except BaseException:
        sock.close()
        raise
    return sock
