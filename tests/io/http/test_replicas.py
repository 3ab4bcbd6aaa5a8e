"""Two replicas on one Redis, every request of a conversation to another or a random one: nothing is ever wrong.

Real processes, real Redis, real balancers, on both loops; and `--workers`, where the kernel is the balancer. The
client closes each connection behind its request, so that neither end makes it sticky.
"""

import os
import secrets
import signal
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import httpx
import pytest

from tests.backends.redis.servers import RedisServer
from tests.io.http.balancers import open_balancer
from tests.io.http.processes import HttpProcess
from tests.io.http.support import (
    ACCEPTS,
    Mcp,
    connected,
    legacy,
    modern,
    modern_headers,
)
from tests.patience import PATIENCE

pytestmark = [
    pytest.mark.anyio,
    # httpx leaves generators of its own open when a stream is not read to its end.
    pytest.mark.filterwarnings("ignore:.*async_generator object.*:pytest.PytestUnraisableExceptionWarning"),
]

AT_ONCE: Final = 8
"""Clients at once."""
KEY: Final = secrets.token_hex(32)
MODULE: Final = ("tests.io.http.replica_server",)


@pytest.fixture
def anyio_backend() -> str:
    """Of the client here; the servers have loops of their own."""
    return "asyncio"


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("replicas")).start()
    yield server
    server.kill()


LOOPS: Final = ("asyncio", "trio")
"""One replica on each, so that every conversation goes over both."""


def start_replica(redis: RedisServer, loop: str, *options: str, key: str | None = KEY) -> HttpProcess:
    environment = {} if key is None else {"KVMCP_STATE_KEY": key}
    return HttpProcess(
        *("--backend", f"{redis.url}/1", "--loop", loop), *options, module=MODULE, environment=environment
    )


@pytest.fixture(scope="module")
def replicas(redis: RedisServer) -> Iterator[list[HttpProcess]]:
    """Two that no test hurts."""
    processes = [start_replica(redis, loop) for loop in LOOPS]
    yield processes
    for process in processes:
        process.kill()
        assert "ERROR" not in process.log and "Traceback" not in process.log, process.log


