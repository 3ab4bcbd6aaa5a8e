"""Messages out of bytes, and why not."""

import json

import pytest
from msgspec import UNSET, Raw

from kvmcp.core import jsonrpc
from kvmcp.core.errors import INVALID_REQUEST, PARSE_ERROR, RpcError
from kvmcp.core.jsonrpc import (
    Batch,
    ErrorResponse,
    Malformed,
    Message,
    Notification,
    Request,
    Response,
    decode,
    decode_batch,
)
from kvmcp.core.limits import Limits

LIMITS = Limits()
req = pytest.mark.req
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping","params":{}}'


def decoded(line: bytes, limits: Limits = LIMITS) -> Message:
    return decode(line, limits)


def refused(line: bytes, limits: Limits = LIMITS) -> Malformed:
    message = decode(line, limits)
    assert isinstance(message, Malformed), message
    return message


def code_and_id(line: bytes, limits: Limits = LIMITS) -> tuple[int, bytes | None]:
    malformed = refused(line, limits)
    return malformed.error.code, malformed.id


# --- messages ---


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","id":7,"method":"m","params":{"a":1}}',
        b'{"jsonrpc":"2.0","method":"m","params":{"a":1},"id":7}',
        b'{"jsonrpc": "2.0", "id": 7, "method": "m", "params": {"a":1}}',
        b' {"id":7,"method":"m","jsonrpc":"2.0","params":{"a":1}} ',
        b'{"jsonrpc":"2.0","id":7,"method":"m","params":{"a":1},"other":[{}]}',
        b'{"jsonrpc":"2.0","id":7,"m\\u0065thod":"m","params":{"a":1}}',
        b'{"jsonrpc":"2\\u002e0","id":7,"method":"\\u006d","params":{"a":1}}',
    ],
)
def test_a_request_however_it_is_written(line: bytes) -> None:
    assert decoded(line) == Request(b"7", "m", Raw(b'{"a":1}'))


def test_params_may_be_missing() -> None:
    assert decoded(b'{"jsonrpc":"2.0","id":1,"method":"m"}') == Request(b"1", "m", Raw(b"{}"))
    assert decoded(b'{"jsonrpc":"2.0","method":"m"}') == Notification("m", Raw(b"{}"))


def test_a_notification() -> None:
    assert decoded(b'{"jsonrpc":"2.0","method":"m","params":{"a":1}}') == Notification("m", Raw(b'{"a":1}'))


def test_a_response() -> None:
    assert decoded(b'{"jsonrpc":"2.0","id":1,"result":{"a":1}}') == Response(b"1", Raw(b'{"a":1}'))


def test_an_error_response() -> None:
    line = b'{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"no","data":[1]}}'
    assert decoded(line) == ErrorResponse(b"1", RpcError(-1, "no", Raw(b"[1]")))


@pytest.mark.parametrize("id", [b"", b'"id":null,'])
def test_an_error_response_without_an_id(id: bytes) -> None:
    line = b'{"jsonrpc":"2.0",' + id + b'"error":{"code":-1,"message":"no"}}'
    assert decoded(line) == ErrorResponse(None, RpcError(-1, "no", UNSET))


def test_text_beyond_ascii() -> None:
    line = '{"jsonrpc":"2.0","id":"ü","method":"mé","params":{"ключ":"😀"}}'.encode()
    assert decoded(line) == Request('"ü"'.encode(), "mé", Raw('{"ключ":"😀"}'.encode()))
    compact = '{"jsonrpc":"2.0","id":1,"method":"m","params":{"ключ":"😀"}}'.encode()
    assert decoded(compact) == Request(b"1", "m", Raw('{"ключ":"😀"}'.encode()))


# --- ids ---


@req("envelope-id-type")
@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        (b"0", b"0"),
        (b"-0", b"0"),
        (b"-5", b"-5"),
        (b"9" * 1024, b"9" * 1024),
        (b'"a"', b'"a"'),
        (b'""', b'""'),
        (b'"\\u0061"', b'"a"'),
        (b'"\\/"', b'"/"'),
        ('"ü"'.encode(), '"ü"'.encode()),
        (b'"\\u00fc"', '"ü"'.encode()),
        (b'"\\ud83d\\ude00"', '"😀"'.encode()),
    ],
)
def test_legal_ids_and_their_canonical_form(written: bytes, canonical: bytes) -> None:
    line = b'{"jsonrpc":"2.0","id":' + written + b',"method":"m","params":{}}'
    assert decoded(line) == Request(canonical, "m", Raw(b"{}"))


