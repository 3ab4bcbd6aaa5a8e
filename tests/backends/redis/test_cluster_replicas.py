"""A cluster of three primaries with a replica each: a primary that dies under load, slots that move under load.

Promises: no wrong value, no write that happened twice, each failure says truthfully whether it may have happened, and
work goes on once the replica has been promoted. What a primary acknowledged in its very last moment may be lost with
it (Redis replicates after it answers). So that only losses of ours show, it begins no more writes before it is killed.
"""

from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from typing import Any, Final

import anyio
import anyio.to_thread
import pytest
from redis import Redis

from kvmcp.backends.ops import Atomic, Change, Exists, Failure, Gap, Get, KeyIs, Namespace, NsKey, Reply, Set
from kvmcp.backends.redis import RedisBackend, RedisOptions
from kvmcp.backends.redis.topology import slot_of
from tests.backends.harness import read_until
from tests.backends.redis.servers import Cluster, RedisServer, wait_until
from tests.backends.redis.stores import backend_at, eventually
from tests.patience import PATIENCE

pytestmark = pytest.mark.anyio
OPTIONS: Final = RedisOptions(op_timeout=2.0, connect_timeout=0.5, patience=0.2)
NODE_TIMEOUT_MS: Final = 500
"""Until a silent node counts as failed. Low, so that a test need not wait; the nodes are on one machine."""
SPACES: Final = 6
MOVES: Final = 54
BEFORE_KILL: Final = 300
AFTER_KILL: Final = 200
"""Acknowledged writes after a kill that end the test: some for each writer."""


@pytest.fixture(scope="module")
def replicated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("replicated"), replicas=1, node_timeout_ms=NODE_TIMEOUT_MS)
    try:
        yield cluster.start()
    finally:
        cluster.stop()


def spaces_of(namespace: Namespace) -> list[Namespace]:
    return [Namespace(f"{namespace.name}-{i}") for i in range(SPACES)]


def slot(space: Namespace) -> int:
    return slot_of(f"kvmcp:{space.space()}")


class Counting:
    """A writer that counts its key up by compare-and-set from what it last knows.

    A write that came twice, got lost or was told as not applied although it was shows as a number that is not there.
    """

    def __init__(self, backend: RedisBackend, key: NsKey, tally: Counter[str]) -> None:
        self.backend = backend
        self.key = key
        self.tally = tally
        self.number = 0

    async def begin(self) -> None:
        assert await eventually(self.backend, Set(self.key, b"0")) is True

    async def step(self) -> bool:
        """Whether it was acknowledged."""
        then = b"%d" % (self.number + 1)
        condition = KeyIs(self.key, b"%d" % self.number)
        (reply,) = await self.backend.execute([Atomic((Set(self.key, then),), (condition,))])
        if reply == (True,):
            self.number += 1
            self.tally["acknowledged"] += 1
            return True
        assert isinstance(reply, Failure), (
            f"the key does not hold {self.number}: lost, doubled or a false report"
        )
        self.tally[reply.outcome] += 1
        if reply.outcome == "unknown":
            self.number = await self._look()
        await anyio.sleep(0.01)
        return False

    async def _look(self) -> int:
        found = await eventually(self.backend, Get(self.key))
        assert found in (b"%d" % self.number, b"%d" % (self.number + 1)), "lost or doubled"
        return int(found)


async def test_a_primary_is_killed_under_load(replicated: Cluster, namespace: Namespace) -> None:
    tally: Counter[str] = Counter()
    spaces = spaces_of(namespace)
    victim = replicated.node_of(slot(spaces[0]))
    warm, killed, done = anyio.Event(), anyio.Event(), anyio.Event()

    async def work(writer: Counting) -> None:
        there = on_victim[writer.key.space]
        while not done.is_set():
            if tally["acknowledged"] >= BEFORE_KILL:
                warm.set()
            if await writer.step() and there and killed.is_set():
                tally["after"] += 1
                if tally["after"] == AFTER_KILL:
                    done.set()
            await anyio.sleep(0.002)

    on_victim = {s.space(): replicated.node_of(slot(s)) is victim for s in spaces}
    watched = spaces[0].key("watched")
    async with backend_at(replicated.url, OPTIONS) as backend, backend.watch([watched]) as events:
        writers = [Counting(backend, space.key(f"{i}"), tally) for space in spaces for i in range(2)]
        for writer in writers:
            await writer.begin()
        async with anyio.create_task_group() as tasks:
            for writer in writers:
                tasks.start_soon(work, writer)
            with anyio.fail_after(PATIENCE):
                await warm.wait()
            await anyio.to_thread.run_sync(replicated.may_take_over, victim)
            await anyio.to_thread.run_sync(replicated.hold_writes, victim)
            await anyio.to_thread.run_sync(victim.kill)
            killed.set()
            with anyio.fail_after(PATIENCE):
                await done.wait()
        for writer in writers:
            assert await eventually(backend, Get(writer.key)) == b"%d" % writer.number
        await read_until(events, Gap(0))  # the watch has followed, too
        await eventually(backend, Set(watched, b"1"))
        await read_until(events, Change(watched))

        # The old primary comes back as a replica: nothing of what it says is believed.
        await anyio.to_thread.run_sync(victim.start)
        await anyio.to_thread.run_sync(wait_until, replicated.is_up, "the cluster with its old node")
        assert victim.ask("role").startswith("slave")
        for writer in writers:
            with anyio.fail_after(PATIENCE):
                while not await writer.step():
                    pass
            assert await eventually(backend, Get(writer.key)) == b"%d" % writer.number
    assert tally["not_applied"] + tally["unknown"] > 0, "nobody noticed the kill"


