"""Every tool of the default sets through the real core, in both eras, on memory and on a real Redis."""

from typing import Any

import pytest

from kvmcp.backends.ops import Atomic, is_read
from tests.tools.agent import Agent
from tests.tools.cases import READS, WRITES, Case, agrees

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The tools and the core know no loop; that of the store is tested where the stores are."""
    return "asyncio"


ERAS = ("2025-11-25", "2026-07-28")
ALL = (*READS, *WRITES)


def named(case: Case) -> str:
    return case.name[:80]


async def prepared(agent: Agent, case: Case) -> Agent:
    for tool, arguments in case.before:
        assert "error" not in await agent.does(tool, arguments)
    return agent


def check(found: Any, case: Case) -> None:
    if isinstance(case.expected, str):
        assert found["error"]["code"] == case.expected, found
        assert found["error"].get("outcome", "not_applied") == "not_applied"
        assert found["error"]["retryable"] is False
    else:
        assert agrees(found, case.expected), found


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("case", ALL, ids=named)
async def test_a_tool_answers(case: Case, era: str) -> None:
    agent = await prepared(Agent(era), case)
    check(await agent.does(case.tool, case.arguments), case)


@pytest.mark.parametrize("case", [case for case in ALL if isinstance(case.expected, str)], ids=named)
async def test_a_failure_changes_nothing(case: Case) -> None:
    agent = await prepared(Agent(ERAS[0]), case)
    before = await agent.dump()
    await agent.does(case.tool, case.arguments)
    assert await agent.dump() == before


@pytest.mark.parametrize("case", READS, ids=named)
async def test_a_read_changes_nothing(case: Case) -> None:
    agent = await prepared(Agent(ERAS[0]), case)
    before = await agent.dump()
    await agent.does(case.tool, case.arguments)
    assert await agent.dump() == before


UNFORETOLD = {"id", "receivers"}
"""What another call may change before the real one."""


@pytest.mark.parametrize("case", WRITES, ids=named)
async def test_a_dry_run_tells_what_would_happen_and_changes_nothing(case: Case) -> None:
    agent = await prepared(Agent(ERAS[1]), case)
    before, ran = await agent.dump(), len(agent.ran)
    rehearsed = await agent.does(case.tool, case.arguments, dry_run=True)
    assert await agent.dump() == before
    for command in agent.ran[ran:]:
        for op in getattr(command, "ops", ()):
            assert is_read(op) or (isinstance(op, Atomic) and all(map(is_read, op.ops))), op
    if isinstance(case.expected, str):
        check(rehearsed, case)
        return
    assert rehearsed.pop("dry_run") is True
    happened = await agent.does(case.tool, case.arguments)
    assert rehearsed.keys() == happened.keys()
    if "session_id" not in case.arguments and "session_id" in happened:  # minted anew
        assert rehearsed.pop("session_id") != happened.pop("session_id")
    assert {name: rehearsed[name] for name in rehearsed.keys() - UNFORETOLD} == {
        name: happened[name] for name in happened.keys() - UNFORETOLD
    }


async def test_every_tool_is_in_the_table() -> None:
    agent = Agent(ERAS[0])
    assert {tool.name for tool in agent.tools} == {case.tool for case in ALL}
    reads = {tool.name for tool in agent.tools if tool.annotations and tool.annotations.read_only_hint}
    assert reads == {case.tool for case in READS}
