"""Queues: work that is claimed for a time and acknowledged. One row of `QUEUES` per tool.

A queue is a list that redis_rpush and redis_lpush fill. A claimed element is in the list no more, but kept until it is
acknowledged; when its time is over somebody else gets it.
"""

from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias, cast

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from kvmcp.backends.ops import (
    MAX_CLAIM_COUNT,
    MAX_KEY_BYTES,
    MAX_OWNER_BYTES,
    MAX_RECEIPT_BYTES,
    SUFFIX_CLAIMS,
    Atomic,
    Claimed,
    Elements,
    Failure,
    Length,
    NsKey,
    QueueAck,
    QueueClaim,
    QueueExtend,
    QueueHolds,
    Range,
    Reply,
    SizeOf,
    beside,
)
from kvmcp.core.plan import Answer, AskBackend, Context, Plan, Start, WatchUntil
from kvmcp.tools.answers import Fault, Rendered, answer, encode, failed, of_type
from kvmcp.tools.counting import Flagged
from kvmcp.tools.definition import ADD, CREATE, OVERWRITE, Call, DryRun, Reader, Row, Step, ask, tool
from kvmcp.tools.keys import Seconds, bad, key_fault, text_fault
from kvmcp.tools.leases import Owner, Wait
from kvmcp.tools.room import FRAME, Truncated, chars, how_many_fit

QUEUE_PAUSE: Final = 2.0
"""Seconds after which one who waits looks again: no store tells that a claim has ended."""

Queue: TypeAlias = Annotated[
    str,
    Meta(min_length=1, max_length=MAX_KEY_BYTES, description='The key of the list, for example "todo".'),
]
Receipt: TypeAlias = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_RECEIPT_BYTES,
        description="The `receipt` that queue_claim gave with the item.",
    ),
]

# --- queue_claim ---


class ClaimArguments(Struct, frozen=True, forbid_unknown_fields=True):
    queue: Queue
    owner: Owner
    visibility: Annotated[
        Seconds, Meta(description="Seconds you have for the work; then others get the item.")
    ] = 60
    count: Annotated[int, Meta(ge=1, le=MAX_CLAIM_COUNT, description="How many items to claim at most.")] = 1
    timeout: Annotated[
        Wait, Meta(description="Seconds to wait where there is nothing to do; then for a single item.")
    ] = 0
    dry_run: DryRun = False


class ClaimedItem(Struct, frozen=True):
    receipt: (
        Annotated[str, Meta(description="For queue_ack and queue_extend; a dry run has none.")] | UnsetType
    ) = UNSET
    value: Annotated[Raw, Meta(description="The element, as it was pushed.")] | UnsetType = UNSET
    deliveries: (
        Annotated[int, Meta(ge=1, description="How often it was claimed so far; above 1 somebody gave up.")]
        | UnsetType
    ) = UNSET
    truncated: (
        Annotated[str, Meta(description="Instead of a value that is too long for a result.")] | UnsetType
    ) = UNSET


class ClaimResult(Struct, frozen=True):
    items: Annotated[tuple[ClaimedItem, ...], Meta(description="The oldest first; [] when there is no work.")]
    waiting: Annotated[int, Meta(ge=0, description="How many more wait to be claimed.")]
    claimed: Annotated[
        int, Meta(ge=0, description="How many are claimed and not acknowledged, these included.")
    ]
    truncated: Truncated = UNSET


def look_of(queue: NsKey) -> tuple[Length, SizeOf]:
    """What `waiting` and `claimed` are read from."""
    return Length(queue), SizeOf(beside(queue, SUFFIX_CLAIMS))


class ClaimedReader(Reader, frozen=True):
    """Reads what was claimed, or for a dry run what is at the left end; then how many wait and are claimed."""

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        reply = replies[0]
        if isinstance(reply, Elements):
            fit = how_many_fit(reply.values, room - FRAME)
            items = tuple(ClaimedItem(value=Raw(value)) for value in reply.values[:fit])
            return self.result(items, replies, back=-len(items))
        return self.result(tuple(map(item_of, claims_of(reply))), replies)

    def result(
        self,
        items: tuple[ClaimedItem, ...],
        replies: Sequence[Reply],
        truncated: Truncated = UNSET,
        back: int = 0,
    ) -> ClaimResult:
        """`back`: how many of those that were claimed go back; negative, how many would be claimed."""
        open_claims = 0 if replies[2] is None else of_type(replies[2], int)
        return ClaimResult(items, of_type(replies[1], int) + back, open_claims - back, truncated)


