"""Each of Redis's error classes: one documented code, retryable or not, and none of Redis's words."""

import contextlib
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import hiredis
import pytest
from anyio.abc import SocketAttribute, SocketStream
from hypothesis import given, strategies as st

from kvmcp.backends.faults import OVERFLOW
from kvmcp.backends.ops import (
    Append,
    Atomic,
    Code,
    Delete,
    Elements,
    Entries,
    Exists,
    Expire,
    Failure,
    Get,
    GetDelete,
    GetMany,
    HashGetAll,
    Increment,
    KeyHasEtag,
    KeyIs,
    Namespace,
    Op,
    Pop,
    Publish,
    Push,
    QueueAck,
    QueueClaim,
    QueueExtend,
    Range,
    Ranked,
    ReadLog,
    Rename,
    Scan,
    Set,
    SetMembers,
    SizeOf,
    SortedIncrement,
    SortedRange,
    StreamEntry,
    StreamRange,
    Ttl,
    TypeOf,
    Unmet,
    etag_of,
)
from kvmcp.backends.redis import RedisOptions
from kvmcp.backends.redis.cluster import _destination  # no other way to it without a cluster that lies
from kvmcp.backends.redis.commands import Commands
from kvmcp.backends.redis.errors import BY_CLASS, connect_failure, failure_of
from kvmcp.backends.redis.greeting import Greeting, Refused
from kvmcp.backends.redis.job import Job
from kvmcp.backends.redis.resp import Value
from tests.backends.contract_collections import OF_TYPES
from tests.backends.redis.servers import RedisServer
from tests.backends.redis.stores import backend_at, backend_on, eventually

SECRET = "s3cret-value"


@pytest.mark.parametrize("name", sorted(BY_CLASS))
def test_a_class_has_a_code_and_hides_redis_words(name: str) -> None:
    failure = failure_of(hiredis.ReplyError(f"{name} about {SECRET}"))
    assert failure is BY_CLASS[name]
    assert SECRET not in failure.message and failure.message
    assert failure.outcome == "not_applied"


def test_unknown_classes_are_errors() -> None:
    failure = failure_of(hiredis.ReplyError(f"NEWCLASS {SECRET}"))
    assert (failure.code, failure.retryable) == (Code.REDIS_ERROR, False)
    assert SECRET not in failure.message


def test_why_there_is_no_connection() -> None:
    failure = connect_failure(ConnectionRefusedError(111, "Connection refused"))
    assert failure.code is Code.REDIS_NOT_CONNECTED and failure.retryable
    assert failure.message == "Redis cannot be reached: connection refused"


RETRYABLE = {
    "OOM": (Code.TOO_LARGE, False),
    "READONLY": (Code.REDIS_ERROR, True),
    "LOADING": (Code.REDIS_NOT_CONNECTED, True),
    "MASTERDOWN": (Code.REDIS_NOT_CONNECTED, True),
    "NOREPLICAS": (Code.REDIS_ERROR, True),
    "MISCONF": (Code.REDIS_ERROR, True),
    "BUSY": (Code.REDIS_ERROR, True),
    "NOAUTH": (Code.REDIS_ERROR, False),
    "NOPERM": (Code.REDIS_ERROR, False),
    "WRONGTYPE": (Code.WRONG_TYPE, False),
    "CLUSTERDOWN": (Code.REDIS_NOT_CONNECTED, True),
    "MOVED": (Code.REDIS_ERROR, True),
    "ASK": (Code.REDIS_ERROR, True),
}


@pytest.mark.parametrize("name", sorted(RETRYABLE))
def test_codes(name: str) -> None:
    assert (BY_CLASS[name].code, BY_CLASS[name].retryable) == RETRYABLE[name]


