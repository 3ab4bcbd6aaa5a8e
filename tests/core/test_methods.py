"""What each method answers, in both eras."""

import json

import pytest

from kvmcp.core.catalog import Catalog
from kvmcp.core.items import Prompt, Tool
from kvmcp.core.limits import Limits
from tests.core.fixture_catalog import ADD, ASK_FIRST, GREET, LONG, Nothing, arguments
from tests.core.harness import (
    INVALID_PARAMS,
    LEGACY,
    METHOD_NOT_FOUND,
    MODERN,
    RESOURCE_NOT_FOUND,
    Json,
    Server,
    call,
    error_of,
    text_of,
)

req = pytest.mark.req
each_legacy = pytest.mark.parametrize("revision", LEGACY)


def missing_resource(revision: str) -> int:
    return INVALID_PARAMS if revision == MODERN else RESOURCE_NOT_FOUND


# --- lists ---


@req("list-order")
def test_tools_are_listed_in_the_order_of_adding_without_the_hidden_one(revision: str) -> None:
    names = [tool["name"] for tool in Server(revision).result("tools/list")["tools"]]
    assert names[:3] == ["get", "put", "get_many"] and "hidden" not in names
    assert names == [tool["name"] for tool in Server(revision).result("tools/list")["tools"]]


@req("modern-lists-constant")
def test_lists_do_not_vary_with_what_happened_on_the_connection() -> None:
    server, other = Server(MODERN), Server(MODERN)
    server.call("put", {"key": "a", "value": "9"})
    server.call("raises")
    assert server.result("tools/list") == other.result("tools/list")


@req("pagination-cursor")
def test_pages_follow_each_other_to_the_last(revision: str) -> None:
    server = Server(revision, limits=Limits(list_page=5))
    names: list[str] = []
    params: Json = {}
    while True:
        page = server.result("tools/list", params)
        names += [tool["name"] for tool in page["tools"]]
        if "nextCursor" not in page:
            break
        params = {"cursor": page["nextCursor"]}
    assert names == [tool["name"] for tool in Server(revision).result("tools/list")["tools"]]


@req("pagination-cursor")
@pytest.mark.parametrize(
    "method", ["tools/list", "resources/list", "resources/templates/list", "prompts/list"]
)
@pytest.mark.parametrize("cursor", ["", "x", "99999", 7, None])
def test_a_cursor_that_is_not_ours(revision: str, method: str, cursor: Json) -> None:
    server = Server(revision)
    assert server.error(method, {"cursor": cursor})["code"] == INVALID_PARAMS
    server.still_serves()


# --- tools ---


@req("tools-unknown")
def test_an_unknown_tool(revision: str) -> None:
    error = Server(revision).error("tools/call", call("nothing"))
    assert error["code"] == INVALID_PARAMS and "nothing" in error["message"]


@pytest.mark.parametrize("params", [{}, {"name": 7}, {"name": None, "arguments": {}}])
def test_a_call_that_names_no_tool(revision: str, params: Json) -> None:
    assert Server(revision).error("tools/call", params)["code"] == INVALID_PARAMS


def test_a_hidden_tool_can_be_called() -> None:
    assert Server("2025-11-25").call("hidden")["error"]["code"] == -32603


def test_arguments_may_be_missing(revision: str) -> None:
    assert text_of(Server(revision).call("get_many")["result"]) == '{"values":[]}'


@req("projection-bad-arguments", "inputs-validated")
@pytest.mark.parametrize("given", [{}, {"key": 7}, {"key": "a", "more": 1}, [], "a", None, 7])
def test_arguments_that_do_not_fit(revision: str, given: Json) -> None:
    server = Server(revision)
    reply = server.ask("tools/call", {"name": "get", "arguments": given})
    if revision >= "2025-11-25":
        assert error_of(reply)["code"] == "INVALID_PARAMS"
    else:
        assert reply["error"]["code"] == INVALID_PARAMS
        assert reply["error"]["data"]["code"] == "INVALID_PARAMS"
    server.still_serves()


