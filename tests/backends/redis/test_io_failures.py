"""Every I/O operation fails in turn, and every wait is cancelled in turn, until a whole scenario gets through."""

import errno
import os
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, TypeVar

import anyio
import pytest

from kvmcp.backends.ops import (
    Code,
    Failure,
    Get,
    Message,
    Namespace,
    Op,
    Page,
    Publish,
    Published,
    Reply,
    Scan,
    Set,
)
from kvmcp.backends.redis import RedisBackend, RedisOptions, open_backend
from kvmcp.backends.redis.address import Endpoint
from kvmcp.backends.redis.wire import Wire, connect
from tests.backends.harness import plain, receivers
from tests.backends.redis.servers import RedisServer
from tests.backends.redis.stores import backend_on, eventually
from tests.patience import PATIENCE

pytestmark = pytest.mark.anyio

T = TypeVar("T")
QUICK = RedisOptions(op_timeout=2.0, patience=1.0, reconnect_pause=0.002, random=lambda: 0.5)


class Saboteur:
    """Makes the `fail_at`-th I/O operation fail in one of these ways: `reset`, `end`, `short`."""

    def __init__(self, fail_at: int, how: str) -> None:
        self.fail_at = fail_at
        self.how = how
        self.count = 0

    @property
    def struck(self) -> bool:
        return self.count >= self.fail_at

    def strikes(self) -> bool:
        self.count += 1
        return self.count == self.fail_at

    async def connect(self, endpoint: Endpoint, tls: ssl.SSLContext | None) -> Wire:
        if self.strikes():
            raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
        return SabotagedWire(await connect(endpoint, tls), self)


