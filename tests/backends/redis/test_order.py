"""Property: whatever a cluster redirects, and however often, the replies of a batch are those of its order.

The operations that were refused in the end count as not there; each of the others gives what it gives when they run
one after the other, and leaves the store as that does.
"""

from collections.abc import Callable

import hiredis
import pytest
from hypothesis import given, strategies as st

from kvmcp.backends.ops import (
    Atomic,
    Delete,
    Exists,
    Failure,
    Get,
    KeyIs,
    Namespace,
    NsKey,
    Op,
    Publish,
    Reply,
    Set,
)
from kvmcp.backends.redis.commands import Commands
from kvmcp.backends.redis.errors import BY_CLASS, CONNECTION_LOST, lost_write
from kvmcp.backends.redis.job import MAX_REDIRECTS, Job
from kvmcp.backends.redis.order import next_round

COMMANDS = Commands("kvmcp", sharded=True)
MOVED = hiredis.ReplyError("MOVED 1 127.0.0.1:1")
A, B, C = (Namespace("n").key(name) for name in "abc")


def run(op: Op, store: dict[NsKey, bytes]) -> Reply:
    match op:
        case Get():
            return store.get(op.key)
        case Set():
            store[op.key] = op.value
            return True
        case Delete():
            return sum(store.pop(key, None) is not None for key in op.keys)
        case Exists():
            return tuple(key in store for key in op.keys)
        case Atomic():
            held = all(isinstance(c, KeyIs) and store.get(c.key) == c.value for c in op.conditions)
            return tuple(run(single, store) for single in op.ops) if held else None
        case _:
            raise AssertionError(op)


keys = st.sampled_from([A, B, C])
values = st.integers(0, 9).map(b"%d".__mod__)
sets = st.builds(Set, keys, values)
ops: st.SearchStrategy[Op] = st.one_of(
    st.builds(Get, keys),
    sets,
    st.builds(Delete, st.tuples(keys)),
    st.builds(Exists, st.tuples(keys)),
    st.builds(
        Atomic, st.tuples(sets, sets), st.one_of(st.just(()), st.tuples(st.builds(KeyIs, keys, values)))
    ),
)


@given(st.lists(ops, min_size=1, max_size=12), st.data())
def test_replies_are_those_of_the_order(batch: list[Op], data: st.DataObject) -> None:
    store: dict[NsKey, bytes] = {}
    jobs = [Job(op, COMMANDS) for op in batch]
    waiting = list(jobs)
    first = True
    while waiting:
        # One pipeline runs in order; later ones go to several nodes.
        for job in waiting if first else data.draw(st.permutations(waiting)):
            if data.draw(st.integers(0, 2)) == 0:
                job.settle(BY_CLASS["MOVED"])
                job.error = MOVED
                job.follow()
            else:
                job.settle(run(job.op, store))
        first = False
        waiting = next_round(jobs)
    in_order: dict[NsKey, bytes] = {}
    for job in jobs:
        if not isinstance(job.reply, Failure):
            assert job.reply == run(job.op, in_order)
    assert store == in_order


def redirected(op: Op) -> Job:
    job = Job(op, COMMANDS)
    job.settle(BY_CLASS["MOVED"])
    job.follow()
    return job


def settled(op: Op, reply: Reply) -> Job:
    job = Job(op, COMMANDS)
    job.settle(reply)
    return job


def test_what_has_nothing_to_do_with_each_other_goes_together() -> None:
    jobs = [redirected(Set(A, b"1")), redirected(Get(B)), redirected(Get(B)), redirected(Set(C, b"1"))]
    assert next_round(jobs) == jobs


def test_writes_of_one_key_go_one_after_the_other() -> None:
    first, second, third = jobs = [
        redirected(Set(A, b"1")),
        redirected(Delete((B, A))),
        redirected(Set(B, b"1")),
    ]
    assert next_round(jobs) == [first]
    first.settle(True)
    assert next_round(jobs) == [second]
    second.settle(2)
    assert next_round(jobs) == [third]


def test_a_write_that_is_overtaken_is_refused() -> None:
    first, second = jobs = [redirected(Set(A, b"1")), settled(Set(A, b"2"), True)]
    assert next_round(jobs) == []
    assert (first.reply, second.reply) == (BY_CLASS["MOVED"], True)


def test_a_write_that_may_have_run_counts_as_one_that_has() -> None:
    first, _ = jobs = [redirected(Set(A, b"1")), settled(Set(A, b"2"), lost_write(CONNECTION_LOST))]
    next_round(jobs)
    assert first.reply == BY_CLASS["MOVED"]


def test_a_write_that_was_refused_does_not_count() -> None:
    first, _ = jobs = [redirected(Set(A, b"1")), settled(Set(A, b"2"), CONNECTION_LOST)]
    assert next_round(jobs) == [first]


def test_a_read_before_its_write_is_repeated() -> None:
    first, second = jobs = [redirected(Set(A, b"1")), settled(Get(A), None)]
    assert next_round(jobs) == [first]
    first.settle(True)
    assert next_round(jobs) == [second]


def test_a_read_between_writes_cannot_be_repeated() -> None:
    first, read, _ = jobs = [
        redirected(Set(A, b"1")),
        settled(Get(A), None),
        settled(Atomic((Set(A, b"3"),)), (True,)),
    ]
    assert next_round(jobs) == []
    assert (first.reply, read.reply) == (BY_CLASS["MOVED"], None)


def test_a_channel_is_like_a_key() -> None:
    jobs = [redirected(Publish(A, b"1")), redirected(Publish(A, b"2"))]
    assert next_round(jobs) == jobs[:1]


@pytest.mark.parametrize("finish", [lambda job: job.settle(True), lambda job: job.stay_refused()])
def test_it_ends(finish: Callable[[Job], None]) -> None:
    job = redirected(Set(A, b"1"))
    for _ in range(MAX_REDIRECTS - 1):
        assert next_round([job]) == [job]
        job.settle(BY_CLASS["MOVED"])
        job.follow()
    finish(job)
    assert next_round([job]) == []
