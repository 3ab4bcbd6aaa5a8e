"""Operations as Redis commands, and what they got as replies. Pure.

Keys and channels are `{prefix}:{space}:{name}`, so `kvmcp:{acme}:k:user:1`. An operation is one command where a command
does it, and a call of the script where none does (`steps`, `script`). An `Atomic` is a transaction where nothing in it
can fail and nothing is compared, and a call of the script otherwise.
"""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Final, TypeAlias

import hiredis

from kvmcp.backends.checks import FAULTS, atomic_fault, ops_fault, set_fault
from kvmcp.backends.ops import (
    Atomic,
    Delete,
    Exists,
    Failure,
    Get,
    NsKey,
    Op,
    Reply,
    Scan,
    Set,
    Single,
    Unmet,
)
from kvmcp.backends.redis.errors import STRANGE_REPLY, class_of, failure_of
from kvmcp.backends.redis.replies import decode_one, decode_several
from kvmcp.backends.redis.resp import Slot, pack
from kvmcp.backends.redis.script import SCRIPT, SCRIPT_SHA
from kvmcp.backends.redis.steps import COMMANDS, SURE, Argument, condition_step, step_of
from kvmcp.backends.redis.values import present

Encoded: TypeAlias = tuple[bytes, ...] | Failure
_Encode: TypeAlias = Callable[[Any], Encoded]
"""Any: a dict cannot say that its key's type is the argument's."""

MAX_PLAIN_GETS: Final = 8
"""`Get`s in a transaction. More could be more than one operation may give, which the script looks after."""
_ONLY_GETS: Final = {Get}
_MULTI: Final = pack("MULTI")
_EXEC: Final = pack("EXEC")


class Commands:
    """Encodes operations for one key prefix."""

    def __init__(self, prefix: str, sharded: bool = False) -> None:
        self.prefix = prefix
        self.sharded = sharded
        self._plain: dict[type[Op], _Encode] = dict.fromkeys(COMMANDS - {Exists}, self._command)
        self._plain[Get] = self._get
        self._plain[Set] = self._set

    def key(self, key: NsKey) -> bytes:
        return f"{self.prefix}:{key.space}:{key.name}".encode("utf-8", "surrogatepass")

    def encode(self, op: Op) -> Encoded:
        """The commands of one operation (not `Scan`, which has many rounds), or why it is refused."""
        if isinstance(op, Atomic):
            return self._atomic(op)
        assert not isinstance(op, Scan), "it has rounds of its own"
        fault = FAULTS[type(op)](op)
        if fault is not None:
            return fault
        return self._packed(op) if type(op) in COMMANDS else (self.evaluate(op),)

    def encode_plain(self, batch: Sequence[Op]) -> list[bytes] | None:
        """One command per operation, or None where an operation is refused or needs another number of them."""
        if set(map(type, batch)) == _ONLY_GETS:
            return self._gets(batch)
        encoders = self._plain
        try:
            encoded = [encoders[type(op)](op) for op in batch]
        except KeyError:
            return None
        commands = [own[0] for own in encoded if type(own) is tuple and len(own) == 1]
        return commands if len(commands) == len(encoded) else None

    def evaluate(self, op: Op, by_hash: bool = True) -> bytes:
        """The script's call for an operation."""
        if isinstance(op, Atomic):
            mode, conditions, singles = b"A", op.conditions, () if ops_fault(op.ops) else op.ops
        else:
            assert not isinstance(op, Scan), "it has rounds of its own"
            mode, conditions, singles = b"S", (), (op,)
        keys = [self.key(condition.key) for condition in conditions]
        arguments: list[Argument] = [mode, len(conditions)]
        for condition in conditions:
            arguments += condition_step(condition)
        for single in singles:
            step = step_of(single, self.sharded)
            keys += map(self.key, step.keys)
            arguments += (step.name, step.mode.encode(), len(step.keys), len(step.arguments), *step.arguments)
        what = (b"EVALSHA", SCRIPT_SHA) if by_hash else (b"EVAL", SCRIPT)
        return pack(*what, len(keys), *keys, *arguments)

    # --- how an operation is sent

    def _gets(self, batch: Sequence[Any]) -> list[bytes]:
        """As `_get`, without a call for each: most pipelines are reads."""
        prefix = self.prefix
        keys = [f"{prefix}:{op.key.space}:{op.key.name}".encode("utf-8", "surrogatepass") for op in batch]
        return [b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key) for key in keys]

    def _get(self, op: Get) -> Encoded:
        # Packed by hand: the hottest operation.
        key = op.key
        encoded = f"{self.prefix}:{key.space}:{key.name}".encode("utf-8", "surrogatepass")
        return (b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(encoded), encoded),)

    def _set(self, op: Set) -> Encoded:
        # Nearly as hot.
        fault = set_fault(op)
        if fault is not None:
            return fault
        if op.ttl_ms is not None:
            return (pack(b"SET", self.key(op.key), op.value, b"PX", op.ttl_ms),)
        return self._packed(op) if op.keep_ttl else (pack(b"SET", self.key(op.key), op.value),)

    def _command(self, op: Single) -> Encoded:
        return FAULTS[type(op)](op) or self._packed(op)

    def _atomic(self, op: Atomic) -> Encoded:
        fault = atomic_fault(op)
        if fault is not None:
            return fault
        if needs_script(op):
            return (self.evaluate(op),)
        fault = ops_fault(op.ops)
        if fault is not None:
            return fault
        inner = [command for single in op.ops for command in self._packed(single)]
        return (_MULTI, *inner, _EXEC)

    def _packed(self, op: Single) -> tuple[bytes, ...]:
        """The commands of an operation that needs no script."""
        step = step_of(op, self.sharded)
        keys = [self.key(key) for key in step.keys]
        if isinstance(op, Exists):
            return tuple([pack(step.name, key) for key in keys])
        return (pack(step.name, *keys, *step.arguments),) if keys else ()


