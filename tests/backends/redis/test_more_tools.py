"""The tools of the sets `data` and `coordination` on a real Redis answer as they do in memory; races of real
connections for leases, queues, barriers and documents."""

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from kvmcp.backends.base import Backend
from kvmcp.backends.ops import KIND_BARRIER, KIND_LEASE, KIND_VALUE, Namespace
from kvmcp.backends.redis import RedisOptions, open_backend
from tests.backends.redis.servers import RedisServer
from tests.backends.redis.test_tools import AGENTS, ERAS, in_time
from tests.patience import PATIENCE
from tests.tools.cases import Case
from tests.tools.cases_more import MORE_READS, MORE_WRITES
from tests.tools.more_agent import FullAgent
from tests.tools.test_every_tool import check, named

pytestmark = pytest.mark.anyio
ROUNDS = 60


@pytest.fixture
async def backend(shared_server: RedisServer) -> AsyncIterator[Backend]:
    backend = open_backend(shared_server.url, RedisOptions())
    await backend.start()
    try:
        yield backend
    finally:
        await backend.aclose()


async def plays(agent: FullAgent, case: Case) -> None:
    for tool, arguments in case.before:
        assert "error" not in await agent.does(tool, arguments)
    before = await agent.dump()
    if case in MORE_WRITES:
        rehearsed = await agent.does(case.tool, case.arguments, dry_run=True)
        assert await agent.dump() == before
        assert ("error" in rehearsed) is isinstance(case.expected, str)
    check(in_time(await agent.does(case.tool, case.arguments), case), case)
    if case in MORE_READS or isinstance(case.expected, str):
        assert await agent.dump() == before


@pytest.mark.parametrize("case", (*MORE_READS, *MORE_WRITES), ids=named)
async def test_a_tool_answers(case: Case, backend: Backend, namespace: Namespace) -> None:
    await plays(FullAgent(ERAS[0], backend, namespace=namespace.name), case)


async def test_several_servers_answer_the_same(topology: str, namespace: Namespace) -> None:
    backend = open_backend(topology, RedisOptions())
    await backend.start()
    try:
        tools = FullAgent(ERAS[1]).tools
        for number, case in enumerate((*MORE_READS, *MORE_WRITES)):
            name = f"{namespace.name}-{number}"
            await plays(FullAgent(ERAS[number % 2], backend, namespace=name, tools=tools), case)
    finally:
        await backend.aclose()


async def test_a_lease_has_one_holder_and_its_tokens_grow(backend: Backend, namespace: Namespace) -> None:
    holders: list[str] = []
    tokens: list[int] = []

    async def work(number: int) -> None:
        agent = FullAgent(ERAS[number % 2], backend, namespace=namespace.name)
        me = f"agent-{number}"
        while len(tokens) < ROUNDS:
            said = await agent.does("lease_acquire", name="l", owner=me, ttl=100)
            if not said["acquired"]:
                continue
            holders.append(me)
            tokens.append(said["fencing_token"])
            mine = {"name": "l", "owner": me, "fencing_token": said["fencing_token"]}
            assert (await agent.does("lease_renew", mine))["renewed"]
            assert holders == [me]
            holders.remove(me)
            assert (await agent.does("lease_release", mine))["released"]

    async with anyio.create_task_group() as tasks:
        for number in range(AGENTS):
            tasks.start_soon(work, number)
    assert tokens == list(range(1, len(tokens) + 1)) and len(tokens) >= ROUNDS
    assert holders == []


async def test_no_item_of_a_queue_is_lost_or_claimed_twice(backend: Backend, namespace: Namespace) -> None:
    done: list[int] = []

    async def work(number: int) -> None:
        agent = FullAgent(ERAS[number % 2], backend, namespace=namespace.name)
        while True:
            said = await agent.does("queue_claim", queue="q", owner=f"a{number}", visibility=100, count=3)
            if not said["items"]:
                return
            for item in said["items"]:
                assert item["deliveries"] == 1
                done.append(item["value"])
                acknowledged = await agent.does("queue_ack", queue="q", receipt=item["receipt"])
                assert acknowledged == {"acknowledged": True}

    looker = FullAgent(ERAS[0], backend, namespace=namespace.name)
    await looker.does("redis_rpush", key="q", values=list(range(3 * ROUNDS)))
    async with anyio.create_task_group() as tasks:
        for number in range(AGENTS):
            tasks.start_soon(work, number)
    assert sorted(done) == list(range(3 * ROUNDS))
    left = await looker.does("queue_claim", queue="q", owner="looker")
    assert left == {"items": [], "waiting": 0, "claimed": 0}


