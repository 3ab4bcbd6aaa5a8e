"""Frames alone: the lane for whole text messages against wsproto, deflate, what a client sends."""

import os
import zlib
from typing import Any

import pytest
from hypothesis import example, given, strategies as st
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from kvmcp.io.websocket.deflate import Deflate
from kvmcp.io.websocket.frames import SMALL, Closed, Frames, Received, Violated, unmask
from tests.io.websocket.support import BINARY, CONTINUATION, PING, PONG, TEXT, closing, frame, split_frames

LIMIT = 1 << 20
SERVER, CLIENT = ConnectionType.SERVER, ConnectionType.CLIENT


def by_wsproto(stream: bytes) -> list[object]:
    """What wsproto alone makes of it, in our words: messages, signs of life, and how it ends."""
    connection = Connection(SERVER)
    connection.receive_data(stream)
    found: list[object] = []
    message = ""
    for event in connection.events():
        match event:
            case TextMessage(data=text, message_finished=finished):
                message += text
                if finished:
                    found.append(message.encode())
                    message = ""
            case BytesMessage():
                return [*found, 1003]
            case Ping() | Pong():
                found.append("alive")
            case CloseConnection(code=code):
                is_closed = connection.state is not ConnectionState.OPEN
                return [*found, ("closed" if is_closed else "violated", int(code))]
            case _:
                raise AssertionError(event)
    return found


def by_frames(stream: bytes, cuts: list[int]) -> list[object]:
    frames = Frames(SERVER, LIMIT)
    found: list[object] = []
    start = 0
    for cut in [*cuts, len(stream)]:
        for incoming in frames.receive(stream[start:cut]):
            match incoming:
                case Closed(code=code):
                    found.append(("closed", code))
                case Violated(code=1003):
                    found.append(1003)
                case Violated(code=code):
                    found.append(("violated", code))
                case Received():
                    found.append("alive")
                case message:
                    found.append(message)
        start = cut
    return found


any_frame = st.builds(
    frame,
    st.sampled_from([TEXT, TEXT, TEXT, CONTINUATION, CONTINUATION, BINARY, 3, 8, PING, PONG, 15]),
    st.binary(max_size=130)
    | st.text(max_size=40).map(str.encode)
    | st.sampled_from([b"\x03\xe8", b"x" * 70_000]),
    fin=st.sampled_from([True, True, False]),
    rsv=st.sampled_from([0, 0, 0, 0, 0, 1, 2, 4]),
    mask=st.binary(min_size=4, max_size=4) | st.sampled_from([b"\0\0\0\0", b"abcd"] * 8 + [None]),
)


@given(
    st.lists(any_frame, max_size=6).map(b"".join),
    st.lists(st.integers(0, 1000), max_size=5),
    st.integers(0, 20),
)
@example(frame(TEXT, b"\xff") + frame(3), [], 0)
@example(frame(TEXT, b"a", size=2) + frame(TEXT, b"b"), [3], 0)
@example(frame(TEXT, b"a", fin=False) + frame(PING) + frame(CONTINUATION, b"b"), [], 0)
def test_any_bytes_mean_what_wsproto_says(stream: bytes, cuts: list[int], missing: int) -> None:
    stream = stream[: len(stream) - missing]
    expected = by_wsproto(stream)
    found = by_frames(stream, sorted(cut for cut in cuts if cut < len(stream)))
    # wsproto tells of a mistake in a frame that is not all there; here a short frame is waited for.
    if missing and found != expected:
        assert found == expected[:-1], "but for the last event, which the missing bytes belong to"
    else:
        assert found == expected


@given(st.binary(max_size=3000), st.binary(min_size=4, max_size=4))
def test_masking(payload: bytes, key: bytes) -> None:
    assert unmask(payload, key) == bytes(byte ^ key[n % 4] for n, byte in enumerate(payload))


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65535, 65536, 100_000])
@pytest.mark.parametrize("side", [SERVER, CLIENT])
def test_what_we_send_is_what_wsproto_reads(side: ConnectionType, length: int) -> None:
    data = Frames(side, LIMIT).text([b"a" * length, "é".encode() * length])
    peer = Connection(CLIENT if side is SERVER else SERVER)
    peer.receive_data(data)
    events = list(peer.events())
    assert events == [TextMessage(data="a" * length), TextMessage(data="é" * length)]


