"""Agents that write at the same time lose nothing: 10,000 races of each sort, interleaved between any two trips."""

import json
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from kvmcp.backends.memory import MemoryBackend
from tests.tools.more_support import FullCaller, caller_of_all
from tests.tools.races import SEED, SORTS, Arena, Task, trips
from tests.tools.support import DirectCaller


@pytest.fixture
def anyio_backend() -> str:
    """Nothing here waits for anything."""
    return "asyncio"


def interleaved(tasks: Sequence[Task]) -> None:
    """Run tasks to their ends, a trip of any of them at a time."""
    chance, running = random.Random(SEED), list(tasks)
    while running:
        task = chance.choice(running)
        try:
            next(task)
        except StopIteration:
            running.remove(task)


class InMemory:
    """All race for the same thing."""

    places = 1

    def __init__(self) -> None:
        self.me: FullCaller = caller_of_all()

    async def compete(self, tasks: Sequence[Task]) -> None:
        interleaved(tasks)


@pytest.mark.anyio
@pytest.mark.parametrize("sort", SORTS, ids=lambda sort: sort.__name__)
async def test_nothing_is_lost(sort: Callable[[Arena], Awaitable[None]]) -> None:
    await sort(InMemory())


# --- time ---


def test_a_session_expires_on_time_and_never_comes_back() -> None:
    clock = [0.0]
    me = DirectCaller(MemoryBackend(clock=lambda: clock[0]))

    def said(tool: str, **arguments: Any) -> Any:
        return json.loads(me.calls(tool, {"session_id": "s", **arguments}).structured or b"")

    said("redis_session_create", ttl=10)
    clock[0] = 9.9
    assert said("redis_session_get")["ttl"] == 1
    assert said("redis_session_update", data={"a": 1}, extend_ttl=False)["ttl"] == 1
    clock[0] = 9.99
    assert said("redis_session_update", data={"b": 1})["ttl"] == 10
    clock[0] = 19.98
    assert said("redis_session_get")["data"] == {"a": 1, "b": 1}
    clock[0] = 19.99
    update = {"tool": "redis_session_update", "arguments": {"session_id": "s", "data": {"b": 2}}}
    done = json.loads(me.calls("redis_multi", {"operations": [update]}).structured or b"")
    assert done["results"][0] == {"session_id": "s", "data": {"a": 1, "b": 2}, "ttl": 10}
    clock[0] = 30.0
    for tool, more in (
        ("redis_session_get", {}),
        ("redis_session_update", {"data": {"c": 1}}),
        ("redis_session_update", {"data": {"c": 1}, "extend_ttl": False}),
        ("redis_session_update", {"data": {"c": 1}, "dry_run": True}),
        ("redis_session_get", {}),
    ):
        assert said(tool, **more)["error"]["code"] == "SESSION_NOT_FOUND"
    assert said("redis_session_delete") == {"deleted": False}
    assert said("redis_session_create", data={"new": 1})["ttl"] == 3600


def test_a_session_that_ends_before_an_update_arrives_stays_ended() -> None:
    clock = [0.0]
    me = DirectCaller(MemoryBackend(clock=lambda: clock[0]))
    me.calls("redis_session_create", {"session_id": "s", "ttl": 10})
    found: list[Any] = []
    updating = trips(me, "redis_session_update", {"session_id": "s", "data": {"a": 1}}, found)
    next(updating)
    clock[0] = 10.0
    assert list(updating) == [] and found[0]["error"]["code"] == "SESSION_NOT_FOUND"
    assert me.calls("redis_session_get", {"session_id": "s"}).is_error
