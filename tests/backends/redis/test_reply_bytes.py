"""How many bytes of replies one batch can make us hold, and that nobody else notices.

Property: however replies are cut into chunks, each command gets its own reply or, beyond the bound, the note that
it was dropped; what is kept stays below the bound and a chunk; the calls around it get everything.
"""

import anyio
import pytest
from hypothesis import given, strategies as st

from kvmcp.backends.ops import Atomic, Code, Delete, Failure, Get, Namespace, NsKey, Op, Reply, Set
from kvmcp.backends.redis.errors import REPLIES_TOO_LARGE
from kvmcp.backends.redis.options import RedisOptions
from kvmcp.backends.redis.resp import MAX_CALL_REPLY_BYTES, SMALL_REPLY, Call, Lost, RespMachine, pack
from tests.backends.redis.servers import RedisServer
from tests.backends.redis.stores import backend_on

LIMIT = 10_000
CHUNK = 4096
MIB = 1024 * 1024

sizes = st.one_of(st.integers(0, 20), st.integers(SMALL_REPLY - 1, SMALL_REPLY + 1), st.integers(2000, 5000))


def reply_of(number: int, size: int) -> bytes:
    return (b"%04d" % number).ljust(size, b"x")


def framed(value: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(value), value)


@given(st.lists(st.lists(sizes, min_size=1, max_size=12), min_size=1, max_size=6), st.data())
def test_each_reply_or_a_note(plan: list[list[int]], data: st.DataObject) -> None:
    machine = RespMachine(max_call_reply_bytes=LIMIT)
    calls = [Call([pack("GET", str(i))] * len(call_sizes)) for i, call_sizes in enumerate(plan)]
    wanted = [[reply_of(i, size) for size in call_sizes] for i, call_sizes in enumerate(plan)]
    for call in calls:
        machine.send(call)
    machine.wrote(len(machine.data_to_send()))
    stream = b"".join(framed(value) for values in wanted for value in values)
    settled: list[Call] = []
    while stream:
        size = data.draw(st.integers(1, CHUNK))
        settled += machine.receive_data(stream[:size])
        stream = stream[size:]
    assert settled == calls
    for call, values in zip(calls, wanted, strict=True):
        assert len(call.replies) == len(values)
        kept = [value for slot, value in zip(call.replies, values, strict=True) if slot is not Lost.DROPPED]
        assert [slot for slot in call.replies if slot is not Lost.DROPPED] == kept
        assert all(value in kept for value in values if len(value) <= SMALL_REPLY)
        assert sum(map(len, kept)) <= LIMIT + CHUNK + len(values) * SMALL_REPLY
        if sum(len(framed(value)) for value in values) <= LIMIT - CHUNK:
            assert (kept, call.cause) == (values, None)
        if len(kept) < len(values):
            assert call.cause is REPLIES_TOO_LARGE


def test_pushes_before_a_call_do_not_count() -> None:
    machine = RespMachine(max_call_reply_bytes=LIMIT)
    push = b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n" + framed(b"x" * LIMIT)
    assert machine.receive_data(push * 2) == []
    call = Call([pack("GET", "a")] * 2)
    machine.send(call)
    machine.wrote(len(machine.data_to_send()))
    assert machine.receive_data(framed(b"y" * 2000)) == []
    assert machine.receive_data(framed(b"z" * 2000)) == [call]
    assert (call.replies, call.cause) == ([b"y" * 2000, b"z" * 2000], None)


def value_of(number: int) -> bytes:
    return b'"%04d' % number + b"x" * (MIB - 6) + b'"'


@pytest.mark.anyio
async def test_a_batch_with_too_large_answers(server: RedisServer, namespace: Namespace) -> None:
    """What fits is answered, the rest is refused truthfully; writes and other callers do not notice."""
    count = MAX_CALL_REPLY_BYTES // MIB + 30
    keys = [namespace.key(f"{i}") for i in range(count)]
    a, b = namespace.key("a"), namespace.key("b")
    others: dict[NsKey, Reply] = {}

    async def other(key: NsKey) -> None:
        (others[key],) = await backend.execute([Get(key)])

    patient = RedisOptions(
        op_timeout=60.0
    )  # 94 MiB take a busy machine longer than a call may last by default
    async with backend_on(server.port, patient) as backend:
        for i, key in enumerate(keys):
            assert await backend.execute([Set(key, value_of(i))]) == [True]
        last = count - 1
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other, keys[0])
            big: list[Op] = [Get(key) for key in keys]
            big += [Set(a, b"1"), Get(a), Atomic((Set(b, b"1"), Get(keys[last]))), Delete((a,))]
            tasks.start_soon(other, keys[1])
            replies = await backend.execute(big)
            tasks.start_soon(other, keys[last])
        refused = [reply for reply in replies[:count] if isinstance(reply, Failure)]
        assert refused == [REPLIES_TOO_LARGE] * len(refused) and 30 <= len(refused) <= 32
        for i, reply in enumerate(replies[:count]):
            assert reply in (value_of(i), REPLIES_TOO_LARGE)
        written, read, atomic, deleted = replies[count:]
        assert (written, read, deleted) == (True, b"1", 1)
        assert isinstance(atomic, Failure)
        assert (atomic.code, atomic.outcome) == (Code.UNKNOWN_OUTCOME, "unknown")  # it ran, and says to look
        assert others == {keys[i]: value_of(i) for i in (0, 1, last)}
        assert await backend.execute([Get(b), Get(keys[last])]) == [b"1", value_of(last)]
