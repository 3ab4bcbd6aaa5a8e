"""Backends for tests that need one at a port of theirs."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from kvmcp.backends.ops import Failure, Op, Reply
from kvmcp.backends.redis import RedisBackend, RedisOptions, open_backend
from tests.patience import PATIENCE


@asynccontextmanager
async def backend_on(port: int, options: RedisOptions | None = None) -> AsyncIterator[RedisBackend]:
    """A started backend for the server at a loopback port."""
    async with backend_at(f"redis://127.0.0.1:{port}", options) as backend:
        yield backend


@asynccontextmanager
async def backend_at(url: str, options: RedisOptions | None = None) -> AsyncIterator[RedisBackend]:
    backend = open_backend(url, options)
    await backend.start()
    try:
        yield backend
    finally:
        await backend.aclose()


async def eventually(
    backend: RedisBackend, op: Op, wanted: Callable[[Reply], bool] = lambda reply: True
) -> Reply:
    """The first reply that is no failure, and is wanted."""
    reply: Reply = None
    with anyio.move_on_after(PATIENCE):
        while True:
            (reply,) = await backend.execute([op])
            if not isinstance(reply, Failure) and wanted(reply):
                return reply
            await anyio.sleep(0.01)
    raise AssertionError(f"after {PATIENCE} s still {reply!r}")