async def test_an_item_comes_back_when_its_claim_has_ended(backend: Backend, namespace: Namespace) -> None:
    agent = FullAgent(ERAS[1], backend, namespace=namespace.name)
    await agent.does("redis_rpush", key="q", values=["work"])
    first = (await agent.does("queue_claim", queue="q", owner="a", visibility=1))["items"][0]
    for receipt, is_open in ((first["receipt"], True), ("none", False)):
        told = await agent.does("queue_ack", queue="q", receipt=receipt, dry_run=True)
        assert told == {"acknowledged": is_open, "dry_run": True}
        told = await agent.does("queue_extend", queue="q", receipt=receipt, dry_run=True)
        assert told == {"extended": is_open, "dry_run": True}
    said: Any = {"items": []}
    with anyio.fail_after(PATIENCE):
        while not said["items"]:
            said = await agent.does("queue_claim", queue="q", owner="b")
    assert said["items"][0]["value"] == "work" and said["items"][0]["deliveries"] == 2
    assert await agent.does("queue_ack", queue="q", receipt=first["receipt"]) == {"acknowledged": False}
    assert await agent.does("queue_extend", queue="q", receipt=first["receipt"]) == {"extended": False}


async def test_a_barrier_opens_for_all_at_once(backend: Backend, namespace: Namespace) -> None:
    completed: list[bool] = []

    async def come(number: int) -> None:
        agent = FullAgent(ERAS[number % 2], backend, namespace=namespace.name)
        said = await agent.does("barrier_wait", name="b", party=f"p{number}", parties=AGENTS, timeout=0)
        completed.append(said["complete"])
        assert said["arrived"] + said["missing"] == AGENTS

    async with anyio.create_task_group() as tasks:
        for number in range(AGENTS):
            tasks.start_soon(come, number)
    assert completed.count(True) >= 1
    last = FullAgent(ERAS[0], backend, namespace=namespace.name)
    assert (await last.does("barrier_wait", name="b", party="p0", parties=AGENTS))["complete"]


async def test_patches_of_several_agents_lose_nothing(backend: Backend, namespace: Namespace) -> None:
    async def patch(number: int) -> None:
        agent = FullAgent(ERAS[number % 2], backend, namespace=namespace.name)
        done = 0
        while done < ROUNDS // AGENTS:
            said = await agent.does("redis_json_merge", key="d", patch={f"f{number}": {str(done): done}})
            done += "ok" in said
            assert "ok" in said or said["error"]["retryable"]

    async with anyio.create_task_group() as tasks:
        for number in range(AGENTS):
            tasks.start_soon(patch, number)
    looker = FullAgent(ERAS[0], backend, namespace=namespace.name)
    found = (await looker.does("redis_json_get", key="d"))["value"]
    rounds = {str(done): done for done in range(ROUNDS // AGENTS)}
    assert found == {f"f{number}": rounds for number in range(AGENTS)}


ACTS: list[tuple[str, str, str, dict[str, Any]]] = [
    (KIND_LEASE, "l", "lease_acquire", {"name": "l", "owner": "a"}),
    (KIND_LEASE, "l", "lease_release", {"name": "l", "owner": "a", "fencing_token": 1}),
    (KIND_VALUE, "q", "redis_rpush", {"key": "q", "values": [1]}),
    (KIND_BARRIER, "b", "barrier_wait", {"name": "b", "party": "a", "parties": 2, "timeout": 0}),
    (KIND_VALUE, "d", "redis_json_merge", {"key": "d", "patch": {"a": 1}}),
]


async def test_those_who_wait_are_told(backend: Backend, namespace: Namespace) -> None:
    """Watchers hear of leases, lists, barriers and documents: what the waiting tools wait for."""
    agent = FullAgent(ERAS[0], backend, namespace=namespace.name)
    for kind, name, tool, arguments in ACTS:
        key = namespace.key(name, kind)
        async with backend.watch(keys=(key,)) as events:
            assert "error" not in await agent.does(tool, arguments)
            with anyio.fail_after(PATIENCE):
                assert getattr(await anext(events), "key", None) == key
