"""Section n of the reference: what of the one internal model each revision gets to see."""

from typing import TypeAlias

import pytest
from msgspec import UNSET, Raw

from kvmcp.core import projection
from kvmcp.core.catalog import Catalog
from kvmcp.core.items import Tool
from kvmcp.core.versions import MODERN as MODERN_VERSIONS
from kvmcp.core.wire.common import (
    ClientCapabilities,
    CompletionResult,
    ElicitationCapability,
    ElicitForm,
    ElicitUrl,
    ListRoots,
    Sample,
    SamplingCapability,
)
from tests.core.fixture_catalog import ADD, CONFIG, FORM, GREET, KEYS, LONG, SAMPLE, Nothing, arguments
from tests.core.harness import REVISIONS, Json, Server, a_service, decoded

req = pytest.mark.req
Columns: TypeAlias = tuple[bool, bool, bool, bool, bool]
"""Whether a member is there, one column per revision, oldest first."""

SINCE_2025_03: Columns = (False, True, True, True, True)
SINCE_2025_06: Columns = (False, False, True, True, True)
SINCE_2025_11: Columns = (False, False, False, True, True)
MODERN_ONLY: Columns = (False, False, False, False, True)
ALWAYS: Columns = (True,) * 5


def is_there(columns: Columns, revision: str) -> bool:
    return columns[REVISIONS.index(revision)]


def listed(revision: str, method: str, name: str, member: str | None = None) -> Json:
    """One item of a list, by its name."""
    items = Server(revision).result(method)[member or method.split("/")[0]]
    [found] = [item for item in items if item["name"] == name]
    return found


# --- definitions ---


@req("projection-definitions")
@pytest.mark.parametrize(
    ("member", "columns"),
    [
        ("name", ALWAYS),
        ("description", ALWAYS),
        ("inputSchema", ALWAYS),
        ("annotations", SINCE_2025_03),
        ("title", SINCE_2025_06),
        ("outputSchema", SINCE_2025_06),
        ("_meta", SINCE_2025_06),
        ("icons", SINCE_2025_11),
        ("execution", (False,) * 5),
    ],
)
def test_members_of_a_tool(revision: str, member: str, columns: Columns) -> None:
    assert (member in listed(revision, "tools/list", "add")) == is_there(columns, revision)


@req("projection-definitions", "json-schema-keywords")
def test_schemas_keep_every_keyword_that_the_revision_knows(revision: str) -> None:
    tool = listed(revision, "tools/list", "add")
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    extra = dialect if is_there(SINCE_2025_11, revision) else {}
    properties = {"number": {"type": "integer"}}
    wanted = extra | {"type": "object", "properties": properties, "required": ["number"]}
    assert tool["inputSchema"] == wanted
    if is_there(SINCE_2025_06, revision):
        assert tool["outputSchema"] == extra | {"type": "object"}


@req("projection-definitions")
def test_an_output_schema_that_is_no_object_is_modern(revision: str) -> None:
    tool = listed(revision, "tools/list", "array")
    assert ("outputSchema" in tool) == is_there(MODERN_ONLY, revision)


@pytest.mark.parametrize(
    ("method", "name", "list_member"),
    [
        ("resources/list", "config", "resources"),
        ("resources/templates/list", "keys", "resourceTemplates"),
        ("prompts/list", "greet", "prompts"),
    ],
)
@pytest.mark.parametrize(
    ("member", "columns"),
    [
        ("name", ALWAYS),
        ("description", ALWAYS),
        ("title", SINCE_2025_06),
        ("_meta", SINCE_2025_06),
        ("icons", SINCE_2025_11),
    ],
)
@req("projection-definitions")
def test_members_of_other_definitions(
    revision: str, method: str, name: str, list_member: str, member: str, columns: Columns
) -> None:
    assert (member in listed(revision, method, name, list_member)) == is_there(columns, revision)


@req("projection-last-modified")
def test_annotations_of_definitions(revision: str) -> None:
    for method, name, member in (
        ("resources/list", "config", "resources"),
        ("resources/templates/list", "keys", "resourceTemplates"),
    ):
        noted = listed(revision, method, name, member)["annotations"]
        assert noted["audience"] == ["user"] and noted["priority"] == 0.5
        assert ("lastModified" in noted) == is_there(SINCE_2025_06, revision)


def test_arguments_of_a_prompt(revision: str) -> None:
    name, tone = listed(revision, "prompts/list", "greet")["arguments"]
    title = {"title": "Name"} if is_there(SINCE_2025_06, revision) else {}
    assert name == {"name": "name", "description": "Whom", "required": True} | title
    assert tone == {"name": "tone"}
    assert "arguments" not in listed(revision, "prompts/list", "long")


