"""The keys of the memory store with what is true of every type: room, expiry, changes, and taking back.

Knows no operation; the modules of the types are built on it. A write goes in these steps:

    open     what the key holds, an empty thing where there is no key, or the failure of another type
    room     whether there is room for what comes; nothing has changed until here
    begin    the entry, ready to be changed (made, or remembered for an `Atomic` that is taken back)
    wrote    account for it, tell watchers; a collection that lost its last element is gone
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, TypeVar, cast

from kvmcp.backends.checks import key_bytes
from kvmcp.backends.faults import TOO_MUCH, WRONG_TYPE
from kvmcp.backends.memory.checks import no_room, size_of
from kvmcp.backends.memory.journal import Journal
from kvmcp.backends.memory.keyspace import GONE, NEVER, Deadlines, Entry, Held, Space
from kvmcp.backends.memory.watchers import Watchers
from kvmcp.backends.ops import MAX_READ_BYTES, Failure, Message, NsKey

EXPIRED_PER_BATCH: Final = 128
"""Deadlines looked at when a batch begins, besides two for each operation: about 0.1 ms. The two make sure
that a stream of short-lived keys cannot outrun their expiry."""

HeldT = TypeVar("HeldT", bound=Held)


class Keys:
    """All keys of one store."""

    def __init__(self, max_keys: int, max_bytes: int, watchers: Watchers, born: float) -> None:
        self.max_keys = max_keys
        self.max_bytes = max_bytes
        self.watchers = watchers
        self.born = born
        """When the store began: what happened before, it cannot know."""
        self.spaces: dict[str, Space] = {}
        self.deadlines = Deadlines()
        self.count = 0
        self.bytes = 0
        self.receipts = 0
        """Claims of queues, ever."""
        self._journal: Journal | None = None
        self._budget: int | None = None
        """Bytes that reads of the present `Atomic` may still give."""

    def clear(self) -> None:
        self.spaces.clear()
        self.deadlines = Deadlines()
        self.count = self.bytes = 0

    # --- looking

    def find(self, key: NsKey, now: float) -> Entry | None:
        """The entry of a key that exists now. One that has expired is removed on the way."""
        space = self.spaces.get(key.space)
        if space is None:
            return None
        entry = space.entries.get(key.name)
        if entry is None or entry.deadline > now:
            return entry
        self.meet_expired(entry)
        return None

    def meet_expired(self, entry: Entry) -> None:
        if entry.deadline != GONE:
            self.remove(entry)

    def read(self, kind: type[HeldT], key: NsKey, now: float) -> HeldT | Failure | None:
        """What a key holds, to look at."""
        entry = self.find(key, now)
        if entry is None:
            return None
        return entry.held if type(entry.held) is kind else WRONG_TYPE

    def spend(self, size: int) -> Failure | None:
        """Whether a read may give so much more."""
        if size > self.budget:
            return TOO_MUCH
        if self._budget is not None:
            self._budget -= size
        return None

    @property
    def budget(self) -> int:
        return MAX_READ_BYTES if self._budget is None else self._budget

    # --- changing

    def open(self, kind: type[HeldT], key: NsKey, now: float) -> tuple[Entry | None, HeldT] | Failure:
        entry = self.find(key, now)
        if entry is None:
            return None, kind()
        return (entry, entry.held) if type(entry.held) is kind else WRONG_TYPE

    def room(self, key: NsKey, entry: Entry | None, growth: int, now: float) -> Failure | None:
        """Why what a key holds cannot grow by so many bytes; the key is made where there is no entry."""
        if entry is None:
            return self.refusal(1, size_of(key.name, growth), now)
        return self.refusal(0, growth, now)

    def refusal(self, keys: int, size: int, now: float) -> Failure | None:
        """Why there is no room for so many more keys and bytes, once what has expired has made way.

        An `Atomic` is asked at its end: only what it leaves behind has to fit, not each step on the way.
        """
        return None if self._journal is not None else self._overflow(keys, size, now)

    def begin(self, key: NsKey, entry: Entry | None, held: HeldT) -> tuple[Entry, HeldT]:
        """The entry, about to be changed in place."""
        if entry is not None:
            if self._journal is not None:
                self._journal.keep(entry, copy=True)
            return entry, held
        entry = self.create(key)
        entry.held = held
        return entry, held

    def replace(self, entry: Entry, value: bytes | None, held: Held | None, weight: int) -> None:
        """Let a key hold something else."""
        if self._journal is not None:
            self._journal.keep(entry, copy=False)
        self.bytes += weight - entry.weight
        entry.value, entry.held, entry.weight = value, held, weight

    def wrote(self, entry: Entry, growth: int) -> None:
        entry.weight += growth
        self.bytes += growth
        held = entry.held
        if held is not None and held.vanishes and not len(held):
            self.remove(entry)
        else:
            self.changed(entry)

    def move(self, entry: Entry, deadline: float) -> None:
        """Give a key another deadline."""
        if self._journal is not None:
            self._journal.keep(entry, copy=True)
        self.deadlines.move(entry, deadline)

    def create(self, key: NsKey) -> Entry:
        space = self.spaces.get(key.space)
        if space is None:
            space = self.spaces[key.space] = Space(key.space)
        entry = space.entries.get(key.name)
        if entry is None:
            entry = space.add(key.name)
            if self._journal is not None:
                self._journal.made(entry)
        else:  # removed earlier in this `Atomic`
            entry.deadline = NEVER
        self.count += 1
        self.bytes += size_of(key.name, 0)
        return entry

    def remove(self, entry: Entry) -> None:
        """End a key. Inside `Atomic` its place is kept: one that comes back before the end never was away."""
        self.changed(entry)
        self.count -= 1
        self.bytes -= size_of(entry.name, entry.weight)
        if self._journal is None:
            self._erase(entry)
            return
        self._journal.keep(entry, copy=False)
        self.deadlines.move(entry, NEVER)
        entry.deadline = GONE
        entry.value, entry.held, entry.weight = None, None, 0

    def changed(self, entry: Entry) -> None:
        if self._journal is None:
            self.watchers.changed(entry.space, entry.name)
        else:
            self._journal.changed[entry.space, entry.name] = None

    def published(self, message: Message) -> int:
        """Tell those who watch the channel; how many they are."""
        if self._journal is None:
            return self.watchers.published(message)
        self._journal.messages.append(message)
        return self.watchers.listening(message.channel)

    def owned(self, held: HeldT) -> HeldT:
        """What may be put under another key: inside `Atomic` the old one's may have to come back as it was."""
        return held if self._journal is None else held.copy()

    # --- all or nothing

    @contextmanager
    def together(self) -> Generator[None]:
        """Reads inside share what one operation may give."""
        self._budget = MAX_READ_BYTES
        try:
            yield
        finally:
            self._budget = None

    def start_journal(self) -> tuple[int, int]:
        """From here on everything can be taken back, until `commit` or `roll_back`. What is held now, for `commit`."""
        self._journal = Journal()
        return self.count, self.bytes

    def commit(self, held: tuple[int, int], now: float) -> Failure | None:
        """Keep what was done, and tell; or take it back and say why there is no room for it."""
        fault = self._overflow(0, 0, now, self.count - held[0], self.bytes - held[1])
        if fault is not None:
            self.roll_back()
            return fault
        journal = cast(Journal, self._journal)
        self._journal = None
        for entry, _ in journal.before.values():
            if entry.deadline == GONE:
                entry.deadline = NEVER
                self._erase(entry)
        for space, name in journal.changed:
            self.watchers.changed(space, name)
        for message in journal.messages:
            self.watchers.published(message)
        return None

    def roll_back(self) -> None:
        journal = cast(Journal, self._journal)
        self._journal = None
        for entry, before in journal.before.values():
            if entry.deadline == GONE:
                entry.deadline = NEVER
            else:
                self.count -= 1
                self.bytes -= size_of(entry.name, entry.weight)
            if before is None:
                self._erase(entry)
                continue
            entry.value, entry.held, entry.weight = before.value, before.held, before.weight
            self.deadlines.move(entry, before.deadline)
            self.count += 1
            self.bytes += size_of(entry.name, entry.weight)

    # --- expiry

    def has_due(self, now: float) -> bool:
        heap = self.deadlines.heap
        return bool(heap) and heap[0][0] <= now

    def remove_due(self, now: float, budget: int) -> None:
        for entry in self.deadlines.take_due(now, budget):
            self.meet_expired(entry)

    # --- inside

    def _overflow(
        self, keys: int, size: int, now: float, done_keys: int = 0, done_size: int = 0
    ) -> Failure | None:
        """Why `keys` and `size` do not fit; `done_…` are what an `Atomic` has added already."""
        while not (fits := self._fits(keys, size)) and self.has_due(now):
            self.remove_due(now, EXPIRED_PER_BATCH)
        if fits:
            return None
        if self.count + keys > self.max_keys:
            return no_room("keys", self.count - done_keys, self.max_keys, keys + done_keys)
        return no_room("bytes", self.bytes - done_size, self.max_bytes, size + done_size)

    def _fits(self, keys: int, size: int) -> bool:
        return self.count + keys <= self.max_keys and self.bytes + size <= self.max_bytes

    def _erase(self, entry: Entry) -> None:
        """Forget an entry that is no longer counted."""
        space = self.spaces[entry.space]
        space.remove(entry)
        if not space.entries:
            del self.spaces[entry.space]
        self.deadlines.forget(entry)
        # The scan order and the heap may hold the entry for a while.
        entry.name, entry.value, entry.held = "", None, None


def fields_size(fields: tuple[tuple[str, bytes], ...]) -> int:
    """Bytes of names and values."""
    return sum([key_bytes(name) + len(value) for name, value in fields])
