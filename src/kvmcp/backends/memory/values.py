"""Values, and what is the same for keys of every type, in the memory store. (`Get` and `Set` are in `backend`.)"""

import re
from typing import Final

from kvmcp.backends.checks import key_bytes
from kvmcp.backends.faults import NOT_A_STRING, NOT_AN_INTEGER, OVERFLOW, TOO_LONG, WRONG_TYPE
from kvmcp.backends.memory.keys import Keys
from kvmcp.backends.memory.keyspace import NEVER, Entry
from kvmcp.backends.ops import (
    MAX_INTEGER,
    MAX_VALUE_BYTES,
    Append,
    Delete,
    Exists,
    Expire,
    GetDelete,
    GetMany,
    Increment,
    NsKey,
    Persist,
    Rename,
    Reply,
    SizeOf,
    Ttl,
    TtlReply,
    TypeOf,
)
from kvmcp.backends.text import string_length

_INTEGER: Final = re.compile(rb"0|-?[1-9][0-9]{0,18}")


def get_many(keys: Keys, op: GetMany, now: float) -> Reply:
    entries = [keys.find(key, now) for key in op.keys]
    fault = keys.spend(
        sum([entry.weight for entry in entries if entry is not None and entry.value is not None])
    )
    if fault is not None:
        return fault
    return tuple([None if e is None else WRONG_TYPE if e.value is None else e.value for e in entries])


def get_delete(keys: Keys, op: GetDelete, now: float) -> Reply:
    entry = keys.find(op.key, now)
    if entry is None:
        return None
    value = entry.value
    if value is None:
        return WRONG_TYPE
    fault = keys.spend(len(value))
    if fault is None:
        keys.remove(entry)
    return fault or value


def append(keys: Keys, op: Append, now: float) -> Reply:
    entry = keys.find(op.key, now)
    value = b'""' if entry is None else entry.value
    if value is None:
        return WRONG_TYPE
    if string_length(value) is None:
        return NOT_A_STRING
    value = value[:-1] + op.text[1:]
    if len(value) > MAX_VALUE_BYTES:
        return TOO_LONG
    return _rewrite(keys, op.key, entry, value, now) or string_length(value)


def increment(keys: Keys, op: Increment, now: float) -> Reply:
    entry = keys.find(op.key, now)
    value = b"0" if entry is None else entry.value
    if value is None:
        return WRONG_TYPE
    if _INTEGER.fullmatch(value) is None or not _is_int64(int(value)):
        return NOT_AN_INTEGER
    total = int(value) + op.by
    if not _is_int64(total):
        return OVERFLOW
    fault = _rewrite(keys, op.key, entry, b"%d" % total, now)
    return total if fault is None else fault


def _is_int64(number: int) -> bool:
    return -MAX_INTEGER - 1 <= number <= MAX_INTEGER


def _rewrite(keys: Keys, key: NsKey, entry: Entry | None, value: bytes, now: float) -> Reply:
    """Another value for a key that keeps its time to live. The failure, if there is no room."""
    fault = keys.room(key, entry, len(value) - (0 if entry is None else entry.weight), now)
    if fault is not None:
        return fault
    entry = entry or keys.create(key)
    keys.replace(entry, value, None, len(value))
    keys.changed(entry)
    return None


def delete(keys: Keys, op: Delete, now: float) -> Reply:
    found = 0
    for key in op.keys:
        entry = keys.find(key, now)
        if entry is not None:
            keys.remove(entry)
            found += 1
    return found


def exists(keys: Keys, op: Exists, now: float) -> Reply:
    return tuple([keys.find(key, now) is not None for key in op.keys])


def rename(keys: Keys, op: Rename, now: float) -> Reply:
    entry = keys.find(op.key, now)
    if entry is None:
        return None
    target = keys.find(op.to, now)
    if op.if_absent and target is not None:
        return False
    if target is entry:
        return True
    fault = keys.refusal(0, key_bytes(op.to.name) - key_bytes(op.key.name), now)
    if fault is not None:
        return fault
    if target is not None:
        keys.remove(target)
    value, held, weight, deadline = entry.value, entry.held, entry.weight, entry.deadline
    keys.remove(entry)
    target = keys.create(op.to)
    keys.replace(target, value, None if held is None else keys.owned(held), weight)
    keys.move(target, deadline)
    keys.changed(target)
    return True


def ttl(keys: Keys, op: Ttl, now: float) -> Reply:
    entry = keys.find(op.key, now)
    if entry is None:
        return TtlReply(False)
    if entry.deadline == NEVER:
        return TtlReply(True)
    return TtlReply(True, max(1, round((entry.deadline - now) * 1000)))


def expire(keys: Keys, op: Expire, now: float) -> Reply:
    entry = keys.find(op.key, now)
    if entry is None:
        return False
    keys.move(entry, now + op.ttl_ms / 1000)
    keys.changed(entry)
    return True


def persist(keys: Keys, op: Persist, now: float) -> Reply:
    entry = keys.find(op.key, now)
    if entry is None or entry.deadline == NEVER:
        return False
    keys.move(entry, NEVER)
    keys.changed(entry)
    return True


def type_of(keys: Keys, op: TypeOf, now: float) -> Reply:
    entry = keys.find(op.key, now)
    if entry is None:
        return None
    return "value" if entry.held is None else entry.held.kind


def size_of(keys: Keys, op: SizeOf, now: float) -> Reply:
    entry = keys.find(op.key, now)
    if entry is None:
        return None
    return entry.weight if entry.held is None else len(entry.held)
