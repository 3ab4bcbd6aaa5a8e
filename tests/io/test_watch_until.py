"""`WatchUntil` under the driver, on both loops: nothing falls between two looks, and it ends when it should."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from msgspec import Struct

from kvmcp.backends.base import Ops, Replies
from kvmcp.backends.memory import MemoryBackend
from kvmcp.backends.ops import Event, Namespace, NsKey, Publish, Set
from kvmcp.core.arguments import StructArguments
from kvmcp.core.items import Tool
from kvmcp.core.plan import Answer, Context, Plan, Start, WatchUntil
from kvmcp.core.wire.common import ToolResult
from kvmcp.server import Server
from tests.io.support import (
    MemoryTransport,
    NoArguments,
    SlowBackend,
    call,
    initialize,
    make_server,
    ping,
    serving,
)
from tests.patience import PATIENCE

pytestmark = pytest.mark.anyio

KEY = Namespace("default").key("k")
CHANNEL = Namespace("default").key("c", "c")
FOREVER = 1000.0


class Watching(MemoryBackend):
    """A memory store that says when somebody watches, and may do something in between."""

    def __init__(self, before_first_look: Callable[["Watching"], Awaitable[None]] | None = None) -> None:
        super().__init__(clock=time.monotonic)
        self.watching = anyio.Event()
        self.left = anyio.Event()
        self.looks = 0
        self._before_first_look = before_first_look

    async def execute(self, batch: Ops) -> Replies:
        self.looks += 1
        return await super().execute(batch)

    @asynccontextmanager
    async def watch(
        self, keys: Sequence[NsKey] = (), channels: Sequence[NsKey] = ()
    ) -> AsyncIterator[AsyncIterator[Event]]:
        try:
            async with super().watch(keys, channels) as events:
                if self._before_first_look is not None:
                    await self._before_first_look(self)
                self.watching.set()
                yield events
        finally:
            self.left.set()


def publish(backend: MemoryBackend, message: bytes) -> None:
    backend.execute_now([Publish(CHANNEL, message)])


def subscribe(id: int, timeout: float = 50, **more: Any) -> dict[str, Any]:
    return call(id, "redis_subscribe", **more, channels=["c"], timeout=timeout)


async def test_a_message_ends_the_wait() -> None:
    backend = Watching()
    async with serving(make_server(backend), MemoryTransport(piece=65536)) as client:
        client.say(*initialize())
        await client.hear()
        client.say(subscribe(1))
        with anyio.fail_after(PATIENCE):
            await backend.watching.wait()
        publish(backend, b'{"n":1}')
        result = (await client.hear())["result"]["structuredContent"]
        assert [message["message"] for message in result["messages"]] == [{"n": 1}]
        client.say(call(2, "redis_subscribe", channels=["c"], cursor=result["cursor"]))
        assert (await client.hear())["result"]["structuredContent"]["messages"] == []
        with anyio.fail_after(PATIENCE):
            await backend.left.wait()


async def test_what_comes_while_the_watch_opens_is_not_missed() -> None:
    async def interfere(backend: Watching) -> None:
        publish(backend, b"1")

    backend = Watching(interfere)
    async with serving(make_server(backend), MemoryTransport(piece=65536)) as client:
        client.say(*initialize(), subscribe(1))
        await client.hear()
        result = (await client.hear())["result"]["structuredContent"]
        assert [message["message"] for message in result["messages"]] == [1]


async def test_when_the_time_is_up_the_answer_is_empty_and_has_a_cursor() -> None:
    async with serving(make_server(), MemoryTransport(piece=65536)) as client:
        client.say(*initialize(), subscribe(1, timeout=0.01))
        await client.hear()
        result = (await client.hear())["result"]["structuredContent"]
        assert result["messages"] == [] and result["cursor"].isdecimal()


async def test_a_cancelled_wait_is_over_and_the_connection_goes_on() -> None:
    backend = Watching()
    async with serving(make_server(backend), MemoryTransport(piece=65536)) as client:
        client.say(*initialize())
        await client.hear()
        client.say(subscribe(1))
        with anyio.fail_after(PATIENCE):
            await backend.watching.wait()
        client.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
        with anyio.fail_after(PATIENCE):
            await backend.left.wait()
        publish(backend, b"1")
        client.say(ping(2))
        assert (await client.hear())["id"] == 2


async def test_a_wait_ends_with_its_connection() -> None:
    backend = Watching()
    async with serving(make_server(backend), MemoryTransport(piece=65536)) as client:
        client.say(*initialize(), subscribe(1))
        await client.hear()
        with anyio.fail_after(PATIENCE):
            await backend.watching.wait()
    assert backend.left.is_set()


async def test_a_store_that_closes_ends_the_wait_with_its_failure() -> None:
    backend = Watching()
    async with serving(make_server(backend), MemoryTransport(piece=65536)) as client:
        client.say(*initialize())
        await client.hear()
        client.say(subscribe(1))
        with anyio.fail_after(PATIENCE):
            await backend.watching.wait()
        await backend.aclose()
        result = (await client.hear())["result"]
        assert result["structuredContent"]["error"]["code"] == "REDIS_NOT_CONNECTED"


async def test_a_stalled_store_leaves_the_rest_answering_and_the_wait_can_be_cancelled() -> None:
    backend = SlowBackend()
    async with serving(make_server(backend), MemoryTransport(piece=65536)) as client:
        client.say(*initialize(), subscribe(1), ping(2))
        await client.hear()
        assert (await client.hear())["id"] == 2
        client.say(
            {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}, ping(3)
        )
        assert (await client.hear())["id"] == 3
        backend.released.set()


# --- a watch of the test's own ---


class Answers(Struct, frozen=True):
    """An answer at the given look, or when the time is up; counts the looks."""

    looks: list[bool]
    at: float = FOREVER
    never: bool = False

    def resume(self, replies: Sequence[object], context: Context, late: bool) -> Answer | None:
        self.looks.append(late)
        if self.never or (len(self.looks) < self.at and not late):
            return None
        return Answer(ToolResult(structured=b'{"looks":%d}' % len(self.looks)))


def watching(backend: MemoryBackend, then: Answers, timeout: float, pause: float) -> Server:
    def plan(arguments: object, context: Context) -> Plan:
        return Start(WatchUntil(context, (), then, timeout, keys=(KEY,), pause=pause))

    server = make_server(backend)
    server.add(Tool(name="watch", arguments=StructArguments(NoArguments), plan=plan))
    return server


async def test_it_looks_again_after_each_change() -> None:
    backend, then = Watching(), Answers([], at=4)
    async with serving(watching(backend, then, FOREVER, FOREVER), MemoryTransport(piece=65536)) as client:
        client.say(*initialize(), call(1, "watch"))
        await client.hear()
        for looks in range(1, 4):
            with anyio.fail_after(PATIENCE):
                while len(then.looks) < looks:
                    await anyio.lowlevel.checkpoint()
            backend.execute_now([Set(KEY, b"1")])
        assert (await client.hear())["result"]["structuredContent"] == {"looks": 4}
        assert then.looks == [False] * 4


async def test_signs_of_life_come_while_nothing_happens_and_it_looks_each_time() -> None:
    then = Answers([], at=4)
    async with serving(watching(Watching(), then, FOREVER, 0.01), MemoryTransport(piece=65536)) as client:
        message = call(1, "watch")
        message["params"]["_meta"] = {"progressToken": "p"}
        client.say(*initialize(), message)
        await client.hear()
        said = [await client.hear() for _ in range(3)]
        assert [message["method"] for message in said] == ["notifications/progress"] * 3
        progress = [message["params"]["progress"] for message in said]
        assert sorted(set(progress)) == progress
        assert all(message["params"]["total"] == FOREVER for message in said)
        assert (await client.hear())["result"]["structuredContent"] == {"looks": 4}


async def test_it_looks_a_last_time_when_the_time_is_up() -> None:
    then = Answers([])
    async with serving(watching(Watching(), then, 0.0, FOREVER), MemoryTransport(piece=65536)) as client:
        client.say(*initialize(), call(1, "watch"))
        await client.hear()
        assert (await client.hear())["result"]["structuredContent"] == {"looks": 2}
        assert then.looks == [False, True]


async def test_one_that_has_no_answer_in_the_end_is_a_bug_and_fails_alone() -> None:
    then = Answers([], never=True)
    async with serving(watching(Watching(), then, 0.0, FOREVER), MemoryTransport(piece=65536)) as client:
        client.say(*initialize(), call(1, "watch"), ping(2))
        await client.hear()
        answers = {message["id"]: message for message in [await client.hear(), await client.hear()]}
        assert answers[2]["result"] == {}
        assert answers[1]["error"]["code"] == -32603
