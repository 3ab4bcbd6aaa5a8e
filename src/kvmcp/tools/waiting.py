"""Waiting: for others at a barrier, for a change of a key or a channel. One row of `WAITING` per tool.

Who has come to a barrier is a set that expires (`KIND_BARRIER`), of names: coming twice counts once.
"""

from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias, cast

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from kvmcp.backends.ops import (
    KIND_BARRIER,
    MAX_KEY_BYTES,
    Atomic,
    Expire,
    Failure,
    Get,
    LogPage,
    NsKey,
    Reply,
    SetAdd,
    SetMembers,
    etag_of,
)
from kvmcp.core.plan import Answer, AskBackend, Context, Plan, Start, WatchUntil
from kvmcp.tools.answers import Fault, Rendered, Shown, answer, encode, failed, of_type
from kvmcp.tools.channels import Delivery, LogGap, Position, ReceivedMessage
from kvmcp.tools.definition import CREATE, READ, Call, DryRun, Row, tool
from kvmcp.tools.keys import Seconds, bad, key_fault, text_fault
from kvmcp.tools.leases import Wait
from kvmcp.tools.room import FRAME, Truncated, how_many_fit
from kvmcp.tools.strings import found_value

MAX_PARTIES: Final = 1000
"""Parties of one barrier: all their names are read at each arrival."""
MAX_PARTY_BYTES: Final = 256
MAX_MESSAGES: Final = 100
"""Messages of one kv_wait."""
ABSENT: Final = "absent"
"""Stands in for the etag of a key that does not exist; etags are hexadecimal."""

# --- barrier_wait ---


class BarrierArguments(Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=MAX_KEY_BYTES,
            description='The barrier, for example "round-3"; a new name for each meeting.',
        ),
    ]
    party: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=MAX_PARTY_BYTES,
            description='Who you are, for example "agent-7"; each party needs a name of its own.',
        ),
    ]
    parties: Annotated[int, Meta(ge=1, le=MAX_PARTIES, description="How many must be there, you included.")]
    timeout: Annotated[Wait, Meta(description="Seconds to wait for the others.")] = 20
    ttl: Annotated[
        Seconds, Meta(description="Seconds after the last arrival at which the barrier is forgotten.")
    ] = 3600
    dry_run: DryRun = False


class BarrierResult(Struct, frozen=True):
    complete: Annotated[
        bool, Meta(description="Whether all are there: go on; else call again to go on waiting.")
    ]
    arrived: Annotated[int, Meta(ge=0, description="How many are there.")]
    missing: Annotated[int, Meta(ge=0, description="How many are not there yet.")]
    here: Annotated[tuple[str, ...], Meta(description="Who is there, as far as the names fit.")]


class Arrivals(Struct, frozen=True):
    """Continuation of looks at who is there. A dry run counts `party`, who has not come."""

    barrier: NsKey
    party: str
    parties: int
    room: int
    dry: bool = False

    def resume(self, replies: Sequence[Reply], context: Context, late: bool) -> Answer | None:
        """None where somebody is missing, and it is not late."""
        reply = replies[-1]
        if isinstance(reply, Failure):
            return answer(reply)
        # `ops.SetMembers` lays down what is in the tuple.
        members = cast(tuple[bytes, ...], of_type(reply, tuple))
        names = [msgspec.json.decode(member, type=str) for member in members]
        if self.dry and self.party not in names:
            names.append(self.party)
        missing = max(0, self.parties - len(names))
        if missing and not late:
            return None
        shown = tuple(names[: how_many_fit(map(encode, names), self.room - FRAME)])
        return answer(BarrierResult(not missing, len(names), missing, shown), dry=self.dry)


class Arrived(Struct, frozen=True):
    """Waits for the others, once this party is counted."""

    arrivals: Arrivals
    timeout: float

    def resume(self, replies: Sequence[Reply], context: Context) -> Plan:
        then, (reply,) = self.arrivals, replies
        parts = reply if isinstance(reply, tuple) else (reply,)
        found = then.resume(parts, context, late=not self.timeout)
        if found is not None:
            return found
        look = (SetMembers(then.barrier),)
        return Start(WatchUntil(context, look, then, self.timeout, keys=(then.barrier,)))


