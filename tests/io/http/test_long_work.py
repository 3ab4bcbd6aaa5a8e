"""Work that outlives its connection or its request, over real sockets: hanging up, and tasks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from msgspec import Struct

from kvmcp import RequestFailed, Server, ToolFailed, Work, filled, form
from kvmcp.io.asgi import HttpOptions
from tests.io.http.support import ACCEPTS, Mcp, legacy, modern, modern_headers, serving
from tests.io.support import MODERN_META, MemoryTransport, make_server, serving as serving_lines
from tests.patience import PATIENCE

pytestmark = [
    pytest.mark.anyio,
    # httpx leaves generators of its own open when a stream is not read to its end; trio tells.
    pytest.mark.filterwarnings("ignore:.*async_generator object.*:pytest.PytestUnraisableExceptionWarning"),
]

TASKS = "io.modelcontextprotocol/tasks"
CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"


class Name(Struct):
    name: str


class Held:
    """A server whose tools go on when the test says so."""

    def __init__(self) -> None:
        self.server: Server = make_server()
        self.go = anyio.Event()
        self.ended = anyio.Event()
        server = self.server

        @server.tool()
        async def patient(work: Work) -> str:
            await work.hang_up()
            await self.go.wait()
            return "late"

        @server.tool(task_support="optional")
        async def job(work: Work) -> str:
            await work.report_progress(1, 2, "half")
            try:
                await self.go.wait()
            finally:
                self.ended.set()
            return "done"

        @server.tool(task_support="required")
        async def ask(work: Work) -> str:
            person = filled((await work.ask({"who": form("Who are you?", Name)}))["who"], Name)
            return "nobody" if person is None else person.name

        @server.tool(task_support="required")
        async def fail(work: Work) -> str:
            raise ToolFailed("BROKEN", "it broke")

        @server.tool(task_support="required")
        async def refuse(work: Work) -> str:
            raise RequestFailed(-31000, "no")


class Client:
    """A client of 2026-07-28 that knows tasks."""

    def __init__(self, http: Mcp) -> None:
        self._http = http
        self._ids = iter(range(1, 1000))

    async def ask(self, method: str, **params: Any) -> Any:
        response = await self._send(self.message(method, **params))
        return response.json()["result"]

    async def _send(self, message: Any) -> Any:
        headers = modern_headers(message)
        if "taskId" in message["params"]:
            headers["mcp-name"] = message["params"]["taskId"]
        return await self._http.http.post("/mcp", json=message, headers=headers)

    def message(self, method: str, **params: Any) -> Any:
        message = modern(method, next(self._ids), **params)
        capabilities: dict[str, Any] = {"elicitation": {}, "extensions": {TASKS: {}}}
        message["params"]["_meta"] = {**message["params"]["_meta"], CAPABILITIES: capabilities}
        return message

    async def create(self, tool: str) -> str:
        created = await self.ask("tools/call", name=tool)
        assert created["resultType"] == "task", created
        id: str = created["taskId"]
        return id

    async def get(self, id: str) -> Any:
        return await self.ask("tasks/get", taskId=id)

    @asynccontextmanager
    async def listen(self, id: str) -> AsyncIterator[Any]:
        """Yields what waits for a status, as it is told, and gives the task."""
        message = self.message("subscriptions/listen", notifications={"taskIds": [id]})
        async with self._http.stream("POST", message, modern_headers(message)) as events:
            assert (await events.message())["params"]["notifications"]["taskIds"] == [id]

            async def until(status: str) -> Any:
                # What changed before the listen was opened is not told: look once, then wait.
                task = await self.get(id)
                with anyio.fail_after(PATIENCE):
                    while task["status"] != status:
                        task = (await events.message())["params"]
                return task

            yield until


@asynccontextmanager
async def the_server(options: HttpOptions | None = None) -> AsyncIterator[tuple[Held, Client, Mcp]]:
    held = Held()
    async with serving(held.server, options) as http:
        yield held, Client(http), http


# --- hanging up ---


async def test_a_tool_lets_go_of_its_connection_and_the_client_comes_back() -> None:
    async with the_server() as (held, _, http):
        await http.initialize()
        async with http.stream("POST", legacy("tools/call", 7, name="patient")) as events:
            priming = await events.event()
            assert priming is not None and priming["data"] == "" and "retry" in priming
            assert await events.event() is None, "the server has ended the response"
        headers = {**ACCEPTS, **http.session, "last-event-id": priming["id"]}
        async with http.stream("GET", headers=headers) as events:
            held.go.set()
            late = await events.message()
        assert (late["id"], late["result"]["content"][0]["text"]) == (7, "late")


async def test_where_nobody_could_come_back_hanging_up_does_nothing() -> None:
    async with the_server() as (held, client, _):
        held.go.set()
        assert (await client.ask("tools/call", name="patient"))["content"][0]["text"] == "late"


# --- answers that can be had again ---


async def test_an_answer_that_was_lost_is_had_again() -> None:
    async with the_server(HttpOptions(resumable=True)) as (_, _, http):
        await http.initialize()
        async with http.stream("POST", legacy("tools/list", 3)) as events:
            priming = await events.event()
            first = await events.message()
        assert priming is not None
        headers = {**ACCEPTS, **http.session, "last-event-id": priming["id"]}
        async with http.stream("GET", headers=headers) as events:
            assert await events.message() == first
            assert await events.message() is None


# --- tasks ---


async def test_a_task_says_how_far_it_is_and_how_it_ended() -> None:
    async with the_server() as (held, client, _):
        id = await client.create("job")
        async with client.listen(id) as until:
            with anyio.fail_after(PATIENCE):
                while (task := await client.get(id)).get("statusMessage") is None:
                    await anyio.lowlevel.checkpoint()
            assert (task["status"], task["statusMessage"]) == ("working", "half")
            held.go.set()
            task = await until("completed")
        assert task["result"]["content"][0]["text"] == "done"
        assert "statusMessage" not in task


async def test_a_client_without_tasks_waits_for_the_tool() -> None:
    async with the_server() as (held, _, http):
        held.go.set()
        assert (await http.call_modern("job"))["content"][0]["text"] == "done"
        await http.initialize()
        legacy_result = await http.request("tools/call", 3, name="job", arguments={})
        assert legacy_result["content"][0]["text"] == "done"


async def test_a_task_asks_and_goes_on_with_the_answer() -> None:
    async with the_server() as (_, client, _):
        id = await client.create("ask")
        async with client.listen(id) as until:
            task = await until("input_required")
            assert task["inputRequests"]["who"]["params"]["message"] == "Who are you?"
            given = {"who": {"action": "accept", "content": {"name": "Ada"}}}
            await client.ask("tasks/update", taskId=id, inputResponses=given)
            task = await until("completed")
        assert task["result"]["content"][0]["text"] == "Ada"


@pytest.mark.parametrize(("tool", "status"), [("fail", "completed"), ("refuse", "failed")])
async def test_a_task_fails_as_a_tool_or_as_a_request(tool: str, status: str) -> None:
    async with the_server() as (_, client, _):
        id = await client.create(tool)
        async with client.listen(id) as until:
            task = await until(status)
        if status == "failed":
            assert task["error"] == {"code": -31000, "message": "no"}
        else:
            assert task["result"]["isError"] is True


async def test_a_task_that_is_cancelled_stops_its_coroutine() -> None:
    async with the_server() as (held, client, _):
        id = await client.create("job")
        await client.ask("tasks/cancel", taskId=id)
        assert (await client.get(id))["status"] == "cancelled"
        with anyio.fail_after(PATIENCE):
            await held.ended.wait()


async def test_a_task_of_a_connection_on_a_stream_of_lines() -> None:
    held = Held()
    meta = {**MODERN_META, CAPABILITIES: {"extensions": {TASKS: {}}}}

    def message(id: int, method: str, **params: Any) -> Any:
        return {"jsonrpc": "2.0", "id": id, "method": method, "params": {**params, "_meta": meta}}

    async with serving_lines(held.server, MemoryTransport(piece=4096)) as client:
        client.say(message(1, "tools/call", name="job"))
        id = (await client.hear())["result"]["taskId"]
        client.say(message(2, "subscriptions/listen", notifications={"taskIds": [id]}))
        assert (await client.hear())["method"] == "notifications/subscriptions/acknowledged"
        held.go.set()
        task = (await client.hear())["params"]
        while task["status"] != "completed":
            task = (await client.hear())["params"]
        assert task["result"]["content"][0]["text"] == "done"
