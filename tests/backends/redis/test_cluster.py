"""Redirections, slots that move under load, nodes that go away."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from redis.crc import key_slot

from kvmcp.backends.ops import (
    Atomic,
    Change,
    Code,
    Delete,
    Exists,
    Failure,
    Get,
    Message,
    Namespace,
    Publish,
    Set,
)
from kvmcp.backends.redis import RedisOptions
from kvmcp.backends.redis.topology import slot_of
from tests.backends.harness import read_until, receivers
from tests.backends.redis.servers import Cluster, RedisServer
from tests.backends.redis.stores import backend_at, backend_on, eventually

pytestmark = pytest.mark.anyio
OPTIONS = RedisOptions(op_timeout=3.0, connect_timeout=0.5, patience=0.2)


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path)
    try:
        yield cluster.start()
    finally:
        cluster.stop()


def test_a_namespace_is_one_slot() -> None:
    a, b = Namespace("acme").key("a"), Namespace("acme").key("}{other}", "s")
    assert key_slot(f"kvmcp:{a.space}:{a.name}".encode()) == key_slot(f"kvmcp:{b.space}:{b.name}".encode())
    assert slot_of(f"kvmcp:{a.space}") == key_slot(b"acme")


async def test_namespaces_of_all_nodes_in_one_batch(cluster: Cluster, namespace: Namespace) -> None:
    keys = [Namespace(f"{namespace.name}-{i}").key("a") for i in range(30)]
    async with backend_at(cluster.url, OPTIONS) as backend:
        assert await backend.execute([Set(key, b"%d" % i) for i, key in enumerate(keys)]) == [True] * 30
        assert await backend.execute([Get(key) for key in keys]) == [b"%d" % i for i in range(30)]
        assert await backend.execute([Exists(tuple(keys)), Delete(tuple(keys))]) == [(True,) * 30, 30]
    assert len({cluster.node_of(slot_of(f"kvmcp:{key.space}")).port for key in keys}) == 3


async def test_an_atomic_over_two_slots_is_refused(cluster: Cluster, namespace: Namespace) -> None:
    a, b = Namespace(f"{namespace.name}-1").key("a"), Namespace(f"{namespace.name}-2").key("a")
    async with backend_at(cluster.url, OPTIONS) as backend:
        (reply,) = await backend.execute([Atomic((Set(a, b"1"), Set(b, b"1")))])
        assert isinstance(reply, Failure) and reply.outcome == "not_applied"
        assert await backend.execute([Get(a), Get(b)]) == [None, None]


async def test_a_plain_url_to_a_node_says_so(cluster: Cluster, namespace: Namespace) -> None:
    replies = []
    async with backend_on(cluster.nodes[0].port, RedisOptions(db=0)) as backend:
        for i in range(20):
            replies += await backend.execute([Get(Namespace(f"{namespace.name}-{i}").key("a"))])
    refused = [reply for reply in replies if isinstance(reply, Failure)]
    assert refused and all(reply.code is Code.REDIS_ERROR for reply in refused)


def move_slot(cluster: Cluster, slot: int, target: RedisServer) -> None:
    """As `redis-cli --cluster reshard` does it, key by key."""
    source = cluster.node_of(slot)
    if source is target:
        return
    source_id, target_id = source.ask("cluster", "myid"), target.ask("cluster", "myid")
    target.ask("cluster", "setslot", str(slot), "importing", source_id)
    source.ask("cluster", "setslot", str(slot), "migrating", target_id)
    while keys := source.ask("cluster", "getkeysinslot", str(slot), "5").split():
        source.ask("migrate", "127.0.0.1", str(target.port), "", "0", "5000", "keys", *keys)
    for node in (target, source, *cluster.nodes):
        node.ask("cluster", "setslot", str(slot), "node", target_id)


async def test_slots_move_under_load(own_cluster: Cluster, namespace: Namespace) -> None:
    """0 wrong values, 0 lost: each writer alone knows what its keys hold."""
    spaces = [Namespace(f"{namespace.name}-{i}") for i in range(6)]
    tally: Counter[str] = Counter()
    done = anyio.Event()

    async def work(space: Namespace) -> None:
        number = 0
        while not done.is_set():
            number += 1
            a, b = space.key("a"), space.key(f"n{number % 20}")
            value = b"%d" % number
            replies = await backend.execute(
                [Set(a, value), Get(a), Atomic((Set(b, value), Get(b))), Exists((a, b))]
            )
            for reply, wanted in zip(replies, [True, value, (True, value), (True, True)], strict=True):
                tally["right" if reply == wanted else "refused"] += 1
                assert reply == wanted or isinstance(reply, Failure) and reply.outcome == "not_applied", reply
            await anyio.sleep(0.001)

    async with backend_at(own_cluster.url, OPTIONS) as backend, anyio.create_task_group() as tasks:
        for space in spaces:
            tasks.start_soon(work, space)
        for turn in range(12):
            slot = slot_of(f"kvmcp:{spaces[turn % 6].space()}")
            await anyio.to_thread.run_sync(move_slot, own_cluster, slot, own_cluster.nodes[turn % 3])
        done.set()
    assert tally["right"] > 500
    assert tally["refused"] <= tally["right"] // 20, tally


async def test_a_watch_follows_its_slot(own_cluster: Cluster, namespace: Namespace) -> None:
    a, news = namespace.key("a"), namespace.key("news")
    slot = slot_of(f"kvmcp:{namespace.space()}")
    async with backend_at(own_cluster.url, OPTIONS) as backend, backend.watch([a], [news]) as events:
        await eventually(backend, Set(a, b"1"))
        await read_until(events, Change(a))
        here = own_cluster.node_of(slot)
        target = next(node for node in own_cluster.nodes if node is not here)
        await anyio.to_thread.run_sync(move_slot, own_cluster, slot, target)
        await eventually(backend, Publish(news, b"2"), lambda reply: receivers(reply) != 0)
        await read_until(events, Message(news, b"2"))
        await eventually(backend, Set(a, b"3"))
        await read_until(events, Change(a))


async def test_a_node_goes_and_comes_back(own_cluster: Cluster, namespace: Namespace) -> None:
    spaces = [Namespace(f"{namespace.name}-{i}") for i in range(12)]
    dead = own_cluster.nodes[1]
    there = [space for space in spaces if own_cluster.node_of(slot_of(f"kvmcp:{space.space()}")) is dead]
    assert there and len(there) < 12
    async with backend_at(own_cluster.url, OPTIONS) as backend:
        for space in spaces:
            await eventually(backend, Set(space.key("a"), b"1"))
        await anyio.to_thread.run_sync(dead.kill)
        (reply,) = await backend.execute([Set(there[0].key("a"), b"2")])
        assert isinstance(reply, Failure) and reply.outcome in ("not_applied", "unknown")
        await anyio.to_thread.run_sync(dead.start)
        for space in spaces:
            assert await eventually(backend, Set(space.key("a"), b"3")) is True


async def test_no_node_answers(namespace: Namespace) -> None:
    async with backend_at("redis+cluster://127.0.0.1:1", OPTIONS) as backend:
        replies = await backend.execute([Get(namespace.key("a")), Set(namespace.key("a"), b"1")])
    for reply in replies:
        assert isinstance(reply, Failure)
        assert (reply.code, reply.retryable) == (Code.REDIS_NOT_CONNECTED, True)
