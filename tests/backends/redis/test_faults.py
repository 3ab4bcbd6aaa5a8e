"""Honest outcomes while the network misbehaves.

The invariants: an acknowledged write was applied, one that was not applied was not, an unknown one at most once;
no command reaches Redis twice unless it is a read; nobody gets somebody else's reply; afterwards everything works.
"""

import math
import os
from collections import Counter

import anyio
import pytest

from kvmcp.backends.ops import (
    Atomic,
    Code,
    Delete,
    Exists,
    Failure,
    Get,
    KeyIs,
    Namespace,
    Op,
    Page,
    Persist,
    Publish,
    Push,
    Reply,
    Scan,
    Set,
)
from kvmcp.backends.redis import RedisBackend, RedisOptions
from tests.backends.harness import soon
from tests.backends.redis.servers import RedisServer
from tests.backends.redis.stores import backend_on, eventually
from tests.fault_proxy import fault_proxy
from tests.patience import PATIENCE

pytestmark = pytest.mark.anyio

QUICK = RedisOptions(op_timeout=2.0, patience=1.0, reconnect_pause=0.005)


def writes_run(server: RedisServer) -> Counter[str]:
    """How often each writing command ran since the last reset."""
    counts: Counter[str] = Counter()
    for line in server.ask("info", "commandstats").splitlines():
        name, _, rest = line.partition(":")
        name = name.removeprefix("cmdstat_")
        if name in ("set", "del", "publish", "rpush", "exec"):
            counts[name] = int(rest.partition("calls=")[2].partition(",")[0])
    return counts


def assert_honest(ops: list[Op], replies: list[Reply], ran: Counter[str], writes: list[str]) -> None:
    """Replies fit to what ran; nothing ran twice. `writes` are the commands of the operations that write."""
    for op, name in zip(ops, writes, strict=True):
        reply = replies[ops.index(op)]
        if not name:
            continue
        assert ran[name] <= 1, (name, ran)
        if not isinstance(reply, Failure):
            assert ran[name] == 1, (name, reply)
        elif reply.outcome == "not_applied":
            assert ran[name] == 0, (name, reply)
        else:
            assert reply.code is Code.UNKNOWN_OUTCOME
            assert not reply.retryable


def pipeline(namespace: Namespace) -> list[Op]:
    a, b, c, d = (namespace.key(name) for name in "abcd")
    return [
        Get(a),
        Delete((c,)),
        Exists((a, b)),
        Publish(c, b"1"),
        Atomic((Persist(a),)),
        Atomic((Push(d, (b"1",)),), (KeyIs(b, None),)),
        Set(a, b"1"),
        Get(b),
    ]


WRITES = ["", "del", "", "publish", "exec", "rpush", "set", ""]
ANSWER = len(
    b"_\r\n:0\r\n:0\r\n:0\r\n*2\r\n:0\r\n$16\r\n1700000000000000\r\n"
    b"+OK\r\n+QUEUED\r\n*1\r\n:0\r\n*2\r\n:0\r\n*1\r\n:1\r\n+OK\r\n_\r\n"
)


@pytest.mark.parametrize("half_close", [False, True], ids=["close", "half-close"])
async def test_the_answer_is_lost_at_every_byte(
    server: RedisServer, namespace: Namespace, half_close: bool
) -> None:
    fates: Counter[str] = Counter()
    async with fault_proxy(server.port) as proxy, backend_on(proxy.port, QUICK) as backend:
        for count in range(ANSWER + 1):
            ops = pipeline(Namespace(f"{namespace.name}-{count}"))
            await eventually(backend, ops[0])
            server.ask("config", "resetstat")
            proxy.cut_answers_after(count, half_close=half_close)
            replies = await backend.execute(ops)
            assert_honest(ops, replies, writes_run(server), WRITES)
            fates.update(reply.outcome if isinstance(reply, Failure) else "applied" for reply in replies)
            proxy.cut()
    assert fates["unknown"] > ANSWER
    assert proxy.accepted > ANSWER // 2


