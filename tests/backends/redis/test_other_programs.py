"""What other programs do to watched keys is told: redis-cli is the other program, on every topology.

No setting of the server is needed: notifications of key space events are off here (the default), and `watch` uses
CLIENT TRACKING.
"""

import shlex
from collections.abc import Callable
from typing import Final

import anyio.to_thread
import pytest
from msgspec import Struct

from kvmcp.backends.ops import Change, Get, Message, Namespace, NsKey
from kvmcp.backends.redis.topology import slot_of
from tests.backends.harness import next_event
from tests.backends.redis.servers import Cluster, RedisServer, SentinelSet
from tests.backends.redis.stores import backend_at

pytestmark = pytest.mark.anyio

COMMANDS: Final = [
    "set KEY 1",
    "append KEY 2",
    "incr KEY",
    "getdel KEY",
    "lpush KEY 1",
    "rpop KEY",
    "hset KEY f 1",
    "hincrby KEY f 1",
    "rename KEY OTHER",
    "copy OTHER KEY",
    "pexpire KEY 100000",
    "persist KEY",
    "unlink KEY",
    "eval \"redis.call('set', KEYS[1], 1)\" 1 KEY",
    "del KEY",
]
"""Each changes KEY. OTHER is nobody's."""
TRIES: Final = 3
"""A machine that stands still for a second may break a promise about a second once; not three times in a row."""


class Place(Struct):
    """A topology, and redis-cli on the server that holds a key."""

    url: str
    ask: Callable[..., str]

    async def run(self, *words: str) -> str:
        return await anyio.to_thread.run_sync(lambda: self.ask(*words))


@pytest.fixture(params=["standalone", "sentinel", "cluster"])
def place(request: pytest.FixtureRequest, namespace: Namespace) -> Place:
    if request.param == "standalone":
        server: RedisServer = request.getfixturevalue("shared_server")
        return Place(server.url, lambda *words: server.ask("-n", "1", *words))
    if request.param == "sentinel":
        sentinels: SentinelSet = request.getfixturevalue("sentinel_set")
        return Place(sentinels.url, lambda *words: sentinels.primary.ask("-n", "1", *words))
    cluster: Cluster = request.getfixturevalue("cluster")
    node = cluster.node_of(slot_of(f"kvmcp:{namespace.space()}"))
    return Place(cluster.url, node.ask)


def stored_name(key: NsKey) -> str:
    return f"kvmcp:{key.space}:{key.name}"


async def test_every_kind_of_change_is_told(place: Place, namespace: Namespace) -> None:
    a, other = namespace.key("a"), namespace.key("other")
    async with backend_at(place.url) as backend, backend.watch([a]) as events:
        for command in COMMANDS:
            names = {"KEY": stored_name(a), "OTHER": stored_name(other)}
            words = [names.get(word, word) for word in shlex.split(command)]
            await place.run(*words)
            assert await next_event(events) == Change(a), command


async def test_an_expiry_is_told_within_a_second(place: Place, namespace: Namespace) -> None:
    """Before a key that ends a second later is gone, however the end was set."""
    for attempt in range(TRIES):
        a, later = namespace.key(f"a{attempt}"), f"kvmcp:{namespace.space()}:later{attempt}"
        async with backend_at(place.url) as backend, backend.watch([a]) as events:
            await place.run("set", stored_name(a), "1", "px", "300")
            await place.run("set", later, "1", "px", "1300")
            assert await next_event(events) == Change(a)
            assert await next_event(events) == Change(a)
            if await place.run("exists", later) == "1":
                return
    raise AssertionError("an expiry was told more than a second late")


async def test_a_key_that_had_an_end_already(place: Place, namespace: Namespace) -> None:
    for attempt in range(TRIES):
        a = namespace.key(f"a{attempt}")
        await place.run("set", stored_name(a), "1", "px", str(500 * 4**attempt))
        async with backend_at(place.url) as backend, backend.watch([a]) as events:
            if await backend.execute([Get(a)]) == [b"1"]:  # it was watched in time
                assert await next_event(events) == Change(a)
                assert await backend.execute([Get(a)]) == [None]
                return
    raise AssertionError("no watch began within eight seconds")


async def test_a_message_of_another_program(place: Place, namespace: Namespace) -> None:
    news = namespace.key("news")
    publish = "spublish" if "cluster" in place.url else "publish"
    async with backend_at(place.url) as backend, backend.watch(channels=[news]) as events:
        await place.run(publish, stored_name(news), "1")
        assert await next_event(events) == Message(news, b"1")
