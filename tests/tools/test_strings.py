"""The tools for values: each is called as the engine does, arguments ▸ plan ▸ replies ▸ result, without a store."""

import json
from collections.abc import Sequence
from typing import Any

import jsonschema
import pytest
from hypothesis import given, strategies as st
from msgspec import Raw

from kvmcp.backends.ops import (
    MAX_KEY_BYTES,
    MAX_TTL_SECONDS,
    MAX_VALUE_BYTES,
    Code,
    Delete,
    Exists,
    Expire,
    Failure,
    Get,
    Namespace,
    Page,
    Scan,
    Set,
    Ttl,
    TtlReply,
    etag_of,
)
from kvmcp.core.items import BadArguments, Parsed, Tool
from kvmcp.core.plan import Answer, AskBackend, Caller, Context, Plan, ToolError, error_result
from kvmcp.core.wire.common import ClientCapabilities, TextContent, ToolResult
from kvmcp.tools.keyspace import MAX_SCAN_PAGES, CollectNames
from kvmcp.tools.room import MAX_RESULT_CHARS, room_of
from kvmcp.tools.strings import GetArguments, quick_get
from tests.tools.support import redis_tools

CONTEXT = Context(Caller(namespace="acme"), "2025-11-25", ClientCapabilities())
SPACE = Namespace("acme")
STRINGS = redis_tools()[:7]
TOOLS = {tool.name: tool for tool in STRINGS}
ROOM = room_of(MAX_RESULT_CHARS)
SECRET = "s3cr3t"


def plan(name: str, arguments: dict[str, Any] | str) -> Plan:
    raw = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return TOOLS[name].plan(TOOLS[name].arguments.decode(raw.encode()), CONTEXT)


def asked(name: str, arguments: dict[str, Any] | str) -> AskBackend:
    answer = plan(name, arguments)
    assert isinstance(answer, AskBackend), answer
    return answer


def result(answer: Plan) -> ToolResult:
    assert isinstance(answer, Answer) and isinstance(answer.result, ToolResult), answer
    return answer.result


def structured(name: str, answer: Plan) -> Any:
    """The structured result, which fits the tool's output schema whether it is an error or not."""
    found = json.loads(result(answer).structured or b"")
    schema = json.loads(TOOLS[name].output_schema or b"")
    jsonschema.validate(found, schema, cls=jsonschema.Draft202012Validator)
    if not result(answer).is_error:
        assert "error" not in found
    return found


def outcome(name: str, arguments: dict[str, Any], *replies: object) -> Any:
    return structured(name, asked(name, arguments).then.resume(replies, CONTEXT))


def refusal(name: str, arguments: dict[str, Any] | str) -> tuple[str, str]:
    """Code and message of a refusal, for which the store was not asked."""
    answer = plan(name, arguments)
    assert result(answer).is_error
    error = structured(name, answer)["error"]
    assert error["retryable"] is False and error["outcome"] == "not_applied"
    return error["code"], error["message"]


def found(value: bytes) -> dict[str, Any]:
    return {"found": True, "value": json.loads(value), "etag": etag_of(value)}


def key(name: str) -> Any:
    return SPACE.key(name)


# --- what is asked of the store ---


@pytest.mark.parametrize(
    ("name", "arguments", "op", "writes"),
    [
        ("redis_get", {"key": "a"}, Get(key("a")), False),
        ("redis_get", {"key": "ä"}, Get(key("ä")), False),
        ("redis_set", {"key": "a", "value": 1}, Set(key("a"), b"1"), True),
        ("redis_set", {"key": "a", "value": None}, Set(key("a"), b"null"), True),
        ("redis_set", {"key": "a", "value": "5", "ttl": 2}, Set(key("a"), b'"5"', 2000), True),
        ("redis_del", {"keys": ["a", "b", "a"]}, Delete((key("a"), key("b"), key("a"))), True),
        ("redis_exists", {"keys": ["a", "b"]}, Exists((key("a"), key("b"))), False),
        ("redis_keys", {}, Scan(SPACE.space(), "*", 100), False),
        ("redis_keys", {"pattern": "u:*", "count": 5}, Scan(SPACE.space(), "u:*", 5), False),
        ("redis_ttl", {"key": "a"}, Ttl(key("a")), False),
        ("redis_expire", {"key": "a", "ttl": MAX_TTL_SECONDS}, Expire(key("a"), MAX_TTL_SECONDS * 1000), True),
    ],
)  # fmt: skip
def test_operations(name: str, arguments: dict[str, Any], op: object, writes: bool) -> None:
    answer = asked(name, arguments)
    assert (answer.ops, answer.writes) == ((op,), writes)


