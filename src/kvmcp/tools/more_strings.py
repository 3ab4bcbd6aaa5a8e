"""More of values by key: count, append, take, several at once. One row of `MORE_STRINGS` per tool."""

import re
from collections.abc import Sequence
from typing import Annotated, Final, Literal, cast

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from kvmcp.backends.ops import (
    MAX_BATCH_KEYS,
    MAX_INTEGER,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    Append,
    Code,
    Condition,
    Exists,
    Failure,
    Get,
    GetDelete,
    GetMany,
    Increment,
    KeyIs,
    NsKey,
    Reply,
    Set,
    Unmet,
    etag_of,
)
from kvmcp.core.plan import AskBackend, Context, Plan
from kvmcp.tools.answers import TOO_LARGE, Fault, Rendered, Shown, answer, encode, failed, is_done, of_type
from kvmcp.tools.counting import Told
from kvmcp.tools.definition import (
    ADD,
    OVERWRITE,
    READ,
    TAKE,
    Call,
    DryRun,
    Offered,
    Reader,
    Row,
    Step,
    tool,
)
from kvmcp.tools.hashes import object_of
from kvmcp.tools.keys import Key, Keys, Seconds, bad, key_fault, keys_fault, stored_value, text_fault
from kvmcp.tools.room import FRAME, Truncated, chars, fits, how_many_fit, members_that_fit, named
from kvmcp.tools.strings import GetResult, ValueReader

MAX_STEP: Final = 2**53 - 1
"""What one redis_incrby can add: above it programs that read JSON numbers as doubles round."""

# --- redis_incrby ---


class IncrbyArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    by: Annotated[int, Meta(ge=-MAX_STEP, le=MAX_STEP, description="What to add; negative to take away.")] = 1
    dry_run: DryRun = False


class IncrbyResult(Struct, frozen=True):
    value: Annotated[int, Meta(description="The number that the key holds now.")]


_INTEGER: Final = re.compile(rb"0|-?[1-9][0-9]{0,18}")


class WouldIncrement(Reader, frozen=True):
    """What `ops.Increment` would say of the present value."""

    by: int

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        value = b"0" if replies[0] is None else of_type(replies[0], bytes)
        if _INTEGER.fullmatch(value) is None or not _is_int64(int(value)):
            return Fault(Code.WRONG_TYPE.value, "the value is not a whole number of 64 bits")
        total = int(value) + self.by
        if not _is_int64(total):
            return Fault(Code.OUT_OF_RANGE.value, "the result would be beyond the largest or smallest number")
        return IncrbyResult(total)


def _is_int64(number: int) -> bool:
    return -MAX_INTEGER - 1 <= number <= MAX_INTEGER


def step_incrby(arguments: IncrbyArguments, call: Call) -> Step | Fault:
    if (fault := key_fault(arguments.key)) is not None:
        return fault
    key = call.namespace.key(arguments.key)
    if arguments.dry_run:
        return Step((Get(key),), WouldIncrement(arguments.by))
    return Step((Increment(key, arguments.by),), Told(IncrbyResult))


# --- redis_append ---


class AppendArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    text: Annotated[str, Meta(description='The text to add at the end, for example " and so on".')]
    dry_run: DryRun = False


class AppendResult(Struct, frozen=True):
    length: Annotated[int, Meta(ge=0, description="Characters that the whole text has now.")]


class WouldAppend(Reader, frozen=True):
    """What `ops.Append` would say of the present value."""

    text: str

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        value = b'""' if replies[0] is None else of_type(replies[0], bytes)
        try:
            there = msgspec.json.decode(value, type=str)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return Fault(
                Code.WRONG_TYPE.value, "the value is not a JSON string; nothing can be appended to it"
            )
        if len(value) + len(encode(self.text)) - 2 > MAX_VALUE_BYTES:
            return Fault(TOO_LARGE, f"the value would be larger than {MAX_VALUE_BYTES} bytes")
        return AppendResult(len(there) + len(self.text))


