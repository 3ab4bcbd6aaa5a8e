"""Coroutine functions as tools, resources, templates, prompts: what clients are told of them, and what they get."""

import base64
from typing import Annotated, Any

import pytest
from msgspec import Meta, Raw, Struct

from kvmcp import Completing, Server, Work, filled, form, said, sample, start_work
from kvmcp.core import (
    AskClient,
    CompletionResult,
    Context,
    ElicitResult,
    Plan,
    PromptMessage,
    PromptResult,
    ReadResult,
    ResourceContents,
    SampleResult,
    StructArguments,
    TextContent,
    Tool,
)
from kvmcp.io.work import ToolFailed
from tests.io.support import MODERN_META, MemoryTransport, NoArguments, call, serving

pytestmark = pytest.mark.anyio


class Sum(Struct, forbid_unknown_fields=True):
    a: int
    b: Annotated[int, Meta(description="What is added")] = 1


class Row(Struct):
    table: str
    id: int


class Trip(Struct):
    city: Annotated[str, Meta(description="Where to")]
    days: int = 3


class Person(Struct):
    name: str
    age: int | None = None


def request(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": MODERN_META}}


async def ask(server: Server, method: str, **params: Any) -> dict[str, Any]:
    """The whole answer to one modern request."""
    async with serving(server, MemoryTransport(piece=4096, most=65536)) as client:
        client.say(request(method, **params))
        return await client.hear()


# --- tools ---


async def test_a_tool_without_arguments_takes_its_work_only() -> None:
    server = Server()

    @server.tool()
    async def version(work: Work) -> str:
        """Tells the protocol version."""
        return work.context.protocol_version

    [tool] = (await ask(server, "tools/list"))["result"]["tools"]
    assert tool["inputSchema"] == {"type": "object", "properties": {}, "additionalProperties": False}
    answer = await ask(server, "tools/call", name="version")
    assert answer["result"]["content"] == [{"type": "text", "text": "2026-07-28"}]
    refused = await ask(server, "tools/call", name="version", arguments={"x": 1})
    assert refused["result"]["isError"] is True


async def test_a_method_may_be_a_tool() -> None:
    class Counter:
        def __init__(self) -> None:
            self.count = 0

        async def add(self, arguments: Sum, work: Work) -> dict[str, object]:
            self.count += arguments.a
            return {"count": self.count}

    server, counter = Server(), Counter()
    server.tool(description="Counts.")(counter.add)
    for expected in (2, 4):
        answer = await ask(server, "tools/call", name="add", arguments={"a": 2})
        assert answer["result"]["structuredContent"] == {"count": expected}


async def test_a_schema_of_its_own_is_passed_on_and_its_arguments_are_a_dict() -> None:
    server = Server()
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "anyOf": [{"required": ["a"]}]}

    @server.tool(schema=schema)
    async def echo(arguments: dict[str, object], work: Work) -> dict[str, object]:
        return arguments

    [tool] = (await ask(server, "tools/list"))["result"]["tools"]
    assert tool["inputSchema"] == schema
    answer = await ask(server, "tools/call", name="echo", arguments={"a": 1, "b": [None]})
    assert answer["result"]["structuredContent"] == {"a": 1, "b": [None]}


# --- resources ---


@pytest.mark.parametrize(
    ("value", "contents"),
    [
        ("text", {"mimeType": "text/plain", "text": "text"}),
        (
            b"\x00\xff",
            {"mimeType": "application/octet-stream", "blob": base64.b64encode(b"\x00\xff").decode()},
        ),
        ({"a": 1}, {"mimeType": "application/json", "text": '{"a":1}'}),
        (Sum(1, 2), {"mimeType": "application/json", "text": '{"a":1,"b":2}'}),
        (ReadResult((ResourceContents("kv://a", text="as it is"),)), {"text": "as it is"}),
    ],
)
async def test_what_a_resource_may_return(value: Any, contents: dict[str, str]) -> None:
    server = Server()

    @server.resource("kv://a", title="A")
    async def a(work: Work) -> Any:
        """The letter."""
        return value

    [listed] = (await ask(server, "resources/list"))["result"]["resources"]
    assert listed == {"uri": "kv://a", "name": "a", "title": "A", "description": "The letter."}
    answer = await ask(server, "resources/read", uri="kv://a")
    assert answer["result"]["contents"] == [{"uri": "kv://a", **contents}]


