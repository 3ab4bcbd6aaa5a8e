"""Sorted sets in the memory store."""

import math
from bisect import bisect_left, bisect_right
from typing import ClassVar, Final

from kvmcp.backends.faults import OVERFLOW
from kvmcp.backends.memory.checks import SCORE_OVERHEAD
from kvmcp.backends.memory.keys import Keys
from kvmcp.backends.memory.lists import bounds
from kvmcp.backends.ops import (
    Failure,
    KeyType,
    Ranked,
    Reply,
    SortedAdd,
    SortedByScore,
    SortedIncrement,
    SortedRange,
    SortedRank,
    SortedRemove,
    SortedScore,
    SortedSize,
)

FEW: Final = 8
"""Members that are put in their places one by one; more are sorted in together."""


class SortedSet:
    """Scores by member, and members by score."""

    kind: ClassVar[KeyType] = "sorted_set"
    vanishes: ClassVar[bool] = True
    __slots__ = ("order", "scores")

    def __init__(self) -> None:
        self.scores: dict[bytes, float] = {}
        self.order: list[tuple[float, bytes]] = []

    def __len__(self) -> int:
        return len(self.order)

    def copy(self) -> "SortedSet":
        other = SortedSet()
        other.scores, other.order = self.scores.copy(), self.order.copy()
        return other

    def put(self, scores: dict[bytes, float]) -> None:
        """Give members these scores, new ones or not."""
        self.drop([member for member in scores if member in self.scores])
        self.scores.update(scores)
        pairs = [(score, member) for member, score in scores.items()]
        if len(pairs) > FEW:
            self.order += pairs
            self.order.sort()
            return
        for pair in pairs:
            self.order.insert(bisect_left(self.order, pair), pair)

    def drop(self, members: list[bytes]) -> None:
        if len(members) > FEW:
            doomed = set(members)
            self.order = [pair for pair in self.order if pair[1] not in doomed]
        else:
            for member in members:
                del self.order[self.rank(member)]
        for member in members:
            del self.scores[member]

    def rank(self, member: bytes) -> int:
        return bisect_left(self.order, (self.scores[member], member))


def add(keys: Keys, op: SortedAdd, now: float) -> Reply:
    opened = keys.open(SortedSet, op.key, now)
    if isinstance(opened, Failure):
        return opened
    scores = _wanted(op, opened[1].scores)
    new = [member for member in scores if member not in opened[1].scores]
    if not scores:
        return 0
    growth = sum([len(member) + SCORE_OVERHEAD for member in new])
    fault = keys.room(op.key, opened[0], growth, now)
    if fault is not None:
        return fault
    entry, held = keys.begin(op.key, *opened)
    held.put(scores)
    keys.wrote(entry, growth)
    return len(scores) if op.only_existing else len(new)


def _wanted(op: SortedAdd, present: dict[bytes, float]) -> dict[bytes, float]:
    """The scores that the operation changes or adds."""
    scores: dict[bytes, float] = {}
    for member, score in op.members:
        known = member in present or member in scores
        if not (known if op.only_new else not known and op.only_existing):
            scores[member] = score
    return {member: score for member, score in scores.items() if present.get(member) != score}


def by_rank(keys: Keys, op: SortedRange, now: float) -> Reply:
    held = keys.read(SortedSet, op.key, now)
    if isinstance(held, Failure):
        return held
    if held is None:
        return Ranked((), 0)
    first, end = bounds(op.start, op.stop, len(held))
    return _ranked(keys, held, first, end, op.reverse, 0, op.limit)


def by_score(keys: Keys, op: SortedByScore, now: float) -> Reply:
    held = keys.read(SortedSet, op.key, now)
    if isinstance(held, Failure):
        return held
    if held is None:
        return Ranked((), 0)
    first = 0 if op.low is None else bisect_left(held.order, op.low, key=_score)
    end = len(held) if op.high is None else bisect_right(held.order, op.high, key=_score)
    if op.reverse:
        first, end = len(held) - end, len(held) - first
    return _ranked(keys, held, first, max(first, end), op.reverse, op.offset, op.limit)


def _score(pair: tuple[float, bytes]) -> float:
    return pair[0]


def _ranked(
    keys: Keys, held: SortedSet, first: int, end: int, reverse: bool, offset: int, limit: int
) -> Reply:
    """The members of ranks `first` to `end`, without the first `offset`. Ranks count from the end where `reverse`."""
    low, high = min(end, first + offset), min(end, first + offset + limit)
    length = len(held)
    order = held.order[length - high : length - low][::-1] if reverse else held.order[low:high]
    fault = keys.spend(sum([len(member) for _, member in order]))
    return fault or Ranked(tuple([(member, score) for score, member in order]), end - first)


def remove(keys: Keys, op: SortedRemove, now: float) -> Reply:
    opened = keys.open(SortedSet, op.key, now)
    if isinstance(opened, Failure):
        return opened
    found = [member for member in dict.fromkeys(op.members) if member in opened[1].scores]
    if not found:
        return 0
    entry, held = keys.begin(op.key, *opened)
    held.drop(found)
    keys.wrote(entry, -sum([len(member) + SCORE_OVERHEAD for member in found]))
    return len(found)


def scores(keys: Keys, op: SortedScore, now: float) -> Reply:
    held = keys.read(SortedSet, op.key, now)
    if isinstance(held, Failure):
        return held
    return tuple([None if held is None else held.scores.get(member) for member in op.members])


def increment(keys: Keys, op: SortedIncrement, now: float) -> Reply:
    opened = keys.open(SortedSet, op.key, now)
    if isinstance(opened, Failure):
        return opened
    old = opened[1].scores.get(op.member)
    score = (old or 0.0) + op.by
    if not math.isfinite(score):
        return OVERFLOW
    growth = 0 if old is not None else len(op.member) + SCORE_OVERHEAD
    fault = keys.room(op.key, opened[0], growth, now)
    if fault is not None:
        return fault
    entry, held = keys.begin(op.key, *opened)
    held.put({op.member: score})
    keys.wrote(entry, growth)
    return score


def rank(keys: Keys, op: SortedRank, now: float) -> Reply:
    held = keys.read(SortedSet, op.key, now)
    if isinstance(held, Failure):
        return held
    if held is None or op.member not in held.scores:
        return None
    place = held.rank(op.member)
    return len(held) - 1 - place if op.reverse else place


def size(keys: Keys, op: SortedSize, now: float) -> Reply:
    held = keys.read(SortedSet, op.key, now)
    return held if isinstance(held, Failure) else len(held or ())
