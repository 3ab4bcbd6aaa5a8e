"""Where `x-mcp-header` may stand, and what it is read as."""

import json

import pytest

from kvmcp.core.catalog import Catalog
from kvmcp.core.errors import LocalProtocolError
from kvmcp.core.items import Tool
from kvmcp.core.mirrors import Mirror, read_mirrors
from kvmcp.core.plan import Context, Plan, tool_error
from tests.core.fixture_catalog import JsonArguments, Nothing
from tests.core.harness import Json


def schema(**properties: Json) -> bytes:
    return json.dumps({"type": "object", "properties": properties}).encode()


def named(name: Json, kind: Json = "string", **more: Json) -> Json:
    return {"type": kind, "x-mcp-header": name, **more}


def test_a_schema_without_annotations_has_no_mirrors() -> None:
    assert read_mirrors(schema(a={"type": "string"})) == ()
    assert read_mirrors(schema(a={"type": "string", "description": "x-mcp, \u00e9"})) == ()


def test_annotations_are_found_where_properties_lead() -> None:
    inner = {"type": "object", "properties": {"zone": named("Zone", "boolean")}}
    found = read_mirrors(schema(region=named("Region"), count=named("Count", "integer"), place=inner))
    assert found == (
        Mirror(b"mcp-param-region", ("region",)),
        Mirror(b"mcp-param-count", ("count",)),
        Mirror(b"mcp-param-zone", ("place", "zone")),
    )


def test_an_annotation_that_is_written_with_escapes_is_one() -> None:
    text = schema(a=named("A")).replace(b"x-mcp", b"\\u0078-mcp")
    assert read_mirrors(text) == (Mirror(b"mcp-param-a", ("a",)),)


def test_data_and_names_are_no_annotations() -> None:
    data = {"x-mcp-header": "No"}
    node = {"type": "object", "default": data, "enum": [data], "const": data, "examples": [data]}
    assert read_mirrors(schema(**{"a": node, "x-mcp-header": {"type": "string"}})) == ()
    assert read_mirrors(b'{"$defs":{"x-mcp-header":{"type":"string"},"b":{}}}') == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (schema(a=named("")), "no header name"),
        (schema(a=named("two words")), "no header name"),
        (schema(a=named("line\n")), "no header name"),
        (schema(a=named(5)), "no header name"),
        (schema(a=named("A", "number")), "must be"),
        (schema(a=named("A", ["string", "null"])), "must be"),
        (schema(a=named("A"), b=named("a")), "stands twice"),
        (schema(a={"type": "array", "items": named("A")}), "is not at a property"),
        (schema(a={"anyOf": [named("A")]}), "is not at a property"),
        (schema(a={"items": {"type": "object", "properties": {"b": named("B")}}}), "is not at a property"),
        (b'{"type":"object","x-mcp-header":"Root"}', "is not at a property"),
        (b'{"type":"object","$defs":{"d":{"type":"string","x-mcp-header":"D"}}}', "is not at a property"),
        (
            b'{"$defs":{"d":{"properties":{"p":{"type":"string","x-mcp-header":"D"}}}}}',
            "is not at a property",
        ),
    ],
)
def test_what_clients_would_refuse_is_refused_when_it_is_written(text: bytes, problem: str) -> None:
    with pytest.raises(LocalProtocolError, match=problem):
        read_mirrors(text)


def test_a_schema_of_odd_shape_is_walked_anyway() -> None:
    assert read_mirrors(b'{"properties":{"a":"x-mcp"},"$defs":7,"allOf":[1]}') == ()


def _plan(given: object, context: Context) -> Plan:
    return tool_error("NO", "no")


def a_tool(text: bytes) -> Tool:
    return Tool(name="t", arguments=JsonArguments(Nothing, text), plan=_plan)


def test_a_catalog_knows_the_mirrors_of_its_tools() -> None:
    catalog, tool = Catalog(), a_tool(schema(a=named("A")))
    assert (catalog.has_mirrors, catalog.mirrors("t")) == (False, ())
    catalog.add(tool)
    assert (catalog.has_mirrors, catalog.mirrors("t")) == (True, (Mirror(b"mcp-param-a", ("a",)),))
    catalog.remove(tool)
    assert (catalog.has_mirrors, catalog.mirrors("t")) == (False, ())


def test_a_catalog_refuses_a_tool_that_clients_would_drop() -> None:
    catalog = Catalog()
    with pytest.raises(LocalProtocolError):
        catalog.add(a_tool(schema(a=named(""))))
    assert catalog.tool("t") is None