async def test_a_resource_that_is_not_there() -> None:
    server = Server()

    @server.resource("kv://a", mime_type="text/plain")
    async def a(work: Work) -> str | None:
        return None

    error = (await ask(server, "resources/read", uri="kv://a"))["error"]
    assert (error["code"], error["data"]) == (-32602, {"uri": "kv://a"})


def a_template() -> Server:
    server = Server()

    async def tables(asked: Completing, work: Work) -> list[str]:
        return [f"{asked.value}{asked.name}", *asked.chosen.values()]

    @server.template("kv://{table}/{id}", complete=tables, mime_type="application/json")
    async def row(variables: Row, work: Work) -> dict[str, object] | None:
        """One row."""
        return {"id": variables.id} if variables.table == "users" else None

    return server


async def test_a_template_reads_its_variables_as_their_types() -> None:
    server = a_template()
    [listed] = (await ask(server, "resources/templates/list"))["result"]["resourceTemplates"]
    assert (listed["uriTemplate"], listed["name"], listed["description"]) == (
        "kv://{table}/{id}",
        "row",
        "One row.",
    )
    answer = await ask(server, "resources/read", uri="kv://users/7")
    assert answer["result"]["contents"][0]["text"] == '{"id":7}'


@pytest.mark.parametrize("uri", ["kv://users/seven", "kv://none/7"])
async def test_values_that_do_not_fit_name_no_resource(uri: str) -> None:
    error = (await ask(a_template(), "resources/read", uri=uri))["error"]
    assert (error["code"], error["data"]) == (-32602, {"uri": uri})


async def test_a_template_completes() -> None:
    reference = {"type": "ref/resource", "uri": "kv://{table}/{id}"}
    argument = {"name": "table", "value": "us"}
    chosen = {"arguments": {"id": "7"}}
    answer = await ask(a_template(), "completion/complete", ref=reference, argument=argument, context=chosen)
    assert answer["result"]["completion"]["values"] == ["ustable", "7"]


def test_the_variables_must_be_the_templates() -> None:
    server = Server()
    with pytest.raises(TypeError, match=r"template kv://\{other\}: Row must have the fields other"):

        @server.template("kv://{other}")
        async def row(variables: Row, work: Work) -> str:
            return ""


# --- prompts ---


def a_prompt() -> Server:
    server = Server()

    async def cities(asked: Completing, work: Work) -> CompletionResult:
        return CompletionResult(("Rome",), total=1)

    @server.prompt(title="Plan a trip", complete=cities)
    async def trip(arguments: Trip, work: Work) -> str:
        """Plans."""
        return f"{arguments.days + 1} days in {arguments.city}"

    @server.prompt()
    async def messages(work: Work) -> list[PromptMessage]:
        return [PromptMessage("assistant", TextContent("Yes?"))]

    @server.prompt(name="whole", description="Whole.")
    async def result(work: Work) -> PromptResult:
        return PromptResult((), description="nothing to say")

    return server


async def test_prompts_say_what_they_take() -> None:
    trip, messages, whole = (await ask(a_prompt(), "prompts/list"))["result"]["prompts"]
    assert trip == {
        "name": "trip",
        "title": "Plan a trip",
        "description": "Plans.",
        "arguments": [
            {"name": "city", "description": "Where to", "required": True},
            {"name": "days", "required": False},
        ],
    }
    assert "description" not in messages
    assert (whole["name"], whole["description"], whole.get("arguments", [])) == ("whole", "Whole.", [])


