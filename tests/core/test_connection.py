"""A session over a stream: bad input of every kind is answered as documented, and serving goes on."""

import pytest

from kvmcp.core.connection import ServerConnection
from kvmcp.core.limits import Limits
from kvmcp.core.plan import Answer, Caller
from kvmcp.core.wire.common import ToolResult
from tests.core.fixture_catalog import ADD, Nothing, arguments
from tests.core.harness import (
    INVALID_REQUEST,
    PARSE_ERROR,
    Json,
    Server,
    a_service,
    call,
    codes,
    ids,
    to_line,
)

req = pytest.mark.req
HEAD = b'{"jsonrpc":"2.0","id":77,"method":"tools/call","params":'


def nested(levels: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return opening * levels + b"1" * (opening != b"[") + closing * levels


BAD_LINES = {
    "garbage": (b"garbage", PARSE_ERROR, None),
    "truncated": (HEAD + b'{"name":"ge', PARSE_ERROR, 77),
    "truncated early": (b'{"jsonrpc":"2.0","i', PARSE_ERROR, None),
    "two values": (b'{"jsonrpc":"2.0","id":77,"method":"ping"}{}', PARSE_ERROR, 77),
    "900 deep": (HEAD + b'{"a":' + nested(900) + b"}}", INVALID_REQUEST, 77),
    "100000 deep": (HEAD + b'{"a":' + nested(100_000) + b"}}", INVALID_REQUEST, 77),
    "100000 deep objects": (HEAD + nested(100_000, b'{"a":', b"}") + b"}", INVALID_REQUEST, 77),
    "100000 deep and unclosed": (b"[" * 100_000, INVALID_REQUEST, None),
    "NaN": (HEAD + b'{"arguments":{"value":NaN}}}', PARSE_ERROR, 77),
    "Infinity": (HEAD + b'{"arguments":{"value":Infinity}}}', PARSE_ERROR, 77),
    "-Infinity": (HEAD + b'{"arguments":{"value":-Infinity}}}', PARSE_ERROR, 77),
    "lone surrogate": (HEAD + b'{"arguments":{"value":"\\ud800"}}}', PARSE_ERROR, 77),
    "lone low surrogate": (HEAD + b'{"arguments":{"value":"\\udfff"}}}', PARSE_ERROR, 77),
    "lone surrogate in a name": (HEAD + b'{"\\ud800":1}}', PARSE_ERROR, 77),
    "invalid UTF-8": (HEAD + b'{"arguments":{"value":"\xff\xfe"}}}', PARSE_ERROR, 77),
    "overlong UTF-8": (HEAD + b'{"arguments":{"value":"\xc0\x80"}}}', PARSE_ERROR, 77),
    "UTF-16": ('{"jsonrpc":"2.0"}'.encode("utf-16-le"), PARSE_ERROR, None),
    "BOM": (b'\xef\xbb\xbf{"jsonrpc":"2.0","id":77,"method":"ping"}', PARSE_ERROR, None),
    "NUL": (b"\x00\x00", PARSE_ERROR, None),
    "duplicate id": (b'{"jsonrpc":"2.0","id":77,"id":78,"method":"ping"}', INVALID_REQUEST, None),
    "duplicate method": (b'{"jsonrpc":"2.0","id":77,"method":"a","method":"b"}', INVALID_REQUEST, None),
    "duplicate params": (HEAD + b'{},"params":{}}', INVALID_REQUEST, None),
    "null id": (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', INVALID_REQUEST, None),
    "boolean id": (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', INVALID_REQUEST, None),
    "float id": (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', INVALID_REQUEST, None),
    "array id": (b'{"jsonrpc":"2.0","id":[1],"method":"ping"}', INVALID_REQUEST, None),
    "huge id": (b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b',"method":"ping"}', INVALID_REQUEST, None),
    "no jsonrpc": (b'{"id":77,"method":"ping"}', INVALID_REQUEST, 77),
    "old jsonrpc": (b'{"jsonrpc":"1.0","id":77,"method":"ping"}', INVALID_REQUEST, 77),
    "no method": (b'{"jsonrpc":"2.0","id":77}', INVALID_REQUEST, 77),
    "method of no text": (b'{"jsonrpc":"2.0","id":77,"method":1}', INVALID_REQUEST, 77),
    "method and result": (b'{"jsonrpc":"2.0","id":77,"method":"ping","result":{}}', INVALID_REQUEST, 77),
    "number": (b"7", INVALID_REQUEST, None),
    "empty object": (b"{}", INVALID_REQUEST, None),
    "empty array": (b"[]", INVALID_REQUEST, None),
    "two million items": (b"[" + b"1," * 2_000_000 + b"1]", INVALID_REQUEST, None),
}


@req("error-parse", "error-invalid-request", "bounds-nesting", "envelope-utf8", "envelope-one-meaning")
@pytest.mark.parametrize("name", BAD_LINES)
def test_every_bad_line_is_answered_once_and_serving_goes_on(revision: str, name: str) -> None:
    line, code, id = BAD_LINES[name]
    server = Server(revision)
    server.say(line + b"\n")
    assert codes(server.replies()) == [(id, code)]
    server.still_serves()


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_before_anything_else_decides_nothing(name: str) -> None:
    line, code, id = BAD_LINES[name]
    server = Server()
    server.say(line + b"\n")
    assert codes(server.replies()) == [(id, code)]
    server.handshake("2025-11-25")
    server.still_serves()


@req("stdio-line-per-message")
@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\n\n", b"\r\n\r\n", b"\n  \t \n", b"  \n"])
def test_blank_lines_and_line_endings(revision: str, ending: bytes) -> None:
    server = Server(revision)
    first, second = (to_line(server.request("tools/list")).rstrip() for _ in range(2))
    server.say(ending + first + ending + second + ending)
    assert ids(server.replies()) == ["r1", "r2"]


def test_a_last_line_without_a_newline_counts() -> None:
    server = Server("2025-11-25")
    server.say(to_line(server.request("ping")).rstrip())
    assert server.replies() == []
    server.end()
    assert ids(server.replies()) == ["r1"]


@req("bounds-message")
def test_128_mib_without_a_newline_are_refused_once_and_serving_goes_on(revision: str) -> None:
    server = Server(revision)
    limit = Limits().message_bytes
    start = b'{"jsonrpc":"2.0","id":"big","method":"tools/call","params":{"x":"'
    server.feed(start)
    for _ in range(128):
        server.feed(b"x" * (1024 * 1024))
        assert buffered(server.connection) <= limit
    assert codes(server.replies()) == [("big", INVALID_REQUEST)]
    server.feed(b'"}}\n')
    assert server.replies() == []
    server.still_serves()


def buffered(connection: ServerConnection) -> int:
    return len(connection._framer._tail)


@req("bounds-message")
def test_a_message_of_the_limit_and_one_byte_more() -> None:
    server = Server("2025-11-25", limits=Limits(message_bytes=400))
    ping = to_line(server.request("ping")).rstrip()
    server.say(ping + b" " * (400 - len(ping)) + b"\r\n")
    server.say(ping + b" " * (401 - len(ping)) + b"\n")
    told, refused = server.replies()
    assert told["result"] == {}
    assert refused["error"]["message"] == "message of at least 401 bytes, limit is 400"
    server.still_serves()


@req("envelope-id-echo")
@pytest.mark.parametrize("id", [0, -1, 1, "1", "", "ü", 2**53 + 1, 10**300, "x" * 1000, "\u2028"])
def test_ids_come_back_as_they_were(revision: str, id: Json) -> None:
    server = Server(revision)
    ok = server.ask("tools/list", id=id)
    refused = server.ask("tools/call", call("nothing"), id=id)
    assert [ok["id"], refused["id"]] == [id, id]
    assert type(ok["id"]) is type(id)


@req("envelope-id-echo")
def test_ids_of_different_types_are_different(revision: str) -> None:
    server = Server(revision, held=True)
    for id in (1, "1"):
        server.say(server.request("tools/call", call("get", {"key": "a"}), id=id))
    server.cancel("1")
    server.answer_batch()
    server.answer_batch()
    assert ids(server.replies()) == [1]


@req("error-invalid-request")
def test_a_duplicate_id_in_flight_is_refused_and_the_first_is_answered(revision: str) -> None:
    server = Server(revision, held=True)
    for key in ("a", "b"):
        server.say(server.request("tools/call", call("get", {"key": key}), id=5))
    assert codes(server.replies()) == [(5, INVALID_REQUEST)]
    server.answer_batch()
    [reply] = server.replies()
    assert reply["result"]["content"][0]["text"] == "1"


@req("stdio-line-per-message")
def test_json_that_came_spread_over_lines_leaves_on_one() -> None:
    from kvmcp.core.catalog import Catalog
    from kvmcp.core.items import Tool

    spread = b'{"a":\n  [1,\n  2]}'
    result = ToolResult(structured=spread)
    tool = Tool(name="it", arguments=arguments(Nothing), plan=lambda given, context: Answer(result))
    server = Server("2025-11-25", catalog=Catalog(tool, ADD))
    server.say(server.request("tools/call", call("it")), server.request("ping"))
    first, second = server.replies()
    assert first["result"]["structuredContent"] == {"a": [1, 2]} and second["result"] == {}


def test_nothing_to_send_is_no_bytes() -> None:
    connection = ServerConnection(a_service(), Caller("alice"))
    connection.receive_data(b"", 0.0)
    assert connection.data_to_send() == b""
    assert connection.take_commands() == [] and connection.next_deadline() is None
    connection.receive_eof(1.0)
    assert [type(command).__name__ for command in connection.take_commands()] == ["Close"]
    assert connection.closed and not connection.wants_input


@pytest.mark.parametrize("size", [1, 2, 7, 4096])
def test_a_conversation_in_pieces_of_any_size(revision: str, size: int) -> None:
    server = Server(revision)
    requests = [server.request("tools/call", call("get", {"key": key})) for key in "abc"]
    data = b"".join(map(to_line, requests))
    for start in range(0, len(data), size):
        server.feed(data[start : start + size])
    assert ids(server.replies()) == ["r1", "r2", "r3"]
