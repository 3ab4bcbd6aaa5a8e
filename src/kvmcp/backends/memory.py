"""The embedded store: keys in this process's memory, bounded, with expiry and watches.

Knows the vocabulary of operations and the clock it was given; starts no task and no timer. Everything happens
inside a call, on one thread, without waiting; hence a batch and an `Atomic` are indivisible by construction.
Used from one event loop (or none); not safe to call from several threads.

    MemoryBackend      the contract of `base.Backend`: limits, operations, atomicity
     ├─ _Space         the keys of one space, by name and in order of creation (what a scan walks)
     ├─ _Deadlines     which key expires next
     └─ Watcher        what one watcher has not read yet

An expired key is gone for every operation at once. Its memory is freed when an operation meets it, and a
few at a time at the start of each batch. A store that nobody calls frees nothing and tells watchers nothing;
who needs that calls `execute_now(())` at `next_expiry()`.
"""

import heapq
import math
import re
from bisect import bisect_left
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from operator import attrgetter
from typing import Any, Final, TypeAlias

import anyio
from msgspec import Struct

from kvmcp.backends.glob import Glob, compile_glob
from kvmcp.backends.ops import (
    MAX_BATCH_KEYS,
    MAX_KEY_BYTES,
    MAX_SCAN_COUNT,
    MAX_TTL_SECONDS,
    MAX_VALUE_BYTES,
    Atomic,
    Change,
    Code,
    Condition,
    Delete,
    Event,
    Exists,
    Expire,
    Failure,
    Gap,
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
ENTRY_OVERHEAD: Final = 384
"""Bytes counted for each key besides its name and value: entry, dict slot, object headers, places in the scan
order and the heap. Measured on CPython 3.11 with a million keys: 222, and 371 where all of them expire."""
EXPIRED_PER_BATCH: Final = 128
"""Deadlines looked at when a batch begins, besides two for each operation: about 0.1 ms. The two make sure
that a stream of short-lived keys cannot outrun their expiry."""
SCAN_STEPS: Final = 4096
"""Work of one page: a step is a name looked at, and every `COMPARISONS_PER_STEP` that its match may cost.
4,096 steps are 1-2 ms, whatever the pattern and the names; a page that used them up ends with a cursor."""
COMPARISONS_PER_STEP: Final = 128
"""Byte comparisons of the matcher in the time that the rest of a step takes (0.7-2.7 ns each)."""
SLACK: Final = 64
"""Out-of-date items that a list may hold before it is worth compacting, besides one for each live one."""
WATCHER_EVENTS: Final = 1024
"""Events that wait for one watcher. A reader that is further behind has to look at everything anyway."""
WATCHER_BYTES: Final = 16 * 1024 * 1024
"""Bytes of messages that wait for one watcher: at least sixteen of the largest."""

MAX_TTL_MS: Final = MAX_TTL_SECONDS * 1000

_NEVER: Final = math.inf
_GONE: Final = -math.inf

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


class _Entry(Struct, gc=False, eq=False):
    """A key that exists, or what is left of one where the scan order and the heap have not forgotten it yet.

    Without the garbage collector's header: entries refer to text and numbers only, never to a container.
    """

    space: str
    name: str
    value: bytes
    seq: int
    """Its place in the scan order of its space; a key keeps it until it is removed."""
    deadline: float = _NEVER
    """When it expires; `_GONE` once it is removed, or for the rest of the `Atomic` that removes it."""
    filed: float = _NEVER
    """The deadline under which the heap holds it, never after `deadline`; `_NEVER` where the heap does not."""


_seq_of: Final[Callable[[_Entry], int]] = attrgetter("seq")


class _Space:
    """The keys of one space, by name, and in order of creation for scans.

    `order` also holds removed entries, at most as many as live ones and `SLACK`. It is replaced when
    compacted, never shortened, so that a scan can remove what it walks over.
    """

    __slots__ = ("created", "entries", "name", "order")

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: dict[str, _Entry] = {}
        self.order: list[_Entry] = []
        self.created = 0

    def add(self, name: str) -> _Entry:
        entry = self.entries[name] = _Entry(self.name, name, b"", self.created)
        self.order.append(entry)
        self.created += 1
        return entry

    def remove(self, entry: _Entry) -> None:
        """Forget a key; the caller marks the entry `_GONE`."""
        del self.entries[entry.name]
        if len(self.order) > 2 * len(self.entries) + SLACK:
            self.order = list(self.entries.values())  # a dict keeps the order of creation, too

    def between(self, first: int, end: int) -> Iterator[_Entry]:
        """Entries with `first <= seq < end`, removed ones too."""
        order = self.order
        for index in range(bisect_left(order, first, key=_seq_of), len(order)):
            entry = order[index]
            if entry.seq >= end:
                return
            yield entry


class _Deadlines:
    """Which keys expire when.

    A heap of (deadline, tie-breaker, entry) that tolerates out-of-date items. A key that is given more time
    stays where it is filed until that moment and is filed again then, so that a session that is touched on
    every request costs nothing here. Removed keys leave their items, at most one for each key that can
    expire and `SLACK`.
    """

    __slots__ = ("_ties", "heap", "mortal")

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, _Entry]] = []
        self.mortal = 0
        """Live keys that have a deadline."""
        self._ties = count()

    def move(self, entry: _Entry, deadline: float) -> None:
        """Give a live key another deadline; `_NEVER` for none."""
        self.mortal += (deadline < _NEVER) - (entry.deadline < _NEVER)
        entry.deadline = deadline
        if deadline < entry.filed:
            self._file(entry)

    def forget(self, entry: _Entry) -> None:
        self.move(entry, _NEVER)
        entry.deadline = entry.filed = _GONE
        self._compact()

    def take_due(self, now: float, budget: int) -> list[_Entry]:
        """The keys that have expired, after looking at no more than `budget` items. The caller removes them."""
        due: list[_Entry] = []
        while budget > 0 and self.heap and self.heap[0][0] <= now:
            budget -= 1
            filed, _, entry = heapq.heappop(self.heap)
            if filed != entry.filed:
                continue  # it is removed, or filed under another moment
            entry.filed = _NEVER
            if entry.deadline <= now:
                due.append(entry)
            elif entry.deadline < _NEVER:
                self._file(entry)
        return due

    def _file(self, entry: _Entry) -> None:
        entry.filed = entry.deadline
        heapq.heappush(self.heap, (entry.deadline, next(self._ties), entry))
        self._compact()

    def _compact(self) -> None:
        if len(self.heap) > 2 * self.mortal + SLACK:
            # By entry: one that was filed twice under the same moment counts once.
            current = {id(item[2]): item for item in self.heap if item[0] == item[2].filed}
            self.heap = list(current.values())
            heapq.heapify(self.heap)


