"""Memory and a real Redis give equal replies to the same random operations.

20,000 operations per loop; `KVMCP_DIFFERENTIAL=n` asks for more, `KVMCP_SEED=n` for others. A difference is
reported with its seed and what was done to the keys before.
"""

import os
from collections import deque
from collections.abc import Sequence

import anyio
import pytest

from kvmcp.backends.base import Backend
from kvmcp.backends.memory import MemoryBackend
from kvmcp.backends.ops import Failure, Namespace, Op, Page, Reply, Scan, TtlReply
from tests.backends.redis.dice import Dice, Names
from tests.backends.redis.servers import RedisServer
from tests.backends.redis.stores import backend_on

pytestmark = pytest.mark.anyio

OPERATIONS = int(os.environ.get("KVMCP_DIFFERENTIAL", "20000"))
SEED = int(os.environ.get("KVMCP_SEED", "1"))
SLACK_MS = 60_000
"""How far apart two stores' times to live may be: the run's own length."""


async def run(backend: Backend, batch: Sequence[Op], names: Names) -> list[Reply]:
    """The replies, with every scan carried to its end in the place where it stands."""
    replies: list[Reply] = []
    batch = [names.put_in(op) for op in batch]
    start = 0
    for index, op in enumerate(batch):
        if isinstance(op, Scan):
            replies += await backend.execute(batch[start:index])
            replies.append(await whole_scan(backend, op))
            start = index + 1
    replies += await backend.execute(batch[start:])
    assert len(replies) == len(batch)
    return [names.take_out(op, reply) for op, reply in zip(batch, replies, strict=True)]


async def whole_scan(backend: Backend, op: Scan) -> Reply:
    names: set[str] = set()
    cursor = ""
    while True:
        (page,) = await backend.execute([Scan(op.space, op.pattern, op.count, cursor)])
        if not isinstance(page, Page):
            return page
        assert len(page.names) <= op.count
        names.update(page.names)
        cursor = page.cursor
        if not cursor:
            return Page(tuple(sorted(names)))


def alike(ours: Reply, theirs: Reply) -> bool:
    if isinstance(ours, TtlReply) and isinstance(theirs, TtlReply):
        if ours.milliseconds is None or theirs.milliseconds is None:
            return ours == theirs
        return abs(ours.milliseconds - theirs.milliseconds) <= SLACK_MS
    if isinstance(ours, Failure) and isinstance(theirs, Failure):
        return (ours.code, ours.retryable, ours.outcome) == (theirs.code, theirs.retryable, theirs.outcome)
    if isinstance(ours, tuple) and isinstance(theirs, tuple):
        return len(ours) == len(theirs) and all(map(alike, ours, theirs))
    return type(ours) is type(theirs) and ours == theirs


async def test_memory_and_redis_give_equal_replies(shared_server: RedisServer, namespace: Namespace) -> None:
    dice = Dice(SEED, namespace.name)
    memory = MemoryBackend(clock=anyio.current_time)
    ours, theirs = Names(), Names()
    history: deque[tuple[Op, Reply]] = deque(maxlen=30)
    done = 0
    async with backend_on(shared_server.port) as redis:
        while done < OPERATIONS:
            batch = dice.batch()
            expected, replies = await run(memory, batch, ours), await run(redis, batch, theirs)
            for op, wanted, reply in zip(batch, expected, replies, strict=True):
                history.append((op, reply))
                if not alike(wanted, reply):
                    story = "\n".join(f"  {op} -> {reply!r}" for op, reply in history)
                    pytest.fail(f"seed {SEED}, operation {done}: memory says {wanted!r}\n{story}")
                done += 1
