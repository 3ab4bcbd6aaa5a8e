"""Moments to wake up at: one small set for all timers of a session."""

import heapq
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Deadlines(Generic[Key]):
    """At most one deadline per key. Times are seconds on the driver's clock."""

    def __init__(self) -> None:
        self._live: dict[Key, float] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._count = 0

    def set(self, key: Key, when: float) -> None:
        """Give `key` a deadline; an earlier one of the same key is forgotten."""
        self._live[key] = when
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, key))
        if len(self._heap) > 2 * len(self._live) + 64:
            self._compact()

    def clear(self, key: Key) -> None:
        self._live.pop(key, None)

    def next(self) -> float | None:
        """The earliest deadline."""
        while self._heap:
            when, _, key = self._heap[0]
            if self._live.get(key) == when:
                return when
            heapq.heappop(self._heap)
        return None

    def due(self, now: float) -> list[Key]:
        """The keys whose deadlines have passed, earliest first; they have none any more."""
        passed: list[Key] = []
        while (when := self.next()) is not None and when <= now:
            key = heapq.heappop(self._heap)[2]
            del self._live[key]
            passed.append(key)
        return passed

    def _compact(self) -> None:
        """Cleared entries stay in the heap; without this it would grow with the number of requests."""
        self._count = 0
        self._heap = []
        for key, when in self._live.items():
            self._count += 1
            self._heap.append((when, self._count, key))
        heapq.heapify(self._heap)
