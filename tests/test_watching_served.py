"""Whole servers: who subscribes is told, whoever makes the change, on both loops, in both eras; and nobody else is."""

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias
from uuid import uuid4

import anyio
import httpx
import pytest

from kvmcp.backends.ops import KIND_CHANNEL, KIND_SESSION, Delete, HashSet, Namespace, Op, Publish, Push, Set
from kvmcp.backends.redis import open_backend
from kvmcp.core.items import Item
from kvmcp.core.limits import Limits
from kvmcp.server import Server
from kvmcp.tools.namespaces import parse_source
from kvmcp.tools.prompts import PROMPTS
from kvmcp.tools.resources import RESOURCES
from tests.backends.redis.servers import RedisServer
from tests.io.http.support import ACCEPTS, Mcp, connected, legacy, listening, modern, modern_headers
from tests.io.support import MODERN_META, MemoryTransport, call, initialize, serving as serving_stream
from tests.tools.support import redis_tools

pytestmark = [
    pytest.mark.anyio,
    # httpx leaves generators of its own open when a stream is not read to its end; trio tells.
    pytest.mark.filterwarnings("ignore:.*async_generator object.*:pytest.PytestUnraisableExceptionWarning"),
]

Json: TypeAlias = Any  # JSON as json.loads gives it: tests look into it freely

ACME = Namespace("acme")


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(Path(tmp_path_factory.mktemp("watching"))).start()
    yield server
    server.kill()