class Watcher:
    """What one watcher has not read yet: bounded in events and in bytes of messages.

    A key that is already waiting to be told is not told twice: a change says "look again", not what
    happened. Beyond a bound the oldest events are lost, and one `Gap` stands in their place.
    """

    def __init__(self, max_events: int = WATCHER_EVENTS, max_bytes: int = WATCHER_BYTES) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._queue: deque[Change | Message] = deque()
        self._dirty: set[NsKey] = set()
        self._bytes = 0
        self._lost = 0
        self._ended = False
        self._wakeup = anyio.Event()

    def changed(self, key: NsKey) -> None:
        if key not in self._dirty:
            self._dirty.add(key)
            self._push(Change(key))

    def published(self, message: Message) -> None:
        self._bytes += len(message.message)
        self._push(message)

    def end(self) -> None:
        """No more events; what is queued can still be read."""
        self._ended = True
        self._wakeup.set()

    def __aiter__(self) -> "Watcher":
        return self

    async def __anext__(self) -> Event:
        while not (self._lost or self._queue):
            if self._ended:
                raise StopAsyncIteration
            if self._wakeup.is_set():
                self._wakeup = anyio.Event()
            await self._wakeup.wait()
        if self._lost:
            gap, self._lost = Gap(self._lost), 0
            return gap
        return self._take()

    def _push(self, event: Change | Message) -> None:
        self._queue.append(event)
        while len(self._queue) > self._max_events or self._bytes > self._max_bytes:
            self._take()
            self._lost += 1
        self._wakeup.set()

    def _take(self) -> Change | Message:
        event = self._queue.popleft()
        if isinstance(event, Change):
            self._dirty.discard(event.key)
        else:
            self._bytes -= len(event.message)
        return event


