"""The server's machine by plain function calls: messages, closing, limits, time."""

import json
import sys
from typing import Any

import pytest
from hypothesis import given, strategies as st

from kvmcp.core.commands import RunBatch
from kvmcp.core.subscriptions import ListChanged
from kvmcp.io.websocket.limits import WebSocketLimits
from tests.io.support import MODERN_META, call, initialize, ping
from tests.io.websocket.support import (
    BINARY,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    Served,
    as_bytes,
    closing,
    frame,
    text,
    upgrade,
)
from tests.tools.support import without_etag

QUICK = WebSocketLimits(
    handshake_timeout=5, message_timeout=30, ping_interval=20, pong_timeout=10, idle_timeout=1000
)

CONVERSATION = [
    *initialize(),
    call(1, "redis_set", key="é", value="ü\U0001f600"),
    call(2, "redis_get", key="é"),
]


def converse() -> Served:
    served = Served().open()
    served.say(*initialize())
    assert [message["id"] for message in served.hear()] == ["init"]
    return served


# --- messages -----------------------------------------------------------------------------------------------------


def test_both_eras_on_one_connection() -> None:
    served = Served().open()
    served.say(call(1, "redis_set", MODERN_META, key="a", value=1))
    served.say(call(2, "redis_get", MODERN_META, key="a"))
    assert [message["result"]["resultType"] for message in served.hear()] == ["complete", "complete"]
    served = converse()
    served.say(call(3, "redis_get", key="a"))
    assert served.hear()[0]["result"]["structuredContent"] == {"found": False}


def test_any_number_of_messages_in_one_read_are_one_batch_and_one_write() -> None:
    served = converse()
    served.commands.clear()
    served.writes = 0
    served.say(*[call(n, "redis_set", key=f"k{n}", value=n) for n in range(50)])
    assert [len(command.ops) for command in served.commands if isinstance(command, RunBatch)] == [50]
    assert served.writes == 1
    assert [message["id"] for message in served.hear()] == list(range(50))


def test_frames_behind_the_upgrade_in_one_read() -> None:
    served = Served()
    served.feed(upgrade() + text(*CONVERSATION) + frame(PING, b"x"))
    head, _, rest = bytes(served.written).partition(b"\r\n\r\n")
    served.written[:] = rest
    assert head.startswith(b"HTTP/1.1 101")
    assert [frame.opcode for frame in served.frames()].count(TEXT) == 3


def test_a_conversation_cut_at_every_byte() -> None:
    data = upgrade() + text(*CONVERSATION) + closing()
    whole = Served()
    whole.feed(data)
    for cut in range(1, len(data)):
        served = Served()
        served.feed(data, [cut])
        assert served.written == whole.written, cut
        assert served.machine.closed
    single = Served()
    single.feed(data, range(1, len(data)))
    assert single.written == whole.written


def test_a_message_fragmented_at_every_byte() -> None:
    message = as_bytes(call(1, "redis_set", key="k", value="ü\U0001f600" * 3))
    for cut in range(len(message) + 1):
        served = converse()
        first = frame(TEXT, message[:cut], fin=False)
        served.feed(first + frame(PING, b"p") + frame(CONTINUATION, message[cut:]))
        pong, answer = sorted(served.frames(), key=lambda frame: -frame.opcode)
        assert pong == Frame(PONG, b"p")
        assert without_etag(json.loads(answer.payload)["result"]["structuredContent"]) == {"ok": True}


def test_a_message_of_single_bytes_in_frames_of_their_own() -> None:
    served = converse()
    message = as_bytes(call(1, "redis_set", key="k", value="ü\U0001f600"))
    served.feed(frame(TEXT, b"", fin=False))
    for byte in message:
        served.feed(frame(CONTINUATION, bytes((byte,)), fin=False))
    assert served.hear() == []
    served.feed(frame(CONTINUATION))
    assert served.hear()[0]["id"] == 1


@given(st.data())
def test_the_answers_do_not_depend_on_cuts_and_fragments(data: st.DataObject) -> None:
    messages = [as_bytes(message) for message in CONVERSATION]
    stream = b""
    for message in messages:
        cuts = sorted(data.draw(st.lists(st.integers(0, len(message)), max_size=4)))
        parts = [message[start:end] for start, end in zip([0, *cuts], [*cuts, len(message)], strict=True)]
        for n, part in enumerate(parts):
            mask = data.draw(st.binary(min_size=4, max_size=4))
            stream += frame(TEXT if n == 0 else CONTINUATION, part, fin=n == len(parts) - 1, mask=mask)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    served = Served().open()
    served.feed(stream, cuts)
    answers = served.hear()
    assert [answer["id"] for answer in answers] == ["init", 1, 2]
    assert without_etag(answers[2]["result"]["structuredContent"]) == {"found": True, "value": "ü\U0001f600"}


