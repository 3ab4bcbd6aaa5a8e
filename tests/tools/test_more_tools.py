"""Every tool of the sets `data` and `coordination` through the real core, in both eras, in memory: the table."""

from typing import Any

import pytest

from kvmcp.backends.ops import Atomic, is_read
from kvmcp.tools.surface import TOOL_SETS
from tests.tools.cases import Case
from tests.tools.cases_more import MORE_READS, MORE_WRITES
from tests.tools.more_agent import FullAgent
from tests.tools.test_every_tool import ERAS, check, named

pytestmark = pytest.mark.anyio
ALL = (*MORE_READS, *MORE_WRITES)


@pytest.fixture
def anyio_backend() -> str:
    """As in test_every_tool."""
    return "asyncio"


async def prepared(agent: FullAgent, case: Case) -> FullAgent:
    for tool, arguments in case.before:
        assert "error" not in await agent.does(tool, arguments)
    return agent


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("case", ALL, ids=named)
async def test_a_tool_answers(case: Case, era: str) -> None:
    agent = await prepared(FullAgent(era), case)
    check(await agent.does(case.tool, case.arguments), case)


@pytest.mark.parametrize(
    "case", [case for case in ALL if case in MORE_READS or isinstance(case.expected, str)], ids=named
)
async def test_a_read_and_a_failure_change_nothing(case: Case) -> None:
    agent = await prepared(FullAgent(ERAS[0]), case)
    before = await agent.dump()
    await agent.does(case.tool, case.arguments)
    assert await agent.dump() == before


UNFORETOLD = {"id", "items"}
"""What a dry run cannot know: an id, a receipt."""


@pytest.mark.parametrize("case", MORE_WRITES, ids=named)
async def test_a_dry_run_tells_what_would_happen_and_changes_nothing(case: Case) -> None:
    agent = await prepared(FullAgent(ERAS[1]), case)
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
    assert {name: rehearsed[name] for name in rehearsed.keys() - UNFORETOLD} == {
        name: happened[name] for name in happened.keys() - UNFORETOLD
    }
    if "items" in happened:
        assert [item["value"] for item in rehearsed["items"]] == [item["value"] for item in happened["items"]]


async def test_every_tool_is_in_the_table() -> None:
    rows = {row.name: row for name in ("data", "coordination") for row in TOOL_SETS[name]}
    assert set(rows) == {case.tool for case in ALL} - {"redis_multi"}
    assert {name for name, row in rows.items() if row.reads_only} == {case.tool for case in MORE_READS}


async def test_an_entry_is_deleted_by_its_id() -> None:
    agent = FullAgent(ERAS[0])
    first: Any = await agent.does("redis_xadd", key="x", fields={"n": 1})
    await agent.does("redis_xadd", key="x", fields={"n": 2})
    assert (await agent.does("redis_xdel", key="x", ids=[first["id"]], dry_run=True))["removed"] == 1
    assert await agent.does("redis_xdel", key="x", ids=[first["id"]]) == {"removed": 1}
    assert [entry["fields"] for entry in (await agent.does("redis_xrange", key="x"))["entries"]] == [{"n": 2}]
