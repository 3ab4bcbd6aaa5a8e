"""All or nothing: conditions and operations that are one."""

from typing import Final, TypeAlias

from msgspec import Struct

from kvmcp.backends.ops.collections import (
    Elements,
    Entries,
    HashDelete,
    HashExpire,
    HashGet,
    HashGetAll,
    HashSet,
    HashSize,
    Length,
    ListRemove,
    ListTrim,
    Pop,
    Push,
    Range,
    Ranked,
    SetAdd,
    SetContains,
    SetMembers,
    SetRemove,
    SetSize,
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
)
from kvmcp.backends.ops.failures import Failure
from kvmcp.backends.ops.names import NsKey
from kvmcp.backends.ops.sharing import (
    Claimed,
    LogPage,
    Publish,
    Published,
    QueueAck,
    QueueClaim,
    QueueExtend,
    QueueHolds,
    ReadLog,
)
from kvmcp.backends.ops.values import (
    Append,
    Delete,
    Exists,
    Expire,
    Get,
    GetDelete,
    GetMany,
    Increment,
    Page,
    Persist,
    Rename,
    Scan,
    Set,
    SizeOf,
    Ttl,
    TtlReply,
    TypeOf,
)


class KeyIs(Struct, frozen=True, gc=False, tag=True):
    """Condition of `Atomic`: the key holds exactly this JSON text, or does not exist (as any type) where None."""

    key: NsKey
    value: bytes | None


class KeyHasEtag(Struct, frozen=True, gc=False, tag=True):
    """Condition of `Atomic`: the key holds a value of this etag (see `etag_of`)."""

    key: NsKey
    etag: str


class KeyExists(Struct, frozen=True, gc=False, tag=True):
    """Condition of `Atomic`: the key exists, of whatever type."""

    key: NsKey


Condition: TypeAlias = KeyIs | KeyHasEtag | KeyExists

Single: TypeAlias = (
    Get | GetMany | Set | GetDelete | Append | Increment
    | Delete | Exists | Rename | Ttl | Expire | Persist | TypeOf | SizeOf
    | Push | Pop | Range | Length | ListRemove | ListTrim
    | HashSet | HashGet | HashGetAll | HashDelete | HashExpire | HashSize
    | SetAdd | SetRemove | SetMembers | SetContains | SetSize
    | SortedAdd | SortedRange | SortedByScore | SortedRemove | SortedScore | SortedIncrement | SortedRank | SortedSize
    | StreamAdd | StreamRange | StreamLength | StreamTrim | StreamDelete
    | Publish | ReadLog | QueueClaim | QueueAck | QueueExtend | QueueHolds
)  # fmt: skip


class Atomic(Struct, frozen=True, gc=False, tag=True):
    """At most `MAX_ATOMIC_OPS` operations that happen all or not at all, with nothing in between, if every condition holds.

    Each sees what those before it did; conditions are about the moment before the first. All keys are of one namespace.

    Reply: a tuple with the reply to each operation; `Unmet` where a condition did not hold; a `Failure` where a write
    cannot be done (wrong type, out of range, no room): nothing has changed then. A read that cannot be done has
    its `Failure` in its place in the tuple, and the rest goes on.
    """

    ops: tuple[Single, ...]
    conditions: tuple[Condition, ...] = ()


class Unmet(Struct, frozen=True, gc=False):
    """Nothing was done, for a condition did not hold: what was there instead."""

    index: int
    """The first condition that did not hold."""
    found: bool
    """Whether its key exists."""
    etag: str | None = None
    """Of the value that the key holds; None where it holds none."""


Op: TypeAlias = Single | Scan | Atomic

Reply: TypeAlias = (
    bytes | bool | int | float | str | None | Failure
    | Page | TtlReply | Elements | Ranked | Entries | Published | LogPage | Claimed | Unmet
    | tuple["Reply", ...]
)  # fmt: skip

READS: Final[frozenset[type[Op]]] = frozenset((
    Get, GetMany, Exists, Scan, Ttl, TypeOf, SizeOf,
    Range, Length,
    HashGet, HashGetAll, HashSize,
    SetMembers, SetContains, SetSize,
    SortedRange, SortedByScore, SortedScore, SortedRank, SortedSize,
    StreamRange, StreamLength,
    ReadLog, QueueHolds,
))  # fmt: skip
"""The operations that change nothing."""


def is_read(op: Op) -> bool:
    """Whether running `op` twice, or not knowing whether it ran, changes nothing."""
    if isinstance(op, Atomic):
        return all(type(single) in READS for single in op.ops)
    return type(op) in READS
