"""Memory and a real Redis give equal replies to the same random operations.

20,000 operations per loop; `KVMCP_DIFFERENTIAL=n` asks for more, `KVMCP_SEED=n` for others. A difference is
reported with its seed and what was done to the keys before.
"""

import os
import random
from collections import deque
from collections.abc import Sequence

import anyio
import pytest

from kvmcp.backends.base import Backend
from kvmcp.backends.memory import MemoryBackend
from kvmcp.backends.ops import (
    MAX_KEY_BYTES,
    Atomic,
    Condition,
    Delete,
    Exists,
    Expire,
    Failure,
    Get,
    KeyExists,
    KeyIs,
    Namespace,
    NsKey,
    Op,
    Page,
    Publish,
    Reply,
    Scan,
    Set,
    Single,
    Ttl,
    TtlReply,
)
from tests.backends.redis.servers import RedisServer
from tests.backends.redis.stores import backend_on

pytestmark = pytest.mark.anyio

OPERATIONS = int(os.environ.get("KVMCP_DIFFERENTIAL", "20000"))
SEED = int(os.environ.get("KVMCP_SEED", "1"))
LATER_MS = 3_600_000
SLACK_MS = 60_000
"""How far apart two stores' times to live may be: the run's own length."""

NAMES = ["a", "b", "c", "ab", "a*b", "[x]", "é", "日本", "a:b", "\\", "", "?", "l" * MAX_KEY_BYTES, "l" * 513]
VALUES = [
    b"1",
    b'""',
    b"null",
    b'{ "a" : 1.10, "a":2 }',
    b'"\\u00e9\xc3\xa9"',
    b"1e400",
    b"[]",
    b"true",
    b'"x"' + b" " * 99,
]
PATTERNS = [
    "*",
    "a*",
    "?",
    "??",
    "[ab]",
    "[^a]",
    "*b",
    "\\[x]",
    "\\*",
    "é",
    "l*",
    "",
    "[",
    "*?*",
    "a\\",
    "[b-a]",
    "*" * 9,
    "x*" * 9,
]
TTLS = [None, None, None, LATER_MS, 2 * LATER_MS, 0, -5, 2**62]


class Dice:
    """Random operations on few keys, so that they meet."""

    def __init__(self, seed: int, name: str) -> None:
        self._random = random.Random(seed)
        one, other = Namespace(f"{name}-1"), Namespace(f"{name}-2")
        self._spaces = [(one, "k"), (one, "k"), (one, "s"), (other, "k")]

    def batch(self) -> list[Op]:
        return [self._op() for _ in range(self._random.choice([1, 1, 2, 5, 20]))]

    def _op(self) -> Op:
        kind = self._random.randrange(12)
        if kind == 0:
            namespace, part = self._random.choice(self._spaces)
            return Scan(
                namespace.space(part), self._random.choice(PATTERNS), self._random.choice([1, 3, 100, 0])
            )
        if kind <= 2:
            return Atomic(
                tuple(self._single() for _ in range(self._random.randrange(5))),
                tuple(self._condition() for _ in range(self._random.choice([0, 0, 1, 1, 2]))),
            )
        return self._single()

    def _single(self) -> Single:
        value = self._random.choice(VALUES)
        match self._random.randrange(9):
            case 0 | 1 | 2:
                return Set(self._key(), value, self._random.choice(TTLS))
            case 3:
                return Delete(tuple(self._key() for _ in range(self._random.randrange(4))))
            case 4:
                return Exists(tuple(self._key() for _ in range(self._random.randrange(4))))
            case 5:
                return Ttl(self._key())
            case 6:
                return Expire(self._key(), self._random.choice([LATER_MS, 2 * LATER_MS, 0]))
            case 7:
                return Publish(self._key(), value)
            case _:
                return Get(self._key())

    def _condition(self) -> Condition:
        if self._random.random() < 0.3:
            return KeyExists(self._key())
        return KeyIs(self._key(), self._random.choice([None, *VALUES[:4]]))

    def _key(self) -> NsKey:
        namespace, part = self._random.choice(self._spaces)
        return namespace.key(self._random.choice(NAMES), part)


async def run(backend: Backend, batch: Sequence[Op]) -> list[Reply]:
    """The replies, with every scan carried to its end in the place where it stands."""
    replies: list[Reply] = []
    start = 0
    for index, op in enumerate(batch):
        if isinstance(op, Scan):
            replies += await backend.execute(batch[start:index])
            replies.append(await whole_scan(backend, op))
            start = index + 1
    return replies + await backend.execute(batch[start:])


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
    history: deque[tuple[Op, Reply]] = deque(maxlen=30)
    done = 0
    async with backend_on(shared_server.port) as redis:
        while done < OPERATIONS:
            batch = dice.batch()
            expected, replies = await run(memory, batch), await run(redis, batch)
            assert len(replies) == len(batch)
            for op, wanted, reply in zip(batch, expected, replies, strict=True):
                history.append((op, reply))
                if not alike(wanted, reply):
                    story = "\n".join(f"  {op} -> {reply!r}" for op, reply in history)
                    pytest.fail(f"seed {SEED}, operation {done}: memory says {wanted!r}\n{story}")
                done += 1
