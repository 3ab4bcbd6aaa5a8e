"""More of lists: take from the right, read, remove, trim. One row of `MORE_LISTS` per tool."""

from collections.abc import Sequence
from typing import Annotated, Final

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from kvmcp.backends.ops import (
    MAX_ITEMS,
    Elements,
    Failure,
    Length,
    ListRemove,
    ListTrim,
    NsKey,
    Pop,
    Range,
    Reply,
    Ttl,
    TtlReply,
)
from kvmcp.core.plan import AskBackend, Context, Plan
from kvmcp.tools.answers import (
    TOO_LARGE,
    Fault,
    Rendered,
    Shown,
    answer,
    failed,
    of_type,
    only_reply,
)
from kvmcp.tools.counting import Position, Told
from kvmcp.tools.definition import READ, TAKE, Call, DryRun, Reader, Row, Step, tool
from kvmcp.tools.keys import Detail, Key, Value, key_fault, stored_value
from kvmcp.tools.keyspace import KeyArguments
from kvmcp.tools.lists import LengthResult, PopArguments, PoppedReader, Taken, not_taken
from kvmcp.tools.room import FRAME, Truncated, chars, how_many_fit, link
from kvmcp.tools.strings import seconds_left

DRY_PAGES: Final = 10
"""Times `MAX_ITEMS` elements that a dry run of redis_lrem looks at; it reads what the real one only compares."""

# --- redis_rpop ---


class RpopResult(Struct, frozen=True):
    values: Annotated[tuple[Raw, ...], Meta(description="The elements, the last of the list first.")]
    truncated: Truncated = UNSET


class WouldPopRight(Reader, frozen=True):
    """Reads the end of a list as it would be taken."""

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        elements = of_type(replies[0], Elements)
        values = _taken_from(elements, room)
        return PoppedReader(not_taken(len(values), elements.size)).read((values,), context, room)


def _taken_from(elements: Elements, room: int) -> tuple[bytes, ...]:
    """What of the end of a list there is room for, the last first."""
    last_first = elements.values[::-1]
    return last_first[: how_many_fit(last_first, room - FRAME)]


def step_rpop(arguments: PopArguments, call: Call) -> Step | Fault:
    """Without a look at the lengths first: for `redis_multi`, which has one round trip."""
    if (fault := key_fault(arguments.key)) is not None:
        return fault
    key = call.namespace.key(arguments.key)
    if arguments.dry_run:
        return Step((Range(key, -arguments.count, -1),), WouldPopRight())
    return Step((Pop(key, "right", arguments.count),), PoppedReader())


class TakeFromTheRight(Struct, frozen=True):
    """As `lists.TakeWhatFits`. Where the store itself has cut the answer, its end is missing, which is what would
    be taken first: it is asked for again, shorter. `wanted` is how many elements there were to take."""

    key: NsKey
    room: int
    dry: bool
    wanted: int = 0

    def resume(self, replies: Sequence[object], context: Context) -> Plan:
        elements = only_reply(replies, Elements)
        if isinstance(elements, Failure):
            return answer(elements)
        wanted, there = max(self.wanted, elements.size), len(elements.values)
        if there < elements.size:
            again = TakeFromTheRight(self.key, self.room, self.dry, wanted)
            return AskBackend((Range(self.key, -max(there, 1), -1),), again)
        values = _taken_from(elements, self.room)
        if there and not values:
            return failed(_too_long(chars(elements.values[-1])))
        reader = PoppedReader(not_taken(len(values), wanted))
        if self.dry or not there:
            return answer(reader.read((values,), context, self.room), dry=self.dry)
        return AskBackend((Pop(self.key, "right", len(values)),), Taken(reader), writes=True)


def _too_long(size: int) -> Fault:
    return Fault(
        TOO_LARGE,
        f"the last element has {size} characters, more than one result can hold; nothing was taken; it can be read as "
        "a resource or removed by redis_ltrim, or the server started with a larger --max-result-chars",
    )


def plan_rpop(arguments: PopArguments, call: Call) -> Plan:
    if (fault := key_fault(arguments.key)) is not None:
        return failed(fault)
    key = call.namespace.key(arguments.key)
    then = TakeFromTheRight(key, call.room, arguments.dry_run)
    return AskBackend((Range(key, -arguments.count, -1),), then)


# --- redis_lrange, redis_llen ---


class LrangeArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    start: Annotated[
        Position, Meta(description="Position of the first element; 0 is the left end, -1 the right one.")
    ] = 0
    stop: Annotated[Position, Meta(description="Position of the last element, which is included.")] = -1
    detail: Detail = "concise"


class LrangeResult(Struct, frozen=True):
    values: Annotated[tuple[Raw, ...], Meta(description="The elements, the leftmost first.")]
    length: Annotated[int, Meta(ge=0, description="How many elements the whole list has.")]
    next_start: (
        Annotated[int, Meta(description="Only if there are more: send it as `start` to go on.")] | UnsetType
    ) = UNSET
    ttl: (
        Annotated[int | None, Meta(description="Detailed: seconds it lives; null: for good.")] | UnsetType
    ) = UNSET
    truncated: Truncated = UNSET


class RangeReader(Reader, frozen=True):
    """Reads elements from `start` on; with a second reply their list's time to live, too."""

    key: str
    start: int

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        elements = of_type(replies[0], Elements)
        ttl = UNSET if len(replies) < 2 else seconds_left(of_type(replies[1], TtlReply))
        values, length = elements.values, elements.length
        fit = how_many_fit(values, room - FRAME)
        if fit >= elements.size:
            return LrangeResult(tuple(map(Raw, values)), length, UNSET, ttl)
        first = self.start if self.start >= 0 else max(0, length + self.start)
        if fit:
            problem = f"{elements.size - fit} more elements do not fit in one result; go on with next_start"
            return LrangeResult(tuple(map(Raw, values[:fit])), length, first + fit, ttl, problem)
        problem = (
            f"element {first} of {chars(values[0])} characters is left out, for it is too long for one result; read "
            "the resource linked here"
        )
        next_start = first + 1 if elements.size > 1 else UNSET
        return Shown(LrangeResult((), length, next_start, ttl, problem), (link("key", context, self.key),))


