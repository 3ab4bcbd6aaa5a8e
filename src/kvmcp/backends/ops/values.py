"""Values by key, and what is the same for keys of every type.

An operation on a key that holds another type gets a `Failure` of `WRONG_TYPE`. Operations that change what a key
holds leave its time to live alone, where nothing else is said; a key that is made has none.
"""

import hashlib
from typing import Final, Literal, TypeAlias

from msgspec import Struct

from kvmcp.backends.ops.names import NsKey

ETAG_DIGITS: Final = 16
"""64 bits of SHA-1: two texts of one key that differ have the same etag about never, and a model repeats it well."""


def etag_of(value: bytes) -> str:
    """What stands for the JSON text of a value: 16 lower-case hexadecimal digits."""
    return hashlib.sha1(value, usedforsecurity=False).hexdigest()[:ETAG_DIGITS]


class Get(Struct, frozen=True, gc=False, tag=True):
    """The value of a key. Reply: the JSON text as stored (`bytes`), or None where there is none."""

    key: NsKey


class GetMany(Struct, frozen=True, gc=False, tag=True):
    """The values of at most `MAX_BATCH_KEYS` keys of one namespace, at one moment.

    Reply: a `tuple[bytes | Failure | None, ...]`, one per key, in order; a key that holds another type has its
    `Failure` in its place. More than `MAX_READ_BYTES` together are refused (`TOO_LARGE`).
    """

    keys: tuple[NsKey, ...]


class Set(Struct, frozen=True, gc=False, tag=True):
    """Store JSON text. Reply: True.

    `ttl_ms`: life in milliseconds; None stores without expiry and ends an earlier one, as Redis's SET does,
    unless `keep_ttl` (which goes without `ttl_ms`) says to leave it.
    """

    key: NsKey
    value: bytes
    ttl_ms: int | None = None
    keep_ttl: bool = False


class GetDelete(Struct, frozen=True, gc=False, tag=True):
    """Remove a key and give the value that it had. Reply: JSON text (`bytes`), or None where there was none."""

    key: NsKey


class Append(Struct, frozen=True, gc=False, tag=True):
    """Lengthen a value that is a JSON string; without a key it is made. Reply: its new length in characters (`int`).

    `text` is JSON text of a string, with its quotation marks and nothing around them. A value that is not such a text
    is a `WRONG_TYPE`, one that would be larger than `MAX_VALUE_BYTES` a `TOO_LARGE`. Characters are code points.
    """

    key: NsKey
    text: bytes


class Increment(Struct, frozen=True, gc=False, tag=True):
    """Add to a value that is an integer; without a key it starts at 0. Reply: the new value (`int`).

    Every value but an integer's shortest text (`-7`, not `7.0`, `1e3`) is a `WRONG_TYPE`. A result that is not a
    signed 64-bit number is an `OUT_OF_RANGE`.
    """

    key: NsKey
    by: int = 1


class Delete(Struct, frozen=True, gc=False, tag=True):
    """Remove keys of any type. Reply: how many existed (`int`); a key named twice counts once."""

    keys: tuple[NsKey, ...]


class Exists(Struct, frozen=True, gc=False, tag=True):
    """Which keys exist. Reply: a `tuple[bool, ...]`, one per key, in order."""

    keys: tuple[NsKey, ...]


class Rename(Struct, frozen=True, gc=False, tag=True):
    """Give what a key holds another name in its namespace, with its time to live; what was there is gone.

    Reply: True; False where `if_absent` is asked for and something is there; None where there is no such key.
    """

    key: NsKey
    to: NsKey
    if_absent: bool = False


class Scan(Struct, frozen=True, gc=False, tag=True):
    """One page of the names in a space that match a Redis glob pattern. Reply: `Page`.

    The pattern is matched on UTF-8 bytes. A key that exists from the first page to the last is given at
    least once (once exactly on the memory backend); at most `count` names come back, perhaps none although
    there is a cursor.
    """

    space: str
    pattern: str = "*"
    count: int = 100
    cursor: str = ""
    """`Page.cursor` of the page before; empty for the first."""


class Page(Struct, frozen=True, gc=False):
    """Names without their space; `cursor` is empty on the last page."""

    names: tuple[str, ...]
    cursor: str = ""


class Ttl(Struct, frozen=True, gc=False, tag=True):
    """How long a key still lives. Reply: `TtlReply`."""

    key: NsKey


class TtlReply(Struct, frozen=True, gc=False):
    """`milliseconds` is None where the key does not exist or never expires."""

    found: bool
    milliseconds: int | None = None


class Expire(Struct, frozen=True, gc=False, tag=True):
    """Give a key `ttl_ms` milliseconds (≥ 1) from now. Reply: whether it existed (`bool`)."""

    key: NsKey
    ttl_ms: int


class Persist(Struct, frozen=True, gc=False, tag=True):
    """Let a key live for good. Reply: whether it existed and would have expired (`bool`)."""

    key: NsKey


KeyType: TypeAlias = Literal["value", "list", "hash", "set", "sorted_set", "stream", "other"]
"""What a key holds; `other` is of another program."""


class TypeOf(Struct, frozen=True, gc=False, tag=True):
    """What a key holds. Reply: a `KeyType` (`str`), or None where there is none."""

    key: NsKey


class SizeOf(Struct, frozen=True, gc=False, tag=True):
    """How large a key is. Reply: bytes of a value's text, elements of anything else (`int`); None without a key."""

    key: NsKey
