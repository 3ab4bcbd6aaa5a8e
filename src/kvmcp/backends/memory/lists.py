"""Lists in the memory store."""

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import ClassVar

from kvmcp.backends.memory.checks import ELEMENT_OVERHEAD
from kvmcp.backends.memory.keys import Keys
from kvmcp.backends.ops import (
    Elements,
    Failure,
    KeyType,
    Length,
    ListRemove,
    ListTrim,
    Pop,
    Push,
    Range,
    Reply,
)


class List(deque[bytes]):
    """Elements from left to right."""

    kind: ClassVar[KeyType] = "list"
    vanishes: ClassVar[bool] = True


def weight_of(values: Iterable[bytes]) -> int:
    return sum([len(value) + ELEMENT_OVERHEAD for value in values])


def bounds(start: int, stop: int, length: int) -> tuple[int, int]:
    """The positions from `start` to `stop`, both included, as a half-open range that is inside."""
    first = max(0, start + length if start < 0 else start)
    end = min(length, (stop + length if stop < 0 else stop) + 1)
    return (first, end) if first < end else (0, 0)


def push(keys: Keys, op: Push, now: float) -> Reply:
    opened = keys.open(List, op.key, now)
    if isinstance(opened, Failure):
        return opened
    growth = weight_of(op.values)
    fault = keys.room(op.key, opened[0], growth, now)
    if fault is not None:
        return fault
    entry, held = keys.begin(op.key, *opened)
    if op.side == "right":
        held.extend(op.values)
    else:
        held.extendleft(op.values)
    keys.wrote(entry, growth)
    return len(held)


def pop(keys: Keys, op: Pop, now: float) -> Reply:
    opened = keys.open(List, op.key, now)
    if isinstance(opened, Failure):
        return opened
    entry, held = opened
    if entry is None:
        return ()
    values = tuple(islice(held if op.side == "left" else reversed(held), op.count))
    fault = keys.spend(sum(map(len, values)))
    if fault is not None:
        return fault
    entry, held = keys.begin(op.key, entry, held)
    take = held.popleft if op.side == "left" else held.pop
    for _ in values:
        take()
    keys.wrote(entry, -weight_of(values))
    return values


def range_(keys: Keys, op: Range, now: float) -> Reply:
    held = keys.read(List, op.key, now)
    if isinstance(held, Failure):
        return held
    if held is None:
        return Elements((), 0, 0)
    first, end = bounds(op.start, op.stop, len(held))
    values: list[bytes] = []
    size = 0
    for value in islice(held, first, min(end, first + op.limit)):
        if size + len(value) > keys.budget:
            break
        size += len(value)
        values.append(value)
    return keys.spend(size) or Elements(tuple(values), end - first, len(held))


def length(keys: Keys, op: Length, now: float) -> Reply:
    held = keys.read(List, op.key, now)
    return held if isinstance(held, Failure) else len(held or ())


def remove(keys: Keys, op: ListRemove, now: float) -> Reply:
    opened = keys.open(List, op.key, now)
    if isinstance(opened, Failure):
        return opened
    found = opened[1].count(op.value)
    if not found:
        return 0
    if op.count:
        found = min(found, abs(op.count))
    entry, held = keys.begin(op.key, *opened)
    _drop(held, op.value, found, from_right=op.count < 0)
    keys.wrote(entry, -found * (len(op.value) + ELEMENT_OVERHEAD))
    return found


def _drop(held: List, value: bytes, count: int, from_right: bool) -> None:
    if from_right:
        held.reverse()
    kept: list[bytes] = []
    for element in held:
        if count and element == value:
            count -= 1
        else:
            kept.append(element)
    held.clear()
    held.extend(kept)
    if from_right:
        held.reverse()


def trim(keys: Keys, op: ListTrim, now: float) -> Reply:
    opened = keys.open(List, op.key, now)
    if isinstance(opened, Failure):
        return opened
    if opened[0] is None:
        return 0
    first, end = bounds(op.start, op.stop, len(opened[1]))
    entry, held = keys.begin(op.key, *opened)
    gone = [held.pop() for _ in range(len(held) - end)]
    gone += [held.popleft() for _ in range(first)]
    keys.wrote(entry, -weight_of(gone))
    return end - first
