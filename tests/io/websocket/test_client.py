"""The client's machine by plain calls: against our own server's machine, and against a server that is the test."""

import base64
import hashlib
from typing import Any

import pytest
from hypothesis import given, strategies as st

from kvmcp.core.client.events import Connected, ConnectionFailed, ConnectionLost, ResultReceived
from kvmcp.core.client.profile import ClientLimits, ClientProfile
from kvmcp.core.limits import Limits
from kvmcp.core.wire.common import Implementation
from kvmcp.io.websocket.client import WebSocketAddress, WebSocketClientConnection
from kvmcp.io.websocket.limits import WebSocketLimits
from tests.io.websocket.support import BINARY, CLOSE, PING, PONG, TEXT, Served, closing, frame

QUICK = WebSocketLimits(handshake_timeout=5, ping_interval=20, pong_timeout=10, message_timeout=30)


class Solo:
    """A client whose server is the test. Times are relative to the beginning."""

    def __init__(
        self, limits: WebSocketLimits | None = QUICK, message_bytes: int = 1 << 22, **address: Any
    ) -> None:
        profile = ClientProfile(
            Implementation("test", "1"), limits=ClientLimits(wire=Limits(message_bytes=message_bytes))
        )
        self.now = 0.0
        where = WebSocketAddress("server.example:8920", **address)
        self.machine = WebSocketClientConnection(profile, where, self.now, limits)
        self.sent = b""

    def head(self) -> bytes:
        """The upgrade that was sent."""
        return self.machine.data_to_send()

    def open(self, *, more: str = "sec-websocket-protocol: mcp\r\n", behind: bytes = b"") -> "Solo":
        self.machine.receive_data(accepting(self.head(), more) + behind, self.now)
        return self

    def feed(self, data: bytes) -> None:
        self.machine.receive_data(data, self.now)

    def frames(self) -> list[tuple[int, bytes]]:
        """What was sent since, unmasked; it must be masked."""
        data, found = self.machine.data_to_send(), []
        while data:
            assert data[1] & 128, "a client must mask"
            length, start = data[1] & 127, 2
            if length == 126:
                length, start = int.from_bytes(data[2:4], "big"), 4
            key, payload = data[start : start + 4], data[start + 4 : start + 4 + length]
            found.append((data[0] & 15, bytes(byte ^ key[n % 4] for n, byte in enumerate(payload))))
            data = data[start + 4 + length :]
        return found

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := self.machine.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.machine.handle_timeout(self.now)
            self.sent += self.machine.data_to_send()
            assert not self.machine.data_to_send()
        self.now = end


def accepting(head: bytes, more: str = "") -> bytes:
    """The server's answer to an upgrade."""
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    key = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))[19:]
    token = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()
    assert fields[b"upgrade"] == b"websocket"
    return (
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        f"sec-websocket-accept: {token}\r\n{more}\r\n"
    ).encode()


@pytest.mark.parametrize("compression", [False, True])
@pytest.mark.parametrize("piece", [1, 7, 100_000])
def test_a_client_and_our_server_back_to_back(piece: int, compression: bool) -> None:
    limits = WebSocketLimits(compression=compression, compress_from=50)
    served = Served(limits)
    client = WebSocketClientConnection(
        ClientProfile(Implementation("test", "1")), WebSocketAddress("localhost", "/mcp"), served.now, limits
    )
    client.session.connect(served.now)

    def exchange() -> list[Any]:
        while True:
            data = client.data_to_send()
            served.feed(data, range(piece, len(data), piece))
            answer, served.written = bytes(served.written), bytearray()
            for start in range(0, len(answer), piece):
                client.receive_data(answer[start : start + piece], served.now)
            if not data and not answer:
                return client.take_events()

    assert isinstance(exchange()[0], Connected)
    arguments = b'{"name":"redis_set","arguments":{"key":"a","value":"%b"}}' % (b"x" * 500)
    ticket = client.session.request("tools/call", arguments, served.now)
    (event,) = exchange()
    assert isinstance(event, ResultReceived) and event.ticket == ticket
    client.close(served.now)
    events = exchange()
    assert events == [ConnectionLost(())]
    assert (client.closed, served.machine.closed, client.next_deadline()) == (True, True, None)


def test_the_upgrade_that_is_sent() -> None:
    head = Solo(path="/mcp?x=1", headers=[(b"Authorization", b"Bearer ada")]).head()
    assert head.startswith(b"GET /mcp?x=1 HTTP/1.1\r\n")
    for line in (b"Host: server.example:8920", b"Sec-WebSocket-Protocol: mcp", b"Authorization: Bearer ada"):
        assert line.lower() in head.lower()