@req("envelope-id-type")
@pytest.mark.parametrize(
    ("written", "problem"),
    [
        (b"null", "id must be a string or an integer, not null"),
        (b"true", "id must be a string or an integer, not a boolean"),
        (b"false", "id must be a string or an integer, not a boolean"),
        (b"1.0", "id must be a string or an integer, not a number with a fraction or an exponent"),
        (b"1e3", "id must be a string or an integer, not a number with a fraction or an exponent"),
        (b"[1]", "id must be a string or an integer, not an array"),
        (b"{}", "id must be a string or an integer, not an object"),
        (b"9" * 1025, "id of 1025 bytes, limit is 1024"),
        (b'"' + b"x" * 1023 + b'"', "id of 1025 bytes, limit is 1024"),
    ],
)
@pytest.mark.parametrize("space", [b"", b" "])
def test_illegal_ids(written: bytes, problem: str, space: bytes) -> None:
    line = b'{"jsonrpc":"2.0",' + space + b'"id":' + written + b',"method":"m","params":{}}'
    assert refused(line) == Malformed(RpcError(INVALID_REQUEST, problem), None)


@pytest.mark.parametrize(
    ("raw", "id"),
    [
        (b"7", b"7"),
        (b'"a"', b'"a"'),
        (b"null", None),
        (b"", None),
        (b"07", None),
        (b"-", None),
        (b"1.5", None),
    ],
)
def test_ids_inside_params(raw: bytes, id: bytes | None) -> None:
    assert jsonrpc.read_id(Raw(raw), LIMITS) == id


def test_an_id_that_is_no_text_is_none() -> None:
    assert jsonrpc.read_id(Raw(b'"\\ud800"'), LIMITS) is None
    assert jsonrpc.read_id(Raw(b'"\xff"'), LIMITS) is None


# --- what is no message ---


@req("error-parse")
@pytest.mark.parametrize(
    "line",
    [
        b"garbage",
        b"{",
        b"}",
        b'{"jsonrpc":"2.0"',
        b"[1,2",
        b"[1,,2]",
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{}} trailing',
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":NaN}}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":Infinity}}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":-Infinity}}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":01}}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":"\n"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":"\x00"}}',
        b"{'jsonrpc':'2.0'}",
        b'\xef\xbb\xbf{"jsonrpc":"2.0","id":1,"method":"m"}',
        b"\x00",
        b"\xff\xfe",
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":"\xff"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":"\xed\xa0\x80"}}',
        b'{"jsonrpc":"2.0","id":1, "method":"m","params":{"a":"\xc0\xaf"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":"\\ud800"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":"\\udc00"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":"\\ud800\\u0041"}}',
        b'{"jsonrpc":"2.0","id":1,"method":"\\ud800"}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","\\ud800":1}',
    ],
)
def test_what_is_not_json_is_a_parse_error(line: bytes) -> None:
    assert refused(line).error.code == PARSE_ERROR


@req("envelope-utf8")
def test_a_message_that_is_not_utf8_is_refused_with_its_id() -> None:
    line = b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":"\xff"}}'
    assert refused(line) == Malformed(RpcError(PARSE_ERROR, "a message must be UTF-8"), b"1")


def test_a_parse_error_names_the_place_and_no_content() -> None:
    assert refused(b'{"secret":"x",').error.message == "not JSON: Input data was truncated"
    assert "secret" not in refused(b'{"secret" 1}').error.message
    half = refused(b'{"jsonrpc":"2.0","id":1,"method":"m","x":"\\ud800"}').error.message
    assert "half of a surrogate pair" in half