def test_the_namespace_is_the_callers() -> None:
    other = Context(Caller(namespace="other"), "2025-11-25", ClientCapabilities())
    answer = quick_get(ROOM)(GetArguments("a"), other)
    assert isinstance(answer, AskBackend)
    assert answer.ops == (Get(Namespace("other").key("a")),)


# --- what comes back ---


@pytest.mark.parametrize(
    ("name", "arguments", "reply", "expected"),
    [
        ("redis_get", {"key": "a"}, b'{"b":[1,2.50]}', found(b'{"b":[1,2.50]}')),
        ("redis_get", {"key": "a"}, b"null", found(b"null")),
        ("redis_get", {"key": "a"}, None, {"found": False}),
        ("redis_set", {"key": "a", "value": 1}, True, {"ok": True, "etag": etag_of(b"1")}),
        ("redis_del", {"keys": ["a", "b"]}, 1, {"deleted": 1}),
        ("redis_exists", {"keys": ["a", "b"]}, (True, False), {"exists": {"a": True, "b": False}, "count": 1}),
        ("redis_exists", {"keys": ["a", "a"]}, (True, True), {"exists": {"a": True}, "count": 1}),
        ("redis_keys", {}, Page(("a", "b")), {"keys": ["a", "b"]}),
        ("redis_keys", {}, Page(()), {"keys": []}),
        ("redis_keys", {"count": 2}, Page(("a", "b"), "7"), {"keys": ["a", "b"], "cursor": "7"}),
        ("redis_ttl", {"key": "a"}, TtlReply(True, 1), {"found": True, "ttl": 1}),
        ("redis_ttl", {"key": "a"}, TtlReply(True, 1000), {"found": True, "ttl": 1}),
        ("redis_ttl", {"key": "a"}, TtlReply(True, 1001), {"found": True, "ttl": 2}),
        ("redis_ttl", {"key": "a"}, TtlReply(True), {"found": True, "ttl": None}),
        ("redis_ttl", {"key": "a"}, TtlReply(False), {"found": False, "ttl": None}),
        ("redis_expire", {"key": "a", "ttl": 1}, True, {"applied": True}),
        ("redis_expire", {"key": "a", "ttl": 1}, False, {"applied": False}),
    ],
)  # fmt: skip
def test_results(name: str, arguments: dict[str, Any], reply: object, expected: dict[str, Any]) -> None:
    assert outcome(name, arguments, reply) == expected


def test_a_value_comes_back_byte_for_byte() -> None:
    answer = asked("redis_get", {"key": "a"}).then.resume((b'{"a" : 1.50}',), CONTEXT)
    tag = etag_of(b'{"a" : 1.50}').encode()
    json_text = b'{"found":true,"value":{"a" : 1.50},"etag":"%b"}' % tag
    assert answer == Answer(ToolResult(structured=json_text))


EACH: Sequence[tuple[str, dict[str, Any]]] = [
    ("redis_get", {"key": "a"}),
    ("redis_set", {"key": "a", "value": 1}),
    ("redis_del", {"keys": ["a"]}),
    ("redis_exists", {"keys": ["a"]}),
    ("redis_keys", {}),
    ("redis_ttl", {"key": "a"}),
    ("redis_expire", {"key": "a", "ttl": 1}),
]


@pytest.mark.parametrize(("name", "arguments"), EACH)
@pytest.mark.parametrize(
    "failure",
    [
        Failure(Code.REDIS_NOT_CONNECTED, "no connection", True),
        Failure(Code.WRONG_TYPE, "a list is there", False),
        Failure(Code.UNKNOWN_OUTCOME, "no reply came", False, "unknown"),
    ],
)
def test_a_failure_of_the_store_is_an_error_result(
    name: str, arguments: dict[str, Any], failure: Failure
) -> None:
    answer = asked(name, arguments).then.resume((failure,), CONTEXT)
    assert result(answer).is_error
    assert [block.text for block in result(answer).content if isinstance(block, TextContent)] == [
        f"{failure.code}: {failure.message}"
    ]
    assert structured(name, answer)["error"] == {
        "code": str(failure.code),
        "message": failure.message,
        "retryable": failure.retryable,
        "outcome": failure.outcome,
    }