def test_arguments_that_can_be_mended_are_and_a_note_says_so(revision: str) -> None:
    result = Server(revision).call("add", {"number": "41"})["result"]
    assert result["content"][0]["text"] == '{"sum":42}'
    assert result["content"][1]["text"].startswith("note: ")
    assert len(Server(revision).call("add", {"number": 41})["result"]["content"]) == 1


@pytest.mark.parametrize("value", ["1e400", "-1e400", "9" * 4000, "1E+999999999"])
def test_numbers_that_no_double_holds_are_the_tools_affair(revision: str, value: str) -> None:
    server = Server(revision)
    message = server.request("tools/call", {"name": "echo", "arguments": {"value": "VALUE"}})
    line = json.dumps(message).replace('"VALUE"', value).encode() + b"\n"
    server.say(line)
    [reply] = server.replies()
    assert reply["result"]["content"][0]["text"] == value
    server.still_serves()


def test_a_tool_may_fail_and_may_refuse(revision: str) -> None:
    server = Server(revision)
    failed = server.call("fails")["result"]
    assert failed["isError"] is True and text_of(failed) == "WRONG_TYPE: the key holds a list"
    assert server.call("refuses")["error"] == {
        "code": -31000,
        "message": "not today",
        "data": {"tomorrow": True},
    }


# --- resources ---


@req("resource-not-found")
@pytest.mark.parametrize("uri", ["kv://nothing", "kv://keys/none", "file:///etc/passwd", "", "kv://keys/"])
def test_a_missing_resource_is_never_empty(revision: str, uri: str) -> None:
    error = Server(revision).error("resources/read", {"uri": uri})
    assert error["code"] == missing_resource(revision)
    assert error["data"] == {"uri": uri}


def test_a_resource_and_one_of_a_template(revision: str) -> None:
    server = Server(revision)
    assert server.result("resources/read", {"uri": "kv://config"})["contents"][0]["text"] == "on"
    read = server.result("resources/read", {"uri": "kv://keys/a"})
    assert read["contents"] == [{"uri": "kv://keys/a", "text": "1"}]


@pytest.mark.parametrize("params", [{}, {"uri": 7}])
def test_a_read_that_names_nothing(revision: str, params: Json) -> None:
    assert Server(revision).error("resources/read", params)["code"] == INVALID_PARAMS


@each_legacy
def test_subscribing_to_what_is_not_there(revision: str) -> None:
    server = Server(revision)
    assert server.error("resources/subscribe", {"uri": "kv://nothing"})["code"] == RESOURCE_NOT_FOUND
    assert server.result("resources/unsubscribe", {"uri": "kv://nothing"}) == {}
    assert server.result("resources/subscribe", {"uri": "kv://config"}) == {}


# --- prompts ---


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"name": "nothing"}, "unknown prompt: nothing"),
        ({"name": "greet"}, "prompt greet needs the arguments name"),
        ({"name": "greet", "arguments": {"tone": "x"}}, "prompt greet needs the arguments name"),
    ],
)
@req("prompts-unknown")
def test_a_prompt_that_cannot_be_made(revision: str, params: Json, problem: str) -> None:
    assert Server(revision).error("prompts/get", params) == {"code": INVALID_PARAMS, "message": problem}


def test_arguments_of_prompts_are_text(revision: str) -> None:
    params = {"name": "greet", "arguments": {"name": 7}}
    assert Server(revision).error("prompts/get", params)["code"] == INVALID_PARAMS


# --- completion ---


def completed(server: Server, ref: Json, name: str, value: str, **more: Json) -> Json:
    params = {"ref": ref, "argument": {"name": name, "value": value}, **more}
    return server.ask("completion/complete", params)


GREETING: Json = {"type": "ref/prompt", "name": "greet"}
KEY: Json = {"type": "ref/resource", "uri": "kv://keys/{key}"}