def needs_script(op: Atomic) -> bool:
    """Whether a transaction cannot do it: something is compared, can fail, or may be too much for one reply."""
    if op.conditions or not all(type(single) in SURE for single in op.ops):
        return True
    return sum([isinstance(single, Get) for single in op.ops]) > MAX_PLAIN_GETS


# --- replies


def decode(op: Op, slots: Sequence[Slot]) -> Reply:
    """The reply out of what the operation's commands got; nothing in `slots` is lost."""
    if isinstance(op, Atomic):
        return _decode_atomic(op, slots)
    assert not isinstance(op, Scan), "it has rounds of its own"
    return decode_several(op, slots) if type(op) in COMMANDS else decode_one(op, slots[0])


def decode_plain(batch: Sequence[Op], slots: Sequence[Slot]) -> list[Reply]:
    """The replies to what `encode_plain` made."""
    # A value that is there at once: most of what is read (benchmarks/redis.py).
    return [
        present(slot) if type(slot) is bytes and type(op) is Get else decode_one(op, slot)  # type: ignore[arg-type]  # no Scan, no Atomic
        for op, slot in zip(batch, slots, strict=True)
    ]


def error_in(slots: Sequence[Slot]) -> hiredis.ReplyError | None:
    """The error that kept an operation from running, if there is one."""
    errors = [slot for slot in slots if isinstance(slot, hiredis.ReplyError)]
    # EXECABORT only says that a transaction was refused; an earlier answer says why.
    return next((error for error in errors if class_of(error) != "EXECABORT"), errors[0] if errors else None)


def _decode_atomic(op: Atomic, slots: Sequence[Slot]) -> Reply:
    error = error_in(slots)
    if error is not None:
        return failure_of(error)
    result = slots[-1]
    if not isinstance(result, list):
        return STRANGE_REPLY
    return _decode_script(op, result) if needs_script(op) else _split(op.ops, result)


def _decode_script(op: Atomic, result: Sequence[Slot]) -> Reply:
    if len(result) == 4 and result[0] == 1:
        return _unmet(op, *result[1:])
    replies = result[1] if len(result) == 2 and result[0] == 0 else None
    if not isinstance(replies, list):
        return STRANGE_REPLY
    fault = ops_fault(op.ops)
    if fault is not None:
        return fault
    return tuple(map(decode_one, op.ops, replies)) if len(replies) == len(op.ops) else STRANGE_REPLY


def _unmet(op: Atomic, index: Slot, found: Slot, etag: Slot) -> Reply:
    if not (type(index) is int and 0 <= index < len(op.conditions)):
        return STRANGE_REPLY
    return Unmet(index, found == 1, etag.decode("ascii", "replace") if isinstance(etag, bytes) else None)


def _split(ops: Sequence[Single], results: Sequence[Slot]) -> Reply:
    """The replies of a transaction's operations."""
    counts = [command_count(op) for op in ops]
    if sum(counts) != len(results):
        return STRANGE_REPLY
    rest = iter(results)
    return tuple(
        [decode_several(op, list(islice(rest, count))) for op, count in zip(ops, counts, strict=True)]
    )


def command_count(op: Single) -> int:
    """How many commands, hence replies, an operation of a transaction makes."""
    if isinstance(op, Exists):
        return len(op.keys)
    return 0 if isinstance(op, Delete) and not op.keys else 1
