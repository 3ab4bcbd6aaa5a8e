"""Hashes in the memory store."""

import re
from typing import ClassVar, Final

from kvmcp.backends.checks import key_bytes
from kvmcp.backends.faults import TOO_MANY
from kvmcp.backends.memory.checks import FIELD_OVERHEAD
from kvmcp.backends.memory.keys import Keys, fields_size
from kvmcp.backends.ops import (
    MAX_COLLECTION,
    MAX_TTL_SECONDS,
    Failure,
    HashDelete,
    HashExpire,
    HashGet,
    HashGetAll,
    HashSet,
    HashSize,
    KeyType,
    Reply,
)

_SECONDS: Final = re.compile(rb"[1-9][0-9]{0,9}")


class Hash(dict[str, bytes]):
    """Values by the names of their fields."""

    kind: ClassVar[KeyType] = "hash"
    vanishes: ClassVar[bool] = True

    def copy(self) -> "Hash":
        return Hash(self)


def _weight_of(name: str, value: bytes | None) -> int:
    return 0 if value is None else key_bytes(name) + len(value) + FIELD_OVERHEAD


def set_(keys: Keys, op: HashSet, now: float) -> Reply:
    opened = keys.open(Hash, op.key, now)
    if isinstance(opened, Failure):
        return opened
    entry, held = opened
    fields = dict(op.fields)
    created = len(fields.keys() - held.keys())
    if created and len(held) + created > MAX_COLLECTION:
        return TOO_MANY
    growth = sum(
        [_weight_of(name, value) - _weight_of(name, held.get(name)) for name, value in fields.items()]
    )
    fault = keys.room(op.key, entry, growth, now)
    if fault is not None:
        return fault
    entry, held = keys.begin(op.key, entry, held)
    held.update(fields)
    keys.wrote(entry, growth)
    return created


def get(keys: Keys, op: HashGet, now: float) -> Reply:
    held = keys.read(Hash, op.key, now)
    if isinstance(held, Failure):
        return held
    values = (None,) * len(op.fields) if held is None else tuple(map(held.get, op.fields))
    return keys.spend(sum([len(value) for value in values if value is not None])) or values


def get_all(keys: Keys, op: HashGetAll, now: float) -> Reply:
    held = keys.read(Hash, op.key, now)
    if isinstance(held, Failure):
        return held
    pairs = tuple(sorted(held.items(), key=_name_bytes)) if held is not None else ()
    return keys.spend(fields_size(pairs)) or pairs


def _name_bytes(pair: tuple[str, bytes]) -> bytes:
    return pair[0].encode("utf-8", "surrogatepass")


def delete(keys: Keys, op: HashDelete, now: float) -> Reply:
    opened = keys.open(Hash, op.key, now)
    if isinstance(opened, Failure):
        return opened
    found = [name for name in dict.fromkeys(op.fields) if name in opened[1]]
    if not found:
        return 0
    entry, held = keys.begin(op.key, *opened)
    keys.wrote(entry, -sum([_weight_of(name, held.pop(name)) for name in found]))
    return len(found)


def expire(keys: Keys, op: HashExpire, now: float) -> Reply:
    entry, held = keys.find(op.key, now), keys.read(Hash, op.key, now)
    said = held.get(op.field) if isinstance(held, Hash) else None
    if entry is None or said is None or not _SECONDS.fullmatch(said) or int(said) > MAX_TTL_SECONDS:
        return False
    keys.move(entry, now + int(said))
    keys.changed(entry)
    return True


def size(keys: Keys, op: HashSize, now: float) -> Reply:
    held = keys.read(Hash, op.key, now)
    return held if isinstance(held, Failure) else len(held or ())
