"""How the modern dialect reads envelopes and writes."""

import json

import pytest
from msgspec import UNSET, Raw, ValidationError

from kvmcp.core.errors import RpcError
from kvmcp.core.modern import ModernDialect, is_envelope, read_envelope, unsupported_version
from kvmcp.core.plan import Caller, Context, ToolError
from kvmcp.core.subscriptions import ListChanged, ResourceUpdated
from kvmcp.core.wire.common import (
    ClientRequest,
    CompletionResult,
    ElicitUrl,
    ListRoots,
    PromptResult,
    ReadResult,
    ResourceContents,
    TextContent,
    ToolResult,
)
from kvmcp.core.wire.params import ListenFilter
from tests.core.harness import CLIENT_INFO, META, MODERN, SERVER_INFO, Json, a_service, envelope
from tests.schema import validate_server_message

req = pytest.mark.req
DIALECT = ModernDialect(SERVER_INFO)
CALLER = Caller("alice")


def raw(meta: Json) -> Raw:
    return Raw(json.dumps(meta).encode())


def written(message: bytes, method: str | None = None) -> Json:
    validate_server_message(MODERN, message, method)
    return json.loads(message)


def result_of(message: bytes, method: str | None = None) -> Json:
    """The result, without what all modern results say."""
    result = written(message, method)["result"]
    assert result.pop("resultType") == "complete"
    assert result["_meta"].pop(META + "serverInfo")["name"] == "kvmcp"
    if not result["_meta"]:
        del result["_meta"]
    return result


# --- envelopes ---


@req("era-by-message")
def test_the_reserved_key_marks_an_envelope_whatever_it_holds() -> None:
    assert is_envelope(raw(envelope()))
    assert is_envelope(raw({META + "protocolVersion": None}))
    assert not is_envelope(raw({"progressToken": 1}))
    assert not is_envelope(raw({META + "clientCapabilities": {}}))
    with pytest.raises(ValidationError):
        is_envelope(raw([]))


@req("modern-trace-context", "modern-client-info-optional")
def test_what_an_envelope_says_becomes_the_context() -> None:
    full = envelope(
        capabilities={"roots": {}, "unknown": 1},
        log_level="notice",
        progressToken=7,
        traceparent="00-a-b-01",
        tracestate="x=y",
        baggage="k=v",
    )
    context = read_envelope(raw(full), CALLER)
    assert isinstance(context, Context)
    assert context.caller == CALLER and context.protocol_version == MODERN
    assert context.client_capabilities.offers(ListRoots())
    assert context.client_info is not None and context.client_info.name == CLIENT_INFO["name"]
    assert context.log_level == "notice" and context.progress_token == 7
    assert context.trace == {"traceparent": "00-a-b-01", "tracestate": "x=y", "baggage": "k=v"}

    short = {META + "protocolVersion": MODERN, META + "clientCapabilities": {}}
    context = read_envelope(raw(short), CALLER)
    assert isinstance(context, Context)
    assert context.client_info is None
    assert context.progress_token is None and context.log_level is None
    assert context.trace == {}


@req("modern-meta-required")
@pytest.mark.parametrize(
    "meta",
    [
        {META + "protocolVersion": MODERN},
        {META + "protocolVersion": 7, META + "clientCapabilities": {}},
        {META + "protocolVersion": None, META + "clientCapabilities": {}},
        {META + "protocolVersion": MODERN, META + "clientCapabilities": []},
        {META + "protocolVersion": MODERN, META + "clientCapabilities": {"sampling": True}},
        envelope() | {META + "clientInfo": {"name": "x"}},
        envelope() | {META + "logLevel": "loud"},
        envelope() | {"progressToken": 1.5},
        envelope() | {"traceparent": 1},
    ],
)
def test_an_envelope_that_does_not_fit(meta: Json) -> None:
    refusal = read_envelope(raw(meta), CALLER)
    assert isinstance(refusal, RpcError) and refusal.code == -32602


@req("error-unsupported-version")
@pytest.mark.parametrize("version", ["2025-11-25", "2031-01-01", "", "v999.0.0"])
def test_a_version_that_is_not_served_in_an_envelope(version: str) -> None:
    refusal = read_envelope(raw(envelope(version)), CALLER)
    assert refusal == unsupported_version(version)
    message = written(DIALECT.error(b"1", unsupported_version(version)))
    assert message["error"]["code"] == -32022
    assert message["error"]["data"] == {"supported": [MODERN], "requested": version}


# --- results ---


@pytest.mark.parametrize(
    ("result", "wanted"),
    [
        (ToolResult(), {"content": []}),
        (
            ToolResult(structured=b"null"),
            {"content": [{"type": "text", "text": "null"}], "structuredContent": None},
        ),
        (
            ToolResult((TextContent("x"),), structured=b"[1]", is_error=True),
            {"content": [{"type": "text", "text": "x"}], "structuredContent": [1], "isError": True},
        ),
        (ToolResult(notes=("n",)), {"content": [{"type": "text", "text": "n"}]}),
        (ToolResult(meta=Raw(b'{"a/b":1}')), {"content": [], "_meta": {"a/b": 1}}),
        (ToolResult(meta=Raw(b"{ }")), {"content": []}),
    ],
)
def test_results_of_tools(result: ToolResult, wanted: Json) -> None:
    assert result_of(DIALECT.render(b"1", result), "tools/call") == wanted