def claims_of(reply: Reply) -> tuple[Claimed, ...]:
    """What `ops.QueueClaim` replies."""
    return cast(tuple[Claimed, ...], of_type(reply, tuple))


def item_of(claimed: Claimed) -> ClaimedItem:
    return ClaimedItem(claimed.receipt, Raw(claimed.value), claimed.deliveries)


def _without_value(claimed: Claimed) -> ClaimedItem:
    problem = (
        f"the element has {chars(claimed.value)} characters, more than one result can hold; to remove it send "
        "queue_ack; to read it the server must be started with a larger --max-result-chars"
    )
    return ClaimedItem(claimed.receipt, UNSET, claimed.deliveries, problem)


def _that_fit(claims: Sequence[Claimed], room: int) -> tuple[ClaimedItem, ...]:
    """The first items that a result has room for: one at least, without its value where that is too long alone."""
    items = tuple(map(item_of, claims))
    fit = how_many_fit(map(encode, items), room - FRAME)
    return items[:fit] if fit or not items else (_without_value(claims[0]),)


class Claims(Struct, frozen=True):
    """Continuation of a claim, the first and those of the watch.

    Items that a result has no room for go back at once, where there is another trip for that.
    """

    queue: NsKey
    owner: str
    visibility_ms: int
    room: int

    def ops(self, count: int) -> tuple[Atomic]:
        claim = QueueClaim(self.queue, self.owner, self.visibility_ms, count)
        return (Atomic((claim, *look_of(self.queue))),)

    def resume(self, replies: Sequence[Reply], context: Context, late: bool) -> Answer | None:
        """For the watch, which claims one item at a time. None where there is none, and it is not late."""
        (found,) = replies
        if isinstance(found, Failure):
            return answer(found)
        parts = cast(tuple[Reply, ...], of_type(found, tuple))
        items = _that_fit(claims_of(parts[0]), self.room)
        return answer(ClaimedReader().result(items, parts)) if items or late else None


class FirstClaim(Struct, frozen=True):
    claims: Claims
    timeout: float

    def resume(self, replies: Sequence[Reply], context: Context) -> Plan:
        claims, (found,) = self.claims, replies
        if isinstance(found, Failure):
            return answer(found)
        parts = cast(tuple[Reply, ...], of_type(found, tuple))
        given = claims_of(parts[0])
        if not given and self.timeout:
            watched = (claims.queue,)
            return Start(
                WatchUntil(
                    context, claims.ops(1), claims, self.timeout, watched, writes=True, pause=QUEUE_PAUSE
                )
            )
        items = _that_fit(given, claims.room)
        rest = given[len(items) :]
        if not rest:
            return answer(ClaimedReader().result(items, parts))
        problem = (
            f"{len(rest)} more items do not fit in one result and went back to the queue; claim fewer at once"
        )
        result = ClaimedReader().result(items, parts, problem, len(rest))
        back = tuple(QueueExtend(claims.queue, claimed.receipt, 1) for claimed in rest)
        return AskBackend(back, GivenBack(result), writes=True)


class GivenBack(Struct, frozen=True):
    """Answers with the items that stay. One that could not be given back comes back when its time is over."""

    result: ClaimResult

    def resume(self, replies: Sequence[Reply], context: Context) -> Plan:
        return answer(self.result)


def step_claim(arguments: ClaimArguments, call: Call) -> Step | Fault:
    """For `redis_multi`, which has one round trip: whatever is claimed is told."""
    claims = _claims(arguments, call)
    if isinstance(claims, Fault):
        return claims
    if arguments.timeout:
        return bad("timeout came, but redis_multi cannot wait; leave it out there")
    if arguments.dry_run:
        return _would_claim(claims, arguments.count)
    (claim,) = claims.ops(arguments.count)
    return Step(claim.ops, ClaimedReader())


