"""Leases, queues, barriers and waits among agents whose trips to the store are interleaved, and as time passes."""

import random
from typing import Any

from hypothesis import given, settings, strategies as st

from tests.tools.more_support import FullCaller, Waiting, caller_of_all, said
from tests.tools.races import Task, trips
from tests.tools.test_races import interleaved

AGENTS = 4
ROUNDS = 1000


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


# --- leases ---


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_a_lease_has_one_holder_and_tokens_grow(seed: int) -> None:
    """Agents that die, are late, release and renew: whoever is told that it holds the lease is the only one."""
    clock, chance = Clock(), random.Random(seed)
    me = caller_of_all(clock=clock)
    holder: tuple[str, int, float] | None = None
    tokens = [0]
    known: dict[str, int] = {}
    for _ in range(300):
        clock.now += chance.choice([0, 0.5, 1, 4])
        if holder is not None and clock.now >= holder[2]:
            holder = None
        name = chance.choice("abcd")
        match chance.choice(["acquire", "renew", "release"]):
            case "acquire":
                found = said(me, "lease_acquire", name="l", owner=name, ttl=5)
                assert found["acquired"] is (holder is None)
                if holder is None:
                    assert found["fencing_token"] > tokens[-1]
                    tokens.append(found["fencing_token"])
                    known[name] = tokens[-1]
                    holder = (name, tokens[-1], clock.now + 5)
                else:
                    assert found["owner"] == holder[0]
            case "renew" if name in known:
                found = said(me, "lease_renew", name="l", owner=name, fencing_token=known[name], ttl=5)
                assert ("renewed" in found) is (holder is not None and holder[:2] == (name, known[name]))
                if "renewed" in found:
                    holder = (name, known[name], clock.now + 5)
            case "release" if name in known:
                found = said(me, "lease_release", name="l", owner=name, fencing_token=known[name])
                assert ("released" in found) is (holder is not None and holder[:2] == (name, known[name]))
                if "released" in found:
                    holder = None
            case _:
                pass


def test_of_agents_that_race_for_a_lease_one_gets_it() -> None:
    me, inside, tokens = caller_of_all(), [0], list[int]()

    def work(number: int) -> Task:
        for _ in range(ROUNDS):
            found: list[Any] = []
            yield from trips(me, "lease_acquire", {"name": "l", "owner": f"a{number}"}, found)
            if not found[0]["acquired"]:
                continue
            inside[0] += 1
            assert inside[0] == 1
            tokens.append(found[0]["fencing_token"])
            yield None
            inside[0] -= 1
            mine = {"name": "l", "owner": f"a{number}", "fencing_token": tokens[-1]}
            assert said(me, "lease_release", **mine) == {"released": True}

    interleaved([work(number) for number in range(AGENTS)])
    assert tokens == list(range(1, len(tokens) + 1)) and len(tokens) > AGENTS


def test_who_asks_for_a_lease_again_is_told_that_it_has_it() -> None:
    me = caller_of_all()
    said(me, "lease_acquire", name="l", owner="ann")
    for owner, told in (("ann", "this owner has taken the lease already"), ("bob", "somebody else holds")):
        (note,) = me.calls("lease_acquire", {"name": "l", "owner": owner}).notes
        assert told in note


def test_a_wait_for_a_lease_takes_it_when_it_is_free() -> None:
    clock = Clock()
    me = caller_of_all(clock=clock)
    said(me, "lease_acquire", name="l", owner="a", ttl=10)
    waiting = Waiting(me, "lease_acquire", {"name": "l", "owner": "b", "ttl": 7, "timeout": 50})
    assert waiting.job.writes and waiting.job.timeout == 50 and len(waiting.job.keys) == 1
    assert waiting.look() is None
    clock.now = 10.0
    assert waiting.look() == {"acquired": True, "owner": "b", "ttl": 7, "fencing_token": 2}
    other = Waiting(me, "lease_acquire", {"name": "l", "owner": "c", "timeout": 1})
    assert other.look(late=True) == {"acquired": False, "owner": "b", "ttl": 7}


# --- queues ---


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_no_item_is_lost_or_has_two_owners(seed: int) -> None:
    """Agents that claim, finish, prolong, die: an item has one owner until its claim ends, and is done in the end."""
    clock, chance = Clock(), random.Random(seed)
    me = caller_of_all(clock=clock)
    items = list(range(30))
    said(me, "redis_rpush", key="q", values=items)
    held: dict[int, tuple[str, float]] = {}
    receipts: dict[str, int] = {}
    done: list[int] = []
    for _ in range(400):
        clock.now += chance.choice([0, 0, 1, 3])
        action = chance.choice(["claim", "ack", "extend", "die"])
        if action == "claim":
            found = said(me, "queue_claim", queue="q", owner="a", visibility=5, count=chance.randint(1, 4))
            for item in found["items"]:
                value = item["value"]
                assert value not in done
                assert value not in held or held[value][1] <= clock.now
                held[value] = (item["receipt"], clock.now + 5)
                receipts[item["receipt"]] = value
            assert found["claimed"] == len(held)
            assert found["waiting"] + found["claimed"] + len(done) == len(items)
        elif receipts and action in ("ack", "extend"):
            receipt = chance.choice(list(receipts))
            value = receipts[receipt]
            is_open = held.get(value, ("",))[0] == receipt
            if action == "ack":
                assert said(me, "queue_ack", queue="q", receipt=receipt) == {"acknowledged": is_open}
                if is_open:
                    del held[value]
                    done.append(value)
            else:
                extended = said(me, "queue_extend", queue="q", receipt=receipt, visibility=5)
                assert extended == {"extended": is_open}
                if is_open:
                    held[value] = (receipt, clock.now + 5)
    clock.now += 5
    while rest := said(me, "queue_claim", queue="q", owner="last", count=7)["items"]:
        for item in rest:
            done.append(item["value"])
            assert said(me, "queue_ack", queue="q", receipt=item["receipt"]) == {"acknowledged": True}
    assert sorted(done) == items


