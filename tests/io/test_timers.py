"""`kvmcp.io.timers`: what is broken off, and what is not."""

import anyio
import pytest
from anyio.lowlevel import checkpoint

from kvmcp.io.timers import timer

pytestmark = pytest.mark.anyio


async def test_work_ends_at_the_deadline_without_an_error() -> None:
    ended: list[str] = []

    async def wait() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("broken off")

    with anyio.fail_after(10):
        await timer()(anyio.current_time() + 0.01, wait())
    assert ended == ["broken off"]


async def test_work_that_is_done_before_is_left_alone() -> None:
    done: list[str] = []

    async def work() -> None:
        await checkpoint()
        done.append("done")

    with anyio.fail_after(10):
        await timer()(anyio.current_time() + 100, work())
    assert done == ["done"]


async def test_the_works_own_timeout_is_an_error() -> None:
    async def fail() -> None:
        raise TimeoutError("of the connection")

    with pytest.raises(TimeoutError, match="of the connection"):
        await timer()(anyio.current_time() + 100, fail())


async def test_a_scope_around_it_breaks_it_off_first() -> None:
    with anyio.fail_after(10):
        with anyio.move_on_after(0.01) as scope:
            await timer()(anyio.current_time() + 100, anyio.sleep_forever())
        assert scope.cancelled_caught
        await checkpoint()  # Nothing of it is left in the task.