def step_append(arguments: AppendArguments, call: Call) -> Step | Fault:
    fault = key_fault(arguments.key) or text_fault("`text`", arguments.text, MAX_VALUE_BYTES)
    if fault is not None:
        return fault
    key = call.namespace.key(arguments.key)
    if arguments.dry_run:
        return Step((Get(key),), WouldAppend(arguments.text))
    return Step((Append(key, encode(arguments.text)),), Told(AppendResult))


# --- redis_getdel ---


class GetdelArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    dry_run: DryRun = False


class TakenValue(Reader, frozen=True):
    """A value that is taken is told whatever its length: it is nowhere else any more."""

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        if replies[0] is None:
            return b'{"found":false}'
        return _taken(of_type(replies[0], bytes))


def _taken(value: bytes) -> bytes:
    return b'{"found":true,"value":%b,"etag":"%b"}' % (value, etag_of(value).encode())


class TakeIfItFits(Struct, frozen=True):
    """Takes a value that a result has room for. Where somebody else writes a longer one in between, that is taken."""

    key: NsKey
    room: int
    dry: bool

    def resume(self, replies: Sequence[Reply], context: Context) -> Plan:
        found = Step((), TakenValue()).outcome(replies, context, self.room)
        if not isinstance(found, bytes) or self.dry or replies[0] is None:
            return answer(found, dry=self.dry)
        if not fits(found, self.room):
            return failed(_too_long(chars(of_type(replies[0], bytes))))
        return AskBackend((GetDelete(self.key),), TakenNow(), writes=True)


class TakenNow(Struct, frozen=True):
    def resume(self, replies: Sequence[Reply], context: Context) -> Plan:
        return answer(Step((), TakenValue()).outcome(replies, context, 0))


def _too_long(size: int) -> Fault:
    return Fault(
        TOO_LARGE,
        f"the value has {size} characters, more than one result can hold; nothing was removed; read it by redis_get or "
        "in parts by redis_json_get, then remove it by redis_del",
    )


def plan_getdel(arguments: GetdelArguments, call: Call) -> Plan:
    if (fault := key_fault(arguments.key)) is not None:
        return failed(fault)
    key = call.namespace.key(arguments.key)
    return AskBackend((Get(key),), TakeIfItFits(key, call.room, arguments.dry_run))


def step_getdel(arguments: GetdelArguments, call: Call) -> Step | Fault:
    """Without a look at the length first: for `redis_multi`, which has one round trip."""
    if (fault := key_fault(arguments.key)) is not None:
        return fault
    key = call.namespace.key(arguments.key)
    if arguments.dry_run:
        return Step((Get(key),), ValueReader(arguments.key))
    return Step((GetDelete(key),), TakenValue())


def _removed(arguments: GetdelArguments, offered: Offered) -> Sequence[str]:
    return (arguments.key,)


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


MORE_STRINGS: Final[tuple[Row, ...]] = (
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
    tool(
        "redis_incrby", IncrbyArguments, IncrbyResult, step=step_incrby, hints=ADD,
        title="Count",
        description="Add a whole number to the one that a key holds; a key that does not exist begins at 0. Counts "
        "of several agents at once lose nothing. Gives the new `value`; the time to live stays. WRONG_TYPE when "
        'something else is there. Example: {"key": "visits", "by": 1}.',
    ),
    tool(
        "redis_append", AppendArguments, AppendResult, step=step_append, hints=ADD,
        title="Append to a text",
        description="Add text at the end of a value that is a JSON string, without reading it first; the key is made "
        "if there is none. Gives the new `length` in characters. For a log of entries use redis_rpush or redis_xadd. "
        'Example: {"key": "notes", "text": "\\nsecond line"}.',
    ),
    tool(
        "redis_getdel", GetdelArguments, GetResult, step=step_getdel, plan=plan_getdel, removes=_removed, hints=TAKE,
        title="Take a value",
        description="Read the value of a key and delete the key, in one step: of several agents that ask one gets it. "
        "Gives `found` and `value`. A value that is too long for a result stays where it is (TOO_LARGE). "
        'Example: {"key": "handover:42"}.',
    ),
)  # fmt: skip
"""More tools for values, in the order in which they are listed."""