@req("completion-maximum")
def test_completions(revision: str) -> None:
    server = Server(revision)
    names = completed(server, GREETING, "name", "A")["result"]["completion"]
    assert names == {"values": ["Ada", "Alan"]}
    chosen = completed(server, GREETING, "name", "B", context={"arguments": {"tone": "Bea"}})
    assert chosen["result"]["completion"]["values"] == ["Bea"]
    few = completed(server, KEY, "key", "few")["result"]["completion"]
    assert few == {"values": ["one"], "total": 7, "hasMore": True}
    for value in ("k", "later"):
        many = completed(server, KEY, "key", value)["result"]["completion"]
        assert len(many["values"]) == 100 and many["total"] == 150 and many["hasMore"] is True


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ({"type": "ref/prompt", "name": "ask-first"}, "none"),
        ({"type": "ref/prompt", "name": "greet"}, "nothing"),
        ({"type": "ref/prompt", "name": "nothing"}, "name"),
        ({"type": "ref/resource", "uri": "kv://keys/{key}"}, "nothing"),
        ({"type": "ref/resource", "uri": "kv://nothing/{key}"}, "key"),
        ({"type": "ref/other", "name": "greet"}, "name"),
        ({"type": "ref/prompt"}, "name"),
    ],
)
def test_a_completion_of_what_is_not_there(revision: str, ref: Json, name: str) -> None:
    assert completed(Server(revision), ref, name, "")["error"]["code"] == INVALID_PARAMS


@pytest.mark.parametrize(
    ("ref", "name"),
    [
        ({"type": "ref/resource", "uri": "kv://plain/{key}"}, "key"),
        ({"type": "ref/resource", "uri": "kv://config"}, "x"),
    ],
)
def test_nothing_may_come_to_mind(revision: str, ref: Json, name: str) -> None:
    assert completed(Server(revision), ref, name, "a")["result"]["completion"] == {"values": []}


# --- what is offered ---


FEATURES = {
    "tools/list": "tools",
    "tools/call": "tools",
    "resources/list": "resources",
    "resources/templates/list": "resources",
    "resources/read": "resources",
    "prompts/list": "prompts",
    "prompts/get": "prompts",
    "completion/complete": "completions",
}
PARAMS: Json = {
    "name": "x",
    "uri": "kv://x",
    "ref": GREETING,
    "argument": {"name": "name", "value": ""},
}


@req("capabilities-declared", "error-method-not-found")
@pytest.mark.parametrize("method", FEATURES)
def test_what_is_not_offered_is_not_found(revision: str, method: str) -> None:
    assert Server(revision, catalog=Catalog()).error(method, PARAMS)["code"] == METHOD_NOT_FOUND


@each_legacy
def test_subscriptions_need_resources(revision: str) -> None:
    server = Server(revision, catalog=Catalog(ADD))
    for method in ("resources/subscribe", "resources/unsubscribe"):
        assert server.error(method, {"uri": "kv://x"})["code"] == METHOD_NOT_FOUND


@req("capabilities-declared")
def test_what_was_added_later_is_found(revision: str) -> None:
    catalog = Catalog(features=frozenset({"prompts"}))
    server = Server(revision, catalog=catalog)
    assert server.result("prompts/list")["prompts"] == []
    catalog.add(LONG)
    assert [prompt["name"] for prompt in server.result("prompts/list")["prompts"]] == ["long"]
    catalog.remove(LONG)
    assert server.result("prompts/list")["prompts"] == []
    assert server.error("prompts/get", {"name": "long"})["code"] == INVALID_PARAMS


def test_a_prompt_without_a_completer_has_no_suggestions() -> None:
    prompt = Prompt(name="plain", get=ASK_FIRST.get, arguments=GREET.arguments)
    server = Server("2025-11-25", catalog=Catalog(prompt, GREET))
    plain = completed(server, {"type": "ref/prompt", "name": "plain"}, "name", "A")
    assert plain["result"]["completion"] == {"values": []}


def test_a_tool_that_is_called_after_it_was_removed() -> None:
    tool = Tool(name="it", arguments=arguments(Nothing), plan=ADD.plan)
    catalog = Catalog(tool, ADD)
    server = Server("2025-11-25", catalog=catalog)
    catalog.remove(tool)
    assert server.error("tools/call", call("it"))["code"] == INVALID_PARAMS
