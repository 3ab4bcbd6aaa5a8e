"""Calls under uvicorn that no task knows of, seen from outside: real sockets, and a store that replies when told to."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import msgspec
import pytest
from anyio.abc import SocketStream

from kvmcp.backends.base import Done, Ops, Replies
from kvmcp.io import uvicorn_calls
from kvmcp.io.asgi import HttpApp
from kvmcp.server import Server
from tests.io.http.support import Json, connected, listening, modern, modern_headers, until_closed
from tests.io.support import SlowBackend, make_server
from tests.patience import PATIENCE

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """uvicorn is for asyncio alone."""
    return request.param


class SoonBackend(SlowBackend):
    """Replies to what nobody waits for when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[Ops, Done]] = []
        self.released.set()

    def execute_soon(self, batch: Ops, done: Done) -> bool:
        self.asked.append((batch, done))
        return True

    async def until_asked(self, times: int = 1) -> None:
        with anyio.fail_after(PATIENCE):
            while len(self.asked) < times:  # noqa: ASYNC110  # the store tells nobody
                await anyio.sleep(0.005)

    async def reply(self) -> None:
        batch, done = self.asked.pop(0)
        done(await self.store.execute(batch))


class Raising(SlowBackend):
    """Has a bug."""

    def execute_soon(self, batch: Ops, done: Done) -> bool:
        raise RuntimeError("a bug")


class Miscounting(SlowBackend):
    """Has another one."""

    def execute_soon(self, batch: Ops, done: Done) -> bool:
        replies: Replies = []
        done(replies)
        return True


@asynccontextmanager
async def wired(server: Server) -> AsyncIterator[tuple[HttpApp, SocketStream]]:
    """An application under uvicorn, and a connection to it."""
    app = server.http_app()
    async with (
        app.running(),
        listening(app, kind="uvicorn") as port,
        await anyio.connect_tcp("127.0.0.1", port) as stream,
    ):
        yield app, stream


