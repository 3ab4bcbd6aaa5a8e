"""The vocabulary of the key-value store: operations, the reply to each, and what a failure says.

An operation is a frozen value; a batch is a sequence of them; a backend gives one reply per operation, in
order. Keys arrive as `NsKey`, which only `Namespace.key` makes, so that no operation can leave its namespace.
"""

from enum import StrEnum
from typing import Final, Literal, TypeAlias

from msgspec import Struct

MAX_NAMESPACE: Final = 64
MAX_KEY_BYTES: Final = 512
"""A key as UTF-8. Redis takes 512 MiB; people and models write less than 200 bytes."""
MAX_VALUE_BYTES: Final = 1024 * 1024
"""A value as JSON text. 1 MiB is far above what a model can read (25,000 characters)."""
MAX_PATTERN_BYTES: Final = 256
MAX_PATTERN_STARS: Final = 8
"""Wildcards in one pattern: bounds the matcher's work, here and in Redis (CVE-2024-31228)."""
MAX_SCAN_COUNT: Final = 1000
MAX_BATCH_KEYS: Final = 1000
MAX_TTL_SECONDS: Final = 100 * 366 * 86400
"""A hundred years: far below the overflow of Redis's millisecond clock."""

KIND_VALUE: Final = "k"
"""The user's keys. Other kinds (sessions, leases, bookkeeping) stay out of the user's key space."""


class NsKey(Struct, frozen=True, gc=False):
    """A key inside its namespace. Made by `Namespace.key` only."""

    space: str
    """`{namespace}:kind`; the braces make one namespace one Redis Cluster slot."""
    name: str


class Namespace(Struct, frozen=True, gc=False):
    """A tenant's part of the store; `name` matches `[A-Za-z0-9._-]{1,64}` (see `is_namespace`)."""

    name: str

    def space(self, kind: str = KIND_VALUE) -> str:
        return f"{{{self.name}}}:{kind}"

    def key(self, name: str, kind: str = KIND_VALUE) -> NsKey:
        return NsKey(f"{{{self.name}}}:{kind}", name)


def is_namespace(name: str) -> bool:
    """Whether `name` can be a namespace: no separator, brace or glob character can be in it."""
    return (
        0 < len(name) <= MAX_NAMESPACE
        and name.isascii()
        and all(character.isalnum() or character in "._-" for character in name)
    )


class Code(StrEnum):
    """Why an operation failed, in words that a model and a program can act on."""

    REDIS_NOT_CONNECTED = "REDIS_NOT_CONNECTED"
    REDIS_ERROR = "REDIS_ERROR"
    WRONG_TYPE = "WRONG_TYPE"
    TOO_LARGE = "TOO_LARGE"
    TIMEOUT = "TIMEOUT"
    UNKNOWN_OUTCOME = "UNKNOWN_OUTCOME"


Outcome: TypeAlias = Literal["not_applied", "unknown"]


class Failure(Struct, frozen=True, gc=False):
    """An operation's reply when it did not succeed.

    `message` is for people and models and never holds a value. `outcome` says whether the store may have
    changed: `unknown` is only for writes whose reply was lost.
    """

    code: Code
    message: str
    retryable: bool
    outcome: Outcome = "not_applied"


class Get(Struct, frozen=True, gc=False, tag=True):
    """The value of a key. Reply: the JSON text as stored (`bytes`), or None where there is none."""

    key: NsKey


class Set(Struct, frozen=True, gc=False, tag=True):
    """Store JSON text. Reply: True.

    `ttl_ms`: life in milliseconds; None stores without expiry and ends an earlier one, as Redis's SET does.
    """

    key: NsKey
    value: bytes
    ttl_ms: int | None = None


class Delete(Struct, frozen=True, gc=False, tag=True):
    """Remove keys of any type. Reply: how many existed (`int`); a key named twice counts once."""

    keys: tuple[NsKey, ...]


class Exists(Struct, frozen=True, gc=False, tag=True):
    """Which keys exist. Reply: a `tuple[bool, ...]`, one per key, in order."""

    keys: tuple[NsKey, ...]


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


class Publish(Struct, frozen=True, gc=False, tag=True):
    """Send JSON text to those who watch a channel now. Reply: how many watchers got it (`int`)."""

    channel: NsKey
    message: bytes


class KeyIs(Struct, frozen=True, gc=False, tag=True):
    """Condition of `Atomic`: the key holds exactly this JSON text, or does not exist where None."""

    key: NsKey
    value: bytes | None


class KeyExists(Struct, frozen=True, gc=False, tag=True):
    """Condition of `Atomic`: the key exists, of whatever type."""

    key: NsKey


Condition: TypeAlias = KeyIs | KeyExists
Single: TypeAlias = Get | Set | Delete | Exists | Ttl | Expire | Publish


class Atomic(Struct, frozen=True, gc=False, tag=True):
    """Operations that happen all or not at all, with nothing in between, if every condition holds.

    Reply: a tuple with the reply to each operation, or None where a condition did not hold. A store that
    is too full for the whole refuses the whole (`Failure`).
    """

    ops: tuple[Single, ...]
    conditions: tuple[Condition, ...] = ()


Op: TypeAlias = Single | Scan | Atomic

Reply: TypeAlias = (
    bytes | bool | int | tuple[bool, ...] | Page | TtlReply | None | Failure | tuple["Reply", ...]
)


class Change(Struct, frozen=True, gc=False, tag=True):
    """A key was written, removed or expired. What it holds now has to be asked for."""

    key: NsKey


class Message(Struct, frozen=True, gc=False, tag=True):
    """What `Publish` sent."""

    channel: NsKey
    message: bytes


class Gap(Struct, frozen=True, gc=False, tag=True):
    """`lost` events (0: unknown how many) never reached this watcher: look at everything again."""

    lost: int = 0


Event: TypeAlias = Change | Message | Gap


def is_read(op: Op) -> bool:
    """Whether running `op` twice, or not knowing whether it ran, changes nothing."""
    return isinstance(op, Get | Exists | Scan | Ttl)
