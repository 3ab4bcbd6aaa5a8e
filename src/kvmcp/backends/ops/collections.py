"""Lists, hashes, sets, sorted sets and streams.

Elements, members and fields' values are JSON text, kept and compared byte for byte: `1` and `1.0` are two members.
Names of fields are text. A collection that loses its last element is gone, as a key, except a stream, which stays.
What does not exist is empty to every read. Negative positions count from the end; -1 is the last.
One operation brings or asks for 1 to `MAX_ITEMS` items.
"""

from typing import Literal, TypeAlias

from msgspec import Struct

from kvmcp.backends.ops.names import MAX_ITEMS, NsKey

Side: TypeAlias = Literal["left", "right"]
"""The left end of a list is its position 0."""


# --- lists


class Push(Struct, frozen=True, gc=False, tag=True):
    """Add elements to an end of a list, one after the other. Reply: its new length (`int`)."""

    key: NsKey
    values: tuple[bytes, ...]
    side: Side = "right"


class Pop(Struct, frozen=True, gc=False, tag=True):
    """Take up to `count` elements from an end of a list. Reply: a `tuple[bytes, ...]`, the first taken first.

    More than `MAX_READ_BYTES` are refused (`TOO_LARGE`) and stay where they are.
    """

    key: NsKey
    side: Side = "left"
    count: int = 1


class Range(Struct, frozen=True, gc=False, tag=True):
    """The elements from `start` to `stop`, both included; at most the first `limit` of them. Reply: `Elements`."""

    key: NsKey
    start: int = 0
    stop: int = -1
    limit: int = MAX_ITEMS


class Elements(Struct, frozen=True, gc=False):
    """Elements of a list. What was asked for and is missing at the end was over the limit, or `MAX_READ_BYTES`."""

    values: tuple[bytes, ...]
    size: int
    """How many elements lie in what was asked for."""
    length: int
    """Of the whole list."""


class Length(Struct, frozen=True, gc=False, tag=True):
    """How many elements a list has. Reply: `int`."""

    key: NsKey


class ListRemove(Struct, frozen=True, gc=False, tag=True):
    """Remove elements that equal `value`: the first `count`, the last where negative, all for 0. Reply: how many."""

    key: NsKey
    value: bytes
    count: int = 0


class ListTrim(Struct, frozen=True, gc=False, tag=True):
    """Remove all but the elements from `start` to `stop`, both included. Reply: the length that is left (`int`)."""

    key: NsKey
    start: int
    stop: int


# --- hashes


class HashSet(Struct, frozen=True, gc=False, tag=True):
    """Write fields of a hash, each with its JSON text. Reply: how many are new (`int`).

    A hash has at most `MAX_COLLECTION` fields; more are a `TOO_LARGE`.
    """

    key: NsKey
    fields: tuple[tuple[str, bytes], ...]


class HashGet(Struct, frozen=True, gc=False, tag=True):
    """Fields of a hash. Reply: a `tuple[bytes | None, ...]`, one per field; too much together is a `TOO_LARGE`."""

    key: NsKey
    fields: tuple[str, ...]


class HashExpire(Struct, frozen=True, gc=False, tag=True):
    """Let a hash live as many seconds from now as one of its fields says. Reply: whether it does so (`bool`).

    False, and nothing changes, where there is no such hash or field, or the field is no number that can be a time to
    live: an integer of at least 1 and at most `MAX_TTL_SECONDS`.
    """

    key: NsKey
    field: str


class HashGetAll(Struct, frozen=True, gc=False, tag=True):
    """A whole hash. Reply: a `tuple[tuple[str, bytes], ...]` in the order of the names' UTF-8; without a key `()`.

    More than `MAX_READ_BYTES`, or more fields than kvmcp itself would write, are refused (`TOO_LARGE`). Fields whose
    name is not UTF-8 belong to other programs and are left out.
    """

    key: NsKey


class HashDelete(Struct, frozen=True, gc=False, tag=True):
    """Remove fields of a hash. Reply: how many existed (`int`)."""

    key: NsKey
    fields: tuple[str, ...]


class HashSize(Struct, frozen=True, gc=False, tag=True):
    """How many fields a hash has. Reply: `int`."""

    key: NsKey


# --- sets


class SetAdd(Struct, frozen=True, gc=False, tag=True):
    """Add members to a set. Reply: how many are new (`int`). More than `MAX_COLLECTION` in all are a `TOO_LARGE`."""

    key: NsKey
    members: tuple[bytes, ...]


class SetRemove(Struct, frozen=True, gc=False, tag=True):
    """Remove members of a set. Reply: how many were in it (`int`)."""

    key: NsKey
    members: tuple[bytes, ...]


class SetMembers(Struct, frozen=True, gc=False, tag=True):
    """A whole set. Reply: a `tuple[bytes, ...]` in the order of the members' bytes; too large is a `TOO_LARGE`."""

    key: NsKey