@pytest.mark.parametrize(
    ("line", "id"),
    [
        (b'{"jsonrpc":"2.0","id":7,"method":"m","params":{', b"7"),
        (b'{"id":7,"jsonrpc":"2.0","method":"m","params":{', b"7"),
        (b' { "jsonrpc" : "2.0" , "id" : "a\\"b" , "method":', b'"a\\"b"'),
        (b'{"jsonrpc":"2.0","id":7.5,"method":"m",', None),
        (b'{"jsonrpc":"2.0","id":null,"method":"m",', None),
        (b'{"jsonrpc":"2.0","id":7', None),
        (b'{"jsonrpc":"2.0","id":' + b"7" * 2000 + b",", None),
        (b'{"method":"m","id":7,', b"7"),
    ],
)
def test_the_id_is_echoed_where_the_message_begins_with_it(line: bytes, id: bytes | None) -> None:
    assert code_and_id(line) == (PARSE_ERROR, id)


@req("error-invalid-request", "envelope-version")
@pytest.mark.parametrize(
    ("line", "problem", "id"),
    [
        (b"1", "a message must be an object", None),
        (b'"text"', "a message must be an object", None),
        (b"null", "a message must be an object", None),
        (b"{}", 'jsonrpc must be "2.0"', None),
        (b'{"id":1,"method":"m"}', 'jsonrpc must be "2.0"', b"1"),
        (b'{"jsonrpc":"1.0","id":1,"method":"m"}', 'jsonrpc must be "2.0"', b"1"),
        (b'{"jsonrpc":2.0,"id":"a","method":"m"}', 'jsonrpc must be "2.0"', b'"a"'),
        (b'{"jsonrpc":"2.0","id":1,"method":7}', "method must be a string", b"1"),
        (b'{"jsonrpc":"2.0","id":null,"method":7}', "method must be a string", None),
        (b'{"jsonrpc":"2.0","method":null}', "method must be a string", None),
        (
            b'{"jsonrpc":"2.0","id":1}',
            "a message needs a method, or exactly one of result and error",
            b"1",
        ),
        (
            b'{"jsonrpc":"2.0","id":1,"method":"","params":{}}',
            "a message needs a method, or exactly one of result and error",
            b"1",
        ),
        (
            b'{"jsonrpc":"2.0","id":1,"method":"m","result":{}}',
            "a message has either a method or a result",
            b"1",
        ),
        (b'{"jsonrpc":"2.0","result":{}}', "a result needs the id of its request", None),
        (
            b'{"jsonrpc":"2.0","id":1,"error":{"code":"x"}}',
            "error must be an object with code and message",
            b"1",
        ),
    ],
)
def test_what_is_json_but_no_message_is_an_invalid_request(
    line: bytes, problem: str, id: bytes | None
) -> None:
    is_answer = b'"error"' in line
    assert refused(line) == Malformed(RpcError(INVALID_REQUEST, problem), id, is_answer)


@req("envelope-one-of-result-error")
def test_a_response_with_result_and_error_is_refused() -> None:
    line = b'{"jsonrpc":"2.0","id":1,"result":{},"error":{"code":1,"message":"x"}}'
    assert code_and_id(line) == (INVALID_REQUEST, b"1")
    assert refused(line).is_answer


def test_a_frame_above_its_limit_is_refused() -> None:
    """Its members are read one by one: what a peer adds to JSON-RPC's has a limit of its own."""
    extra = b",".join(b'"\\u006b%d":1' % number for number in range(5000))
    malformed = refused(
        b'{"jsonrpc":"2.0","id":7,"method":"m","params":{"a":"' + b"a" * 99_999 + b'"},' + extra + b"}"
    )
    assert (
        malformed.error.message == f"{len(extra) + 49} bytes besides params, result and error, limit is 16384"
    )
    assert malformed.id == b"7"


def test_a_large_message_may_repeat_names_inside_its_params() -> None:
    params = b'{"id":' + b'[{"id":1,"method":"m"}' * 1 + b',{"id":1}' * 20_000 + b"]}"
    request = decoded(b'{"jsonrpc": "2.0", "id": 7, "method": "m", "params": ' + params + b"}")
    assert isinstance(request, Request)
    twice = b'{"jsonrpc": "2.0", "id": 7, "method": "m", "id": 8, "params": ' + params + b"}"
    assert refused(twice).error.message == "a member of the envelope stands twice"


