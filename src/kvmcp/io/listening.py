"""Listening sockets, and serving each connection of them in a task of its own.

    listeners = await listen_tcp("127.0.0.1", 8920)
    acceptor = Acceptor(listeners, serve_one)
    await acceptor.run()            # until acceptor.stop()

`serve_one(transport, peer)` runs one conversation to its end. What it raises ends that connection and no other.
"""

import errno
import fcntl
import logging
import os
import socket
import ssl
import stat
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Final, TypeAlias, cast

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint
from msgspec import Struct

from kvmcp.io.driver import FLUSH_GRACE
from kvmcp.io.sockets import (
    LINGER,
    PlainTransport,
    SocketTransport,
    TlsTransport,
    plain_transport,
    set_tcp_options,
)
from kvmcp.io.transport import Transport

logger = logging.getLogger("kvmcp.io")

BACKLOG: Final = 1024
"""Connections that the kernel holds until they are accepted: a restart under load brings hundreds at once."""

ACCEPT_AT_ONCE: Final = 64
"""Connections accepted before others get a turn."""

ACCEPT_PAUSE: Final = 0.1
"""Seconds until accepting is tried again after a fault: most often no descriptors are left, and trying at once
would only keep those busy that could give some back."""

COMPLAIN_EVERY: Final = 10.0
"""Seconds between two lines of the log about the same limit."""

LAST_LINGER: Final = 0.3
"""Seconds for peers to close their ends once the server stops: `shutdown_grace` and this fit into the 5 s that
supervisors give."""


class ListenLimits(Struct, frozen=True):
    """What all peers of one listener together may take."""

    connections: int = 4096
    """Connections at once: 40 KiB each make 160 MiB. Further ones are closed as they come."""
    per_address: int = 1024
    """Of these, from one address: a quarter, so that no single one takes all. For IPv6 one address is a /64 network;
    Unix sockets have none."""
    tls_timeout: float = 5.0
    """Seconds for the TLS handshake, which is two round trips."""
    shutdown_grace: float = 4.0
    """Seconds that a connection may take to end after `stop`; the rest is cancelled. As `Limits.shutdown_grace`."""


class Peer(Struct, frozen=True):
    """Who is at the other end, as far as the socket tells."""

    address: str
    """An IP address; empty on a Unix socket."""
    is_tls: bool = False
    alpn: str | None = None
    """The protocol that TLS has settled on (RFC 7301)."""


Serve: TypeAlias = Callable[[Transport, Peer], Awaitable[None]]


class Listener:
    """A bound socket that listens."""

    def __init__(self, sock: socket.socket, path: str = "") -> None:
        self.socket = sock
        self._path = path
        self._node = _node(path) if path else None

    @property
    def port(self) -> int:
        """Of a TCP socket, also where any was asked for."""
        port: int = self.socket.getsockname()[1]
        return port

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port; None for a Unix socket."""
        return None if self._path else self.socket.getsockname()[:2]

    @property
    def name(self) -> str:
        """For the log."""
        return self._path or "{}:{}".format(*self.socket.getsockname()[:2])

    def close(self) -> None:
        """Listen no more; a socket file goes with it, unless it is another's by now."""
        if self.socket.fileno() < 0:
            return
        anyio.notify_closing(self.socket)
        self.socket.close()
        if self._node is not None and _node(self._path) == self._node:
            os.unlink(self._path)


async def listen_tcp(host: str, port: int, *, reuse_port: bool = False) -> list[Listener]:
    """Listen on every address of a host; port 0 takes a free one, the same for all. Raises OSError.

    `reuse_port` lets several processes share the port.
    """
    found = await anyio.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[Listener] = []
    try:
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            if port == 0 and listeners:
                address = (address[0], listeners[0].port, *address[2:])
            listeners.append(_listen_at(family, address, reuse_port))
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _listen_at(family: int, address: tuple[object, ...], reuse_port: bool) -> Listener:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return Listener(sock)


def listen_unix(path: str | Path, mode: int = 0o600) -> Listener:
    """Listen on a Unix socket. A file that a dead server left is replaced; raises OSError where one lives, or
    where the file is none of ours."""
    path = str(path)
    folder = os.open(Path(path).parent, os.O_RDONLY)
    try:
        # Two servers that start at once must not both find the file dead, and one then remove the other's.
        fcntl.flock(folder, fcntl.LOCK_EX)
        _clear_the_way(path)
        return _bind_unix(path, mode)
    finally:
        os.close(folder)