_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.binary(max_size=8)
    | st.sampled_from([b"0", b"9" * 5000, b"OK"])
    | st.sampled_from(["ERR x", "MOVED 1 h:1", "MOVED 99999999 h:99999999", "EXECABORT"]).map(
        hiredis.ReplyError
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.binary(max_size=8), inner, max_size=2),
    max_leaves=6,
)
_KEY = Namespace("n").key("a")
_OPS: list[Op] = [
    *(Get(_KEY), Set(_KEY, b"1"), Delete((_KEY,)), Exists((_KEY, _KEY)), Ttl(_KEY), Expire(_KEY, 1)),
    *(
        Publish(_KEY, b"1"),
        Atomic((Get(_KEY), Exists((_KEY, _KEY)))),
        Atomic((Get(_KEY),), (KeyIs(_KEY, None),)),
    ),
    Scan(Namespace("n").space()),
    *(GetMany((_KEY, _KEY)), GetDelete(_KEY), Append(_KEY, b'""'), Increment(_KEY), Rename(_KEY, _KEY)),
    *(TypeOf(_KEY), SizeOf(_KEY), ReadLog(_KEY, 1), QueueClaim(_KEY, "me", 1), QueueAck(_KEY, "x")),
    Atomic((Increment(_KEY), Range(_KEY), QueueExtend(_KEY, "x", 1)), (KeyHasEtag(_KEY, "x"),)),
    *OF_TYPES,
]


@given(st.sampled_from(_OPS), st.data())
def test_whatever_redis_answers_is_a_reply(op: Op, data: st.DataObject) -> None:
    job = Job(op, Commands("kvmcp"))
    commands = job.to_send("server")
    job.receive(data.draw(st.lists(_values, min_size=len(commands), max_size=len(commands))), False)
    assert job.done
    if job.redirected and job.error is not None:
        slot, endpoint = _destination(str(job.error))
        assert slot < 100_000 and (endpoint is None or endpoint.port < 65536)


@given(st.lists(_values, min_size=7, max_size=7))
def test_whatever_the_greeting_is_answered(replies: list[Value]) -> None:
    with contextlib.suppress(Refused):
        Greeting(primary_only=True).check(replies)


# --- real ones


@pytest.mark.anyio
async def test_oom_refuses_the_whole(server: RedisServer, namespace: Namespace) -> None:
    a, b = namespace.key("a"), namespace.key("b")
    async with backend_on(server.port) as backend:
        assert await backend.execute([Set(a, b"1")]) == [True]
        server.ask("config", "set", "maxmemory", "1")
        replies = await backend.execute(
            [Set(b, b"1"), Atomic((Set(b, b"1"),)), Atomic((Get(a), Set(b, b"1")), (KeyIs(a, b"1"),)), Get(a)]
        )
        assert replies[:3] == [BY_CLASS["OOM"]] * 3
        assert replies[3] == b"1"
        server.ask("config", "set", "maxmemory", "0")
        assert await backend.execute([Get(b)]) == [None]


@pytest.mark.anyio
async def test_too_few_replicas(server: RedisServer, namespace: Namespace) -> None:
    a = namespace.key("a")
    async with backend_on(server.port) as backend:
        server.ask("config", "set", "min-replicas-to-write", "1")
        replies = await backend.execute(
            [Set(a, b"1"), Get(a), Atomic((Set(a, b"1"),)), Atomic((Set(a, b"1"),), (KeyIs(a, None),))]
        )
        assert replies == [BY_CLASS["NOREPLICAS"], None, BY_CLASS["NOREPLICAS"], BY_CLASS["NOREPLICAS"]]


@pytest.mark.anyio
async def test_a_demoted_server(server: RedisServer, namespace: Namespace) -> None:
    a = namespace.key("a")
    async with backend_on(server.port) as backend:
        await backend.execute([Set(a, b"1")])
        server.ask("config", "set", "replica-serve-stale-data", "yes")
        server.ask("replicaof", "127.0.0.1", "1")
        assert await backend.execute([Set(a, b"2"), Get(a)]) == [BY_CLASS["READONLY"], b"1"]
        server.ask("replicaof", "no", "one")
        assert await eventually(backend, Set(a, b"3")) is True


