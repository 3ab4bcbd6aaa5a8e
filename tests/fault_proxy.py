"""A TCP proxy that misbehaves on demand: delay, odd chunks, cut at byte n, half-close, blackhole, stall.

    async with fault_proxy(port, seed=1) as proxy:
        connect to proxy.port
        proxy.cut_answers_after(17)

Faults hold for all connections from the moment they are set. What is random comes from the seed.
"""

import math
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import ByteStream, SocketAttribute, SocketStream

CHUNK = 65536
_BROKEN = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


class FaultProxy:
    """Made by `fault_proxy`."""

    def __init__(self, target: int, seed: int) -> None:
        self.port = 0
        self.accepted = 0
        """Connections, ever."""
        self.open = 0
        self.delay = 0.0
        """Seconds that each chunk of an answer waits, at most; how long is random."""
        self.odd_chunks = False
        """Pass answers on in pieces of random size."""
        self.blackhole = False
        """Take bytes and pass nothing on, in either direction."""
        self._target = target
        self._random = random.Random(seed)
        self._answers_left = math.inf
        self._requests_left = math.inf
        self._half_close = False
        self._flow = anyio.Event()
        self._flow.set()
        self._scopes: set[anyio.CancelScope] = set()

    def cut_answers_after(self, count: int, *, half_close: bool = False) -> None:
        """Once: pass on so many bytes of answers, then close (or only end the stream towards the client)."""
        self._answers_left, self._half_close = count, half_close

    def cut_requests_after(self, count: int) -> None:
        """Once: pass on so many bytes of requests, then close."""
        self._requests_left = count

    def stall(self) -> None:
        """Pass nothing on until `resume`."""
        self._flow = anyio.Event()

    def resume(self) -> None:
        self._flow.set()

    def cut(self) -> None:
        """Close all connections."""
        for scope in self._scopes:
            scope.cancel()

    async def handle(self, client: SocketStream) -> None:
        self.accepted += 1
        self.open += 1
        scope = anyio.CancelScope()
        self._scopes.add(scope)
        try:
            with scope:
                server = await anyio.connect_tcp("127.0.0.1", self._target)
                async with client, server, anyio.create_task_group() as tasks:
                    tasks.start_soon(self._requests, client, server, scope)
                    await self._answers(server, client, scope)
        except _BROKEN:
            pass
        finally:
            self._scopes.discard(scope)
            self.open -= 1

    async def _requests(self, client: ByteStream, server: ByteStream, scope: anyio.CancelScope) -> None:
        try:
            while True:
                data = await client.receive(CHUNK)
                await self._flow.wait()
                if len(data) > self._requests_left:
                    await server.send(data[: int(self._requests_left)])
                    self._requests_left = math.inf
                    return scope.cancel()
                self._requests_left -= len(data)
                if not self.blackhole:
                    await server.send(data)
        except _BROKEN:
            scope.cancel()

    async def _answers(self, server: ByteStream, client: ByteStream, scope: anyio.CancelScope) -> None:
        try:
            while True:
                data = await server.receive(CHUNK)
                await self._flow.wait()
                for piece in self._pieces(data):
                    if self.delay:
                        await anyio.sleep(self._random.random() * self.delay)
                    if not await self._pass_on(piece, client):
                        return scope.cancel()
        except _BROKEN:
            scope.cancel()

    async def _pass_on(self, piece: bytes, client: ByteStream) -> bool:
        """False where the connection is to be closed."""
        if self.blackhole:
            return True
        if len(piece) <= self._answers_left - (self._answers_left < math.inf):
            self._answers_left -= len(piece)
            await client.send(piece)
            return True
        await client.send(piece[: int(self._answers_left)])
        self._answers_left = math.inf
        if self._half_close:
            await client.send_eof()
            await anyio.sleep_forever()
        return False

    def _pieces(self, data: bytes) -> list[bytes]:
        if not self.odd_chunks:
            return [data]
        pieces: list[bytes] = []
        while data:
            size = self._random.randint(1, 9)
            pieces.append(data[:size])
            data = data[size:]
        return pieces


@asynccontextmanager
async def fault_proxy(target: int, seed: int = 0) -> AsyncIterator[FaultProxy]:
    """A proxy in front of a loopback port; everything is closed at the end."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        proxy = FaultProxy(target, seed)
        proxy.port = listener.extra(SocketAttribute.local_port)
        tasks.start_soon(listener.serve, proxy.handle)
        try:
            yield proxy
        finally:
            tasks.cancel_scope.cancel()
