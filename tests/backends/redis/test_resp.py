"""The RESP machine, as function calls.

Properties: however the bytes are cut, the same calls settle with the same replies in the same order; and any bytes
whatever lead to settled calls or `Garbage`, never to another exception, a hang or an allocation beyond the bounds.
"""

import tracemalloc

import hiredis
import pytest
from hypothesis import given, strategies as st

from kvmcp.backends.redis import resp
from kvmcp.backends.redis.resp import Call, Garbage, Lost, Oversized, Push, RespMachine, pack

PING, GET, SET = pack("PING"), pack("GET", b"k"), pack("SET", b"k", b"v")


def flying(*calls: Call) -> RespMachine:
    """A machine whose calls are handed out and written."""
    machine = RespMachine()
    for call in calls:
        machine.send(call)
    machine.wrote(len(machine.data_to_send()))
    return machine


def test_calls_leave_as_one_piece() -> None:
    machine = RespMachine()
    machine.send(Call([PING, GET]))
    machine.send(Call([SET]))
    assert machine.data_to_send() == PING + GET + SET
    assert machine.data_to_send() == b""


def test_replies_settle_calls_in_order() -> None:
    first, second = Call([PING, GET]), Call([SET])
    machine = flying(first, second)
    assert machine.receive_data(b"+PONG\r\n$1\r\nv\r") == []
    assert machine.receive_data(b"\n+OK\r\n") == [first, second]
    assert (first.replies, second.replies) == ([b"PONG", b"v"], [b"OK"])
    assert machine.in_flight == 0


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"_\r\n", None),
        (b"$-1\r\n", None),
        (b":-7\r\n", -7),
        (b"#t\r\n", True),
        (b",1.5\r\n", 1.5),
        (b"$0\r\n\r\n", b""),
        (b"*2\r\n:1\r\n*0\r\n", [1, []]),
        (b"%1\r\n+a\r\n:1\r\n", {b"a": 1}),
        (b"=7\r\ntxt:abc\r\n", b"abc"),
    ],
)
def test_every_kind_of_reply(data: bytes, value: object) -> None:
    call = Call([GET])
    assert flying(call).receive_data(data) == [call]
    assert call.replies == [value]


def test_an_error_is_a_reply() -> None:
    call = Call([GET])
    flying(call).receive_data(b"-WRONGTYPE no\r\n")
    assert isinstance(call.replies[0], hiredis.ReplyError)
    assert str(call.replies[0]) == "WRONGTYPE no"


def test_pushes_go_their_own_way() -> None:
    call = Call([GET])
    machine = flying(call)
    assert machine.receive_data(b">3\r\n+message\r\n$1\r\nc\r\n$1\r\nm\r\n$1\r\nv\r\n") == [call]
    assert call.replies == [b"v"]
    assert machine.take_pushes() == [Push(b"message", (b"c", b"m"))]
    assert machine.take_pushes() == []