@pytest.mark.anyio
async def test_another_programs_types(shared_server: RedisServer, namespace: Namespace) -> None:
    a = namespace.key("list")
    shared_server.ask("-n", "1", "rpush", f"kvmcp:{a.space}:{a.name}", "x")
    async with backend_on(shared_server.port) as backend:
        read, inside, condition, replaced = await backend.execute(
            [Get(a), Atomic((Get(a),)), Atomic((Get(a),), (KeyIs(a, b"1"),)), Set(a, b"1")]
        )
        wrong_type = BY_CLASS["WRONGTYPE"]
        assert (read, inside, condition, replaced) == (
            wrong_type,
            (wrong_type,),
            Unmet(0, True),
            True,
        )


@pytest.mark.anyio
async def test_what_other_programs_keep_in_collections(
    shared_server: RedisServer, namespace: Namespace
) -> None:
    """Not JSON: in an explicit form. What no operation could name is left out."""
    key = {name: namespace.key(name) for name in ("list", "hash", "set", "sorted", "stream")}

    def ask(command: str, name: str, *arguments: str) -> None:
        shared_server.ask("-n", "1", command, f"kvmcp:{namespace.space()}:{name}", *arguments)

    ask("rpush", "list", "hello", "[1,\n2]")
    ask("hset", "hash", "a", "x", "b", "1")
    ask("sadd", "set", "y")
    ask("zadd", "sorted", "inf", "z", "-inf", "1")
    ask("xadd", "stream", "5-5", "f", "w")
    shared_server.ask(
        "-n", "1", "eval", f"redis.call('HSET', 'kvmcp:{namespace.space()}:hash', '\\255', '1')", "0"
    )
    shared_server.ask(
        "-n", "1", "eval", f"redis.call('RPUSH', 'kvmcp:{namespace.space()}:list', '\\255')", "0"
    )
    async with backend_on(shared_server.port) as backend:
        replies = await backend.execute(
            [
                Range(key["list"]),
                HashGetAll(key["hash"]),
                SetMembers(key["set"]),
                SortedRange(key["sorted"]),
                StreamRange(key["stream"]),
                Pop(key["list"]),
                SortedIncrement(key["sorted"], b"z", 1.0),
            ]
        )
        assert replies == [
            Elements((b'{"$text":"hello"}', b"[1,2]", b'{"$base64":"/w=="}'), 3, 3),
            (("a", b'{"$text":"x"}'), ("b", b"1")),
            (b'{"$text":"y"}',),
            Ranked(((b"1", -math.inf), (b'{"$text":"z"}', math.inf)), 2),
            Entries((StreamEntry("5-5", (("f", b'{"$text":"w"}'),)),), False),
            (b'{"$text":"hello"}',),
            OVERFLOW,
        ]


@pytest.mark.anyio
async def test_a_script_that_redis_forgot(server: RedisServer, namespace: Namespace) -> None:
    a = namespace.key("a")
    create = Atomic((Set(a, b"1"),), (KeyIs(a, None),))
    async with backend_on(server.port) as backend:
        assert await backend.execute([Get(a)]) == [None]
        server.ask("script", "flush")
        first, second = await backend.execute([create, Get(a)])
        assert first == BY_CLASS["NOSCRIPT"] and second is None  # not reordered behind the read
        assert await backend.execute([create]) == [(True,)]
        assert await backend.execute([create]) == [Unmet(0, True, etag_of(b"1"))]
        server.ask("script", "flush")
        lists: list[Op] = [
            Push(namespace.key("l"), (b"1",)),
            Pop(namespace.key("l")),
            Pop(namespace.key("l")),
            create,
        ]
        assert (await backend.execute(lists))[1:] == [(b"1",), (), Unmet(0, True, etag_of(b"1"))]


# --- scripted ones

HELLO = b"%1\r\n+version\r\n+7.2.0\r\n"
GREETED = HELLO + b"+OK\r\n+OK\r\n*0\r\n+PONG\r\n+\r\n+x\r\n"


