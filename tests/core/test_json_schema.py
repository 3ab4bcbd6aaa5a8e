"""`kvmcp.core.json_schema`: flat schemas out of structs, and words for what they allow."""

import enum
import json
from typing import Annotated, Any, Literal

import pytest
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from kvmcp.core.errors import LocalProtocolError
from kvmcp.core.json_schema import describe, example, flat_schema, nullable_members, output_schema, plain_type


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Part(Struct, forbid_unknown_fields=True):
    """A part."""

    title: Annotated[str, Meta(title="Title", description="Its name.")]
    colour: Colour = Colour.RED


class Whole(Struct, forbid_unknown_fields=True):
    """For programmers."""

    part: Part
    named: Annotated[Part, Meta(description="Another part.")]
    parts: Annotated[tuple[Part, ...], Meta(min_length=1, description="Many.")]
    by_name: dict[str, Part] = field(name="byName")
    anything: Raw
    labels: dict[str, Raw] = {}
    limit: Annotated[int, Meta(ge=1, le=9, description="At most.")] | None = None
    later: Annotated[int, Meta(ge=1)] | UnsetType = UNSET
    mode: Literal["a", "b"] = "a"
    level: Literal[1, 2] | None = None
    mixed: Literal["a", 1] = "a"


def keywords(node: object) -> set[str]:
    """All keywords of a schema, names of properties left out."""
    if isinstance(node, list):
        return set().union(*map(keywords, node))
    if not isinstance(node, dict):
        return set()
    found = set(node)
    for key, child in node.items():
        found |= set().union(*map(keywords, child.values())) if key == "properties" else keywords(child)
    return found


PART = {
    "description": "A part.",
    "type": "object",
    "properties": {
        "title": {"description": "Its name.", "type": "string"},
        "colour": {"enum": ["blue", "red"], "default": "red", "type": "string"},
    },
    "required": ["title"],
    "additionalProperties": False,
}


def test_everything_is_in_its_place() -> None:
    schema = flat_schema(Whole, null_is_absent=True)
    assert keywords(schema).isdisjoint({"$ref", "$defs", "anyOf", "title"})
    assert schema == {
        "type": "object",
        "properties": {
            "part": PART,
            "named": {**PART, "description": "Another part."},
            "parts": {"type": "array", "items": PART, "minItems": 1, "description": "Many."},
            "byName": {"type": "object", "additionalProperties": PART},
            "anything": {},
            "labels": {"type": "object", "additionalProperties": {}, "default": {}},
            "limit": {"type": "integer", "minimum": 1, "maximum": 9, "description": "At most."},
            "later": {"type": "integer", "minimum": 1},
            "mode": {"enum": ["a", "b"], "default": "a", "type": "string"},
            "level": {"enum": [1, 2], "type": "integer"},
            "mixed": {"enum": [1, "a"], "default": "a"},
        },
        "required": ["part", "named", "parts", "byName", "anything"],
        "additionalProperties": False,
    }


def test_nullable_members_have_no_type_in_results() -> None:
    class Result(Struct):
        left: Annotated[int, Meta(description="Seconds.", ge=0)] | None
        mode: Literal["a", "b"] | None
        note: str | None = None

    assert json.loads(output_schema(Result)) == {
        "type": "object",
        "properties": {
            "left": {"description": "Seconds.", "minimum": 0},
            "mode": {"enum": ["a", "b", None]},
            "note": {},
        },
        "required": ["left", "mode"],
    }
    assert nullable_members(Result) == {"left", "mode", "note"}


def test_a_nullable_part_has_no_type_in_results() -> None:
    class Result(Struct):
        colour: Colour | None

    schema = json.loads(output_schema(Result))
    assert schema["properties"] == {"colour": {"enum": ["blue", "red", None]}}


def test_an_output_schema_can_fit_failures_too() -> None:
    class Result(Struct):
        found: bool

    class Why(Struct):
        code: str

    assert json.loads(output_schema(Result, Why)) == {
        "type": "object",
        "properties": {
            "found": {"type": "boolean"},
            "error": {
                "description": "Only when the tool failed: why.",
                "type": "object",
                "properties": {"code": {"type": "string"}},
                "required": ["code"],
            },
        },
    }


class Recursive(Struct):
    children: "list[Recursive]"


class Unions(Struct):
    both: int | str


class Three(Struct):
    both: int | str | None


class Mixed(Struct):
    pair: tuple[int, str]


class Positional(Struct, array_like=True):
    first: int


class Nowhere(Struct, array_like=True):
    pass


class Undescribable(Struct):
    raw: Raw = Raw()


class Keyed(Struct):
    by_name: dict[Annotated[str, Meta(max_length=3)], int]


@pytest.mark.parametrize(
    "struct_type", [Recursive, Unions, Three, Mixed, Positional, Nowhere, Undescribable, Keyed]
)
def test_what_cannot_be_written_flat_is_refused(struct_type: type[Struct]) -> None:
    with pytest.raises(LocalProtocolError, match=struct_type.__name__):
        flat_schema(struct_type, null_is_absent=True)


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({"type": "integer"}, "an integer"),
        ({"type": "integer", "minimum": 1, "maximum": 9}, "an integer from 1 to 9"),
        ({"type": "integer", "minimum": 1}, "an integer of at least 1"),
        ({"type": "number", "maximum": 1.5}, "a number of at most 1.5"),
        ({"type": "string", "minLength": 1, "maxLength": 5}, "a string of 1 to 5 characters"),
        ({"type": "string", "pattern": "^a"}, "a string that matches ^a"),
        ({"type": "string", "format": "date"}, "a string (date)"),
        ({"type": "string", "enum": ["a", "b"]}, 'one of "a", "b"'),
        ({"type": "string", "enum": "a"}, "a string"),
        ({"type": "array"}, "an array"),
        (
            {"type": "array", "maxItems": 3, "items": {"type": "string", "minLength": 1}},
            "an array of at most 3 items (each a string of at least 1 characters)",
        ),
        ({"type": "boolean"}, "true or false"),
        ({"type": "object"}, "an object"),
        ({"type": ["integer", "null"]}, None),
        ({"type": "unheard-of"}, None),
        ({}, None),
        (True, None),
    ],
)
def test_describe(node: object, expected: str | None) -> None:
    assert describe(node) == expected


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({"type": "array", "examples": [["x"]]}, '["x"]'),
        ({"type": "array", "items": {"type": "string"}, "examples": []}, '["a", "b"]'),
        ({"type": "array", "items": {}}, "[…]"),
        ({"type": "object"}, '{"name": …}'),
        ({"type": "string"}, None),
        (None, None),
    ],
)
def test_example(node: Any, expected: str | None) -> None:
    assert example(node) == expected


def test_plain_type() -> None:
    assert plain_type({"type": "array"}) == "array"
    assert plain_type([]) is None
