"""Operations as Redis commands, and Redis's replies as replies. Pure.

Keys and channels are `{prefix}:{space}:{name}`, so `kvmcp:{acme}:k:user:1`. Only core commands of Redis 7.0 are used:

    GET SET DEL EXISTS PTTL PEXPIRE SCAN PUBLISH (SPUBLISH in a cluster) MULTI EXEC EVALSHA EVAL
"""

import hashlib
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Final, TypeAlias

import hiredis

from kvmcp.backends.checks import expire_fault, keys_fault, ops_fault, publish_fault, set_fault
from kvmcp.backends.ops import (
    Atomic,
    Condition,
    Delete,
    Exists,
    Expire,
    Failure,
    Get,
    KeyIs,
    NsKey,
    Op,
    Publish,
    Reply,
    Set,
    Single,
    Ttl,
    TtlReply,
)
from kvmcp.backends.redis.errors import STRANGE_REPLY, class_of, failure_of
from kvmcp.backends.redis.resp import Slot, pack
from kvmcp.backends.redis.values import present

Encoded: TypeAlias = tuple[bytes, ...] | Failure
_Encode: TypeAlias = Callable[[Any], Encoded]
"""Any: a dict cannot say that its key's type is the argument's."""
_Decode: TypeAlias = Callable[[Any, Sequence[Slot]], Reply]

_PLAIN: Final[tuple[type[Op], ...]] = (Get, Set, Delete, Ttl, Expire)
"""Operations that are one command each and mean nothing to anybody but their key."""
_MULTI: Final = pack("MULTI")
_EXEC: Final = pack("EXEC")

SCRIPT: Final = b"""\
local a, k = 2, 1
for _ = 1, tonumber(ARGV[1]) do
  local want, key = ARGV[a], KEYS[k]
  a, k = a + 1, k + 1
  if want == '=' then
    if redis.pcall('GET', key) ~= ARGV[a] then return false end
    a = a + 1
  elseif redis.call('EXISTS', key) ~= tonumber(want) then
    return false
  end
end
local replies = {}
while a <= #ARGV do
  local command, keys, arguments = {ARGV[a]}, tonumber(ARGV[a + 1]), tonumber(ARGV[a + 2])
  a = a + 3
  for _ = 1, keys do command[#command + 1] = KEYS[k]; k = k + 1 end
  for _ = 1, arguments do command[#command + 1] = ARGV[a]; a = a + 1 end
  local run = command[1] == 'GET' and redis.pcall or redis.call
  replies[#replies + 1] = run(unpack(command))
end
return replies
"""
"""Conditions, then commands, in one step: a transaction cannot compare, and WATCH needs a connection of its own
and two round trips. `1`/`0`: the key exists or not; `=`: it holds the next argument. Only a GET may fail (another
program's type); Redis refuses writes it has no room for before the first of them has run."""
SCRIPT_SHA: Final = hashlib.sha1(SCRIPT, usedforsecurity=False).hexdigest().encode()
LOAD_SCRIPT: Final = pack("SCRIPT", "LOAD", SCRIPT)


class Commands:
    """Encodes operations for one key prefix."""

    def __init__(self, prefix: str, sharded: bool = False) -> None:
        self.prefix = prefix
        self.sharded = sharded
        self._publish_name = b"SPUBLISH" if sharded else b"PUBLISH"
        self._encoders: dict[type[Op], _Encode] = {
            Get: self._get,
            Set: self._set,
            Delete: self._delete,
            Exists: self._exists,
            Ttl: self._ttl,
            Expire: self._expire,
            Publish: self._publish,
            Atomic: self._atomic,
        }

        self._plain: dict[type[Op], _Encode] = {kind: self._encoders[kind] for kind in _PLAIN}

    def key(self, key: NsKey) -> bytes:
        return f"{self.prefix}:{key.space}:{key.name}".encode("utf-8", "surrogatepass")

    def encode(self, op: Op) -> Encoded:
        """The commands of one operation (not `Scan`, which has many rounds), or why it is refused."""
        return self._encoders[type(op)](op)

    def encode_plain(self, batch: Sequence[Op]) -> list[bytes] | None:
        """One command per operation, or None where an operation is refused or needs another number of them."""
        encoders = self._plain
        try:
            encoded = [encoders[type(op)](op) for op in batch]
        except KeyError:
            return None
        commands = [own[0] for own in encoded if type(own) is tuple and len(own) == 1]
        return commands if len(commands) == len(encoded) else None

    def evaluate(self, op: Atomic, by_hash: bool = True) -> bytes:
        """The script's call for an `Atomic` with conditions."""
        keys = [self.key(condition.key) for condition in op.conditions]
        arguments: list[bytes | int] = [len(op.conditions)]
        for condition in op.conditions:
            arguments += _condition(condition)
        for single in () if ops_fault(op.ops) else op.ops:
            for name, own_keys, own_arguments in self._parts(single):
                keys += own_keys
                arguments += (name, len(own_keys), len(own_arguments), *own_arguments)
        what = (b"EVALSHA", SCRIPT_SHA) if by_hash else (b"EVAL", SCRIPT)
        return pack(*what, len(keys), *keys, *arguments)

    # --- one method per operation

    def _get(self, op: Get) -> Encoded:
        # Packed by hand: the hottest operation.
        key = op.key
        encoded = f"{self.prefix}:{key.space}:{key.name}".encode("utf-8", "surrogatepass")
        return (b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(encoded), encoded),)

    def _set(self, op: Set) -> Encoded:
        return set_fault(op) or self._packed(op)

    def _delete(self, op: Delete) -> Encoded:
        return keys_fault(op) or self._packed(op)

    def _exists(self, op: Exists) -> Encoded:
        return keys_fault(op) or self._packed(op)

    def _ttl(self, op: Ttl) -> Encoded:
        return (pack(b"PTTL", self.key(op.key)),)

    def _expire(self, op: Expire) -> Encoded:
        return expire_fault(op) or self._packed(op)

    def _publish(self, op: Publish) -> Encoded:
        return publish_fault(op) or self._packed(op)

    def _atomic(self, op: Atomic) -> Encoded:
        if op.conditions:
            return (self.evaluate(op),)
        fault = ops_fault(op.ops)
        if fault is not None:
            return fault
        inner = [command for single in op.ops for command in self._packed(single)]
        return (_MULTI, *inner, _EXEC)

    def _packed(self, op: Single) -> tuple[bytes, ...]:
        return tuple([pack(name, *keys, *arguments) for name, keys, arguments in self._parts(op)])

    def _parts(self, op: Single) -> list[tuple[bytes, list[bytes], list[bytes | int]]]:
        """Each command as name, keys, arguments."""
        match op:
            case Get():
                return [(b"GET", [self.key(op.key)], [])]
            case Set():
                life: list[bytes | int] = [] if op.ttl_ms is None else [b"PX", op.ttl_ms]
                return [(b"SET", [self.key(op.key)], [op.value, *life])]
            case Delete():
                return [(b"DEL", [self.key(key) for key in op.keys], [])] if op.keys else []
            case Exists():
                return [(b"EXISTS", [self.key(key)], []) for key in op.keys]
            case Ttl():
                return [(b"PTTL", [self.key(op.key)], [])]
            case Expire():
                return [(b"PEXPIRE", [self.key(op.key)], [op.ttl_ms])]
            case Publish():
                return [(self._publish_name, [self.key(op.channel)], [op.message])]


