"""How a tool's arguments are described and read: `ArgumentsType` of the catalog, by a JSON Schema of the tool's own."""

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Raw

from kvmcp.core.errors import LocalProtocolError
from kvmcp.core.items import BadArguments, Parsed
from kvmcp.core.mending import UNREADABLE, Shape, decode_members, decode_schema, repair

_encode = msgspec.json.Encoder().encode


class SchemaArguments:
    """Arguments by a JSON Schema of the tool's own; `decode` gives the object's JSON text as `msgspec.Raw`.

    Checked are the top level's names (`required`, `additionalProperties: false`) and plain types; the rest is
    the tool's. Raises LocalProtocolError where the schema is not a JSON object with `type: object`.
    """

    __slots__ = ("_shape", "schema")

    def __init__(self, schema: bytes | Mapping[str, object]) -> None:
        try:
            text = schema if isinstance(schema, bytes) else _encode(schema)
            parsed = decode_schema(text)
        except (*UNREADABLE, TypeError) as error:
            raise LocalProtocolError(f"the schema is not a JSON object: {error}") from error
        if parsed.get("type") != "object":
            raise LocalProtocolError("a schema of arguments must say `type: object`")
        self.schema: Final = msgspec.json.format(text, indent=-1)
        """`inputSchema` as JSON text, on one line, otherwise as it was given."""
        self._shape = Shape.of(parsed, frozenset())

    def decode(self, raw: bytes) -> Raw:
        """The arguments as they came. Raises msgspec.ValidationError where a name or a plain type does not fit."""
        if faults := self._shape.faults(decode_members(raw)):
            raise msgspec.ValidationError("; ".join(faults))
        return Raw(raw)

    def repair(self, raw: bytes) -> Parsed | BadArguments:
        """Read arguments that `decode` refused. Never raises; arguments that `decode` takes come back as they are."""
        return repair(raw, self._shape, self.decode)