@pytest.mark.parametrize(("name", "arguments"), EACH)
def test_a_reply_of_another_type_is_a_bug(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match="contract"):
        asked(name, arguments).then.resume((1.5,), CONTEXT)


@pytest.mark.parametrize("tool", STRINGS, ids=lambda tool: tool.name)
def test_the_engines_own_tool_errors_fit_the_output_schema_too(tool: Tool) -> None:
    error = error_result(ToolError("INVALID_PARAMS", "no", details=Raw(b'{"a":1}')))
    structured(tool.name, Answer(error))


# --- finding keys over several pages ---


def test_short_pages_are_followed_until_there_is_enough() -> None:
    first = asked("redis_keys", {"pattern": "u*", "count": 3})
    second = first.then.resume((Page(("u1",), "c1"),), CONTEXT)
    assert second == AskBackend(
        (Scan(SPACE.space(), "u*", 2, "c1"),),
        CollectNames("u*", 3, ROOM, False, ("u1",), MAX_SCAN_PAGES - 2, "c1"),
    )
    assert isinstance(second, AskBackend)
    third = second.then.resume((Page(("u1", "u2"), "c2"),), CONTEXT)
    assert isinstance(third, AskBackend) and third.ops == (Scan(SPACE.space(), "u*", 1, "c2"),)
    last = third.then.resume((Page(("u3",), "c3"),), CONTEXT)
    assert structured("redis_keys", last) == {"keys": ["u1", "u2", "u3"], "cursor": "c3"}


def test_empty_pages_are_followed_only_so_far() -> None:
    answer: Plan = asked("redis_keys", {})
    pages = 0
    while isinstance(answer, AskBackend):
        pages += 1
        answer = answer.then.resume((Page((), f"c{pages}"),), CONTEXT)
    assert structured("redis_keys", answer) == {"keys": [], "cursor": f"c{pages}"}
    assert pages == MAX_SCAN_PAGES


# --- what is refused ---


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("redis_get", {}),
        ("redis_get", {"key": ""}),
        ("redis_get", {"key": "k" * (MAX_KEY_BYTES + 1)}),
        ("redis_get", {"key": "a", "value": 1}),
        ("redis_set", {"key": "a"}),
        ("redis_set", {"key": "a", "value": 1, "ttl": 0}),
        ("redis_set", {"key": "a", "value": 1, "ttl": MAX_TTL_SECONDS + 1}),
        ("redis_del", {"keys": []}),
        ("redis_del", {"keys": [""]}),
        ("redis_del", {"keys": ["k"] * 1001}),
        ("redis_keys", {"count": 0}),
        ("redis_keys", {"count": 1001}),
        ("redis_keys", {"pattern": ""}),
        ("redis_keys", {"cursor": ""}),
        ("redis_keys", {"detail": "some"}),
        ("redis_expire", {"key": "a"}),
        ("redis_expire", {"key": "a", "ttl": 0}),
    ],
)
def test_what_the_schema_refuses(name: str, arguments: dict[str, Any]) -> None:
    raw = json.dumps(arguments).encode()
    assert isinstance(TOOLS[name].arguments.repair(raw), BadArguments)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(arguments, json.loads(TOOLS[name].arguments.schema))


LONG = "ä" * (MAX_KEY_BYTES // 2 + 1)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("redis_get", {"key": LONG}),
        ("redis_set", {"key": LONG, "value": 1}),
        ("redis_del", {"keys": ["a", LONG]}),
        ("redis_exists", {"keys": ["a", LONG]}),
        ("redis_ttl", {"key": LONG}),
        ("redis_expire", {"key": LONG, "ttl": 1}),
    ],
)
def test_a_key_is_limited_in_bytes(name: str, arguments: dict[str, Any]) -> None:
    assert refusal(name, arguments) == (
        "INVALID_PARAMS",
        "a key of 514 bytes of UTF-8, limit is 512; shorten it",
    )


def test_a_key_with_half_a_character_is_refused() -> None:
    answer = quick_get(ROOM)(GetArguments("\ud800"), CONTEXT)
    assert "surrogate" in structured("redis_get", answer)["error"]["message"]