def _condition(condition: Condition) -> list[bytes | int]:
    if isinstance(condition, KeyIs):
        return [b"0"] if condition.value is None else [b"=", condition.value]
    return [b"1"]


# --- replies


def decode(op: Op, slots: Sequence[Slot]) -> Reply:
    """The reply out of what the operation's commands got; nothing in `slots` is lost."""
    return _DECODERS[type(op)](op, slots)


def decode_plain(batch: Sequence[Op], slots: Sequence[Slot]) -> list[Reply]:
    """The replies to what `encode_plain` made."""
    decoders = _DECODERS
    # A value that is there at once: most of what is read (benchmarks/redis.py).
    return [
        present(slot) if type(slot) is bytes and type(op) is Get else decoders[type(op)](op, (slot,))
        for op, slot in zip(batch, slots, strict=True)
    ]


def error_in(slots: Sequence[Slot]) -> hiredis.ReplyError | None:
    """The error that kept an operation from running, if there is one."""
    errors = [slot for slot in slots if isinstance(slot, hiredis.ReplyError)]
    # EXECABORT only says that a transaction was refused; an earlier answer says why.
    return next((error for error in errors if class_of(error) != "EXECABORT"), errors[0] if errors else None)


def _decode_get(op: Get, slots: Sequence[Slot]) -> Reply:
    value = slots[0]
    if type(value) is bytes:
        return present(value)
    return None if value is None else _odd(value)


def _decode_set(op: Set, slots: Sequence[Slot]) -> Reply:
    return True if slots[0] == b"OK" else _odd(slots[0])


def _decode_count(op: Delete | Publish, slots: Sequence[Slot]) -> Reply:
    if not slots:
        return 0  # a Delete of no keys
    return slots[0] if type(slots[0]) is int else _odd(slots[0])


def _decode_expire(op: Expire, slots: Sequence[Slot]) -> Reply:
    return slots[0] == 1 if type(slots[0]) is int else _odd(slots[0])


def _decode_exists(op: Exists, slots: Sequence[Slot]) -> Reply:
    for slot in slots:
        if type(slot) is not int:
            return _odd(slot)
    return tuple([slot == 1 for slot in slots])


def _decode_ttl(op: Ttl, slots: Sequence[Slot]) -> Reply:
    left = slots[0]
    if type(left) is not int:
        return _odd(left)
    if left < 0:
        return TtlReply(found=left == -1)
    return TtlReply(found=True, milliseconds=left)


def _decode_atomic(op: Atomic, slots: Sequence[Slot]) -> Reply:
    error = error_in(slots)
    if error is not None:
        return failure_of(error)
    result = slots[-1]
    if result is None and op.conditions:
        return None
    fault = ops_fault(op.ops)
    if fault is not None:
        return fault
    return _split(op.ops, result) if isinstance(result, list) else STRANGE_REPLY


def _split(ops: Sequence[Single], results: Sequence[Slot]) -> Reply:
    """The replies of a transaction's operations."""
    counts = [command_count(op) for op in ops]
    if sum(counts) != len(results):
        return STRANGE_REPLY
    rest = iter(results)
    return tuple([decode(op, list(islice(rest, count))) for op, count in zip(ops, counts, strict=True)])


def command_count(op: Single) -> int:
    """How many commands, hence replies, an operation makes."""
    if isinstance(op, Exists):
        return len(op.keys)
    return 0 if isinstance(op, Delete) and not op.keys else 1


def _odd(slot: Slot) -> Failure:
    return failure_of(slot) if isinstance(slot, hiredis.ReplyError) else STRANGE_REPLY


_DECODERS: Final[dict[type[Op], _Decode]] = {
    Get: _decode_get,
    Set: _decode_set,
    Delete: _decode_count,
    Exists: _decode_exists,
    Ttl: _decode_ttl,
    Expire: _decode_expire,
    Publish: _decode_count,
    Atomic: _decode_atomic,
}