@pytest.fixture(scope="module", params=["own", "nginx", "haproxy", *(f"workers on {loop}" for loop in LOOPS)])
def port(
    request: pytest.FixtureRequest,
    redis: RedisServer,
    replicas: list[HttpProcess],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[int]:
    """Behind which there are several processes."""
    if request.param.startswith("workers"):
        parent = start_replica(redis, request.param.split()[-1], "--workers", "3", key=None)
        yield parent.port
        assert parent.end() == 0
        assert "ERROR" not in parent.log, parent.log
        parent.kill()
        return
    ports = [process.port for process in replicas]
    balancer = open_balancer(request.param, tmp_path_factory.mktemp(request.param), ports)
    before = [_requests(port) for port in ports]
    yield balancer.port
    balancer.close()
    served = [_requests(port) - some for port, some in zip(ports, before, strict=True)]
    assert min(served) > sum(served) / 4, f"no replica was left out: {served}"


def _requests(port: int) -> int:
    """How many a replica has served."""
    metrics = httpx.get(
        f"http://127.0.0.1:{port}/metrics", headers={"accept": "application/json"}, trust_env=False
    )
    count: int = metrics.json()["total_requests"]
    return count


@pytest.fixture(params=[(0, 1), (1, 0)], ids=["here and there", "there and here"])
async def both(request: pytest.FixtureRequest, replicas: list[HttpProcess]) -> AsyncIterator[list[Mcp]]:
    """A client of each replica, with nothing between: for what must go to the one or the other."""
    first, second = request.param
    async with connected(replicas[first].port) as here, connected(replicas[second].port) as there:
        yield [here, there]


@asynccontextmanager
async def client_of(port: int) -> AsyncIterator[Mcp]:
    limits = httpx.Limits(max_keepalive_connections=0)
    # Without TLS httpx need not read all authorities of the machine for each client.
    no_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    async with connected(port, limits=limits, verify=no_tls) as client:
        client.direct = False
        yield client


async def all_at_once(times: int, act: Callable[[int], Any]) -> None:
    """`act` for each number below `times`, by `AT_ONCE` clients."""
    numbers = iter(range(times))

    async def work() -> None:
        for number in numbers:
            await act(number)

    with anyio.fail_after(4 * PATIENCE):
        async with anyio.create_task_group() as tasks:
            for _ in range(AT_ONCE):
                tasks.start_soon(work)


def arguments(name: str, token: object = None, **given: object) -> dict[str, Any]:
    """The parameters of a tool call; with a token where progress is wanted."""
    meta = {} if token is None else {"_meta": {"progressToken": token}}
    return {"name": name, "arguments": given, **meta}


def value_of(result: Any) -> Any:
    """What `redis_get` has found."""
    return result["structuredContent"]["value"]


def text_of(message: Any) -> str:
    text: str = message["result"]["content"][0]["text"]
    return text


# --- modern -----------------------------------------------------------------------------------------------------


async def test_modern_calls_by_the_hundred(port: int) -> None:
    async with client_of(port) as client:

        async def check(number: int) -> None:
            key = f"modern{secrets.token_hex(4)}"
            await client.call_modern("redis_set", key=key, value=[number, "x" * 100])
            found = await client.call_modern("redis_get", key=key)
            assert value_of(found) == [number, "x" * 100]

        await all_at_once(100, check)


async def test_a_modern_question_is_answered_anywhere(port: int) -> None:
    """The client comes back with the answer, and with the state that the first replica gave it."""
    async with client_of(port) as client:

        async def check(number: int) -> None:
            first = await client.call_modern("ask")
            assert first["resultType"] == "input_required"
            (name,) = first["inputRequests"]
            answered = modern(
                "tools/call",
                **arguments("ask"),
                inputResponses={name: {"action": "accept", "content": {"colour": f"red{number}"}}},
                requestState=first["requestState"],
            )
            response = await client.http.post("/mcp", json=answered, headers=modern_headers(answered))
            assert text_of(response.json()) == f"red{number}"

        await all_at_once(30, check)


async def test_whoever_listens_hears_of_what_happens_at_any_replica(port: int) -> None:
    listen = modern("subscriptions/listen", 5, notifications={"toolsListChanged": True})
    async with (
        client_of(port) as client,
        client.stream("POST", listen, modern_headers(listen)) as one,
        client.stream("POST", listen, modern_headers(listen)) as two,
    ):
        for events in (one, two):
            assert (await events.message())["method"] == "notifications/subscriptions/acknowledged"
        for _ in range(10):
            await client.call_modern("announce")
            for events in (one, two):
                assert (await events.message())["method"] == "notifications/tools/list_changed"


# --- legacy -----------------------------------------------------------------------------------------------------


async def test_sessions_whose_requests_go_anywhere(port: int) -> None:
    async def converse(number: int) -> None:
        async with client_of(port) as client:
            await client.initialize()
            for turn in range(8):
                given = {"key": f"legacy{number}", "value": turn}
                await client.request("tools/call", 2 * turn, name="redis_set", arguments=given)
                found = await client.request(
                    "tools/call", 2 * turn + 1, **arguments("redis_get", key=given["key"])
                )
                assert value_of(found) == turn
            assert len((await client.request("tools/list", 99))["tools"]) > 4
            assert (await client.http.delete("/mcp", headers=client.session)).status_code in (200, 204)
            assert await _ended(client)

    await all_at_once(12, converse)


async def _ended(client: Mcp) -> bool:
    """Whether every replica knows that the session has ended; what is told may be some moments on its way."""
    with anyio.fail_after(PATIENCE):
        in_row = 0
        while in_row < 6:
            response = await client.post(legacy("ping"))
            assert response.status_code in (200, 404)
            in_row = in_row + 1 if response.status_code == 404 else 0
    return True


async def test_a_question_of_one_replica_is_answered_to_any(port: int) -> None:
    async with client_of(port) as client:
        await client.initialize()

        async def check(number: int) -> None:
            async with client.stream("POST", legacy("tools/call", number, **arguments("ask"))) as events:
                question = await events.message()
                assert question["method"] == "elicitation/create"
                content = {"action": "accept", "content": {"colour": f"blue{number}"}}
                answer = {"jsonrpc": "2.0", "id": question["id"], "result": content}
                assert (await client.post(answer)).status_code == 202
                assert text_of(await events.message()) == f"blue{number}"

        await all_at_once(30, check)


async def test_progress_comes_with_the_call(port: int) -> None:
    async with client_of(port) as client:
        await client.initialize()

        async def check(number: int) -> None:
            body = legacy("tools/call", number, **arguments("steps", number, count=5, gate=""))
            async with client.stream("POST", body) as events:
                for step in range(1, 6):
                    told = (await events.message())["params"]
                    assert (told["progressToken"], told["progress"]) == (number, step)
                assert text_of(await events.message()) == "done"

        await all_at_once(24, check)


async def test_a_stream_hears_of_what_happens_at_any_replica(port: int) -> None:
    async with client_of(port) as client:
        await client.initialize()
        async with client.stream("GET") as events:
            for number in range(10):
                await client.request("tools/call", number, **arguments("announce"))
                assert (await events.message())["method"] == "notifications/tools/list_changed"


async def test_a_call_is_cancelled_from_anywhere(port: int) -> None:
    async with client_of(port) as client:
        await client.initialize()

        async def check(number: int) -> None:
            given = arguments("steps", number, count=1, gate=f"never{number}")
            async with client.stream("POST", legacy("tools/call", number, **given)) as events:
                assert (await events.message())["params"]["progress"] == 1
                accepted = await client.notify("notifications/cancelled", requestId=number)
                assert accepted.status_code == 202
                assert await events.message() is None, "it ends without an answer"

        await all_at_once(20, check)


async def test_a_stream_that_broke_off_goes_on_anywhere(port: int) -> None:
    async with client_of(port) as client:
        await client.initialize()

        async def check(number: int) -> None:
            gate = secrets.token_hex(4)
            body = legacy("tools/call", number, **arguments("steps", number, count=8, gate=gate))
            async with client.stream("POST", body) as events:
                seen = [await events.message() for _ in range(1 + number % 4)]
            seen += await _rest(client, events.last_id, gate)
            assert [told["params"]["progress"] for told in seen[:-1]] == list(range(1, 9))
            assert text_of(seen[-1]) == "done"

        await all_at_once(24, check)


async def _rest(client: Mcp, last_id: str, gate: str) -> list[Any]:
    """What comes after the event `last_id`, fetched in several pieces; the call may end after the first."""
    found: list[Any] = []
    opened = False
    while True:
        headers = {**ACCEPTS, **client.session, "last-event-id": last_id}
        async with client.stream("GET", headers=headers) as events:
            if not opened:
                found.append(await events.message())
            else:
                while (message := await events.message()) is not None:
                    found.append(message)
                    if "result" in message:
                        return found
            last_id = events.last_id or last_id
        if not opened:
            opened = True
            await client.request("tools/call", 1000, **arguments("open_gate", gate=gate))


# --- what goes here and there -----------------------------------------------------------------------------------


async def test_initialized_here_called_there(both: list[Mcp]) -> None:
    here, there = both
    await here.initialize()
    there.session = here.session
    await there.request("tools/call", **arguments("redis_set", key="both", value=1))
    found = await here.request("tools/call", **arguments("redis_get", key="both"))
    assert value_of(found) == 1
    assert (await there.http.delete("/mcp", headers=there.session)).status_code in (200, 204)
    assert await _ended(here)


async def test_asked_here_answered_there(both: list[Mcp]) -> None:
    here, there = both
    await here.initialize()
    there.session = here.session
    async with here.stream("POST", legacy("tools/call", 7, **arguments("ask"))) as events:
        question = await events.message()
        content = {"action": "accept", "content": {"colour": "green"}}
        accepted = await there.post({"jsonrpc": "2.0", "id": question["id"], "result": content})
        assert accepted.status_code == 202
        assert text_of(await events.message()) == "green"


async def test_broken_off_here_resumed_there(both: list[Mcp]) -> None:
    here, there = both
    await here.initialize()
    there.session = here.session
    gate = secrets.token_hex(4)
    body = legacy("tools/call", 7, **arguments("steps", 7, count=3, gate=gate))
    async with here.stream("POST", body) as events:
        await events.message()
    headers = {**ACCEPTS, **there.session, "last-event-id": events.last_id}
    async with there.stream("GET", headers=headers) as rest:
        assert [(await rest.message())["params"]["progress"] for _ in range(2)] == [2, 3]
        await there.request("tools/call", 8, **arguments("open_gate", gate=gate))
        assert text_of(await rest.message()) == "done"


async def test_heard_here_what_happened_there(both: list[Mcp]) -> None:
    here, there = both
    await here.initialize()
    there.session = here.session
    async with here.stream("GET") as events:
        await there.request("tools/call", **arguments("announce"))
        assert (await events.message())["method"] == "notifications/tools/list_changed"


async def test_another_key_is_another_service(redis: RedisServer, replicas: list[HttpProcess]) -> None:
    stranger = start_replica(redis, LOOPS[0], key=secrets.token_hex(32))
    try:
        async with connected(replicas[0].port) as client, connected(stranger.port) as other:
            await client.initialize()
            other.session = client.session
            assert (await other.post(legacy("ping"))).status_code == 404
    finally:
        stranger.kill()


# --- when one is gone -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("killed", [0, 1], ids=LOOPS)
@pytest.mark.parametrize("name", ["own", "nginx", "haproxy"])
async def test_a_conversation_goes_on_when_a_replica_is_killed(
    name: str, killed: int, redis: RedisServer, tmp_path: Path
) -> None:
    replicas = [start_replica(redis, loop) for loop in LOOPS]
    balancer = open_balancer(name, tmp_path / name, [process.port for process in replicas])
    try:
        async with client_of(balancer.port) as client:
            await client.initialize()
            gate = secrets.token_hex(4)
            streams = [await _begin(client, number, gate) for number in range(6)]
            for number in range(60):
                if number == 30:
                    replicas[killed].kill()
                await client.request("tools/call", number, **arguments("redis_set", key="k", value=number))
                found = await client.call_modern("redis_get", key="k")
                assert value_of(found) == number
            await client.request("tools/call", 99, **arguments("open_gate", gate=gate))
            results = [await _end_of(client, last_id) for last_id in streams]
            assert "done" in results, "what ran in the other one is there"
    finally:
        balancer.close()
        for process in replicas:
            process.kill()


async def _begin(client: Mcp, number: int, gate: str) -> str:
    """A call that waits, its connection broken off; the id of the last event that was seen."""
    body = legacy("tools/call", 100 + number, **arguments("steps", number, count=1, gate=gate))
    async with client.stream("POST", body) as events:
        await events.message()
    return events.last_id


async def _end_of(client: Mcp, last_id: str) -> str:
    """The text of the result; nothing where its process was killed."""
    headers = {**ACCEPTS, **client.session, "last-event-id": last_id}
    with anyio.move_on_after(2):
        async with client.stream("GET", headers=headers) as events:
            message = await events.message()
            return "" if message is None else text_of(message)
    return ""


@pytest.mark.parametrize("loop", LOOPS)
async def test_a_worker_that_is_killed_is_replaced(redis: RedisServer, loop: str) -> None:
    parent = start_replica(redis, loop, "--workers", "2", key=None)
    try:
        async with client_of(parent.port) as client:
            await client.initialize()
            for _ in range(3):
                before = parent.children()
                os.kill(before[0], signal.SIGKILL)
                with anyio.fail_after(PATIENCE):
                    while len(now := parent.children()) < 2 or before[0] in now:  # noqa: ASYNC110
                        await anyio.sleep(0.02)
                for number in range(20):
                    await client.request("tools/call", number, **arguments("redis_get", key="none"))
        assert parent.end() == 0
    finally:
        parent.kill()
