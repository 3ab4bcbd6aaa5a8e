"""The tools on a real Redis answer as they do in memory: the same table, and races of real connections."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from kvmcp.backends.base import Backend
from kvmcp.backends.ops import Namespace
from kvmcp.backends.redis import RedisOptions, open_backend
from tests.backends.redis.servers import RedisServer
from tests.tools.agent import Agent
from tests.tools.cases import READS, WRITES, Case
from tests.tools.test_every_tool import check, named

pytestmark = pytest.mark.anyio

ERAS = ("2025-11-25", "2026-07-28")
RACES = 400
AGENTS = 4


def in_time(found: Any, case: Case) -> Any:
    """A result in which a second that has begun meanwhile does not show."""
    if (
        isinstance(case.expected, dict)
        and found.get("ttl") == case.expected.get("ttl", 0)
        or "ttl" not in found
    ):
        return found
    assert found["ttl"] == case.expected["ttl"] - 1
    return {**found, "ttl": case.expected["ttl"]}


@pytest.fixture
async def backend(shared_server: RedisServer) -> AsyncIterator[Backend]:
    backend = open_backend(shared_server.url, RedisOptions())
    await backend.start()
    try:
        yield backend
    finally:
        await backend.aclose()


async def plays(agent: Agent, case: Case) -> None:
    for tool, arguments in case.before:
        assert "error" not in await agent.does(tool, arguments)
    if case in WRITES:
        before = await agent.dump()
        rehearsed = await agent.does(case.tool, case.arguments, dry_run=True)
        assert await agent.dump() == before
        assert ("error" in rehearsed) is isinstance(case.expected, str)
    check(in_time(await agent.does(case.tool, case.arguments), case), case)


@pytest.mark.parametrize("case", (*READS, *WRITES), ids=named)
async def test_a_tool_answers(case: Case, backend: Backend, namespace: Namespace) -> None:
    for era in ERAS:
        await plays(Agent(era, backend, namespace=f"{namespace.name}-{era}"), case)


async def test_several_servers_answer_the_same(topology: str, namespace: Namespace) -> None:
    backend = open_backend(topology, RedisOptions())
    await backend.start()
    try:
        tools = Agent(ERAS[1]).tools
        for number, case in enumerate((*READS, *WRITES)):
            name = f"{namespace.name}-{number}"
            await plays(Agent(ERAS[number % 2], backend, namespace=name, tools=tools), case)
    finally:
        await backend.aclose()


async def test_compare_and_set_loses_no_update(backend: Backend, namespace: Namespace) -> None:
    async def count_up() -> None:
        agent, done = Agent(ERAS[1], backend, namespace=namespace.name), 0
        while done < RACES // AGENTS:
            read = await agent.does("redis_get", key="n")
            value = read["value"] + 1
            done += "ok" in await agent.does("redis_set", key="n", value=value, if_match=read["etag"])

    looker = Agent(ERAS[0], backend, namespace=namespace.name)
    await looker.does("redis_set", key="n", value=0)
    async with anyio.create_task_group() as tasks:
        for _ in range(AGENTS):
            tasks.start_soon(count_up)
    assert (await looker.does("redis_get", key="n"))["value"] == RACES // AGENTS * AGENTS


async def test_concurrent_updates_of_a_session_lose_no_field(backend: Backend, namespace: Namespace) -> None:
    async def update(number: int) -> None:
        agent = Agent(ERAS[number % 2], backend, namespace=namespace.name)
        for round in range(RACES // AGENTS):
            data = {f"f{number}.{round}": round}
            said = await agent.does(
                "redis_session_update", session_id="s", data=data, extend_ttl=round % 2 == 0
            )
            assert said["session_id"] == "s"

    looker = Agent(ERAS[0], backend, namespace=namespace.name)
    await looker.does("redis_session_create", session_id="s")
    async with anyio.create_task_group() as tasks:
        for number in range(AGENTS):
            tasks.start_soon(update, number)
    found = await looker.does("redis_session_get", session_id="s", detail="detailed")
    assert found["size"] == RACES // AGENTS * AGENTS
