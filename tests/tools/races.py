"""Agents that write at the same time, and what must be true whatever happens between their trips to a store.

A race is written once and run in an `Arena`: one in memory, which lets any agent go one trip further at a time, and one
on a real Redis (`tests/backends/redis/test_races.py`), which sends the next trips of very many agents over several
connections at once. `RACES` is of each sort: so many updates, claims, elements or turns, each contended.
"""

import json
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol, TypeAlias

from kvmcp.backends.ops import Reply
from kvmcp.core.plan import Answer, AskBackend
from tests.tools.support import DirectCaller, result_of

RACES = 10_000
SEED = 20261121
AGENTS = 4
"""Those who want the same thing at the same time."""

Task: TypeAlias = Generator[AskBackend | None, Sequence[Reply] | None, None]
"""An agent at work: each step is one trip to the store, whose replies it is sent."""


def trips(me: DirectCaller, tool: str, arguments: dict[str, Any], found: list[Any]) -> Task:
    """A call, trip by trip; its structured result goes into `found`. Sent nothing, it asks the store of `me`."""
    plan = me.plans(tool, arguments)
    while isinstance(plan, AskBackend):
        replies = yield plan
        plan = me.step(plan) if replies is None else me.goes_on(plan, replies)
    assert isinstance(plan, Answer)
    found.append(json.loads(result_of(plan).structured or b""))


class Arena(Protocol):
    places: int
    """How many things are raced for at a time, each by `AGENTS`."""

    @property
    def me(self) -> DirectCaller: ...

    async def compete(self, tasks: Sequence[Task]) -> None:
        """Run tasks to their ends at the same time. Neighbours in the list meet most."""
        ...


async def said(arena: Arena, tool: str, **arguments: Any) -> Any:
    """The structured result of a call that nobody disturbs."""
    found: list[Any] = []
    await arena.compete([trips(arena.me, tool, arguments, found)])
    return found[0]


async def each_said(arena: Arena, tool: str, calls: Sequence[dict[str, Any]]) -> list[Any]:
    """The structured results of many calls."""
    found: list[list[Any]] = [[] for _ in calls]
    await arena.compete([trips(arena.me, tool, call, into) for call, into in zip(calls, found, strict=True)])
    return [result for (result,) in found]


async def let_compete(arena: Arena, agent: Callable[[int, int], Task]) -> None:
    """Let `agent(place, number)` compete, for each number at each place."""
    await arena.compete([agent(place, number) for place in range(arena.places) for number in range(AGENTS)])