class SetContains(Struct, frozen=True, gc=False, tag=True):
    """Which of some members are in a set. Reply: a `tuple[bool, ...]`, one per member."""

    key: NsKey
    members: tuple[bytes, ...]


class SetSize(Struct, frozen=True, gc=False, tag=True):
    """How many members a set has. Reply: `int`."""

    key: NsKey


# --- sorted sets


Scored: TypeAlias = tuple[bytes, float]
"""A member and its score. Scores are finite, unless another program wrote them."""


class SortedAdd(Struct, frozen=True, gc=False, tag=True):
    """Give members of a sorted set their scores. Reply: how many are new (`int`).

    `only_new` leaves those alone that are in it; `only_existing` those that are not, and replies how many scores it
    changed. Not both.
    """

    key: NsKey
    members: tuple[Scored, ...]
    only_new: bool = False
    only_existing: bool = False


class SortedRange(Struct, frozen=True, gc=False, tag=True):
    """Members by rank, from `start` to `stop`, both included; at most the first `limit` of them. Reply: `Ranked`.

    Ranks go from the lowest score (equal ones by bytes), from the highest where `reverse`.
    """

    key: NsKey
    start: int = 0
    stop: int = -1
    reverse: bool = False
    limit: int = MAX_ITEMS


class SortedByScore(Struct, frozen=True, gc=False, tag=True):
    """Members with scores from `low` to `high`, both included; None is without a bound. Reply: `Ranked`.

    From the lowest, from the highest where `reverse`; `offset` of them are passed over, at most `limit` are given.
    """

    key: NsKey
    low: float | None = None
    high: float | None = None
    reverse: bool = False
    offset: int = 0
    limit: int = MAX_ITEMS


class Ranked(Struct, frozen=True, gc=False):
    """Members of a sorted set in order, with their scores."""

    members: tuple[Scored, ...]
    size: int
    """How many lie in what was asked for; those passed over and those beyond the limit included."""


class SortedRemove(Struct, frozen=True, gc=False, tag=True):
    """Remove members of a sorted set. Reply: how many were in it (`int`)."""

    key: NsKey
    members: tuple[bytes, ...]


class SortedScore(Struct, frozen=True, gc=False, tag=True):
    """The scores of some members. Reply: a `tuple[float | None, ...]`, one per member."""

    key: NsKey
    members: tuple[bytes, ...]


class SortedIncrement(Struct, frozen=True, gc=False, tag=True):
    """Add to a member's score; a member that is not there starts at 0. Reply: the new score (`float`).

    A result that is not finite is an `OUT_OF_RANGE`.
    """

    key: NsKey
    member: bytes
    by: float


class SortedRank(Struct, frozen=True, gc=False, tag=True):
    """A member's rank, 0 for the lowest score, for the highest where `reverse`. Reply: `int`, or None if not in it."""

    key: NsKey
    member: bytes
    reverse: bool = False


class SortedSize(Struct, frozen=True, gc=False, tag=True):
    """How many members a sorted set has. Reply: `int`."""

    key: NsKey


# --- streams


class StreamAdd(Struct, frozen=True, gc=False, tag=True):
    """Add an entry, its values being JSON text. Reply: its id (`str`), `number-number`, greater than all before.

    `max_length` (≥ 1): the oldest entries beyond so many are removed. All fields together are at most
    `MAX_VALUE_BYTES`.
    """

    key: NsKey
    fields: tuple[tuple[str, bytes], ...]
    max_length: int | None = None


class StreamRange(Struct, frozen=True, gc=False, tag=True):
    """Entries from id `first` to id `last`, the oldest first, the newest where `reverse`. Reply: `Entries`.

    `-` is before every entry, `+` after every one; a `(` before an id leaves that id itself out, which is how a next
    page begins. At most `count` entries.
    """

    key: NsKey
    first: str = "-"
    last: str = "+"
    reverse: bool = False
    count: int = 100


class StreamEntry(Struct, frozen=True, gc=False):
    """Fields in the order in which they were given."""

    id: str
    fields: tuple[tuple[str, bytes], ...]


class Entries(Struct, frozen=True, gc=False):
    """Entries of a stream."""

    entries: tuple[StreamEntry, ...]
    more: bool
    """Whether there are others beyond the last one."""


class StreamLength(Struct, frozen=True, gc=False, tag=True):
    """How many entries a stream has. Reply: `int`."""

    key: NsKey


class StreamTrim(Struct, frozen=True, gc=False, tag=True):
    """Remove the oldest entries beyond `max_length` (≥ 0). Reply: how many went (`int`)."""

    key: NsKey
    max_length: int


class StreamDelete(Struct, frozen=True, gc=False, tag=True):
    """Remove entries. Reply: how many existed (`int`)."""

    key: NsKey
    ids: tuple[str, ...]
