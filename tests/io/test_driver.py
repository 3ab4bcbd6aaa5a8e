"""The driver on both loops: turns, order, backpressure, jobs, stopping. The transport delivers single bytes."""

import asyncio
import json
import logging
import time
from typing import Any

import anyio
import pytest
from msgspec import Struct

from kvmcp.backends.base import Done, Ops, Replies
from kvmcp.backends.memory import MemoryBackend
from kvmcp.core.wire.common import ElicitForm, ElicitResult
from kvmcp.io.work import RequestFailed, ToolFailed, Work
from kvmcp.server import Server
from tests.io.support import (
    MODERN_META,
    BrokenBackend,
    MemoryTransport,
    NoArguments,
    SlowBackend,
    call,
    initialize,
    make_server,
    ping,
    serving,
)
from tests.patience import PATIENCE
from tests.tools.support import redis_tools, without_etag

pytestmark = pytest.mark.anyio

FORM = ElicitForm("Which colour?", b'{"type":"object","properties":{"colour":{"type":"string"}}}')


async def test_a_conversation_in_single_bytes() -> None:
    async with serving(make_server(), MemoryTransport()) as client:
        client.say(*initialize())
        assert (await client.hear())["result"]["protocolVersion"] == "2025-11-25"
        client.say(call(1, "redis_set", key="a", value={"x": 1}), call(2, "redis_get", key="a"))
        assert without_etag((await client.hear())["result"]["structuredContent"]) == {"ok": True}
        assert without_etag((await client.hear())["result"]["structuredContent"]) == {
            "found": True,
            "value": {"x": 1},
        }


async def test_modern_requests_need_no_handshake() -> None:
    async with serving(make_server(), MemoryTransport()) as client:
        client.say(call(1, "redis_get", MODERN_META, key="a"))
        result = (await client.hear())["result"]
        assert result["resultType"] == "complete"
        assert result["structuredContent"] == {"found": False}


async def test_all_calls_of_a_chunk_are_one_batch() -> None:
    backend = SlowBackend()
    async with serving(make_server(backend), MemoryTransport(piece=65536)) as client:
        client.say(*initialize())
        await client.hear()
        lines = b"".join(_line(call(n, "redis_set", key=f"k{n}", value=n)) for n in range(20))
        client.say(lines)
        await _until(lambda: backend.batches == [20])
        backend.released.set()
        assert [(await client.hear())["id"] for _ in range(20)] == list(range(20))


async def test_a_stalled_store_leaves_the_rest_answering() -> None:
    backend = SlowBackend()
    async with serving(make_server(backend), MemoryTransport(piece=65536)) as client:
        client.say(*initialize(), call(1, "redis_set", key="a", value=1), ping(2))
        await client.hear()
        assert (await client.hear())["id"] == 2
        client.say(call(3, "redis_get", key="a"))
        client.say({"jsonrpc": "2.0", "id": 4, "method": "tools/list"})
        assert (await client.hear())["id"] == 4
        backend.released.set()
        assert [(await client.hear())["id"] for _ in range(2)] == [1, 3]


