"""Sets in the memory store."""

from typing import ClassVar

from kvmcp.backends.faults import TOO_MANY
from kvmcp.backends.memory.checks import MEMBER_OVERHEAD
from kvmcp.backends.memory.keys import Keys
from kvmcp.backends.ops import (
    MAX_COLLECTION,
    Failure,
    KeyType,
    Reply,
    SetAdd,
    SetContains,
    SetMembers,
    SetRemove,
    SetSize,
)


class Members(set[bytes]):
    """Members in no order."""

    kind: ClassVar[KeyType] = "set"
    vanishes: ClassVar[bool] = True

    def copy(self) -> "Members":
        return Members(self)


def _weight_of(members: set[bytes]) -> int:
    return sum([len(member) + MEMBER_OVERHEAD for member in members])


def add(keys: Keys, op: SetAdd, now: float) -> Reply:
    opened = keys.open(Members, op.key, now)
    if isinstance(opened, Failure):
        return opened
    new = set(op.members) - opened[1]
    if not new:
        return 0
    if len(opened[1]) + len(new) > MAX_COLLECTION:
        return TOO_MANY
    growth = _weight_of(new)
    fault = keys.room(op.key, opened[0], growth, now)
    if fault is not None:
        return fault
    entry, held = keys.begin(op.key, *opened)
    held |= new
    keys.wrote(entry, growth)
    return len(new)


def remove(keys: Keys, op: SetRemove, now: float) -> Reply:
    opened = keys.open(Members, op.key, now)
    if isinstance(opened, Failure):
        return opened
    gone = opened[1].intersection(op.members)
    if not gone:
        return 0
    entry, held = keys.begin(op.key, *opened)
    held -= gone
    keys.wrote(entry, -_weight_of(gone))
    return len(gone)


def members(keys: Keys, op: SetMembers, now: float) -> Reply:
    held = keys.read(Members, op.key, now)
    if isinstance(held, Failure):
        return held
    return keys.spend(sum(map(len, held or ()))) or tuple(sorted(held or ()))


def contains(keys: Keys, op: SetContains, now: float) -> Reply:
    held = keys.read(Members, op.key, now)
    if isinstance(held, Failure):
        return held
    return tuple([held is not None and member in held for member in op.members])


def size(keys: Keys, op: SetSize, now: float) -> Reply:
    held = keys.read(Members, op.key, now)
    return held if isinstance(held, Failure) else len(held or ())
