"""What things weigh in the memory store, and what is said when there is no room for them."""

from typing import Final

from kvmcp.backends.checks import key_bytes
from kvmcp.backends.faults import too_large
from kvmcp.backends.ops import Failure

ENTRY_OVERHEAD: Final = 400
"""Bytes counted for each key besides its name and what it holds: entry, dict slot, object headers, places in the scan
order and the heap. As all overheads here: measured on CPython 3.11 with 8,000 to 100,000 of each, and rounded up, for
tables grow in steps."""
ELEMENT_OVERHEAD: Final = 48
"""Bytes counted for each element of a list besides its own."""
FIELD_OVERHEAD: Final = 160
"""The same for a field of a hash, its name and its value."""
MEMBER_OVERHEAD: Final = 104
"""The same for a member of a set."""
SCORE_OVERHEAD: Final = 216
"""The same for a member of a sorted set."""
STREAM_ENTRY_OVERHEAD: Final = 200
STREAM_FIELD_OVERHEAD: Final = 160
MESSAGE_OVERHEAD: Final = 176
"""The same for a message in a channel's log."""
CLAIM_OVERHEAD: Final = 320
"""The same for a claimed element with its receipt."""


def size_of(name: str, weight: int) -> int:
    """What a key counts against the store's bytes, with what it holds."""
    return key_bytes(name) + weight + ENTRY_OVERHEAD


def no_room(what: str, held: int, limit: int, needed: int) -> Failure:
    return too_large(
        f"the store holds {held} {what}, its limit is {limit} and this needs {needed} more; "
        "delete some or let them expire"
    )
