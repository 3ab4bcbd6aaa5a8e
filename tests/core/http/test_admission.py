"""Header rules: the table of eras, agreement of headers and body, and which status says so."""

import json

import pytest

from kvmcp.core.items import Tool
from tests.core.fixture_catalog import Anything, JsonArguments, _echo, fixture_catalog
from tests.core.harness import META, Json, envelope
from tests.core.http.harness import HEADER_MISMATCH, JSON_HEADERS, Web, modern_headers

MODERN = "2026-07-28"


def a_request(version: Json, method: str = "tools/list", **params: Json) -> Json:
    """`version` None: without an envelope."""
    given = params if version is None else {"_meta": envelope(version), **params}
    return {"jsonrpc": "2.0", "id": 7, "method": method, "params": given}


@pytest.mark.parametrize(
    ("header", "version", "outcome"),
    [
        (None, None, (400, -32600)),  # legacy, without a session
        ("2025-06-18", None, (400, -32600)),
        (MODERN, None, (400, -32602)),
        ("2031-01-01", None, (400, -32022)),
        (MODERN, MODERN, (200, None)),
        (None, MODERN, (400, HEADER_MISMATCH)),
        ("2025-11-25", MODERN, (400, HEADER_MISMATCH)),
        (MODERN, "v999.0.0", (400, HEADER_MISMATCH)),
        ("v999.0.0", MODERN, (400, HEADER_MISMATCH)),
        ("v999.0.0", "v999.0.0", (400, -32022)),
        ("2025-11-25", "2025-11-25", (400, -32022)),
        (MODERN, 7, (400, -32602)),
        (MODERN, "", (400, HEADER_MISMATCH)),
    ],
)
def test_the_table_of_eras(header: str | None, version: Json, outcome: Json) -> None:
    headers = modern_headers("tools/list", {}, MCP_Protocol_Version=header)
    reply = Web().post(a_request(version), headers)
    message = reply.message()
    assert (reply.status, message.get("error", {}).get("code")) == outcome
    assert message["id"] == 7


def test_an_unsupported_version_names_what_is_served() -> None:
    reply = Web().post(a_request("v1"), modern_headers("tools/list", {}, MCP_Protocol_Version="v1"))
    assert reply.message()["error"]["data"] == {"supported": [MODERN], "requested": "v1"}


@pytest.mark.parametrize("version", ["2031-01-01"])
def test_messages_without_a_version_of_their_own_need_a_known_header(version: str) -> None:
    reply = Web().post(
        {"jsonrpc": "2.0", "method": "notifications/x"}, {**JSON_HEADERS, "MCP-Protocol-Version": version}
    )
    assert reply.code() == (400, -32022)


@pytest.mark.parametrize(
    "meta",
    [
        {META + "protocolVersion": MODERN},
        {META + "protocolVersion": MODERN, META + "clientCapabilities": 5},
        {META + "protocolVersion": None, META + "clientCapabilities": {}},
    ],
)
def test_an_incomplete_envelope_is_said_before_anything_else(meta: Json) -> None:
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}}
    assert Web().post(message, JSON_HEADERS).code() == (400, -32602)


@pytest.mark.parametrize("params", [b"[]", b"5", b'{"_meta":5}'])
def test_params_that_are_none_are_400(params: bytes) -> None:
    body = b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":%b}' % params
    reply = Web().post(body, modern_headers("tools/list", {}))
    assert reply.code() == (400, -32602)


# --- Mcp-Method and Mcp-Name ---


@pytest.mark.parametrize("said", [None, "tools/call", "TOOLS/LIST", ""])
def test_the_method_must_agree(said: str | None) -> None:
    assert Web().ask("tools/list", Mcp_Method=said).code() == (400, HEADER_MISMATCH)


@pytest.mark.parametrize("said", [None, "put", "GET", "", "=?base64?Z2V0?", "=?base64?Z2V?=", "g\u00e9t"])
def test_the_name_must_agree(said: str | None) -> None:
    reply = Web().call("get", {"key": "a"}, Mcp_Name=said)
    assert reply.code() == (400, HEADER_MISMATCH)


@pytest.mark.parametrize("said", ["get", "  get\t", "=?base64?Z2V0?="])
def test_a_name_that_agrees(said: str) -> None:
    assert Web().call("get", {"key": "a"}, Mcp_Name=said).code() == (200, None)


def test_names_of_all_kinds() -> None:
    web = Web()
    assert web.ask("resources/read", {"uri": "kv://keys/a"}).code() == (200, None)
    assert web.ask("resources/read", {"uri": "kv://keys/a"}, Mcp_Name="kv://keys/b").status == 400
    assert web.ask("prompts/get", {"name": "greet", "arguments": {"name": "A"}}).code() == (200, None)
    assert web.ask("prompts/get", {"name": "greet"}, Mcp_Name="x").status == 400


@pytest.mark.parametrize("params", [{}, {"name": 5}, {"name": None}])
def test_a_body_without_the_name_is_a_matter_of_params(params: Json) -> None:
    assert Web().ask("tools/call", params, Mcp_Name="get").code() == (400, -32602)


@pytest.mark.parametrize("name", ["mcp-method", "MCP-METHOD"])
def test_header_names_have_no_case(name: str) -> None:
    headers = modern_headers("tools/list", {}, Mcp_Method=None) | {name: "tools/list"}
    assert Web().post(a_request(MODERN), headers).code() == (200, None)


