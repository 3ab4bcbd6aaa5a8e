"""What only this store's watches promise: other programs' changes, gaps, one connection for all."""

import re
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from kvmcp.backends.ops import Change, Gap, Message, Namespace, NsKey, Publish, Set
from kvmcp.backends.redis import RedisOptions
from tests.backends.harness import next_event, read_until, receivers
from tests.backends.redis.servers import RedisServer
from tests.backends.redis.stores import backend_on, eventually
from tests.fault_proxy import fault_proxy
from tests.patience import PATIENCE

pytestmark = pytest.mark.anyio
QUICK = RedisOptions(reconnect_pause=0.01, op_timeout=2.0)


@pytest.fixture
def lazy_server(tmp_path: Path) -> Iterator[RedisServer]:
    """One that removes an expired key only when somebody asks for it."""
    server = RedisServer(tmp_path / "lazy", ["--enable-debug-command", "local"]).start()
    try:
        assert server.ask("debug", "set-active-expire", "0") == "OK"
        yield server
    finally:
        server.kill()


def stored_name(key: NsKey) -> str:
    return f"kvmcp:{key.space}:{key.name}"


async def test_another_programs_change_is_told(shared_server: RedisServer, namespace: Namespace) -> None:
    a = namespace.key("a")
    async with backend_on(shared_server.port) as backend, backend.watch([a]) as events:
        for command in (
            ["set", stored_name(a), "1"],
            ["append", stored_name(a), "2"],
            ["del", stored_name(a)],
        ):
            shared_server.ask("-n", "1", *command)
            assert await next_event(events) == Change(a)


async def test_a_flushed_database_is_a_change(server: RedisServer, namespace: Namespace) -> None:
    a, b = namespace.key("a"), namespace.key("b")
    async with backend_on(server.port) as backend:
        await backend.execute([Set(a, b"1")])
        async with backend.watch([a, b]) as events:
            server.ask("-n", "1", "flushdb")
            assert {await next_event(events), await next_event(events)} == {Change(a), Change(b)}


async def test_expiry_is_told_though_nobody_looks(lazy_server: RedisServer, namespace: Namespace) -> None:
    """Not even Redis itself."""
    server, a = lazy_server, namespace.key("a")
    async with backend_on(server.port) as backend, backend.watch([a]) as events:
        # Inside the watch, and long enough that the first change is read before the second one comes.
        await backend.execute([Set(a, b"1", 1000)])
        assert await next_event(events) == Change(a)
        assert await next_event(events) == Change(a)


async def test_two_watchers_of_one_key(shared_server: RedisServer, namespace: Namespace) -> None:
    a = namespace.key("a")
    async with (
        backend_on(shared_server.port) as backend,
        backend.watch([a]) as one,
        backend.watch([a]) as two,
    ):
        for value in (b"1", b"2", b"3"):
            await backend.execute([Set(a, value)])
            assert await next_event(one) == await next_event(two) == Change(a)


async def test_a_lost_connection_is_a_gap_and_then_all_is_told_again(
    server: RedisServer, namespace: Namespace
) -> None:
    a, news = namespace.key("a"), namespace.key("news")
    async with (
        fault_proxy(server.port) as proxy,
        backend_on(proxy.port, QUICK) as backend,
        backend.watch([a], [news]) as events,
        backend.watch([], [news]) as others,
    ):
        for turn in range(3):
            proxy.cut()
            await read_until(events, Gap(0))
            assert await next_event(others) == Gap(0)
            assert receivers(await eventually(backend, Publish(news, b"%d" % turn))) == 2
            assert await next_event(events) == await next_event(others) == Message(news, b"%d" % turn)
            await eventually(backend, Set(a, b"%d" % turn))
            assert await next_event(events) == Change(a)


async def test_a_connection_that_died_without_a_word_is_noticed(
    server: RedisServer, namespace: Namespace
) -> None:
    """Only the watch has a connection: nobody calls."""
    a = namespace.key("a")
    options = RedisOptions(op_timeout=0.3, reconnect_pause=0.01, watch_heartbeat=0.05)
    async with (
        fault_proxy(server.port) as proxy,
        backend_on(proxy.port, options) as backend,
        backend.watch([a]) as events,
    ):
        before = proxy.accepted
        proxy.blackhole = True
        with anyio.fail_after(PATIENCE):
            while proxy.accepted == before:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        proxy.blackhole = False
        await read_until(events, Gap(0))
        await eventually(backend, Set(a, b"1"))
        await read_until(events, Change(a))


