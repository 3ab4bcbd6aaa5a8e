"""Channels with a log that can be replayed, and queues whose elements are claimed for a time.

Nobody but the store's own clock decides about time here.
"""

from typing import Final

from msgspec import Struct

from kvmcp.backends.ops.names import MAX_VALUE_BYTES, NsKey

LOG_MESSAGES: Final = 1024
"""Messages of one channel that are kept: as many as a watcher may be behind."""
LOG_BYTES: Final = MAX_VALUE_BYTES
"""Bytes of one channel's kept messages. The largest message always fits."""
LOG_LIFE_MS: Final = 24 * 3600 * 1000
"""How long a message is kept: an agent that was away for the night can still catch up."""
LOG_COUNT_LIFE_MS: Final = 30 * 24 * 3600 * 1000
"""How long a silent channel's numbers are remembered. Within this time a reader is told how many it missed."""
LOST_UNKNOWN: Final = -1
"""`LogPage.lost` where some may be lost and nobody can say how many."""

MAX_CLAIMS: Final = 10_000
"""Claims of one queue that may be open at once; a claim beyond is refused (`TOO_LARGE`). Each is an element that is
kept until somebody acknowledges it."""
MAX_CLAIM_COUNT: Final = 100
"""Elements of one claim: more than one worker can do at once."""
MAX_OWNER_BYTES: Final = 256
MAX_RECEIPT_BYTES: Final = 128


class Publish(Struct, frozen=True, gc=False, tag=True):
    """Send JSON text to those who watch a channel now, and keep it for those who read its log. Reply: `Published`."""

    channel: NsKey
    message: bytes


class Published(Struct, frozen=True, gc=False):
    """`id` is the message's number in its channel, as decimal text; later messages have higher ones."""

    receivers: int
    """Watchers that got it. A lower bound where other programs serve watchers too."""
    id: str


class ReadLog(Struct, frozen=True, gc=False, tag=True):
    """The oldest `count` kept messages of a channel after number `after`. Reply: `LogPage`.

    0 begins with the oldest that is kept. None gives no message, but the cursor of what comes from now on.
    """

    channel: NsKey
    after: int | None
    count: int = 100


class LogPage(Struct, frozen=True, gc=False):
    """Messages of a channel, oldest first, each with its number."""

    messages: tuple[tuple[str, bytes], ...]
    cursor: str
    """What to ask for next, as decimal text: the number of the last message here, or of the last one there was."""
    lost: int
    """Messages after `after` that are no longer kept; `LOST_UNKNOWN` where that cannot be counted."""


class QueueClaim(Struct, frozen=True, gc=False, tag=True):
    """Take up to `count` elements from the left of a list, to be acknowledged within `visibility_ms` (≥ 1).

    Elements whose claim has ended come first, in that order. An element is delivered at least once. Reply: a
    `tuple[Claimed, ...]`; fewer than `count` where there are no more, or they would be over `MAX_READ_BYTES`.
    `owner` is kept for those who look.
    """

    queue: NsKey
    owner: str
    visibility_ms: int
    count: int = 1


class Claimed(Struct, frozen=True, gc=False):
    """An element that is claimed."""

    receipt: str
    """Stands for this claim; another one of the same element has another receipt."""
    value: bytes
    deliveries: int
    """How often the element was given out, this time included."""


class QueueAck(Struct, frozen=True, gc=False, tag=True):
    """The work is done: forget a claimed element. Reply: whether the claim was open (`bool`).

    One that has ended stays open until somebody else claims the element; from then on the old receipt is refused.
    """

    queue: NsKey
    receipt: str


class QueueExtend(Struct, frozen=True, gc=False, tag=True):
    """Let a claim end `visibility_ms` (≥ 1) from now. Reply: whether it was open (`bool`), as for `QueueAck`."""

    queue: NsKey
    receipt: str
    visibility_ms: int


class QueueHolds(Struct, frozen=True, gc=False, tag=True):
    """Reply: whether a claim is open (`bool`), so that `QueueAck` and `QueueExtend` would find it."""

    queue: NsKey
    receipt: str
