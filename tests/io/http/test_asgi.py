"""The ASGI application by itself, called as a server would call it: no sockets, both loops.

What it routes, whom it lets in, how it starts and ends, what operators are told, and that nothing of a request is
left when its client has gone.
"""

import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from kvmcp.backends.base import Ops, Replies
from kvmcp.backends.ops import Message as StoreMessage, Namespace
from kvmcp.io.asgi import HttpApp, HttpOptions
from kvmcp.io.endpoint import Message
from kvmcp.server import Server
from tests.io.http.asgi_support import LOCAL, Asked, get, posted
from tests.io.http.support import ACCEPTS, INITIALIZE, LEGACY, add_waiting_tool, legacy, modern
from tests.io.support import SlowBackend, make_server
from tests.patience import PATIENCE

pytestmark = pytest.mark.anyio

EVENTS = {**LOCAL, "accept": "text/event-stream"}
GET_A = modern("tools/call", name="redis_get", arguments={"key": "a"})


def waiting_server(backend: Any = None, **limits: Any) -> tuple[Server, dict[str, Any]]:
    """A server with a tool that runs until it is let go, and notes how it ended."""
    server = make_server(backend, **limits)

    return server, add_waiting_tool(server)


async def session_of(app: HttpApp) -> dict[str, str]:
    """The headers of a new legacy session."""
    hello = await posted(INITIALIZE, ACCEPTS).run(app)
    assert hello.status == 200
    return {**ACCEPTS, "mcp-session-id": hello.headers["mcp-session-id"], "mcp-protocol-version": LEGACY}


async def until(true: Callable[[], bool]) -> None:
    with anyio.fail_after(PATIENCE):
        while not true():
            await anyio.wait_all_tasks_blocked()


# --- paths ---


@pytest.mark.parametrize(
    "path,root_path,status",
    [
        ("/mcp", "", 200),
        ("/mcp/", "", 200),
        ("/kv/mcp", "/kv", 200),
        ("/kv/mcp", "/kv/", 200),
        ("/mcp", "/", 200),
        ("/mcp", "/kv", 200),  # a server that has taken the root away
        ("/mcp/mcp", "/mcp", 200),
        ("/mcp/deeper", "", 404),
        ("/kvmcp", "/kv", 404),
        ("/kvmcp/mcp", "/kv", 404),
        ("/", "", 404),
        ("", "", 404),
        ("//mcp", "", 404),
        ("/mcp/../healthz", "", 404),
        ("/MCP", "", 404),
        ("/ws", "", 404),
        ("/sse", "", 404),
        ("/\ud800\n", "", 404),
    ],
)
async def test_paths(path: str, root_path: str, status: int) -> None:
    app = make_server().http_app()
    async with app.running():
        call = posted(GET_A)
        call.scope.update(path=path, root_path=root_path)
        await call.run(app)
    assert (call.status, call.complete) == (status, True)


@pytest.mark.parametrize(
    "given,path,status",
    [
        ("/", "/", 200),
        ("/", "/mcp", 404),
        ("/api/mcp", "/api/mcp", 200),
        ("/api/mcp/", "/api/mcp", 200),
        ("/api/mcp/", "/api/mcp/", 200),
    ],
)
async def test_the_path_is_chosen(given: str, path: str, status: int) -> None:
    app = make_server().http_app(HttpOptions(path=given))
    async with app.running():
        call = posted(GET_A, path=path)
        assert (await call.run(app)).status == status
        assert (await get(app, "/healthz")).status == 200


@pytest.mark.parametrize("path", ["", "mcp", "/healthz", "/metrics/", "/ws"])
def test_a_path_that_cannot_be_reached_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        make_server().http_app(HttpOptions(path=path))


def test_the_paths_of_the_older_transport_are_its_own() -> None:
    with pytest.raises(ValueError, match="path"):
        make_server().http_app(HttpOptions(path="/sse", legacy_sse=True))
    make_server().http_app(HttpOptions(path="/sse"))