async def test_a_prompt_reads_its_arguments_as_their_types() -> None:
    server = a_prompt()
    answer = await ask(server, "prompts/get", name="trip", arguments={"city": "Rome", "days": "6"})
    [message] = answer["result"]["messages"]
    assert message == {"role": "user", "content": {"type": "text", "text": "7 days in Rome"}}
    wrong = await ask(server, "prompts/get", name="trip", arguments={"city": "Rome", "days": "six"})
    assert wrong["error"]["code"] == -32602
    assert "days" in wrong["error"]["message"] and "six" not in wrong["error"]["message"]


async def test_what_a_prompt_may_return() -> None:
    server = a_prompt()
    [message] = (await ask(server, "prompts/get", name="messages"))["result"]["messages"]
    assert message["role"] == "assistant"
    whole = (await ask(server, "prompts/get", name="whole"))["result"]
    assert (whole["messages"], whole["description"]) == ([], "nothing to say")


async def test_a_prompt_completes() -> None:
    reference, argument = {"type": "ref/prompt", "name": "trip"}, {"name": "city", "value": "R"}
    answer = await ask(a_prompt(), "completion/complete", ref=reference, argument=argument)
    assert answer["result"]["completion"] == {"values": ["Rome"], "total": 1}


# --- plans that begin a function ---


class Rename(Struct, frozen=True, tag=True):
    def resume(self, answers: Any, context: Context) -> Plan:
        person = filled(answers["who"], Person)
        return start_work(_greet, "nobody" if person is None else person.name, context)


async def _greet(name: str, work: Work) -> str:
    return f"Hello, {name}"


def _ask_who(arguments: NoArguments, context: Context) -> Plan:
    return AskClient({"who": form("Who are you?", Person)}, Rename())


async def test_a_plan_may_ask_first_and_then_begin_a_function() -> None:
    server = Server()
    server.add(
        Tool(name="hi", arguments=StructArguments(NoArguments), plan=_ask_who, continuations=(Rename,))
    )
    meta = {**MODERN_META, "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}
    async with serving(server, MemoryTransport(piece=4096, most=65536)) as client:
        client.say(call(1, "hi", meta))
        asked = (await client.hear())["result"]
        assert asked["resultType"] == "input_required"
        again = call(2, "hi", meta)
        again["params"]["requestState"] = asked["requestState"]
        again["params"]["inputResponses"] = {"who": {"action": "accept", "content": {"name": "Ada"}}}
        client.say(again)
        assert (await client.hear())["result"]["content"][0]["text"] == "Hello, Ada"


# --- questions ---


def test_a_form_is_a_flat_schema() -> None:
    assert form("Who?", Person).schema == (
        b'{"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer"}},"required":["name"]}'
    )
    assert form("Who?", {"type": "object", "properties": {}}).schema == b'{"type":"object","properties":{}}'


def test_a_form_is_read_as_it_was_filled_in() -> None:
    assert filled(ElicitResult("accept", Raw(b'{"name":"Ada"}')), Person) == Person("Ada")
    for answer in (ElicitResult("decline"), ElicitResult("cancel"), None):
        assert filled(answer, Person) is None
    for content in (Raw(b'{"name":5}'), Raw(b"[]")):
        with pytest.raises(ToolFailed, match="INVALID_INPUT"):
            filled(ElicitResult("accept", content), Person)
    with pytest.raises(ToolFailed, match="INVALID_INPUT"):
        filled(ElicitResult("accept"), Person)


def test_a_model_is_asked_and_its_text_read() -> None:
    asked = sample("Why?", 50, temperature=0.5)
    assert asked.params == (
        b'{"messages":[{"role":"user","content":{"type":"text","text":"Why?"}}],"maxTokens":50,"temperature":0.5}'
    )
    assert not asked.tools and sample("Why?", 50, tools=[]).tools
    for content in (
        b'{"type":"text","text":"so"}',
        b'[{"type":"text","text":"s"},{"type":"text","text":"o"}]',
    ):
        assert said(SampleResult("assistant", Raw(content), "m")) == "so"
    assert said(None) is None
