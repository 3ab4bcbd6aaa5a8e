"""Servers that all tests of this folder share, and stores on them."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import anyio
import pytest

from kvmcp.backends.ops import Namespace
from tests.backends.redis.servers import Cluster, RedisServer, SentinelSet

_numbers = count()


@pytest.fixture
def namespace() -> Namespace:
    """One that no other test uses."""
    return Namespace(f"t{next(_numbers)}")


@pytest.fixture(scope="session")
def redis_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("redis")


@pytest.fixture(scope="session")
def shared_server(redis_folder: Path) -> Iterator[RedisServer]:
    """A standalone server that no test hurts; `server` is for those that do."""
    server = RedisServer(redis_folder / "shared").start()
    yield server
    server.kill()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A standalone server for one test."""
    server = RedisServer(tmp_path / "own").start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def cluster(redis_folder: Path) -> Iterator[Cluster]:
    cluster = Cluster(redis_folder / "cluster")
    try:
        yield cluster.start()
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def sentinel_set(redis_folder: Path) -> Iterator[SentinelSet]:
    """One that no test fails over."""
    sentinels = SentinelSet(redis_folder / "sentinel")
    try:
        yield sentinels.start()
    finally:
        sentinels.stop()


async def let_time_pass(seconds: float) -> None:
    """Real servers have real clocks."""
    await anyio.sleep(seconds)
