"""Reading a descriptor on asyncio, with one registration for its life instead of one per wait; and which loop runs.

A chunk is read as it arrives, and no other before it is taken: what is not read stays with the sender.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from anyio.lowlevel import checkpoint

if TYPE_CHECKING:
    import asyncio


def on_trio() -> bool:
    """Which event loop runs."""
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_run())


class AsyncioReader:
    """Reads by `read`, which raises BlockingIOError where there is nothing, and gives b"" at the end.

    Raises PermissionError for what always is ready, as a file is: the loop cannot watch it.
    """

    def __init__(self, descriptor: int, read: Callable[[], bytes]) -> None:
        import asyncio  # loaded already; not worth 12 ms to a program on trio

        self._descriptor = descriptor
        self._read = read
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._chunk: bytes | OSError | None = None
        self._is_watching = False
        self._watch()

    async def receive(self) -> bytes:
        """The next chunk; empty at the end, which stays the end. Raises OSError."""
        if self._chunk is None:
            self._watch()
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        else:
            await checkpoint()
        chunk = self._chunk
        if isinstance(chunk, OSError):
            raise chunk
        if chunk:
            self._chunk = None
        return chunk or b""

    def close(self) -> None:
        """Before the descriptor is closed. More than once does no harm, nor does it after the loop's end."""
        if self._is_watching and not self._loop.is_closed():
            self._loop.remove_reader(self._descriptor)
        self._is_watching = False

    def _watch(self) -> None:
        if not self._is_watching:
            self._loop.add_reader(self._descriptor, self._readable)
            self._is_watching = True

    def _readable(self) -> None:
        if self._chunk is not None:
            self.close()  # Nobody takes what is there: the loop must not spin.
            return
        try:
            self._chunk = self._read()
        except BlockingIOError:
            return
        except OSError as error:
            self._chunk = error
        if not self._chunk or isinstance(self._chunk, OSError):
            self.close()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
