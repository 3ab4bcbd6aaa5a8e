"""Streams in the memory store."""

from bisect import bisect_left, bisect_right
from typing import ClassVar, TypeAlias, cast

from kvmcp.backends.checks import stream_id
from kvmcp.backends.faults import TOO_MUCH
from kvmcp.backends.memory.checks import STREAM_ENTRY_OVERHEAD, STREAM_FIELD_OVERHEAD
from kvmcp.backends.memory.keys import Keys, fields_size
from kvmcp.backends.ops import (
    Entries,
    Failure,
    KeyType,
    Reply,
    StreamAdd,
    StreamDelete,
    StreamEntry,
    StreamLength,
    StreamRange,
    StreamTrim,
)

Fields: TypeAlias = tuple[tuple[str, bytes], ...]
Id: TypeAlias = tuple[int, int]


class Stream:
    """Entries by id, in order."""

    kind: ClassVar[KeyType] = "stream"
    vanishes: ClassVar[bool] = False
    __slots__ = ("entries", "ids", "last")

    def __init__(self) -> None:
        self.ids: list[Id] = []
        self.entries: list[Fields] = []
        self.last: Id = (0, 0)
        """The greatest id ever given; also where its entry is gone."""

    def __len__(self) -> int:
        return len(self.ids)

    def copy(self) -> "Stream":
        other = Stream()
        other.ids, other.entries, other.last = self.ids.copy(), self.entries.copy(), self.last
        return other

    def next_id(self, now: float) -> Id:
        """Milliseconds of the store's clock and a number, as Redis makes them."""
        milliseconds = int(now * 1000)
        return (milliseconds, 0) if milliseconds > self.last[0] else (self.last[0], self.last[1] + 1)

    def drop_oldest(self, count: int) -> int:
        """How much lighter that makes it."""
        gone = sum(map(_weight_of, self.entries[:count]))
        del self.ids[:count], self.entries[:count]
        return gone


def _weight_of(fields: Fields) -> int:
    return STREAM_ENTRY_OVERHEAD + len(fields) * STREAM_FIELD_OVERHEAD + fields_size(fields)


def _text(identifier: Id) -> str:
    return f"{identifier[0]}-{identifier[1]}"


def add(keys: Keys, op: StreamAdd, now: float) -> Reply:
    opened = keys.open(Stream, op.key, now)
    if isinstance(opened, Failure):
        return opened
    length = len(opened[1])
    excess = 0 if op.max_length is None else max(0, length + 1 - op.max_length)
    growth = _weight_of(op.fields) - sum(map(_weight_of, opened[1].entries[:excess]))
    fault = keys.room(op.key, opened[0], growth, now)
    if fault is not None:
        return fault
    entry, held = keys.begin(op.key, *opened)
    held.last = held.next_id(now)
    held.ids.append(held.last)
    held.entries.append(op.fields)
    held.drop_oldest(excess)
    keys.wrote(entry, growth)
    return _text(held.last)


def range_(keys: Keys, op: StreamRange, now: float) -> Reply:
    held = keys.read(Stream, op.key, now)
    if isinstance(held, Failure):
        return held
    if held is None:
        return Entries((), False)
    first, end = _lower(held.ids, op.first), _upper(held.ids, op.last)
    places = range(first, end)
    found: list[StreamEntry] = []
    spent = 0
    for place in places[::-1][: op.count] if op.reverse else places[: op.count]:
        size = fields_size(held.entries[place])
        if spent + size > keys.budget:
            if not found:
                return TOO_MUCH
            break
        spent += size
        found.append(StreamEntry(_text(held.ids[place]), held.entries[place]))
    return keys.spend(spent) or Entries(tuple(found), len(found) < len(places))


def _lower(ids: list[Id], bound: str) -> int:
    """Where what is not before `bound` begins."""
    if bound in ("-", "+"):
        return 0 if bound == "-" else len(ids)
    identifier = cast(Id, stream_id(bound.removeprefix("(")))
    return bisect_right(ids, identifier) if bound[0] == "(" else bisect_left(ids, identifier)


def _upper(ids: list[Id], bound: str) -> int:
    """Where what is after `bound` begins."""
    if bound in ("-", "+"):
        return 0 if bound == "-" else len(ids)
    identifier = cast(Id, stream_id(bound.removeprefix("(")))
    return bisect_left(ids, identifier) if bound[0] == "(" else bisect_right(ids, identifier)


def length(keys: Keys, op: StreamLength, now: float) -> Reply:
    held = keys.read(Stream, op.key, now)
    return held if isinstance(held, Failure) else len(held or ())


def trim(keys: Keys, op: StreamTrim, now: float) -> Reply:
    opened = keys.open(Stream, op.key, now)
    if isinstance(opened, Failure):
        return opened
    excess = len(opened[1]) - op.max_length
    if excess <= 0:
        return 0
    entry, held = keys.begin(op.key, *opened)
    keys.wrote(entry, -held.drop_oldest(excess))
    return excess


def delete(keys: Keys, op: StreamDelete, now: float) -> Reply:
    opened = keys.open(Stream, op.key, now)
    if isinstance(opened, Failure):
        return opened
    doomed = {stream_id(text) for text in op.ids}.intersection(opened[1].ids)
    if not doomed:
        return 0
    entry, held = keys.begin(op.key, *opened)
    kept = [(i, fields) for i, fields in zip(held.ids, held.entries, strict=True) if i not in doomed]
    gone = sum(map(_weight_of, held.entries)) - sum([_weight_of(fields) for _, fields in kept])
    held.ids, held.entries = [i for i, _ in kept], [fields for _, fields in kept]
    keys.wrote(entry, -gone)
    return len(doomed)