def turns(arena: Arena) -> range:
    """Of each agent, so that all together have `RACES`."""
    return range(RACES // arena.places // AGENTS)


# --- values ---


async def compare_and_set(arena: Arena) -> None:
    """Counters that go up by 1, by compare-and-set, again after each conflict: no update is lost."""
    me, conflicts = arena.me, Counter[int]()

    def count_up(place: int, number: int) -> Task:
        key = f"n{place}"
        for _ in turns(arena):
            said: list[Any] = [{}]
            while "ok" not in said[-1]:
                read: list[Any] = []
                yield from trips(me, "redis_get", {"key": key}, read)
                arguments = {"key": key, "value": read[0]["value"] + 1, "if_match": read[0]["etag"]}
                yield from trips(me, "redis_set", arguments, said)
                if "error" in said[-1]:
                    assert said[-1]["error"]["code"] == "CONFLICT"
                    conflicts[place] += 1

    for place in range(arena.places):
        await said(arena, "redis_set", key=f"n{place}", value=0)
    await let_compete(arena, count_up)
    for place in range(arena.places):
        assert (await said(arena, "redis_get", key=f"n{place}"))["value"] == len(turns(arena)) * AGENTS
    assert conflicts.total() > RACES // 10  # They did meet.


async def claims_of_a_key(arena: Arena) -> None:
    """Of those who set a key with `if_absent` one is told that it did, and what is there is what it set."""
    me, winners = arena.me, dict[str, list[int]]()

    def claim(place: int, number: int) -> Task:
        for turn in turns(arena):
            key, said = f"claim:{place}:{turn}", list[Any]()
            yield from trips(me, "redis_set", {"key": key, "value": number, "if_absent": True}, said)
            if said[0]["ok"]:
                winners.setdefault(key, []).append(number)

    await let_compete(arena, claim)
    assert len(winners) == arena.places * len(turns(arena))
    there = await each_said(arena, "redis_get", [{"key": key} for key in winners])
    assert list(winners.values()) == [[read["value"]] for read in there]


async def elements_of_a_list(arena: Arena) -> None:
    """Each element of a list is popped by one."""
    me, got = arena.me, list[int]()

    def work(place: int, number: int) -> Task:
        said: list[Any] = [{"values": [0]}]
        while said[-1]["values"]:
            yield from trips(me, "redis_lpop", {"key": "q", "count": 1 + number}, said)
            got.extend(said[-1]["values"])
        got.remove(0)

    for start in range(0, RACES, 1000):
        await said(arena, "redis_rpush", key="q", values=list(range(start + 1, start + 1001)))
    got.extend([0] * arena.places * AGENTS)
    await let_compete(arena, work)
    assert sorted(got) == list(range(1, RACES + 1))


async def several_at_once(arena: Arena) -> None:
    """Two accounts: whatever is moved between them, their sum stays, for everybody who looks."""
    me, sums, moved = arena.me, list[int](), list[bool]()

    def operation(tool: str, **arguments: Any) -> dict[str, Any]:
        return {"tool": tool, "arguments": arguments}

    def move(place: int, number: int) -> Task:
        names = (f"a{place}", f"b{place}")
        reads = [operation("redis_get", key=name) for name in names]
        for turn in turns(arena)[::2]:  # A turn is two runs: a look, and a change.
            said: list[Any] = []
            yield from trips(me, "redis_multi", {"operations": reads}, said)
            olds = said[0]["results"]
            sums.append(olds[0]["value"] + olds[1]["value"])
            amount = turn % 7 + number
            writes = [
                operation("redis_set", key=name, value=old["value"] + change, if_match=old["etag"])
                for name, old, change in zip(names, olds, (-amount, amount), strict=True)
            ]
            yield from trips(me, "redis_multi", {"operations": [*writes, *reads]}, said)
            moved.append("results" in said[1])
            assert moved[-1] or said[1]["error"]["code"] == "CONFLICT"

    for place in range(arena.places):
        for name in "ab":
            await said(arena, "redis_set", key=f"{name}{place}", value=1000)
    await let_compete(arena, move)
    for place in range(arena.places):
        both = [(await said(arena, "redis_get", key=f"{name}{place}"))["value"] for name in "ab"]
        sums.append(sum(both))
    assert set(sums) == {2000}
    assert True in moved and False in moved


# --- sessions ---


async def updates_of_a_session(arena: Arena) -> None:
    """Agents that update different fields of one session lose none of them."""
    me, slots = arena.me, 10

    def update(place: int, number: int) -> Task:
        for turn in turns(arena):
            name, said = f"f{number}.{turn % slots}", list[Any]()
            data = {name: turn, "last": number}
            arguments = {"session_id": f"s{place}", "data": data, "extend_ttl": turn % 2 == 0}
            yield from trips(me, "redis_session_update", arguments, said)
            assert said[0]["data"][name] == turn

    for place in range(arena.places):
        await said(arena, "redis_session_create", session_id=f"s{place}")
    await let_compete(arena, update)
    last = {turn % slots: turn for turn in turns(arena)}
    for place in range(arena.places):
        data = (await said(arena, "redis_session_get", session_id=f"s{place}"))["data"]
        assert data.pop("last") in range(AGENTS)
        assert data == {f"f{number}.{slot}": turn for number in range(AGENTS) for slot, turn in last.items()}


async def creations_of_a_session(arena: Arena) -> None:
    """Of those who choose the same id one makes the session, with its own data."""
    me, makers = arena.me, dict[str, list[int]]()

    def create(place: int, number: int) -> Task:
        for turn in turns(arena):
            id, said = f"s{place}.{turn}", list[Any]()
            yield from trips(me, "redis_session_create", {"session_id": id, "data": {"by": number}}, said)
            if "session_id" in said[0]:
                makers.setdefault(id, []).append(number)
            else:
                assert said[0]["error"]["code"] == "CONFLICT"

    await let_compete(arena, create)
    assert len(makers) == arena.places * len(turns(arena))
    there = await each_said(arena, "redis_session_get", [{"session_id": id} for id in makers])
    assert list(makers.values()) == [[session["data"]["by"]] for session in there]


# --- coordination ---


async def holders_of_a_lease(arena: Arena) -> None:
    """A lease has one holder, and each has the number after that of the one before."""
    me = arena.me
    holders: list[list[str]] = [[] for _ in range(arena.places)]
    tokens: list[list[int]] = [[] for _ in range(arena.places)]

    def work(place: int, number: int) -> Task:
        lease, owner = {"name": f"l{place}", "owner": f"a{number}"}, f"a{number}"
        for _ in turns(arena):
            said: list[Any] = []
            yield from trips(me, "lease_acquire", {**lease, "ttl": 1000}, said)
            if not said[0]["acquired"]:
                continue
            holders[place].append(owner)
            tokens[place].append(said[0]["fencing_token"])
            held = {**lease, "fencing_token": said[0]["fencing_token"]}
            yield from trips(me, "lease_renew", {**held, "ttl": 1000}, said)
            assert said[1]["renewed"] and holders[place] == [owner]
            holders[place].remove(owner)
            yield from trips(me, "lease_release", held, said)
            assert said[2]["released"]

    await let_compete(arena, work)
    for given in tokens:
        assert given == list(range(1, len(given) + 1)) and given
    assert not any(holders)
    assert AGENTS < sum(map(len, tokens)) < RACES  # Some had to go without.


async def items_of_a_queue(arena: Arena) -> None:
    """Each item of a queue is claimed and acknowledged once."""
    me, done = arena.me, list[int]()

    def work(place: int, number: int) -> Task:
        said: list[Any] = [{"items": [None]}]
        while said[-1]["items"]:
            claim = {"queue": "q", "owner": f"a{place}.{number}", "visibility": 1000, "count": 1 + number}
            yield from trips(me, "queue_claim", claim, said)
            for item in said[-1]["items"]:
                assert item["deliveries"] == 1
                done.append(item["value"])
                acknowledged: list[Any] = []
                ack = {"queue": "q", "receipt": item["receipt"]}
                yield from trips(me, "queue_ack", ack, acknowledged)
                assert acknowledged == [{"acknowledged": True}]

    for start in range(0, RACES, 1000):
        await said(arena, "redis_rpush", key="q", values=list(range(start, start + 1000)))
    await let_compete(arena, work)
    assert sorted(done) == list(range(RACES))
    left = await said(arena, "queue_claim", queue="q", owner="looker")
    assert left == {"items": [], "waiting": 0, "claimed": 0}


async def patches_of_a_document(arena: Arena) -> None:
    """Agents that merge into one document lose nothing; a merge that was outrun says that it may be tried again."""
    me, slots = arena.me, 10

    def patch(place: int, number: int) -> Task:
        for turn in turns(arena):
            said: list[Any] = [{}]
            while "ok" not in said[-1]:
                arguments = {"key": f"d{place}", "patch": {f"f{number}": {str(turn % slots): turn}}}
                yield from trips(me, "redis_json_merge", arguments, said)
                assert "ok" in said[-1] or said[-1]["error"]["retryable"]

    await let_compete(arena, patch)
    last = {str(turn % slots): turn for turn in turns(arena)}
    for place in range(arena.places):
        found = await said(arena, "redis_json_get", key=f"d{place}")
        assert found["value"] == {f"f{number}": last for number in range(AGENTS)}


SORTS = (
    compare_and_set,
    claims_of_a_key,
    elements_of_a_list,
    several_at_once,
    updates_of_a_session,
    creations_of_a_session,
    holders_of_a_lease,
    items_of_a_queue,
    patches_of_a_document,
)
