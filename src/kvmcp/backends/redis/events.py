"""What one watcher of Redis has not read yet: the queue of every store, and gaps of unknown size."""

import anyio

from kvmcp.backends.ops import Event, Gap
from kvmcp.backends.watcher import Watcher


class EventQueue(Watcher):
    """A `Watcher` that can also be told that nobody knows what it missed."""

    def __init__(self) -> None:
        super().__init__()
        self._blind = False

    def was_blind(self) -> None:
        """The connection was away: `Gap(0)` comes next."""
        self._blind = True
        self._wakeup.set()

    async def __anext__(self) -> Event:
        while not (self._blind or self._lost or self._queue or self._ended):
            if self._wakeup.is_set():
                self._wakeup = anyio.Event()
            await self._wakeup.wait()
        if self._blind:
            self._blind, self._lost = False, 0
            return Gap()
        return await super().__anext__()
