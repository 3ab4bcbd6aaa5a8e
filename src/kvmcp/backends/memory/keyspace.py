"""The keys of the memory store: by name, in the order of a scan, and by when they expire.

Knows no operation and no limit; `keys` puts these together.
"""

import heapq
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator
from itertools import count
from operator import attrgetter
from typing import ClassVar, Final, Protocol, Self

from msgspec import Struct

from kvmcp.backends.ops import KeyType

SLACK: Final = 64
"""Out-of-date items that a list may hold before it is worth compacting, besides one for each live one."""

NEVER: Final = math.inf
GONE: Final = -math.inf


class Held(Protocol):
    """What a key holds that is not a plain value."""

    kind: ClassVar[KeyType]
    vanishes: ClassVar[bool]
    """Whether a key ends with its last element."""

    def __len__(self) -> int:
        """Elements."""
        ...

    def copy(self) -> Self:
        """One that does not change when this one does."""
        ...


class Entry(Struct, gc=False, eq=False):
    """A key that exists, or what is left of one where the scan order and the heap have not forgotten it yet.

    Without the garbage collector's header: what an entry refers to is text, numbers and containers of these, never
    another entry.
    """

    space: str
    name: str
    seq: int
    """Its place in the scan order of its space; a key keeps it until it is removed."""
    value: bytes | None = None
    """None where the key holds a collection."""
    held: Held | None = None
    weight: int = 0
    """Bytes of what it holds, as the store counts them."""
    deadline: float = NEVER
    """When it expires; `GONE` once it is removed, or for the rest of the `Atomic` that removes it."""
    filed: float = NEVER
    """The deadline under which the heap holds it, never after `deadline`; `NEVER` where the heap does not."""


_seq_of: Final[Callable[[Entry], int]] = attrgetter("seq")


class Space:
    """The keys of one space, by name, and in order of creation for scans.

    `order` also holds removed entries, at most as many as live ones and `SLACK`. It is replaced when
    compacted, never shortened, so that a scan can remove what it walks over.
    """

    __slots__ = ("created", "entries", "name", "order")

    def __init__(self, name: str) -> None:
        self.name = name
        self.entries: dict[str, Entry] = {}
        self.order: list[Entry] = []
        self.created = 0

    def add(self, name: str) -> Entry:
        entry = self.entries[name] = Entry(self.name, name, self.created)
        self.order.append(entry)
        self.created += 1
        return entry

    def remove(self, entry: Entry) -> None:
        """Forget a key; the caller marks the entry `GONE`."""
        del self.entries[entry.name]
        if len(self.order) > 2 * len(self.entries) + SLACK:
            self.order = list(self.entries.values())  # a dict keeps the order of creation, too

    def between(self, first: int, end: int) -> Iterator[Entry]:
        """Entries with `first <= seq < end`, removed ones too."""
        order = self.order
        for index in range(bisect_left(order, first, key=_seq_of), len(order)):
            entry = order[index]
            if entry.seq >= end:
                return
            yield entry


class Deadlines:
    """Which keys expire when.

    A heap of (deadline, tie-breaker, entry) that tolerates out-of-date items. A key that is given more time
    stays where it is filed until that moment and is filed again then, so that a session that is touched on
    every request costs nothing here. Removed keys leave their items, at most one for each key that can
    expire and `SLACK`.
    """

    __slots__ = ("_ties", "heap", "mortal")

    def __init__(self) -> None:
        self.heap: list[tuple[float, int, Entry]] = []
        self.mortal = 0
        """Live keys that have a deadline."""
        self._ties = count()

    def move(self, entry: Entry, deadline: float) -> None:
        """Give a live key another deadline; `NEVER` for none."""
        self.mortal += (deadline < NEVER) - (entry.deadline < NEVER)
        entry.deadline = deadline
        if deadline < entry.filed:
            self._file(entry)

    def forget(self, entry: Entry) -> None:
        self.move(entry, NEVER)
        entry.deadline = entry.filed = GONE
        self._compact()

    def take_due(self, now: float, budget: int) -> list[Entry]:
        """The keys that have expired, after looking at no more than `budget` items. The caller removes them."""
        due: list[Entry] = []
        while budget > 0 and self.heap and self.heap[0][0] <= now:
            budget -= 1
            filed, _, entry = heapq.heappop(self.heap)
            if filed != entry.filed:
                continue  # it is removed, or filed under another moment
            entry.filed = NEVER
            if entry.deadline <= now:
                due.append(entry)
            elif entry.deadline < NEVER:
                self._file(entry)
        return due

    def _file(self, entry: Entry) -> None:
        entry.filed = entry.deadline
        heapq.heappush(self.heap, (entry.deadline, next(self._ties), entry))
        self._compact()

    def _compact(self) -> None:
        if len(self.heap) > 2 * self.mortal + SLACK:
            # By entry: one that was filed twice under the same moment counts once.
            current = {id(item[2]): item for item in self.heap if item[0] == item[2].filed}
            self.heap = list(current.values())
            heapq.heapify(self.heap)