@asynccontextmanager
async def scripted(answer: Callable[[bytes], bytes], greeting: bytes = GREETED) -> AsyncIterator[int]:
    """A server that greets, then answers every chunk with `answer`'s bytes; its port."""

    async def handle(client: SocketStream) -> None:
        async with client:
            try:
                await client.receive()
                await client.send(greeting)
                while True:
                    await client.send(answer(await client.receive()))
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield listener.extra(SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


QUICK = RedisOptions(op_timeout=0.5, patience=0.2, reconnect_pause=0.01)


@pytest.mark.anyio
@pytest.mark.parametrize("name", [name for name in sorted(BY_CLASS) if name != "NOSCRIPT"])
async def test_every_class_over_the_wire(name: str, namespace: Namespace) -> None:
    key = namespace.key("a")
    async with (
        scripted(lambda _: f"-{name} {SECRET}\r\n".encode()) as port,
        backend_on(port, QUICK) as backend,
    ):
        assert await backend.execute([Set(key, b"1")]) == [BY_CLASS[name]]


@pytest.mark.anyio
@pytest.mark.parametrize(
    "garbage", [b"garbage\r\n", b"$x\r\n", b">2147483648\r\n", b"*99999999\r\n", b"\0\0\0"]
)
async def test_garbage_over_the_wire(garbage: bytes, namespace: Namespace) -> None:
    key = namespace.key("a")
    async with scripted(lambda _: garbage) as port, backend_on(port, QUICK) as backend:
        (write,) = await backend.execute([Set(key, b"1")])
        (read,) = await backend.execute([Get(key)])
        assert isinstance(write, Failure) and write.code is Code.UNKNOWN_OUTCOME
        assert isinstance(read, Failure) and (read.code, read.retryable) == (Code.REDIS_ERROR, True)


@pytest.mark.anyio
async def test_a_value_of_half_a_gigabyte(namespace: Namespace) -> None:
    """The one who asked is told; his neighbours' reads are asked again; memory stays bounded."""
    big, small = namespace.key("big"), namespace.key("small")

    def answer(request: bytes) -> bytes:
        return b"$536870912\r\n" + b"x" * (17 * 1024 * 1024) if b":big\r\n" in request else b"$1\r\n1\r\n"

    async with scripted(answer) as port, backend_on(port, RedisOptions(reconnect_pause=0.01)) as backend:
        first, second = await backend.execute([Get(big), Get(small)])
        assert isinstance(first, Failure) and (first.code, first.retryable) == (Code.TOO_LARGE, False)
        assert second == b"1"


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("greeting", "retryable", "words"),
    [
        (b"-ERR unknown command 'HELLO'\r\n" + b"+OK\r\n" * 6, False, "too old"),
        (b"%1\r\n+version\r\n+6.2.14\r\n" + b"+OK\r\n" * 6, False, "too old"),
        (b"-NOPROTO no\r\n" + b"+OK\r\n" * 6, False, "RESP3"),
        (b"-ERR max number of clients reached\r\n" * 7, True, "no room"),
        (HELLO + b"-ERR DB index is out of range\r\n" + b"+OK\r\n" * 5, False, "database number"),
        (HELLO + b"+OK\r\n+OK\r\n-LOADING x\r\n-LOADING x\r\n+\r\n+\r\n", True, "loading"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", True, "cannot be reached"),
    ],
)
async def test_greetings_that_go_wrong(
    greeting: bytes, retryable: bool, words: str, namespace: Namespace
) -> None:
    async with scripted(lambda _: b"", greeting) as port, backend_on(port, QUICK) as backend:
        (reply,) = await backend.execute([Get(namespace.key("a"))])
        assert isinstance(reply, Failure), reply
        assert reply.retryable is retryable
        assert words in reply.message


@pytest.mark.anyio
@pytest.mark.parametrize(
    "url",
    [
        "redis://a..b",
        "redis://" + "a" * 300,
        "rediss://.a",
        "redis://\u00e9.invalid",
    ],
)
async def test_addresses_that_nobody_can_have(url: str) -> None:
    async with backend_at(url, QUICK) as backend:
        (reply,) = await backend.execute([Get(_KEY)])
        assert isinstance(reply, Failure) and reply.code is Code.REDIS_NOT_CONNECTED, reply
