"""Redis's replies as replies to operations. Pure.

A reply comes as a command gives it (RESP3) or as the script does (RESP2 inside: numbers as text, pairs in a row).
What is none of what an operation can get is `STRANGE_REPLY`; nothing that a server sends raises.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import hiredis

from kvmcp.backends.ops import (
    Append,
    Claimed,
    Delete,
    Elements,
    Entries,
    Exists,
    Expire,
    Get,
    GetDelete,
    GetMany,
    HashDelete,
    HashExpire,
    HashGet,
    HashGetAll,
    HashSet,
    HashSize,
    Increment,
    KeyType,
    Length,
    ListRemove,
    ListTrim,
    LogPage,
    Persist,
    Pop,
    Publish,
    Published,
    Push,
    QueueAck,
    QueueClaim,
    QueueExtend,
    QueueHolds,
    Range,
    Ranked,
    ReadLog,
    Rename,
    Reply,
    Set,
    SetAdd,
    SetContains,
    SetMembers,
    SetRemove,
    SetSize,
    Single,
    SizeOf,
    SortedAdd,
    SortedByScore,
    SortedIncrement,
    SortedRange,
    SortedRank,
    SortedRemove,
    SortedScore,
    SortedSize,
    StreamAdd,
    StreamDelete,
    StreamEntry,
    StreamLength,
    StreamRange,
    StreamTrim,
    Ttl,
    TtlReply,
    TypeOf,
)
from kvmcp.backends.redis.errors import STRANGE_REPLY, failure_of
from kvmcp.backends.redis.resp import Slot
from kvmcp.backends.redis.values import present

Decode: TypeAlias = Callable[[Slot], Reply]

_TYPES: Final[dict[bytes, KeyType | None]] = {
    b"none": None,
    b"string": "value",
    b"list": "list",
    b"hash": "hash",
    b"set": "set",
    b"zset": "sorted_set",
    b"stream": "stream",
}


class Strange(Exception):
    """Not what the operation can get."""


def decode_one(op: Single, slot: Slot) -> Reply:
    """The reply out of the one thing that the operation got."""
    if isinstance(slot, hiredis.ReplyError):
        return failure_of(slot)
    try:
        return _DECODERS[type(op)](slot)
    except (Strange, ValueError):  # numbers that are none
        return STRANGE_REPLY


# --- parts


def _bytes(slot: Slot) -> bytes:
    if type(slot) is bytes:
        return slot
    raise Strange


def _int(slot: Slot) -> int:
    if type(slot) is int:
        return slot
    raise Strange


def _list(slot: Slot) -> list[Any]:
    """Any: what a server sends; each item is looked at."""
    if type(slot) is list:
        return slot
    raise Strange


def _items(slot: Slot, count: int) -> list[Any]:
    items = _list(slot)
    if len(items) != count:
        raise Strange
    return items


def _number(slot: Slot) -> float:
    return slot if type(slot) is float else float(_int(slot) if type(slot) is int else _bytes(slot))


def _decimal(slot: Slot) -> str:
    text = _bytes(slot)
    if len(text) > 20 or not text.isdigit():
        raise Strange
    return text.decode()


def _twos(slot: Slot) -> list[tuple[Any, Any]]:
    """Pairs out of what stands in a row."""
    items = _list(slot)
    if len(items) % 2:
        raise Strange
    return list(zip(items[::2], items[1::2], strict=True))


def _fields(slot: Slot) -> tuple[tuple[str, bytes], ...]:
    """Fields without those whose name is not UTF-8: no operation could name them."""
    fields: list[tuple[str, bytes]] = []
    for name, value in _twos(slot):
        try:
            fields.append((_bytes(name).decode(), present(_bytes(value))))
        except UnicodeDecodeError:
            continue
    return tuple(fields)


def _values(slot: Slot) -> tuple[bytes, ...]:
    return tuple([present(_bytes(value)) for value in _list(slot)])


def _scored(slot: Slot) -> tuple[tuple[bytes, float], ...]:
    return tuple([(present(_bytes(member)), _number(score)) for member, score in _twos(slot)])


# --- whole replies


def _value(slot: Slot) -> Reply:
    # The hottest: a value is there, as a rule.
    if type(slot) is bytes:
        return present(slot)
    if slot is None:
        return None
    raise Strange


def _many_values(slot: Slot) -> Reply:
    return tuple([failure_of(v) if isinstance(v, hiredis.ReplyError) else _value(v) for v in _list(slot)])


def _done(slot: Slot) -> Reply:
    if slot != b"OK":
        raise Strange
    return True


def _count(slot: Slot) -> Reply:
    return _int(slot)


def _yes(slot: Slot) -> Reply:
    return _int(slot) == 1


def _which(slot: Slot) -> Reply:
    return tuple([_int(item) == 1 for item in _list(slot)])


def _life(slot: Slot) -> Reply:
    left = _int(slot)
    if left < 0:
        return TtlReply(found=left == -1)
    return TtlReply(found=True, milliseconds=left)


def _renamed(slot: Slot) -> Reply:
    return {0: False, 1: True}.get(_int(slot))


def _type(slot: Slot) -> Reply:
    return _TYPES.get(_bytes(slot), "other")


def _maybe_count(slot: Slot) -> Reply:
    return None if slot is None else _int(slot)


def _elements(slot: Slot) -> Reply:
    length, size, values = _items(slot, 3)
    return Elements(_values(values), _int(size), _int(length))


def _found_values(slot: Slot) -> Reply:
    return tuple([None if value is None else present(_bytes(value)) for value in _list(slot)])


def _hash(slot: Slot) -> Reply:
    return tuple(sorted(_fields(slot), key=_name_bytes))


def _name_bytes(field: tuple[str, bytes]) -> bytes:
    return field[0].encode()


def _members(slot: Slot) -> Reply:
    return tuple([present(member) for member in sorted(map(_bytes, _list(slot)))])


def _ranked(slot: Slot) -> Reply:
    size, members = _items(slot, 2)
    return Ranked(_scored(members), _int(size))


def _scores(slot: Slot) -> Reply:
    return tuple([None if score is None else _number(score) for score in _list(slot)])


def _score(slot: Slot) -> Reply:
    return _number(slot)


def _id(slot: Slot) -> Reply:
    return _bytes(slot).decode("ascii")


def _entries(slot: Slot) -> Reply:
    more, entries = _items(slot, 2)
    pairs = [_items(entry, 2) for entry in _list(entries)]
    found = [StreamEntry(_bytes(identifier).decode("ascii"), _fields(fields)) for identifier, fields in pairs]
    return Entries(tuple(found), _int(more) == 1)


def _published(slot: Slot) -> Reply:
    receivers, number = _items(slot, 2)
    return Published(_int(receivers), _decimal(number))


def _log_page(slot: Slot) -> Reply:
    cursor, lost, messages = _items(slot, 3)
    pairs = [(_decimal(number), present(_bytes(message))) for number, message in _twos(messages)]
    return LogPage(tuple(pairs), _decimal(cursor), _int(lost))


def _claims(slot: Slot) -> Reply:
    items = _list(slot)
    if len(items) % 3:
        raise Strange
    threes = zip(items[::3], items[1::3], items[2::3], strict=True)
    return tuple(
        [
            Claimed(_bytes(receipt).decode("ascii"), present(_bytes(value)), _int(n))
            for receipt, value, n in threes
        ]
    )


_DECODERS: Final[dict[type[Single], Decode]] = {
    Get: _value,
    GetMany: _many_values,
    Set: _done,
    GetDelete: _value,
    Append: _count,
    Increment: lambda slot: int(_bytes(slot)),
    Delete: _count,
    Exists: _which,
    Rename: _renamed,
    Ttl: _life,
    Expire: _yes,
    Persist: _yes,
    TypeOf: _type,
    SizeOf: _maybe_count,
    Push: _count,
    Pop: _values,
    Range: _elements,
    Length: _count,
    ListRemove: _count,
    ListTrim: _count,
    HashSet: _count,
    HashGet: _found_values,
    HashGetAll: _hash,
    HashDelete: _count,
    HashExpire: _yes,
    HashSize: _count,
    SetAdd: _count,
    SetRemove: _count,
    SetMembers: _members,
    SetContains: _which,
    SetSize: _count,
    SortedAdd: _count,
    SortedRange: _ranked,
    SortedByScore: _ranked,
    SortedRemove: _count,
    SortedScore: _scores,
    SortedIncrement: _score,
    SortedRank: _maybe_count,
    SortedSize: _count,
    StreamAdd: _id,
    StreamRange: _entries,
    StreamLength: _count,
    StreamTrim: _count,
    StreamDelete: _count,
    Publish: _published,
    ReadLog: _log_page,
    QueueClaim: _claims,
    QueueAck: _yes,
    QueueExtend: _yes,
    QueueHolds: _yes,
}


def decode_several(op: Single, slots: Sequence[Slot]) -> Reply:
    """The reply out of what the operation's own commands got: one as a rule, one per key for `Exists`."""
    if isinstance(op, Exists):
        errors = [slot for slot in slots if isinstance(slot, hiredis.ReplyError)]
        return failure_of(errors[0]) if errors else decode_one(op, list(slots))  # type: ignore[arg-type]  # of slots that are values
    return decode_one(op, slots[0]) if slots else 0  # a Delete of no keys