@pytest.mark.parametrize("length", [0, 125, 126, 127, 65535, 65536, 70000])
def test_every_size_of_length_in_both_directions(length: int) -> None:
    served = converse()
    served.say(call(1, "redis_set", key="k", value="x" * length), call(2, "redis_get", key="k"))
    answer = served.hear()[1]
    assert without_etag(answer["result"]["structuredContent"]) == {"found": True, "value": "x" * length}


def test_text_that_is_no_json_is_answered_and_forgiven() -> None:
    served = converse()
    served.feed(text(b"", b"nonsense", b"{}"))
    assert [message["error"]["code"] for message in served.hear()] == [-32700, -32700, -32600]
    served.say(ping(7))
    assert served.hear()[0]["id"] == 7


def test_a_change_is_told() -> None:
    served = converse()
    served.machine.publish(ListChanged("tools"), served.now)
    served.turn()
    assert served.hear()[0]["method"] == "notifications/tools/list_changed"


def test_a_request_is_cancelled_by_notification() -> None:
    served = converse()
    served.is_slow = True
    served.say(call(1, "redis_get", key="a"), call(2, "redis_get", key="a"))
    served.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
    served.answer()
    assert [message["id"] for message in served.hear()] == [2]


# --- closing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(BINARY, b"{}"), 1003),
        (frame(BINARY, b"", fin=False) + frame(CONTINUATION, b"{}"), 1003),
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"{\xc3", fin=False) + frame(CONTINUATION, b"\x28}"), 1007),
        (frame(TEXT, b"\xed\xa0\x80"), 1007),
        (frame(TEXT, b"{}", mask=None), 1002),
        (frame(TEXT, b"{}", rsv=4), 1002),
        (frame(3, b""), 1002),
        (frame(11, b""), 1002),
        (frame(CONTINUATION, b"{}"), 1002),
        (frame(TEXT, b"{", fin=False) + frame(TEXT, b"}"), 1002),
        (frame(PING, b"", fin=False), 1002),
        (frame(PING, b"x" * 126), 1002),
        (frame(TEXT, b"{}", size=2), 1002),
        (frame(TEXT, b"{}", size=8), 1002),
        (frame(TEXT, b"x" * 300, size=8), 1002),
        (frame(TEXT, b"{}", size=8, length=1 << 63), 1009),
        (closing(1005), 1002),
        (closing(999), 1002),
        (closing(2999), 1002),
        (frame(8, b"\x03"), 1002),
        (closing(1000, b"\xff"), 1007),
        (closing(1000), 1000),
        (closing(1001), 1001),
        (closing(3000, b"mine"), 3000),
        (closing(4999), 4999),
        (closing(None), None),
    ],
)
def test_the_code_that_we_close_with(sent: bytes, code: int | None) -> None:
    for cuts in (range(0), range(1, len(sent))):
        served = converse()
        served.feed(sent, cuts)
        assert served.ending()[0] == code


def test_what_is_answered_already_goes_out_before_a_close_for_a_violation() -> None:
    served = converse()
    served.feed(text(ping(1)) + frame(BINARY, b"x") + text(ping(2)))
    answer, end = served.frames()
    assert json.loads(answer.payload)["id"] == 1
    assert end.code == 1003


def test_nothing_counts_behind_a_close() -> None:
    served = converse()
    served.commands.clear()
    served.feed(closing() + text(call(1, "redis_set", key="k", value=1)) + frame(BINARY, b"x"))
    assert served.ending() == (1000, b"")
    served.feed(text(ping(2)))
    assert not served.written
    assert not [command for command in served.commands if isinstance(command, RunBatch)]


@pytest.mark.parametrize("how", ["close", "eof", "violation"])
def test_the_end_of_a_connection_cancels_what_is_in_flight(how: str) -> None:
    served = converse()
    served.is_slow = True
    served.say(call(1, "redis_set", key="k", value=1))
    if how == "eof":
        served.hang_up()
    else:
        served.feed(closing() if how == "close" else frame(BINARY, b"x"))
        served.ending()
    assert served.machine.closed
    served.answer()
    assert not served.written


def test_a_stop_answers_what_was_accepted_and_says_that_we_go_away() -> None:
    served = converse()
    served.is_slow = True
    served.say(call(1, "redis_set", key="k", value=1))
    served.stop()
    assert (served.machine.closed, served.machine.wants_input) == (False, False)
    served.answer()
    answer, end = served.frames()
    assert without_etag(json.loads(answer.payload)["result"]["structuredContent"]) == {"ok": True}
    assert (end.code, served.machine.closed) == (1001, True)


def test_a_stop_does_not_wait_longer_than_its_grace() -> None:
    served = converse()
    served.is_slow = True
    served.say(call(1, "redis_set", key="k", value=1))
    served.stop()
    served.pass_time(4.0)
    assert served.ending()[0] == 1001