@pytest.mark.parametrize(
    "root,shown",
    [("", "/messages"), ("/kv", "/kv/messages"), ("/a b\n/é?#", "/a%20b%0A/%C3%A9%3F%23/messages")],
)
async def test_the_older_transport_names_its_address_where_it_is_mounted(root: str, shown: str) -> None:
    app = make_server().http_app(HttpOptions(legacy_sse=True))
    async with app.running(), anyio.create_task_group() as tasks:
        stream = Asked("GET", f"{root}/sse", EVENTS, root_path=root)
        tasks.start_soon(stream.run, app)
        await stream.holds(b"\n\n")
        kind, data, *_ = stream.body.decode().split("\n")
        address, _, query = data.removeprefix("data: ").partition("?")
        assert (kind, address) == ("event: endpoint", shown)
        hello = posted(INITIALIZE, ACCEPTS, f"{root}/messages")
        hello.scope.update(root_path=root, query_string=query.encode())
        assert (await hello.run(app)).status == 202
        await stream.holds(b"protocolVersion")
        stream.leave()


@pytest.mark.parametrize("path", ["/mcp", "/healthz", "/readyz", "/health", "/metrics", "/nothing", "/sse"])
async def test_head_has_no_body(path: str) -> None:
    app = make_server().http_app(HttpOptions(legacy_sse=True))
    async with app.running():
        head = await Asked("HEAD", path).run(app)
        shown = await Asked("GET", path).run(app) if path not in ("/mcp", "/sse") else None
    assert (head.body, head.complete) == (b"", True)
    if shown is not None:
        assert head.status == shown.status


async def test_other_kinds_of_scope() -> None:
    app = make_server().http_app()
    for other in (app, app.operators("127.0.0.1")):
        with pytest.raises(ValueError, match="carrier pigeons"):
            await other({"type": "carrier pigeons"}, _nothing, _nowhere)


async def _nothing() -> Message:
    await anyio.sleep_forever()
    return {}


async def _nowhere(message: Message) -> None:
    raise AssertionError(message)


# --- who may come in ---


@pytest.mark.parametrize(
    "headers,status",
    [
        ({}, 400),
        ({"host": "evil.example"}, 421),
        ({"host": "localhost.evil.example"}, 421),
        ({"host": "localhost", "origin": "https://evil.example"}, 403),
        ({"host": "localhost", "origin": "null"}, 403),
        ({"host": "localhost", "origin": "http://localhost.evil.example"}, 403),
    ],
)
@pytest.mark.parametrize("path", ["/mcp", "/healthz", "/readyz", "/health", "/metrics", "/nothing"])
async def test_strangers_stay_outside(path: str, headers: dict[str, str], status: int) -> None:
    app = make_server().http_app()
    async with app.running():
        for served in (app, app.operators("127.0.0.1")):
            asked = await get(served, path, headers)
            assert asked.status == status
            assert asked.headers["x-content-type-options"] == "nosniff"
            assert "access-control-allow-origin" not in asked.headers


async def test_a_page_that_is_allowed_may_read_every_answer() -> None:
    app = make_server().http_app(HttpOptions(allowed_origins=("https://good.example",)))
    page = {"origin": "https://good.example"}
    async with app.running():
        for path in ("/mcp", "/healthz", "/nothing"):
            asked = await get(app, path, {**LOCAL, **page})
            assert asked.headers["access-control-allow-origin"] == "https://good.example"
        wanted = {"access-control-request-headers": "mcp-param-x", "access-control-request-method": "POST"}
        preflight = await Asked("OPTIONS", "/mcp", {**LOCAL, **page, **wanted}).run(app)
    assert (preflight.status, preflight.body) == (204, b"")
    assert preflight.headers["access-control-allow-headers"] == "mcp-param-x"


async def test_operators_on_another_address_have_its_names() -> None:
    app = make_server().http_app()
    async with app.running():
        assert (await get(app, "/healthz", {"host": "10.0.0.7:9"})).status == 421
        assert (await get(app.operators("10.0.0.7"), "/healthz", {"host": "10.0.0.7:9"})).status == 200
        assert (await get(app.operators("10.0.0.7"), "/mcp", {"host": "10.0.0.7:9"})).status == 404


# --- start and end ---


class Lifespan:
    """What an ASGI server does at its start and its end."""

    def __init__(self) -> None:
        self.said: list[Message] = []
        self.stop = anyio.Event()
        self.answered = anyio.Event()
        self._asked = 0

    async def receive(self) -> Message:
        self._asked += 1
        if self._asked == 1:
            return {"type": "lifespan.startup"}
        await self.stop.wait()
        return {"type": "lifespan.shutdown"}

    async def send(self, message: Message) -> None:
        self.said.append(message)
        self.answered.set()

    @property
    def kinds(self) -> list[str]:
        return [message["type"] for message in self.said]