async def test_without_a_task_outcomes_are_as_honest(server: RedisServer, namespace: Namespace) -> None:
    """Every operation here is one command; reads whose answer is lost are asked again."""
    fates: Counter[str] = Counter()
    writes = ["", "set", "del", "", "rpush", ""]
    answer = len(b"_\r\n+OK\r\n:0\r\n_\r\n:1\r\n$1\r\n1\r\n")
    async with fault_proxy(server.port) as proxy, backend_on(proxy.port, QUICK) as backend:
        for count in range(answer + 1):
            space = Namespace(f"{namespace.name}-{count}")
            a, b, c = (space.key(name) for name in "abc")
            ops: list[Op] = [Get(a), Set(a, b"1"), Delete((c,)), Get(b), Push(b, (b"1",)), Get(a)]
            await eventually(backend, ops[0])
            server.ask("config", "resetstat")
            proxy.cut_answers_after(count)
            begun, [replies] = await soon(backend, ops)
            assert begun
            assert_honest(ops, replies, writes_run(server), writes)
            if not isinstance(replies[1], Failure):
                assert replies[-1] == b"1", "the last read has no write behind it, so it may be asked again"
            fates.update(reply.outcome if isinstance(reply, Failure) else "applied" for reply in replies)
            proxy.cut()
    assert fates["unknown"] > answer and fates["applied"] > answer


async def test_who_does_not_wait_is_answered_when_the_store_is_closed(
    server: RedisServer, namespace: Namespace
) -> None:
    answers: list[list[Reply]] = []
    a = namespace.key("a")
    async with fault_proxy(server.port) as proxy, backend_on(proxy.port, QUICK) as backend:
        await eventually(backend, Get(a))
        proxy.stall()
        assert backend.execute_soon([Get(a), Set(a, b"1")], answers.append)
        assert answers == []
        await backend.aclose()
    [[read, written]] = answers
    assert isinstance(read, Failure) and read.outcome == "not_applied"
    assert isinstance(written, Failure) and written.code is Code.UNKNOWN_OUTCOME


async def test_the_request_is_lost_at_every_byte(server: RedisServer, namespace: Namespace) -> None:
    async with fault_proxy(server.port) as proxy, backend_on(proxy.port, QUICK) as backend:
        for count in range(0, 700, 5):
            ops = pipeline(Namespace(f"{namespace.name}-{count}"))
            await eventually(backend, ops[0])
            server.ask("config", "resetstat")
            proxy.cut_requests_after(count)
            replies = await backend.execute(ops)
            assert_honest(ops, replies, writes_run(server), WRITES)


async def test_reads_are_asked_again(server: RedisServer, namespace: Namespace) -> None:
    a, b = namespace.key("a"), namespace.key("b")
    reads: list[Op] = [Get(a), Exists((a, b)), Scan(namespace.space()), Get(b)]
    async with fault_proxy(server.port) as proxy, backend_on(proxy.port, QUICK) as backend:
        await backend.execute([Set(a, b"1"), Set(b, b"2")])
        for count in range(0, 60, 3):
            proxy.cut_answers_after(count)
            first, second, page, last = await backend.execute(reads)
            assert (first, second, last) == (b"1", (True, True), b"2")
            assert isinstance(page, Page) and sorted(page.names) == ["a", "b"]


async def test_a_read_is_not_asked_again_behind_a_write_that_may_have_run(
    server: RedisServer, namespace: Namespace
) -> None:
    a = namespace.key("a")
    async with fault_proxy(server.port) as proxy, backend_on(proxy.port, QUICK) as backend:
        await backend.execute([Set(a, b"1")])
        proxy.cut_answers_after(0)
        before, write, after = await backend.execute([Get(a), Set(a, b"2"), Get(a)])
        assert isinstance(before, Failure) and before.retryable
        assert isinstance(write, Failure) and write.code is Code.UNKNOWN_OUTCOME
        assert after == b"2"