@pytest.fixture(params=["memory", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory://"
    server: RedisServer = request.getfixturevalue("redis")
    return f"redis://127.0.0.1:{server.port}"


def make(url: str, **options: Any) -> Server:
    backend = None if url == "memory://" else open_backend(url)
    items: tuple[Item, ...] = (*redis_tools(), *RESOURCES, *PROMPTS)
    given = {"namespace": "acme", "limits": Limits(shutdown_grace=1.0), "state_key": b"k" * 32, **options}
    return Server("kvmcp-test", backend=backend, items=items, **given)


@asynccontextmanager
async def two_servers(url: str) -> AsyncIterator[tuple[Server, Server]]:
    """Replicas of one service; in memory there can only be one."""
    one = make(url)
    other = one if url == "memory://" else make(url)
    async with one.running(), other.running():
        await do(one, Delete(tuple(map(ACME.key, ("a", "b", "list")))))
        yield one, other


async def do(server: Server, *ops: Op) -> None:
    """What anybody does with the store through a server."""
    await server.backend.execute(ops)


class Client:
    """A client on a stream, of either era: subscribes, and hears."""

    def __init__(self, transport: MemoryTransport, era: str) -> None:
        self.transport = transport
        self.era = era
        self._id = 0

    async def ask(self, method: str, **params: Json) -> Json:
        self._id += 1
        meta = {} if self.era == "legacy" else {"_meta": MODERN_META}
        self.transport.say({"jsonrpc": "2.0", "id": self._id, "method": method, "params": params | meta})
        return await self.transport.hear()

    async def subscribe(self, *uris: str) -> None:
        if self.era == "legacy":
            for uri in uris:
                assert (await self.ask("resources/subscribe", uri=uri))["result"] == {}
            return
        granted = await self.ask("subscriptions/listen", notifications={"resourceSubscriptions": list(uris)})
        assert granted["params"]["notifications"] == {"resourceSubscriptions": list(uris)}

    async def updated(self) -> str:
        """The resource of the next notification."""
        heard = await self.transport.hear()
        assert heard["method"] == "notifications/resources/updated"
        uri: str = heard["params"]["uri"]
        return uri


@asynccontextmanager
async def client_of(server: Server, era: str) -> AsyncIterator[Client]:
    async with serving_stream(server, MemoryTransport(piece=4096, most=4096)) as transport:
        client = Client(transport, era)
        if era == "legacy":
            transport.say(*initialize())
            await transport.hear()
        yield client


each_era = pytest.mark.parametrize("era", ["legacy", "modern"])


@each_era
async def test_a_change_by_any_client_on_any_replica_is_told(url: str, era: str) -> None:
    async with two_servers(url) as (one, other), client_of(one, era) as client:
        uris = [
            "kv://acme/keys/a", "kv://acme/keys/list", "kv://acme/sessions/s", "kv://acme/channels/news",
        ]  # fmt: skip
        await client.subscribe(*uris)
        for change, uri in (
            (Set(ACME.key("a"), b"1"), uris[0]),
            (Push(ACME.key("list"), (b"1",)), uris[1]),
            (HashSet(ACME.key("s", KIND_SESSION), ((".x", b"1"), ("ttl", b"1"))), uris[2]),
            (Publish(ACME.key("news", KIND_CHANNEL), b"1"), uris[3]),
            (Delete((ACME.key("a"),)), uris[0]),
        ):
            await do(other, change)
            assert await client.updated() == uri
        async with client_of(other, era) as colleague:
            meta = MODERN_META if era == "modern" else None
            colleague.transport.say(call("x", "redis_set", meta, key="a", value=2))
            assert (await colleague.transport.hear())["id"] == "x"
        assert await client.updated() == uris[0]
        shown = await client.ask("resources/read", uri=uris[0])
        assert shown["result"]["contents"][0]["text"] == "2"


@each_era
async def test_what_nobody_asked_for_is_not_told(url: str, era: str) -> None:
    async with two_servers(url) as (one, other), client_of(one, era) as client:
        await client.subscribe("kv://acme/keys/b")
        await do(other, Set(ACME.key("a"), b"1"), Set(Namespace("other").key("b"), b"1"))
        await do(other, Set(ACME.key("b"), b"1"))
        assert await client.updated() == "kv://acme/keys/b"
        if era == "legacy":
            assert (await client.ask("resources/unsubscribe", uri="kv://acme/keys/b"))["result"] == {}
            await do(other, Set(ACME.key("b"), b"2"))
            assert (await client.ask("ping"))["result"] == {}


@each_era
async def test_an_expiry_is_told(url: str, era: str) -> None:
    async with two_servers(url) as (one, other), client_of(one, era) as client:
        await client.subscribe("kv://acme/keys/a")
        await do(other, Set(ACME.key("a"), b"1", 50))
        for _ in ("written", "expired"):
            assert await client.updated() == "kv://acme/keys/a"
        gone = await client.ask("resources/read", uri="kv://acme/keys/a")
        assert gone["error"]["code"] == (-32002 if era == "legacy" else -32602)


@each_era
async def test_what_another_program_does_is_told(redis: RedisServer, era: str) -> None:
    async with two_servers(f"redis://127.0.0.1:{redis.port}") as (one, _), client_of(one, era) as client:
        await client.subscribe("kv://acme/keys/a")
        async with await anyio.connect_tcp("127.0.0.1", redis.port) as foreign:
            await foreign.send(b"SELECT 1\r\nSET kvmcp:{acme}:k:a not-json\r\n")
            assert await client.updated() == "kv://acme/keys/a"
        shown = await client.ask("resources/read", uri="kv://acme/keys/a")
        part = shown["result"]["contents"][0]
        assert (part["mimeType"], part["text"]) == ("text/plain", "not-json")


@each_era
async def test_a_subscriber_is_answered_although_the_store_is_away(
    era: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvmcp.io.lookout.READY_TIMEOUT", 0.05)
    server = make("redis://127.0.0.1:1")
    async with server.running(), client_of(server, era) as client:
        await client.subscribe("kv://acme/keys/a")


async def test_a_connection_that_is_cancelled_leaves_nothing_watched() -> None:
    server = make("memory://")
    transport = MemoryTransport(piece=4096, most=4096)
    async with server.running(), anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, transport)
        await Client(transport, "modern").subscribe("kv://acme/keys/a")
        watched = server.service().watched
        assert list(watched) == ["kv://acme/keys/a"]
        tasks.cancel_scope.cancel()
    assert len(watched) == 0
    transport.close()


async def test_a_session_that_a_tool_made_is_a_resource_and_can_be_resumed(url: str) -> None:
    async with two_servers(url) as (one, _), client_of(one, "modern") as client:
        id = uuid4().hex
        given = {"session_id": id, "data": {"goal": "ship"}}
        made = await client.ask("tools/call", name="redis_session_create", arguments=given)
        assert made["result"]["structuredContent"]["session_id"] == id
        uri = f"kv://acme/sessions/{id}"
        shown = await client.ask("resources/read", uri=uri)
        assert json.loads(shown["result"]["contents"][0]["text"])["data"] == {"goal": "ship"}
        assert (
            3_500_000 < shown["result"]["ttlMs"] <= 3_600_000 and shown["result"]["cacheScope"] == "private"
        )
        prompt = await client.ask("prompts/get", name="resume_session", arguments={"session_id": id})
        assert prompt["result"]["messages"][1]["content"]["resource"]["uri"] == uri
        await client.subscribe(uri)
        asked = call("u", "redis_session_update", MODERN_META, session_id=id, data={"step": 2})
        client.transport.say(asked)
        heard = [await client.transport.hear(), await client.transport.hear()]
        assert {message.get("id", message.get("method")) for message in heard} == {
            "u", "notifications/resources/updated",
        }  # fmt: skip


# --- namespaces from the caller ---


async def test_meta_names_the_namespace() -> None:
    server = make("memory://", namespace_from=parse_source("meta:tenant"))
    async with server.running():
        await do(server, Set(Namespace("other").key("a"), b'"of other"'))
        async with serving_stream(server, MemoryTransport(piece=4096, most=4096)) as transport:
            for tenant, found in (("acme", None), ("other", "of other")):
                transport.say(call(tenant, "redis_get", {**MODERN_META, "tenant": tenant}, key="a"))
                assert (await transport.hear())["result"]["structuredContent"].get("value") == found
            for bad in ({}, {"tenant": "a}b"}, {"tenant": 7}):
                transport.say(call("bad", "redis_get", {**MODERN_META, **bad}, key="a"))
                refused = (await transport.hear())["error"]
                assert refused["code"] == -32602 and "tenant" in refused["message"]


async def test_a_stream_has_no_header_to_name_a_namespace() -> None:
    server = make("memory://", namespace_from=parse_source("header:X-App-Id"))
    transport = MemoryTransport()
    with pytest.raises(ValueError, match="a stream has no headers"):
        await server.serve(transport)
    transport.close()


@asynccontextmanager
async def tenants() -> AsyncIterator[tuple[Server, Mcp, Mcp, Mcp]]:
    """Over HTTP: a client of `acme`, one of `other`, one that does not say."""
    server = make("memory://", namespace_from=parse_source("header:X-App-Id"))
    app = server.http_app()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(app.running())
        port = await stack.enter_async_context(listening(app))
        clients = [
            await stack.enter_async_context(connected(port, headers=headers))
            for headers in ({"X-App-Id": "acme"}, {"x-app-id": "other"}, {})
        ]
        yield server, clients[0], clients[1], clients[2]


async def test_a_header_names_the_namespace() -> None:
    async with tenants() as (_, acme, other, nobody):
        await acme.call_modern("redis_set", key="a", value="of acme")
        assert (await acme.call_modern("redis_get", key="a"))["structuredContent"]["value"] == "of acme"
        assert (await other.call_modern("redis_get", key="a"))["structuredContent"] == {"found": False}
        for client, headers in ((nobody, {}), (nobody, {"x-app-id": "a b"}), (acme, {"x-app-id": "../x"})):
            message = modern("tools/call", name="redis_get", arguments={"key": "a"})
            refused = await client.http.post(
                "/mcp", json=message, headers={**modern_headers(message), "connection": "close", **headers}
            )
            assert refused.status_code == 400 and "x-app-id" in refused.json()["error"]["message"]


async def test_a_session_and_its_subscriptions_stay_in_their_namespace() -> None:
    async with tenants() as (server, acme, other, _):
        await acme.initialize()
        assert await acme.request("resources/subscribe", uri="kv://acme/keys/a") == {}
        foreign = await acme.post(legacy("resources/subscribe", 2, uri="kv://other/keys/a"))
        assert foreign.json()["error"]["code"] == -32002
        other.session = acme.session
        assert (await other.post(legacy("ping", 3))).status_code == 404, "a session of another namespace"
        async with acme.stream("GET") as events:
            await do(server, Set(Namespace("other").key("a"), b"1"))
            await do(server, Set(ACME.key("a"), b"1"))
            told = await events.message()
            assert told["params"]["uri"] == "kv://acme/keys/a"
        body = modern("subscriptions/listen", notifications={
            "resourceSubscriptions": ["kv://acme/keys/a", "kv://other/keys/a"]
        })  # fmt: skip
        other.session = {}
        async with other.stream("POST", body, {**ACCEPTS, **modern_headers(body)}) as events:
            granted = await events.message()
            assert granted["params"]["notifications"]["resourceSubscriptions"] == ["kv://other/keys/a"]
            await do(server, Set(ACME.key("a"), b"2"))
            await do(server, Set(Namespace("other").key("a"), b"2"))
            told = await events.message()
            assert told["params"]["uri"] == "kv://other/keys/a"
        with contextlib.suppress(httpx.HTTPError):
            await acme.http.delete("/mcp", headers=acme.session)