async def test_a_life() -> None:
    app = make_server().http_app()
    life = Lifespan()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(app, {"type": "lifespan"}, life.receive, life.send)
        with anyio.fail_after(PATIENCE):
            await life.answered.wait()
        assert (await posted(GET_A).run(app)).status == 200
        life.stop.set()
    assert life.kinds == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert (await posted(GET_A).run(app)).status == 503


class Unstartable(SlowBackend):
    """A store that does not start, the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.starts = 0

    async def start(self) -> None:
        self.starts += 1
        if self.starts == 1:
            raise OSError("no such store")
        await super().start()


async def test_a_start_that_fails_is_told() -> None:
    """Raising would mean that there is no lifespan here, and servers would go on without it."""
    backend = Unstartable()
    app = make_server(backend).http_app()
    life = Lifespan()
    await app({"type": "lifespan"}, life.receive, life.send)
    assert life.kinds == ["lifespan.startup.failed"]
    assert "no such store" in life.said[0]["message"]
    async with app.running():  # A second try is a new one.
        assert backend.starts == 2
        assert (await get(app, "/readyz")).status == 200


async def test_it_runs_once_at_a_time() -> None:
    app = make_server().http_app()
    async with app.running():
        with pytest.raises(RuntimeError, match="running already"):
            async with app.running():
                raise AssertionError
        assert (await get(app, "/healthz")).status == 200


async def test_before_and_after_it_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    app = make_server().http_app()
    for _ in range(3):
        asked = await get(app, "/mcp")
        assert (asked.status, "running" in asked.json()["error"]) == (503, True)
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1
    async with app.running():
        pass
    caplog.clear()
    assert (await get(app.operators("127.0.0.1"), "/readyz")).status == 503
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_one_application_on_one_loop_after_the_other() -> None:
    server = make_server()
    app = server.http_app()

    async def main() -> int:
        async with app.running():
            session = await session_of(app)
            ping = await posted(legacy("ping"), session).run(app)
            assert (await get(app, "/readyz")).status == 200
            assert (await posted(GET_A).run(app)).status == 200
            return ping.status

    assert [anyio.run(main, backend=loop) for loop in ("asyncio", "trio", "asyncio")] == [200] * 3


async def test_two_applications_of_one_server() -> None:
    server = make_server()
    one, other = server.http_app(), server.http_app(HttpOptions(path="/other"))
    async with one.running():
        async with other.running():
            message = modern("tools/call", name="redis_set", arguments={"key": "a", "value": 1})
            assert (await posted(message, path="/other").run(other)).status == 200
        found = await posted(GET_A).run(one)
        assert found.json()["result"]["structuredContent"]["value"] == 1
        assert (await get(other, "/other")).status == 503


@pytest.mark.parametrize("whole", [False, True])
async def test_who_is_still_there_at_the_end_is_answered(whole: bool) -> None:
    server, seen = waiting_server()
    app = server.http_app()
    call = posted(modern("tools/call", name="wait", arguments={}), whole=whole)
    async with anyio.create_task_group() as tasks, app.running():
        tasks.start_soon(call.run, app)
        await seen["started"].wait()
        app.stop()
        assert (await get(app, "/readyz")).status == 503
        assert (await get(app, "/health")).status == 503
        assert (await get(app, "/healthz")).status == 200
        assert (await posted(GET_A).run(app)).status == 503
        seen["go"].set()
    assert (call.status, call.json()["result"]["content"][0]["text"]) == (200, "finished")


@pytest.mark.parametrize("whole", [False, True])
async def test_the_end_does_not_wait_beyond_its_grace(whole: bool) -> None:
    server, seen = waiting_server(shutdown_grace=0.05)
    app = server.http_app()
    call = posted(modern("tools/call", name="wait", arguments={}), whole=whole)
    async with anyio.create_task_group() as tasks, app.running():
        tasks.start_soon(call.run, app)
        await seen["started"].wait()
    assert (seen["how"], call.complete, _is_error(call)) == ("cancelled", True, True)


async def test_a_body_that_is_still_arriving_does_not_hold_up_the_end() -> None:
    app = make_server().http_app()
    call = posted(GET_A)
    half = Asked("POST", "/mcp", {}, None)
    half.scope = call.scope
    async with app.running(), anyio.create_task_group() as tasks:
        tasks.start_soon(half.run, app)
        await anyio.wait_all_tasks_blocked()
        app.stop()
        await until(lambda: half.complete)
    assert half.status == 503


@pytest.mark.parametrize("whole", [False, True])
async def test_a_store_that_hangs_leaves_nobody_without_an_answer(whole: bool) -> None:
    backend = SlowBackend()
    server = make_server(backend, shutdown_grace=0.05)
    app = server.http_app()
    call = posted(GET_A, whole=whole)
    async with anyio.create_task_group() as tasks, app.running():
        tasks.start_soon(call.run, app)
        await anyio.wait_all_tasks_blocked()
        app.stop()
        with anyio.fail_after(PATIENCE):
            await until(lambda: call.complete)
        assert app.idle
        backend.released.set()  # Whoever waits for nothing else goes when the store answers, as stores do in time.
    assert _is_error(call)


def _is_error(call: Asked) -> bool:
    return "error" in call.json() or call.json()["result"]["isError"]


async def test_a_call_whose_client_left_is_finished_before_the_end() -> None:
    """A legacy client that lost its connection comes back for the rest, to another process where this one ends."""
    server, seen = waiting_server()
    app = server.http_app()
    async with anyio.create_task_group() as tasks:
        async with app.running():
            session = await session_of(app)
            call = posted(legacy("tools/call", name="wait", arguments={}), session)
            tasks.start_soon(call.run, app)
            await seen["started"].wait()
            call.leave()
            await anyio.wait_all_tasks_blocked()
            app.stop()
            tasks.start_soon(_let_go, seen)
        assert seen["how"] == "finished"


async def _let_go(seen: dict[str, Any]) -> None:
    await anyio.wait_all_tasks_blocked()
    seen["go"].set()


class Late(SlowBackend):
    """A store that takes a while."""

    async def execute(self, batch: Ops) -> Replies:
        await anyio.wait_all_tasks_blocked()
        return await self.store.execute(batch)


async def test_what_other_processes_should_know_goes_out_before_the_end() -> None:
    backend = Late()
    server = make_server(backend)
    app = server.http_app(HttpOptions(replicated=True))
    told: list[bytes] = []
    channel = Namespace("kvmcp").key("relays", "r")

    async def hear() -> None:
        async with backend.watch(channels=[channel]) as events:
            async for event in events:
                assert isinstance(event, StoreMessage)
                told.append(event.message)

    async with server.running(), anyio.create_task_group() as tasks:
        tasks.start_soon(hear)
        async with app.running():
            session = await session_of(app)
            await anyio.wait_all_tasks_blocked()
            told.clear()
            ended = await Asked("DELETE", "/mcp", {**LOCAL, **session}).run(app)
            assert ended.status in (200, 204)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert told


class Raising(SlowBackend):
    """A store with a bug in all that waits."""

    async def execute(self, batch: Ops) -> Replies:
        raise RuntimeError("a bug")

    def watch(self, keys: Any = (), channels: Any = ()) -> Any:
        raise RuntimeError("a bug")


@pytest.mark.parametrize("whole", [False, True])
async def test_a_store_that_raises_ends_nothing(whole: bool) -> None:
    app = make_server(Raising()).http_app(HttpOptions(replicated=True))
    async with app.running():
        session = await session_of(app)
        assert (await Asked("DELETE", "/mcp", {**LOCAL, **session}).run(app)).status in (200, 204, 503)
        await anyio.wait_all_tasks_blocked()
        assert (await get(app, "/healthz")).status == 200
        assert _is_error(await posted(GET_A, whole=whole).run(app))


async def test_no_websocket_begins_at_the_end() -> None:
    app = make_server().http_app()
    sent: list[str] = []

    async def receive() -> Message:
        if not sent:
            return {"type": "websocket.connect"}
        return await _nothing()

    async def send(message: Message) -> None:
        sent.append(message["type"])

    async with app.running():
        app.stop()
        scope = {"type": "websocket", "path": "/ws", "headers": [(b"host", b"localhost")], "subprotocols": []}
        with anyio.fail_after(PATIENCE):
            await app(scope, receive, send)
    assert sent == ["websocket.close"]


# --- nothing is left ---


class PatientBackend(SlowBackend):
    """A store that may take so long that clients need a sign of life meanwhile."""

    @property
    def time_limit(self) -> float:
        return 60.0


@pytest.mark.parametrize("kind", [SlowBackend, PatientBackend])
@pytest.mark.parametrize("whole", [False, True])
async def test_a_request_leaves_no_task_behind(kind: type[SlowBackend], whole: bool) -> None:
    backend = kind()
    backend.released.set()
    app = make_server(backend).http_app()
    async with app.running():
        await anyio.wait_all_tasks_blocked()
        before = len(anyio.get_running_tasks())
        session = await session_of(app)
        for _ in range(5):
            assert (await posted(GET_A, whole=whole).run(app)).status == 200
            call = legacy("tools/call", name="redis_get", arguments={"key": "a"})
            assert (await posted(call, session, whole=whole).run(app)).status == 200
        await anyio.wait_all_tasks_blocked()
        assert len(anyio.get_running_tasks()) == before
        assert app.idle


@pytest.mark.parametrize("kind", [SlowBackend, PatientBackend])
@pytest.mark.parametrize("era", ["modern", "legacy"])
@pytest.mark.parametrize("how", ["cancelled", "disconnected"])
@pytest.mark.parametrize("whole", [False, True])
async def test_a_client_that_leaves_while_the_store_works_leaves_nothing(
    kind: type[SlowBackend], era: str, how: str, whole: bool
) -> None:
    backend = kind()
    app = make_server(backend).http_app()
    async with app.running(), anyio.create_task_group() as tasks:
        session = await session_of(app)
        await anyio.wait_all_tasks_blocked()
        before = len(anyio.get_running_tasks())
        call = posted(GET_A, whole=whole) if era == "modern" else posted(_legacy_get(), session, whole=whole)
        with anyio.CancelScope() as scope:

            async def leave() -> None:
                await anyio.wait_all_tasks_blocked()
                call.leave()
                if how == "cancelled":
                    scope.cancel()
                await anyio.wait_all_tasks_blocked()
                backend.released.set()

            tasks.start_soon(leave)
            await call.run(app)
        await until(lambda: app.idle)
        await until(lambda: len(anyio.get_running_tasks()) == before)


def _legacy_get() -> Any:
    return legacy("tools/call", name="redis_get", arguments={"key": "a"})


@pytest.mark.parametrize("era", ["modern", "legacy"])
async def test_a_client_that_leaves_while_a_tool_runs(era: str) -> None:
    server, seen = waiting_server()
    app = server.http_app()
    async with app.running(), anyio.create_task_group() as tasks:
        session = await session_of(app)
        message = (legacy if era == "legacy" else modern)("tools/call", name="wait", arguments={})
        call = posted(message, session if era == "legacy" else None)
        tasks.start_soon(call.run, app)
        await seen["started"].wait()
        call.leave()
        if era == "legacy":
            await anyio.wait_all_tasks_blocked()
            assert not seen["ended"].is_set()
            seen["go"].set()
        with anyio.fail_after(PATIENCE):
            await seen["ended"].wait()
        assert seen["how"] == ("cancelled" if era == "modern" else "finished")
        await until(lambda: app.idle)


@pytest.mark.parametrize("fault", [ConnectionResetError(), RuntimeError("a server's own")])
@pytest.mark.parametrize("path", ["/mcp", "/sse"])
async def test_a_stream_that_cannot_be_written_is_over(fault: Exception, path: str) -> None:
    server = make_server()
    app = server.http_app(HttpOptions(legacy_sse=True))
    async with app.running():
        stream = Asked("GET", path, {**LOCAL, **await session_of(app), "accept": "text/event-stream"})
        stream.fault = fault
        if isinstance(fault, OSError):
            await stream.run(app)
        else:
            with pytest.raises(RuntimeError, match="own"):
                await stream.run(app)
        await until(lambda: app.idle)


async def test_streams_count_until_their_clients_leave() -> None:
    app = make_server().http_app(HttpOptions(legacy_sse=True))
    async with app.running(), anyio.create_task_group() as tasks:
        stream = Asked("GET", "/sse", EVENTS)
        tasks.start_soon(stream.run, app)
        await stream.holds(b"\n\n")
        assert not app.idle
        stream.leave()
        await until(lambda: app.idle)


# --- for operators ---


class Probed(SlowBackend):
    """A store that counts how often it is asked, and answers when it is told to."""

    def __init__(self, answer: str | None | Exception = None) -> None:
        super().__init__()
        self.answer = answer
        self.asked = 0
        self.may_answer = anyio.Event()

    async def check(self) -> str | None:
        self.asked += 1
        await self.may_answer.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    "answer,status,text",
    [
        (None, 200, "ready\n"),
        ("it hides", 503, "not ready: it hides\n"),
        (RuntimeError("redis://u:secret@h"), 503, "not ready: the store does not answer\n"),
    ],
)
async def test_the_store_is_asked_once_however_many_ask(
    answer: str | None | Exception, status: int, text: str
) -> None:
    backend = Probed(answer)
    app = make_server(backend).http_app()
    probes = [Asked("GET", "/readyz") for _ in range(20)]
    async with app.running():
        async with anyio.create_task_group() as tasks:
            for probe in probes:
                tasks.start_soon(probe.run, app)
            await anyio.wait_all_tasks_blocked()
            backend.may_answer.set()
        probes.append(await get(app, "/readyz"))
    assert {(probe.status, probe.body.decode()) for probe in probes} == {(status, text)}
    assert backend.asked == 1


async def test_a_probe_that_gives_up_does_not_answer_for_others() -> None:
    backend = Probed()
    app = make_server(backend).http_app()
    async with app.running(), anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            first, second = Asked("GET", "/readyz"), Asked("GET", "/readyz")

            async def others() -> None:
                await anyio.wait_all_tasks_blocked()
                tasks.start_soon(second.run, app)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
                backend.may_answer.set()

            tasks.start_soon(others)
            await first.run(app)
        await until(lambda: second.complete)
    assert (first.status, second.status) == (0, 200)


@pytest.mark.parametrize(
    "accept,is_json",
    [
        (None, False),
        ("*/*", False),
        ("application/json", True),
        ("Application/JSON; q=0.9", True),
        ("application/json, text/plain, */*", False),
        ("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", False),
    ],
)
async def test_metrics_in_two_forms(accept: str | None, is_json: bool) -> None:
    app = make_server().http_app()
    async with app.running():
        asked = await get(app, "/metrics", LOCAL if accept is None else {**LOCAL, "accept": accept})
    assert asked.status == 200
    if is_json:
        assert set(asked.json()) == {
            "uptime_seconds",
            "total_requests",
            "total_errors",
            "active_sessions",
            "registered_tools",
            "server_name",
            "version",
            "timestamp",
        }
    else:
        assert asked.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert b"\nkvmcp_http_requests_total 0\n" in asked.body


async def test_health_says_who_and_since_when() -> None:
    app = make_server().http_app()
    async with app.running():
        shown = (await get(app, "/health")).json()
    assert set(shown) == {"status", "timestamp", "uptime_seconds", "version", "server_name"}
    assert (shown["status"], shown["server_name"]) == ("ok", "kvmcp-test")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
async def test_operators_only_look(method: str) -> None:
    app = make_server().http_app()
    async with app.running():
        asked = await Asked(method, "/metrics").run(app)
    assert (asked.status, asked.headers["allow"]) == (405, "GET, HEAD")


async def test_health_may_be_elsewhere() -> None:
    app = make_server().http_app(HttpOptions(health=False))
    async with app.running():
        assert (await get(app, "/healthz")).status == 404
        assert (await get(app.operators("127.0.0.1"), "/healthz")).body == b"ok\n"


async def test_what_is_counted() -> None:
    app = make_server().http_app()
    async with app.running():
        await session_of(app)
        assert (await posted(GET_A).run(app)).status == 200
        assert (await posted(GET_A, {}).run(app)).status == 415
        await get(app, "/healthz")
        await get(app, "/nothing")
        broken = posted(GET_A)
        broken.fault = RuntimeError("a server's own")
        with pytest.raises(RuntimeError):
            await broken.run(app)
        shown = (await get(app, "/metrics", {**LOCAL, "accept": "application/json"})).json()
    assert (shown["total_requests"], shown["total_errors"]) == (4, 2)
