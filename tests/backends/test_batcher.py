"""The batcher: order, bounds, and a line that nobody can jump."""

import anyio
import pytest
from anyio.lowlevel import checkpoint

from kvmcp.backends.batcher import Batcher
from tests.patience import PATIENCE


def test_items_leave_joined_and_in_order() -> None:
    batcher: Batcher[str] = Batcher(max_pipeline=10)
    for item, size in (("a", 4), ("b", 6), ("c", 1), ("huge", 100), ("d", 1)):
        batcher.add(item, size)
    assert batcher.bytes == 112
    assert [batcher.take() for _ in range(5)] == [["a", "b"], ["c"], ["huge"], ["d"], []]
    assert batcher.bytes == 0


def test_an_item_can_be_taken_back_once() -> None:
    batcher: Batcher[str] = Batcher()
    batcher.add("a", 1)
    batcher.add("b", 2)
    assert batcher.remove("a")
    assert not batcher.remove("a")
    assert (batcher.items(), batcher.bytes, len(batcher)) == (["b"], 2, 1)


def test_full_by_bytes_and_by_items() -> None:
    by_bytes: Batcher[int] = Batcher(max_bytes=10)
    by_items: Batcher[int] = Batcher(max_items=2)
    by_bytes.add(1, 9)
    by_items.add(1, 1)
    assert (by_bytes.full, by_items.full) == (False, False)
    by_bytes.add(2, 1)
    by_items.add(2, 1)
    assert (by_bytes.full, by_items.full) == (True, True)
    assert by_bytes.take_all() == [1, 2]
    assert not by_bytes.full


@pytest.mark.anyio
async def test_callers_wait_in_line() -> None:
    batcher: Batcher[int] = Batcher(max_items=1)
    order: list[int] = []

    async def caller(number: int) -> None:
        await batcher.room()
        order.append(number)
        batcher.add(number, 1)

    batcher.add(0, 1)
    assert batcher.full
    async with anyio.create_task_group() as tasks:
        for number in (1, 2, 3):
            tasks.start_soon(caller, number)
            await anyio.wait_all_tasks_blocked()
        taken: list[int] = []
        with anyio.fail_after(PATIENCE):
            while len(taken) < 4:
                taken += batcher.take()
                await checkpoint()
    assert taken == [0, 1, 2, 3]
    assert order == [1, 2, 3]


@pytest.mark.anyio
async def test_who_gives_up_loses_nobody_a_turn() -> None:
    batcher: Batcher[int] = Batcher(max_items=1)
    admitted: list[int] = []

    async def caller(number: int, scope: anyio.CancelScope) -> None:
        with scope:
            await batcher.room()
            admitted.append(number)
            batcher.invite_next()

    batcher.add(0, 1)
    scopes = [anyio.CancelScope() for _ in range(3)]
    async with anyio.create_task_group() as tasks:
        for number, scope in enumerate(scopes):
            tasks.start_soon(caller, number, scope)
            await anyio.wait_all_tasks_blocked()
        scopes[1].cancel()  # in line
        await anyio.wait_all_tasks_blocked()
        batcher.take()
        scopes[0].cancel()  # admitted, has not noticed
        await anyio.wait_all_tasks_blocked()
        assert 2 in admitted and 1 not in admitted
        assert not batcher.full


@pytest.mark.anyio
async def test_who_waits_is_told_that_all_was_given_up() -> None:
    batcher: Batcher[int] = Batcher(max_items=1)
    batcher.add(0, 1)
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(batcher.room)
        await anyio.wait_all_tasks_blocked()
        assert batcher.take_all() == [0]