@req("projection-definitions")
def test_who_we_are(revision: str) -> None:
    result = Server(revision).result("tools/list") if revision in MODERN_VERSIONS else None
    info = (
        result["_meta"]["io.modelcontextprotocol/serverInfo"]
        if result
        else Server().handshake(revision)["serverInfo"]
    )
    assert info["name"] == "kvmcp" and info["version"] == "1.2.3"
    assert ("title" in info) == is_there(SINCE_2025_06, revision)
    for member in ("description", "websiteUrl", "icons"):
        assert (member in info) == is_there(SINCE_2025_11, revision)


# --- results ---


@req("projection-modern-members", "modern-result-type")
@pytest.mark.parametrize(
    ("method", "params", "cached"),
    [
        ("tools/list", None, True),
        ("resources/list", None, True),
        ("resources/templates/list", None, True),
        ("prompts/list", None, True),
        ("resources/read", {"uri": "kv://config"}, True),
        ("tools/call", {"name": "get", "arguments": {"key": "a"}}, False),
        ("prompts/get", {"name": "greet", "arguments": {"name": "Ada"}}, False),
        (
            "completion/complete",
            {"ref": {"type": "ref/prompt", "name": "greet"}, "argument": {"name": "name", "value": "A"}},
            False,
        ),
    ],
)
def test_what_modern_results_say_besides(revision: str, method: str, params: Json, cached: bool) -> None:
    result = Server(revision).result(method, params)
    modern = revision in MODERN_VERSIONS
    assert (result.get("resultType") == "complete") == modern
    assert ("io.modelcontextprotocol/serverInfo" in result.get("_meta", {})) == modern
    for member in ("ttlMs", "cacheScope"):
        assert (member in result) == (modern and cached)


@req("projection-structured-content")
@pytest.mark.parametrize(
    ("tool", "columns", "data"),
    [("get", SINCE_2025_06, {"found": True, "value": "1"}), ("array", MODERN_ONLY, ["a", "b"])],
)
def test_structured_content(revision: str, tool: str, columns: Columns, data: Json) -> None:
    result = Server(revision).call(tool, {"key": "a"})["result"]
    if is_there(columns, revision):
        assert result["structuredContent"] == data
    else:
        assert "structuredContent" not in result


@req("projection-structured-content")
def test_the_text_copy_of_structured_content_stays(revision: str) -> None:
    result = Server(revision).call("array")["result"]
    assert result["content"] == [{"type": "text", "text": '["a","b"]'}]
    with_note = Server(revision).call("add", {"number": "41"})["result"]
    assert [block["text"] for block in with_note["content"]] == [
        '{"sum":42}',
        "note: number was read as an integer",
    ]


@req("projection-content")
def test_content_that_a_revision_lacks_becomes_text(revision: str) -> None:
    blocks = Server(revision).call("media")["result"]["content"]
    kinds = [block["type"] for block in blocks]
    audio = "audio" if is_there(SINCE_2025_03, revision) else "text"
    link = "resource_link" if is_there(SINCE_2025_06, revision) else "text"
    assert kinds == ["text", "image", audio, "resource", link, "text"]
    if audio == "text":
        assert blocks[2]["text"] == "[audio, audio/wav: this protocol revision cannot carry it]"
    if link == "text":
        assert blocks[4]["text"] == "b: kv://b"
    else:
        assert ("icons" in blocks[4]) == is_there(SINCE_2025_11, revision)


@req("projection-content", "projection-last-modified")
def test_members_of_content(revision: str) -> None:
    blocks = Server(revision).call("media")["result"]["content"]
    for block in blocks[:2] + blocks[3:4]:
        assert ("_meta" in block) == is_there(SINCE_2025_06, revision)
        assert ("lastModified" in block["annotations"]) == is_there(SINCE_2025_06, revision)
    assert ("_meta" in blocks[3]["resource"]) == is_there(SINCE_2025_06, revision)


def test_a_results_own_meta(revision: str) -> None:
    meta = Server(revision).call("media")["result"]["_meta"]
    assert meta["example.com/a"] == 1


@req("projection-content")
def test_messages_of_a_prompt(revision: str) -> None:
    result = Server(revision).result("prompts/get", {"name": "greet", "arguments": {"name": "Ada"}})
    assert result["description"] == "A greeting"
    user, assistant = result["messages"]
    assert user["role"] == "user" and user["content"]["text"] == "Greet Ada"
    assert ("_meta" in user["content"]) == is_there(SINCE_2025_06, revision)
    assert assistant["role"] == "assistant"
    assert assistant["content"]["type"] == ("audio" if is_there(SINCE_2025_03, revision) else "text")