@pytest.mark.parametrize(
    ("line", "id", "is_answer"),
    [
        (b'{"method":"m","params":{"a":NaN},"jsonrpc":"2.0","id":7}', b"7", False),
        (b'{"method":"m","params":{"a":"\xff"},"jsonrpc":"2.0","id":"x"}', b'"x"', False),
        (b'{"result":{"a":NaN},"jsonrpc":"2.0","id":7}', b"7", True),
        (b'{"jsonrpc":"2.0","id":7,"error":{"a":NaN}}', b"7", True),
        (b'{"params":{"a":NaN},"id":7}', None, False),
        (b'{"other":NaN,"jsonrpc":"2.0","id":7}', None, False),
    ],
)
def test_the_id_is_found_where_the_sdks_write_it(line: bytes, id: bytes | None, is_answer: bool) -> None:
    """Whichever side's it is: `is_answer` says that it is one of ours, which is never echoed."""
    malformed = refused(line)
    assert (malformed.id, malformed.is_answer) == (id, is_answer)


def test_a_message_whose_length_is_that_of_a_request_with_an_empty_method() -> None:
    assert decoded(b'{"jsonrpc":"2.0","id":1,"params":{},"result":12}') == Response(b"1", Raw(b"12"))
    twice = b'{"jsonrpc":"2.0","id":1,"params":{},"id":123456}'
    assert refused(twice).error.message == "a member of the envelope stands twice"


# --- members that stand twice ---


@req("envelope-one-meaning")
@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","id":1,"id":2,"method":"m"}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","method":"n","params":{}}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","params":{},"params":{}}',
        b'{"jsonrpc":"2.0","jsonrpc":"2.0","id":1,"method":"m","params":{}}',
        b'{"jsonrpc":"2.0","id":1,"result":{},"result":{}}',
        b'{"jsonrpc":"2.0","id":1,"method":"m","m\\u0065thod":"n"}',
        b'{"jsonrpc":"2.0","\\u0069d":1,"method":"m","id":2}',
    ],
)
def test_a_member_that_stands_twice_is_refused(line: bytes) -> None:
    assert refused(line) == Malformed(RpcError(INVALID_REQUEST, "a member of the envelope stands twice"))


@pytest.mark.parametrize(
    "params",
    [
        b'{"id":1,"method":"x","params":{"id":[2,{"id":3}]}}',
        b'{"text":"\\"id\\":1,\\"id\\":2"}',
        b'{"\\u0069d":1}',
    ],
)
def test_names_of_the_envelope_may_stand_in_params(params: bytes) -> None:
    line = b'{"jsonrpc":"2.0", "id":1,"method":"m","params":' + params + b"}"
    assert decoded(line) == Request(b"1", "m", Raw(params))


# --- depth ---


def nested(levels: int) -> bytes:
    """An array in an array …"""
    return b"[" * levels + b"]" * levels


@req("bounds-nesting")
@pytest.mark.parametrize("space", [b"", b" "])
def test_nesting_up_to_the_limit(space: bytes) -> None:
    head = b'{"jsonrpc":"2.0","id":1,' + space + b'"method":"m","params":'
    assert isinstance(decoded(head + b'{"a":' + nested(126) + b"}}"), Request)
    too_deep = Malformed(RpcError(INVALID_REQUEST, "nested deeper than 128 levels"), b"1")
    assert decoded(head + b'{"a":' + nested(127) + b"}}") == too_deep


@req("bounds-nesting")
@pytest.mark.parametrize("levels", [900, 100_000])
@pytest.mark.parametrize(
    ("head", "tail", "id"),
    [
        (b'{"jsonrpc":"2.0","id":7,"method":"m","params":', b"}", b"7"),
        (b'{"jsonrpc":"2.0","id":7,"method":', b"}", b"7"),
        (b'{"jsonrpc":"2.0","id":7,"result":', b"}", b"7"),
        (b"", b"", None),
        (b'{"jsonrpc":"2.0","id":7,"method":"m","params":', b"", b"7"),
    ],
)
def test_deep_nesting_is_refused(levels: int, head: bytes, tail: bytes, id: bytes | None) -> None:
    assert code_and_id(head + nested(levels) + tail) == (INVALID_REQUEST, id)
    assert code_and_id(head + b'{"a":' * levels + b"1" + b"}" * levels + tail) == (INVALID_REQUEST, id)