def get(key: str, *fields: str, version: str = "1.1", path: str = "/mcp", length: bool = True) -> bytes:
    """A plain call as bytes; its id is its key."""
    message = modern("tools/call", name="redis_get", arguments={"key": key}) | {"id": key}
    body = msgspec.json.encode(message)
    lines = [f"POST {path} HTTP/{version}", "host: localhost"]
    lines += [f"{name}: {value}" for name, value in modern_headers(message).items()]
    lines += [
        *fields,
        *([f"content-length: {len(body)}"] if length else []),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def answers(stream: SocketStream, count: int) -> list[tuple[bytes, Json]]:
    """The next responses: head and message of each."""
    data, found = b"", list[tuple[bytes, Json]]()
    with anyio.fail_after(PATIENCE):
        while len(found) < count:
            data = data.removeprefix(CONTINUE)
            head, end, rest = data.partition(b"\r\n\r\n")
            size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
            if end and len(rest) >= size:
                found.append((head, msgspec.json.decode(rest[:size]) if size else None))
                data = rest[size:]
            else:
                data += await stream.receive()
    assert not data
    return found


def ids(found: Sequence[tuple[bytes, Json]]) -> list[str]:
    return [message["id"] for _, message in found]


CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

CALLS: Final = (
    pytest.param([get("a")], id="whole"),
    pytest.param([get("a")[:40], get("a")[40:]], id="a head in two"),
    pytest.param([get("a")[:-10], get("a")[-10:]], id="a body in two"),
    pytest.param([get("a", "authorization: Bearer x")], id="with a secret"),
    pytest.param([get("a", "expect: 100-continue")], id="who expects to be asked on"),
    pytest.param([get("a", path="/%6dcp")], id="a path that is written otherwise"),
    pytest.param([get("a", path="/mcp?x=1")], id="a query"),
)


def test_this_uvicorn_is_known() -> None:
    assert uvicorn_calls.is_known()


@pytest.mark.parametrize("pieces", CALLS)
async def test_a_call_is_answered_however_it_comes(pieces: list[bytes]) -> None:
    async with wired(make_server()) as (app, stream):
        for _ in range(2):  # The connection is kept.
            for piece in pieces:
                await stream.send(piece)
                await anyio.wait_all_tasks_blocked()
            ((_, message),) = await answers(stream, 1)
            assert message["result"]["structuredContent"] == {"found": False}
        assert app.idle


async def test_chunks_are_one_body() -> None:
    head, _, body = get("a", "transfer-encoding: chunked", length=False).partition(b"\r\n\r\n")
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    async with wired(make_server()) as (_, stream):
        await stream.send(head + b"\r\n\r\n" + chunks + b"0\r\n\r\n")
        assert ids(await answers(stream, 1)) == ["a"]


@pytest.mark.parametrize(("fields", "version"), [(["connection: close"], "1.1"), ([], "1.0")])
async def test_a_connection_that_is_not_kept(fields: list[str], version: str) -> None:
    async with wired(make_server()) as (_, stream):
        await stream.send(get("a", *fields, version=version))
        data = await until_closed(stream)
        assert data.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"connection: close\r\n" in data


async def test_what_is_no_message_ends_its_connection_alone() -> None:
    async with wired(make_server()) as (app, stream):
        head, _, _ = get("a", "transfer-encoding: chunked", length=False).partition(b"\r\n\r\n")
        await stream.send(head + b"\r\n\r\n" + b"1\r\nxyz")
        assert (await until_closed(stream)).startswith(b"HTTP/1.1 400 ")
        assert app.idle


async def test_what_is_no_plain_call_goes_the_general_way() -> None:
    async with wired(make_server()) as (app, stream):
        message = modern("tools/list")
        body = msgspec.json.encode(message)
        lines = [f"{name}: {value}" for name, value in modern_headers(message).items()]
        head = "\r\n".join(["POST /mcp HTTP/1.1", "host: localhost", *lines])
        await stream.send(head.encode() + b"\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        ((_, listed),) = await answers(stream, 1)
        assert len(listed["result"]["tools"]) >= 7
        await stream.send(get("a", "host: elsewhere.example"))
        assert (await stream.receive()).startswith(b"HTTP/1.1 400 ")
        assert app.idle


async def test_requests_that_come_together_are_answered_in_their_order() -> None:
    backend = SoonBackend()
    async with wired(make_server(backend)) as (_, stream):
        await stream.send(get("a") + get("b") + get("c"))
        await backend.until_asked()
        assert len(backend.asked) == 1  # The others wait; uvicorn gives each a task then.
        await backend.reply()
        assert ids(await answers(stream, 3)) == ["a", "b", "c"]
        await stream.send(get("d"))
        await backend.until_asked()
        await backend.reply()
        assert ids(await answers(stream, 1)) == ["d"]


async def test_no_task_is_begun_for_a_call() -> None:
    backend = SoonBackend()
    async with wired(make_server(backend)) as (_, stream):
        await stream.send(get("a"))
        await backend.until_asked()
        assert backend.batches == []
        await backend.reply()
        head, message = (await answers(stream, 1))[0]
        names = [line.partition(b":")[0] for line in head.split(b"\r\n")[1:]]
        assert len(names) == len(set(names))
        assert {b"date", b"content-type", b"content-length", b"x-content-type-options"} <= set(names)
        assert message["result"]["structuredContent"] == {"found": False}


async def test_a_client_that_leaves_while_the_store_works_leaves_nothing() -> None:
    backend = SoonBackend()
    async with wired(make_server(backend)) as (app, stream):
        await stream.send(get("a"))
        await backend.until_asked()
        await stream.aclose()
        await anyio.wait_all_tasks_blocked()
        await backend.reply()
        assert app.idle


async def test_a_call_at_the_store_is_answered_before_the_end() -> None:
    backend = SoonBackend()
    async with wired(make_server(backend)) as (app, stream):
        await stream.send(get("a"))
        await backend.until_asked()
        app.stop()
        await anyio.wait_all_tasks_blocked()
        await backend.reply()
        ((_, message),) = await answers(stream, 1)
        assert message["result"]["structuredContent"] == {"found": False}
        assert app.idle
        await stream.send(get("b"))
        assert (await stream.receive()).startswith(b"HTTP/1.1 503 ")


async def test_a_store_that_hangs_leaves_nobody_without_an_answer() -> None:
    backend = SoonBackend()
    async with wired(make_server(backend, shutdown_grace=0.05)) as (app, stream):
        await stream.send(get("a"))
        await backend.until_asked()
        app.stop()
        ((_, message),) = await answers(stream, 1)
        assert "error" in message or message["result"]["isError"]
        assert app.idle
        await backend.reply()


async def test_a_task_that_is_ended_leaves_the_store_s_reply_to_nobody() -> None:
    """uvicorn cancels what is left at its own end."""
    backend = SoonBackend()
    server = make_server(backend)
    app = server.http_app()
    async with app.running():
        async with listening(app, kind="uvicorn") as port, anyio.create_task_group() as tasks:

            async def call() -> None:
                async with connected(port) as client:
                    message = modern("tools/call", name="redis_get", arguments={"key": "a"})
                    found = await client.http.post("/mcp", json=message, headers=modern_headers(message))
                    assert found.json()["result"]["isError"]

            tasks.start_soon(call)
            await backend.until_asked()
            app.stop()
            await anyio.wait_all_tasks_blocked()
            (waiting,) = (task for task in asyncio.all_tasks() if "run_asgi" in repr(task))
            waiting.cancel()
            tasks.cancel_scope.cancel()
        await backend.reply()
    assert app.idle


@pytest.mark.parametrize("kind", [Raising, Miscounting])
async def test_a_store_with_a_bug_ends_nothing(
    kind: type[SlowBackend], caplog: pytest.LogCaptureFixture
) -> None:
    async with wired(make_server(kind())) as (app, stream):
        for _ in range(2):
            await stream.send(get("a"))
            ((_, message),) = await answers(stream, 1)
            assert "error" in message or message["result"]["isError"]
        assert app.idle
    assert "a bug in it" in caplog.text


async def test_a_store_that_wants_a_task_has_one() -> None:
    backend = SlowBackend()
    async with wired(make_server(backend)) as (_, stream):
        await stream.send(get("a"))
        with anyio.fail_after(PATIENCE):
            while not backend.batches:  # noqa: ASYNC110  # the store tells nobody
                await anyio.sleep(0.005)
        backend.released.set()
        assert ids(await answers(stream, 1)) == ["a"]


async def test_an_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvmcp.io.uvicorn.IDLE_TIMEOUT", 0.05)
    backend = SoonBackend()
    async with wired(make_server(backend)) as (_, stream):
        await stream.send(get("a"))
        await backend.until_asked()
        await backend.reply()
        assert ids(await answers(stream, 1)) == ["a"]
        assert await until_closed(stream) == b""


async def test_calls_are_counted() -> None:
    async with wired(make_server()) as (_, stream):
        await stream.send(get("a"))
        await answers(stream, 1)
        await stream.send(b"GET /metrics HTTP/1.1\r\nhost: localhost\r\naccept: application/json\r\n\r\n")
        ((_, metrics),) = await answers(stream, 1)
        assert (metrics["total_requests"], metrics["total_errors"]) == (1, 0)
