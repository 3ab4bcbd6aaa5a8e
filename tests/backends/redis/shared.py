"""A Redis of each kind, started once for all tests of a session that want one, of whatever folder.

A pytest plugin, loaded by tests/conftest.py. No test hurts these servers: who kills or freezes one starts its own.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.redis.servers import Cluster, RedisServer, SentinelSet


@pytest.fixture(scope="session")
def redis_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("redis")


@pytest.fixture(scope="session")
def shared_server(redis_folder: Path) -> Iterator[RedisServer]:
    """A standalone server; `server` is for tests that hurt it."""
    server = RedisServer(redis_folder / "shared").start()
    yield server
    server.kill()


@pytest.fixture(scope="session")
def cluster(redis_folder: Path) -> Iterator[Cluster]:
    """Three nodes."""
    cluster = Cluster(redis_folder / "cluster")
    try:
        yield cluster.start()
    finally:
        cluster.stop()


@pytest.fixture(scope="session")
def sentinel_set(redis_folder: Path) -> Iterator[SentinelSet]:
    sentinels = SentinelSet(redis_folder / "sentinel")
    try:
        yield sentinels.start()
    finally:
        sentinels.stop()


@pytest.fixture(scope="session", params=("sentinel_set", "cluster"))
def topology(request: pytest.FixtureRequest) -> str:
    """The URL of several servers that are one store, once for each kind."""
    url: str = request.getfixturevalue(request.param).url
    return url