def test_contents_of_a_resource(revision: str) -> None:
    text, blob = Server(revision).result("resources/read", {"uri": "kv://config"})["contents"]
    assert text == {"uri": "kv://config", "mimeType": "text/plain", "text": "on"}
    assert blob["blob"] == "iVBORw0KGgo="
    assert ("_meta" in blob) == is_there(SINCE_2025_06, revision)


@req("completion-maximum")
@pytest.mark.parametrize(
    ("result", "wanted"),
    [
        (CompletionResult(("a",)), {"values": ["a"]}),
        (CompletionResult(("a",), total=7, has_more=True), {"values": ["a"], "total": 7, "hasMore": True}),
        (CompletionResult(("a",) * 100), {"values": ["a"] * 100}),
        (CompletionResult(("a",) * 101), {"values": ["a"] * 100, "total": 101, "hasMore": True}),
        (
            CompletionResult(("a",) * 101, total=500),
            {"values": ["a"] * 100, "total": 500, "hasMore": True},
        ),
    ],
)
def test_completions_are_cut_at_100(result: CompletionResult, wanted: Json) -> None:
    assert decoded(projection.result_body(result, REVISIONS[0])) == {"completion": wanted}


# --- capabilities ---


@req("capabilities-declared")
def test_capabilities(revision: str) -> None:
    features = {
        "tools": {"listChanged": True},
        "resources": {"listChanged": True, "subscribe": True},
        "prompts": {"listChanged": True},
        "logging": {},
    }
    completions: Json = {"completions": {}} if is_there(SINCE_2025_03, revision) else {}
    assert capabilities(revision, a_service().catalog) == features | completions


def test_what_is_not_offered_is_not_declared(revision: str) -> None:
    assert capabilities(revision, Catalog()) == {"logging": {}}
    assert capabilities(revision, Catalog(LONG)) == {"logging": {}, "prompts": {"listChanged": True}}


def capabilities(revision: str, catalog: Catalog) -> Json:
    if revision in MODERN_VERSIONS:
        return Server(revision, catalog=catalog).result("server/discover")["capabilities"]
    return Server(catalog=catalog).handshake(revision)["capabilities"]


RAW = Raw(b"{}")
FULL = ClientCapabilities(
    roots=RAW,
    sampling=SamplingCapability(context=RAW, tools=RAW),
    elicitation=ElicitationCapability(form=RAW, url=RAW),
    extensions={"example.com/x": RAW},
    experimental=RAW,
)


@req("legacy-negotiated-features")
@pytest.mark.parametrize(
    ("version", "offered"),
    [
        ("2024-11-05", [True, True, False, False, False]),
        ("2025-03-26", [True, True, False, False, False]),
        ("2025-06-18", [True, True, False, True, False]),
        ("2025-11-25", [True, True, True, True, True]),
    ],
)
def test_what_a_revision_lacks_cannot_be_asked_of_its_clients(version: str, offered: list[bool]) -> None:
    known = projection.known_capabilities(FULL, version)
    asked = (
        ListRoots(),
        Sample(SAMPLE),
        Sample(SAMPLE, tools=True),
        ElicitForm("?", FORM),
        ElicitUrl("?", "https://kv.example"),
    )
    assert [known.offers(request) for request in asked] == offered
    assert known.extensions is UNSET and known.experimental == RAW


def test_a_client_without_capabilities_has_none_to_trim() -> None:
    nothing = ClientCapabilities()
    assert projection.known_capabilities(nothing, "2024-11-05") == nothing


# --- requests to the client ---


@req("elicitation-url-id")
@pytest.mark.parametrize(("id", "named"), [("e1", {"elicitationId": "e1"}), (None, {})])
def test_a_url_elicitation_is_named_where_the_revision_wants_it(id: str | None, named: Json) -> None:
    method, params = projection.client_request(ElicitUrl("Sign in", "https://kv.example"), id)
    assert method == "elicitation/create"
    assert decoded(params) == {"mode": "url", "message": "Sign in", "url": "https://kv.example"} | named


def test_other_requests_to_the_client() -> None:
    assert projection.client_request(ListRoots(), None) == ("roots/list", b"{}")
    assert projection.client_request(Sample(SAMPLE), None) == ("sampling/createMessage", SAMPLE)
    method, params = projection.client_request(ElicitForm("Sure?", FORM), None)
    assert method == "elicitation/create"
    assert decoded(params) == {"message": "Sure?", "requestedSchema": decoded(FORM)}


def test_definitions_of_all_kinds_in_one_go() -> None:
    plain = Tool(name="plain", arguments=arguments(Nothing), plan=ADD.plan)
    rendered = decoded(projection.definitions([plain, CONFIG, KEYS, GREET], "2026-07-28"))
    assert [item["name"] for item in rendered] == ["plain", "config", "keys", "greet"]
    assert rendered[0] == {"name": "plain", "inputSchema": {"type": "object", "properties": {}}}