class DryArrival(Struct, frozen=True):
    arrivals: Arrivals

    def resume(self, replies: Sequence[Reply], context: Context) -> Plan:
        found = self.arrivals.resume(replies, context, late=True)
        assert found is not None, "when it is late there is an answer"
        return found


def plan_barrier(arguments: BarrierArguments, call: Call) -> Plan:
    fault = key_fault(arguments.name) or text_fault("`party`", arguments.party, MAX_PARTY_BYTES)
    if fault is not None:
        return failed(fault)
    barrier = call.namespace.key(arguments.name, KIND_BARRIER)
    then = Arrivals(barrier, arguments.party, arguments.parties, call.room, arguments.dry_run)
    if arguments.dry_run:
        return AskBackend((SetMembers(barrier),), DryArrival(then))
    arrive = Atomic(
        (
            SetAdd(barrier, (encode(arguments.party),)),
            Expire(barrier, arguments.ttl * 1000),
            SetMembers(barrier),
        )
    )
    return AskBackend((arrive,), Arrived(then, arguments.timeout), writes=True)


# --- kv_wait ---

WaitedKey: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_KEY_BYTES)]


class WaitArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Annotated[WaitedKey, Meta(description="The key of a plain value to watch.")] | UnsetType = UNSET
    channel: Annotated[WaitedKey, Meta(description="Or the channel to watch.")] | UnsetType = UNSET
    since: (
        Annotated[
            str,
            Meta(
                min_length=1,
                max_length=64,
                description=f'What you have seen: for a key its etag, "{ABSENT}" if it did not exist; for a channel a '
                "cursor. Left out: wait for what changes from now on.",
            ),
        ]
        | UnsetType
    ) = UNSET
    timeout: Annotated[Wait, Meta(description="Seconds to wait.")] = 20


class WaitResult(Struct, frozen=True):
    changed: Annotated[bool, Meta(description="false: nothing new before the time was up; call again.")]
    found: Annotated[bool, Meta(description="Of a key: whether it exists.")] | UnsetType = UNSET
    value: Annotated[Raw, Meta(description="Of a key that has changed: its value.")] | UnsetType = UNSET
    etag: (
        Annotated[str, Meta(description=f'Of a key, "{ABSENT}" if it does not exist: the next `since`.')]
        | UnsetType
    ) = UNSET
    messages: (
        Annotated[
            tuple[ReceivedMessage, ...], Meta(description="Of a channel: what is new, the oldest first.")
        ]
        | UnsetType
    ) = UNSET
    cursor: Annotated[str, Meta(description="Of a channel: the next `since`.")] | UnsetType = UNSET
    gap: (
        Annotated[LogGap, Meta(description="Only when messages were lost before they could be read.")]
        | UnsetType
    ) = UNSET
    truncated: Truncated = UNSET


class KeyNews(Struct, frozen=True):
    """Continuation of looks at a key; `since` is what the caller has seen, None before the first look."""

    key: str
    of_store: NsKey
    since: str | None
    room: int

    def resume(self, replies: Sequence[Reply], context: Context, late: bool) -> Answer | None:
        """None where it is as it was, and it is not late."""
        (value,) = replies
        if isinstance(value, Failure):
            return answer(value)
        etag = etag_seen(value)
        if etag == (etag if self.since is None else self.since):
            return answer(WaitResult(False, value is not None, etag=etag)) if late else None
        return answer(self._changed(value, context))

    def _changed(self, value: Reply, context: Context) -> Rendered:
        if value is None:
            return WaitResult(True, False, etag=ABSENT)
        return found_value(self.key, of_type(value, bytes), context, self.room, b',"changed":true')

    def ops(self) -> tuple[Get]:
        return (Get(self.of_store),)