def test_a_subscription_is_confirmed_by_a_push() -> None:
    call = Call([pack(b"SUBSCRIBE", b"c"), PING])
    machine = flying(call)
    machine.receive_data(b">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
    assert machine.receive_data(b"+PONG\r\n") == [call]
    assert call.replies == [[b"subscribe", b"c", 1], b"PONG"]


def test_a_subscription_that_ends_by_itself_is_a_push() -> None:
    machine = flying(Call([GET]))
    machine.receive_data(b">3\r\n$12\r\nsunsubscribe\r\n$1\r\nc\r\n:0\r\n")
    assert machine.take_pushes() == [Push(b"sunsubscribe", (b"c", 0))]
    assert machine.in_flight == 1


# --- fates


def test_what_was_not_written_has_not_run() -> None:
    call = Call([GET, SET])
    machine = RespMachine()
    machine.send(call)
    assert machine.lose() == [call]
    assert call.replies == [Lost.UNSENT, Lost.UNSENT]


@pytest.mark.parametrize("written", range(len(GET + SET) + 1))
def test_only_a_command_that_was_written_to_its_end_may_have_run(written: int) -> None:
    call = Call([GET, SET])
    machine = RespMachine()
    machine.send(Call([PING]))
    machine.send(call)
    machine.data_to_send()
    machine.wrote(len(PING) + written)
    machine.lose()
    fates = [Lost.UNANSWERED if written >= end else Lost.UNSENT for end in (len(GET), len(GET + SET))]
    assert call.replies == fates


def test_replies_that_came_are_kept() -> None:
    call = Call([GET, SET])
    machine = flying(call)
    machine.receive_data(b"$1\r\nv\r\n+O")
    machine.lose()
    assert call.replies == [b"v", Lost.UNANSWERED]


def test_replies_of_an_abandoned_call_reach_nobody() -> None:
    gone, here = Call([GET, SET]), Call([PING])
    machine = flying(gone, here)
    machine.receive_data(b"$1\r\nv\r\n")
    machine.give_up(gone)
    assert gone.replies == [b"v", Lost.UNANSWERED]
    assert machine.receive_data(b"+OK\r\n+PONG\r\n") == [here]
    assert (gone.replies, here.replies) == ([b"v", Lost.UNANSWERED], [b"PONG"])


def test_an_abandoned_call_that_waits_is_not_sent() -> None:
    machine = RespMachine()
    call = Call([SET])
    machine.send(call)
    machine.give_up(call)
    assert call.replies == [Lost.UNSENT]
    assert machine.data_to_send() == b""


def test_losing_the_connection_leaves_ghosts_alone() -> None:
    gone = Call([GET])
    machine = flying(gone)
    machine.give_up(gone)
    assert machine.lose() == []
    assert gone.replies == [Lost.UNANSWERED]


# --- what a server must not send


@pytest.mark.parametrize(
    "data",
    [
        b"garbage\r\n",
        b"HTTP/1.1 400 Bad Request\r\n",
        b"$abc\r\n",
        b"*99999999\r\n",
        b">2147483648\r\n",
        b"%99999999999999\r\n",
        b"%1\r\n*1\r\n:1\r\n:2\r\n",
        b":99999999999999999999\r\n",
        b"\x15\x03\x01\x00\x02\x02\x0a",
        b">1\r\n:1\r\n",
        b">0\r\n",
    ],
)
@pytest.mark.parametrize("cut", [0, 1, 3, 5])
def test_garbage(data: bytes, cut: int) -> None:
    machine = flying(Call([GET]))
    with pytest.raises(Garbage):
        for part in (data[:cut], data[cut:], b"\r\n"):
            machine.receive_data(part)


def test_a_reply_that_nobody_asked_for() -> None:
    machine = flying(Call([PING]))
    with pytest.raises(Garbage):
        machine.receive_data(b"+PONG\r\n+PONG\r\n")


def test_what_came_in_front_of_garbage_did_come() -> None:
    answered, begun = Call([GET]), Call([SET, SET])
    machine = flying(answered, begun)
    with pytest.raises(Garbage):
        machine.receive_data(b"$1\r\nx\r\n+OK\r\n?\r\n")
    assert machine.lose() == [answered, begun]
    assert answered.replies == [b"x"]
    assert begun.replies == [b"OK", Lost.UNANSWERED]


def test_text_that_looks_like_a_huge_header_is_text() -> None:
    text = b"a\n*99999999\r\n>99999999\r\n~9999999"
    reply = b"$%d\r\n%b\r\n" % (len(text), text)
    for cut in range(len(reply)):
        call = Call([GET])
        machine = flying(call)
        machine.receive_data(reply[:cut])
        machine.receive_data(reply[cut:])
        assert call.replies == [text], cut


def test_a_huge_string_is_refused_long_before_it_is_here() -> None:
    machine = flying(Call([GET]))
    chunk = b"x" * 65536
    tracemalloc.start()
    with pytest.raises(Oversized):
        machine.receive_data(b"$536870912\r\n")
        for _ in range(10000):
            machine.receive_data(chunk)
    assert machine.received <= resp.MAX_REPLY_BYTES + len(chunk) + 100
    tracemalloc.stop()


def test_many_small_elements_are_one_reply() -> None:
    machine = RespMachine(max_reply_bytes=1000)
    machine.send(Call([GET]))
    machine.data_to_send()
    with pytest.raises(Oversized):
        machine.receive_data(b"*99999\r\n" + b":1\r\n" * 300)


# --- properties

_scalars = st.one_of(
    st.binary(max_size=40).map(lambda b: (b"$%d\r\n%b\r\n" % (len(b), b), b)),
    st.integers(-(2**63), 2**63 - 1).map(lambda i: (b":%d\r\n" % i, i)),
    st.just((b"_\r\n", None)),
    st.sampled_from(
        [(b"$14\r\na\r\n*99999999\r\n\r\n", b"a\r\n*99999999\r\n"), (b"$3\r\n\n>9\r\n", b"\n>9")]
    ),
)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4).map(
        lambda items: (
            b"*%d\r\n" % len(items) + b"".join(raw for raw, _ in items),
            [value for _, value in items],
        )
    ),
    max_leaves=8,
)
_pushes = st.binary(max_size=10).map(
    lambda b: (b">2\r\n+message\r\n$%d\r\n%b\r\n" % (len(b), b), Push(b"message", (b,)))
)


@given(st.lists(st.one_of(_values, _pushes), max_size=12), st.data())
def test_chunking_changes_nothing(items: list[tuple[bytes, object]], data: st.DataObject) -> None:
    stream = b"".join(raw for raw, _ in items)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=20).map(sorted))
    pushes = [value for _, value in items if isinstance(value, Push)]
    values = [value for _, value in items if not isinstance(value, Push)]
    calls = [Call([GET]) for _ in values]
    machine = flying(*calls)
    settled: list[Call] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        settled += machine.receive_data(stream[start:end])
    assert settled == calls
    assert [call.replies for call in calls] == [[value] for value in values]
    assert machine.take_pushes() == pushes


_noise = st.lists(
    st.one_of(
        st.binary(max_size=20),
        st.sampled_from(
            [b"*", b"$", b">", b"%", b"~", b":", b"+", b"-", b"\r\n", b"9", b"-1", b"\r", b"\n", b"_", b"#t"]
        ),
        _values.map(lambda item: item[0]),
    ),
    max_size=30,
)


@given(_noise)
def test_any_bytes_settle_calls_or_are_garbage(chunks: list[bytes]) -> None:
    calls = [Call([GET, SET]) for _ in range(3)]
    machine = flying(*calls)
    given: list[Call] = []
    try:
        for chunk in chunks:
            given += machine.receive_data(chunk)
    except Garbage:
        pass
    given += machine.lose()
    assert given == calls  # each once: whoever waits for one is woken
    for call in calls:
        assert len(call.replies) == 2
        assert call.settled
