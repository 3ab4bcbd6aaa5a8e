"""The memory backend against a dictionary.

The invariant: whatever operations run, in whatever batches, while time passes, every reply is what a plain
dictionary with deadlines gives; usage is exact; a scan gives every key that existed throughout exactly once;
and a watcher is told of exactly the keys that were touched since it last read.
"""

from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager
from math import inf
from typing import Any, TypeVar

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import Struct

from kvmcp.backends.memory import MemoryBackend, Usage, backend as memory, keys as memory_keys
from kvmcp.backends.memory.checks import ENTRY_OVERHEAD
from kvmcp.backends.ops import (
    Atomic,
    Change,
    Code,
    Condition,
    Delete,
    Event,
    Exists,
    Expire,
    Failure,
    Get,
    KeyExists,
    KeyHasEtag,
    KeyIs,
    Message,
    Namespace,
    NsKey,
    Op,
    Page,
    Reply,
    Scan,
    Set,
    Ttl,
    TtlReply,
    Unmet,
    etag_of,
)

MAX_KEYS = 9
MAX_BYTES = 8 * ENTRY_OVERHEAD + 120
KINDS = ["k", "s"]
SPACES = [Namespace("acme").space(kind) for kind in KINDS]
NAMES = ["", "a", "ab", "b", "ba", "\u00e9", "c", "d"]
KEYS = [Namespace("acme").key(name, kind) for kind in KINDS for name in NAMES]
MARKER = Namespace("acme").key("marker")
FULL = Failure(Code.TOO_LARGE, "", retryable=False)

keys = st.sampled_from(KEYS)
values = st.integers(0, 40).map(lambda length: b"1" * length)
ttls = st.sampled_from([1, 1000, 2000, 60_000])
gets = st.builds(Get, keys)
sets = st.builds(Set, keys, values, st.none() | ttls)
deletes = st.builds(Delete, st.lists(keys, max_size=3).map(tuple))
singles = st.one_of(
    gets,
    sets,
    sets,
    deletes,
    st.builds(Exists, st.lists(keys, max_size=3).map(tuple)),
    st.builds(Ttl, keys),
    st.builds(Expire, keys, ttls),
)
conditions = st.one_of(
    st.builds(KeyIs, keys, st.none() | values),
    st.builds(KeyHasEtag, keys, values.map(etag_of)),
    st.builds(KeyExists, keys),
)
atomics = st.builds(
    Atomic,
    st.lists(singles, max_size=6).map(tuple),
    st.just(()) | st.lists(conditions, max_size=2).map(tuple),
)


class Held(Struct, frozen=True):
    value: bytes
    deadline: float


class Model:
    """A store that is too simple to be wrong."""

    def __init__(self) -> None:
        self.held: dict[NsKey, Held] = {}
        self.touched: set[NsKey] = set()

    @property
    def usage(self) -> Usage:
        return Usage(
            len(self.held),
            sum(len(key.name.encode()) + len(held.value) + ENTRY_OVERHEAD for key, held in self.held.items()),
        )

    def pass_time(self, now: float) -> None:
        for key in [key for key, held in self.held.items() if held.deadline <= now]:
            self._drop(key)

    def run(self, op: Op, now: float) -> Reply:
        for index, condition in enumerate(op.conditions if isinstance(op, Atomic) else ()):
            if not self._holds(condition):
                there = self.held.get(condition.key)
                return Unmet(index, there is not None, None if there is None else etag_of(there.value))
        held, touched = dict(self.held), set(self.touched)
        reply: Reply
        if isinstance(op, Atomic):
            reply = tuple([self._single(single, now) for single in op.ops])
        else:
            reply = self._single(op, now)
        if self.usage.keys > MAX_KEYS or self.usage.bytes > MAX_BYTES:
            self.held, self.touched = held, touched
            return FULL
        return reply

    def _holds(self, condition: Condition) -> bool:
        held = self.held.get(condition.key)
        if isinstance(condition, KeyIs):
            return condition.value == (held and held.value)
        if isinstance(condition, KeyHasEtag):
            return held is not None and condition.etag == etag_of(held.value)
        return held is not None

    def _single(self, op: Op, now: float) -> Reply:
        match op:
            case Get(key):
                return self.held[key].value if key in self.held else None
            case Set(key, value, ttl_ms):
                self._put(key, value, inf if ttl_ms is None else now + ttl_ms / 1000)
                return True
            case Delete(named):
                return sum(self._drop(key) for key in named)
            case Exists(named):
                return tuple(key in self.held for key in named)
            case Ttl(key):
                return self._ttl(key, now)
            case Expire(key, ttl_ms):
                if key not in self.held:
                    return False
                self._put(key, self.held[key].value, now + ttl_ms / 1000)
                return True
            case _:
                raise AssertionError(op)

    def _put(self, key: NsKey, value: bytes, deadline: float) -> None:
        self.held[key] = Held(value, deadline)
        self.touched.add(key)

    def _drop(self, key: NsKey) -> bool:
        if self.held.pop(key, None) is None:
            return False
        self.touched.add(key)
        return True

    def _ttl(self, key: NsKey, now: float) -> TtlReply:
        if key not in self.held:
            return TtlReply(False)
        left = self.held[key].deadline - now
        return TtlReply(True, None if left == inf else max(1, round(left * 1000)))


class OpenScan:
    """A scan under way: what it has given, and which keys have existed since it began."""

    def __init__(self, space: str, prefix: str, count: int, existing: set[NsKey]) -> None:
        self.op = Scan(space, prefix + "*", count)
        self.given: list[str] = []
        self.throughout = {key.name for key in existing if key.space == space and key.name.startswith(prefix)}
        self.done = False