def test_a_stop_before_the_upgrade() -> None:
    served = Served()
    served.feed(b"GET /mcp HT")
    served.stop()
    assert served.machine.closed and served.written.startswith(b"HTTP/1.1 503 ")


def test_a_bug_of_ours_is_1011(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    served = converse()

    def fail(*arguments: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("kvmcp.core.session.ServerSession.receive_message", fail)
    served.feed(text(ping(1)))
    assert served.ending() == (1011, b"internal error")
    assert "a WebSocket connection failed" in caplog.text


# --- limits -------------------------------------------------------------------------------------------------------


def test_a_message_of_the_largest_size_and_one_byte_more() -> None:
    def padded(size: int) -> bytes:
        return as_bytes(ping(1)).ljust(size)

    served = Served(message_bytes=1000).open()
    served.feed(text(padded(1000)))
    assert served.hear()[0]["id"] == 1
    served.feed(text(padded(1001)))
    assert served.ending() == (1009, b"a message has at most 1000 bytes")


def test_a_message_is_refused_by_its_head_alone() -> None:
    served = Served(message_bytes=1000).open()
    served.feed(frame(TEXT, b"", length=1001, size=2)[:8])
    assert served.ending()[0] == 1009


def test_the_fragments_of_a_message_count_together() -> None:
    served = Served(message_bytes=1000).open()
    served.feed(frame(TEXT, b"x" * 600, fin=False))
    served.feed(frame(CONTINUATION, b"", length=401, size=2)[:8])
    assert served.ending()[0] == 1009


def test_fragments_of_wide_characters_count_in_bytes() -> None:
    served = Served(message_bytes=1000).open()
    served.feed(frame(TEXT, "é".encode() * 300, fin=False) + frame(CONTINUATION, "é".encode() * 201))
    assert served.ending()[0] == 1009


def test_a_large_frame_in_pieces_is_assembled() -> None:
    served = converse()
    data = text(call(1, "redis_set", key="k", value="é" * 50_000))
    served.feed(data, range(1, len(data), 10_007))
    assert served.hear()[0]["id"] == 1


def test_a_client_that_reads_little_is_not_read_from() -> None:
    served = Served(pending_calls=4).open()
    served.is_slow = True
    served.say(*[call(n, "redis_get", MODERN_META, key="a") for n in range(4)])
    assert not served.machine.wants_input
    served.answer()
    assert served.machine.wants_input


# --- floods -------------------------------------------------------------------------------------------------------

FRAMES = 100_000
READ = 64 * 1024
"""Bytes at once, as a transport reads them."""

FLOODS = {
    "pings": (b"", frame(PING, b"")),
    "fragments of a message": (frame(TEXT, b"", fin=False), frame(CONTINUATION, b" ", fin=False)),
    "messages that are none of MCP": (b"", frame(TEXT, b"{}")),
}


@pytest.mark.parametrize("first,each", FLOODS.values(), ids=FLOODS)
def test_a_flood_leaves_nothing_behind_and_is_answered_as_it_comes(first: bytes, each: bytes) -> None:
    """However many frames come: what one read can cause is written before the next, and not a block stays."""
    machine = Served().open().machine
    data = first + each * FRAMES
    blocks: list[int] = []
    largest = 0
    for start in range(0, len(data), READ):
        machine.receive_data(data[start : start + READ], 100.0)
        largest = max(largest, len(machine.data_to_send()))
        assert machine.take_commands() == []
        blocks.append(sys.getallocatedblocks())
    assert not machine.closed
    assert largest <= 20 * READ
    # Were one object kept for each frame, it would be a hundred times as many.
    assert blocks[-1] - blocks[1] < FRAMES / 100


# --- time ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", [b"", b"GET ", upgrade()[:-1]])
def test_an_upgrade_has_little_time(sent: bytes) -> None:
    served = Served(QUICK)
    for byte in sent:
        served.feed(bytes((byte,)))
    served.pass_time(4.9)
    assert not served.written
    served.pass_time(0.2)
    assert served.machine.closed and served.written.startswith(b"HTTP/1.1 408 ")


def test_a_silent_peer_is_pinged_and_then_left() -> None:
    served = Served(QUICK).open()
    served.pass_time(19.9)
    assert served.frames() == []
    served.pass_time(0.2)
    assert served.frames() == [Frame(PING, b"")]
    served.pass_time(9.8)
    assert not served.machine.closed
    served.pass_time(0.2)
    assert served.ending() == (1001, b"no answer to a ping")


@pytest.mark.parametrize("sign", [frame(PONG), frame(PING), text(ping(1)), text(ping(1))[:3]])
def test_any_sign_of_life_answers_a_ping(sign: bytes) -> None:
    served = Served(QUICK).open()
    served.pass_time(25)
    served.feed(sign)
    served.frames()
    served.pass_time(19)
    assert not served.machine.closed
    served.pass_time(2)
    assert served.frames() == [Frame(PING, b"")]


def test_a_peer_that_talks_is_never_pinged() -> None:
    served = Served(QUICK).open()
    for _ in range(20):
        served.pass_time(15)
        served.say(ping(1))
        assert [frame.opcode for frame in served.frames()] == [TEXT]


def test_a_peer_whom_we_do_not_read_is_not_blamed_for_silence() -> None:
    served = Served(QUICK, pending_calls=1, backend_timeout=1e6).open()
    served.is_slow = True
    served.say(call(1, "redis_get", MODERN_META, key="a"))
    served.pass_time(500)
    assert not served.machine.closed
    served.answer()
    served.pass_time(9)
    assert not served.machine.closed
    served.pass_time(30)
    assert served.machine.closed


def test_a_peer_that_has_not_got_the_ping_is_not_blamed() -> None:
    served = Served(QUICK).open()
    machine = served.machine
    served.now += 21
    machine.handle_timeout(served.now)
    assert machine.data_to_send()  # and the write takes long
    for _ in range(3):
        served.now += 10
        machine.handle_timeout(served.now)
        assert not machine.closed
    served.turn()  # it is out
    served.pass_time(10)
    assert not machine.closed
    served.pass_time(10)
    assert served.ending()[0] == 1001


def test_a_message_has_a_bounded_time() -> None:
    served = Served(QUICK).open()
    served.feed(frame(TEXT, b"{", fin=False))
    for _ in range(29):
        served.pass_time(1)
        served.feed(frame(CONTINUATION, b" ", fin=False))
    assert not served.machine.closed
    served.pass_time(2)
    assert served.ending() == (1008, b"a message took too long")


def test_each_message_has_its_own_time() -> None:
    served = Served(QUICK).open()
    data = text(ping(1))
    for _ in range(10):
        served.feed(data[:5])
        served.pass_time(20)
        served.feed(data[5:])
    assert [frame.opcode for frame in served.frames()].count(TEXT) == 10


def test_a_connection_without_messages_ends_however_alive() -> None:
    served = Served(QUICK).open()
    for _ in range(99):
        served.pass_time(10)
        served.feed(frame(PONG))
    assert not served.machine.closed
    served.pass_time(11)
    assert served.ending() == (1001, b"idle")


def test_what_we_tell_counts_as_use() -> None:
    served = Served(QUICK).open()
    served.say(*initialize())
    for _ in range(5):
        for _ in range(40):
            served.pass_time(19)
            served.feed(frame(PONG))
        served.machine.publish(ListChanged("tools"), served.now)
        served.turn()
    assert not served.machine.closed


def test_an_ended_connection_has_no_deadline_left() -> None:
    served = converse()
    served.feed(closing())
    served.pass_time(1e6)
    assert served.machine.next_deadline() is None


# --- any bytes ----------------------------------------------------------------------------------------------------


@given(st.data())
def test_any_frames_end_in_a_documented_way(data: st.DataObject) -> None:
    """Whatever is sent: messages, Pongs and at most one Close with a code of ours, and nothing raises."""
    pieces: list[bytes] = []
    for _ in range(data.draw(st.integers(1, 6))):
        options: dict[str, Any] = {
            "fin": data.draw(st.booleans()),
            "rsv": data.draw(st.sampled_from([0, 0, 0, 0, 1, 4])),
            "mask": data.draw(st.sampled_from([b"\0\0\0\0", b"abcd", b"abcd", None])),
        }
        payload = data.draw(
            st.binary(max_size=140) | st.sampled_from([b"{}", as_bytes(ping(1)), b"\x03\xe8"])
        )
        pieces.append(frame(data.draw(st.integers(0, 15)), payload, **options))
    stream = b"".join(pieces)
    stream = stream[: data.draw(st.integers(0, len(stream)))]
    check_any(stream, data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6))
def test_any_bytes_end_in_a_documented_way(stream: bytes, cuts: list[int]) -> None:
    check_any(stream, [cut for cut in cuts if cut <= len(stream)])


def check_any(stream: bytes, cuts: list[int]) -> None:
    served = Served().open()
    served.feed(stream, sorted(cuts))
    frames = served.frames()
    assert not served.written
    assert all(frame.opcode in (TEXT, PONG, 8) for frame in frames)
    closes = [frame.code for frame in frames if frame.opcode == 8]
    assert len(closes) == served.machine.closed
    assert all(code is None or code in (1002, 1003, 1007, 1009) or code >= 1000 for code in closes)
    whole = Served().open()
    whole.feed(stream)
    assert whole.frames() == frames, "cuts change nothing"