class SabotagedWire:
    def __init__(self, wire: Wire, saboteur: Saboteur) -> None:
        self._wire = wire
        self._saboteur = saboteur

    @property
    def clogged(self) -> bool:
        return self._wire.clogged

    def write(self, data: bytes) -> int:
        if self._saboteur.strikes():
            if self._saboteur.how == "short":
                return self._wire.write(data[: len(data) // 2])
            raise BrokenPipeError(errno.EPIPE, "broken")
        return self._wire.write(data)

    async def writable(self) -> None:
        if self._saboteur.strikes():
            raise ConnectionResetError(errno.ECONNRESET, "reset")
        await self._wire.writable()

    async def receive(self) -> bytes:
        data = await self._wire.receive()
        if self._saboteur.strikes():
            if self._saboteur.how == "reset":
                raise ConnectionResetError(errno.ECONNRESET, "reset")
            return b"" if self._saboteur.how == "end" else data
        return data

    def close(self) -> None:
        self._wire.close()


async def scenario(backend: RedisBackend, namespace: Namespace) -> list[Reply]:
    """Two batches, a scan and a publication."""
    a, b = namespace.key("a"), namespace.key("b")
    first = await backend.execute([Set(a, b"1"), Get(a)])
    published, *rest = await backend.execute([Publish(b, b"1"), Get(a), Scan(namespace.space())])
    if isinstance(published, Published):
        published = Published(published.receivers, "")  # its number depends on the moment
    return [*first, published, *rest]


@pytest.mark.parametrize("how", ["reset", "end", "short"])
async def test_the_nth_operation_fails(shared_server: RedisServer, namespace: Namespace, how: str) -> None:
    whole = [True, b"1", Published(0, ""), b"1", Page(("a",))]
    files = len(os.listdir("/proc/self/fd"))
    for fail_at in range(1, 100):
        saboteur = Saboteur(fail_at, how)
        space = Namespace(f"{namespace.name}-{fail_at}")
        backend = open_backend(shared_server.url, QUICK, saboteur.connect)
        replies = await scenario(backend, space)
        for reply, wanted in zip(replies, whole, strict=True):
            assert (
                reply == wanted
                or isinstance(reply, Failure)
                or (reply in (None, Page(())) and replies[0] is not True)
            )
        stored = await eventually(backend, Get(space.key("a")))
        assert_fits(replies[0], stored)
        await backend.aclose()
        if not saboteur.struck:
            break
    assert saboteur.fail_at > 6 and replies == whole
    assert len(os.listdir("/proc/self/fd")) == files


def assert_fits(write: Reply, stored: Reply) -> None:
    """What the write's reply says, is."""
    if isinstance(write, Failure):
        if write.outcome == "not_applied":
            assert stored is None
        else:
            assert write.code is Code.UNKNOWN_OUTCOME
    else:
        assert stored == b"1"


class CancelAt:
    """Awaits something and cancels `scope` where it waits for the `turn`-th time."""

    def __init__(self, work: Coroutine[Any, Any, T], turn: int, scope: anyio.CancelScope) -> None:
        self._work = work
        self._turn = turn
        self._scope = scope
        self.waits = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        step: Callable[[], Any] = lambda: self._work.send(None)
        while True:
            try:
                wanted = step()
            except StopIteration as stop:
                return stop.value
            self.waits += 1
            if self.waits == self._turn:
                self._scope.cancel()
            try:
                value = yield wanted
            except BaseException as error:  # noqa: BLE001  # passed on to the work, which has the last word
                step = _thrower(self._work, error)
            else:
                step = _sender(self._work, value)


def _sender(work: Coroutine[Any, Any, T], value: object) -> Callable[[], Any]:
    return lambda: work.send(value)


def _thrower(work: Coroutine[Any, Any, T], error: BaseException) -> Callable[[], Any]:
    return lambda: work.throw(error)


async def cancel_everywhere(
    work: Callable[[], Coroutine[Any, Any, object]], check: Callable[[], Awaitable[None]]
) -> int:
    """Run `work` with a cancellation at its first wait, then its second, …; how many it has."""
    for turn in range(1, 500):
        with anyio.CancelScope() as scope:
            await CancelAt(work(), turn, scope)
        await check()
        if not scope.cancel_called:
            return turn - 1
    raise AssertionError("the work waits too often")


async def test_cancelled_at_every_wait(shared_server: RedisServer, namespace: Namespace) -> None:
    """A first call, which waits for the connection, and a scan of many rounds."""
    batch: list[Op] = [Set(namespace.key(f"{i}"), b"%d" % i) for i in range(50)]
    files = len(os.listdir("/proc/self/fd"))

    async def fresh() -> object:
        backend = open_backend(shared_server.url)
        try:
            return await backend.execute([*batch, Scan(namespace.space(), count=3), *batch])
        finally:
            with anyio.CancelScope(shield=True):
                await backend.aclose()

    async def check() -> None:
        assert len(os.listdir("/proc/self/fd")) == files

    assert await cancel_everywhere(fresh, check) >= 1


async def test_neighbours_of_a_call_cancelled_at_every_wait(
    shared_server: RedisServer, namespace: Namespace
) -> None:
    async with backend_on(shared_server.port) as backend:
        await backend.execute([Set(namespace.key(f"{i}"), b"%d" % i) for i in range(8)])

        async def work() -> object:
            pages = 0
            for _ in range(3):
                await backend.execute([Get(namespace.key("0")), Scan(namespace.space(), "0", count=1)])
                pages += 1
            return pages

        async def neighbour(index: int) -> None:
            for _ in range(3):
                assert await backend.execute([Get(namespace.key(f"{index}"))]) == [b"%d" % index]

        async def among_neighbours() -> object:
            async with anyio.create_task_group() as tasks:
                for index in range(1, 8):
                    tasks.start_soon(neighbour, index)
                await work()
            return None

        async def check() -> None:
            for index in range(8):
                await neighbour(index)

        assert await cancel_everywhere(among_neighbours, check) >= 3


async def test_a_watch_cancelled_at_every_wait(shared_server: RedisServer, namespace: Namespace) -> None:
    key, channel = namespace.key("a"), namespace.key("c")
    async with backend_on(shared_server.port) as backend:

        async def work() -> object:
            async with backend.watch([key], [channel]) as events:
                await backend.execute([Publish(channel, b"1")])
                return await anext(events)

        async def check() -> None:
            async with backend.watch([key], [channel]) as events:
                (reply,) = await backend.execute([Publish(channel, b"2")])
                assert receivers(reply) == 1
                with anyio.fail_after(PATIENCE):  # a cancelled publication may still happen
                    while plain(await anext(events)) != Message(channel, b"2"):
                        pass

        assert await cancel_everywhere(work, check) >= 2
        # Leaving is not waited for: for a moment Redis may still count the connection.
        await eventually(backend, Publish(channel, b"3"), lambda reply: receivers(reply) == 0)