async def test_odd_chunks_and_delays_change_nothing(shared_server: RedisServer, namespace: Namespace) -> None:
    options = RedisOptions(op_timeout=PATIENCE)  # each piece takes a turn of a loop that may be slow
    async with fault_proxy(shared_server.port, seed=7) as proxy, backend_on(proxy.port, options) as backend:
        proxy.odd_chunks, proxy.delay = True, 0.0001

        async def call(index: int) -> None:
            key = namespace.key(f"{index}")
            for turn in range(5):
                value = b'"%d-%d"' % (index, turn)
                assert await backend.execute([Set(key, value), Get(key)]) == [True, value]

        async with anyio.create_task_group() as tasks:
            for index in range(20):
                tasks.start_soon(call, index)


# --- stalls


async def test_a_stalled_server_fails_calls_at_their_deadline(
    server: RedisServer, namespace: Namespace
) -> None:
    options = RedisOptions(op_timeout=0.3, connect_timeout=0.2, patience=0.2)
    key = namespace.key("a")
    async with backend_on(server.port, options) as backend:
        assert await backend.execute([Set(key, b"1")]) == [True]
        server.freeze()
        read, write = await backend.execute([Get(key), Set(key, b"2")])
        assert isinstance(read, Failure) and (read.code, read.outcome) == (Code.TIMEOUT, "not_applied")
        assert isinstance(write, Failure) and write.code is Code.UNKNOWN_OUTCOME
        await refused(backend, Get(key), Code.REDIS_NOT_CONNECTED)
        server.thaw()
        assert await eventually(backend, Get(key)) == b"2"


async def refused(backend: RedisBackend, op: Op, code: Code) -> Failure:
    """The first refusal with this code; the ones before it have others."""
    with anyio.fail_after(PATIENCE):
        while True:
            (reply,) = await backend.execute([op])
            assert isinstance(reply, Failure), reply
            if reply.code is code:
                return reply


async def test_a_blackhole_is_noticed_and_left(server: RedisServer, namespace: Namespace) -> None:
    options = RedisOptions(op_timeout=0.3, connect_timeout=0.2)
    async with fault_proxy(server.port) as proxy, backend_on(proxy.port, options) as backend:
        assert await backend.execute([Get(namespace.key("a"))]) == [None]
        proxy.blackhole = True
        (reply,) = await backend.execute([Get(namespace.key("a"))])
        assert isinstance(reply, Failure) and reply.code is Code.TIMEOUT
        proxy.blackhole = False
        assert await eventually(backend, Get(namespace.key("a"))) is None
        assert proxy.accepted >= 2


async def test_a_frozen_server_stops_intake(server: RedisServer, namespace: Namespace) -> None:
    """Calls beyond the queue's bound wait in line; each ends at its deadline, and none of them was sent."""
    options = RedisOptions(op_timeout=1.0, connect_timeout=0.3)
    value = b'"' + b"x" * 900_000 + b'"'
    replies: list[Reply] = []
    async with backend_on(server.port, options) as backend:
        assert await backend.execute([Get(namespace.key("a"))]) == [None]
        server.freeze()

        async def write(index: int) -> None:
            replies.extend(await backend.execute([Set(namespace.key(f"{index}"), value)]))

        before = resident()
        async with anyio.create_task_group() as tasks:
            for index in range(200):
                tasks.start_soon(write, index)
            await anyio.sleep(0.5)
            grown = resident() - before
        server.thaw()
        outcomes = Counter(reply.outcome for reply in replies if isinstance(reply, Failure))
        assert len(replies) == 200 == outcomes.total()
        # In flight: what the kernel's buffers took. In the queue: 16 MiB. The rest never left the callers.
        assert 0 < outcomes["unknown"] < 20
        await eventually(backend, Get(namespace.key("a")))
        (stored,) = await backend.execute([Exists(tuple(namespace.key(f"{index}") for index in range(200)))])
        assert isinstance(stored, tuple) and sum(exists is True for exists in stored) <= outcomes["unknown"]
    assert grown < 100 * 1024 * 1024