def test_patterns_are_limited() -> None:
    assert refusal("redis_keys", {"pattern": "*" * 9}) == (
        "INVALID_PARAMS", "a pattern with 9 `*`, limit is 8; ask for a longer fixed beginning",
    )  # fmt: skip
    assert refusal("redis_keys", {"pattern": "ä" * 129}) == (
        "INVALID_PARAMS", "a pattern of 258 bytes of UTF-8, limit is 256; shorten it",
    )  # fmt: skip


@pytest.mark.parametrize("value", ["1e400", "9" * 400, '{"a":[-1e999]}'])
def test_a_number_that_no_double_holds_is_refused(value: str) -> None:
    code, message = refusal("redis_set", f'{{"key":"a","value":{value}}}')
    assert code == "INVALID_PARAMS" and "1.8e308" in message and "999" not in message


def test_a_value_is_limited() -> None:
    assert asked("redis_set", {"key": "a", "value": "x" * (MAX_VALUE_BYTES - 2)})
    code, message = refusal("redis_set", {"key": "a", "value": "x" * (MAX_VALUE_BYTES - 1)})
    assert code == "TOO_LARGE" and str(MAX_VALUE_BYTES) in message


@pytest.mark.parametrize("value", [b'"\xff"', b"[" * 129 + b"]" * 129])
def test_values_that_the_message_decoder_refuses_are_refused_here_too(value: bytes) -> None:
    tool = TOOLS["redis_set"]
    answer = tool.plan(tool.arguments.decode(b'{"key":"a","value":%b}' % value), CONTEXT)
    assert structured("redis_set", answer)["error"]["code"] == "INVALID_PARAMS"


@pytest.mark.parametrize("value", ['{"a":\n 1.50,\r\n "b": "\\n"}'])
def test_a_value_is_stored_on_one_line(value: str) -> None:
    """A line break, which HTTP allows, would end the message of a client on stdio that reads the value."""
    (op,) = asked("redis_set", f'{{"key":"a","value":{value}}}').ops
    assert op == Set(key("a"), b'{"a":1.50,"b":"\\n"}')


def test_a_string_of_json_is_a_string() -> None:
    tool = TOOLS["redis_set"]
    outcome = tool.arguments.repair(b'{"key":"a","value":"{\\"b\\":1}","ttl":"60"}')
    assert isinstance(outcome, Parsed) and len(outcome.notes) == 1
    answer = tool.plan(outcome.arguments, CONTEXT)
    assert isinstance(answer, AskBackend)
    assert answer.ops == (Set(key("a"), b'"{\\"b\\":1}"', 60_000),)


def test_keys_in_a_plain_string_are_refused_with_the_right_form() -> None:
    outcome = TOOLS["redis_del"].arguments.repair(b'{"keys":"s3cr3t"}')
    assert isinstance(outcome, BadArguments)
    assert '["user:1", "user:2"]'.replace(" ", "") in outcome.message.replace(" ", "")
    assert SECRET not in outcome.message


# --- properties ---

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)


@given(json_values, st.booleans())
def test_what_is_stored_is_what_comes_back(value: object, pretty: bool) -> None:
    text = json.dumps(value, indent=2 if pretty else None)
    answer = plan("redis_set", f'{{"key":"a","value":{text}}}')
    if isinstance(value, int) and abs(value) > 1e300:
        assert result(answer).is_error
        return
    assert isinstance(answer, AskBackend)
    (op,) = answer.ops
    assert isinstance(op, Set) and b"\n" not in op.value
    assert json.loads(op.value) == value
    assert outcome("redis_get", {"key": "a"}, op.value) == {
        "found": True, "value": value, "etag": etag_of(op.value),
    }  # fmt: skip


@given(st.sampled_from(STRINGS), st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_arguments_are_planned_or_refused(tool: Tool, raw: bytes) -> None:
    outcome = tool.arguments.repair(raw)
    if isinstance(outcome, Parsed):
        assert isinstance(tool.plan(outcome.arguments, CONTEXT), AskBackend | Answer)


def test_reads_ask_for_no_writes_and_writes_say_so() -> None:
    for name, arguments in EACH:
        hints = TOOLS[name].annotations
        assert hints and asked(name, arguments).writes is not hints.read_only_hint