_T = TypeVar("_T")


def at_once(waiting: Coroutine[Any, Any, _T]) -> _T:
    """The result of a coroutine that has no reason to wait; no event loop needed."""
    try:
        waiting.send(None)
    except StopIteration as done:
        result: _T = done.value
        return result
    raise AssertionError("it waits")


class MemoryMachine(RuleBasedStateMachine):
    scans: Bundle[OpenScan] = Bundle("scans")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.model = Model()
        self.open_scans: list[OpenScan] = []
        self.backend = MemoryBackend(clock=lambda: self.now, max_keys=MAX_KEYS, max_bytes=MAX_BYTES)
        self.context: AbstractAsyncContextManager[AsyncIterator[Event]]
        self.events: AsyncIterator[Event]

    @initialize()
    def watch(self) -> None:
        self.context = self.backend.watch(KEYS, [MARKER])
        self.events = at_once(self._entered())

    async def _entered(self) -> AsyncIterator[Event]:
        return await self.context.__aenter__()

    async def _next(self) -> Event:
        return await anext(self.events)

    def run_both(self, batch: list[Op]) -> None:
        self.model.pass_time(self.now)
        self.notice()
        replies = self.backend.execute_now(batch)
        assert len(replies) == len(batch)
        for op, reply in zip(batch, replies, strict=True):
            if isinstance(reply, Failure):
                assert reply.code is Code.TOO_LARGE
                reply = FULL
            assert reply == self.model.run(op, self.now), op
            self.notice()

    def notice(self) -> None:
        """Keys that are gone, be it for a moment, did not exist throughout."""
        for scan in self.open_scans:
            scan.throughout &= {key.name for key in self.model.held if key.space == scan.op.space}

    @rule(batch=st.lists(singles | atomics, max_size=5))
    def run_batch(self, batch: list[Op]) -> None:
        self.run_both(batch)

    @rule(names=st.lists(keys, min_size=6, max_size=12), ttl_ms=st.none() | ttls)
    def fill(self, names: list[NsKey], ttl_ms: int | None) -> None:
        self.run_both([Set(key, b"1", ttl_ms) for key in names])

    @rule(key=keys)
    def replace_atomically(self, key: NsKey) -> None:
        self.run_both([Atomic((Delete((key,)), Set(key, b"2")))])

    @rule(seconds=st.sampled_from([0.001, 0.5, 1.0, 30.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        target=scans,
        space=st.sampled_from(SPACES),
        prefix=st.sampled_from(["", "a", "b"]),
        count=st.integers(1, 4),
    )
    def open_scan(self, space: str, prefix: str, count: int) -> OpenScan:
        self.run_both([])
        scan = OpenScan(space, prefix, count, set(self.model.held))
        self.open_scans.append(scan)
        self._read_page(scan)
        return scan

    @rule(scan=scans)
    def continue_scan(self, scan: OpenScan) -> None:
        self.run_both([])
        if not scan.done:
            self._read_page(scan)

    def _read_page(self, scan: OpenScan) -> None:
        (page,) = self.backend.execute_now([scan.op])
        assert isinstance(page, Page)
        assert len(page.names) <= scan.op.count
        assert set(page.names) <= {key.name for key in self.model.held if key.space == scan.op.space}
        scan.given.extend(page.names)
        assert all(scan.given.count(name) <= 1 for name in scan.throughout)
        if page.cursor:
            scan.op = Scan(scan.op.space, scan.op.pattern, scan.op.count, page.cursor)
        else:
            scan.done = True
            self.open_scans.remove(scan)
            assert scan.throughout <= set(scan.given)

    @rule()
    def read_changes(self) -> None:
        self.run_both([])
        assert self.backend._watchers.published(Message(MARKER, b"")) == 1  # no log, which would take room
        changed: list[Event] = []
        while (event := at_once(self._next())) != Message(MARKER, b""):
            changed.append(event)
        told = {event.key for event in changed if isinstance(event, Change)}
        assert len(told) == len(changed)
        self.check_told(told)
        self.model.touched -= told

    def check_told(self, told: set[NsKey]) -> None:
        assert told == self.model.touched

    @precondition(lambda self: self.backend.next_expiry() is not None)
    @rule()
    def wait_for_the_next_expiry(self) -> None:
        self.now = max(self.now, self.backend.next_expiry() or 0.0)
        self.run_both([])

    @invariant()
    def usage_is_exact(self) -> None:
        """Once what is due has been noticed; there are fewer keys than one batch notices."""
        self.run_both([])
        assert self.backend.usage() == self.model.usage


class LazyMachine(MemoryMachine):
    """The same where batches notice next to nothing by themselves, so that operations meet expired keys."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(memory, "EXPIRED_PER_BATCH", 1)
        self.patch.setattr(memory_keys, "EXPIRED_PER_BATCH", 1)

    def teardown(self) -> None:
        self.patch.undo()

    def check_told(self, told: set[NsKey]) -> None:
        """What is told later than the model knows it has expired: it may be missing now, or come in addition."""
        assert not (told ^ self.model.touched) & self.model.held.keys()

    @invariant()
    def usage_is_exact(self) -> None:
        """But for expired keys."""
        held, model = self.backend.usage(), self.model
        assert model.usage.keys <= held.keys <= MAX_KEYS
        assert held.bytes <= MAX_BYTES


TestMemoryMachine = MemoryMachine.TestCase
TestMemoryMachine.settings = settings(stateful_step_count=60)
TestLazyMachine = LazyMachine.TestCase
TestLazyMachine.settings = settings(stateful_step_count=60)
