"""What every store refuses whatever it holds, in the same words: sizes, numbers, times to live. Pure."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeAlias

from kvmcp.backends.faults import too_large, wrong
from kvmcp.backends.ops import (
    LOG_MESSAGES,
    MAX_ATOMIC_OPS,
    MAX_BATCH_KEYS,
    MAX_CLAIM_COUNT,
    MAX_FIELD_BYTES,
    MAX_INTEGER,
    MAX_ITEMS,
    MAX_KEY_BYTES,
    MAX_MEMBER_BYTES,
    MAX_OWNER_BYTES,
    MAX_RECEIPT_BYTES,
    MAX_TTL_SECONDS,
    MAX_VALUE_BYTES,
    Append,
    Atomic,
    Delete,
    Exists,
    Expire,
    Failure,
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
    Length,
    ListRemove,
    ListTrim,
    NsKey,
    Persist,
    Pop,
    Publish,
    Push,
    QueueAck,
    QueueClaim,
    QueueExtend,
    QueueHolds,
    Range,
    ReadLog,
    Rename,
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
    StreamLength,
    StreamRange,
    StreamTrim,
    Ttl,
    TypeOf,
    namespace_of,
)
from kvmcp.backends.text import string_length

MAX_TTL_MS: Final = MAX_TTL_SECONDS * 1000
_MAX_PART: Final = 2**64 - 1
"""Each number of a stream entry's id."""
_ID: Final = re.compile(r"([0-9]{1,20})-([0-9]{1,20})", re.ASCII)

_Fault: TypeAlias = Failure | None


def key_bytes(name: str) -> int:
    """Length as UTF-8. Total even for lone surrogates, which are refused long before they come here."""
    return len(name) if name.isascii() else len(name.encode("utf-8", "surrogatepass"))


def stream_id(text: str) -> tuple[int, int] | None:
    """The numbers of a stream entry's id."""
    match = _ID.fullmatch(text)
    if match is None:
        return None
    first, second = int(match[1]), int(match[2])
    return (first, second) if first <= _MAX_PART and second <= _MAX_PART else None


# --- parts of operations


def _key(key: NsKey) -> _Fault:
    """Of a write only: a key to read that is too long just does not exist."""
    return _size(key_bytes(key.name), MAX_KEY_BYTES, "key")


def _size(size: int, limit: int, what: str) -> _Fault:
    return None if size <= limit else too_large(f"{what} of {size} bytes, limit is {limit}")


def _sizes(texts: Iterable[bytes], limit: int, what: str) -> _Fault:
    return _size(max(map(len, texts)), limit, what)


def _items(count: int, what: str) -> _Fault:
    if count > MAX_ITEMS:
        return too_large(f"{count} {what} in one operation, limit is {MAX_ITEMS}")
    return None if count else wrong(f"no {what}; at least one is needed")


def _between(number: int, low: int, high: int, what: str) -> _Fault:
    return None if low <= number <= high else wrong(f"{what} of {number}, must be from {low} to {high}")


def _integers(*numbers: int) -> _Fault:
    if all(-MAX_INTEGER - 1 <= number <= MAX_INTEGER for number in numbers):
        return None
    return wrong("a number of more than 64 bits")


def _ttl(ttl_ms: int) -> _Fault:
    if 1 <= ttl_ms <= MAX_TTL_MS:
        return None
    return wrong(f"time to live of {ttl_ms} ms, must be from 1 to {MAX_TTL_MS}")


def _names(names: Sequence[str]) -> _Fault:
    return _items(len(names), "fields") or _size(max(map(key_bytes, names)), MAX_FIELD_BYTES, "field")


def _members(members: Sequence[bytes]) -> _Fault:
    return _items(len(members), "members") or _sizes(members, MAX_MEMBER_BYTES, "member")


# --- operations


def set_fault(op: Set) -> Failure | None:
    fault = _size(len(op.value), MAX_VALUE_BYTES, "value") or _key(op.key)
    if fault is not None or op.ttl_ms is None:
        return fault
    return wrong("both a time to live and the old one to keep") if op.keep_ttl else _ttl(op.ttl_ms)


def expire_fault(op: Expire) -> Failure | None:
    return _ttl(op.ttl_ms)


def keys_fault(op: Delete | Exists | GetMany) -> Failure | None:
    if len(op.keys) > MAX_BATCH_KEYS:
        return too_large(f"{len(op.keys)} keys in one operation, limit is {MAX_BATCH_KEYS}")
    return None


def _get_many(op: GetMany) -> _Fault:
    fault = keys_fault(op)
    return fault or (
        wrong("keys of more than one namespace") if len(set(map(namespace_of, op.keys))) > 1 else None
    )


def _append(op: Append) -> _Fault:
    fault = _size(len(op.text), MAX_VALUE_BYTES, "text") or _key(op.key)
    return fault or (
        wrong("what is to be appended is not a JSON string") if string_length(op.text) is None else None
    )


def _increment(op: Increment) -> _Fault:
    return _key(op.key) or _integers(op.by)


def _rename(op: Rename) -> _Fault:
    fault = _key(op.to)
    return fault or (
        None if namespace_of(op.key) == namespace_of(op.to) else wrong("names of two namespaces")
    )


def _push(op: Push) -> _Fault:
    return _key(op.key) or _items(len(op.values), "elements") or _sizes(op.values, MAX_VALUE_BYTES, "element")


def _pop(op: Pop) -> _Fault:
    return _between(op.count, 1, MAX_ITEMS, "count")


def _range(op: Range | SortedRange) -> _Fault:
    return _between(op.limit, 1, MAX_ITEMS, "limit") or _integers(op.start, op.stop)


