"""JSON Schemas that every host takes, out of msgspec structs; and words for what a schema allows.

Hosts and models' APIs differ in what they understand. What all of them take is flat: a root of `type: object`
without `$ref`, `$defs`, `anyOf`, type arrays and generated titles. A struct that needs more is our own
mistake and raises.
"""

from typing import Any, Final, TypeAlias, cast

import msgspec
from msgspec import Raw, Struct

from kvmcp.core.errors import LocalProtocolError
from kvmcp.core.json_text import Kind

Schema: TypeAlias = dict[str, Any]
"""A JSON Schema as Python values. Stays inside the core: `bytes` is what others get."""

_UNPORTABLE: Final = ("oneOf", "allOf", "prefixItems", "propertyNames")
_TYPE_OF: Final[dict[type, str]] = {str: "string", int: "integer", bool: "boolean", float: "number"}

_encode = msgspec.json.Encoder().encode


def output_schema(struct_type: type[Struct], error_type: type[Struct] | None = None) -> bytes:
    """The schema of a tool's structured results, flat; a nullable member is written without `type`.

    With `error_type` the schema also fits `{"error": …}`, the structured result of a failure, at the price of
    `required`: clients in use (TypeScript SDK 1.x) hold results with `isError` against this schema, too, and
    hide a failure that does not fit. Raises LocalProtocolError where the struct cannot be written flat.
    """
    schema = flat_schema(struct_type, null_is_absent=False)
    if error_type is not None:
        failure = flat_schema(error_type, null_is_absent=False)
        schema["properties"]["error"] = {"description": "Only when the tool failed: why.", **failure}
        schema.pop("required", None)
    return _encode(schema)


def flat_schema(struct_type: type[Struct], *, null_is_absent: bool) -> Schema:
    """The schema of a struct with everything in its place.

    `null_is_absent` writes a member that is null by default like one that may be missing, as it should be
    sent; else it is nullable. Raises LocalProtocolError for unions, recursion and tuples of mixed types.
    """
    try:
        schema = msgspec.json.schema(struct_type)
    except TypeError as error:
        raise LocalProtocolError(f"{struct_type.__name__}: {error}") from error
    flattener = _Flattener(schema.pop("$defs"), null_is_absent)
    flat = flattener.flatten(schema, struct_type.__name__, ())
    flat.pop("description", None)  # The struct's docstring, written for programmers.
    return flat


def nullable_members(struct_type: type[Struct]) -> frozenset[str]:
    """The members of a struct that take null and have a type besides."""
    schema = msgspec.json.schema(struct_type)
    members = cast(dict[str, Schema], schema["$defs"][_name(schema)]["properties"])
    return frozenset(name for name, node in members.items() if {"type": "null"} in node.get("anyOf", ()))


def _name(node: Schema) -> str:
    return str(node["$ref"]).removeprefix("#/$defs/")


class _Flattener(Struct, frozen=True):
    defs: dict[str, Schema]
    null_is_absent: bool

    def flatten(self, node: Schema, where: str, trail: tuple[str, ...]) -> Schema:
        """A copy of `node` in which nothing points elsewhere. `trail` names the definitions it stands in."""
        if "$ref" in node:
            name = _name(node)
            if name in trail:
                raise LocalProtocolError(f"{where}: a recursive type cannot be written flat")
            trail = (*trail, name)
            node = {**self.defs[name], **{key: node[key] for key in node if key != "$ref"}}
            return self.flatten(node, where, trail)
        if "anyOf" in node:
            return self._nullable(node, where, trail)
        if unportable := [key for key in _UNPORTABLE if key in node]:
            raise LocalProtocolError(f"{where}: `{unportable[0]}` cannot be written flat")
        return self._children({key: node[key] for key in node if key != "title"}, where, trail)

    def _nullable(self, node: Schema, where: str, trail: tuple[str, ...]) -> Schema:
        options = [option for option in node["anyOf"] if option != {"type": "null"}]
        if len(options) != 1 or len(options) == len(node["anyOf"]):
            raise LocalProtocolError(f"{where}: a union of types cannot be written flat")
        rest = {key: node[key] for key in node if key != "anyOf"}
        flat = self.flatten({**options[0], **rest}, where, trail)
        optional = flat.get("default", ...) is None
        if optional:
            del flat["default"]
        if not (optional and self.null_is_absent):
            flat.pop("type", None)
            if "enum" in flat:
                flat["enum"] = [*flat["enum"], None]
        return flat

    def _children(self, node: Schema, where: str, trail: tuple[str, ...]) -> Schema:
        if "properties" in node:
            node["properties"] = {
                name: self.flatten(child, f"{where}.{name}", trail)
                for name, child in node["properties"].items()
            }
            if not node.get("required", True):
                del node["required"]
        for key in ("items", "additionalProperties"):
            if isinstance(node.get(key), dict):
                node[key] = self.flatten(node[key], f"{where}[]", trail)
        choices = cast(list[object], node.get("enum", []))
        types = {_TYPE_OF.get(type(choice)) for choice in choices}
        if len(types) == 1 and None not in types and "type" not in node:
            node["type"] = types.pop()  # Gemini asks for the type of an enum.
        return node


