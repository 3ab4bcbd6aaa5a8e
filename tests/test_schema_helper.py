"""The schema helper on messages written by hand: what each revision allows passes, what it forbids is named."""

import json
from typing import Any

import pytest

from tests import schema
from tests.schema import (
    REVISIONS,
    SchemaViolation,
    Validator,
    needs_schemas,
    validate_client_message,
    validate_server_message,
)

LEGACY = [revision for revision in REVISIONS if revision < "2026"]
MODERN = "2026-07-28"
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientCapabilities": {},
}
CACHE = {"ttlMs": 0, "cacheScope": "private"}
TOOL = {"name": "redis_get", "inputSchema": {"type": "object"}}


def line(**members: Any) -> bytes:
    """One message of JSON-RPC."""
    return json.dumps({"jsonrpc": "2.0", **members}).encode()


def result(value: Any, id: Any = 1) -> bytes:
    return line(id=id, result=value)


def error(code: int, data: Any = None, **members: Any) -> bytes:
    fault = {"code": code, "message": "no"} | ({} if data is None else {"data": data})
    return line(error=fault, **members)


def complete(**members: Any) -> dict[str, Any]:
    return {"resultType": "complete", **members}


GOOD_FROM_SERVER = [
    *[(revision, result({"tools": [TOOL]}), "tools/list") for revision in LEGACY],
    *[(revision, result({"content": [{"type": "text", "text": "1"}]}), "tools/call") for revision in LEGACY],
    *[(revision, result({}), "ping") for revision in LEGACY],
    *[(revision, result({}), "logging/setLevel") for revision in LEGACY],
    *[(revision, line(id="s1", method="ping"), None) for revision in LEGACY],
    *[(revision, line(id="s1", method="roots/list"), None) for revision in LEGACY],
    *[(revision, error(-32601, id="a"), None) for revision in REVISIONS],
    *[(revision, error(-32700), None) for revision in REVISIONS],
    *[(revision, result({"anything": 1, "resultType": "complete"}), None) for revision in REVISIONS],
    *[(revision, line(method="notifications/tools/list_changed"), None) for revision in LEGACY],
    (
        "2025-11-25",
        result({"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "k", "version": "1"}}),
        "initialize",
    ),
    ("2025-03-26", json.dumps([json.loads(result({})), json.loads(result({}, 2))]).encode(), None),
    (MODERN, result(complete(tools=[TOOL], **CACHE)), "tools/list"),
    (MODERN, result(complete(content=[], structuredContent=[1])), "tools/call"),
    (MODERN, result({"resultType": "input_required", "requestState": "s"}), "tools/call"),
    (MODERN, result(complete(supportedVersions=[MODERN], capabilities={}, **CACHE)), "server/discover"),
    (MODERN, error(-32022, {"supported": [MODERN], "requested": "2031-01-01"}, id=1), None),
    (MODERN, error(-32021, {"requiredCapabilities": {"sampling": {}}}, id=1), None),
    (
        MODERN,
        line(
            method="notifications/subscriptions/acknowledged",
            params={"notifications": {}, "_meta": {"io.modelcontextprotocol/subscriptionId": 31}},
        ),
        None,
    ),
]  # fmt: skip

BAD_FROM_SERVER = [
    *[(revision, result(complete(tools={}, **CACHE)), "tools/list", "tools") for revision in REVISIONS],
    *[(revision, result({"content": [{"type": "text"}]}), "tools/call", "text") for revision in LEGACY],
    *[(revision, result({"_meta": {}}), "ping", "the result of ping is {}") for revision in LEGACY],
    *[(revision, line(id=None, error={"code": 1, "message": ""}), None, "id") for revision in REVISIONS],
    *[(revision, error(-32600, id=None), None, "None is not of type") for revision in REVISIONS],
    *[(revision, result({}, id=1.5), "tools/list", "1.5 is not") for revision in LEGACY],
    *[(revision, result([]), None, "not of type 'object'") for revision in REVISIONS],
    *[(revision, line(id=1), None, "neither request") for revision in REVISIONS],
    *[(revision, line(id=1, result={}, error={}), None, "not both") for revision in REVISIONS],
    *[(revision, b'{"id":1,"result":{"resultType":"complete"}}', None, "jsonrpc") for revision in REVISIONS],
    *[(revision, line(method="notifications/invented"), None, "is called") for revision in REVISIONS],
    *[(revision, line(id=1, method="tools/list"), None, "no Server request") for revision in REVISIONS],
    *[(revision, result(complete()), "tools/invented", "no request to the server") for revision in REVISIONS],
    *[(revision, b'{"jsonrpc":"2.0","id":1,"id":1,"result":{}}', None, "twice") for revision in REVISIONS],
    *[(revision, b'{"jsonrpc":"2.0","id":1,"result":{"a":NaN}}', None, "NaN") for revision in REVISIONS],
    *[(revision, b'{"jsonrpc":"2.0","id":1,"result":{"a":"\\ud800"}}', None, "JSON") for revision in REVISIONS],
    *[(revision, b'{"jsonrpc":"2.0","id":1,"result":{"a":"\xff"}}', None, "JSON") for revision in REVISIONS],
    *[(revision, b'{"jsonrpc":"2.0","id":1,', None, "JSON") for revision in REVISIONS],
    *[
        (revision, b"[%b]" % result({"resultType": "complete"}), None, "neither request")
        for revision in REVISIONS
        if revision != "2025-03-26"
    ],
    ("2025-03-26", b"[]", None, "neither request"),
    ("2025-11-25", result({"content": [], "structuredContent": [1]}), "tools/call", "structuredContent"),
    ("2024-11-05", line(id=1, method="elicitation/create", params={}), None, "no Server request"),
    ("2024-11-05", result({"content": [{"type": "audio", "data": "", "mimeType": "a/b"}]}), "tools/call", "2024"),
    (MODERN, result({}), None, "resultType"),
    (MODERN, result({"tools": [TOOL], **CACHE}), "tools/list", "resultType"),
    (MODERN, result(complete(tools=[TOOL])), "tools/list", "required"),
    (MODERN, result(complete(tools=[TOOL], ttlMs=-1, cacheScope="private")), "tools/list", "minimum"),
    (MODERN, result({"resultType": "input_required"}), "tools/call", "at least one"),
    (MODERN, result({"resultType": "input_required", "requestState": "s"}), "tools/list", "cannot answer"),
    (MODERN, result({"resultType": "task"}), "tools/call", "cannot answer"),
    (MODERN, result(complete()), "ping", "no request to the server"),
    (MODERN, line(id="s1", method="ping"), None, "no Server request"),
    (MODERN, error(-32022, {"supported": [MODERN]}, id=1), None, "requested"),
    (MODERN, error(-32021, {"requiredCapabilities": ["sampling"]}, id=1), None, "not of type 'object'"),
]  # fmt: skip

GOOD_FROM_CLIENT = [
    *[(revision, line(id=1, method="tools/list"), None) for revision in LEGACY],
    *[(revision, line(id=1, method="tools/call", params={"name": "redis_get"}), None) for revision in LEGACY],
    *[(revision, line(method="notifications/initialized"), None) for revision in LEGACY],
    *[(revision, line(method="notifications/cancelled", params={"requestId": 1}), None) for revision in REVISIONS],
    *[(revision, result({}), "ping") for revision in LEGACY],
    *[(revision, result({"roots": [{"uri": "file:///a"}]}), "roots/list") for revision in LEGACY],
    ("2025-06-18", result({"action": "decline"}), "elicitation/create"),
    (MODERN, line(id=1, method="tools/list", params={"_meta": ENVELOPE}), None),
    (MODERN, line(id=1, method="server/discover", params={"_meta": ENVELOPE}), None),
    (
        MODERN,
        line(id=1, method="subscriptions/listen", params={"_meta": ENVELOPE, "notifications": {}}),
        None,
    ),
]  # fmt: skip

BAD_FROM_CLIENT = [
    *[(revision, line(id=1, method="tools/call", params={}), None, "name") for revision in LEGACY],
    *[(revision, line(id=1, method="server/discover"), None, "no Client request") for revision in LEGACY],
    *[(revision, line(id=1, method="tools/list", params=[]), None, "params") for revision in REVISIONS],
    *[(revision, line(id=None, method="tools/list"), None, "id") for revision in LEGACY],
    (MODERN, line(id=1, method="tools/list"), None, "params"),
    (MODERN, line(id=1, method="tools/list", params={"_meta": {}}), None, "io.modelcontextprotocol/"),
    (MODERN, line(id=1, method="ping", params={"_meta": ENVELOPE}), None, "no Client request"),
    (MODERN, line(method="notifications/initialized"), None, "no Client notification"),
    (MODERN, result(complete()), None, "MUST NOT send responses"),
    (MODERN, error(-1, id=1), None, "MUST NOT send responses"),
]


@needs_schemas
@pytest.mark.parametrize(("revision", "message", "method"), GOOD_FROM_SERVER)
def test_what_a_server_may_send_passes(revision: str, message: bytes, method: str | None) -> None:
    validate_server_message(revision, message, method)


@needs_schemas
@pytest.mark.parametrize(("revision", "message", "method", "fault"), BAD_FROM_SERVER)
def test_what_a_server_must_not_send_is_named(
    revision: str, message: bytes, method: str | None, fault: str
) -> None:
    with pytest.raises(SchemaViolation) as raised:
        validate_server_message(revision, message, method)
    assert fault in str(raised.value)
    assert str(raised.value).startswith(revision)


@needs_schemas
@pytest.mark.parametrize(("revision", "message", "method"), GOOD_FROM_CLIENT)
def test_what_a_client_may_send_passes(revision: str, message: bytes, method: str | None) -> None:
    validate_client_message(revision, message, method)


@needs_schemas
@pytest.mark.parametrize(("revision", "message", "method", "fault"), BAD_FROM_CLIENT)
def test_what_a_client_must_not_send_is_named(
    revision: str, message: bytes, method: str | None, fault: str
) -> None:
    with pytest.raises(SchemaViolation) as raised:
        validate_client_message(revision, message, method)
    assert fault in str(raised.value)


def test_every_request_of_a_client_has_a_result_that_can_be_checked(mcp_schema: Validator) -> None:
    for method in mcp_schema.requests["Client"]:
        with pytest.raises(SchemaViolation):
            validate_server_message(mcp_schema.revision, result(7), method)
    assert "tools/call" in mcp_schema.requests["Client"]
    assert ("ping" in mcp_schema.requests["Client"]) is not mcp_schema.is_modern


def test_a_definition_that_does_not_exist_is_our_mistake(mcp_schema: Validator) -> None:
    with pytest.raises(LookupError, match="defines no Nonsense"):
        mcp_schema.check("Nonsense", {})


@needs_schemas
def test_a_definition_is_compiled_once() -> None:
    assert schema.validator(MODERN) is schema.validator(MODERN)


def test_without_schemas_everything_passes() -> None:
    assert schema.validator("1999-01-01") is None
    validate_server_message("1999-01-01", b"not even JSON")
    validate_client_message("1999-01-01", b"not even JSON")