def resident() -> int:
    """Bytes of memory in use."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# --- cancellation


async def test_cancelled_callers_cross_nobody(server: RedisServer, namespace: Namespace) -> None:
    """Thousands of cancellations at random moments: replies stay with their calls, one connection serves all."""
    tally: Counter[str] = Counter()
    async with fault_proxy(server.port, seed=3) as proxy, backend_on(proxy.port) as backend:
        proxy.delay = 0.002
        await backend.execute([Set(namespace.key(f"{i}"), b'"%d"' % i) for i in range(40)])
        files = open_files()

        async def call(index: int) -> None:
            key = namespace.key(f"{index}")
            for turn in range(60):
                patience = math.inf if turn % 2 else 0.0005 * ((index + turn) % 4)
                with anyio.move_on_after(patience):
                    assert await backend.execute([Get(key), Exists((key,))]) == [b'"%d"' % index, (True,)]
                    tally["answered"] += 1
                    continue
                tally["cancelled"] += 1

        async with anyio.create_task_group() as tasks:
            for index in range(40):
                tasks.start_soon(call, index)
        assert await backend.execute([Get(namespace.key("7"))]) == [b'"7"']
        assert (proxy.accepted, open_files()) == (1, files)
    assert tally.total() == 2400
    assert tally["answered"] >= 1200 and tally["cancelled"] >= 300, tally


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_cancelled_before_anything_was_sent(shared_server: RedisServer, namespace: Namespace) -> None:
    async with backend_on(shared_server.port) as backend:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await backend.execute([Set(namespace.key("a"), b"1")])
        assert scope.cancelled_caught
        await backend.execute([Set(namespace.key("b"), b"1")])


# --- the server is not there


async def test_without_a_server_calls_are_refused_and_later_work(
    server: RedisServer, namespace: Namespace
) -> None:
    server.kill()
    async with backend_on(server.port, RedisOptions(patience=0.1)) as backend:
        failure = await refused(backend, Set(namespace.key("a"), b"1"), Code.REDIS_NOT_CONNECTED)
        assert failure.retryable and failure.outcome == "not_applied"
        server.start()
        assert await eventually(backend, Set(namespace.key("a"), b"1")) is True


async def test_killed_and_restarted_under_load(server: RedisServer, namespace: Namespace) -> None:
    """Every acknowledged counter value is there (append-only file, fsync always); none was applied twice."""
    server.kill()
    server.arguments += ["--appendonly", "yes", "--appendfsync", "always"]
    server.start()
    tally: Counter[str] = Counter()
    acknowledged: dict[str, int] = {}
    possible: dict[str, set[int]] = {}
    done = anyio.Event()
    async with backend_on(server.port, RedisOptions(op_timeout=1.0)) as backend:

        async def write(index: int) -> None:
            name, number = f"{index}", 0
            while not done.is_set():
                number += 1
                (reply,) = await backend.execute([Set(namespace.key(name), b"%d" % number)])
                if reply is True:
                    tally["acknowledged"] += 1
                    acknowledged[name], possible[name] = number, set()
                    continue
                assert isinstance(reply, Failure)
                tally[reply.outcome] += 1
                if reply.outcome == "unknown":
                    possible.setdefault(name, set()).add(number)
                await anyio.sleep(0.005)

        async with anyio.create_task_group() as tasks:
            for index in range(16):
                tasks.start_soon(write, index)
            for _ in range(3):
                await anyio.sleep(0.15)
                await anyio.to_thread.run_sync(server.kill)
                await anyio.to_thread.run_sync(server.start)
            await anyio.sleep(0.2)
            done.set()
        for name, number in acknowledged.items():
            value = await eventually(backend, Get(namespace.key(name)))
            assert isinstance(value, bytes)
            assert int(value) == number or int(value) in possible[name], (name, number, value)
    assert tally["acknowledged"] > 100
    assert len(acknowledged) == 16
