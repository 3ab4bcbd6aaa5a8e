"""Which event loop runs. For the few things that anyio does not offer, or offers at a price."""

import sys
from collections.abc import Awaitable
from typing import Protocol

import anyio


def on_trio() -> bool:
    trio = sys.modules.get("trio")
    return trio is not None and trio.lowlevel.in_trio_run()


class Signal(Protocol):
    """What one task waits for, once."""

    def set(self) -> None: ...
    def wait(self) -> Awaitable[object]: ...


def new_signal() -> Signal:
    """On asyncio a bare future: `anyio.Event` takes a fifth of a read's time there (benchmarks/redis.py)."""
    return anyio.Event() if on_trio() else _FutureSignal()


class _FutureSignal:
    __slots__ = ("_future",)

    def __init__(self) -> None:
        import asyncio  # loaded already; not worth 12 ms to a program on trio

        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def set(self) -> None:
        """After the wait was cancelled it does nothing."""
        if not self._future.done():
            self._future.set_result(None)

    def wait(self) -> Awaitable[None]:
        return self._future
