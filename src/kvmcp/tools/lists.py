"""Lists: add at an end, take from the left. One row of `LISTS` per tool."""

from collections.abc import Sequence
from typing import Annotated, Final, cast

from msgspec import UNSET, Meta, Raw, Struct

from kvmcp.backends.ops import MAX_ITEMS, Elements, Failure, Length, NsKey, Pop, Push, Range, Reply, Side
from kvmcp.core.plan import AskBackend, Context, Plan
from kvmcp.tools.answers import TOO_LARGE, Fault, Rendered, answer, encode, failed, of_type, only_reply
from kvmcp.tools.definition import ADD, TAKE, Call, DryRun, Reader, Row, Step, tool
from kvmcp.tools.keys import Key, Values, key_fault, stored_values
from kvmcp.tools.room import FRAME, Truncated, chars, how_many_fit

# --- redis_lpush, redis_rpush ---


class PushArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    values: Values
    dry_run: DryRun = False


class LengthResult(Struct, frozen=True):
    length: Annotated[int, Meta(ge=0, description="How many elements the list has now.")]


class LengthReader(Reader, frozen=True):
    """`more`: elements that a dry run has not added."""

    more: int = 0

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        return LengthResult(of_type(replies[0], int) + self.more)


def step_lpush(arguments: PushArguments, call: Call) -> Step | Fault:
    return _push(arguments, call, "left")


def step_rpush(arguments: PushArguments, call: Call) -> Step | Fault:
    return _push(arguments, call, "right")


def _push(arguments: PushArguments, call: Call, side: Side) -> Step | Fault:
    if (fault := key_fault(arguments.key)) is not None:
        return fault
    values = stored_values(arguments.values)
    if isinstance(values, Fault):
        return values
    key = call.namespace.key(arguments.key)
    if arguments.dry_run:
        return Step((Length(key),), LengthReader(len(values)))
    return Step((Push(key, values, side),), LengthReader())


# --- redis_lpop ---


class PopArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    count: Annotated[int, Meta(ge=1, le=MAX_ITEMS, description="How many elements to take at most.")] = 1
    dry_run: DryRun = False


class PopResult(Struct, frozen=True):
    values: Annotated[tuple[Raw, ...], Meta(description="The elements, the first of the list first.")]
    truncated: Truncated = UNSET


class PoppedReader(Reader, frozen=True):
    """Elements that are taken are told whatever their length: they are nowhere else any more."""

    truncated: Truncated = UNSET

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        # `ops.Pop` lays down what is in the tuple.
        return _popped(cast(tuple[bytes, ...], of_type(replies[0], tuple)), self.truncated)


class WouldPop(Reader, frozen=True):
    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        elements = of_type(replies[0], Elements)
        fit = how_many_fit(elements.values, room - FRAME)
        return _popped(elements.values[:fit], not_taken(fit, elements.size))


def _popped(values: Sequence[bytes], truncated: Truncated) -> bytes:
    more = b"" if truncated is UNSET else b',"truncated":' + encode(truncated)
    return b'{"values":[%b]%b}' % (b",".join(values), more)


def not_taken(fit: int, wanted: int) -> Truncated:
    """What a pop says of the elements that it was to take, but could not show."""
    if fit >= wanted:
        return UNSET
    return f"{wanted - fit} more elements do not fit in one result and are still in the list; call again for them"


def step_lpop(arguments: PopArguments, call: Call) -> Step | Fault:
    """Without a look at the lengths first: for `redis_multi`, which has one round trip."""
    if (fault := key_fault(arguments.key)) is not None:
        return fault
    key = call.namespace.key(arguments.key)
    if arguments.dry_run:
        return Step((Range(key, 0, arguments.count - 1),), WouldPop())
    return Step((Pop(key, "left", arguments.count),), PoppedReader())


class TakeWhatFits(Struct, frozen=True):
    """Takes as many elements as a result has room for: what is taken cannot be left out of the result.

    Where somebody else takes some in between, later elements are taken, whole, even if they are longer.
    """

    key: NsKey
    room: int
    dry: bool

    def resume(self, replies: Sequence[object], context: Context) -> Plan:
        elements = only_reply(replies, Elements)
        if isinstance(elements, Failure):
            return answer(elements)
        if self.dry or not elements.values:
            return answer(WouldPop().read((elements,), context, self.room), dry=self.dry)
        fit = how_many_fit(elements.values, self.room - FRAME)
        if not fit:
            return failed(_too_long(chars(elements.values[0])))
        then = Taken(PoppedReader(not_taken(fit, elements.size)))
        return AskBackend((Pop(self.key, "left", fit),), then, writes=True)


class Taken(Struct, frozen=True):
    """Continuation: what was taken from either end."""

    reader: PoppedReader

    def resume(self, replies: Sequence[Reply], context: Context) -> Plan:
        return answer(Step((), self.reader).outcome(replies, context, 0))


def _too_long(size: int) -> Fault:
    return Fault(
        TOO_LARGE,
        f"the first element has {size} characters, more than one result can hold; nothing was taken; it can be read "
        "as a resource, moved or removed, or the server started with a larger --max-result-chars",
    )


def plan_lpop(arguments: PopArguments, call: Call) -> Plan:
    if (fault := key_fault(arguments.key)) is not None:
        return failed(fault)
    key = call.namespace.key(arguments.key)
    then = TakeWhatFits(key, call.room, arguments.dry_run)
    return AskBackend((Range(key, 0, arguments.count - 1),), then)


LISTS: Final[tuple[Row, ...]] = (
    tool(
        "redis_lpush", PushArguments, LengthResult, step=step_lpush, hints=ADD,
        title="Add to the left of a list",
        description="Add elements to the left end (the front) of a list, one after the other, so the last one given "
        "stands first. The list is made if there is none. Gives the new `length`. "
        'Example: {"key": "todo", "values": ["urgent"]}.',
    ),
    tool(
        "redis_rpush", PushArguments, LengthResult, step=step_rpush, hints=ADD,
        title="Add to the right of a list",
        description="Add elements to the right end (the back) of a list, in the order given; with redis_lpop this is "
        "a queue. The list is made if there is none. Gives the new `length`. "
        'Example: {"key": "todo", "values": ["first", {"task": 2}]}.',
    ),
    tool(
        "redis_lpop", PopArguments, PopResult, step=step_lpop, plan=plan_lpop, hints=TAKE,
        title="Take from the left of a list",
        description="Remove elements from the left end (the front) of a list and give them in `values`, an empty array "
        "when the list is empty. Each element goes to one caller only. "
        'Example: {"key": "todo", "count": 1}.',
    ),
)  # fmt: skip
"""The tools for lists, in the order in which they are listed."""
