"""Real servers on loopback sockets for tests, and raw peers to talk to them."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.lowlevel import checkpoint

from kvmcp.core.client.profile import ClientProfile
from kvmcp.core.http.guard import Guard
from kvmcp.core.wire.common import Implementation
from kvmcp.io.listening import Acceptor, Listener, ListenLimits, listen_tcp
from kvmcp.io.serving import websocket_acceptor
from kvmcp.io.sockets import PlainTransport, connect_tcp, plain_transport
from kvmcp.io.websocket.limits import WebSocketLimits
from kvmcp.server import Server
from tests.io.support import make_server
from tests.io.websocket.support import CLOSE, Frame, split_frames
from tests.patience import PATIENCE

PROFILE = ClientProfile(Implementation("test", "1"))


async def until(condition: Callable[[], object]) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():
            await checkpoint()


class Running:
    """A server on sockets: where it listens, and what it runs."""

    def __init__(self, server: Server, listeners: list[Listener], acceptor: Acceptor) -> None:
        self.server = server
        self.listeners = listeners
        self.acceptor = acceptor
        self._raw: list[RawPeer] = []

    @property
    def port(self) -> int:
        return self.listeners[0].port

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/mcp"

    @property
    def drivers(self) -> list[Any]:
        """The conversations that go on."""
        return list(self.server._listeners)

    def stop(self) -> None:
        self.server.stop()
        self.acceptor.stop()

    async def connect(self) -> "RawPeer":
        """A raw peer; it is closed at the end at the latest."""
        peer = RawPeer(plain_transport(await connect_tcp("127.0.0.1", self.port)))
        self._raw.append(peer)
        return peer

    def hang_up(self) -> None:
        for peer in self._raw:
            peer.close()


class RawPeer:
    """A peer that sends whatever the test wants."""

    def __init__(self, transport: PlainTransport) -> None:
        self.transport = transport
        self._pending = b""

    async def send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[await self.transport.send_some(view) :]

    async def head(self) -> bytes:
        """The head of the HTTP response."""
        with anyio.fail_after(PATIENCE):
            while b"\r\n\r\n" not in self._pending:
                data = await self.transport.receive()
                assert data, self._pending
                self._pending += data
        head, _, self._pending = self._pending.partition(b"\r\n\r\n")
        return head

    async def frames(self, count: int) -> list[Frame]:
        """The next frames."""
        found: list[Frame] = []
        with anyio.fail_after(PATIENCE):
            while True:
                more, self._pending = split_frames(self._pending)
                found += more
                if len(found) >= count:
                    assert len(found) == count, found
                    return found
                data = await self.transport.receive()
                assert data, f"ended after {found}"
                self._pending += data

    async def rest(self) -> bytes:
        """All until the end, or the reset, of the stream."""
        with anyio.fail_after(PATIENCE):
            try:
                while data := await self.transport.receive():
                    self._pending += data
            except OSError:
                pass
        return self._pending

    async def close_code(self) -> int | None:
        frames, _ = split_frames(await self.rest())
        assert frames[-1].opcode == CLOSE, frames
        return frames[-1].code

    def close(self) -> None:
        self.transport.close()


@asynccontextmanager
async def websockets_served(
    server: Server | None = None,
    *,
    limits: WebSocketLimits | None = None,
    listening: ListenLimits | None = None,
    **core: Any,
) -> AsyncIterator[Running]:
    """A WebSocket server on a free port inside the context; it is stopped at the end, and must end."""
    server = server or make_server(**core)
    listeners = await listen_tcp("127.0.0.1", 0)
    acceptor = websocket_acceptor(server, listeners, Guard("127.0.0.1"), limits=limits, listening=listening)
    async with served(Running(server, listeners, acceptor)) as running:
        yield running


@asynccontextmanager
async def served(running: Running) -> AsyncIterator[Running]:
    """Any acceptor, served inside the context; it is stopped at the end, and must end."""
    with anyio.fail_after(120):
        async with running.server.running(), anyio.create_task_group() as tasks:
            tasks.start_soon(running.acceptor.run)
            try:
                yield running
            finally:
                running.stop()
                running.hang_up()
    assert running.acceptor.connections == 0
    assert not running.drivers
