"""10,000 races of each sort on a real Redis: a hundred agents, each of whose trips meets those of the others.

Each agent of a place has a connection of its own, as if it talked to a kvmcp of its own. The next trips of the agents that
share a connection leave in one pipeline, and the pipelines of all connections at the same time: Redis decides who is first.
"""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import TypeAlias, cast

import anyio
import pytest

from kvmcp.backends.base import Backend, Ops
from kvmcp.backends.memory import MemoryBackend
from kvmcp.backends.ops import Namespace
from kvmcp.backends.redis import RedisOptions
from kvmcp.core.plan import AskBackend
from tests.backends.redis.servers import RedisServer
from tests.backends.redis.stores import backend_at
from tests.tools.more_support import FullCaller
from tests.tools.races import AGENTS, SEED, SORTS, Arena, Task

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """What is shown is Redis and the tools; both loops, and asyncio's debug mode, are shown where fewer races are."""
    return "asyncio"


PATIENT = RedisOptions(op_timeout=60.0)
"""A busy machine is no failure."""

Lane: TypeAlias = dict[Task, AskBackend]
"""The agents that share a connection, and the trip that each is about to make."""


class OnRedis:
    places = 25

    def __init__(self, connections: Sequence[Backend], namespace: Namespace) -> None:
        self.me = FullCaller(MemoryBackend(clock=lambda: 0.0), namespace=namespace.name)
        self._connections = connections

    async def compete(self, tasks: Sequence[Task]) -> None:
        chance = random.Random(SEED)
        step = len(self._connections)
        lanes = [{task: cast(AskBackend, next(task)) for task in tasks[lane::step]} for lane in range(step)]
        while any(lanes):
            async with anyio.create_task_group() as all_lanes:
                for connection, lane in zip(self._connections, lanes, strict=True):
                    # Some stay behind each time, so that agents meet in all phases of what they do.
                    moving = [task for task in lane if chance.random() < 0.8]
                    all_lanes.start_soon(self._move, connection, lane, moving)

    async def _move(self, connection: Backend, lane: Lane, moving: Sequence[Task]) -> None:
        trips = [cast(Ops, lane[task].ops) for task in moving]
        replies = iter(await connection.execute([op for ops in trips for op in ops]))
        for task, ops in zip(moving, trips, strict=True):
            try:
                lane[task] = cast(AskBackend, task.send([next(replies) for _ in ops]))
            except StopIteration:
                del lane[task]


@pytest.fixture
async def connections(shared_server: RedisServer) -> AsyncIterator[list[Backend]]:
    async with AsyncExitStack() as opened:
        yield [
            await opened.enter_async_context(backend_at(shared_server.url, PATIENT)) for _ in range(AGENTS)
        ]


@pytest.mark.parametrize("sort", SORTS, ids=lambda sort: sort.__name__)
async def test_nothing_is_lost(
    sort: Callable[[Arena], Awaitable[None]], connections: list[Backend], namespace: Namespace
) -> None:
    await sort(OnRedis(connections, namespace))
