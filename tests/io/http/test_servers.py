"""Whole conversations over real sockets: Hypercorn's protocols on both loops, uvicorn on asyncio."""

import ssl
import subprocess
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from kvmcp.core.subscriptions import ListChanged
from kvmcp.core.wire.common import ElicitForm, ElicitResult
from kvmcp.io.asgi import HttpOptions
from kvmcp.io.work import Work
from kvmcp.server import Server
from tests.io.http.support import (
    ACCEPTS,
    Mcp,
    add_waiting_tool,
    connected,
    legacy,
    listening,
    modern,
    modern_headers,
    serving,
)
from tests.io.support import NoArguments, SlowBackend, make_server
from tests.patience import PATIENCE
from tests.tools.support import without_etag

pytestmark = [
    pytest.mark.anyio,
    # httpx leaves generators of its own open when a stream is not read to its end; trio tells.
    pytest.mark.filterwarnings("ignore:.*async_generator object.*:pytest.PytestUnraisableExceptionWarning"),
]

FORM = ElicitForm("Which colour?", b'{"type":"object","properties":{"colour":{"type":"string"}}}')


@pytest.fixture(params=["hypercorn", "uvicorn"])
def kind(request: pytest.FixtureRequest, anyio_backend_name: str) -> str:
    name: str = request.param
    if name == "uvicorn" and anyio_backend_name == "trio":
        return "hypercorn"  # uvicorn is for asyncio alone; what is shown then is shown twice
    return name


async def test_a_modern_conversation(kind: str) -> None:
    async with serving(kind=kind) as client:
        assert without_etag(
            (await client.call_modern("redis_set", key="a", value=[1]))["structuredContent"]
        ) == {"ok": True}
        found = await client.call_modern("redis_get", key="a")
        assert without_etag(found["structuredContent"]) == {"found": True, "value": [1]}


async def test_a_legacy_conversation(kind: str) -> None:
    async with serving(kind=kind) as client:
        await client.initialize()
        assert len((await client.request("tools/list"))["tools"]) >= 7
        await client.request("tools/call", name="redis_set", arguments={"key": "a", "value": 1})
        found = await client.request("tools/call", name="redis_get", arguments={"key": "a"})
        assert without_etag(found["structuredContent"]) == {"found": True, "value": 1}
        assert (await client.http.delete("/mcp", headers=client.session)).status_code in (200, 204)
        assert (await client.post(legacy("ping"))).status_code == 404


async def test_a_store_that_makes_wait(kind: str) -> None:
    backend = SlowBackend()
    async with serving(make_server(backend), kind=kind) as client, anyio.create_task_group() as tasks:
        results: list[Any] = []

        async def get(number: int) -> None:
            results.append(await client.call_modern("redis_get", key=f"k{number}"))

        for number in range(5):
            tasks.start_soon(get, number)
        with anyio.fail_after(PATIENCE):
            while len(backend.batches) < 5:  # noqa: ASYNC110  # the store tells nobody
                await anyio.sleep(0.01)
        backend.released.set()
    assert [result["structuredContent"] for result in results] == [{"found": False}] * 5


def asking_server() -> tuple[Server, dict[str, Any]]:
    """A server with tools that ask, report, and note how they ended."""
    server = make_server()

    @server.tool()
    async def ask(arguments: NoArguments, work: Work) -> str:
        answers = await work.ask({"colour": FORM})
        answer = answers["colour"]
        assert isinstance(answer, ElicitResult)
        return answer.action

    @server.tool()
    async def report(arguments: NoArguments, work: Work) -> str:
        await work.report_progress(1, 2, "half")
        return "done"

    return server, add_waiting_tool(server)


async def test_progress_comes_on_the_stream_of_its_call(kind: str) -> None:
    server, _ = asking_server()
    async with serving(server, kind=kind) as client:
        await client.initialize()
        call = legacy("tools/call", 5, name="report", arguments={}, _meta={"progressToken": "p"})
        async with client.stream("POST", call) as events:
            assert (await events.message())["params"]["message"] == "half"
            assert (await events.message())["result"]["content"][0]["text"] == "done"
            assert await events.message() is None
        message = modern("tools/call", 6, name="report", arguments={})
        message["params"]["_meta"] = {**message["params"]["_meta"], "progressToken": "q"}
        async with client.stream("POST", message, modern_headers(message)) as events:
            assert (await events.message())["params"]["progressToken"] == "q"
            assert (await events.message())["result"]["content"][0]["text"] == "done"


async def test_a_question_goes_out_on_the_stream_and_its_answer_comes_by_another_request(kind: str) -> None:
    server, _ = asking_server()
    async with serving(server, kind=kind) as client:
        await client.initialize()
        async with client.stream("POST", legacy("tools/call", 5, name="ask", arguments={})) as events:
            question = await events.message()
            assert question["method"] == "elicitation/create"
            answer = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}}
            assert (await client.post(answer)).status_code == 202
            assert (await events.message())["result"]["content"][0]["text"] == "decline"


async def test_a_modern_client_that_leaves_has_cancelled(kind: str) -> None:
    server, seen = asking_server()
    async with serving(server, kind=kind) as client, anyio.create_task_group() as tasks:
        message = modern("tools/call", name="wait", arguments={})

        async def call() -> None:
            await client.http.post("/mcp", json=message, headers=modern_headers(message))

        tasks.start_soon(call)
        with anyio.fail_after(PATIENCE):
            await seen["started"].wait()
            tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True), anyio.fail_after(PATIENCE):
            await seen["ended"].wait()
    assert seen["how"] == "cancelled"


