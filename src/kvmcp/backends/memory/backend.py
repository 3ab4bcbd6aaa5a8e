"""The contract of the memory store: batches, what is hot, what is atomic. See the package."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, TypeAlias

from msgspec import Struct

from kvmcp.backends.base import Done
from kvmcp.backends.checks import FAULTS, atomic_fault, ops_fault, set_fault
from kvmcp.backends.faults import WRONG_TYPE
from kvmcp.backends.memory import (
    hashes,
    lists,
    logs,
    queues,
    scan,
    sets,
    sorted_sets,
    streams,
    values,
)
from kvmcp.backends.memory.keys import EXPIRED_PER_BATCH, Keys
from kvmcp.backends.memory.keyspace import NEVER
from kvmcp.backends.memory.watchers import UntilExpiry, Watchers
from kvmcp.backends.ops import (
    READS,
    Append,
    Atomic,
    Code,
    Condition,
    Delete,
    Event,
    Exists,
    Expire,
    Failure,
    Get,
    GetDelete,
    GetMany,
    HashDelete,
    HashExpire,
    HashGet,
    HashGetAll,
    HashSet,
    HashSize,
    Increment,
    KeyHasEtag,
    KeyIs,
    Length,
    ListRemove,
    ListTrim,
    NsKey,
    Op,
    Persist,
    Pop,
    Publish,
    Push,
    QueueAck,
    QueueClaim,
    QueueExtend,
    QueueHolds,
    Range,
    ReadLog,
    Rename,
    Reply,
    Scan,
    Set,
    SetAdd,
    SetContains,
    SetMembers,
    SetRemove,
    SetSize,
    Single,
    SizeOf,
    SortedAdd,
    SortedByScore,
    SortedIncrement,
    SortedRange,
    SortedRank,
    SortedRemove,
    SortedScore,
    SortedSize,
    StreamAdd,
    StreamDelete,
    StreamLength,
    StreamRange,
    StreamTrim,
    Ttl,
    TypeOf,
    Unmet,
    etag_of,
)

MAX_KEYS: Final = 1_000_000
"""Keys in the whole store. Where one space gets this large its dict pauses for 0.1 s to grow, the longest pause
of the store; more keys want a real database."""
MAX_BYTES: Final = 256 * 1024 * 1024
"""Keys, what they hold and the overhead of each: what a small container can spare."""

_CLOSED: Final = Failure(Code.REDIS_NOT_CONNECTED, "the store is closed", retryable=False)

_Run: TypeAlias = Callable[[Any, float], Reply]
"""Runs one type of operation at a time. Any: a dict cannot say that its key's type is the argument's."""

_RUN: Final[dict[type[Single], Callable[[Keys, Any, float], Reply]]] = {
    GetMany: values.get_many,
    GetDelete: values.get_delete,
    Append: values.append,
    Increment: values.increment,
    Delete: values.delete,
    Exists: values.exists,
    Rename: values.rename,
    Ttl: values.ttl,
    Expire: values.expire,
    Persist: values.persist,
    TypeOf: values.type_of,
    SizeOf: values.size_of,
    Push: lists.push,
    Pop: lists.pop,
    Range: lists.range_,
    Length: lists.length,
    ListRemove: lists.remove,
    ListTrim: lists.trim,
    HashSet: hashes.set_,
    HashGet: hashes.get,
    HashGetAll: hashes.get_all,
    HashDelete: hashes.delete,
    HashExpire: hashes.expire,
    HashSize: hashes.size,
    SetAdd: sets.add,
    SetRemove: sets.remove,
    SetMembers: sets.members,
    SetContains: sets.contains,
    SetSize: sets.size,
    SortedAdd: sorted_sets.add,
    SortedRange: sorted_sets.by_rank,
    SortedByScore: sorted_sets.by_score,
    SortedRemove: sorted_sets.remove,
    SortedScore: sorted_sets.scores,
    SortedIncrement: sorted_sets.increment,
    SortedRank: sorted_sets.rank,
    SortedSize: sorted_sets.size,
    StreamAdd: streams.add,
    StreamRange: streams.range_,
    StreamLength: streams.length,
    StreamTrim: streams.trim,
    StreamDelete: streams.delete,
    Publish: logs.publish,
    ReadLog: logs.read,
    QueueClaim: queues.claim,
    QueueAck: queues.ack,
    QueueExtend: queues.extend,
    QueueHolds: queues.holds,
}
"""Each checks nothing that `FAULTS` has checked."""


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
        self._closed = False
        self._watchers = Watchers()
        self._keys = Keys(max_keys, max_bytes, self._watchers, clock())
        self._spaces = self._keys.spaces
        # An `Atomic` has been checked as a whole.
        self._run_checked: dict[type[Single], _Run] = {
            kind: partial(function, self._keys) for kind, function in _RUN.items()
        }
        self._run_checked |= {Get: self._get_within, Set: self._store}
        self._run: dict[type[Op], _Run] = {
            **{kind: partial(self._check_and_run, self._run_checked[kind]) for kind in _RUN},
            Get: self._get,
            Set: self._set,
            Scan: partial(scan.scan, self._keys),
            Atomic: self._atomic,
        }

    # --- the contract

    async def start(self) -> None:
        """Nothing to begin, but after `aclose`: the store answers from the moment it is made."""
        self._closed = False
        self._watchers.begin()

    async def aclose(self) -> None:
        """Forget everything. Watchers read what is queued for them, then end."""
        self._closed = True
        self._watchers.end()
        self._keys.clear()

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
        if self._keys.has_due(now):
            self._keys.remove_due(now, EXPIRED_PER_BATCH + 2 * len(batch))
        run = self._run
        return [run[type(op)](op, now) for op in batch]

    def execute_soon(self, batch: Sequence[Op], done: Done) -> bool:
        """`execute_now`."""
        done(self.execute_now(batch))
        return True

    async def execute(self, batch: Sequence[Op]) -> list[Reply]:
        """`execute_now`, without a checkpoint."""
        return self.execute_now(batch)

    @asynccontextmanager
    async def watch(
        self, keys: Sequence[NsKey] = (), channels: Sequence[NsKey] = ()
    ) -> AsyncGenerator[AsyncIterator[Event], None]:
        """Changes of `keys` and messages on `channels`; ends with the context, or when the store is closed.

        Setting and giving a time to live are changes, and so are removal and expiry, which is told at its
        moment to whoever waits for it then.
        """
        watched = tuple(keys)
        with self._watchers.registered(watched, tuple(channels)) as watcher:
            yield UntilExpiry(watcher, partial(self._until_expiry, watched)) if watched else watcher

    def _until_expiry(self, keys: Sequence[NsKey]) -> float:
        """Expire what is due among the keys; the seconds until the next of them is."""
        now = self._clock()
        found = [entry for key in keys if (entry := self._keys.find(key, now)) is not None]
        return min([entry.deadline for entry in found], default=NEVER) - now

    # --- for the program around it

    def usage(self) -> Usage:
        return Usage(self._keys.count, self._keys.bytes)

    def next_expiry(self) -> float | None:
        """When a batch (an empty one will do) may find something expired; early calls are harmless."""
        heap = self._keys.deadlines.heap
        return heap[0][0] if heap else None

    # --- operations: each takes its moment and gives its reply

    def _get(self, op: Get, now: float) -> Reply:
        # `Keys.find` written out, for this is the hottest function of the store: 109 ns instead of 138.
        key = op.key
        space = self._spaces.get(key.space)
        if space is None:
            return None
        entry = space.entries.get(key.name)
        if entry is None:
            return None
        if entry.deadline > now:
            value = entry.value
            return value if value is not None else WRONG_TYPE
        self._keys.meet_expired(entry)
        return None

    def _get_within(self, op: Get, now: float) -> Reply:
        """`Get` inside `Atomic`, which has a bound for all of it."""
        value = self._get(op, now)
        return self._keys.spend(len(value)) or value if isinstance(value, bytes) else value

    def _set(self, op: Set, now: float) -> Reply:
        return set_fault(op) or self._store(op, now)

    def _store(self, op: Set, now: float) -> Reply:
        keys = self._keys
        entry = keys.find(op.key, now)
        size = len(op.value)
        fault = keys.room(op.key, entry, size - (0 if entry is None else entry.weight), now)
        if fault is not None:
            return fault
        if entry is None:
            entry = keys.create(op.key)
        keys.replace(entry, op.value, None, size)
        if not op.keep_ttl:
            keys.move(entry, NEVER if op.ttl_ms is None else now + op.ttl_ms / 1000)
        keys.changed(entry)
        return True

    def _check_and_run(self, run: _Run, op: Single, now: float) -> Reply:
        return FAULTS[type(op)](op) or run(op, now)

    def _atomic(self, op: Atomic, now: float) -> Reply:
        """Conditions, then every reason to refuse that can be known, then the operations, which may be taken back."""
        fault = atomic_fault(op)
        if fault is not None:
            return fault
        for index, condition in enumerate(op.conditions):
            unmet = self._unmet(index, condition, now)
            if unmet is not None:
                return unmet
        fault = ops_fault(op.ops)
        if fault is not None:
            return fault
        if not all(type(single) in self._run_checked for single in op.ops):
            raise KeyError("an operation that Atomic does not know")
        with self._keys.together():
            return self._all(op.ops, now) if len(op.ops) > 1 else self._one(op.ops, now)

    def _one(self, ops: Sequence[Single], now: float) -> Reply:
        """At most one operation changes nothing if it fails."""
        replies = tuple([self._run_checked[type(single)](single, now) for single in ops])
        failed = next((reply for reply in replies if isinstance(reply, Failure)), None)
        return replies if failed is None or type(ops[0]) in READS else failed

    def _all(self, ops: Sequence[Single], now: float) -> Reply:
        keys = self._keys
        held = keys.start_journal()
        replies: list[Reply] = []
        try:
            for single in ops:
                reply = self._run_checked[type(single)](single, now)
                if isinstance(reply, Failure) and type(single) not in READS:
                    keys.roll_back()
                    return reply
                replies.append(reply)
        except BaseException:  # a bug; what it broke must not outlive it
            keys.roll_back()
            raise
        return keys.commit(held, now) or tuple(replies)

    def _unmet(self, index: int, condition: Condition, now: float) -> Unmet | None:
        entry = self._keys.find(condition.key, now)
        value = None if entry is None else entry.value
        if isinstance(condition, KeyIs):
            met = entry is None if condition.value is None else condition.value == value
        elif isinstance(condition, KeyHasEtag):
            met = value is not None and etag_of(value) == condition.etag
        else:
            met = entry is not None
        return None if met else Unmet(index, entry is not None, None if value is None else etag_of(value))
