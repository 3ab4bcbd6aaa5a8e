"""A task group that outlives the call that started it.

`start` returns at once and `aclose` may come from another task, so the group cannot belong to either. It lives in
one task of its own, which the loop is asked for directly; everything inside is structured.
"""

from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeAlias

import anyio

from kvmcp.backends.redis.loops import on_trio

Work: TypeAlias = Callable[[], Coroutine[Any, Any, object]]
"""Any: what a coroutine yields and is sent is the loop's affair."""
CLOSE_WITHIN: Final = 5.0
"""Seconds that background work gets to end. It has nothing to wait for, so this catches bugs."""


class Host:
    """Runs background work until `aclose`. Use from one event loop."""

    def __init__(self) -> None:
        self._tasks: anyio.abc.TaskGroup | None = None
        self._scope = anyio.CancelScope()
        self._ready: list[Work] = []
        self._ended = anyio.Event()
        self._main: object = None

    def start(self) -> None:
        if self._main is None:
            self._main = _spawn(self._run)

    def spawn(self, work: Work) -> None:
        """Run `work` in the background; it starts soon."""
        if self._tasks is None:
            self._ready.append(work)
        else:
            self._tasks.start_soon(work)

    async def aclose(self) -> None:
        """Cancel everything and wait until it has ended, even if the caller is cancelled."""
        if self._main is None:
            return
        self._scope.cancel()
        with anyio.move_on_after(CLOSE_WITHIN, shield=True):
            await self._ended.wait()

    async def _run(self) -> None:
        try:
            with self._scope:
                async with anyio.create_task_group() as self._tasks:
                    for work in self._ready:
                        self._tasks.start_soon(work)
                    await anyio.sleep_forever()
        finally:
            self._ended.set()


def _spawn(main: Work) -> object:
    """A task of its own, on whichever loop runs. Keep what it returns: asyncio holds tasks weakly."""
    if on_trio():
        import trio  # loaded already

        return trio.lowlevel.spawn_system_task(main)
    import asyncio  # loaded already; not worth 12 ms to a program on trio

    return asyncio.ensure_future(main())
