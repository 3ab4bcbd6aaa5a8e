"""More of values by key: count, append, take. One row of `MORE_STRINGS` per tool."""

import re
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from kvmcp.backends.ops import (
    MAX_INTEGER,
    MAX_VALUE_BYTES,
    Append,
    Code,
    Get,
    GetDelete,
    Increment,
    NsKey,
    Reply,
    etag_of,
)
from kvmcp.core.plan import AskBackend, Context, Plan
from kvmcp.tools.answers import TOO_LARGE, Fault, Rendered, answer, encode, failed, of_type
from kvmcp.tools.counting import Told
from kvmcp.tools.definition import (
    ADD,
    TAKE,
    Call,
    DryRun,
    Offered,
    Reader,
    Row,
    Step,
    tool,
)
from kvmcp.tools.keys import Key, key_fault, text_fault
from kvmcp.tools.room import chars, fits
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
        if isinstance(found, bytes) and not fits(found, self.room):
            return failed(_too_long(chars(of_type(replies[0], bytes))))
        if not isinstance(found, bytes) or self.dry or replies[0] is None:
            return answer(found, dry=self.dry)
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


MORE_STRINGS: Final[tuple[Row, ...]] = (
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
