"""Channels: publish, and read what was published. One row of `CHANNELS` per tool.

A channel keeps its last messages for a while, each with a number. Whoever reads says after which number, so nothing
is lost silently: what is no longer kept is counted. Waiting is a watch that the driver runs, see `WatchUntil`.
"""

import hashlib
import re
from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from kvmcp.backends.ops import (
    KIND_CHANNEL,
    LOST_UNKNOWN,
    MAX_KEY_BYTES,
    Failure,
    LogPage,
    Namespace,
    NsKey,
    Publish,
    Published,
    ReadLog,
    Reply,
)
from kvmcp.core.plan import Answer, AskBackend, Context, Plan, Start, WatchUntil
from kvmcp.core.wire.common import ResourceLink
from kvmcp.tools.answers import Fault, Rendered, Shown, answer, encode, failed, of_type
from kvmcp.tools.definition import ADD, READ, Call, DryRun, Reader, Row, Step, tool
from kvmcp.tools.keys import bad, key_fault, keys_fault, stored_value
from kvmcp.tools.room import FRAME, chars
from kvmcp.tools.uris import CHANNEL, link

MAX_CHANNELS: Final = 16
"""Channels of one redis_subscribe: each is one operation, and one number in the cursor."""
MAX_MESSAGES: Final = 1000
MAX_WAIT_SECONDS: Final = 50
"""Many clients give a call up after 60 s."""
MAX_LINKS: Final = 4
"""Resources linked in one result for messages that are too long."""

Channel: TypeAlias = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_KEY_BYTES,
        description='The channel, for example "builds". It needs no making.',
    ),
]


# --- redis_publish ---


class PublishArguments(Struct, frozen=True, forbid_unknown_fields=True):
    channel: Channel
    message: Annotated[Raw, Meta(description="Any JSON value: send an object as an object.")]
    dry_run: DryRun = False


class PublishResult(Struct, frozen=True):
    receivers: Annotated[
        int, Meta(ge=0, description="How many wait for it at this moment; others can read it later.")
    ]
    id: Annotated[str, Meta(description="Its number in the channel.")]


class PublishedReader(Reader, frozen=True):
    """Reads what was published, or for a dry run the cursor of what would come."""

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        reply = replies[0]
        if isinstance(reply, LogPage):
            return PublishResult(0, str(int(reply.cursor) + 1))
        published = of_type(reply, Published)
        return PublishResult(published.receivers, published.id)


def step_publish(arguments: PublishArguments, call: Call) -> Step | Fault:
    if (fault := key_fault(arguments.channel)) is not None:
        return fault
    message = stored_value(arguments.message, "`message`")
    if isinstance(message, Fault):
        return message
    channel = call.namespace.key(arguments.channel, KIND_CHANNEL)
    return Step(
        (ReadLog(channel, None) if arguments.dry_run else Publish(channel, message),), PublishedReader()
    )


# --- redis_subscribe ---


class SubscribeArguments(Struct, frozen=True, forbid_unknown_fields=True):
    channels: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=MAX_KEY_BYTES)], ...],
        Meta(
            min_length=1,
            max_length=MAX_CHANNELS,
            description=f'An array of 1 to {MAX_CHANNELS} channels, for example ["builds"].',
            examples=[["builds"]],
        ),
    ]
    timeout: Annotated[
        float,
        Meta(ge=0, le=MAX_WAIT_SECONDS, description="Seconds to wait for a message where there is none yet."),
    ] = 0
    max_messages: Annotated[
        int, Meta(ge=1, le=MAX_MESSAGES, description="How many messages to give at most.")
    ] = 100
    cursor: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=400,
                description='`cursor` of the result before; "0": from the oldest message kept; left out: only what '
                "comes from now on.",
            ),
        ]
        | UnsetType
    ) = UNSET


class ReceivedMessage(Struct, frozen=True):
    channel: str
    id: Annotated[str, Meta(description="Its number in the channel.")]
    message: Raw | UnsetType = UNSET
    truncated: (
        Annotated[str, Meta(description="Instead of a message that is too long for a result.")] | UnsetType
    ) = UNSET


