"""Operations as steps: the name of a command, or of a function of the script, with its keys and arguments. Pure."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, Literal, TypeAlias

from msgspec import Struct

from kvmcp.backends.ops import (
    SUFFIX_CLAIMS,
    SUFFIX_COUNT,
    SUFFIX_DUE,
    SUFFIX_LOG,
    Append,
    Condition,
    Delete,
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
    KeyHasEtag,
    KeyIs,
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
    beside,
)

Argument: TypeAlias = bytes | int
Mode: TypeAlias = Literal["r", "w", "string", "list", "hash", "set", "zset", "stream"]
"""See `script`."""


class Step(Struct, frozen=True, gc=False):
    """One of the script's steps; one whose name is a command can be sent as that command."""

    name: bytes
    mode: Mode
    keys: tuple[NsKey, ...]
    arguments: Sequence[Argument] = ()


def _number(score: float) -> bytes:
    return repr(float(score)).encode()


def _text(name: str) -> bytes:
    return name.encode("utf-8", "surrogatepass")


def _pairs(fields: Iterable[tuple[str, bytes]]) -> list[Argument]:
    return [part for name, value in fields for part in (_text(name), value)]


def _set(op: Set) -> Step:
    life: list[Argument] = [b"KEEPTTL"] if op.keep_ttl else [] if op.ttl_ms is None else [b"PX", op.ttl_ms]
    return Step(b"SET", "w", (op.key,), [op.value, *life])


def _pop(op: Pop) -> Step:
    return Step(b"POP", "list", (op.key,), [b"LPOP" if op.side == "left" else b"RPOP", op.count])


def _push(op: Push) -> Step:
    return Step(b"LPUSH" if op.side == "left" else b"RPUSH", "list", (op.key,), op.values)


def _sorted_add(op: SortedAdd) -> Step:
    members = op.members
    options: list[Argument] = [b"NX"] if op.only_new else []
    if op.only_existing:
        members = tuple(dict(members).items())  # the last counts, once
        options = [b"XX", b"CH"]
    scored = [part for member, score in members for part in (_number(score), member)]
    return Step(b"ZADD", "zset", (op.key,), [*options, *scored])


def _sorted_by_score(op: SortedByScore) -> Step:
    low = b"-inf" if op.low is None else _number(op.low)
    high = b"+inf" if op.high is None else _number(op.high)
    return Step(b"ZBYSCORE", "r", (op.key,), [low, high, int(op.reverse), op.offset, op.limit])


def _sorted_range(op: SortedRange) -> Step:
    return Step(b"ZRANGE", "r", (op.key,), [op.start, op.stop, int(op.reverse), op.limit])


def _stream_add(op: StreamAdd) -> Step:
    trim: list[Argument] = [] if op.max_length is None else [b"MAXLEN", op.max_length]
    return Step(b"XADD", "stream", (op.key,), [*trim, b"*", *_pairs(op.fields)])


def _publish(op: Publish, sharded: bool) -> Step:
    keys = (beside(op.channel, SUFFIX_LOG), beside(op.channel, SUFFIX_COUNT), op.channel)
    return Step(b"PUBLISH", "w", keys, [b"SPUBLISH" if sharded else b"PUBLISH", op.message])


def _read_log(op: ReadLog) -> Step:
    keys = (beside(op.channel, SUFFIX_LOG), beside(op.channel, SUFFIX_COUNT))
    return Step(b"READLOG", "r", keys, [b"" if op.after is None else op.after, op.count])


def _claims(queue: NsKey) -> tuple[NsKey, NsKey]:
    return beside(queue, SUFFIX_CLAIMS), beside(queue, SUFFIX_DUE)


def _claim(op: QueueClaim) -> Step:
    arguments: list[Argument] = [_text(op.owner), op.visibility_ms, op.count]
    return Step(b"CLAIM", "w", (op.queue, *_claims(op.queue)), arguments)


def _extend(op: QueueExtend) -> Step:
    return Step(b"EXTEND", "w", _claims(op.queue), [_text(op.receipt), op.visibility_ms])


