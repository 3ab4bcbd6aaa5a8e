"""How a tool's arguments are described and read: `ArgumentsType` of the catalog, by a msgspec struct.

`StructArguments` writes the struct's schema; `kvmcp.core.schema_arguments` is for tools that bring one of their
own. Both read well-formed arguments in one pass and mend what hosts are known to send instead, where there is
one meaning only (`kvmcp.core.mending`, loaded when there is something to mend):

- a JSON text in a string where the schema wants an object, array, number or boolean; the whole `arguments`, too
- `5.0` where the schema wants an integer
- null for a member that need not be there

Each repair leaves a note that names the argument, so that the model can do better. No note and no message holds a
value, which may be a secret, but for a number where a number is asked for. Names are never guessed, a string is never split into an array, and an
argument without a type is never touched. Where a name stands twice the last one counts, as in all decoders
that SDKs use.
"""

from typing import TYPE_CHECKING, Final, Protocol, cast

import msgspec
from msgspec import Struct

from kvmcp.core.errors import LocalProtocolError
from kvmcp.core.items import BadArguments, Parsed
from kvmcp.core.json_schema import flat_schema, nullable_members
from kvmcp.core.limits import Limits

if TYPE_CHECKING:
    from kvmcp.core.mending import Shape

MAX_DEPTH: Final = Limits().nesting_depth
"""Levels of a value, also of one that came in a string: the message's own check cannot see those."""

_encode = msgspec.json.Encoder().encode


class _Decode(Protocol):
    def __call__(self, raw: bytes) -> object: ...


class StructArguments:
    """Arguments as a msgspec struct, which must forbid unknown fields, as its schema does.

    Raises LocalProtocolError where the struct cannot be written as a flat schema.
    """

    __slots__ = ("_shape", "_type", "decode", "schema")

    def __init__(self, struct_type: type[Struct]) -> None:
        schema = flat_schema(struct_type, null_is_absent=True)
        if schema.get("additionalProperties") is not False:
            raise LocalProtocolError(f"{struct_type.__name__} must be made with forbid_unknown_fields=True")
        self.schema: Final = _encode(schema)
        """`inputSchema` as JSON text."""
        # The decoder's own method, on the hot path without a frame of ours; its parameter has no name.
        self.decode: Final = cast(_Decode, msgspec.json.Decoder(struct_type).decode)
        self._type = struct_type
        self._shape: Shape | None = None

    def repair(self, raw: bytes) -> Parsed | BadArguments:
        """Read arguments that `decode` refused. Never raises; arguments that `decode` takes come back as they are."""
        from kvmcp.core.mending import Shape, decode_schema, repair

        if self._shape is None:  # A third of building the tools, for what most hosts never need.
            self._shape = Shape.of(decode_schema(self.schema), nullable_members(self._type))
        return repair(raw, self._shape, self.decode)
