"""Operations on several keys, in a cluster: parts that one node can answer, and one reply again. Pure.

`Exists` asks for each key by itself: while a slot moves, its keys are on two nodes. `Delete` is taken apart by
namespace, which no tool needs; within one Redis says TRYAGAIN. `Atomic` is never taken apart: there Redis refuses.
"""

from collections.abc import Sequence

from kvmcp.backends.ops import MAX_BATCH_KEYS, Delete, Exists, Failure, NsKey, Op, Reply
from kvmcp.backends.redis.errors import CONNECTION_LOST, STRANGE_REPLY, lost_write


def needs_parts(op: Op) -> bool:
    """Whether it has to be taken apart; one with too many keys is refused as it is."""
    if not isinstance(op, Delete | Exists) or len(op.keys) > MAX_BATCH_KEYS:
        return False
    return len(_groups(op)) > 1


def take_apart(batch: Sequence[Op]) -> list[Op]:
    """The same work in parts, in order."""
    return [part for op in batch for part in _parts(op)]


def put_together(batch: Sequence[Op], replies: Sequence[Reply]) -> list[Reply]:
    """The replies to `batch` out of those to its parts."""
    rest = iter(replies)
    return [_join(op, [next(rest) for _ in _parts(op)]) for op in batch]


def _namespace(key: NsKey) -> str:
    return key.space.partition(":")[0]


def _groups(op: Delete | Exists) -> list[list[int]]:
    """Where in the operation's keys those of each part are."""
    if isinstance(op, Exists):
        return [[index] for index in range(len(op.keys))]
    groups: dict[str, list[int]] = {}
    for index, key in enumerate(op.keys):
        groups.setdefault(_namespace(key), []).append(index)
    return list(groups.values())


def _parts(op: Op) -> Sequence[Op]:
    if not (isinstance(op, Delete | Exists) and needs_parts(op)):
        return (op,)
    return [type(op)(tuple([op.keys[index] for index in group])) for group in _groups(op)]


def _join(op: Op, replies: Sequence[Reply]) -> Reply:
    if len(replies) == 1:
        return replies[0]
    if isinstance(op, Delete):
        return _sum(replies)
    assert isinstance(op, Exists), "nothing else is taken apart"
    found = [False] * len(op.keys)
    for (index,), reply in zip(_groups(op), replies, strict=True):
        if not isinstance(reply, tuple):
            return reply if isinstance(reply, Failure) else STRANGE_REPLY
        found[index] = reply == (True,)
    return tuple(found)


def _sum(counts: Sequence[Reply]) -> Reply:
    """All counts together; where only some parts ran, nobody can say that it was applied, or not."""
    failures = [count for count in counts if isinstance(count, Failure)]
    if not failures:
        return sum(count for count in counts if isinstance(count, int))
    return failures[0] if len(failures) == len(counts) else lost_write(CONNECTION_LOST)
