"""The ASGI adaptor on both loops: a server made of two queues."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from kvmcp.core.http.guard import Guard
from kvmcp.io.endpoint import Message
from kvmcp.io.websocket.asgi import AsgiWebSocket
from kvmcp.io.websocket.upgrade import Door
from kvmcp.server import Server
from tests.io.sockets_support import until
from tests.io.support import MODERN_META, SlowBackend, call, initialize, make_server, ping
from tests.patience import PATIENCE

pytestmark = pytest.mark.anyio

Event = Message


class Asgi:
    """What an ASGI server and a client do."""

    def __init__(self) -> None:
        self._in_send, self._in = anyio.create_memory_object_stream[Event](100)
        self._out, self._out_receive = anyio.create_memory_object_stream[Event](100)
        self.is_broken = False

    async def receive(self) -> Event:
        return await self._in.receive()

    async def send(self, event: Event) -> None:
        if self.is_broken:
            raise RuntimeError("closed already")
        await self._out.send(event)

    def tell(self, kind: str, **members: Any) -> None:
        self._in_send.send_nowait({"type": f"websocket.{kind}", **members})

    def say(self, *messages: Any) -> None:
        for message in messages:
            self.tell("receive", text=message if isinstance(message, str) else json.dumps(message))

    async def hear(self) -> Event:
        with anyio.fail_after(PATIENCE):
            return await self._out_receive.receive()

    async def answer(self) -> Any:
        event = await self.hear()
        assert event["type"] == "websocket.send", event
        return json.loads(event["text"])

    def close(self) -> None:
        for stream in (self._in_send, self._in, self._out, self._out_receive):
            stream.close()


@asynccontextmanager
async def connected(
    server: Server | None = None, *headers: tuple[bytes, bytes], **scope: Any
) -> AsyncIterator[Asgi]:
    server = server or make_server()
    asgi = Asgi()
    app = AsgiWebSocket(server, server.service(), Door(Guard("127.0.0.1")))
    asgi.tell("connect")
    whole = {"type": "websocket", "headers": [(b"host", b"localhost"), *headers], **scope}
    with anyio.fail_after(60):
        async with server.running(), anyio.create_task_group() as tasks:
            tasks.start_soon(app, whole, asgi.receive, asgi.send)
            yield asgi
            asgi.tell("disconnect", code=1000)
    asgi.close()


async def test_a_conversation() -> None:
    async with connected(subprotocols=["x", "mcp"]) as asgi:
        assert await asgi.hear() == {"type": "websocket.accept", "subprotocol": "mcp"}
        asgi.say(
            *initialize(), call(1, "redis_set", key="a", value="é\n" * 9000), call(2, "redis_get", key="a")
        )
        assert (await asgi.answer())["id"] == "init"
        assert (await asgi.answer())["id"] == 1
        assert (await asgi.answer())["result"]["structuredContent"]["value"] == "é\n" * 9000


async def test_without_subprotocol_and_with_json_over_several_lines() -> None:
    async with connected() as asgi:
        assert (await asgi.hear())["subprotocol"] is None
        asgi.say(json.dumps(ping(1), indent=2), '{"jsonrpc":"2.0","id":2,"method":"pi\nng"}')
        assert (await asgi.answer())["id"] == 1
        assert (await asgi.answer())["error"]["code"] == -32700, "a line break inside a string is no JSON"


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"bytes": b"{}"}, 1003),
        ({"text": "x" * 2000}, 1009),
        ({"text": "\ud800"}, 1007),
        ({"bytes": b"", "text": None}, 1003),
    ],
)
async def test_the_code_that_we_close_with(event: Event, code: int) -> None:
    async with connected(make_server(message_bytes=1000)) as asgi:
        await asgi.hear()
        asgi.tell("receive", **event)
        closed = await asgi.hear()
        assert (closed["type"], closed["code"]) == ("websocket.close", code)


async def test_who_may_not_come_in() -> None:
    evil = (b"origin", b"https://evil.example")
    async with connected(None, evil) as asgi:
        assert (await asgi.hear())["type"] == "websocket.close"
    async with connected(None, evil, extensions={"websocket.http.response": {}}) as asgi:
        assert (await asgi.hear())["status"] == 403
        assert (await asgi.hear())["more_body"] is False


async def test_a_stop_answers_and_goes_away() -> None:
    backend = SlowBackend()
    server = make_server(backend)
    async with connected(server) as asgi:
        await asgi.hear()
        asgi.say(call(1, "redis_set", MODERN_META, key="a", value=1))
        await until(lambda: backend.batches)
        server.stop()
        backend.released.set()
        assert (await asgi.answer())["id"] == 1
        assert (await asgi.hear())["code"] == 1001


async def test_a_client_that_goes_takes_its_work_along() -> None:
    backend = SlowBackend()
    async with connected(make_server(backend)) as asgi:
        await asgi.hear()
        asgi.say(call(1, "redis_set", MODERN_META, key="a", value=1))
        await until(lambda: backend.batches)
    # Leaving the context has shown that it ends, though the store never answers.


async def test_a_server_that_cannot_send_any_more_ends_it() -> None:
    async with connected() as asgi:
        await asgi.hear()
        asgi.is_broken = True
        asgi.say(ping(1))


async def test_a_bug_of_ours_is_1011(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected() as asgi:
        await asgi.hear()
        monkeypatch.setattr("kvmcp.core.session.ServerSession.receive_message", None)
        asgi.say(ping(1))
        assert (await asgi.hear())["code"] == 1011
    assert "a WebSocket connection failed" in caplog.text
