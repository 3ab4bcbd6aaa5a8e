"""Keys and the namespaces that they cannot leave, and how large each thing may be."""

from collections.abc import Callable
from functools import partial
from typing import Final

from msgspec import Struct

MAX_NAMESPACE: Final = 64
MAX_KEY_BYTES: Final = 512
"""A key as UTF-8. Redis takes 512 MiB; people and models write less than 200 bytes."""
MAX_VALUE_BYTES: Final = 1024 * 1024
"""A value, an element, a field's value or a message as JSON text. 1 MiB is far above what a model can read
(25,000 characters)."""
MAX_PATTERN_BYTES: Final = 256
MAX_PATTERN_STARS: Final = 8
"""Wildcards in one pattern: bounds the matcher's work, here and in Redis (CVE-2024-31228)."""
MAX_SCAN_COUNT: Final = 1000
MAX_BATCH_KEYS: Final = 1000
MAX_TTL_SECONDS: Final = 100 * 366 * 86400
"""A hundred years: far below the overflow of Redis's millisecond clock."""

MAX_FIELD_BYTES: Final = MAX_KEY_BYTES
"""A field's name as UTF-8: it is a key inside a key."""
MAX_MEMBER_BYTES: Final = 4096
"""A member of a set or sorted set: something that names a thing, not the thing. Stores keep each in a table."""
MAX_ITEMS: Final = 1000
"""Elements, fields, members or entries that one operation brings or asks for: well below a millisecond of a store
that serves nobody else meanwhile, and the reply that a store reads as one piece."""
MAX_COLLECTION: Final = 10_000
"""Fields of one hash, members of one set: both are read whole, and that reply must stay a small one. Lists, sorted
sets and streams are read in pages and have no such limit."""
MAX_READ_BYTES: Final = 8 * 1024 * 1024
"""What the reads of one operation give together, an `Atomic` being one: half of what a reply of Redis may be.
One that would be more is refused (`TOO_LARGE`) or cut where its reply can say so."""
MAX_ATOMIC_OPS: Final = 1000
"""Operations of one `Atomic`, during which the store serves nobody else."""
MAX_INTEGER: Final = 2**63 - 1
"""Counters are signed 64-bit numbers, as Redis's."""

KIND_VALUE: Final = "k"
"""The user's keys. Other kinds stay out of the user's key space: no scan of one gives a name of another."""
KIND_SESSION: Final = "s"
"""Sessions: hashes that tools make out of `KeyExists`, `HashSet` and `Expire`."""
KIND_CHANNEL: Final = "c"
"""Names of channels. A channel is no key; its log is kept beside it, see `SUFFIX_LOG`."""
KIND_LEASE: Final = "l"
"""Who holds a lease: a value that expires."""
KIND_FENCE: Final = "f"
"""Counters of a lease's holders so far. They outlive the lease."""
KIND_BARRIER: Final = "b"
"""Who has come to a barrier."""

SUFFIX_LOG: Final = ".log"
"""What the store itself keeps for a key has that key's name in a space of its own: the space and a suffix. No kind has
a dot in it, so nothing else can be there. This one: the kept messages of a channel."""
SUFFIX_COUNT: Final = ".count"
"""Where the numbers of a channel's messages are. Outlives the log."""
SUFFIX_CLAIMS: Final = ".claims"
"""The claimed elements of a queue."""
SUFFIX_DUE: Final = ".due"
"""When the claims of a queue end."""


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

    def key_maker(self, kind: str = KIND_VALUE) -> Callable[[str], NsKey]:
        """`key` for many names of one kind."""
        return partial(NsKey, self.space(kind))


def is_namespace(name: str) -> bool:
    """Whether `name` can be a namespace: no separator, brace or glob character can be in it."""
    return (
        0 < len(name) <= MAX_NAMESPACE
        and name.isascii()
        and all(character.isalnum() or character in "._-" for character in name)
    )


def namespace_of(key: NsKey) -> str:
    """The part of a key's space that is the same for all kinds: `{namespace}`."""
    return key.space.partition(":")[0]


def beside(key: NsKey, suffix: str) -> NsKey:
    """Where the store itself keeps something for a key: one of the suffixes above."""
    return NsKey(key.space + suffix, key.name)
