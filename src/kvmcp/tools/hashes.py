"""Hashes: fields of one key. One row of `HASHES` per tool."""

from collections.abc import Iterable, Sequence
from typing import Annotated, Final, cast

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from kvmcp.backends.ops import HashGet, HashGetAll, HashSet, Reply, Ttl, TtlReply
from kvmcp.core.plan import Context
from kvmcp.tools.answers import Fault, Rendered, Shown, encode, of_type
from kvmcp.tools.definition import OVERWRITE, READ, Call, DryRun, Reader, Row, Step, tool
from kvmcp.tools.keys import Detail, Field, Key, Value, field_fault, key_fault, stored_value
from kvmcp.tools.keyspace import KeyArguments
from kvmcp.tools.room import FRAME, Truncated, chars, fits, members_that_fit, named
from kvmcp.tools.strings import seconds_left
from kvmcp.tools.uris import KEY, link

# --- redis_hset ---


class HsetArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    field: Field
    value: Value
    dry_run: DryRun = False


class HsetResult(Struct, frozen=True):
    created: Annotated[bool, Meta(description="true: the field is new; false: its value was replaced.")]


class CreatedReader(Reader, frozen=True):
    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        return HsetResult(of_type(replies[0], int) > 0)


class WouldCreate(Reader, frozen=True):
    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        return HsetResult(_field(replies[0]) is None)


def step_hset(arguments: HsetArguments, call: Call) -> Step | Fault:
    if (fault := key_fault(arguments.key) or field_fault(arguments.field)) is not None:
        return fault
    value = stored_value(arguments.value)
    if isinstance(value, Fault):
        return value
    key = call.namespace.key(arguments.key)
    if arguments.dry_run:
        return Step((HashGet(key, (arguments.field,)),), WouldCreate())
    return Step((HashSet(key, ((arguments.field, value),)),), CreatedReader())


def _field(reply: Reply) -> bytes | None:
    # `ops.HashGet` lays down what is in the tuple.
    (value,) = cast(tuple[bytes | None, ...], of_type(reply, tuple))
    return value


# --- redis_hget ---


class HgetArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    field: Field


class HgetResult(Struct, frozen=True):
    found: Annotated[bool, Meta(description="Whether the key has this field.")]
    value: Annotated[Raw, Meta(description="The JSON value, as it was stored.")] | UnsetType = UNSET
    truncated: Truncated = UNSET


class FieldReader(Reader, frozen=True):
    key: str

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        value = _field(replies[0])
        if value is None:
            return b'{"found":false}'
        json = b'{"found":true,"value":%b}' % value
        if fits(json, room):
            return json
        problem = (
            f"the value of {chars(value)} characters is left out, for it is too long for one result; the resource "
            "linked here is the whole hash"
        )
        return Shown(HgetResult(True, truncated=problem), (link(KEY, context, key=self.key),))


def step_hget(arguments: HgetArguments, call: Call) -> Step | Fault:
    if (fault := key_fault(arguments.key) or field_fault(arguments.field)) is not None:
        return fault
    key = call.namespace.key(arguments.key)
    return Step((HashGet(key, (arguments.field,)),), FieldReader(arguments.key))


# --- redis_hgetall ---


class HgetallArguments(KeyArguments, frozen=True, forbid_unknown_fields=True):
    detail: Detail = "concise"


class HgetallResult(Struct, frozen=True):
    fields: Annotated[dict[str, Raw], Meta(description="The fields with their values; {} without a key.")]
    ttl: (
        Annotated[int | None, Meta(description="Detailed: seconds it lives; null: for good.")] | UnsetType
    ) = UNSET
    size: Annotated[int, Meta(description="Detailed: how many fields there are.")] | UnsetType = UNSET
    truncated: Truncated = UNSET


class FieldsReader(Reader, frozen=True):
    """Reads a whole hash; with a second reply its time to live, too."""

    key: str

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        members = members_of(replies[0])
        more = b""
        if len(replies) > 1:
            left = seconds_left(of_type(replies[1], TtlReply))
            more = b',"ttl":%b,"size":%d' % (encode(left), len(members))
        json = b'{"fields":%b%b}' % (object_of(members), more)
        if fits(json, room):
            return json
        kept, missing = members_that_fit(members, room - FRAME)
        problem = (
            f"{len(missing)} of {len(members)} fields are left out, for all are too long for one result: "
            f"{named(missing)}; read them with redis_hget, or the resource linked here"
        )
        json = b'{"fields":%b%b,"truncated":%b}' % (object_of(kept.items()), more, encode(problem))
        return Shown(json, (link(KEY, context, key=self.key),))


def step_hgetall(arguments: HgetallArguments, call: Call) -> Step | Fault:
    if (fault := key_fault(arguments.key)) is not None:
        return fault
    key = call.namespace.key(arguments.key)
    ops = (HashGetAll(key), Ttl(key)) if arguments.detail == "detailed" else (HashGetAll(key),)
    return Step(ops, FieldsReader(arguments.key))


def members_of(reply: Reply) -> tuple[tuple[str, bytes], ...]:
    """What `ops.HashGetAll` replies."""
    return cast(tuple[tuple[str, bytes], ...], of_type(reply, tuple))


def object_of(members: Iterable[tuple[str, bytes]]) -> bytes:
    """The JSON text of an object whose values are JSON text."""
    return b"{%b}" % b",".join([b"%b:%b" % (encode(name), value) for name, value in members])


HASHES: Final[tuple[Row, ...]] = (
    tool(
        "redis_hset", HsetArguments, HsetResult, step=step_hset, hints=OVERWRITE,
        title="Write a field of a hash",
        description="Write one field of a hash, leaving its other fields alone: agents that write different fields of "
        "one key lose nothing. The hash is made if there is none. Gives `created`. "
        'Example: {"key": "task:7", "field": "status", "value": "done"}.',
    ),
    tool(
        "redis_hget", HgetArguments, HgetResult, step=step_hget, hints=READ,
        title="Read a field of a hash",
        description="Read one field of a hash. Gives `found: true` with `value`, or `found: false` when the key or the "
        'field does not exist. Example: {"key": "task:7", "field": "status"}.',
    ),
    tool(
        "redis_hgetall", HgetallArguments, HgetallResult, step=step_hgetall, hints=READ,
        title="Read a whole hash",
        description="Read all fields of a hash with their values. Gives `fields`, an empty object when the key does "
        'not exist. For a single field use redis_hget. Example: {"key": "task:7"}.',
    ),
)  # fmt: skip
"""The tools for hashes, in the order in which they are listed."""
