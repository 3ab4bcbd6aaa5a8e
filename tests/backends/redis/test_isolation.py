"""Namespaces on a real Redis: a sample of the hostile names and patterns of `tests/tools/test_namespaces.py`."""

import msgspec
import pytest

from kvmcp.backends.ops import KIND_SESSION, Change, Exists, Get, Namespace, Page, Scan, Set
from tests.backends.redis.servers import RedisServer
from tests.backends.redis.stores import backend_on
from tests.tools.test_namespaces import NAMESPACES, hostile_texts

pytestmark = pytest.mark.anyio

SAMPLE = list(hostile_texts())[::9]
SPACES = [Namespace(f"iso.{name}"[:64]) for name in NAMESPACES[:8]]


async def test_hostile_names_and_patterns_find_only_what_is_ones_own(shared_server: RedisServer) -> None:
    async with backend_on(shared_server.port) as backend:
        names = [name for name in SAMPLE if 0 < len(name.encode()) <= 512][:60]
        for space in SPACES:
            value, mark = msgspec.json.encode(space.name), f"mark:{space.name}"
            await backend.execute([Set(space.key(name), value) for name in (*names, mark)])
            await backend.execute([Set(space.key(mark, KIND_SESSION), value)])
        for space in SPACES:
            value, mark = msgspec.json.encode(space.name), f"mark:{space.name}"
            assert await backend.execute([Get(space.key(name)) for name in names]) == [value] * len(names)
            pages = await backend.execute([Scan(space.space(), pattern, 1000) for pattern in SAMPLE])
            found = {name for page in pages if isinstance(page, Page) for name in page.names}
            assert found <= {*names, mark} and mark in found
            [there] = await backend.execute(
                [Exists(tuple(space.key(f"mark:{other.name}") for other in SPACES))]
            )
            assert there == tuple(other == space for other in SPACES)


async def test_hostile_names_are_told_to_nobody_else(shared_server: RedisServer) -> None:
    async with backend_on(shared_server.port) as backend:
        mine, theirs = SPACES[0], SPACES[1]
        names = [name for name in SAMPLE if name][:40]
        async with backend.watch([mine.key(name) for name in (*names, "last")]) as events:
            await backend.execute([Set(theirs.key(name), b"1") for name in names])
            await backend.execute([Set(mine.key("last"), b"1")])
            assert await anext(events) == Change(mine.key("last"))