@pytest.mark.parametrize("name", [b"mcp-method", b"mcp-name", b"mcp-protocol-version"])
def test_a_header_that_stands_twice_is_refused(name: bytes) -> None:
    headers = modern_headers("tools/call", {"name": "get"})
    fields = [(key.lower().encode(), value.encode()) for key, value in headers.items()]
    fields.append((name, dict(fields)[name]))
    body = json.dumps(a_request(MODERN, "tools/call", name="get", arguments={"key": "a"})).encode()
    assert Web().request("POST", fields, body).code() == (400, HEADER_MISMATCH)


def test_long_values_are_not_echoed_whole() -> None:
    reply = Web().ask("tools/list", Mcp_Method="x" * 5000)
    assert len(reply.message()["error"]["message"]) < 300


# --- Mcp-Param-… ---

MIRRORED = {
    "type": "object",
    "properties": {
        "value": {"type": "string", "x-mcp-header": "Value"},
        "count": {"type": "integer", "x-mcp-header": "Count"},
        "flag": {"type": "boolean", "x-mcp-header": "Flag"},
        "place": {"type": "object", "properties": {"zone": {"type": "string", "x-mcp-header": "Zone"}}},
    },
}


def mirrored_web() -> Web:
    catalog = fixture_catalog()
    schema = json.dumps(MIRRORED).encode()
    catalog.add(Tool(name="mirrored", arguments=JsonArguments(Anything, schema), plan=_echo))
    return Web(catalog)


ACCEPTED: list[Json] = [
    ({}, {}),
    ({"value": None}, {}),
    ({"value": "Hello"}, {"Mcp_Param_Value": "Hello"}),
    ({"value": "Hello"}, {"Mcp_Param_Value": "=?base64?SGVsbG8=?="}),
    ({"value": "Hello"}, {"mcp_param_VALUE": " Hello "}),
    ({"value": ""}, {"Mcp_Param_Value": ""}),
    ({"value": "SGVsbG8="}, {"Mcp_Param_Value": "SGVsbG8="}),
    ({"value": "=?base64?SGVsbG8="}, {"Mcp_Param_Value": "=?base64?SGVsbG8="}),
    ({"count": 42}, {"Mcp_Param_Count": "42"}),
    ({"count": 42}, {"Mcp_Param_Count": "42.0"}),
    ({"count": 42.0}, {"Mcp_Param_Count": "42"}),
    ({"count": -7}, {"Mcp_Param_Count": "-7"}),
    ({"count": 1.5}, {"Mcp_Param_Count": "1.5"}),
    ({"flag": True}, {"Mcp_Param_Flag": "true"}),
    ({"place": {"zone": "b"}}, {"Mcp_Param_Zone": "b"}),
    ({"place": 5}, {}),
    ({"place": {}}, {}),
    ({"value": ["a"]}, {}),
    ({}, {"Mcp_Param_Other": "x"}),
]


@pytest.mark.parametrize(("arguments", "headers"), ACCEPTED)
def test_arguments_that_agree(arguments: Json, headers: Json) -> None:
    assert mirrored_web().call("mirrored", arguments, **headers).code()[1] in (None, -32602)
    assert mirrored_web().call("mirrored", arguments, **headers).status == 200


@pytest.mark.parametrize(
    ("arguments", "headers"),
    [
        ({"value": "test-value"}, {}),
        ({"value": "Hello"}, {"Mcp_Param_Value": "hello"}),
        ({"value": "Hello"}, {"Mcp_Param_Value": "=?base64?SGVsbG8?="}),
        ({"value": "Hello"}, {"Mcp_Param_Value": "=?base64?SGVs!!!bG8=?="}),
        ({"value": None}, {"Mcp_Param_Value": "x"}),
        ({}, {"Mcp_Param_Value": ""}),
        ({"count": 42}, {}),
        ({"count": 42}, {"Mcp_Param_Count": "43"}),
        ({"count": 42}, {"Mcp_Param_Count": "forty-two"}),
        ({"flag": True}, {"Mcp_Param_Flag": "True"}),
        ({"flag": False}, {}),
        ({"place": {"zone": "b"}}, {"Mcp_Param_Zone": "c"}),
        ({"place": 5}, {"Mcp_Param_Zone": "c"}),
    ],
)
def test_arguments_that_do_not_agree(arguments: Json, headers: Json) -> None:
    assert mirrored_web().call("mirrored", arguments, **headers).code() == (400, HEADER_MISMATCH)


def test_an_argument_that_stands_twice_in_the_headers_is_refused() -> None:
    headers = modern_headers("tools/call", {"name": "mirrored"}, Mcp_Param_Value="x")
    fields = [(key.lower().encode(), value.encode()) for key, value in headers.items()]
    body = json.dumps(a_request(MODERN, "tools/call", name="mirrored", arguments={"value": "x"})).encode()
    assert mirrored_web().request("POST", fields, body).status == 200
    twice = [*fields, (b"mcp-param-value", b"x")]
    assert mirrored_web().request("POST", twice, body).code() == (400, HEADER_MISMATCH)


def test_text_in_an_argument_that_is_no_unicode_is_for_the_tool() -> None:
    body = (
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"mirrored","arguments":'
        b'{"value":"\\ud800"},"_meta":%b}}' % json.dumps(envelope()).encode()
    )
    reply = mirrored_web().post(body, modern_headers("tools/call", {"name": "mirrored"}))
    assert reply.code() != (400, HEADER_MISMATCH)


def test_other_methods_and_unreadable_calls_pass_by() -> None:
    web = mirrored_web()
    assert web.ask("tools/list").code() == (200, None)
    assert web.call("none", {}).code() == (400, -32602)
    assert web.ask("tools/call", {"name": 5}, Mcp_Name=None).code() == (400, -32602)
