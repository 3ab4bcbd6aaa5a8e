"""Values of several keys at once: read, store. One row of `MANY_VALUES` per tool."""

from collections.abc import Sequence
from typing import Annotated, Final, Literal, cast

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from kvmcp.backends.ops import (
    MAX_BATCH_KEYS,
    MAX_KEY_BYTES,
    Condition,
    Exists,
    Failure,
    GetMany,
    KeyIs,
    Reply,
    Set,
    Unmet,
    etag_of,
)
from kvmcp.core.plan import Context
from kvmcp.tools.answers import Fault, Rendered, Shown, encode, is_done, of_type
from kvmcp.tools.definition import (
    OVERWRITE,
    READ,
    Call,
    DryRun,
    Reader,
    Row,
    Step,
    tool,
)
from kvmcp.tools.hashes import object_of
from kvmcp.tools.keys import Keys, Seconds, bad, keys_fault, stored_value, text_fault
from kvmcp.tools.room import FRAME, Truncated, how_many_fit, members_that_fit, named

# --- redis_mget ---


class MgetArguments(Struct, frozen=True, forbid_unknown_fields=True):
    keys: Keys
    detail: Annotated[
        Literal["concise", "detailed"],
        Meta(description="concise: only the values; detailed: also the etag of each."),
    ] = "concise"


class MgetResult(Struct, frozen=True):
    values: Annotated[dict[str, Raw], Meta(description="By key: the values of the keys that have one.")]
    missing: Annotated[tuple[str, ...], Meta(description="The keys that do not exist.")]
    other: (
        Annotated[tuple[str, ...], Meta(description="Keys that hold no plain value, but a list, a hash, …")]
        | UnsetType
    ) = UNSET
    etags: Annotated[dict[str, str], Meta(description="Detailed: by key.")] | UnsetType = UNSET
    truncated: Truncated = UNSET


class ValuesReader(Reader, frozen=True):
    names: tuple[str, ...]
    detailed: bool

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        # `ops.GetMany` lays down what is in the tuple.
        values = cast(tuple[bytes | Failure | None, ...], of_type(replies[0], tuple))
        found = dict(zip(self.names, values, strict=True))
        room -= FRAME
        missing, cut = _first([name for name, value in found.items() if value is None], room // 4)
        other, also_cut = _first(
            [name for name, value in found.items() if isinstance(value, Failure)], room // 4
        )
        room -= sum([len(encode(name).decode()) + 1 for name in (*missing, *other)])
        there = [(name, value) for name, value in found.items() if isinstance(value, bytes)]
        kept, left_out = members_that_fit([(name, self._cost(name, value)) for name, value in there], room)
        problem = self._problem(left_out, cut + also_cut)
        more = b""
        if other:
            more += b',"other":%b' % encode(other)
        if self.detailed:
            more += b',"etags":%b' % encode({name: etag_of(value) for name, value in there if name in kept})
        if problem:
            more += b',"truncated":%b' % encode(problem)
        shown = object_of([(name, value) for name, value in there if name in kept])
        return b'{"values":%b,"missing":%b%b}' % (shown, encode(missing), more)

    def _cost(self, name: str, value: bytes) -> bytes:
        """As many characters as it takes up beside its name."""
        return value + encode(name) + b" " * 24 if self.detailed else value

    @staticmethod
    def _problem(left_out: Sequence[str], cut: int) -> str:
        said: list[str] = []
        if left_out:
            said.append(
                f"the values of {len(left_out)} keys are left out, for all are too long for one result: "
                f"{named(left_out)}; ask for these again, one that is too long alone by redis_get"
            )
        if cut:
            said.append(f"{cut} keys without a value are not named here; ask for fewer keys at once")
        return "; ".join(said)


def _first(names: list[str], room: int) -> tuple[list[str], int]:
    """The names that there is room for, and how many there are besides."""
    fit = how_many_fit(map(encode, names), room)
    return names[:fit], len(names) - fit


def step_mget(arguments: MgetArguments, call: Call) -> Step | Fault:
    if (fault := keys_fault(arguments.keys)) is not None:
        return fault
    names = tuple(dict.fromkeys(arguments.keys))
    keys = tuple(map(call.namespace.key, names))
    return Step((GetMany(keys),), ValuesReader(names, arguments.detail == "detailed"))


# --- redis_mset ---


class MsetArguments(Struct, frozen=True, forbid_unknown_fields=True):
    values: Annotated[
        dict[str, Raw],
        Meta(
            min_length=1,
            max_length=MAX_BATCH_KEYS,
            description=f"1 to {MAX_BATCH_KEYS} keys with any JSON value each, for example "
            '{"user:1": {"name": "Ada"}, "user:2": null}.',
        ),
    ]
    ttl: (
        Annotated[
            Seconds, Meta(description="Seconds until all of them expire. Leave out to keep them for good.")
        ]
        | UnsetType
    ) = UNSET
    if_absent: Annotated[bool, Meta(description="Store only if none of the keys exists; else ok: false.")] = (
        False
    )
    dry_run: DryRun = False


class MsetResult(Struct, frozen=True):
    ok: Annotated[bool, Meta(description="Whether the values are stored; false only with if_absent.")]
    stored: Annotated[int, Meta(ge=0, description="How many keys were written.")]


class StoredReader(Reader, frozen=True):
    count: int

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        for reply in replies:
            is_done(reply)
        return MsetResult(True, self.count)

    def unmet(self, unmet: Unmet) -> Rendered:
        return Shown(
            MsetResult(False, 0), notes=("note: one of the keys exists already; nothing was stored.",)
        )


def step_mset(arguments: MsetArguments, call: Call) -> Step | Fault:
    writes: list[Set] = []
    ttl_ms = None if arguments.ttl is UNSET else arguments.ttl * 1000
    for name, raw in arguments.values.items():
        fault = (
            text_fault("a key", name, MAX_KEY_BYTES)
            if name
            else bad("an empty key; keys have 1 byte or more")
        )
        value = fault or stored_value(raw, "a value of `values`")
        if isinstance(value, Fault):
            return value
        writes.append(Set(call.namespace.key(name), value, ttl_ms))
    keys = tuple(write.key for write in writes)
    conditions: tuple[Condition, ...] = tuple(KeyIs(key, None) for key in keys) if arguments.if_absent else ()
    ops = (Exists(keys),) if arguments.dry_run else tuple(writes)
    return Step(ops, StoredReader(len(writes)), conditions)


MANY_VALUES: Final[tuple[Row, ...]] = (
    tool(
        "redis_mget", MgetArguments, MgetResult, step=step_mget, hints=READ,
        title="Read several values",
        description="Read the values of several keys at one moment. Gives `values` by key, and in `missing` the keys "
        "that do not exist. Use it instead of many redis_get; detail: detailed adds the etags. "
        'Example: {"keys": ["user:1", "user:2"]}.',
    ),
    tool(
        "redis_mset", MsetArguments, MsetResult, step=step_mset, hints=OVERWRITE,
        title="Store several values",
        description="Store several values, each under its key, all or none: nobody sees some of them only. What the "
        "keys held is replaced; without `ttl` they stay for good. Gives `ok` and `stored`. "
        'Example: {"values": {"user:1": {"name": "Ada"}, "user:2": {"name": "Alan"}}, "ttl": 3600}.',
    ),
)  # fmt: skip
"""The tools for several values, in the order in which they are listed."""