async def test_a_legacy_client_that_leaves_comes_back_for_the_rest(kind: str) -> None:
    server, seen = asking_server()

    @server.tool()
    async def slow(arguments: NoArguments, work: Work) -> str:
        await work.report_progress(1)
        seen["started"].set()
        await seen["go"].wait()
        return "late"

    async with serving(server, kind=kind) as client:
        await client.initialize()
        call = legacy("tools/call", 7, name="slow", arguments={}, _meta={"progressToken": 1})
        async with client.stream("POST", call) as events:
            await events.message()
            last_id = events.last_id
        seen["go"].set()
        headers = {**ACCEPTS, **client.session, "last-event-id": last_id}
        async with client.stream("GET", headers=headers) as events:
            late = await events.message()
        assert (late["id"], late["result"]["content"][0]["text"]) == (7, "late")


async def test_changes_are_told_on_open_streams_of_both_eras(kind: str) -> None:
    server = make_server()
    async with serving(server, kind=kind) as client:
        await client.initialize()
        listen = modern("subscriptions/listen", 3, notifications={"toolsListChanged": True})
        async with client.stream("GET") as old, client.stream("POST", listen, modern_headers(listen)) as new:
            acknowledged = await new.message()
            assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
            server.publish(ListChanged("tools"))
            assert (await old.message())["method"] == "notifications/tools/list_changed"
            assert (await new.message())["method"] == "notifications/tools/list_changed"


async def test_open_streams_end_with_the_server(kind: str) -> None:
    server = make_server()
    app = server.http_app()
    async with app.running(), listening(app, kind=kind) as port, connected(port) as client:
        await client.initialize()
        listen = modern("subscriptions/listen", 3, notifications={"toolsListChanged": True})
        async with (
            client.stream("GET") as old,
            client.stream("POST", listen, modern_headers(listen)) as new,
        ):
            await new.message()
            server.stop()
            assert await old.message() is None
            assert "result" in await new.message()
            assert await new.message() is None


async def test_what_was_accepted_is_answered_before_the_end(kind: str) -> None:
    server, seen = asking_server()
    app = server.http_app()
    texts: list[str] = []
    async with app.running(), anyio.create_task_group() as tasks, listening(app, kind=kind) as port:

        async def call() -> None:
            async with connected(port) as client:
                result = await client.call_modern("wait")
                texts.append(result["content"][0]["text"])

        tasks.start_soon(call)
        with anyio.fail_after(PATIENCE):
            await seen["started"].wait()
        server.stop()
        async with connected(port) as other:
            message = modern("ping")
            late = await other.http.post("/mcp", json=message, headers=modern_headers(message))
            assert late.status_code == 503
            assert (await other.http.get("/readyz")).status_code == 503
        seen["go"].set()
    assert texts == ["finished"]


async def test_mounted_in_another_application(kind: str) -> None:
    app = make_server().http_app()
    site = Starlette(routes=[Mount("/kv", app)], lifespan=lambda _: app.running())
    async with (
        site.router.lifespan_context(site),
        listening(site, kind=kind) as port,
        connected(port) as client,
    ):
        client.path = "/kv/mcp"
        assert (await client.call_modern("redis_get", key="a"))["structuredContent"] == {"found": False}
        assert (await client.http.get("/kv/healthz")).text == "ok\n"
        assert (await client.http.get("/mcp")).status_code == 404


async def test_the_older_transport(kind: str) -> None:
    async with serving(options=HttpOptions(legacy_sse=True), kind=kind) as client:
        client.path = "/sse"
        async with client.stream("GET", headers={"accept": "text/event-stream"}) as events:
            first = await events.event()
            assert first is not None
            assert first["event"] == "endpoint"
            poster = Mcp(client.http, first["data"])
            hello = legacy(
                "initialize",
                protocolVersion="2024-11-05",
                capabilities={},
                clientInfo={"name": "t", "version": "1"},
            )
            assert (await poster.post(hello)).status_code == 202
            assert (await events.message())["result"]["protocolVersion"] == "2024-11-05"
    async with serving(kind=kind) as client:
        assert (await client.http.get("/sse")).status_code == 404


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder: Path = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost "
        f"-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout {folder}/key.pem -out {folder}/cert.pem"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    return f"{folder}/cert.pem", f"{folder}/key.pem"


@pytest.mark.parametrize("http2", [False, True])
async def test_tls_with_either_version_of_http(certificate: tuple[str, str], http2: bool) -> None:
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(*certificate)
    theirs = ssl.create_default_context(cafile=certificate[0])
    app = make_server().http_app()
    async with (
        app.running(),
        listening(app, tls=ours) as port,
        httpx.AsyncClient(
            base_url=f"https://localhost:{port}", verify=theirs, http2=http2, trust_env=False
        ) as http,
    ):
        client = Mcp(http)
        await client.initialize()
        response = await client.post(legacy("ping"))
        assert response.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
        async with client.stream("GET"), anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(client.request, "tools/list")


async def test_http2_without_tls() -> None:
    app = make_server().http_app()
    async with (
        app.running(),
        listening(app) as port,
        connected(port, http1=False, http2=True) as client,
    ):
        response = await client.http.get("/healthz")
        assert (response.http_version, response.text) == ("HTTP/2", "ok\n")
        assert (await client.call_modern("redis_get", key="a"))["structuredContent"] == {"found": False}
