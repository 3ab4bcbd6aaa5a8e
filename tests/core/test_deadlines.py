"""Timers without a clock."""

from kvmcp.core.deadlines import Deadlines


def test_nothing_is_due_without_a_deadline() -> None:
    deadlines: Deadlines[str] = Deadlines()
    assert deadlines.next() is None
    assert deadlines.due(1e9) == []


def test_due_gives_keys_once_earliest_first() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.set("late", 3.0)
    deadlines.set("early", 1.0)
    deadlines.set("middle", 2.0)
    assert deadlines.next() == 1.0
    assert deadlines.due(0.9) == []
    assert deadlines.due(2.0) == ["early", "middle"]
    assert deadlines.due(2.0) == []
    assert deadlines.next() == 3.0


def test_keys_of_one_moment_are_due_in_the_order_in_which_they_were_set() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.set("z", 1.0)
    deadlines.set("a", 1.0)
    assert deadlines.due(1.0) == ["z", "a"]


def test_a_new_deadline_replaces_the_old_one() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.set("key", 1.0)
    deadlines.set("key", 5.0)
    assert deadlines.due(4.0) == []
    deadlines.set("key", 4.5)
    assert deadlines.due(4.5) == ["key"]
    assert deadlines.due(5.0) == []


def test_a_cleared_key_is_not_due() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.set("key", 1.0)
    deadlines.clear("key")
    deadlines.clear("key")
    assert deadlines.next() is None
    deadlines.set("key", 1.0)
    assert deadlines.due(1.0) == ["key"]
    assert deadlines.due(1.0) == []


def test_cleared_deadlines_take_no_memory() -> None:
    deadlines: Deadlines[int] = Deadlines()
    deadlines.set(-1, 1e9)
    for key in range(10_000):
        deadlines.set(key, key + 1.0)
        deadlines.clear(key)
        assert len(deadlines._heap) <= 128
    assert deadlines.next() == 1e9
    assert deadlines.due(1e9) == [-1]
