"""Bytes in, bytes out: framing around a client session."""

from kvmcp.core.client.connection import ClientConnection
from kvmcp.core.client.events import Connected, ConnectionLost, ProtocolViolated, ResultReceived
from kvmcp.core.client.profile import ClientLimits
from kvmcp.core.limits import Limits
from kvmcp.core.wire.results import ServerCapabilities
from tests.core.client.pair import MODERN, only, profile_for

KNOWN = Connected("modern", MODERN, None, ServerCapabilities(), None)


def connected(message_bytes: int = 4096) -> ClientConnection:
    limits = ClientLimits(wire=Limits(message_bytes=message_bytes))
    connection = ClientConnection(profile_for(MODERN, limits=limits))
    connection.session.connect(0.0, KNOWN)
    assert connection.take_events() == [KNOWN]
    return connection


def test_lines_go_out_even_if_json_came_in_many() -> None:
    connection = connected()
    assert connection.data_to_send() == b""
    connection.session.call_tool("a", b'{\n"x":\r\n 1}', 0.0)
    connection.session.call_tool("b", b"{}", 0.0)
    data = connection.data_to_send()
    assert data.endswith(b"}\n") and data.count(b"\n") == 2
    assert b'"arguments":{ "x":\r  1}' in data


def test_messages_cut_anywhere() -> None:
    connection = connected()
    ticket = connection.session.ping(0.0)
    line = b'\r\n \n{"jsonrpc":"2.0","id":1,"result":{}}\r\n{"x'
    for n in range(len(line)):
        connection.receive_data(line[n : n + 1], 0.0)
    assert only(connection.take_events(), ResultReceived).ticket == ticket


def test_the_last_line_counts_without_its_newline() -> None:
    connection = connected()
    ticket = connection.session.ping(0.0)
    connection.receive_data(b'{"jsonrpc":"2.0","id":1,"result":{}}', 0.0)
    assert connection.take_events() == []
    connection.receive_eof(0.0)
    result, lost = connection.take_events()
    assert isinstance(result, ResultReceived) and result.ticket == ticket
    assert lost == ConnectionLost(())
    assert connection.closed


def test_an_answer_that_is_too_long_settles_its_request() -> None:
    connection = connected(message_bytes=100)
    ticket = connection.session.ping(0.0)
    other = connection.session.ping(0.0)
    connection.receive_data(b'{"jsonrpc":"2.0","id":1,"result":{"a":"%b"}}\n' % (b"x" * 200), 0.0)
    said = only(connection.take_events(), ProtocolViolated)
    assert said.ticket == ticket and "limit is 100" in said.reason
    connection.receive_data(b'{"jsonrpc":"2.0","id":2,"result":{}}\n', 0.0)
    assert only(connection.take_events(), ResultReceived).ticket == other


def test_time() -> None:
    connection = connected()
    connection.session.call_tool("a", b"{}", 0.0, timeout=3)
    assert connection.next_deadline() == 3
    connection.handle_timeout(2.9)
    assert connection.take_events() == []
    connection.handle_timeout(3.0)
    assert len(connection.take_events()) == 1
