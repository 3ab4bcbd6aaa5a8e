"""`x-mcp-header`: arguments that HTTP clients repeat in headers (reference: MCP 2026-07-28, custom headers).

Knows JSON Schema as far as it says where such an annotation may stand; not HTTP.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias, cast

import msgspec
from msgspec import Struct

from kvmcp.core.errors import LocalProtocolError

ANNOTATION: Final = "x-mcp-header"

_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
"""RFC 9110, section 5.6.2."""
_TYPES: Final = ("string", "integer", "boolean")
_DATA: Final = ("const", "default", "enum", "examples")
"""Keywords whose values are no schemas: whatever they hold is not an annotation."""
_MAPS: Final = ("$defs", "definitions", "dependentSchemas", "patternProperties")
"""Keywords that hold schemas by names of their own."""

Schema: TypeAlias = Mapping[str, Any]  # JSON of any shape: looked at with isinstance before use
Path: TypeAlias = tuple[str, ...]


class Mirror(Struct, frozen=True):
    """One argument that is repeated: under which header (lower-case), and where it stands in the arguments."""

    header: bytes
    path: Path


def read_mirrors(schema: bytes) -> tuple[Mirror, ...]:
    """The annotations of a tool's `inputSchema`.

    Raises LocalProtocolError for one that clients would refuse the tool for: a name that is no header name, or
    stands twice; a property that is neither string, integer nor boolean, or is not reached by `properties` alone.
    """
    # Nearly no schema has any: what cannot hold the word, also not escaped, is not parsed.
    if b"x-mcp" not in schema and b"\\u" not in schema:
        return ()
    mirrors = tuple(_found(msgspec.json.decode(schema, type=dict[str, Any]), ()))
    names = [mirror.header for mirror in mirrors]
    for name in names:
        if names.count(name) > 1:
            raise LocalProtocolError(f"{ANNOTATION}: {name.decode()} stands twice in one schema")
    return mirrors


def _found(node: Schema, path: Path | None) -> Iterator[Mirror]:
    """`path` is None where the node is not reached by `properties` alone."""
    if ANNOTATION in node:
        yield _mirror(node, path)
    for keyword, value in node.items():
        if keyword == "properties" and isinstance(value, dict):
            for name, child in cast(Schema, value).items():
                yield from _below(child, None if path is None else (*path, name))
        elif keyword in _MAPS and isinstance(value, dict):
            for child in cast(Schema, value).values():
                yield from _below(child, None)
        elif keyword not in _DATA:
            yield from _below(value, None)


def _below(value: object, path: Path | None) -> Iterator[Mirror]:
    if isinstance(value, dict):
        yield from _found(cast(Schema, value), path)
    elif isinstance(value, list):
        for item in cast(list[object], value):
            yield from _below(item, None)


def _mirror(node: Schema, path: Path | None) -> Mirror:
    name = node[ANNOTATION]
    if not isinstance(name, str) or not _TOKEN.match(name):
        raise LocalProtocolError(f"{ANNOTATION}: {name!r} is no header name")
    if not path:
        raise LocalProtocolError(f"{ANNOTATION}: {name} is not at a property reached by `properties` alone")
    if node.get("type") not in _TYPES:
        raise LocalProtocolError(f"{ANNOTATION}: {name} must be a string, an integer or a boolean")
    return Mirror(f"mcp-param-{name}".lower().encode(), path)