def etag_seen(value: Reply) -> str:
    return ABSENT if value is None else etag_of(of_type(value, bytes))


class FirstLookAtKey(Struct, frozen=True):
    news: KeyNews
    timeout: float

    def resume(self, replies: Sequence[Reply], context: Context) -> Plan:
        news = self.news
        found = news.resume(replies, context, late=not self.timeout)
        if found is not None:
            return found
        news = msgspec.structs.replace(news, since=etag_seen(replies[0]))
        return Start(WatchUntil(context, news.ops(), news, self.timeout, keys=(news.of_store,)))


class ChannelNews(Struct, frozen=True):
    """Continuation of looks at a channel's log."""

    position: Position
    room: int

    def resume(self, replies: Sequence[Reply], context: Context, late: bool) -> Answer | None:
        """None where there is nothing yet, and it is not late."""
        (page,) = replies
        if isinstance(page, Failure):
            return answer(page)
        page = of_type(page, LogPage)
        is_new = bool(page.messages or page.lost)
        if not is_new and not late:
            return None
        delivery = Delivery(self.position, (page,), context)
        delivery.fill(MAX_MESSAGES, self.room - FRAME)
        cursor = delivery.position().cursor()
        result = WaitResult(is_new, messages=tuple(delivery.messages), cursor=cursor, gap=delivery.gap())
        return answer(Shown(result, tuple(delivery.links)))


class FirstLookAtChannel(Struct, frozen=True):
    news: ChannelNews
    timeout: float

    def resume(self, replies: Sequence[Reply], context: Context) -> Plan:
        news = self.news
        found = news.resume(replies, context, late=not self.timeout)
        if found is not None:
            return found
        position = news.position.at([int(of_type(replies[0], LogPage).cursor)])
        namespace = context.caller.namespace
        return Start(
            WatchUntil(
                context,
                position.ops(namespace, MAX_MESSAGES),
                ChannelNews(position, news.room),
                self.timeout,
                channels=position.of_store(namespace),
            )
        )


def plan_wait(arguments: WaitArguments, call: Call) -> Plan:
    key, channel, since = arguments.key, arguments.channel, arguments.since
    if key is not UNSET and channel is UNSET:
        if (fault := key_fault(key)) is not None:
            return failed(fault)
        seen = None if since is UNSET else since
        news = KeyNews(key, call.namespace.key(key), seen, call.room)
        return AskBackend(news.ops(), FirstLookAtKey(news, arguments.timeout))
    if channel is not UNSET and key is UNSET:
        position = key_fault(channel) or Position.parse((channel,), since)
        if isinstance(position, Fault):
            return failed(position)
        ops = position.ops(call.context.caller.namespace, MAX_MESSAGES)
        return AskBackend(ops, FirstLookAtChannel(ChannelNews(position, call.room), arguments.timeout))
    return failed(bad("kv_wait watches a key or a channel; send one of `key` and `channel`"))


WAITING: Final[tuple[Row, ...]] = (
    tool(
        "barrier_wait", BarrierArguments, BarrierResult, plan=plan_barrier, hints=CREATE,
        title="Wait until all are there",
        description="Come to a barrier and wait until so many `parties` are there, up to `timeout` seconds. Gives "
        "`complete`, and how many are there and missing. Who has come stays counted: call again, with the same "
        '`party`, to go on waiting. Example: {"name": "round-3", "party": "agent-7", "parties": 3, "timeout": 30}.',
    ),
    tool(
        "kv_wait", WaitArguments, WaitResult, plan=plan_wait, hints=READ,
        title="Wait for a change",
        description="Wait until the value of a key is another one than the one of the etag `since`, or until a channel "
        "has messages behind the cursor `since`; at once if that is so already. Gives `changed` and the next etag or "
        "cursor. Use it instead of reading again and again. "
        'Example: {"key": "job:7:status", "since": "356a192b7913b04c", "timeout": 30}.',
    ),
)  # fmt: skip
"""The tools that wait, in the order in which they are listed."""