_STEPS: Final[dict[type[Single], Callable[[Any], Step]]] = {
    Get: lambda op: Step(b"GET", "r", (op.key,)),
    GetMany: lambda op: Step(b"GETMANY", "r", op.keys),
    Set: _set,
    GetDelete: lambda op: Step(b"GETDEL", "string", (op.key,)),
    Append: lambda op: Step(b"APPEND", "string", (op.key,), [op.text]),
    Increment: lambda op: Step(b"INCRBY", "string", (op.key,), [op.by]),
    Delete: lambda op: Step(b"DEL", "w", op.keys),
    Exists: lambda op: Step(b"EXISTS", "r", op.keys),
    Rename: lambda op: Step(b"RENAME", "w", (op.key, op.to), [int(op.if_absent)]),
    Ttl: lambda op: Step(b"PTTL", "r", (op.key,)),
    Expire: lambda op: Step(b"PEXPIRE", "w", (op.key,), [op.ttl_ms]),
    Persist: lambda op: Step(b"PERSIST", "w", (op.key,)),
    TypeOf: lambda op: Step(b"TYPE", "r", (op.key,)),
    SizeOf: lambda op: Step(b"SIZE", "r", (op.key,)),
    Push: _push,
    Pop: _pop,
    Range: lambda op: Step(b"LRANGE", "r", (op.key,), [op.start, op.stop, op.limit]),
    Length: lambda op: Step(b"LLEN", "r", (op.key,)),
    ListRemove: lambda op: Step(b"LREM", "list", (op.key,), [op.count, op.value]),
    ListTrim: lambda op: Step(b"LTRIM", "list", (op.key,), [op.start, op.stop]),
    HashSet: lambda op: Step(b"HSET", "hash", (op.key,), _pairs(op.fields)),
    HashGet: lambda op: Step(b"HMGET", "r", (op.key,), list(map(_text, op.fields))),
    HashGetAll: lambda op: Step(b"HGETALL", "r", (op.key,)),
    HashDelete: lambda op: Step(b"HDEL", "hash", (op.key,), list(map(_text, op.fields))),
    HashExpire: lambda op: Step(b"HEXPIREBY", "w", (op.key,), [_text(op.field)]),
    HashSize: lambda op: Step(b"HLEN", "r", (op.key,)),
    SetAdd: lambda op: Step(b"SADD", "set", (op.key,), op.members),
    SetRemove: lambda op: Step(b"SREM", "set", (op.key,), op.members),
    SetMembers: lambda op: Step(b"SMEMBERS", "r", (op.key,)),
    SetContains: lambda op: Step(b"SMISMEMBER", "r", (op.key,), op.members),
    SetSize: lambda op: Step(b"SCARD", "r", (op.key,)),
    SortedAdd: _sorted_add,
    SortedRange: _sorted_range,
    SortedByScore: _sorted_by_score,
    SortedRemove: lambda op: Step(b"ZREM", "zset", (op.key,), op.members),
    SortedScore: lambda op: Step(b"ZMSCORE", "r", (op.key,), op.members),
    SortedIncrement: lambda op: Step(b"ZINCRBY", "zset", (op.key,), [_number(op.by), op.member]),
    SortedRank: lambda op: Step(b"ZREVRANK" if op.reverse else b"ZRANK", "r", (op.key,), [op.member]),
    SortedSize: lambda op: Step(b"ZCARD", "r", (op.key,)),
    StreamAdd: _stream_add,
    StreamRange: lambda op: Step(b"XRANGE", "r", (op.key,), [_text(op.first), _text(op.last), int(op.reverse), op.count]),
    StreamLength: lambda op: Step(b"XLEN", "r", (op.key,)),
    StreamTrim: lambda op: Step(b"XTRIM", "stream", (op.key,), [b"MAXLEN", op.max_length]),
    StreamDelete: lambda op: Step(b"XDEL", "stream", (op.key,), list(map(_text, op.ids))),
    ReadLog: _read_log,
    QueueClaim: _claim,
    QueueAck: lambda op: Step(b"ACK", "w", _claims(op.queue), [_text(op.receipt)]),
    QueueExtend: _extend,
    QueueHolds: lambda op: Step(b"HEXISTS", "r", _claims(op.queue)[:1], [_text(op.receipt)]),
}  # fmt: skip

COMMANDS: Final[frozenset[type[Single]]] = frozenset((
    Get, Set, Delete, Exists, Ttl, Expire, Persist, TypeOf,
    Push, Length, ListRemove, HashDelete, HashSize, SetRemove, SetContains, SetSize, QueueHolds,
    SortedAdd, SortedRemove, SortedScore, SortedRank, SortedSize,
    StreamAdd, StreamLength, StreamTrim, StreamDelete,
))  # fmt: skip
"""Operations that need no script where they stand alone: their step is the command (for `Exists`, one for each key)."""

SURE: Final[frozenset[type[Single]]] = frozenset((
    Get, Set, Delete, Exists, Ttl, Expire, Persist, TypeOf,
    Length, HashSize, SetContains, SetSize, SortedScore, SortedRank, SortedSize, StreamLength,
))  # fmt: skip
"""Those among them that read or cannot fail, so that a transaction of these alone is all or nothing."""


def step_of(op: Single, sharded: bool) -> Step:
    return _publish(op, sharded) if isinstance(op, Publish) else _STEPS[type(op)](op)


def condition_step(condition: Condition) -> list[Argument]:
    """What the script looks for at the condition's key."""
    if isinstance(condition, KeyIs):
        return [b"0"] if condition.value is None else [b"=", condition.value]
    return [b"#", _text(condition.etag)] if isinstance(condition, KeyHasEtag) else [b"1"]
