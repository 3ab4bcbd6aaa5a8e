"""The shared contract, on every topology."""

from collections.abc import AsyncIterator

import pytest

from kvmcp.backends.ops import Namespace
from kvmcp.backends.redis import RedisOptions, open_backend
from tests.backends.contract import BackendContract
from tests.backends.harness import Store
from tests.backends.redis.conftest import let_time_pass
from tests.backends.redis.servers import Cluster, RedisServer, SentinelSet


async def started(url: str, namespace: Namespace) -> AsyncIterator[Store]:
    backend = open_backend(url, RedisOptions())
    await backend.start()
    try:
        yield Store(backend, let_time_pass, namespace)
    finally:
        await backend.aclose()


class TestStandalone(BackendContract):
    @pytest.fixture
    async def store(self, shared_server: RedisServer, namespace: Namespace) -> AsyncIterator[Store]:
        async for store in started(shared_server.url, namespace):
            yield store


class TestSentinel(BackendContract):
    @pytest.fixture
    async def store(self, sentinel_set: SentinelSet, namespace: Namespace) -> AsyncIterator[Store]:
        async for store in started(sentinel_set.url, namespace):
            yield store


class TestCluster(BackendContract):
    @pytest.fixture
    async def store(self, cluster: Cluster, namespace: Namespace) -> AsyncIterator[Store]:
        async for store in started(cluster.url, namespace):
            yield store
