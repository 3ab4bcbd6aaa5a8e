"""How the legacy dialects write."""

import json

import pytest
from msgspec import UNSET, Raw

from kvmcp.core.errors import RpcError
from kvmcp.core.legacy import LegacyDialect
from kvmcp.core.plan import ToolError
from kvmcp.core.subscriptions import ListChanged, ResourceUpdated
from kvmcp.core.versions import LEGACY, LegacyVersion
from kvmcp.core.wire.common import (
    ListRoots,
    PromptResult,
    ReadResult,
    ResourceContents,
    TextContent,
    ToolResult,
)
from tests.core.harness import Json, a_service
from tests.schema import validate_server_message

req = pytest.mark.req
each = pytest.mark.parametrize("version", LEGACY)


def written(version: LegacyVersion, message: bytes, method: str | None = None) -> Json:
    validate_server_message(version, message, method)
    return json.loads(message)


@each
@pytest.mark.parametrize(
    ("result", "wanted"),
    [
        (ToolResult(), {"content": []}),
        (ToolResult((TextContent("x"),)), {"content": [{"type": "text", "text": "x"}]}),
        (
            ToolResult((TextContent("x"),), is_error=True),
            {"content": [{"type": "text", "text": "x"}], "isError": True},
        ),
        (ToolResult(meta=Raw(b'{"a/b":1}')), {"content": [], "_meta": {"a/b": 1}}),
        (
            ToolResult(structured=b"[1]", notes=("note",)),
            {"content": [{"type": "text", "text": "[1]"}, {"type": "text", "text": "note"}]},
        ),
    ],
)
def test_results_of_tools(version: LegacyVersion, result: ToolResult, wanted: Json) -> None:
    message = written(version, LegacyDialect(version).render(b"1", result), "tools/call")
    assert message == {"jsonrpc": "2.0", "id": 1, "result": wanted}


@each
def test_structured_data_alone_are_their_own_text(version: LegacyVersion) -> None:
    data = '{"a":"ü \\"quoted\\""}'
    message = written(version, LegacyDialect(version).render(b"1", ToolResult(structured=data.encode())))
    structured = {"structuredContent": json.loads(data)} if version >= "2025-06-18" else {}
    assert message["result"] == {"content": [{"type": "text", "text": data}]} | structured


@each
def test_other_results_have_no_modern_members(version: LegacyVersion) -> None:
    dialect = LegacyDialect(version)
    read = dialect.render(b'"r"', ReadResult((ResourceContents("kv://a", text="1"),), ttl_ms=5, public=True))
    assert written(version, read, "resources/read")["result"] == {
        "contents": [{"uri": "kv://a", "text": "1"}]
    }
    prompt = written(version, dialect.render(b"1", PromptResult(())), "prompts/get")
    assert prompt["result"] == {"messages": []}


@each
def test_lists(version: LegacyVersion) -> None:
    dialect = LegacyDialect(version)
    assert dialect.list_result("templates", [], None) == b'{"resourceTemplates":[]}'
    assert dialect.list_result("tools", [], "7") == b'{"tools":[],"nextCursor":"7"}'


@each
@pytest.mark.parametrize(
    ("told", "extra"), [(UNSET, {}), ("Keys are text.", {"instructions": "Keys are text."})]
)
def test_the_answer_to_initialize(version: LegacyVersion, told: str, extra: Json) -> None:
    service = a_service()
    result = json.loads(LegacyDialect(version).initialize_result(service.catalog, service.info, told))
    assert result.pop("capabilities") and result.pop("serverInfo")
    assert result == {"protocolVersion": version} | extra


@each
@req("projection-bad-arguments")
def test_arguments_that_do_not_fit(version: LegacyVersion) -> None:
    problem = ToolError("INVALID_PARAMS", "`key` is missing")
    message = written(version, LegacyDialect(version).bad_arguments(b"1", problem), "tools/call")
    if version >= "2025-11-25":
        assert message["result"]["isError"] is True
        assert message["result"]["structuredContent"]["error"]["code"] == "INVALID_PARAMS"
    else:
        assert message["error"]["code"] == -32602
        assert message["error"]["data"]["code"] == "INVALID_PARAMS"


@each
@req("resource-not-found")
def test_errors_are_written_as_they_are(version: LegacyVersion) -> None:
    error = LegacyDialect(version).error(b"1", RpcError(-32002, "resource not found"))
    assert written(version, error)["error"] == {"code": -32002, "message": "resource not found"}


@each
def test_changes(version: LegacyVersion) -> None:
    dialect = LegacyDialect(version)
    assert written(version, dialect.changed(ListChanged("tools"))) == {
        "jsonrpc": "2.0",
        "method": "notifications/tools/list_changed",
    }
    assert written(version, dialect.changed(ResourceUpdated("kv://ü")))["params"] == {"uri": "kv://ü"}


@each
def test_asking(version: LegacyVersion) -> None:
    assert LegacyDialect(version).ask(ListRoots(), "t") == ("roots/list", b"{}")