def step_lrange(arguments: LrangeArguments, call: Call) -> Step | Fault:
    if (fault := key_fault(arguments.key)) is not None:
        return fault
    key = call.namespace.key(arguments.key)
    look = Range(key, arguments.start, arguments.stop)
    ops = (look, Ttl(key)) if arguments.detail == "detailed" else (look,)
    return Step(ops, RangeReader(arguments.key, arguments.start))


def step_llen(arguments: KeyArguments, call: Call) -> Step | Fault:
    fault = key_fault(arguments.key)
    return fault or Step((Length(call.namespace.key(arguments.key)),), Told(LengthResult))


# --- redis_lrem ---


class LremArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    value: Value
    count: Annotated[
        Position,
        Meta(
            description="How many of the elements that equal the value: 0 all, 1 the first, -1 the last, and so on."
        ),
    ] = 0
    dry_run: DryRun = False


class RemovedResult(Struct, frozen=True):
    removed: Annotated[int, Meta(ge=0, description="How many were there and are gone now.")]


class WouldRemoveElements(Reader, frozen=True):
    """Counts the elements that equal a value, in all pages of a list."""

    value: bytes
    count: int

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        pages = [of_type(reply, Elements) for reply in replies]
        seen = sum(len(page.values) for page in pages)
        if seen < pages[0].length:
            return Fault(
                TOO_LARGE,
                f"a dry run can look at {seen} of the list's {pages[0].length} elements only; it changed nothing",
            )
        equal = sum(page.values.count(self.value) for page in pages)
        return RemovedResult(min(equal, abs(self.count)) if self.count else equal)


def step_lrem(arguments: LremArguments, call: Call) -> Step | Fault:
    if (fault := key_fault(arguments.key)) is not None:
        return fault
    value = stored_value(arguments.value)
    if isinstance(value, Fault):
        return value
    key = call.namespace.key(arguments.key)
    if arguments.dry_run:
        starts = range(0, DRY_PAGES * MAX_ITEMS, MAX_ITEMS)
        pages = tuple(Range(key, start, start + MAX_ITEMS - 1) for start in starts)
        return Step(pages, WouldRemoveElements(value, arguments.count))
    return Step((ListRemove(key, value, arguments.count),), Told(RemovedResult))


# --- redis_ltrim ---


class LtrimArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    start: Annotated[Position, Meta(description="Position of the first element to keep; -1 is the last.")]
    stop: Annotated[Position, Meta(description="Position of the last element to keep; -1 is the last.")]
    dry_run: DryRun = False


class WouldTrim(Reader, frozen=True):
    start: int
    stop: int

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        length = of_type(replies[0], int)
        first = self.start if self.start >= 0 else max(0, length + self.start)
        last = self.stop if self.stop >= 0 else length + self.stop
        return LengthResult(max(0, min(last, length - 1) - first + 1))


def step_ltrim(arguments: LtrimArguments, call: Call) -> Step | Fault:
    if (fault := key_fault(arguments.key)) is not None:
        return fault
    key = call.namespace.key(arguments.key)
    if arguments.dry_run:
        return Step((Length(key),), WouldTrim(arguments.start, arguments.stop))
    return Step((ListTrim(key, arguments.start, arguments.stop),), Told(LengthResult))


MORE_LISTS: Final[tuple[Row, ...]] = (
    tool(
        "redis_rpop", PopArguments, RpopResult, step=step_rpop, plan=plan_rpop, hints=TAKE,
        title="Take from the right of a list",
        description="Remove elements from the right end (the back) of a list and give them in `values`, the last one "
        "first; an empty array when the list is empty. Each element goes to one caller only. "
        'Example: {"key": "undo", "count": 1}.',
    ),
    tool(
        "redis_lrange", LrangeArguments, LrangeResult, step=step_lrange, hints=READ,
        title="Read a part of a list",
        description="Read elements of a list by position, without removing them; start and stop are both included, "
        "negative positions count from the end. Gives `values` and the list's `length`; `next_start` means that there "
        'are more: call again with it. Example: {"key": "todo", "start": 0, "stop": 9}.',
    ),
    tool(
        "redis_llen", KeyArguments, LengthResult, step=step_llen, hints=READ,
        title="Count the elements of a list",
        description="Ask how many elements a list has. Gives `length`, 0 when the key does not exist. "
        'Example: {"key": "todo"}.',
    ),
    tool(
        "redis_lrem", LremArguments, RemovedResult, step=step_lrem, hints=TAKE,
        title="Remove elements of a list by value",
        description="Remove the elements of a list that equal a JSON value, wherever they stand. They are compared as "
        "JSON text: 1 and 1.0 differ. Gives `removed`. "
        'Example: {"key": "todo", "value": "urgent", "count": 1}.',
    ),
    tool(
        "redis_ltrim", LtrimArguments, LengthResult, step=step_ltrim, hints=TAKE,
        title="Cut a list down to a part",
        description="Remove all elements of a list but those from `start` to `stop`, both included, for good. After "
        "redis_lpush, start 0 and stop 99 keep the newest 100. Gives the `length` that is left. "
        'Example: {"key": "log", "start": 0, "stop": 99}.',
    ),
)  # fmt: skip
"""More tools for lists, in the order in which they are listed."""