def _hash_set(op: HashSet) -> _Fault:
    fault = _key(op.key) or _names([name for name, _ in op.fields])
    return fault or _sizes([value for _, value in op.fields], MAX_VALUE_BYTES, "value")


def _set_add(op: SetAdd) -> _Fault:
    return _key(op.key) or _members(op.members)


def _sorted_add(op: SortedAdd) -> _Fault:
    if op.only_new and op.only_existing:
        return wrong("both only new and only existing members")
    fault = _key(op.key) or _members([member for member, _ in op.members])
    return fault or (
        None if all(math.isfinite(score) for _, score in op.members) else wrong("a score that is not finite")
    )


def _sorted_by_score(op: SortedByScore) -> _Fault:
    if op.low != op.low or op.high != op.high:
        return wrong("a score that is not a number")
    return _between(op.limit, 1, MAX_ITEMS, "limit") or _between(op.offset, 0, MAX_INTEGER, "offset")


def _sorted_increment(op: SortedIncrement) -> _Fault:
    fault = _key(op.key) or _members((op.member,))
    return fault or (None if math.isfinite(op.by) else wrong("a score that is not finite"))


def _stream_add(op: StreamAdd) -> _Fault:
    fault = _key(op.key) or _names([name for name, _ in op.fields])
    total = sum([key_bytes(name) + len(value) for name, value in op.fields])
    fault = fault or _size(total, MAX_VALUE_BYTES, "entry")
    return fault or (None if op.max_length is None else _between(op.max_length, 1, MAX_INTEGER, "length"))


def _stream_range(op: StreamRange) -> _Fault:
    if (fault := _between(op.count, 1, MAX_ITEMS, "count")) is not None:
        return fault
    if op.first == "(18446744073709551615-18446744073709551615" or op.last == "(0-0":
        return wrong("nothing is beyond that id")
    for bound in (op.first, op.last):
        if bound not in ("-", "+") and stream_id(bound.removeprefix("(")) is None:
            return wrong("an id of a stream's entry must be two numbers, as in 1700000000000-0")
    return None


def _stream_delete(op: StreamDelete) -> _Fault:
    if (fault := _items(len(op.ids), "ids")) is not None:
        return fault
    if all(stream_id(text) is not None for text in op.ids):
        return None
    return wrong("an id of a stream's entry must be two numbers, as in 1700000000000-0")


def _publish(op: Publish) -> _Fault:
    return _size(len(op.message), MAX_VALUE_BYTES, "message") or _key(op.channel)


def _read_log(op: ReadLog) -> _Fault:
    fault = _between(op.count, 1, LOG_MESSAGES, "count")
    return fault or (None if op.after is None else _between(op.after, 0, MAX_INTEGER, "message number"))


def _claim(op: QueueClaim) -> _Fault:
    fault = _key(op.queue) or _size(key_bytes(op.owner), MAX_OWNER_BYTES, "owner")
    return fault or _ttl(op.visibility_ms) or _between(op.count, 1, MAX_CLAIM_COUNT, "count")


def _receipt(op: QueueAck | QueueExtend | QueueHolds) -> _Fault:
    return _size(key_bytes(op.receipt), MAX_RECEIPT_BYTES, "receipt")


def _no_fault(op: Single) -> None:
    """Names a key only."""


FAULTS: Final[dict[type[Single], Callable[[Any], Failure | None]]] = {
    **dict.fromkeys(
        (
            Get,
            GetDelete,
            Ttl,
            Persist,
            TypeOf,
            SizeOf,
            Length,
            HashGetAll,
            HashSize,
            SetMembers,
            SetSize,
            SortedSize,
            StreamLength,
        ),
        _no_fault,
    ),
    GetMany: _get_many,
    Set: set_fault,
    Append: _append,
    Increment: _increment,
    Delete: keys_fault,
    Exists: keys_fault,
    Rename: _rename,
    Expire: expire_fault,
    Push: _push,
    Pop: _pop,
    Range: _range,
    ListRemove: lambda op: _size(len(op.value), MAX_VALUE_BYTES, "element") or _integers(op.count),
    ListTrim: lambda op: _integers(op.start, op.stop),
    HashSet: _hash_set,
    HashGet: lambda op: _names(op.fields),
    HashDelete: lambda op: _names(op.fields),
    HashExpire: lambda op: _names((op.field,)),
    SetAdd: _set_add,
    SetRemove: lambda op: _members(op.members),
    SetContains: lambda op: _members(op.members),
    SortedAdd: _sorted_add,
    SortedRange: _range,
    SortedByScore: _sorted_by_score,
    SortedRemove: lambda op: _members(op.members),
    SortedScore: lambda op: _members(op.members),
    SortedIncrement: _sorted_increment,
    SortedRank: lambda op: _members((op.member,)),
    StreamAdd: _stream_add,
    StreamRange: _stream_range,
    StreamTrim: lambda op: _between(op.max_length, 0, MAX_INTEGER, "length"),
    StreamDelete: _stream_delete,
    Publish: _publish,
    ReadLog: _read_log,
    QueueClaim: _claim,
    QueueAck: _receipt,
    QueueHolds: _receipt,
    QueueExtend: lambda op: _receipt(op) or _ttl(op.visibility_ms),
}
"""Why an operation would be refused whatever the store holds. Any: a dict cannot say that its key's type is the argument's."""


def ops_fault(ops: Sequence[Single]) -> Failure | None:
    """Why operations would be refused as a whole."""
    return next((fault for op in ops if (fault := FAULTS[type(op)](op)) is not None), None)


def atomic_fault(op: Atomic) -> Failure | None:
    """Why an `Atomic` is too much, whatever is in it."""
    most = max(len(op.ops), len(op.conditions))
    return (
        too_large(f"{most} operations at once, limit is {MAX_ATOMIC_OPS}") if most > MAX_ATOMIC_OPS else None
    )