_Watched: TypeAlias = dict[tuple[str, str], dict[Watcher, NsKey]]
"""Who watches a space's name, and the key as that watcher gave it: stores make no keys of their own."""
_Wanted: TypeAlias = list[tuple[_Watched, tuple[NsKey, ...]]]
"""What one watcher is registered for: keys and channels, each with the table that they are in."""


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
        self._spaces: dict[str, _Space] = {}
        self._deadlines = _Deadlines()
        self._keys = 0
        self._bytes = 0
        self._vacated: dict[NsKey, _Entry] = {}
        self._watchers: set[Watcher] = set()
        self._key_watchers: _Watched = {}
        self._channel_watchers: _Watched = {}

    # --- the contract

    async def start(self) -> None:
        """Nothing to begin: the store answers from the moment it is made."""

    async def aclose(self) -> None:
        """Forget everything. Watchers read what is queued for them, then end."""
        self._closed = True
        for watcher in self._watchers:
            watcher.end()
        self._forget_everything()

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
        watcher = Watcher()
        wanted = [(self._key_watchers, tuple(keys)), (self._channel_watchers, tuple(channels))]
        self._register(watcher, wanted)
        try:
            yield watcher
        finally:
            self._unregister(watcher, wanted)

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
        fault = _set_fault(op)
        if fault is not None:
            return fault
        entry = self._find(op.key, now)
        if entry is None:
            fault = self._refusal(1, _size(op.key.name, op.value), now)
        else:
            fault = self._refusal(0, len(op.value) - len(entry.value), now)
        return fault or self._store(op, now)

    def _delete(self, op: Delete, now: float) -> Reply:
        fault = _keys_fault(op)
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
        return _keys_fault(op) or tuple([self._find(key, now) is not None for key in op.keys])

    def _ttl(self, op: Ttl, now: float) -> Reply:
        entry = self._find(op.key, now)
        if entry is None:
            return TtlReply(False)
        if entry.deadline == _NEVER:
            return TtlReply(True)
        return TtlReply(True, max(1, round((entry.deadline - now) * 1000)))

    def _expire(self, op: Expire, now: float) -> Reply:
        fault = _expire_fault(op)
        if fault is not None:
            return fault
        entry = self._find(op.key, now)
        if entry is None:
            return False
        self._deadlines.move(entry, now + op.ttl_ms / 1000)
        self._changed(entry)
        return True

    def _publish(self, op: Publish, now: float) -> Reply:
        fault = _publish_fault(op)
        if fault is not None:
            return fault
        watchers = self._channel_watchers.get((op.channel.space, op.channel.name), {})
        message = Message(op.channel, op.message)
        for watcher in watchers:
            watcher.published(message)
        return len(watchers)

    def _scan(self, op: Scan, now: float) -> Reply:
        glob = compile_glob(op.pattern)
        if isinstance(glob, Failure):
            return glob
        if not 1 <= op.count <= MAX_SCAN_COUNT:
            return _wrong(f"count of {op.count}, must be from 1 to {MAX_SCAN_COUNT}")
        space = self._spaces.get(op.space)
        bounds = _scan_bounds(op.cursor, space)
        if bounds is None:
            return _NO_SUCH_CURSOR
        return Page(()) if space is None else self._page(space, glob, op.count, *bounds, now)

    def _page(self, space: _Space, glob: Glob, limit: int, first: int, end: int, now: float) -> Page:
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
            fault = _FAULTS[type(op)](op)
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
            size += _size(key.name, value) - _size(key.name, None if entry is None else entry.value)
        return self._refusal(keys, size, now)

    # --- keys

    def _find(self, key: NsKey, now: float) -> _Entry | None:
        """The entry of a key that exists now. One that has expired is removed on the way."""
        space = self._spaces.get(key.space)
        if space is None:
            return None
        entry = space.entries.get(key.name)
        if entry is None or entry.deadline > now:
            return entry
        self._meet_expired(entry)
        return None

    def _meet_expired(self, entry: _Entry) -> None:
        if entry.deadline != _GONE:
            self._remove(entry)

    def _store(self, op: Set, now: float) -> bool:
        """Write a value that was checked and has room."""
        entry = self._find(op.key, now) or self._create(op.key)
        self._bytes += len(op.value) - len(entry.value)
        entry.value = op.value
        self._deadlines.move(entry, _NEVER if op.ttl_ms is None else now + op.ttl_ms / 1000)
        self._changed(entry)
        return True

    def _create(self, key: NsKey) -> _Entry:
        space = self._spaces.get(key.space)
        if space is None:
            space = self._spaces[key.space] = _Space(key.space)
        entry = space.entries.get(key.name)
        if entry is not None:  # vacated earlier in this `Atomic`
            entry.deadline = _NEVER
            return entry
        self._keys += 1
        self._bytes += _size(key.name, b"")
        return space.add(key.name)

    def _remove(self, entry: _Entry) -> None:
        space = self._spaces[entry.space]
        space.remove(entry)
        if not space.entries:
            del self._spaces[entry.space]
        self._keys -= 1
        self._bytes -= _size(entry.name, entry.value)
        self._deadlines.forget(entry)
        self._changed(entry)
        entry.name, entry.value = "", b""  # the scan order and the heap may hold the entry for a while

    def _vacate(self, op: Delete, now: float) -> int:
        """`Delete` inside `Atomic`: a key that is set again before the end never was away, for scans too."""
        found = 0
        for key in op.keys:
            entry = self._find(key, now)
            if entry is not None:
                self._deadlines.move(entry, _NEVER)
                entry.deadline = _GONE
                self._vacated[key] = entry
                found += 1
        return found

    def _remove_vacated(self) -> None:
        for entry in self._vacated.values():
            if entry.deadline == _GONE:
                entry.deadline = _NEVER
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
            return _no_room("keys", self._keys, self._max_keys, keys)
        return _no_room("bytes", self._bytes, self._max_bytes, size)

    def _fits(self, keys: int, size: int) -> bool:
        return self._keys + keys <= self._max_keys and self._bytes + size <= self._max_bytes

    def _has_due(self, now: float) -> bool:
        heap = self._deadlines.heap
        return bool(heap) and heap[0][0] <= now

    # --- watchers

    def _changed(self, entry: _Entry) -> None:
        if self._key_watchers:
            for watcher, key in self._key_watchers.get((entry.space, entry.name), {}).items():
                watcher.changed(key)

    def _register(self, watcher: Watcher, wanted: _Wanted) -> None:
        if self._closed:
            watcher.end()
            return
        self._watchers.add(watcher)
        for watched, keys in wanted:
            for key in keys:
                watched.setdefault((key.space, key.name), {})[watcher] = key

    def _unregister(self, watcher: Watcher, wanted: _Wanted) -> None:
        """Undo `_register`; harmless where that did nothing, or did it twice because a key was named twice."""
        watcher.end()
        self._watchers.discard(watcher)
        for watched, keys in wanted:
            for key in keys:
                remaining = watched.get((key.space, key.name), {})
                remaining.pop(watcher, None)
                if not remaining:
                    watched.pop((key.space, key.name), None)