def test_brackets_in_strings_and_beside_each_other_do_not_nest() -> None:
    many = b'{"text":"' + b"[" * 500 + b'","list":[' + b"[]," * 70_000 + b"[]]}"
    line = b'{"jsonrpc":"2.0","id":1,"method":"m","params":' + many + b"}"
    assert decoded(line) == Request(b"1", "m", Raw(many))


def test_a_limit_above_what_the_parser_takes_is_no_crash() -> None:
    lax = Limits(nesting_depth=10**6)
    line = b'{"jsonrpc":"2.0","id":7,"method":"m","params":{"a":' + nested(100_000) + b"}}"
    assert code_and_id(line, lax) == (PARSE_ERROR, b"7")
    assert code_and_id(nested(100_000), lax) == (PARSE_ERROR, None)


# --- batches ---


def test_an_array_is_a_batch_of_messages_still_to_be_decoded() -> None:
    assert decoded(b"[" + PING + b', 1,"x"]') == Batch((PING, b"1", b'"x"'))


def test_the_messages_of_a_batch() -> None:
    messages = decode_batch(Batch((PING, b"1")), LIMITS)
    assert messages[0] == Request(b"1", "ping", Raw(b"{}"))
    assert isinstance(messages[1], Malformed)


@req("batch-receive")
def test_an_empty_batch_is_an_invalid_request() -> None:
    [problem] = decode_batch(Batch(()), LIMITS)
    assert isinstance(problem, Malformed) and problem.error.code == INVALID_REQUEST


def test_a_batch_has_a_limit() -> None:
    limits = Limits(batch_messages=3)
    most = b"[" + b",".join([b'{"a":[1,2,3,4],"b":"[,,"}'] * 3) + b"]"
    assert isinstance(decoded(most, limits), Batch)
    problem = "a batch of more than 3 messages, which is the limit"
    assert refused(b"[1,2,3,4]", limits) == Malformed(RpcError(INVALID_REQUEST, problem))
    assert isinstance(decoded(b"[[[1,2],[3,4]],5]", limits), Batch)


def test_a_value_that_is_no_batch_may_have_commas() -> None:
    limits = Limits(batch_messages=3)
    assert refused(b'"a,b,c,d,e"', limits).error.message == "a message must be an object"


# --- oversized ---


def test_an_oversized_message_with_and_without_a_readable_id() -> None:
    limits = Limits(message_bytes=100)
    problem = RpcError(INVALID_REQUEST, "message of at least 150 bytes, limit is 100")
    head = b'{"jsonrpc":"2.0","id":"big","method":"tools/call","params":{"x'
    assert jsonrpc.oversized(head, 150, limits) == Malformed(problem, b'"big"')
    assert jsonrpc.oversized(b"xxx", 150, limits) == Malformed(problem, None)


# --- writing ---


@req("envelope-version", "envelope-id-unreadable", "error-code-integer")
def test_writing() -> None:
    assert jsonrpc.request(b"1", "m", b'{"a":1}') == b'{"jsonrpc":"2.0","id":1,"method":"m","params":{"a":1}}'
    assert jsonrpc.notification("m") == b'{"jsonrpc":"2.0","method":"m"}'
    assert jsonrpc.notification("m", b"{}") == b'{"jsonrpc":"2.0","method":"m","params":{}}'
    assert jsonrpc.response(b'"a"', b"{}") == b'{"jsonrpc":"2.0","id":"a","result":{}}'
    error = RpcError(-32600, 'a "quoted" word', Raw(b"[1]"))
    assert json.loads(jsonrpc.error_response(b"1", error)) == {
        "jsonrpc": "2.0",
        "id": 1,
        "error": {"code": -32600, "message": 'a "quoted" word', "data": [1]},
    }
    assert b'"id"' not in jsonrpc.error_response(None, error)
