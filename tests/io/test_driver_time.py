"""What the driver does as time passes, on trio's virtual clock: nothing here sleeps, hours pass at once."""

from collections.abc import Iterator
from contextlib import closing

import anyio
import pytest
import trio
from trio.testing import MockClock

from kvmcp.core.limits import Limits
from kvmcp.io.driver import FLUSH_GRACE
from kvmcp.io.work import Work
from tests.io.support import (
    MODERN_META,
    MemoryTransport,
    NoArguments,
    SlowBackend,
    call,
    initialize,
    make_server,
    ping,
)
from tests.io.test_driver import with_tools

pytestmark = pytest.mark.trio


@pytest.fixture
def client() -> Iterator[MemoryTransport]:
    with closing(MemoryTransport(piece=65536)) as transport:
        yield transport


async def test_a_call_fails_at_its_deadline_and_serving_goes_on(
    client: MemoryTransport, autojump_clock: MockClock
) -> None:
    server = make_server(SlowBackend(), backend_timeout=30.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, client)
        client.say(*initialize(), call(1, "redis_set", key="a", value=1), call(2, "redis_get", key="a"))
        await client.hear()
        await trio.sleep(29.9)
        client.say(ping(3))
        assert (await client.hear())["id"] == 3
        await trio.sleep(0.2)
        codes = [(await client.hear())["result"]["structuredContent"]["error"]["code"] for _ in range(2)]
        assert codes == ["UNKNOWN_OUTCOME", "TIMEOUT"]
        nursery.cancel_scope.cancel()


async def test_a_client_that_never_answers_is_given_up(
    client: MemoryTransport, autojump_clock: MockClock
) -> None:
    server = with_tools()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, client)
        client.say(*initialize(elicitation={}), call(1, "paint"))
        await client.hear()
        asked = await client.hear()
        await trio.sleep(600)
        cancelled = await client.hear()
        assert cancelled["method"] == "notifications/cancelled"
        assert cancelled["params"] == {"requestId": asked["id"]}
        assert (await client.hear())["result"]["isError"] is True
        nursery.cancel_scope.cancel()


async def test_an_answer_that_came_in_time_counts_though_we_stood_still(mock_clock: MockClock) -> None:
    """Timer and reader are due at once, and which of them trio runs first is a matter of luck: hence many."""
    server = with_tools()
    server._limits = Limits(work_timeout=1e6)
    for _ in range(20):
        with closing(MemoryTransport(piece=65536)) as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.serve, client)
                client.say(*initialize(elicitation={}), call(1, "paint"))
                await client.hear()
                for _ in range(2):
                    asked = await client.hear()
                    client.say({"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "accept"}})
                    mock_clock.jump(601)
                assert (await client.hear())["result"]["structuredContent"] == {"colours": ["accept"] * 2}
                nursery.cancel_scope.cancel()


async def test_a_stop_waits_for_the_grace_and_no_longer(
    client: MemoryTransport, autojump_clock: MockClock
) -> None:
    server = make_server(SlowBackend(), shutdown_grace=4.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, client)
        client.say(*initialize(), call(1, "redis_set", key="a", value=1))
        await client.hear()
        await anyio.wait_all_tasks_blocked()
        started = trio.current_time()
        server.stop()
        answer = await client.hear()
    assert answer["result"]["structuredContent"]["error"]["code"] == "UNKNOWN_OUTCOME"
    assert trio.current_time() - started == pytest.approx(4.0)


async def test_a_client_that_never_reads_cannot_hold_up_the_end(autojump_clock: MockClock) -> None:
    client = MemoryTransport(piece=65536, room=0)
    server = make_server(shutdown_grace=4.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, client)
        client.say(ping(1))
        await anyio.wait_all_tasks_blocked()
        started = trio.current_time()
        server.stop()
    assert trio.current_time() - started == pytest.approx(4.0 + FLUSH_GRACE)
    client.close()


async def test_a_job_given_up_while_it_writes_leaves_no_half_message(autojump_clock: MockClock) -> None:
    """Its task is cancelled in the middle of a write; what it had begun is finished by the next one."""
    server = with_tools()
    server._limits = Limits(work_timeout=10.0)
    with closing(MemoryTransport(piece=65536, room=0)) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve, client)
            client.say(*initialize(), call(1, "busy", {"progressToken": "p"}))
            await client.hear()
            await trio.sleep(60)
            assert (await client.hear())["method"] == "notifications/progress"
            assert (await client.hear())["result"]["structuredContent"]["error"]["code"] == "UNKNOWN_OUTCOME"
            nursery.cancel_scope.cancel()


async def test_deadlines_pass_though_the_client_does_not_read(autojump_clock: MockClock) -> None:
    server, ended = make_server(work_timeout=10.0), []

    @server.tool(description="Sleeps until it is stopped.")
    async def sleeper(arguments: NoArguments, work: Work) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(round(trio.current_time() - started))

    with closing(MemoryTransport(piece=65536, room=0)) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve, client)
            client.say(call(1, "sleeper", MODERN_META))
            started = trio.current_time()
            await trio.sleep(2)
            client.say(call(2, "sleeper", MODERN_META))
            await trio.sleep(2)
            client.say(call(3, "sleeper", MODERN_META))
            await trio.sleep(20)
            assert ended == [10, 12, 14]
            nursery.cancel_scope.cancel()


async def test_an_idle_connection_sets_no_alarm(client: MemoryTransport, autojump_clock: MockClock) -> None:
    server = make_server()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, client)
        client.say(ping(1))
        await client.hear()
        await trio.sleep(86400)
        client.say(ping(2))
        assert (await client.hear())["id"] == 2
        nursery.cancel_scope.cancel()