async def test_batches_that_waited_go_together_and_in_order() -> None:
    backend = SlowBackend()
    async with serving(make_server(backend), MemoryTransport(piece=65536)) as client:
        client.say(*initialize())
        await client.hear()
        for number in range(5):
            client.say(call(number, "redis_set", key="a", value=number))
            await _settled()
        client.say(call(5, "redis_get", key="a"))
        await _settled()
        backend.released.set()
        answers = [await client.hear() for _ in range(6)]
        assert [answer["id"] for answer in answers] == list(range(6))
        assert without_etag(answers[5]["result"]["structuredContent"]) == {"found": True, "value": 4}
        assert backend.batches == [1, 5]


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_store_that_raises_is_reported_and_survived(
    at_once: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(make_server(BrokenBackend(at_once=at_once)), MemoryTransport()) as client:
        client.say(*initialize(), call(1, "redis_set", key="a", value=1), call(2, "redis_get", key="a"))
        await client.hear()
        errors = [(await client.hear())["result"]["structuredContent"]["error"] for _ in range(2)]
        assert [error["code"] for error in errors] == ["UNKNOWN_OUTCOME", "TIMEOUT"]
        client.say(ping(3))
        assert (await client.hear())["id"] == 3
    assert "the backend raised" in caplog.text


async def test_too_many_waiting_calls_stop_the_reader() -> None:
    backend = SlowBackend()
    server = make_server(backend, pending_calls=4)
    async with serving(server, MemoryTransport(piece=65536)) as client:
        client.say(*initialize())
        await client.hear()
        for number in range(10):
            client.say(call(number, "redis_get", key="a"))
        await _settled()
        assert client.reads <= 8, "two for the handshake, one for each of four calls, and what was in flight"
        backend.released.set()
        assert [(await client.hear())["id"] for _ in range(10)] == list(range(10))


async def test_a_client_that_does_not_read_is_not_read_from() -> None:
    async with serving(make_server(), MemoryTransport(piece=65536, room=0)) as client:
        for number in range(50):
            client.say(ping(number))
        await _settled()
        assert client.reads <= 2
        assert [(await client.hear())["id"] for _ in range(50)] == list(range(50))


class ShortBackend(SlowBackend):
    """A store with a bug: it forgets a reply."""

    def __init__(self, *, at_once: bool) -> None:
        super().__init__()
        self._at_once = at_once

    def execute_soon(self, batch: Ops, done: Done) -> bool:
        if self._at_once:
            done([])
        return self._at_once

    async def execute(self, batch: Ops) -> Replies:
        return []


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_store_that_forgets_replies_is_reported_and_survived(
    at_once: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(make_server(ShortBackend(at_once=at_once)), MemoryTransport()) as client:
        client.say(*initialize(), call(1, "redis_get", key="a"))
        await client.hear()
        assert (await client.hear())["result"]["structuredContent"]["error"]["code"] == "TIMEOUT"
        client.say(ping(3))
        assert (await client.hear())["id"] == 3
    assert "0 replies to 1 operations" in caplog.text


async def test_large_answers_leave_piece_by_piece() -> None:
    server = make_server(output_bytes=20_000)
    async with serving(server, MemoryTransport(piece=65536, room=0, most=65536)) as client:
        client.say(call("set", "redis_set", MODERN_META, key="a", value="x" * 5000))
        await client.hear()
        client.say(b"".join(_line(call(n, "redis_get", MODERN_META, key="a")) for n in range(100)))
        assert [(await client.hear())["id"] for _ in range(100)] == list(range(100))
        client.say(ping("then"))
        assert (await client.hear())["id"] == "then"


# --- jobs ---


class Colour(Struct, forbid_unknown_fields=True):
    prefix: str = ""


def with_tools() -> Server:
    server = make_server()

    @server.tool(description="Reports progress, logs, answers.")
    async def busy(arguments: NoArguments, work: Work) -> str:
        await work.report_progress(1, total=2, message="half")
        await work.log("info", {"step": 1}, logger="busy")
        await work.log("error", "trouble")
        await work.report_progress(2, total=2)
        return "done"

    @server.tool(description="Asks the client for a colour, then for another one.")
    async def paint(arguments: Colour, work: Work) -> dict[str, object]:
        first = (await work.ask({"first": FORM}))["first"]
        second = (await work.ask({"second": FORM}))["second"]
        assert isinstance(first, ElicitResult)
        assert isinstance(second, ElicitResult)
        return {"colours": [first.action, second.action]}

    @server.tool(description="Never ends.")
    async def stuck(arguments: NoArguments, work: Work) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            server.stuck_ended = True  # type: ignore[attr-defined]  # seen by the tests

    @server.tool(description="Fails in three ways.")
    async def fail(arguments: Colour, work: Work) -> None:
        match arguments.prefix:
            case "tool":
                raise ToolFailed("NO_PAINT", "there is no paint left", retryable=True)
            case "request":
                raise RequestFailed(-32602, "no such colour", {"colour": "infrared"})
            case _:
                raise RuntimeError("secret detail")

    return server


async def test_progress_and_logs_of_a_coroutine() -> None:
    async with serving(with_tools(), MemoryTransport()) as client:
        client.say(*initialize())
        client.say({"jsonrpc": "2.0", "id": "l", "method": "logging/setLevel", "params": {"level": "info"}})
        client.say(call(1, "busy", {"progressToken": "p"}))
        heard = [await client.hear() for _ in range(7)]
        assert [m.get("method", m.get("id")) for m in heard] == [
            "init", "l", "notifications/progress", "notifications/message", "notifications/message",
            "notifications/progress", 1,
        ]  # fmt: skip
        assert heard[2]["params"] == {"progressToken": "p", "progress": 1, "total": 2, "message": "half"}
        assert heard[3]["params"] == {"level": "info", "logger": "busy", "data": {"step": 1}}
        assert heard[6]["result"]["content"] == [{"type": "text", "text": "done"}]


async def test_one_handler_asks_in_the_legacy_era() -> None:
    async with serving(with_tools(), MemoryTransport()) as client:
        client.say(*initialize(elicitation={}), call(1, "paint"))
        await client.hear()
        for action in ("accept", "decline"):
            asked = await client.hear()
            assert asked["method"] == "elicitation/create"
            client.say({"jsonrpc": "2.0", "id": asked["id"], "result": {"action": action}})
        assert (await client.hear())["result"]["structuredContent"] == {"colours": ["accept", "decline"]}


async def test_the_same_handler_asks_in_the_modern_era() -> None:
    async with serving(with_tools(), MemoryTransport()) as client:
        client.say(call(1, "paint", MODERN_META))
        first = (await client.hear())["result"]
        assert first["resultType"] == "input_required"
        assert list(first["inputRequests"]) == ["first"]
        second = await _next_round(client, 2, first, {"first": {"action": "accept"}})
        assert list(second["inputRequests"]) == ["second"]
        assert second["requestState"] != first["requestState"]
        done = await _next_round(client, 3, second, {"second": {"action": "cancel"}})
        assert done["structuredContent"] == {"colours": ["accept", "cancel"]}


async def _next_round(
    client: MemoryTransport, id: int, before: dict[str, Any], answers: dict[str, Any]
) -> dict[str, Any]:
    message = call(id, "paint", MODERN_META)
    message["params"] |= {"inputResponses": answers, "requestState": before["requestState"]}
    client.say(message)
    result: dict[str, Any] = (await client.hear())["result"]
    return result


async def test_a_cancelled_coroutine_ends_and_is_not_answered() -> None:
    server = with_tools()
    async with serving(server, MemoryTransport()) as client:
        client.say(*initialize(), call(1, "stuck"))
        await client.hear()
        await _settled()
        client.say(
            {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}, ping(2)
        )
        assert (await client.hear())["id"] == 2
        await _until(lambda: getattr(server, "stuck_ended", False))


async def test_failures_of_a_coroutine(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(with_tools(), MemoryTransport()) as client:
        client.say(*initialize(), *(call(kind, "fail", prefix=kind) for kind in ("tool", "request", "bug")))
        await client.hear()
        answers = {answer["id"]: answer for answer in [await client.hear() for _ in range(3)]}
        error = answers["tool"]["result"]["structuredContent"]["error"]
        assert error == {"code": "NO_PAINT", "message": "there is no paint left", "retryable": True}
        assert answers["request"]["error"]["data"] == {"colour": "infrared"}
        assert answers["bug"]["error"]["code"] == -32603
        assert "secret detail" not in str(answers["bug"])
    assert "secret detail" in caplog.text


async def test_a_stray_cancellation_fails_its_job_alone(
    anyio_backend_name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Awaiting a cancelled asyncio task raises CancelledError, as client libraries do now and then."""
    server = make_server()

    @server.tool(description="Awaits what was cancelled.")
    async def stray(arguments: NoArguments, work: Work) -> None:
        if anyio_backend_name == "trio":
            raise RuntimeError("trio has no such thing")
        task = asyncio.get_running_loop().create_future()
        task.cancel()
        await task

    async with serving(server, MemoryTransport()) as client:
        client.say(*initialize(), call(1, "stray"))
        await client.hear()
        assert (await client.hear())["error"]["code"] == -32603
        client.say(ping(2))
        assert (await client.hear())["id"] == 2
    assert "a tool's coroutine" in caplog.text


async def test_what_json_cannot_say_is_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    server = make_server()

    @server.tool(description="Divides by nothing.")
    async def ratio(arguments: NoArguments, work: Work) -> dict[str, object]:
        return {"ratios": [1.0, float("nan")]}

    async with serving(server, MemoryTransport()) as client:
        client.say(*initialize(), call(1, "ratio"))
        await client.hear()
        assert (await client.hear())["error"]["code"] == -32603
    assert "nan is no JSON number" in caplog.text


async def test_a_coroutine_asks_one_thing_at_a_time(caplog: pytest.LogCaptureFixture) -> None:
    server = make_server()

    @server.tool(description="Asks twice at once.")
    async def impatient(arguments: NoArguments, work: Work) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work.ask, {"first": FORM})
            tasks.start_soon(work.ask, {"second": FORM})

    async with serving(server, MemoryTransport()) as client:
        client.say(*initialize(elicitation={}), call(1, "impatient"))
        heard = [await client.hear() for _ in range(4)]
        assert [message.get("method", message.get("id")) for message in heard] == [
            "init", "elicitation/create", "notifications/cancelled", 1,
        ]  # fmt: skip
    assert "one question at a time" in caplog.text


# --- changes ---


async def test_a_change_is_told_without_any_input() -> None:
    server = make_server()
    async with serving(server, MemoryTransport()) as client:
        client.say(*initialize())
        await client.hear()
        await _settled()
        added = with_tools().catalog.tool("busy")
        assert added is not None
        server.add(added)
        assert (await client.hear())["method"] == "notifications/tools/list_changed"
        server.remove(added)
        assert (await client.hear())["method"] == "notifications/tools/list_changed"


async def test_a_listen_hears_of_changes_made_by_another_connection() -> None:
    server = with_tools()
    transport = MemoryTransport()
    async with serving(server, MemoryTransport()) as client, serving(server, transport) as other:
        listen = {"_meta": MODERN_META, "notifications": {"toolsListChanged": True}}
        client.say({"jsonrpc": "2.0", "id": 7, "method": "subscriptions/listen", "params": listen})
        assert (await client.hear())["method"] == "notifications/subscriptions/acknowledged"
        other.say(ping(1))
        tool = server.catalog.tool("busy")
        assert tool is not None
        server.remove(tool)
        changed = await client.hear()
        assert changed["params"]["_meta"] == {"io.modelcontextprotocol/subscriptionId": 7}
        client.hang_up()
        assert (await client.hear())["result"]["resultType"] == "complete"


# --- the end ---


async def test_end_of_input_answers_what_was_accepted_and_ends() -> None:
    server, client = make_server(), MemoryTransport()
    client.say(*initialize(), call(1, "redis_get", key="a"), b'{"jsonrpc":"2.0","id":2,"method":"ping"}')
    client.hang_up()
    with anyio.fail_after(PATIENCE):
        await server.serve(client)
    assert [(await client.hear())["id"] for _ in range(3)] == ["init", 1, 2]
    client.close()


async def test_end_of_input_waits_for_the_store() -> None:
    backend = SlowBackend()
    server, client = make_server(backend), MemoryTransport()
    client.say(*initialize(), call(1, "redis_set", key="a", value=1))
    client.hang_up()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, client)
        await _until(lambda: backend.batches == [1])
        backend.released.set()
    assert [(await client.hear())["id"] for _ in range(2)] == ["init", 1]
    client.close()


async def test_stop_finishes_what_was_accepted() -> None:
    backend = SlowBackend()
    server = make_server(backend)
    async with serving(server, MemoryTransport()) as client:
        client.say(*initialize(), call(1, "redis_set", key="a", value=1))
        await client.hear()
        await _until(lambda: backend.batches == [1])
        server.stop()
        backend.released.set()
        assert without_etag((await client.hear())["result"]["structuredContent"]) == {"ok": True}


async def test_a_broken_pipe_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server, client = make_server(), MemoryTransport()
    client.broken = True
    client.say(*initialize())
    with anyio.fail_after(PATIENCE):
        await server.serve(client)
    client.close()
    assert not caplog.records


async def test_a_stop_while_it_writes_leaves_no_half_message() -> None:
    server = make_server()
    async with serving(server, MemoryTransport(piece=65536, room=0)) as client:
        client.say(ping(1), ping(2))
        await _settled()
        server.stop()
        await _settled()
        assert (await client.hear())["id"] == 1


async def test_two_servers_in_one_loop_share_nothing() -> None:
    one, two = make_server(), make_server()
    async with serving(one, MemoryTransport()) as a, serving(two, MemoryTransport()) as b:
        a.say(call(1, "redis_set", MODERN_META, key="k", value=1))
        await a.hear()
        b.say(call(1, "redis_get", MODERN_META, key="k"))
        assert (await b.hear())["result"]["structuredContent"] == {"found": False}


async def test_two_connections_share_the_store() -> None:
    server = Server("shared", backend=MemoryBackend(clock=time.monotonic), items=redis_tools())
    async with serving(server, MemoryTransport()) as a, serving(server, MemoryTransport()) as b:
        a.say(call(1, "redis_set", MODERN_META, key="k", value=1))
        await a.hear()
        b.say(call(1, "redis_get", MODERN_META, key="k"))
        assert without_etag((await b.hear())["result"]["structuredContent"]) == {"found": True, "value": 1}


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


async def _settled() -> None:
    """Let every task run until it waits."""
    await anyio.wait_all_tasks_blocked()


async def _until(condition: Any) -> None:
    with anyio.fail_after(PATIENCE):
        while not condition():
            await anyio.wait_all_tasks_blocked()
