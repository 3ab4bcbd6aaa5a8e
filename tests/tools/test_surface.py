"""Which tools are offered, what is asked first, what a model is told, and what hosts are shown."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from kvmcp.core.items import Tool
from kvmcp.core.projection import definition
from kvmcp.tools.instructions import MAX_INSTRUCTIONS, instructions
from kvmcp.tools.surface import TOOL_SETS, Selection, UnknownName, build_tools, exported_schemas, select
from tests.core.harness import call
from tests.tools.agent import Agent
from tests.tools.support import environment, redis_tools

pytestmark = pytest.mark.anyio

ERAS = ("2025-11-25", "2026-07-28")
KV = "community.database.simple_kv."
DEFAULT = [
    "redis_get", "redis_set", "redis_del", "redis_exists", "redis_keys", "redis_ttl", "redis_expire",
    "redis_lpush", "redis_rpush", "redis_lpop", "redis_hset", "redis_hget", "redis_hgetall",
    "redis_session_create", "redis_session_get", "redis_session_update", "redis_session_delete",
    "redis_publish", "redis_subscribe", "redis_multi",
]  # fmt: skip
GOLDEN = Path(__file__).parent / "goldens" / "tools.json"
MAX_LIST_CHARS = 36_000
"""The default list, which a host may put in front of a model as it is: less than 9,000 tokens."""
MAX_DESCRIPTION = 600


@pytest.fixture
def anyio_backend() -> str:
    """As in test_every_tool."""
    return "asyncio"


def listed(selection: Selection) -> list[str]:
    return [each.row.name for each in select(selection) if each.listed]


def callable_(selection: Selection) -> list[str]:
    return [each.row.name for each in select(selection)]


# --- selecting ---


def test_the_default_set_is_listed_in_order_and_simple_kv_can_be_called() -> None:
    assert listed(Selection()) == DEFAULT
    assert callable_(Selection()) == [*DEFAULT, KV + "set", KV + "get", KV + "delete"]


def test_simple_kv_is_listed_when_it_is_asked_for() -> None:
    assert listed(Selection(("simple_kv",))) == [KV + "set", KV + "get", KV + "delete"]
    assert listed(Selection(allow=(KV + "get",))) == [KV + "get"]


def test_allow_names_exactly_what_is_offered() -> None:
    selection = Selection(allow=("redis_set", "redis_get"))
    assert listed(selection) == callable_(selection) == ["redis_get", "redis_set"]


def test_deny_takes_away_whatever_was_allowed() -> None:
    assert "redis_del" not in callable_(Selection(deny=("redis_del",)))
    assert callable_(Selection(allow=("redis_get", "redis_del"), deny=("redis_del",))) == ["redis_get"]


def test_read_only_takes_away_all_that_can_change_something() -> None:
    assert callable_(Selection(read_only=True)) == [
        "redis_get", "redis_exists", "redis_keys", "redis_ttl", "redis_hget", "redis_hgetall",
        "redis_session_get", "redis_subscribe", KV + "get",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (Selection(("redsi",)), "unknown set of tools 'redsi' (did you mean redis?)"),
        (Selection(allow=("redis_gte",)), "unknown tool 'redis_gte' (did you mean redis_get?)"),
        (Selection(deny=("xyzzy",)), "unknown tool 'xyzzy' (there are: redis_get, "),
    ],
)
def test_a_name_that_nothing_has_is_refused(selection: Selection, message: str) -> None:
    with pytest.raises(UnknownName) as refused:
        build_tools(selection, environment())
    assert str(refused.value).startswith(message)


async def test_what_is_not_offered_cannot_be_called_also_not_inside_of_several() -> None:
    agent = Agent(ERAS[0], selection=Selection(deny=("redis_del",)))
    assert agent.error("tools/call", call("redis_del", {"keys": ["a"]}))["code"] == -32602
    operations = [{"tool": "redis_del", "arguments": {"keys": ["a"]}}]
    error = (await agent.does("redis_multi", operations=operations))["error"]
    assert error["code"] == "INVALID_PARAMS" and "redis_del," not in error["message"]


# --- asking first ---

ACCEPTED = {"action": "accept", "content": {"confirm": True}}
TWO = {"keys": ["a", "b"]}
DELETIONS: list[tuple[str, dict[str, Any]]] = [
    ("redis_del", TWO),
    (
        "redis_multi",
        {
            "operations": [
                {"tool": "redis_del", "arguments": {"keys": ["a"]}},
                {"tool": "redis_del", "arguments": {"keys": ["b"]}},
            ]
        },
    ),
]


async def careful(era: str, capabilities: Any = None) -> Agent:
    agent = Agent(era, environment_=environment(confirm_destructive=True), capabilities=capabilities)
    for name in "ab":
        await agent.does("redis_set", key=name, value=name)
    return agent


async def left(agent: Agent) -> int:
    return int((await agent.does("redis_exists", TWO))["count"])


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize(("tool", "arguments"), DELETIONS)
async def test_without_forms_the_model_confirms(tool: str, arguments: dict[str, Any], era: str) -> None:
    agent = await careful(era)
    refused = (await agent.does(tool, arguments))["error"]
    assert refused["code"] == "CONFIRMATION_REQUIRED" and "confirm: true" in refused["message"]
    assert await left(agent) == 2
    assert "error" not in await agent.does(tool, arguments, dry_run=True)
    assert "error" not in await agent.does(tool, arguments, confirm=True)
    assert await left(agent) == 0


async def test_a_single_key_needs_no_confirmation() -> None:
    agent = await careful(ERAS[0])
    assert await agent.does("redis_del", keys=["a", "a"]) == {"deleted": 1}


ANSWERS = [
    (ACCEPTED, 0),
    ({"action": "accept", "content": {"confirm": False}}, 2),
    ({"action": "accept", "content": {"confirm": "yes"}}, 2),
    ({"action": "accept"}, 2),
    ({"action": "decline"}, 2),
    ({"action": "cancel"}, 2),
]


@pytest.mark.parametrize(("answer", "remain"), ANSWERS)
@pytest.mark.parametrize(("tool", "arguments"), DELETIONS)
async def test_a_person_is_asked_by_request(
    tool: str, arguments: dict[str, Any], answer: Any, remain: int
) -> None:
    agent = await careful(ERAS[0], {"elicitation": {}})
    agent.start(
        tool, {**arguments, "confirm": True}
    )  # The model's word does not count where a person can be asked.
    [question] = agent.replies()
    assert question["method"] == "elicitation/create"
    assert question["params"]["message"] == 'Remove 2 keys for good: "a", "b"?'
    agent.respond(question["id"], answer)
    await agent.run_batches()
    [reply] = agent.replies()
    said = agent.checked(tool, reply)
    assert ("error" in said) is (remain > 0)
    assert await left(agent) == remain


@pytest.mark.parametrize(("answer", "remain"), ANSWERS)
@pytest.mark.parametrize(("tool", "arguments"), DELETIONS)
async def test_a_person_is_asked_in_rounds(
    tool: str, arguments: dict[str, Any], answer: Any, remain: int
) -> None:
    agent = await careful(ERAS[1], {"elicitation": {}})
    asked = agent.result("tools/call", call(tool, arguments))
    assert asked["resultType"] == "input_required" and list(asked["inputRequests"]) == ["confirm"]
    again = call(tool, arguments, inputResponses={"confirm": answer}, requestState=asked["requestState"])
    said = agent.checked(tool, await agent.hears(agent.request("tools/call", again)))
    assert ("error" in said) is (remain > 0)
    assert await left(agent) == remain


async def test_what_is_too_long_to_be_asked_is_refused() -> None:
    agent = await careful(ERAS[1], {"elicitation": {}})
    error = (await agent.does("redis_del", keys=[f"{number:0400}" for number in range(100)]))["error"]
    assert error["code"] == "TOO_LARGE" and "split" in error["message"]


# --- what a model is told ---

SETS = [sets for size in (1, 2) for sets in combinations(TOOL_SETS, size)]


@pytest.mark.parametrize("sets", SETS, ids=",".join)
@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_instructions_name_only_what_is_offered(sets: tuple[str, ...], read_only: bool, shared: bool) -> None:
    chosen = select(Selection(sets, read_only=read_only))
    names = {each.row.name for each in chosen}
    said = instructions(names, shared=shared)
    assert len(said.encode()) <= MAX_INSTRUCTIONS
    others = {row.name for rows in TOOL_SETS.values() for row in rows} - names
    assert not {name for name in others if name in said.replace(".", " ").replace(",", " ").split()}
    assert ("dry_run" in said) is (not read_only and "redis_set" in names)
    assert said.startswith("A key-value store that is shared") is shared


# --- what hosts are shown ---


def every_tool() -> list[Tool]:
    return redis_tools(tuple(TOOL_SETS))


def keywords(node: object) -> set[str]:
    """All keywords of a schema; names of properties are none."""
    if isinstance(node, list):
        return set().union(*map(keywords, node))
    if not isinstance(node, dict):
        return set()
    found = set(node)
    for name, child in node.items():
        found |= set().union(*map(keywords, child.values())) if name == "properties" else keywords(child)
    return found


def types(node: object) -> list[object]:
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    own = [node["type"]] if isinstance(node, dict) and isinstance(node.get("type"), str | list) else []
    return own + [found for child in children for found in types(child)]


@pytest.mark.parametrize("tool", every_tool(), ids=lambda tool: tool.name)
def test_every_host_can_read_a_definition(tool: Tool) -> None:
    assert tool.output_schema is not None
    for raw in (tool.arguments.schema, tool.output_schema):
        schema = json.loads(raw)
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["type"] == "object" and b"\n" not in raw
        assert keywords(schema).isdisjoint({"$ref", "$defs", "anyOf", "oneOf", "allOf", "title"})
        assert all(isinstance(found, str) for found in types(schema))
    arguments = json.loads(tool.arguments.schema)
    assert arguments["additionalProperties"] is False
    assert all("description" in node for node in arguments["properties"].values())
    hints = tool.annotations
    assert hints and all(
        isinstance(hint, bool)
        for hint in (hints.read_only_hint, hints.destructive_hint, hints.idempotent_hint)
    )
    assert ("dry_run" in arguments["properties"]) is (hints.read_only_hint is False)
    assert hints.open_world_hint is False
    assert isinstance(tool.description, str) and tool.title
    assert len(tool.description) <= MAX_DESCRIPTION and "Example: {" in tool.description


@pytest.mark.parametrize("tool", every_tool(), ids=lambda tool: tool.name)
def test_the_example_of_a_description_is_one(tool: Tool) -> None:
    example = str(tool.description).rpartition("Example: ")[2].removesuffix(".")
    jsonschema.validate(json.loads(example), json.loads(tool.arguments.schema))
    tool.arguments.decode(example.encode())


SIGNATURES = {
    "redis_get": (["key"], ["detail"]),
    "redis_set": (["key", "value"], ["ttl", "if_match", "if_absent", "dry_run"]),
    "redis_del": (["keys"], ["dry_run"]),
    "redis_exists": (["keys"], []),
    "redis_keys": ([], ["pattern", "count", "cursor", "detail"]),
    "redis_ttl": (["key"], []),
    "redis_expire": (["key", "ttl"], ["dry_run"]),
    "redis_lpush": (["key", "values"], ["dry_run"]),
    "redis_rpush": (["key", "values"], ["dry_run"]),
    "redis_lpop": (["key"], ["count", "dry_run"]),
    "redis_hset": (["key", "field", "value"], ["dry_run"]),
    "redis_hget": (["key", "field"], []),
    "redis_hgetall": (["key"], ["detail"]),
    "redis_session_create": ([], ["session_id", "data", "ttl", "dry_run"]),
    "redis_session_get": (["session_id"], ["detail"]),
    "redis_session_update": (["session_id", "data"], ["extend_ttl", "dry_run"]),
    "redis_session_delete": (["session_id"], ["dry_run"]),
    "redis_publish": (["channel", "message"], ["dry_run"]),
    "redis_subscribe": (["channels"], ["timeout", "max_messages", "cursor"]),
    "redis_multi": (["operations"], ["dry_run"]),
    KV + "set": (["key", "value"], ["dry_run"]),
    KV + "get": (["key"], []),
    KV + "delete": (["key"], ["dry_run"]),
}


def test_names_and_arguments_are_the_contract() -> None:
    found: dict[str, tuple[list[str], list[str]]] = {}
    for tool in redis_tools(("redis", "simple_kv")):
        schema = json.loads(tool.arguments.schema)
        required = schema.get("required", [])
        found[tool.name] = (required, [name for name in schema["properties"] if name not in required])
    assert found == SIGNATURES


def test_the_default_list_is_the_golden_one_and_small() -> None:
    """After a wanted change: `PYTHONPATH=src:. python -m tests.tools.test_surface`."""
    shown = golden()
    print(
        f"the default list has {len(shown)} tools and {(size := len(msgspec.json.encode(shown)))} characters"
    )
    assert size <= MAX_LIST_CHARS
    assert shown == json.loads(GOLDEN.read_bytes())


def golden() -> Any:
    """What `tools/list` shows by default, in the newest revision."""
    return msgspec.to_builtins(
        [json.loads(msgspec.json.encode(definition(tool, ERAS[1]))) for tool in redis_tools()]
    )


def test_schemas_are_exported_under_the_names_of_the_tools() -> None:
    files = exported_schemas(every_tool())
    assert len(files) == 2 * len(every_tool()) == len(dict(files))
    assert json.loads(dict(files)["redis_get.input.schema.json"])["required"] == ["key"]
    assert "etag" in json.loads(dict(files)["redis_set.output.schema.json"])["properties"]


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(golden(), indent=1, ensure_ascii=False) + "\n")