def test_a_client_masks_each_frame_with_a_key_of_its_own() -> None:
    client = Frames(CLIENT, LIMIT)
    data = client.text([b"{}"] * 100)
    keys = {data[start + 2 : start + 6] for start in range(0, len(data), 8)}
    assert len(keys) == 100


def test_a_client_takes_no_masked_frames() -> None:
    assert Frames(CLIENT, LIMIT).receive(frame(TEXT, b"{}")) == [
        Violated(1002, "client received unexpected masked frame")
    ]


def test_a_long_frame_is_not_collected_twice() -> None:
    frames = Frames(SERVER, LIMIT)
    data = frame(TEXT, b"x" * (SMALL * 4))
    messages: list[object] = []
    for start in range(0, len(data), 1000):
        messages += frames.receive(data[start : start + 1000])
    assert messages == [b"x" * (SMALL * 4)]
    assert frames.is_between


def test_nothing_follows_our_close() -> None:
    frames = Frames(SERVER, LIMIT)
    assert frames.close(1001, "é" * 100)
    assert frames.close(1000) == b""
    assert frames.receive(frame(PING)) == [Received()]
    assert frames.take_answers() == []


# --- deflate ------------------------------------------------------------------------------------------------------


def deflated(payload: bytes) -> bytes:
    deflater = zlib.compressobj(9, wbits=-15)
    return (deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


def agreed(limit: int = LIMIT, offer: str = "permessage-deflate") -> Deflate:
    deflate = Deflate(limit)
    assert deflate.accept(offer) is not None
    return deflate


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        ("permessage-deflate", "client_no_context_takeover; server_no_context_takeover"),
        (
            "permessage-deflate; client_max_window_bits",
            "client_no_context_takeover; server_no_context_takeover",
        ),
        (
            'permessage-deflate;server_max_window_bits="10" ; client_no_context_takeover',
            "client_no_context_takeover; server_no_context_takeover; server_max_window_bits=10",
        ),
        ("permessage-deflate; client_max_window_bits=abc", None),
        ("permessage-deflate; client_max_window_bits=7", None),
        ("permessage-deflate; client_max_window_bits=16", None),
        ("permessage-deflate; server_max_window_bits", None),
        ("permessage-deflate; server_max_window_bits=8", None),
        ("permessage-deflate; server_no_context_takeover=1", None),
        ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", None),
        ("permessage-deflate; unheard_of", None),
        ("permessage-deflate; ", None),
        ("permessage-deflate; =", None),
        ("permessage-deflate; client_max_window_bits=" + "9" * 10_000, None),
    ],
)
def test_offers(offer: str, answer: str | None) -> None:
    deflate = Deflate(LIMIT)
    assert deflate.accept(offer) == answer
    assert deflate.enabled() == (answer is not None)


def test_the_first_offer_that_can_be_taken_is_taken() -> None:
    deflate = Deflate(LIMIT)
    assert deflate.accept("permessage-deflate; server_max_window_bits=8") is None
    assert deflate.accept("permessage-deflate") is not None
    assert deflate.accept("permessage-deflate; server_max_window_bits=9") is None


@pytest.mark.parametrize(
    "answer",
    [
        "permessage-deflate",
        "permessage-deflate; client_max_window_bits=10; server_no_context_takeover",
        "permessage-deflate; nonsense",
    ],
)
def test_a_client_refuses_what_it_did_not_offer(answer: str) -> None:
    with pytest.raises(ValueError):
        Deflate(LIMIT).finalize(answer)