@pytest.mark.parametrize("address", [{"path": "/\r\nx: y"}, {"path": "/é"}, {"headers": [(b"x", b"a\r\nb")]}])
def test_an_address_that_cannot_be_written(address: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Solo(**address)


@pytest.mark.parametrize(
    ("answer", "ending"),
    [
        (b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n", "the server refused: HTTP 401"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\n", "the server refused: HTTP 103"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", "the server refused: HTTP 200"),
        (b"nonsense\r\n\r\n", "no WebSocket: Bad HTTP message"),
        (
            b"HTTP/1.1 101 x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
            "no WebSocket: Bad accept token",
        ),
        (b"HTTP/1.1 101 x\r\nupgrade: \xff\r\nconnection: \xff\r\n\r\n", "no WebSocket: 'ascii'"),
        (b"x" * 20_000, "the head of the response is too long"),
    ],
)
def test_servers_that_do_not_agree(answer: bytes, ending: str) -> None:
    for pieces in ([answer], [answer[n : n + 1] for n in range(len(answer))]):
        client = Solo()
        client.machine.session.connect(0)
        client.head()
        for piece in pieces:
            client.feed(piece)
        assert client.machine.ending.startswith(ending)
        assert client.machine.closed
        assert isinstance(client.machine.take_events()[0], ConnectionFailed)


@pytest.mark.parametrize(
    "more",
    [
        "sec-websocket-protocol: other\r\n",
        "sec-websocket-extensions: permessage-deflate\r\n",
        "sec-websocket-extensions: x-unheard-of\r\n",
        "sec-websocket-protocol: \x80\r\n",
    ],
)
def test_what_was_not_offered_is_not_accepted(more: str) -> None:
    assert Solo().open(more=more).machine.ending.startswith("no WebSocket")
    malformed = "sec-websocket-extensions: permessage-deflate; client_max_window_bits=abc\r\n"
    client = Solo(WebSocketLimits(compression=True)).open(more=malformed)
    assert client.machine.ending.startswith("no WebSocket")


def test_a_server_without_subprotocol_and_frames_behind_the_head() -> None:
    client = Solo().open(more="", behind=frame(PING, b"x", mask=None))
    assert client.frames() == [(PONG, b"x")]


def test_what_is_said_before_the_upgrade_waits() -> None:
    client = Solo()
    client.machine.session.connect(0)
    assert client.head().endswith(b"\r\n\r\n")
    assert client.head() == b""


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(BINARY, b"x", mask=None), 1003),
        (frame(TEXT, b"\xff", mask=None), 1007),
        (frame(TEXT, b"{}"), 1002),
        (frame(TEXT, b"x" * 1001, mask=None), 1009),
        (closing(1001, mask=None), 1001),
    ],
)
def test_the_code_that_we_close_with(sent: bytes, code: int) -> None:
    client = Solo(message_bytes=1000).open()
    client.feed(sent)
    assert client.machine.closed and str(code) in client.machine.ending
    ((opcode, payload),) = client.frames()
    assert (opcode, int.from_bytes(payload[:2], "big")) == (CLOSE, code)


def test_a_goodbye() -> None:
    client = Solo().open()
    client.machine.close(0)
    assert client.frames() == [(CLOSE, b"\x03\xe8")]
    assert not client.machine.closed
    client.feed(frame(PING, b"", mask=None) + closing(1000, mask=None))
    assert client.machine.ending == "the server closed: 1000"
    assert client.frames() == []


def test_a_goodbye_that_is_not_answered() -> None:
    client = Solo().open()
    client.machine.close(0)
    client.pass_time(4.9)
    assert client.machine.ending == ""
    client.pass_time(0.2)
    assert client.machine.ending == "the server did not answer in time"


def test_a_goodbye_before_the_upgrade() -> None:
    client = Solo()
    client.machine.close(0)
    assert client.machine.closed


def test_an_upgrade_that_is_not_answered() -> None:
    client = Solo()
    client.head()
    client.pass_time(5.1)
    assert client.machine.ending == "the server did not answer in time"


def test_a_silent_server_is_pinged_and_left() -> None:
    client = Solo().open()
    client.frames()
    client.pass_time(19)
    assert client.sent == b""
    client.pass_time(12)
    assert client.machine.ending.endswith("no answer to a ping")


def test_a_message_that_never_ends() -> None:
    client = Solo().open()
    for _ in range(31):
        client.feed(frame(TEXT if client.now == 0 else 0, b" ", fin=False, mask=None))
        client.pass_time(1)
    assert client.machine.ending.endswith("a message took too long")


def test_a_server_that_is_gone() -> None:
    client = Solo().open()
    client.machine.receive_eof(1)
    assert client.machine.ending == "the server closed the connection"


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=4), st.booleans())
def test_any_bytes_of_a_server_are_contained(stream: bytes, cuts: list[int], is_open: bool) -> None:
    client = Solo()
    client.machine.session.connect(0)
    if is_open:
        client.open()
    start = 0
    for cut in [*sorted(cut for cut in cuts if cut < len(stream)), len(stream)]:
        if stream[start:cut]:
            client.feed(stream[start:cut])
        start = cut
    client.machine.data_to_send()
    client.machine.take_events()
    assert client.machine.closed == bool(client.machine.ending)
