"""What one watcher has not read yet: a bounded queue of events, the same for every store."""

from collections import deque
from typing import Final

import anyio

from kvmcp.backends.ops import Change, Event, Gap, Message, NsKey

WATCHER_EVENTS: Final = 1024
"""Events that wait for one watcher. A reader that is further behind has to look at everything anyway."""
WATCHER_BYTES: Final = 16 * 1024 * 1024
"""Bytes of messages that wait for one watcher: at least sixteen of the largest."""


class EventQueue:
    """What one watcher has not read yet: bounded in events and in bytes of messages.

    A key that is already waiting to be told is not told twice: a change says "look again", not what
    happened. Beyond a bound the oldest events are lost, and one `Gap` stands in their place; so it does where the
    store itself could not see for a while.
    """

    def __init__(self, max_events: int = WATCHER_EVENTS, max_bytes: int = WATCHER_BYTES) -> None:
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._queue: deque[Change | Message] = deque()
        self._dirty: set[NsKey] = set()
        self._bytes = 0
        self._lost = 0
        self._blind = False
        self._ended = False
        self._wakeup = anyio.Event()

    def changed(self, key: NsKey) -> None:
        if key not in self._dirty:
            self._dirty.add(key)
            self._push(Change(key))

    def published(self, message: Message) -> None:
        self._bytes += len(message.message)
        self._push(message)

    def was_blind(self) -> None:
        """The store saw nothing for a while: `Gap(0)` comes next, for nobody knows what was missed."""
        self._blind = True
        self._wakeup.set()

    def end(self) -> None:
        """No more events; what is queued can still be read."""
        self._ended = True
        self._wakeup.set()

    @property
    def ready(self) -> bool:
        """Whether the next event, or the end, can be had without waiting."""
        return bool(self._queue or self._lost or self._blind or self._ended)

    def __aiter__(self) -> "EventQueue":
        return self

    async def __anext__(self) -> Event:
        while not self.ready:
            if self._wakeup.is_set():
                self._wakeup = anyio.Event()
            await self._wakeup.wait()
        if self._lost or self._blind:
            gap = Gap(0 if self._blind else self._lost)
            self._lost, self._blind = 0, False
            return gap
        if self._queue:
            return self._take()
        raise StopAsyncIteration

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