class Mover:
    """Moves slots as `redis-cli --cluster reshard` does, key by key. Runs in a thread."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._clients: dict[int, Any] = {}
        """Any: redis-py's command methods say little about what they return."""
        self._ids: dict[int, str] = {}

    def client(self, node: RedisServer) -> Any:
        if node.port not in self._clients:
            client: Any = Redis(port=node.port, decode_responses=True)
            self._clients[node.port] = client
            self._ids[node.port] = str(client.execute_command("CLUSTER MYID"))
        return self._clients[node.port]

    def move(self, number: int, source: RedisServer, target: RedisServer) -> None:
        there, here = self.client(source), self.client(target)
        here.execute_command("CLUSTER SETSLOT", number, "IMPORTING", self._ids[source.port])
        there.execute_command("CLUSTER SETSLOT", number, "MIGRATING", self._ids[target.port])
        while keys := there.execute_command("CLUSTER GETKEYSINSLOT", number, 3):
            there.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
        for client in (here, there):
            client.execute_command("CLUSTER SETSLOT", number, "NODE", self._ids[target.port])

    def close(self) -> None:
        for client in self._clients.values():
            client.close()


def redirections(nodes: list[RedisServer], kind: str) -> int:
    """How often nodes have answered so."""
    counts = [node.ask("info", "errorstats").partition(f"errorstat_{kind}:count=")[2] for node in nodes]
    return sum(int(count.split()[0]) for count in counts if count)


async def test_slots_move_under_load(replicated: Cluster, namespace: Namespace) -> None:
    """Each writer alone knows what its keys hold; two keys that are written together are never seen apart."""
    tally: Counter[str] = Counter()
    spaces = spaces_of(namespace)
    primaries = await anyio.to_thread.run_sync(replicated.primaries)
    asked = redirections(primaries, "ASK")
    moved = redirections(primaries, "MOVED")
    done = anyio.Event()

    async def work(space: Namespace) -> None:
        number = 0
        while not done.is_set():
            number += 1
            value = b"%d" % number
            a, b, c = space.key("a"), space.key(f"b{number % 20}"), space.key(f"c{number % 20}")
            replies = await backend.execute(
                [
                    Set(a, value),
                    Get(a),
                    Atomic((Set(b, value), Set(c, value))),
                    Exists((a, b)),
                    Get(b),
                    Get(c),
                ]
            )
            judge(replies[:2], [True, value])
            judge(replies[2:], [(True, True), (True, True), value, value])
            await anyio.sleep(0.001)

    def judge(replies: list[Reply], wanted: list[Reply]) -> None:
        """What follows a refused write may hold an older value."""
        for reply, right in zip(replies, wanted, strict=True):
            tally["right" if reply == right else "refused"] += 1
            assert not isinstance(reply, Failure) or reply.outcome == "not_applied", reply
            if isinstance(reply, Failure):
                return
            assert reply == right, (reply, right)

    async with backend_at(replicated.url, OPTIONS) as backend, anyio.create_task_group() as tasks:
        for space in spaces:
            tasks.start_soon(work, space)
        mover = Mover(replicated)
        owner = {space.name: replicated.node_of(slot(space)) for space in spaces}
        for space, target in zip([*spaces] * (MOVES // SPACES), cycle(primaries), strict=False):
            source = owner[space.name]
            target = target if target is not source else primaries[primaries.index(target) - 1]
            await anyio.to_thread.run_sync(mover.move, slot(space), source, target)
            owner[space.name] = target
        mover.close()
        done.set()
    assert tally["right"] > 500
    assert tally["refused"] <= tally["right"] // 20, tally
    assert redirections(primaries, "ASK") > asked
    assert redirections(primaries, "MOVED") > moved
