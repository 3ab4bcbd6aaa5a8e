"""What a key weighs in the memory store, and what is said when there is no room for it."""

from typing import Final

from kvmcp.backends.checks import key_bytes, too_large
from kvmcp.backends.ops import Failure

ENTRY_OVERHEAD: Final = 384
"""Bytes counted for each key besides its name and value: entry, dict slot, object headers, places in the scan
order and the heap. Measured on CPython 3.11 with a million keys: 222, and 371 where all of them expire."""


def size_of(name: str, value: bytes | None) -> int:
    """What a key counts against the store's bytes; None is a key that does not exist."""
    return 0 if value is None else key_bytes(name) + len(value) + ENTRY_OVERHEAD


def no_room(what: str, held: int, limit: int, needed: int) -> Failure:
    return too_large(
        f"the store holds {held} {what}, its limit is {limit} and this needs {needed} more; "
        "delete some or let them expire"
    )
