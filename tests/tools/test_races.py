"""Agents that write at the same time lose nothing: 10,000 races of each sort, interleaved between any two trips."""

import json
import random
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from kvmcp.backends.memory import MemoryBackend
from kvmcp.core.plan import Answer, AskBackend
from tests.tools.support import DirectCaller, caller, result_of

RACES = 10_000
SEED = 20261121

Task: TypeAlias = Iterator[None]
"""An agent at work: each step is one trip to the store."""


def trips(me: DirectCaller, tool: str, arguments: dict[str, Any], found: list[Any]) -> Task:
    """A call, trip by trip; its structured result goes into `found`."""
    plan = me.plans(tool, arguments)
    while isinstance(plan, AskBackend):
        yield
        plan = me.step(plan)
    assert isinstance(plan, Answer)
    found.append(json.loads(result_of(plan).structured or b""))


def interleaved(tasks: list[Task]) -> None:
    """Run tasks to their ends, a trip of any of them at a time."""
    chance = random.Random(SEED)
    while tasks:
        task = chance.choice(tasks)
        try:
            next(task)
        except StopIteration:
            tasks.remove(task)


def value_of(me: DirectCaller, key: str) -> Any:
    return json.loads(me.calls("redis_get", {"key": key}).structured or b"")["value"]


def count_up(me: DirectCaller, times: int, conflicts: list[int]) -> Task:
    """Add 1 to a counter by compare-and-set, as often as asked, trying again after each conflict."""
    done = 0
    while done < times:
        read: list[Any] = []
        yield from trips(me, "redis_get", {"key": "n"}, read)
        said: list[Any] = []
        arguments = {"key": "n", "value": read[0]["value"] + 1, "if_match": read[0]["etag"]}
        yield from trips(me, "redis_set", arguments, said)
        if "ok" in said[0]:
            done += 1
        else:
            assert said[0]["error"]["code"] == "CONFLICT"
            conflicts.append(1)


def test_compare_and_set_loses_no_update() -> None:
    me, agents = caller(), 4
    me.calls("redis_set", {"key": "n", "value": 0})
    conflicts: list[int] = []
    interleaved([count_up(me, RACES // agents, conflicts) for _ in range(agents)])
    assert value_of(me, "n") == RACES
    assert len(conflicts) > RACES // 10  # They did meet.


def test_one_of_those_who_claim_a_key_gets_it() -> None:
    me, agents = caller(), 4
    said: list[list[Any]] = [[] for _ in range(agents)]

    def claim(number: int) -> Task:
        for race in range(RACES // agents):
            arguments = {"key": f"claim:{race}", "value": number, "if_absent": True}
            yield from trips(me, "redis_set", arguments, said[number])

    interleaved([claim(number) for number in range(agents)])
    for race in range(RACES // agents):
        winners = [number for number in range(agents) if said[number][race]["ok"]]
        assert winners == [value_of(me, f"claim:{race}")]


def update(me: DirectCaller, number: int, times: int, extend: Callable[[int], bool]) -> Task:
    for round in range(times):
        said: list[Any] = []
        arguments = {
            "session_id": "s", "data": {f"f{number}.{round % 50}": round, "last": number}, "extend_ttl": extend(round),
        }  # fmt: skip
        yield from trips(me, "redis_session_update", arguments, said)
        assert said[0]["data"][f"f{number}.{round % 50}"] == round


def test_concurrent_updates_of_a_session_lose_no_field() -> None:
    me, agents = caller(), 4
    me.calls("redis_session_create", {"session_id": "s"})
    times = RACES // agents
    interleaved([update(me, number, times, lambda round: round % 2 == 0) for number in range(agents)])
    data = json.loads(me.calls("redis_session_get", {"session_id": "s"}).structured or b"")["data"]
    last = {round % 50: round for round in range(times)}
    assert data == {
        **{f"f{number}.{slot}": round for number in range(agents) for slot, round in last.items()},
        "last": data["last"],
    }


def test_a_session_is_made_once() -> None:
    me, agents = caller(), 4
    said: list[Any] = []

    def create(number: int) -> Task:
        for race in range(RACES // agents):
            yield from trips(
                me, "redis_session_create", {"session_id": f"s{race}", "data": {"by": number}}, said
            )

    interleaved([create(number) for number in range(agents)])
    assert sum("session_id" in result for result in said) == RACES // agents
    assert {result["error"]["code"] for result in said if "error" in result} == {"CONFLICT"}


def test_an_element_of_a_queue_goes_to_one_agent() -> None:
    me, agents = caller(), 4
    got: list[Any] = []

    def work() -> Task:
        while True:
            said: list[Any] = []
            yield from trips(me, "redis_lpop", {"key": "q", "count": 3}, said)
            if not said[0]["values"]:
                return
            got.extend(said[0]["values"])

    for start in range(0, RACES, 1000):
        me.calls("redis_rpush", {"key": "q", "values": list(range(start, start + 1000))})
    interleaved([work() for _ in range(agents)])
    assert sorted(got) == list(range(RACES))


def test_several_operations_are_all_or_nothing_among_others() -> None:
    """Two accounts: whatever is moved between them, their sum stays, for everybody who looks."""
    me, agents = caller(), 4
    me.calls("redis_set", {"key": "a", "value": 1000})
    me.calls("redis_set", {"key": "b", "value": 1000})
    sums: list[int] = []

    def both(extra: list[Any], said: list[Any]) -> Task:
        reads = [{"tool": "redis_get", "arguments": {"key": name}} for name in "ab"]
        yield from trips(me, "redis_multi", {"operations": [*extra, *reads]}, said)

    def move(number: int) -> Task:
        chance = random.Random(number)
        for _ in range(RACES // agents // 4):
            said: list[Any] = []
            yield from both([], said)
            a, b = said[0]["results"]
            sums.append(a["value"] + b["value"])
            amount = chance.randint(-9, 9)
            writes = [
                {"tool": "redis_set", "arguments": {"key": name, "value": value, "if_match": old["etag"]}}
                for name, value, old in (("a", a["value"] - amount, a), ("b", b["value"] + amount, b))
            ]
            yield from both(writes, [])

    interleaved([move(number) for number in range(agents)])
    assert set(sums) == {2000}


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
    clock[0] = 20.0
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


def test_a_session_that_ends_between_the_trips_of_an_update_stays_ended() -> None:
    clock = [0.0]
    me = DirectCaller(MemoryBackend(clock=lambda: clock[0]))
    me.calls("redis_session_create", {"session_id": "s", "ttl": 10})
    found: list[Any] = []
    updating = trips(me, "redis_session_update", {"session_id": "s", "data": {"a": 1}}, found)
    next(updating)
    next(updating)
    clock[0] = 10.0
    assert list(updating) == [] and found[0]["error"]["code"] == "SESSION_NOT_FOUND"
    assert me.calls("redis_session_get", {"session_id": "s"}).is_error