def _clear_the_way(path: str) -> None:
    try:
        kind = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise OSError(errno.EEXIST, "there is a file that is no socket", path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        code = probe.connect_ex(path)
    if code != errno.ECONNREFUSED:
        raise OSError(errno.EADDRINUSE, "another server listens there", path)
    os.unlink(path)


def _bind_unix(path: str, mode: int) -> Listener:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(path)
        os.chmod(path, mode)  # Before anybody can connect, which `listen` allows.
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return Listener(sock, path)


def _node(path: str) -> tuple[int, int] | None:
    """Which file it is, whatever its name."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


class Acceptor:
    """Serves the connections of some listeners, which it owns from now on.

    `full` are bytes for those who come when all connections are taken (nothing is sent where TLS would be first).
    """

    def __init__(
        self,
        listeners: Sequence[Listener],
        serve: Serve,
        limits: ListenLimits | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        full: bytes = b"",
    ) -> None:
        self._listeners = listeners
        self._serve = serve
        self._limits = limits if limits is not None else ListenLimits()
        self._tls = tls
        self._full = b"" if tls is not None else full
        self._open = 0
        self._addresses: Counter[str] = Counter()
        self._stopped = anyio.Event()
        self._greeting: set[anyio.CancelScope] = set()
        self._lingering: set[anyio.CancelScope] = set()
        self._complained: dict[str, float] = {}

    @property
    def connections(self) -> int:
        """How many are open."""
        return self._open

    async def run(self) -> None:
        """Serve until `stop`; then returns within `shutdown_grace` and a second, whatever peers do."""
        try:
            async with anyio.create_task_group() as connections:
                async with anyio.create_task_group() as accepting:
                    for listener in self._listeners:
                        accepting.start_soon(self._accept, listener, connections)
                    await self._stopped.wait()
                    accepting.cancel_scope.cancel()
                self._close_listeners()
                connections.cancel_scope.deadline = (
                    anyio.current_time() + self._limits.shutdown_grace + FLUSH_GRACE + LAST_LINGER
                )
        finally:
            self._close_listeners()

    def stop(self) -> None:
        """Accept no more. Conversations are ended by whoever runs them; this waits for them, within a bound."""
        self._stopped.set()
        for scope in self._greeting:
            scope.cancel()
        for scope in self._lingering:
            scope.deadline = min(scope.deadline, anyio.current_time() + LAST_LINGER)

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()

    # --- accepting ---

    async def _accept(self, listener: Listener, connections: TaskGroup) -> None:
        while True:
            await anyio.wait_readable(listener.socket)
            for _ in range(ACCEPT_AT_ONCE):
                try:
                    sock, address = listener.socket.accept()
                except BlockingIOError:
                    break
                except ConnectionAbortedError:
                    continue  # That one is gone already.
                except OSError as error:  # no descriptors, no memory, or the network is down
                    self._complain(f"accepting nothing: {error.strerror}")
                    await anyio.sleep(ACCEPT_PAUSE)
                    break
                self._begin(sock, address, connections)
            await checkpoint()

    def _begin(self, sock: socket.socket, address: object, connections: TaskGroup) -> None:
        origin, group = _origin(address)
        if self._open >= self._limits.connections:
            self._turn_away(sock, f"{self._limits.connections} connections are open")
        elif group and self._addresses[group] >= self._limits.per_address:
            self._turn_away(sock, f"{self._limits.per_address} connections are open from {group}")
        else:
            self._open += 1
            self._addresses[group] += 1
            connections.start_soon(self._connection, sock, origin, group)

    def _turn_away(self, sock: socket.socket, problem: str) -> None:
        self._complain(f"refusing connections: {problem}")
        with sock:
            sock.setblocking(False)
            try:
                if self._full:
                    sock.send(self._full)
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass

    def _complain(self, problem: str) -> None:
        now = anyio.current_time()
        kind = problem.partition(" from ")[0]
        if now - self._complained.get(kind, float("-inf")) >= COMPLAIN_EVERY:
            self._complained[kind] = now
            logger.warning(problem)

    # --- one connection ---

    async def _connection(self, sock: socket.socket, address: str, group: str) -> None:
        """The boundary of a connection: nothing that goes wrong behind it reaches another."""
        plain: PlainTransport | None = None
        try:
            plain = plain_transport(sock)
            set_tcp_options(sock)
            transport = await self._greet(plain)
            if transport is not None and not self._stopped.is_set():
                alpn = transport.alpn if isinstance(transport, TlsTransport) else None
                await self._converse(transport, Peer(address, self._tls is not None, alpn))
        except OSError as error:
            logger.debug("a connection failed: %s", error)
        except Exception as error:
            logger.error("a connection failed", exc_info=error)
        finally:
            if plain is not None:
                plain.close()
            sock.close()
            self._open -= 1
            self._addresses[group] -= 1
            if not self._addresses[group]:
                del self._addresses[group]

    async def _greet(self, plain: PlainTransport) -> SocketTransport | None:
        """The transport, after the TLS handshake where there is one; None where that did not come off."""
        if self._tls is None:
            return plain
        transport = TlsTransport(plain, self._tls)
        with anyio.move_on_after(self._limits.tls_timeout) as scope:
            self._greeting.add(scope)
            try:
                await transport.handshake()
                return transport
            finally:
                self._greeting.discard(scope)
        return None

    async def _converse(self, transport: SocketTransport, peer: Peer) -> None:
        try:
            await self._serve(transport, peer)
        except Exception as error:
            logger.error("a conversation failed", exc_info=error)
        with anyio.CancelScope() as scope:
            self._lingering.add(scope)
            try:
                await transport.aclose(LAST_LINGER if self._stopped.is_set() else LINGER)
            finally:
                self._lingering.discard(scope)


def _origin(address: object) -> tuple[str, str]:
    """The address of a peer, and what counts as one for `per_address`."""
    if not isinstance(address, tuple):
        return "", ""
    text = str(cast(tuple[object, ...], address)[0]).partition("%")[0]
    if ":" not in text:
        return text, text
    mapped = IPv6Address(text).ipv4_mapped
    if mapped is not None:
        return str(mapped), str(mapped)
    return text, str(IPv6Network((text, 64), strict=False))
