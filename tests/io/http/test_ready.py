"""`/readyz` of a replica: ready where the store answers and what the replicas tell each other arrives.

Real Redis, whose connections are cut, stalled or forbidden to subscribe, on both loops.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager

import anyio
import pytest

from kvmcp.backends.base import Backend
from kvmcp.backends.memory import MemoryBackend
from kvmcp.backends.ops import Event, NsKey
from kvmcp.backends.redis import RedisOptions, open_backend
from kvmcp.io.asgi import HttpApp, HttpOptions
from kvmcp.io.replicas import DEAF
from kvmcp.server import Server
from tests.backends.redis.servers import RedisServer
from tests.fault_proxy import fault_proxy
from tests.io.http.asgi_support import get

pytestmark = pytest.mark.anyio

KEY = b"k" * 32
OPTIONS = RedisOptions(op_timeout=1.0, reconnect_pause=0.01, watch_heartbeat=0.2)
SOON = 30.0
"""Seconds within which everything here has happened; an answer stands for one."""


@pytest.fixture
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("ready")).start()
    yield server
    server.kill()


@asynccontextmanager
async def replica(backend: Backend, *, replicated: bool = True) -> AsyncIterator[HttpApp]:
    app = Server("replica", backend=backend, state_key=KEY).http_app(HttpOptions(replicated=replicated))
    async with app.running():
        yield app


async def until_says(app: HttpApp, status: int, *texts: str) -> str:
    """What `/readyz` says as soon as it has this status, and one of the texts where there are any."""
    with anyio.fail_after(SOON):
        while True:
            asked = await get(app, "/readyz")
            text = asked.body.decode()
            if asked.status == status and (not texts or any(some in text for some in texts)):
                return text
            await anyio.sleep(0.02)


@pytest.mark.parametrize("fault", ["cut", "blackhole"])
async def test_a_replica_that_lost_redis_is_not_ready_until_it_is_back(
    redis: RedisServer, fault: str
) -> None:
    async with (
        fault_proxy(redis.port) as proxy,
        replica(open_backend(f"redis://127.0.0.1:{proxy.port}", OPTIONS)) as app,
    ):
        assert await until_says(app, 200) == "ready\n"
        if fault == "cut":
            proxy.stall()
            proxy.cut()
        else:
            proxy.blackhole = True
        assert (await until_says(app, 503)).startswith("not ready: ")
        proxy.blackhole = False
        proxy.resume()
        proxy.cut()
        assert await until_says(app, 200) == "ready\n"


async def test_a_replica_that_does_not_hear_is_not_ready_though_the_store_answers(redis: RedisServer) -> None:
    async with (
        replica(open_backend(redis.url, OPTIONS)) as app,
        replica(open_backend(redis.url, OPTIONS), replicated=False) as alone,
    ):
        await until_says(app, 200)
        redis.ask("acl", "setuser", "default", "-subscribe")
        redis.ask("client", "kill", "type", "pubsub")
        assert await until_says(app, 503, DEAF) == f"not ready: {DEAF}\n"
        assert (await get(alone, "/readyz")).status == 200
        redis.ask("acl", "setuser", "default", "+subscribe")
        redis.ask("client", "kill", "type", "normal")
        await until_says(app, 200)


async def test_replicas_hear_themselves_and_not_each_other(redis: RedisServer) -> None:
    async with (
        replica(open_backend(redis.url, OPTIONS)) as one,
        replica(open_backend(redis.url, OPTIONS)) as other,
    ):
        await until_says(one, 200)
        await until_says(other, 200)
        redis.kill()
        said = [await until_says(app, 503) for app in (one, other)]
        assert all(text.startswith("not ready: ") for text in said)
        redis.start()
        for app in (other, one):
            await until_says(app, 200)


class _Deaf(MemoryBackend):
    """A store that tells of nothing, or whose watches fail."""

    def __init__(self, fault: Exception | None = None) -> None:
        super().__init__(clock=anyio.current_time)
        self._fault = fault

    @asynccontextmanager
    async def watch(
        self, keys: Sequence[NsKey] = (), channels: Sequence[NsKey] = ()
    ) -> AsyncGenerator[AsyncIterator[Event], None]:
        if self._fault is not None:
            raise self._fault
        async with super().watch() as events:
            yield events


@pytest.mark.parametrize("fault", [None, RuntimeError("a bug")], ids=["silent", "failing"])
async def test_a_watch_that_is_blind_or_not_there_is_not_ready(fault: Exception | None) -> None:
    async with replica(_Deaf(fault)) as app:
        asked = await get(app, "/readyz")
    assert (asked.status, asked.body.decode()) == (503, f"not ready: {DEAF}\n")