class LogGap(Struct, frozen=True):
    lost: Annotated[int | None, Meta(description="How many messages are no longer kept; null: not known.")]
    message: str


class SubscribeResult(Struct, frozen=True):
    messages: Annotated[tuple[ReceivedMessage, ...], Meta(description="Oldest first in each channel.")]
    cursor: Annotated[str, Meta(description="Send it next time to go on behind these messages.")]
    gap: (
        Annotated[LogGap, Meta(description="Only when messages were lost before they could be read.")]
        | UnsetType
    ) = UNSET


_CURSOR: Final = re.compile(r"([0-9]{1,18}(?:-[0-9]{1,18})*)(?:\.([0-9a-f]{6}))?\Z")


class Position(Struct, frozen=True):
    """Where a reader is in some channels: the numbers of the last messages it has seen; None is from now on."""

    channels: tuple[str, ...]
    """Sorted, each once: a cursor does not depend on the order in which channels are named."""
    after: tuple[int | None, ...]

    @classmethod
    def parse(cls, channels: Sequence[str], cursor: str | UnsetType) -> "Position | Fault":
        names = tuple(sorted(set(channels)))
        if cursor is UNSET:
            return cls(names, (None,) * len(names))
        if cursor == "0":
            return cls(names, (0,) * len(names))
        match = _CURSOR.match(cursor)
        if match is None:
            return bad(
                'the cursor is none that redis_subscribe gave; send "0" to read from the oldest message kept'
            )
        numbers = tuple(map(int, match[1].split("-")))
        if len(numbers) != len(names) or (match[2] or "") != _mark(names):
            return bad(
                'the cursor belongs to other channels; send the same channels as before, or cursor "0"'
            )
        return cls(names, numbers)

    def at(self, numbers: Sequence[int]) -> "Position":
        return Position(self.channels, tuple(numbers))

    def cursor(self) -> str:
        """A number per channel; behind several of them a mark that tells whose they are."""
        mark = _mark(self.channels)
        return "-".join(str(number or 0) for number in self.after) + (f".{mark}" if mark else "")

    def ops(self, namespace: str, count: int) -> tuple[ReadLog, ...]:
        return tuple(
            ReadLog(channel, after, count)
            for channel, after in zip(self.of_store(namespace), self.after, strict=True)
        )

    def of_store(self, namespace: str) -> tuple[NsKey, ...]:
        return tuple(Namespace(namespace).key(name, KIND_CHANNEL) for name in self.channels)


def _mark(channels: Sequence[str]) -> str:
    """Six digits that stand for some channels; nothing for a single one."""
    return "" if len(channels) == 1 else hashlib.sha1(encode(channels), usedforsecurity=False).hexdigest()[:6]


class Delivery:
    """What of some pages goes into one result: turn by turn from each channel, as long as there is room."""

    def __init__(self, position: Position, pages: Sequence[LogPage], context: Context) -> None:
        self._position = position
        self._pages = pages
        self._context = context
        self._taken = [0] * len(pages)
        self.messages: list[ReceivedMessage] = []
        self.links: list[ResourceLink] = []

    def fill(self, count: int, room: int) -> None:
        """Take messages until there are `count`, no more, or no room for the next."""
        longest = room
        for turn in range(max(len(page.messages) for page in self._pages)):
            for index, page in enumerate(self._pages):
                if turn < len(page.messages) and turn == self._taken[index]:
                    received = self._received(self._position.channels[index], *page.messages[turn], longest)
                    room -= chars(encode(received)) + 1
                    if room < 0 or len(self.messages) == count:
                        return
                    self.messages.append(received)
                    self._taken[index] += 1

    def _received(self, channel: str, id: str, message: bytes, longest: int) -> ReceivedMessage:
        received = ReceivedMessage(channel, id, Raw(message))
        if chars(encode(received)) < longest:
            return received
        problem = f"a message of {chars(message)} characters is left out, for it is too long for one result"
        if len(self.links) < MAX_LINKS:
            self.links.append(link(CHANNEL, self._context, name=channel))
            problem += "; the resource of the channel has it"
        return ReceivedMessage(channel, id, truncated=problem)

    def position(self) -> Position:
        """Behind what was taken. A gap that was told is not told again, also where nothing was taken behind it."""
        return self._position.at(
            [self._reached(page, taken) for page, taken in zip(self._pages, self._taken, strict=True)]
        )

    @staticmethod
    def _reached(page: LogPage, taken: int) -> int:
        if taken == len(page.messages):
            return int(page.cursor)
        return int(page.messages[taken][0]) - 1

    def gap(self) -> LogGap | UnsetType:
        lost = [page.lost for page in self._pages if page.lost]
        if not lost:
            return UNSET
        if LOST_UNKNOWN in lost:
            return LogGap(
                None, "messages may have been lost, for they are no longer kept; look at the state itself"
            )
        total = sum(lost)
        return LogGap(
            total, f"{total} messages are no longer kept and were not read; look at the state itself"
        )


