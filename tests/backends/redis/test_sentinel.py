"""Failover under load: counts of what was acknowledged, lost, doubled and unknown."""

import contextlib
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from kvmcp.backends.ops import Atomic, Change, Code, Failure, Gap, Get, KeyIs, Namespace, Set, Unmet
from kvmcp.backends.redis import RedisOptions
from kvmcp.backends.redis.errors import NO_PRIMARY
from tests.backends.harness import read_until
from tests.backends.redis.servers import SentinelSet, free_port
from tests.backends.redis.stores import backend_at, eventually
from tests.patience import PATIENCE

pytestmark = pytest.mark.anyio
OPTIONS = RedisOptions(op_timeout=1.0, connect_timeout=0.5)
CUTS = 10
"""Connections that break under load before the primary dies."""


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[SentinelSet]:
    sentinels = SentinelSet(tmp_path)
    try:
        yield sentinels.start()
    finally:
        sentinels.stop()


async def test_the_primary_is_killed_under_load(sentinels: SentinelSet, namespace: Namespace) -> None:
    """With both replicas in sync nothing that was acknowledged is lost, nothing is doubled.

    Redis answers before it replicates: what a primary acknowledges in its last moment may die with it. So that only
    losses of ours show, it begins no more writes before it dies; the calls that wait for it then die with it.
    """
    tally: Counter[str] = Counter()
    last_sure: dict[int, int] = {}
    warm, killed, done = anyio.Event(), anyio.Event(), anyio.Event()

    async def writer(index: int) -> None:
        """Counts up by compare-and-set from what it last knows, so that a write that came twice would show."""
        key, number = namespace.key(f"{index}"), 0
        assert await eventually(backend, Set(key, b"0")) is True
        while not done.is_set():
            step = Atomic((Set(key, b"%d" % (number + 1)),), (KeyIs(key, b"%d" % number),))
            (reply,) = await backend.execute([step])
            if reply == (True,):
                tally["acknowledged"] += 1
                if tally["acknowledged"] == 200:
                    warm.set()
                tally["after"] += killed.is_set()
                if tally["after"] == 200:
                    done.set()
                number += 1
            elif isinstance(reply, Unmet):
                tally["doubled"] += 1  # somebody else's number, and there is nobody else
                return
            else:
                assert isinstance(reply, Failure)
                tally[reply.outcome] += 1
                if reply.outcome == "unknown":
                    found = await eventually(backend, Get(key))
                    assert found in (b"%d" % number, b"%d" % (number + 1)), "lost or doubled"
                    number = int(found)
                await anyio.sleep(0.01)
            last_sure[index] = number
            await anyio.sleep(0.002)

    watched = namespace.key("watched")
    async with backend_at(sentinels.url, OPTIONS) as backend, backend.watch([watched]) as events:
        async with anyio.create_task_group() as tasks:
            for index in range(10):
                tasks.start_soon(writer, index)
            with anyio.fail_after(PATIENCE):
                await warm.wait()
            for _ in range(CUTS):  # among them calls that had just run, whose reply is lost
                await anyio.to_thread.run_sync(sentinels.primary.ask, "client", "kill", "type", "normal")
            await anyio.to_thread.run_sync(sentinels.hold_writes)
            await anyio.to_thread.run_sync(sentinels.primary.kill)
            await anyio.to_thread.run_sync(sentinels.may_take_over)
            killed.set()
            with anyio.fail_after(PATIENCE):
                await done.wait()
        for index, number in last_sure.items():
            assert await eventually(backend, Get(namespace.key(f"{index}"))) == b"%d" % number
        await read_until(events, Gap(0))  # the watch has followed, too
        await eventually(backend, Set(watched, b"1"))
        await read_until(events, Change(watched))
    assert tally["doubled"] == 0
    assert tally["acknowledged"] >= 300
    assert len(last_sure) == 10


async def test_a_demoted_primary_is_left(sentinels: SentinelSet, namespace: Namespace) -> None:
    """A planned failover: the old primary becomes a replica, and no write is acknowledged by it."""
    a = namespace.key("a")
    async with backend_at(sentinels.url, OPTIONS) as backend:
        assert await eventually(backend, Set(a, b"0")) is True
        await anyio.to_thread.run_sync(sentinels.sentinels[0].ask, "sentinel", "failover", sentinels.service)
        number, demoted = 0, False
        with anyio.fail_after(PATIENCE):
            while not demoted:
                number += 1
                await eventually(backend, Set(a, b"%d" % number))
                with contextlib.suppress(
                    subprocess.CalledProcessError
                ):  # Sentinel ends its clients' connections
                    role = await anyio.to_thread.run_sync(sentinels.primary.ask, "role")
                    demoted = role.startswith("slave")
        assert await eventually(backend, Set(a, b"9999")) is True
        new = next(server for server in sentinels.servers if server.ask("role").startswith("master"))
        assert new.ask("-n", "1", "get", f"kvmcp:{a.space}:a") == "9999"


async def test_sentinels_that_know_nothing(sentinel_set: SentinelSet) -> None:
    url = sentinel_set.url.replace("/kv/", "/other/")
    async with backend_at(url, RedisOptions(patience=0.1)) as backend:
        (reply,) = await backend.execute([Get(Namespace("n").key("a"))])
        assert reply == NO_PRIMARY
        assert isinstance(reply, Failure) and reply.code is Code.REDIS_NOT_CONNECTED


async def test_the_first_sentinel_is_gone(sentinel_set: SentinelSet, namespace: Namespace) -> None:
    url = sentinel_set.url.replace("://", f"://127.0.0.1:{free_port()},")
    async with backend_at(url, OPTIONS) as backend:
        assert await eventually(backend, Set(namespace.key("a"), b"1")) is True
