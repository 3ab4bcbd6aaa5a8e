"""Messages: cursors, gaps, waits, as the core sees them; the driver's part is tests/io/test_watch_until.py."""

from typing import Any

import pytest
from hypothesis import given, strategies as st
from msgspec import UNSET

from kvmcp.backends.ops import LOG_MESSAGES, LOST_UNKNOWN, LogPage
from kvmcp.core.plan import Answer, Caller, Context, WatchUntil
from kvmcp.core.wire.common import ClientCapabilities, ToolResult
from kvmcp.tools.answers import Fault
from kvmcp.tools.channels import Deliver, Position
from tests.tools.agent import Agent

pytestmark = pytest.mark.anyio
CONTEXT = Context(Caller(namespace="acme"), "2025-11-25", ClientCapabilities())


@pytest.fixture
def anyio_backend() -> str:
    """As in test_every_tool."""
    return "asyncio"


async def published(agent: Agent, *messages: Any, channel: str = "c") -> None:
    for message in messages:
        await agent.does("redis_publish", channel=channel, message=message)


def heard(result: Any) -> list[Any]:
    return [message["message"] for message in result["messages"]]


async def test_a_cursor_goes_on_where_the_last_result_ended() -> None:
    agent = Agent("2026-07-28")
    now = await agent.does("redis_subscribe", channels=["c"])
    await published(agent, 1, 2, 3)
    first = await agent.does("redis_subscribe", channels=["c"], cursor=now["cursor"], max_messages=2)
    assert heard(first) == [1, 2]
    second = await agent.does("redis_subscribe", channels=["c"], cursor=first["cursor"])
    assert heard(second) == [3]
    assert heard(await agent.does("redis_subscribe", channels=["c"], cursor="0")) == [1, 2, 3]
    assert first["messages"][1]["id"] == first["cursor"]


async def test_a_gap_is_told_with_its_count_and_only_once() -> None:
    agent = Agent("2025-11-25")
    start = (await agent.does("redis_subscribe", channels=["c"]))["cursor"]
    for first in range(0, LOG_MESSAGES + 10, 50):
        messages = range(first, min(first + 50, LOG_MESSAGES + 10))
        operations = [
            {"tool": "redis_publish", "arguments": {"channel": "c", "message": n}} for n in messages
        ]
        await agent.does("redis_multi", operations=operations)
    found = await agent.does("redis_subscribe", channels=["c"], cursor=start, max_messages=1)
    assert heard(found) == [10] and found["gap"]["lost"] == 10
    assert "gap" not in await agent.does("redis_subscribe", channels=["c"], cursor=found["cursor"])


async def test_a_wait_is_a_watch_behind_what_was_seen() -> None:
    agent = Agent("2025-11-25")
    await published(agent, 1)
    message = agent.request(
        "tools/call", {"name": "redis_subscribe", "arguments": {"channels": ["d", "c"], "timeout": 50}}
    )
    agent.say(message)
    await agent.run_batches()
    [job] = agent.jobs.values()
    assert isinstance(job, WatchUntil) and job.timeout == 50 and not job.writes
    assert [getattr(key, "name", "") for key in job.channels] == ["c", "d"]
    assert await agent.look() is None
    await published(agent, "now", channel="d")
    assert heard(await agent.look()) == ["now"]


@pytest.mark.parametrize("cursor", ["", "-1", "1-", "1.5", "a", "1" * 19, "0-0", "0.abcdef"])
def test_a_cursor_of_another_kind_is_refused(cursor: str) -> None:
    assert isinstance(Position.parse(["c"], cursor), Fault)


def test_a_cursor_of_other_channels_is_refused() -> None:
    position = Position(("a", "b"), (3, 4))
    assert Position.parse(["b", "a", "b"], position.cursor()) == position
    for channels in (["a"], ["a", "c"], ["a", "b", "c"]):
        assert isinstance(Position.parse(channels, position.cursor()), Fault)


channels = st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=16, unique=True)


@given(channels, st.data())
def test_a_cursor_is_read_back(names: list[str], data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, 10**17), min_size=len(names), max_size=len(names)))
    position = Position(tuple(sorted(names)), tuple(numbers))
    cursor = position.cursor()
    assert len(cursor) <= 400
    assert Position.parse(data.draw(st.permutations(names)), cursor) == position
    ordered = tuple(sorted(names))
    assert Position.parse(names, UNSET) == Position(ordered, (None,) * len(names))
    assert Position.parse(names, "0") == Position(ordered, (0,) * len(names))


def delivered(*pages: LogPage) -> ToolResult:
    position = Position(tuple("ab"[: len(pages)]), (0,) * len(pages))
    answer = Deliver(position, 10, 10_000, 0).resume(pages, CONTEXT, True)
    assert isinstance(answer, Answer) and isinstance(answer.result, ToolResult)
    return answer.result


def test_a_gap_that_cannot_be_counted_is_told_as_such() -> None:
    result = delivered(LogPage((), "7", LOST_UNKNOWN), LogPage((("9", b"1"),), "9", 2))
    assert b'"gap":{"lost":null,' in (result.structured or b"")
    result = delivered(LogPage((), "7", 3), LogPage((("9", b"1"),), "9", 2))
    assert b'"gap":{"lost":5,' in (result.structured or b"")


def test_messages_that_are_too_long_do_not_link_without_end() -> None:
    long = tuple((str(n), b'"%b"' % (b"x" * 20_000)) for n in range(1, 9))
    result = delivered(LogPage(long, "8", 0))
    assert len(result.content) == 1 + 4
    assert (result.structured or b"").count(b'"truncated"') == 8