def _scan_bounds(cursor: str, space: _Space | None) -> tuple[int, int] | None:
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


def _key_bytes(name: str) -> int:
    """Length as UTF-8. Total even for lone surrogates, which are refused long before they come here."""
    return len(name) if name.isascii() else len(name.encode("utf-8", "surrogatepass"))


def _size(name: str, value: bytes | None) -> int:
    """What a key counts against the store's bytes; None is a key that does not exist."""
    return 0 if value is None else _key_bytes(name) + len(value) + ENTRY_OVERHEAD


def _set_fault(op: Set) -> Failure | None:
    fault = _data_fault(op.key, op.value, "value")
    return fault if fault is not None or op.ttl_ms is None else _ttl_fault(op.ttl_ms)


def _publish_fault(op: Publish) -> Failure | None:
    return _data_fault(op.channel, op.message, "message")


def _expire_fault(op: Expire) -> Failure | None:
    return _ttl_fault(op.ttl_ms)


def _keys_fault(op: Delete | Exists) -> Failure | None:
    if len(op.keys) > MAX_BATCH_KEYS:
        return _too_large(f"{len(op.keys)} keys in one operation, limit is {MAX_BATCH_KEYS}")
    return None


def _no_fault(op: Get | Ttl) -> None:
    """A read of one key takes any key: one that is too long does not exist."""


def _data_fault(key: NsKey, data: bytes, what: str) -> Failure | None:
    if len(data) > MAX_VALUE_BYTES:
        return _too_large(f"{what} of {len(data)} bytes, limit is {MAX_VALUE_BYTES}")
    if _key_bytes(key.name) > MAX_KEY_BYTES:
        return _too_large(f"key of {_key_bytes(key.name)} bytes, limit is {MAX_KEY_BYTES}")
    return None


def _ttl_fault(ttl_ms: int) -> Failure | None:
    if 1 <= ttl_ms <= MAX_TTL_MS:
        return None
    return _wrong(f"time to live of {ttl_ms} ms, must be from 1 to {MAX_TTL_MS}")


_FAULTS: Final[dict[type[Single], Callable[[Any], Failure | None]]] = {
    Get: _no_fault,
    Set: _set_fault,
    Delete: _keys_fault,
    Exists: _keys_fault,
    Ttl: _no_fault,
    Expire: _expire_fault,
    Publish: _publish_fault,
}
"""Why an operation would be refused whatever the store holds. Any: see `_Run`."""


def _no_room(what: str, held: int, limit: int, needed: int) -> Failure:
    return _too_large(
        f"the store holds {held} {what}, its limit is {limit} and this needs {needed} more; "
        "delete some or let them expire"
    )


def _too_large(message: str) -> Failure:
    return Failure(Code.TOO_LARGE, message, retryable=False)


def _wrong(message: str) -> Failure:
    return Failure(Code.REDIS_ERROR, message, retryable=False)
