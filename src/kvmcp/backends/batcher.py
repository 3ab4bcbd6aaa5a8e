"""Joins what concurrent callers want from a store into few pipelines: first in, first out, bounded.

Knows sizes and order, not what an item is. While a pipeline is under way, items gather here and leave together
as the next one; an item is never split. A store that does not answer takes nothing, so the queue fills and
`room` makes callers wait, in line, before they build what they want to add.
"""

from collections import deque
from typing import Final, Generic, TypeVar

import anyio

MAX_QUEUED_BYTES: Final = 16 * 1024 * 1024
"""Bytes that wait. Sixteen of the largest values; a pipeline's worth for many callers."""
MAX_QUEUED_ITEMS: Final = 4096
"""Items that wait: as many calls as the core lets one peer have open."""
MAX_PIPELINE_BYTES: Final = 1024 * 1024
"""Bytes that are joined into one pipeline: beyond this a longer one gains nothing and delays the others."""

T = TypeVar("T")


class Batcher(Generic[T]):
    """A bounded queue of items with sizes in bytes.

    A single item larger than every bound is taken alone: bounds say when to stop joining, not what may be asked.
    """

    def __init__(
        self,
        max_bytes: int = MAX_QUEUED_BYTES,
        max_items: int = MAX_QUEUED_ITEMS,
        max_pipeline: int = MAX_PIPELINE_BYTES,
    ) -> None:
        self._max_bytes = max_bytes
        self._max_items = max_items
        self._max_pipeline = max_pipeline
        self._items: deque[tuple[T, int]] = deque()
        self._line: deque[anyio.Event] = deque()
        self._invited = False
        """Whether somebody was let out of the line and has not come in yet."""
        self.bytes = 0
        """Bytes that wait now."""

    def __len__(self) -> int:
        return len(self._items)

    @property
    def full(self) -> bool:
        """Whether a newcomer has to wait: no room, or others are in line before it."""
        return bool(self._line) or self._no_room()

    def items(self) -> list[T]:
        return [item for item, _ in self._items]

    def add(self, item: T, size: int) -> None:
        """Never refuses: who may have to wait asks `full` and waits for `room` before."""
        self._items.append((item, size))
        self.bytes += size
        self.invite_next()

    def take(self) -> list[T]:
        """The next pipeline: the oldest items that fit together, at least one if there is any."""
        taken: list[T] = []
        total = 0
        while self._items and (not taken or total + self._items[0][1] <= self._max_pipeline):
            item, size = self._items.popleft()
            taken.append(item)
            total += size
        self.bytes -= total
        self.invite_next()
        return taken

    def take_all(self) -> list[T]:
        """Everything that waits, to be given up. The line is let in as a whole, to be told as well."""
        taken = self.items()
        self._items.clear()
        self.bytes = 0
        while self._line:
            self._line.popleft().set()
        return taken

    def remove(self, item: T) -> bool:
        """Take one item back; False where it has left already."""
        for entry in self._items:
            if entry[0] is item:
                self._items.remove(entry)
                self.bytes -= entry[1]
                self.invite_next()
                return True
        return False

    async def room(self) -> None:
        """Wait in line. Then add at once, or `invite_next`."""
        turn = anyio.Event()
        self._line.append(turn)
        try:
            await turn.wait()
        except BaseException:
            if not turn.is_set():
                self._line.remove(turn)
                raise
            self._invited = False
            self.invite_next()
            raise
        self._invited = False

    def invite_next(self) -> None:
        """Let the next in line in, if there is room: one at a time, for nobody knows how much it brings."""
        if self._line and not self._invited and not self._no_room():
            self._invited = True
            self._line.popleft().set()

    def _no_room(self) -> bool:
        return self.bytes >= self._max_bytes or len(self._items) >= self._max_items
