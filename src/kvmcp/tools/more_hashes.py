"""More of hashes: several fields at once. One row of `MORE_HASHES` per tool."""

from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias, cast

from msgspec import UNSET, Meta, Raw, Struct

from kvmcp.backends.ops import MAX_FIELD_BYTES, MAX_ITEMS, HashDelete, HashGet, HashSet, Reply
from kvmcp.core.plan import Context
from kvmcp.tools.answers import Fault, Rendered, Shown, encode, of_type
from kvmcp.tools.counting import Counted, Told
from kvmcp.tools.definition import OVERWRITE, READ, Call, DryRun, Reader, Row, Step, tool
from kvmcp.tools.hashes import object_of
from kvmcp.tools.keys import Key, field_fault, key_fault, stored_value
from kvmcp.tools.room import FRAME, Truncated, how_many_fit, members_that_fit, named
from kvmcp.tools.uris import KEY, link

Fields: TypeAlias = Annotated[
    tuple[Annotated[str, Meta(max_length=MAX_FIELD_BYTES)], ...],
    Meta(
        min_length=1,
        max_length=MAX_ITEMS,
        description=f'An array of 1 to {MAX_ITEMS} names of fields, for example ["status", "owner"].',
        examples=[["status", "owner"]],
    ),
]


def _fields_fault(key: str, fields: Sequence[str]) -> Fault | None:
    fault = key_fault(key)
    return fault or next((fault for field in fields if (fault := field_fault(field)) is not None), None)


# --- redis_hmget ---


class HmgetArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    fields: Fields


class HmgetResult(Struct, frozen=True):
    fields: Annotated[dict[str, Raw], Meta(description="The values of the fields that there are.")]
    missing: Annotated[tuple[str, ...], Meta(description="The fields that there are not.")]
    truncated: Truncated = UNSET


class SomeFieldsReader(Reader, frozen=True):
    key: str
    names: tuple[str, ...]

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        # `ops.HashGet` lays down what is in the tuple.
        values = cast(tuple[bytes | None, ...], of_type(replies[0], tuple))
        found = dict(zip(self.names, values, strict=True))
        room -= FRAME
        missing = [name for name, value in found.items() if value is None]
        shown = missing[: how_many_fit(map(encode, missing), room // 2)]
        there = [(name, value) for name, value in found.items() if value is not None]
        kept, left_out = members_that_fit(there, room - sum([len(encode(name)) + 1 for name in shown]))
        problem: list[str] = []
        if left_out:
            problem.append(
                f"{len(left_out)} of {len(there)} fields are left out, for all are too long for one result: "
                f"{named(left_out)}; ask for these again, or read the resource linked here"
            )
        if len(shown) < len(missing):
            problem.append(f"{len(missing) - len(shown)} missing fields are not named; ask for fewer at once")
        more = b',"truncated":%b' % encode("; ".join(problem)) if problem else b""
        json = b'{"fields":%b,"missing":%b%b}' % (object_of(kept.items()), encode(shown), more)
        return Shown(json, (link(KEY, context, key=self.key),)) if left_out else json


def step_hmget(arguments: HmgetArguments, call: Call) -> Step | Fault:
    if (fault := _fields_fault(arguments.key, arguments.fields)) is not None:
        return fault
    names = tuple(dict.fromkeys(arguments.fields))
    return Step((HashGet(call.namespace.key(arguments.key), names),), SomeFieldsReader(arguments.key, names))


# --- redis_hmset ---


class HmsetArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    fields: Annotated[
        dict[str, Raw],
        Meta(
            min_length=1,
            max_length=MAX_ITEMS,
            description=f"1 to {MAX_ITEMS} fields with any JSON value each, for example "
            '{"status": "done", "tries": 2}.',
        ),
    ]
    dry_run: DryRun = False


class HmsetResult(Struct, frozen=True):
    created: Annotated[
        int, Meta(ge=0, description="How many of the fields are new; the others were replaced.")
    ]


def step_hmset(arguments: HmsetArguments, call: Call) -> Step | Fault:
    if (fault := _fields_fault(arguments.key, tuple(arguments.fields))) is not None:
        return fault
    fields: list[tuple[str, bytes]] = []
    for name, raw in arguments.fields.items():
        value = stored_value(raw, "a field of `fields`")
        if isinstance(value, Fault):
            return value
        fields.append((name, value))
    key = call.namespace.key(arguments.key)
    if arguments.dry_run:
        return Step((HashGet(key, tuple(arguments.fields)),), Counted(HmsetResult, there=False))
    return Step((HashSet(key, tuple(fields)),), Told(HmsetResult))


# --- redis_hdel ---


class HdelArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    fields: Fields
    dry_run: DryRun = False


class HdelResult(Struct, frozen=True):
    deleted: Annotated[int, Meta(ge=0, description="How many of the fields existed and are gone now.")]


def step_hdel(arguments: HdelArguments, call: Call) -> Step | Fault:
    if (fault := _fields_fault(arguments.key, arguments.fields)) is not None:
        return fault
    key, names = call.namespace.key(arguments.key), tuple(dict.fromkeys(arguments.fields))
    if arguments.dry_run:
        return Step((HashGet(key, names),), Counted(HdelResult))
    return Step((HashDelete(key, names),), Told(HdelResult))


MORE_HASHES: Final[tuple[Row, ...]] = (
    tool(
        "redis_hmset", HmsetArguments, HmsetResult, step=step_hmset, hints=OVERWRITE,
        title="Write several fields of a hash",
        description="Write several fields of a hash at once, leaving its other fields alone. The hash is made if there "
        "is none. Gives in `created` how many are new. "
        'Example: {"key": "task:7", "fields": {"status": "done", "by": "agent-2"}}.',
    ),
    tool(
        "redis_hmget", HmgetArguments, HmgetResult, step=step_hmget, hints=READ,
        title="Read several fields of a hash",
        description="Read some fields of a hash at one moment. Gives their values in `fields`, and in `missing` the "
        'names of those that there are not. Example: {"key": "task:7", "fields": ["status", "by"]}.',
    ),
    tool(
        "redis_hdel", HdelArguments, HdelResult, step=step_hdel, hints=OVERWRITE,
        title="Delete fields of a hash",
        description="Delete fields of a hash, for good; without its last field the key is gone. Gives in `deleted` how "
        'many existed. Example: {"key": "task:7", "fields": ["draft"]}.',
    ),
)  # fmt: skip
"""More tools for hashes, in the order in which they are listed."""
