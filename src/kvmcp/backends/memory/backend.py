"""The operations of the memory store, its limits, and what is atomic. See the package."""

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

from msgspec import Struct

from kvmcp.backends.checks import FAULTS, expire_fault, keys_fault, publish_fault, set_fault, wrong
from kvmcp.backends.glob import Glob, compile_glob
from kvmcp.backends.memory.checks import no_room, size_of
from kvmcp.backends.memory.keyspace import GONE, NEVER, Deadlines, Entry, Space
from kvmcp.backends.memory.watchers import Watchers
from kvmcp.backends.ops import (
    MAX_SCAN_COUNT,
    Atomic,
    Code,
    Condition,
    Delete,
    Event,
    Exists,
    Expire,
    Failure,
    Get,
    KeyIs,
    Message,
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

MAX_KEYS: Final = 1_000_000
"""Keys in the whole store. Where one space gets this large its dict pauses for 0.1 s to grow, the longest pause
of the store; more keys want a real database."""
MAX_BYTES: Final = 256 * 1024 * 1024
"""Keys, values and `ENTRY_OVERHEAD` of each: what a small container can spare."""
EXPIRED_PER_BATCH: Final = 128
"""Deadlines looked at when a batch begins, besides two for each operation: about 0.1 ms. The two make sure
that a stream of short-lived keys cannot outrun their expiry."""
SCAN_STEPS: Final = 4096
"""Work of one page: a step is a name looked at, and every `COMPARISONS_PER_STEP` that its match may cost.
4,096 steps are 1-2 ms, whatever the pattern and the names; a page that used them up ends with a cursor."""
COMPARISONS_PER_STEP: Final = 128
"""Byte comparisons of the matcher in the time that the rest of a step takes (0.7-2.7 ns each)."""

_CLOSED: Final = Failure(Code.REDIS_NOT_CONNECTED, "the store is closed", retryable=False)
_NO_SUCH_CURSOR: Final = Failure(
    Code.REDIS_ERROR, "the cursor is not one that a scan gave; scan again without a cursor", retryable=False
)
_CURSOR: Final = re.compile(r"([0-9]{1,18})-([0-9]{1,18})")

_Run: TypeAlias = Callable[[Any, float], Reply]
"""Runs one type of operation at a time. Any: a dict cannot say that its key's type is the argument's."""


class Usage(Struct, frozen=True, gc=False):
    """What a store holds, expired keys that were not met yet included."""

    keys: int
    bytes: int


class MemoryBackend:
    """A `Backend` that keeps everything in this process, and forgets it with the process.

    `clock` gives seconds and never goes back, as `time.monotonic` does. All operations of a batch happen at
    one moment of it.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        max_keys: int = MAX_KEYS,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self._clock = clock
        self._max_keys = max_keys
        self._max_bytes = max_bytes
        self._closed = False
        self._watchers = Watchers()
        self._forget_everything()
        self._run: dict[type[Op], _Run] = {
            Get: self._get,
            Set: self._set,
            Delete: self._delete,
            Exists: self._exists,
            Scan: self._scan,
            Ttl: self._ttl,
            Expire: self._expire,
            Publish: self._publish,
            Atomic: self._atomic,
        }
        # An `Atomic` has been checked as a whole, and what it removes may come back before it ends.
        self._run_in_atomic: dict[type[Single], _Run] = {
            Get: self._get,
            Set: self._store,
            Delete: self._vacate,
            Exists: self._exists,
            Ttl: self._ttl,
            Expire: self._expire,
            Publish: self._publish,
        }

    def _forget_everything(self) -> None:
        self._spaces: dict[str, Space] = {}
        self._deadlines = Deadlines()
        self._keys = 0
        self._bytes = 0
        self._vacated: dict[NsKey, Entry] = {}

    # --- the contract

    async def start(self) -> None:
        """Nothing to begin: the store answers from the moment it is made."""

    async def aclose(self) -> None:
        """Forget everything. Watchers read what is queued for them, then end."""
        self._closed = True
        self._watchers.end()
        self._forget_everything()

    @property
    def time_limit(self) -> float:
        """It answers at once."""
        return 0.0

    async def check(self) -> str | None:
        return "the store is closed" if self._closed else None

    def execute_now(self, batch: Sequence[Op]) -> list[Reply]:
        """The replies; this store never has to wait. An empty batch only expires keys that are due."""
        if self._closed:
            return [_CLOSED] * len(batch)
        now = self._clock()
        if self._has_due(now):
            self._remove_due(now, EXPIRED_PER_BATCH + 2 * len(batch))
        run = self._run
        return [run[type(op)](op, now) for op in batch]

    async def execute(self, batch: Sequence[Op]) -> list[Reply]:
        """`execute_now`, without a checkpoint."""
        return self.execute_now(batch)

    @asynccontextmanager
    async def watch(
        self, keys: Sequence[NsKey] = (), channels: Sequence[NsKey] = ()
    ) -> AsyncGenerator[AsyncIterator[Event], None]:
        """Changes of `keys` and messages on `channels`; ends with the context, or when the store is closed.

        Setting and giving a time to live are changes, and so are removal and expiry, which is told when it
        is noticed (see the module's text).
        """
        with self._watchers.registered(tuple(keys), tuple(channels)) as watcher:
            yield watcher

    # --- for the program around it

    def usage(self) -> Usage:
        return Usage(self._keys, self._bytes)

    def next_expiry(self) -> float | None:
        """When a batch (an empty one will do) may find something expired; early calls are harmless."""
        heap = self._deadlines.heap
        return heap[0][0] if heap else None

    # --- operations: each takes its moment and gives its reply

    def _get(self, op: Get, now: float) -> bytes | None:
        # `_find` written out, for this is the hottest function of the store: 109 ns instead of 138.
        key = op.key
        space = self._spaces.get(key.space)
        if space is None:
            return None
        entry = space.entries.get(key.name)
        if entry is None:
            return None
        if entry.deadline > now:
            return entry.value
        self._meet_expired(entry)
        return None

    def _set(self, op: Set, now: float) -> Reply:
        fault = set_fault(op)
        if fault is not None:
            return fault
        entry = self._find(op.key, now)
        if entry is None:
            fault = self._refusal(1, size_of(op.key.name, op.value), now)
        else:
            fault = self._refusal(0, len(op.value) - len(entry.value), now)
        return fault or self._store(op, now)

    def _delete(self, op: Delete, now: float) -> Reply:
        fault = keys_fault(op)
        if fault is not None:
            return fault
        found = 0
        for key in op.keys:
            entry = self._find(key, now)
            if entry is not None:
                self._remove(entry)
                found += 1
        return found

    def _exists(self, op: Exists, now: float) -> Reply:
        return keys_fault(op) or tuple([self._find(key, now) is not None for key in op.keys])

    def _ttl(self, op: Ttl, now: float) -> Reply:
        entry = self._find(op.key, now)
        if entry is None:
            return TtlReply(False)
        if entry.deadline == NEVER:
            return TtlReply(True)
        return TtlReply(True, max(1, round((entry.deadline - now) * 1000)))

    def _expire(self, op: Expire, now: float) -> Reply:
        fault = expire_fault(op)
        if fault is not None:
            return fault
        entry = self._find(op.key, now)
        if entry is None:
            return False
        self._deadlines.move(entry, now + op.ttl_ms / 1000)
        self._changed(entry)
        return True

    def _publish(self, op: Publish, now: float) -> Reply:
        fault = publish_fault(op)
        if fault is not None:
            return fault
        return self._watchers.published(Message(op.channel, op.message))

    def _scan(self, op: Scan, now: float) -> Reply:
        glob = compile_glob(op.pattern)
        if isinstance(glob, Failure):
            return glob
        if not 1 <= op.count <= MAX_SCAN_COUNT:
            return wrong(f"count of {op.count}, must be from 1 to {MAX_SCAN_COUNT}")
        space = self._spaces.get(op.space)
        bounds = _scan_bounds(op.cursor, space)
        if bounds is None:
            return _NO_SUCH_CURSOR
        return Page(()) if space is None else self._page(space, glob, op.count, *bounds, now)

    def _page(self, space: Space, glob: Glob, limit: int, first: int, end: int, now: float) -> Page:
        """The next names of a scan that gives what was created before `end`.

        A key keeps its place for as long as it exists and comes up once; a key that is created later comes
        after `end`, so a scan ends however fast others write.
        """
        names: list[str] = []
        steps = SCAN_STEPS
        for entry in space.between(first, end):
            if steps <= 0 or len(names) == limit:
                return Page(tuple(names), f"{entry.seq}-{end}")
            steps -= 1
            if entry.deadline <= now:
                self._meet_expired(entry)
            elif glob.regex is None:
                names.append(entry.name)
            else:
                encoded = entry.name.encode("utf-8", "surrogatepass")
                steps -= glob.weight * len(encoded) // COMPARISONS_PER_STEP
                if glob.regex.fullmatch(encoded):
                    names.append(entry.name)
        return Page(tuple(names))

    def _atomic(self, op: Atomic, now: float) -> Reply:
        """Conditions, then every reason to refuse, then the operations, which can then no longer fail."""
        if not all(self._holds(condition, now) for condition in op.conditions):
            return None
        fault = self._atomic_fault(op.ops, now)
        if fault is not None:
            return fault
        run = self._run_in_atomic
        replies = tuple([run[type(single)](single, now) for single in op.ops])
        self._remove_vacated()
        return replies

    def _holds(self, condition: Condition, now: float) -> bool:
        entry = self._find(condition.key, now)
        if isinstance(condition, KeyIs):
            return condition.value == (None if entry is None else entry.value)
        return entry is not None

    def _atomic_fault(self, ops: Sequence[Single], now: float) -> Failure | None:
        """Why the whole is refused. Only what it leaves behind has to fit, not each step on the way."""
        after: dict[NsKey, bytes | None] = {}
        for op in ops:
            fault = FAULTS[type(op)](op)
            if fault is not None:
                return fault
            if isinstance(op, Set):
                after[op.key] = op.value
            elif isinstance(op, Delete):
                after.update(dict.fromkeys(op.keys))
        keys = size = 0
        for key, value in after.items():
            entry = self._find(key, now)
            keys += (value is not None) - (entry is not None)
            size += size_of(key.name, value) - size_of(key.name, None if entry is None else entry.value)
        return self._refusal(keys, size, now)

    # --- keys

    def _find(self, key: NsKey, now: float) -> Entry | None:
        """The entry of a key that exists now. One that has expired is removed on the way."""
        space = self._spaces.get(key.space)
        if space is None:
            return None
        entry = space.entries.get(key.name)
        if entry is None or entry.deadline > now:
            return entry
        self._meet_expired(entry)
        return None

    def _meet_expired(self, entry: Entry) -> None:
        if entry.deadline != GONE:
            self._remove(entry)

    def _store(self, op: Set, now: float) -> bool:
        """Write a value that was checked and has room."""
        entry = self._find(op.key, now) or self._create(op.key)
        self._bytes += len(op.value) - len(entry.value)
        entry.value = op.value
        self._deadlines.move(entry, NEVER if op.ttl_ms is None else now + op.ttl_ms / 1000)
        self._changed(entry)
        return True

    def _create(self, key: NsKey) -> Entry:
        space = self._spaces.get(key.space)
        if space is None:
            space = self._spaces[key.space] = Space(key.space)
        entry = space.entries.get(key.name)
        if entry is not None:  # vacated earlier in this `Atomic`
            entry.deadline = NEVER
            return entry
        self._keys += 1
        self._bytes += size_of(key.name, b"")
        return space.add(key.name)

    def _remove(self, entry: Entry) -> None:
        space = self._spaces[entry.space]
        space.remove(entry)
        if not space.entries:
            del self._spaces[entry.space]
        self._keys -= 1
        self._bytes -= size_of(entry.name, entry.value)
        self._deadlines.forget(entry)
        self._changed(entry)
        entry.name, entry.value = "", b""  # the scan order and the heap may hold the entry for a while

    def _vacate(self, op: Delete, now: float) -> int:
        """`Delete` inside `Atomic`: a key that is set again before the end never was away, for scans too."""
        found = 0
        for key in op.keys:
            entry = self._find(key, now)
            if entry is not None:
                self._deadlines.move(entry, NEVER)
                entry.deadline = GONE
                self._vacated[key] = entry
                found += 1
        return found

    def _remove_vacated(self) -> None:
        for entry in self._vacated.values():
            if entry.deadline == GONE:
                entry.deadline = NEVER
                self._remove(entry)
        self._vacated.clear()

    def _remove_due(self, now: float, budget: int) -> None:
        for entry in self._deadlines.take_due(now, budget):
            self._remove(entry)

    def _refusal(self, keys: int, size: int, now: float) -> Failure | None:
        """Why there is no room for so many more keys and bytes, once what has expired has made way."""
        while not (fits := self._fits(keys, size)) and self._has_due(now):
            self._remove_due(now, EXPIRED_PER_BATCH)
        if fits:
            return None
        if self._keys + keys > self._max_keys:
            return no_room("keys", self._keys, self._max_keys, keys)
        return no_room("bytes", self._bytes, self._max_bytes, size)

    def _fits(self, keys: int, size: int) -> bool:
        return self._keys + keys <= self._max_keys and self._bytes + size <= self._max_bytes

    def _has_due(self, now: float) -> bool:
        heap = self._deadlines.heap
        return bool(heap) and heap[0][0] <= now

    # --- watchers

    def _changed(self, entry: Entry) -> None:
        self._watchers.changed(entry.space, entry.name)


def _scan_bounds(cursor: str, space: Space | None) -> tuple[int, int] | None:
    """The first place that a page looks at and the end of its scan, or None where no page gave the cursor.

    A cursor older than its space (which ends with its last key, and counts from 0 when it begins again) still
    is one: whatever its scan gives is right, for no key existed throughout. Counting on would not be better:
    the places would then tell how much happened in other namespaces.
    """
    if not cursor:
        return 0, 0 if space is None else space.created
    if match := _CURSOR.fullmatch(cursor):
        first, end = int(match[1]), int(match[2])
        if first < end:
            return first, end
    return None