@req("caching-members")
@pytest.mark.parametrize(
    ("ttl", "public", "scope"), [(0, False, "private"), (1000, True, "public"), (5, False, "private")]
)
def test_what_was_read_says_how_long_and_by_whom_it_may_be_kept(ttl: int, public: bool, scope: str) -> None:
    result = ReadResult((ResourceContents("kv://a", text="1"),), ttl, public)
    assert result_of(DIALECT.render(b"1", result), "resources/read") == {
        "contents": [{"uri": "kv://a", "text": "1"}],
        "ttlMs": ttl,
        "cacheScope": scope,
    }


def test_other_results_are_not_cached() -> None:
    assert result_of(DIALECT.render(b"1", PromptResult(())), "prompts/get") == {"messages": []}
    completion = result_of(DIALECT.render(b"1", CompletionResult(("a",))), "completion/complete")
    assert completion == {"completion": {"values": ["a"]}}


@req("caching-members", "caching-same-scope")
@pytest.mark.parametrize(("cursor", "extra"), [(None, {}), ("7", {"nextCursor": "7"})])
def test_all_pages_of_a_list_have_the_same_scope(cursor: str | None, extra: Json) -> None:
    page = json.loads(DIALECT.list_result("tools", [], cursor))
    assert page.pop("resultType") == "complete" and page.pop("_meta")
    assert page == {"tools": [], "ttlMs": 60_000, "cacheScope": "public"} | extra


@req("modern-discover", "caching-members")
@pytest.mark.parametrize(("told", "extra"), [(UNSET, {}), ("Keys.", {"instructions": "Keys."})])
def test_discovery(told: str, extra: Json) -> None:
    body = DIALECT.discover_result(a_service().catalog, told)
    message = b'{"jsonrpc":"2.0","id":1,"result":' + body + b"}"
    result = result_of(message, "server/discover")
    assert result.pop("capabilities")
    assert result == {"supportedVersions": [MODERN], "ttlMs": 60_000, "cacheScope": "public"} | extra


@req("mrtr-one-of-two", "caching-not-input-required", "mrtr-keys-unique", "elicitation-url-id")
def test_input_required() -> None:
    asked: dict[str, ClientRequest] = {
        "roots": ListRoots(),
        "url": ElicitUrl("Sign in", "https://kv.example"),
    }
    message = DIALECT.input_required(b"1", asked, "state")
    result = written(message, "tools/call")["result"]
    assert result.pop("_meta")
    assert result == {
        "resultType": "input_required",
        "requestState": "state",
        "inputRequests": {
            "roots": {"method": "roots/list", "params": {}},
            "url": {
                "method": "elicitation/create",
                "params": {"mode": "url", "message": "Sign in", "url": "https://kv.example"},
            },
        },
    }


# --- refusals ---


@req("resource-not-found", "error-no-resource-code")
def test_a_missing_resource_is_a_bad_parameter() -> None:
    error = RpcError(-32002, "resource not found", Raw(b'{"uri":"kv://x"}'))
    assert written(DIALECT.error(b"1", error))["error"] == {
        "code": -32602,
        "message": "resource not found",
        "data": {"uri": "kv://x"},
    }
    assert written(DIALECT.error(None, RpcError(-32600, "x")))["error"] == {"code": -32600, "message": "x"}


@req("projection-bad-arguments")
def test_arguments_that_do_not_fit_are_a_tools_failure() -> None:
    message = DIALECT.bad_arguments(b"1", ToolError("INVALID_PARAMS", "`key` is missing"))
    result = result_of(message, "tools/call")
    assert result["isError"] is True
    assert result["structuredContent"]["error"]["message"] == "`key` is missing"


# --- subscriptions ---


@req("listen-subscription-id")
@pytest.mark.parametrize("id", [7, "seven"])
def test_what_travels_on_a_subscription_names_it_with_the_ids_type(id: Json) -> None:
    subscription = json.dumps(id).encode()
    granted = ListenFilter(tools_list_changed=True, resource_subscriptions=("kv://a",))
    messages = [
        written(DIALECT.acknowledged(subscription, granted)),
        written(DIALECT.changed(ListChanged("tools"), subscription)),
        written(DIALECT.changed(ResourceUpdated("kv://a"), subscription)),
    ]
    assert [message["params"]["_meta"] for message in messages] == [{META + "subscriptionId": id}] * 3
    assert messages[0]["params"]["notifications"] == {
        "toolsListChanged": True,
        "resourceSubscriptions": ["kv://a"],
    }
    assert messages[2]["params"]["uri"] == "kv://a"
    ended = written(DIALECT.listen_ended(subscription), "subscriptions/listen")
    assert ended["id"] == id and ended["result"]["resultType"] == "complete"
    assert ended["result"]["_meta"][META + "subscriptionId"] == id