# --- words ---

_WORDS: Final[dict[Kind, str]] = {
    "object": "an object",
    "array": "an array",
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}
_EXAMPLES: Final = {"string": '["a", "b"]', "integer": "[1, 2]", "number": "[1.5, 2]", "object": "[{…}]"}


def plain_type(node: object) -> Kind | None:
    """The one type that a schema names, None where it names none, several, or one that JSON does not have."""
    if not isinstance(node, dict):
        return None
    named = cast(Schema, node).get("type")
    return named if isinstance(named, str) and named in _WORDS else None


def describe(node: object) -> str | None:
    """What a schema allows, in a few words: `an integer from 1 to 1000`. None where it has no plain type."""
    named = plain_type(node)
    if named is None:
        return None
    schema = cast(Schema, node)
    choices = schema.get("enum")
    if isinstance(choices, list):
        return "one of " + ", ".join(_encode(choice).decode() for choice in cast(list[object], choices))
    return _WORDS[named] + _bounds(named, schema)


def _bounds(named: Kind, schema: Schema) -> str:
    match named:
        case "string":
            pattern = f" that matches {schema['pattern']}" if "pattern" in schema else ""
            form = f" ({schema['format']})" if "format" in schema else ""
            return _range(schema, "minLength", "maxLength", " of {} characters") + pattern + form
        case "array":
            each = f" (each {words})" if (words := describe(schema.get("items"))) else ""
            return _range(schema, "minItems", "maxItems", " of {} items") + each
        case "integer" | "number":
            between = _range(schema, "minimum", "maximum", " from {}")
            return between.replace("from at", "of at")
        case "object":
            return _range(schema, "minProperties", "maxProperties", " of {} members")
        case _:
            return ""


_SIZED: Final[dict[str, tuple[str, str, str]]] = {
    "string": ("minLength", "maxLength", "characters"),
    "array": ("minItems", "maxItems", "items"),
    "object": ("minProperties", "maxProperties", "members"),
}


def size_said(node: object, came: Kind, raw: Raw) -> str:
    """` of 600 characters` where a schema bounds the size of what came, and nothing else is wrong with its type."""
    if came != plain_type(node) or came not in _SIZED:
        return ""
    least, most, units = _SIZED[came]
    schema = cast(Schema, node)
    if least not in schema and most not in schema:
        return ""
    # It is of the type that was asked for, so it was read once already: only then its size can be the fault.
    return f" of {len(_decode_sized(raw))} {units}"


_decode_sized: Final = msgspec.json.Decoder(str | list[Raw] | dict[str, Raw]).decode


def _range(schema: Schema, least: str, most: str, phrase: str) -> str:
    low, high = schema.get(least), schema.get(most)
    if low is not None and high is not None:
        return phrase.format(f"{low} to {high}")
    if low is not None:
        return phrase.format(f"at least {low}")
    return phrase.format(f"at most {high}") if high is not None else ""


def example(node: object) -> str | None:
    """How a value that a schema allows is written: its own first example, or a plain one for an array."""
    if not isinstance(node, dict):
        return None
    schema = cast(Schema, node)
    examples = schema.get("examples")
    if isinstance(examples, list) and examples:
        return _encode(cast(list[object], examples)[0]).decode()
    if plain_type(schema) == "array":
        return _EXAMPLES.get(plain_type(schema.get("items")) or "", "[…]")
    return '{"name": …}' if plain_type(schema) == "object" else None