def test_a_dry_run_knows_whether_a_claim_is_open() -> None:
    clock = Clock()
    me = caller_of_all(clock=clock)
    said(me, "redis_rpush", key="q", values=["a", "b"])
    one, two = said(me, "queue_claim", queue="q", owner="ann", visibility=5, count=2)["items"]
    said(me, "queue_ack", queue="q", receipt=two["receipt"])
    for clock.now in (0.0, 6.0):  # Also when its time is over: nobody else has claimed the item.
        for receipt, is_open in ((one["receipt"], True), (two["receipt"], False), ("none", False)):
            told = said(me, "queue_ack", queue="q", receipt=receipt, dry_run=True)
            assert told == {"acknowledged": is_open, "dry_run": True}
            told = said(me, "queue_extend", queue="q", receipt=receipt, dry_run=True)
            assert told == {"extended": is_open, "dry_run": True}
    assert said(me, "queue_claim", queue="q", owner="bob")["items"][0]["deliveries"] == 2
    assert said(me, "queue_ack", queue="q", receipt=one["receipt"], dry_run=True)["acknowledged"] is False


def test_a_wait_for_work_claims_one_item_when_it_comes() -> None:
    me = caller_of_all()
    waiting = Waiting(me, "queue_claim", {"queue": "q", "owner": "a", "timeout": 50, "count": 5})
    assert waiting.job.writes and waiting.look() is None
    said(me, "redis_rpush", key="q", values=["x", "y"])
    found = waiting.look()
    assert [item["value"] for item in found["items"]] == ["x"] and found["waiting"] == 1
    assert (
        Waiting(me, "queue_claim", {"queue": "e", "owner": "a", "timeout": 1}).look(late=True)["items"] == []
    )


def test_items_that_do_not_fit_go_back_and_come_again() -> None:
    clock = Clock()
    me = caller_of_all(clock=clock)
    values = [f"{number}" * 5000 for number in range(6)]
    said(me, "redis_rpush", key="q", values=values)
    seen: list[str] = []
    while len(seen) < len(values):
        clock.now += 1
        found = said(me, "queue_claim", queue="q", owner="a", visibility=1000, count=6)
        assert found["items"] and found["claimed"] == len(seen) + len(found["items"])
        assert ("truncated" in found) is (len(seen) + len(found["items"]) < len(values))
        seen += [item["value"] for item in found["items"]]
    assert sorted(seen) == values


def test_an_item_that_is_too_long_can_be_put_aside() -> None:
    me = caller_of_all()
    said(me, "redis_rpush", key="q", values=["x" * 50_000, "next"])
    (item,) = said(me, "queue_claim", queue="q", owner="a", count=2)["items"]
    assert "value" not in item and "50002 characters" in item["truncated"]
    assert said(me, "queue_ack", queue="q", receipt=item["receipt"]) == {"acknowledged": True}


# --- barriers ---


def test_a_barrier_opens_when_the_last_party_comes() -> None:
    me = caller_of_all()
    first = Waiting(me, "barrier_wait", {"name": "b", "party": "p1", "parties": 3, "timeout": 50})
    again = Waiting(me, "barrier_wait", {"name": "b", "party": "p1", "parties": 3, "timeout": 50})
    second = Waiting(me, "barrier_wait", {"name": "b", "party": "p2", "parties": 3})
    assert not first.job.writes and [first.look(), again.look(), second.look()] == [None] * 3
    assert first.look(late=True) == {"complete": False, "arrived": 2, "missing": 1, "here": ["p1", "p2"]}
    last = said(me, "barrier_wait", name="b", party="p3", parties=3)
    assert last["complete"] and first.look() == second.look() == last


def test_a_barrier_is_forgotten_after_its_time() -> None:
    clock = Clock()
    me = caller_of_all(clock=clock)
    waiting = Waiting(me, "barrier_wait", {"name": "b", "party": "p1", "parties": 2, "ttl": 5})
    clock.now = 5.0
    assert waiting.look(late=True)["arrived"] == 0
    assert not said(me, "barrier_wait", name="b", party="p2", parties=2, timeout=0)["complete"]


# --- waits ---


def test_a_wait_ends_with_the_next_change_of_a_key() -> None:
    me: FullCaller = caller_of_all()
    said(me, "redis_set", key="k", value=1)
    waiting = Waiting(me, "kv_wait", {"key": "k"})
    assert waiting.look() is None
    assert waiting.look(late=True)["changed"] is False
    said(me, "redis_set", key="k", value=2)
    found = waiting.look()
    assert found["changed"] and found["value"] == 2
    gone = Waiting(me, "kv_wait", {"key": "k", "since": found["etag"]})
    said(me, "redis_del", keys=["k"])
    found = gone.look()
    assert found == {"changed": True, "found": False, "etag": "absent"}
    back = Waiting(me, "kv_wait", {"key": "k", "since": "absent"})
    said(me, "redis_set", key="k", value=2)
    assert back.look()["value"] == 2


def test_a_wait_follows_a_channel_by_its_cursor() -> None:
    me = caller_of_all()
    cursor = said(me, "kv_wait", channel="c", timeout=0)["cursor"]
    heard: list[Any] = []
    for number in range(5):
        waiting = Waiting(me, "kv_wait", {"channel": "c", "since": cursor})
        assert waiting.look() is None
        said(me, "redis_publish", channel="c", message=number)
        found = waiting.look()
        heard += [message["message"] for message in found["messages"]]
        cursor = found["cursor"]
    assert heard == list(range(5))