class Deliver(Struct, frozen=True):
    """Continuation of a look at the logs, the first and those of the watch."""

    position: Position
    count: int
    room: int
    timeout: float

    def resume(self, replies: Sequence[Reply], context: Context, late: bool | None = None) -> "Answer | None":
        """None where there is nothing yet, and it is not late."""
        pages = self.pages(replies)
        if isinstance(pages, Failure):
            return answer(pages)
        if not late and not any(page.messages or page.lost for page in pages):
            return None
        return self.deliver(pages, context)

    def pages(self, replies: Sequence[Reply]) -> tuple[LogPage, ...] | Failure:
        failure = next((reply for reply in replies if isinstance(reply, Failure)), None)
        return failure or tuple(of_type(reply, LogPage) for reply in replies)

    def deliver(self, pages: Sequence[LogPage], context: Context) -> Answer:
        delivery = Delivery(self.position, pages, context)
        delivery.fill(self.count, self.room - FRAME)
        result = SubscribeResult(tuple(delivery.messages), delivery.position().cursor(), delivery.gap())
        return answer(Shown(result, tuple(delivery.links)))


class FirstLook(Struct, frozen=True):
    """Answers with what is there; else waits for more, if the caller wants to wait."""

    deliver: Deliver

    def resume(self, replies: Sequence[Reply], context: Context) -> Plan:
        then = self.deliver
        found = then.resume(replies, context, late=not then.timeout)
        if found is not None:
            return found
        pages = then.pages(replies)
        assert not isinstance(pages, Failure), "a failure is an answer"
        position = then.position.at([int(page.cursor) for page in pages])
        namespace = context.caller.namespace
        return Start(
            WatchUntil(
                context,
                position.ops(namespace, then.count),
                Deliver(position, then.count, then.room, then.timeout),
                then.timeout,
                channels=position.of_store(namespace),
            )
        )


def plan_subscribe(arguments: SubscribeArguments, call: Call) -> Plan:
    fault = keys_fault(arguments.channels)
    position = fault or Position.parse(arguments.channels, arguments.cursor)
    if isinstance(position, Fault):
        return failed(position)
    then = Deliver(position, arguments.max_messages, call.room, arguments.timeout)
    ops = position.ops(call.context.caller.namespace, arguments.max_messages)
    return AskBackend(ops, FirstLook(then))


CHANNELS: Final[tuple[Row, ...]] = (
    tool(
        "redis_publish", PublishArguments, PublishResult, step=step_publish, hints=ADD,
        title="Publish a message",
        description="Send a JSON message to a channel: those who wait get it at once, others can read it later, for a "
        "channel keeps its last messages. Gives `id`, and in `receivers` how many were waiting; 0 is no error. "
        'Example: {"channel": "builds", "message": {"build": 7, "ok": true}}.',
    ),
    tool(
        "redis_subscribe", SubscribeArguments, SubscribeResult, plan=plan_subscribe, hints=READ,
        title="Read or await messages",
        description="Read the messages of channels behind `cursor`, or wait up to `timeout` seconds for the next ones. "
        "Gives `messages` and the next `cursor`: call again with it and nothing is missed. `gap` says how many were "
        'lost, if any. Example: {"channels": ["builds"], "cursor": "0", "timeout": 20}.',
    ),
)  # fmt: skip
"""The tools for channels, in the order in which they are listed."""