@given(
    st.lists(st.text(max_size=3000).map(str.encode), max_size=4), st.lists(st.integers(0, 4000), max_size=4)
)
def test_deflated_messages_both_ways(messages: list[bytes], cuts: list[int]) -> None:
    client = Deflate(LIMIT)
    client.finalize("permessage-deflate; server_no_context_takeover")
    sender, receiver = Frames(CLIENT, LIMIT, client, 100), Frames(SERVER, LIMIT, agreed(), 100)
    for source, target in ((sender, receiver), (receiver, sender)):
        data = source.text(messages)
        received: list[object] = []
        start = 0
        for cut in [*sorted(cut for cut in cuts if cut < len(data)), len(data)]:
            received += target.receive(data[start:cut])
            start = cut
        assert received == messages


def test_a_deflated_message_in_fragments_with_a_ping_between() -> None:
    payload = deflated(b"ab" * 500)
    frames = Frames(SERVER, LIMIT, agreed())
    data = frame(TEXT, payload[:5], fin=False, rsv=4) + frame(PING, b"hi") + frame(CONTINUATION, payload[5:])
    assert frames.receive(data) == [Received(), b"ab" * 500]
    assert split_frames(frames.take_answers()[0])[0][0].payload == b"hi"


def test_messages_that_are_not_deflated_are_taken_as_well() -> None:
    frames = Frames(SERVER, LIMIT, agreed())
    assert frames.receive(frame(TEXT, b"{}") + frame(TEXT, deflated(b"[]"), rsv=4)) == [b"{}", b"[]"]


def test_a_server_uses_the_window_that_was_asked_for() -> None:
    frames = Frames(SERVER, LIMIT, agreed(offer="permessage-deflate; server_max_window_bits=9"))
    noise = os.urandom(600).hex().encode()
    [sent], rest = split_frames(frames.text([noise * 4]))
    assert not rest and sent.rsv == 4
    inflater = zlib.decompressobj(-9)
    assert inflater.decompress(sent.payload + b"\0\0\xff\xff") == noise * 4


@pytest.mark.parametrize("piece", [1 << 20, 1000])
def test_a_bomb_is_not_inflated(piece: int) -> None:
    bomb = frame(TEXT, deflated(b"\0" * (64 << 20)), rsv=4)
    assert len(bomb) < 100_000
    frames = Frames(SERVER, 1000_000, agreed(1000_000))
    incoming: list[object] = []
    fed = 0
    while not incoming:
        incoming += frames.receive(bomb[fed : fed + piece])
        fed += piece
    assert incoming == [Violated(1009, "a message has at most 1000000 bytes")]


def test_the_limit_is_exact_after_inflating() -> None:
    for size, fits in ((1000, True), (1001, False)):
        frames = Frames(SERVER, 1000, agreed(1000))
        [incoming] = frames.receive(frame(TEXT, deflated(b"x" * size), rsv=4))
        assert (incoming == b"x" * size) is fits


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"\xff\xff\xff", rsv=4), 1007),
        (frame(TEXT, deflated(b"\xff\xfe"), rsv=4), 1007),
        (frame(TEXT, b"", rsv=2), 1002),
        (frame(PING, b"", rsv=4), 1002),
        (frame(TEXT, deflated(b"x"), rsv=4, fin=False) + frame(CONTINUATION, b"", rsv=4), 1002),
        (closing(rsv=4), 1002),
    ],
)
def test_deflate_broken(data: bytes, code: int) -> None:
    [violated] = Frames(SERVER, LIMIT, agreed()).receive(data)
    assert isinstance(violated, Violated) and violated.code == code


@given(st.binary(max_size=400), st.booleans())
def test_any_deflated_bytes_are_contained(payload: bytes, fin: bool) -> None:
    allowed: tuple[Any, ...] = (bytes, Violated)
    for incoming in Frames(SERVER, 1000, agreed(1000)).receive(frame(TEXT, payload, rsv=4, fin=fin)):
        assert isinstance(incoming, allowed)
        assert not isinstance(incoming, bytes) or len(incoming) <= 1000