def _claims(arguments: ClaimArguments, call: Call) -> Claims | Fault:
    fault = key_fault(arguments.queue) or text_fault("`owner`", arguments.owner, MAX_OWNER_BYTES)
    queue = call.namespace.key(arguments.queue)
    return fault or Claims(queue, arguments.owner, arguments.visibility * 1000, call.room)


def _would_claim(claims: Claims, count: int) -> Step:
    """What is at the left end; of claims that have ended nobody can tell without claiming them."""
    return Step((Range(claims.queue, 0, count - 1), *look_of(claims.queue)), ClaimedReader())


def plan_claim(arguments: ClaimArguments, call: Call) -> Plan:
    claims = _claims(arguments, call)
    if isinstance(claims, Fault):
        return failed(claims)
    if arguments.dry_run:
        return ask(_would_claim(claims, arguments.count), call.room, writes=True, dry=True)
    return AskBackend(claims.ops(arguments.count), FirstClaim(claims, arguments.timeout), writes=True)


# --- queue_ack, queue_extend ---


class AckArguments(Struct, frozen=True, forbid_unknown_fields=True):
    queue: Queue
    receipt: Receipt
    dry_run: DryRun = False


class AckResult(Struct, frozen=True):
    acknowledged: Annotated[
        bool, Meta(description="false: the claim is over, and somebody else has the item or has done it.")
    ]


class ExtendArguments(Struct, frozen=True, forbid_unknown_fields=True):
    queue: Queue
    receipt: Receipt
    visibility: Annotated[Seconds, Meta(description="Seconds from now that you still have for the work.")] = (
        60
    )
    dry_run: DryRun = False


class ExtendResult(Struct, frozen=True):
    extended: Annotated[
        bool,
        Meta(description="false: the claim is over, and somebody else has the item; stop working on it."),
    ]


def step_ack(arguments: AckArguments, call: Call) -> Step | Fault:
    fault = key_fault(arguments.queue) or text_fault("`receipt`", arguments.receipt, MAX_RECEIPT_BYTES)
    if fault is not None:
        return fault
    queue = call.namespace.key(arguments.queue)
    if arguments.dry_run:
        return Step((QueueHolds(queue, arguments.receipt),), Flagged(AckResult))
    return Step((QueueAck(queue, arguments.receipt),), Flagged(AckResult))


def step_extend(arguments: ExtendArguments, call: Call) -> Step | Fault:
    fault = key_fault(arguments.queue) or text_fault("`receipt`", arguments.receipt, MAX_RECEIPT_BYTES)
    if fault is not None:
        return fault
    queue = call.namespace.key(arguments.queue)
    if arguments.dry_run:
        return Step((QueueHolds(queue, arguments.receipt),), Flagged(ExtendResult))
    return Step((QueueExtend(queue, arguments.receipt, arguments.visibility * 1000),), Flagged(ExtendResult))


QUEUES: Final[tuple[Row, ...]] = (
    tool(
        "queue_claim", ClaimArguments, ClaimResult, step=step_claim, plan=plan_claim, hints=ADD,
        title="Claim work from a queue",
        description="Claim the oldest elements of a list (redis_rpush fills it) for `visibility` seconds, or wait up to "
        "`timeout` seconds for one. Do the work, then send queue_ack with the item's `receipt`; queue_extend if it takes "
        "longer. Without queue_ack the item goes to somebody else, so nothing is lost when an agent dies, and work may "
        'be done twice. Example: {"queue": "todo", "owner": "agent-7", "visibility": 120, "timeout": 20}.',
    ),
    tool(
        "queue_ack", AckArguments, AckResult, step=step_ack, hints=OVERWRITE,
        title="Work is done",
        description="Say that the work on a claimed item is done: it is gone for good. Gives acknowledged: false when "
        "the claim was over and somebody else has claimed the item. "
        'Example: {"queue": "todo", "receipt": "0000000000000001"}.',
    ),
    tool(
        "queue_extend", ExtendArguments, ExtendResult, step=step_extend, hints=CREATE,
        title="Keep a claim longer",
        description="Let a claim end `visibility` seconds from now, for work that takes longer; 1 gives the item back "
        "soon. Gives extended: false when somebody else has claimed the item. "
        'Example: {"queue": "todo", "receipt": "0000000000000001", "visibility": 120}.',
    ),
)  # fmt: skip
"""The tools for queues, in the order in which they are listed."""