async def test_a_quiet_connection_is_kept(server: RedisServer, namespace: Namespace) -> None:
    options = RedisOptions(watch_heartbeat=0.001)
    async with (
        fault_proxy(server.port) as proxy,
        backend_on(proxy.port, options) as backend,
        backend.watch([namespace.key("a")]) as events,
    ):
        before = proxy.accepted
        with anyio.fail_after(PATIENCE):
            while _signs_of_life(server) < 20:  # noqa: ASYNC110
                await anyio.sleep(0.01)
        await eventually(backend, Set(namespace.key("a"), b"1"))
        assert await next_event(events) == Change(namespace.key("a"))
        assert proxy.accepted == before


def _signs_of_life(server: RedisServer) -> int:
    found = re.search(r"cmdstat_time:calls=(\d+)", server.ask("info", "commandstats"))
    return int(found[1]) if found else 0


async def test_a_watch_without_a_server_begins_with_a_gap(server: RedisServer, namespace: Namespace) -> None:
    a = namespace.key("a")
    server.kill()
    options = RedisOptions(op_timeout=0.2, reconnect_pause=0.01)
    async with backend_on(server.port, options) as backend, backend.watch([a]) as events:
        server.start()
        assert await next_event(events) == Gap(0)
        await eventually(backend, Set(a, b"1"))
        assert await next_event(events) == Change(a)


async def test_who_may_not_subscribe_is_told_of_a_gap(server: RedisServer, namespace: Namespace) -> None:
    server.ask("acl", "setuser", "default", "resetchannels", "-pttl")
    a, b = namespace.key("a"), namespace.key("b")
    async with backend_on(server.port) as backend, backend.watch([a], [b]) as events:
        assert await next_event(events) == Gap(0)


async def test_a_reader_that_is_behind_is_told_how_much_it_lost(
    shared_server: RedisServer, namespace: Namespace
) -> None:
    news = namespace.key("news")
    async with backend_on(shared_server.port) as backend, backend.watch(channels=[news]) as events:
        await backend.execute([Publish(news, b"%d" % i) for i in range(1500)])
        async with backend.watch(channels=[news]):
            await backend.execute([Publish(news, b"1500")])
        first = await next_event(events)
        assert isinstance(first, Gap) and first.lost >= 1500 - 1024
        assert await next_event(events) == Message(news, b"%d" % first.lost)
        await read_until(events, Message(news, b"1500"))


async def test_many_watchers_share_one_connection(server: RedisServer, namespace: Namespace) -> None:
    keys = [namespace.key(f"{i}") for i in range(1200)]
    told = 0

    async def watch(key: NsKey) -> None:
        nonlocal told
        async with backend.watch([key], [key]) as events:
            entered.append(key)
            if len(entered) == len(keys):
                all_in.set()
            assert await next_event(events) == Change(key)
            told += 1

    entered: list[NsKey] = []
    all_in = anyio.Event()
    # In debug mode the loop itself needs seconds for so many tasks.
    async with backend_on(server.port, RedisOptions(op_timeout=PATIENCE)) as backend:
        async with anyio.create_task_group() as tasks:
            for key in keys:
                tasks.start_soon(watch, key)
            with anyio.fail_after(PATIENCE):
                await all_in.wait()
            await backend.execute([Set(key, b"1") for key in keys])
        clients = server.ask("client", "list").count("name=kvmcp")
    assert (told, clients) == (1200, 2)


async def test_foreign_messages_are_presented(shared_server: RedisServer, namespace: Namespace) -> None:
    news = namespace.key("news")
    async with backend_on(shared_server.port) as backend, backend.watch(channels=[news]) as events:
        shared_server.ask("publish", stored_name(news), "not json")
        assert await next_event(events) == Message(news, b'{"$text":"not json"}')
