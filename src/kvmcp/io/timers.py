"""A deadline for what every request waits for and hardly any waits long: the cheapest that the event loop has.

anyio's scope keeps books about its task, which asyncio's own timer does not: 3% of a call under uvicorn
(benchmarks/http.py). Both may be mixed.
"""

from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import anyio

from kvmcp.io.sockets import on_trio

Until: TypeAlias = Callable[[float, Coroutine[Any, Any, None]], Coroutine[Any, Any, None]]
"""`await until(deadline, work)`: runs `work`, breaks it off at that moment."""


def timer() -> Until:
    """The timer of the running event loop."""
    return _until_on_trio if on_trio() else _until_on_asyncio


async def _until_on_trio(deadline: float, work: Coroutine[Any, Any, None]) -> None:
    with anyio.CancelScope(deadline=deadline):
        await work


async def _until_on_asyncio(deadline: float, work: Coroutine[Any, Any, None]) -> None:
    import asyncio  # loaded already; not worth 12 ms to a program on trio

    limit = asyncio.timeout_at(deadline)
    try:
        async with limit:
            await work
    except TimeoutError:
        if not limit.expired():  # One of the work's own.
            raise
