"""Sorted sets: members in the order of their scores. One row of `SORTED_SETS` per tool. Members are as in `sets`."""

import math
from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias, cast

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from kvmcp.backends.ops import (
    MAX_ITEMS,
    Code,
    NsKey,
    Ranked,
    Reply,
    Single,
    SortedAdd,
    SortedByScore,
    SortedIncrement,
    SortedRange,
    SortedRank,
    SortedRemove,
    SortedScore,
    SortedSize,
    Ttl,
    TtlReply,
)
from kvmcp.core.plan import Context
from kvmcp.tools.answers import Fault, Rendered, encode, of_type
from kvmcp.tools.counting import Counted, Offset, Position, Told
from kvmcp.tools.definition import ADD, OVERWRITE, READ, Call, DryRun, Reader, Row, Step, tool
from kvmcp.tools.keys import Detail, Key, bad, key_fault
from kvmcp.tools.keyspace import KeyArguments
from kvmcp.tools.more_lists import RemovedResult
from kvmcp.tools.room import how_many_fit
from kvmcp.tools.sets import (
    AROUND,
    CountResult,
    Member,
    MemberArguments,
    MembersArguments,
    member_of,
    members_of,
)
from kvmcp.tools.strings import seconds_left

Score: TypeAlias = Annotated[float, Meta(description="The score, for example 3.5 or a Unix time.")]


def _said(score: float) -> float | None:
    """JSON has no infinite numbers; only other programs write such scores."""
    return score if math.isfinite(score) else None


# --- redis_zadd ---


class ScoredMember(Struct, frozen=True, forbid_unknown_fields=True):
    member: Member
    score: Score


class ZaddArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    members: Annotated[
        tuple[ScoredMember, ...],
        Meta(
            min_length=1,
            max_length=MAX_ITEMS,
            description=f"1 to {MAX_ITEMS} members with their scores.",
            examples=[[{"member": "task:7", "score": 2}]],
        ),
    ]
    only_new: Annotated[bool, Meta(description="true: leave the scores of members that are in it alone.")] = (
        False
    )
    only_existing: Annotated[bool, Meta(description="true: add no new members.")] = False
    dry_run: DryRun = False


class ZaddResult(Struct, frozen=True):
    added: Annotated[int, Meta(ge=0, description="How many members are new.")]
    changed: (
        Annotated[int, Meta(ge=0, description="With only_existing: how many scores are others now.")]
        | UnsetType
    ) = UNSET


def _changed(count: int) -> ZaddResult:
    return ZaddResult(0, count)


class WouldChange(Reader, frozen=True):
    """Counts the members that are there with another score."""

    scores: tuple[float, ...]

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        pairs = zip(_scores(replies[0]), self.scores, strict=True)
        return _changed(sum(old is not None and old != new for old, new in pairs))


def _scores(reply: Reply) -> tuple[float | None, ...]:
    # `ops.SortedScore` lays down what is in the tuple.
    return cast(tuple[float | None, ...], of_type(reply, tuple))


def step_zadd(arguments: ZaddArguments, call: Call) -> Step | Fault:
    members = key_fault(arguments.key) or members_of([each.member for each in arguments.members])
    if isinstance(members, Fault):
        return members
    if arguments.only_new and arguments.only_existing:
        return bad("only_new and only_existing came together; send one of them")
    if len(members) < len(arguments.members):
        return bad("a member came twice; send each with one score")
    key, scores = call.namespace.key(arguments.key), tuple(each.score for each in arguments.members)
    if arguments.dry_run:
        reader = WouldChange(scores) if arguments.only_existing else Counted(ZaddResult, there=False)
        return Step((SortedScore(key, members),), reader)
    scored = tuple(zip(members, scores, strict=True))
    write = SortedAdd(key, scored, arguments.only_new, arguments.only_existing)
    return Step((write,), Told(_changed if arguments.only_existing else ZaddResult))


# --- redis_zincrby, redis_zrem ---


class ZincrbyArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    member: Member
    by: Annotated[float, Meta(description="What to add to its score; negative to take away.")] = 1
    dry_run: DryRun = False


class NewScoreResult(Struct, frozen=True):
    score: Annotated[float, Meta(description="The member's score now.")]


class NewScoreReader(Reader, frozen=True):
    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        return NewScoreResult(of_type(replies[0], float))


class WouldScore(Reader, frozen=True):
    by: float

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        score = (_scores(replies[0])[0] or 0.0) + self.by
        if not math.isfinite(score):
            return Fault(Code.OUT_OF_RANGE.value, "the score would be beyond the largest or smallest number")
        return NewScoreResult(score)


def step_zincrby(arguments: ZincrbyArguments, call: Call) -> Step | Fault:
    member = key_fault(arguments.key) or member_of(arguments.member)
    if isinstance(member, Fault):
        return member
    key = call.namespace.key(arguments.key)
    if arguments.dry_run:
        return Step((SortedScore(key, (member,)),), WouldScore(arguments.by))
    return Step((SortedIncrement(key, member, arguments.by),), NewScoreReader())


def step_zrem(arguments: MembersArguments, call: Call) -> Step | Fault:
    members = key_fault(arguments.key) or members_of(arguments.members)
    if isinstance(members, Fault):
        return members
    key = call.namespace.key(arguments.key)
    if arguments.dry_run:
        return Step((SortedScore(key, members),), Counted(RemovedResult))
    return Step((SortedRemove(key, members),), Told(RemovedResult))


# --- redis_zrange ---


class ZrangeArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    start: (
        Annotated[
            Position, Meta(description="By rank: the first to give; 0 is the lowest score, -1 the highest.")
        ]
        | UnsetType
    ) = UNSET
    stop: (
        Annotated[Position, Meta(description="By rank: the last to give, included; left out: to the end.")]
        | UnsetType
    ) = UNSET
    min_score: (
        Annotated[float, Meta(description="By score: the lowest to give, included; left out: no bound.")]
        | UnsetType
    ) = UNSET
    max_score: (
        Annotated[float, Meta(description="By score: the highest to give, included; left out: no bound.")]
        | UnsetType
    ) = UNSET
    reverse: Annotated[
        bool, Meta(description="true: begin with the highest score; ranks count from there, too.")
    ] = False
    limit: Annotated[int, Meta(ge=1, le=MAX_ITEMS, description="How many members to give at most.")] = 100
    offset: Annotated[
        Offset, Meta(description="By score: how many to pass over: `next_offset` of a result.")
    ] = 0
    detail: Detail = "concise"


class MemberScore(Struct, frozen=True):
    member: Raw
    score: Annotated[float | None, Meta(description="null: infinite, which only other programs write.")]


class ZrangeResult(Struct, frozen=True):
    members: Annotated[tuple[MemberScore, ...], Meta(description="In order.")]
    size: Annotated[int, Meta(ge=0, description="How many there are in what was asked for, without limit.")]
    next_start: (
        Annotated[int, Meta(description="By rank, only if there are more: send it as `start` to go on.")]
        | UnsetType
    ) = UNSET
    next_offset: (
        Annotated[int, Meta(description="By score, only if there are more: send it as `offset` to go on.")]
        | UnsetType
    ) = UNSET
    ttl: (
        Annotated[int | None, Meta(description="Detailed: seconds it lives; null: for good.")] | UnsetType
    ) = UNSET


class RankedReader(Reader, frozen=True):
    """Reads members, then how many there are in all; with a third reply their set's time to live, too.

    `passed` is where the first of them stands: a rank, or how many were passed over.
    """

    passed: int
    by_score: bool

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        ranked, size = of_type(replies[0], Ranked), of_type(replies[1], int)
        ttl = UNSET if len(replies) == 2 else seconds_left(of_type(replies[2], TtlReply))
        members = [MemberScore(Raw(member), _said(score)) for member, score in ranked.members]
        fit = how_many_fit(map(encode, members), room - AROUND)
        first = self.passed if self.passed >= 0 else max(0, size + self.passed)
        left = ranked.size - fit - (self.passed if self.by_score else 0)
        on = first + fit if left > 0 else UNSET
        by_score = self.by_score
        return ZrangeResult(
            tuple(members[:fit]), ranked.size, UNSET if by_score else on, on if by_score else UNSET, ttl
        )


def step_zrange(arguments: ZrangeArguments, call: Call) -> Step | Fault:
    if (fault := key_fault(arguments.key)) is not None:
        return fault
    key = call.namespace.key(arguments.key)
    by_score = arguments.min_score is not UNSET or arguments.max_score is not UNSET
    by_rank = arguments.start is not UNSET or arguments.stop is not UNSET
    if by_score and by_rank:
        return bad("ranks (start, stop) came with scores (min_score, max_score); send the ones or the others")
    if arguments.offset and not by_score:
        return bad("offset goes with min_score or max_score only; by rank send `start`")
    more: tuple[Single, ...] = (Ttl(key),) if arguments.detail == "detailed" else ()
    passed = arguments.offset if by_score else 0 if arguments.start is UNSET else arguments.start
    look = _by_score(key, arguments) if by_score else _by_rank(key, arguments, passed)
    return Step((look, SortedSize(key), *more), RankedReader(passed, by_score))


def _by_score(key: NsKey, arguments: ZrangeArguments) -> SortedByScore:
    low = None if arguments.min_score is UNSET else arguments.min_score
    high = None if arguments.max_score is UNSET else arguments.max_score
    return SortedByScore(key, low, high, arguments.reverse, arguments.offset, arguments.limit)


def _by_rank(key: NsKey, arguments: ZrangeArguments, start: int) -> SortedRange:
    stop = -1 if arguments.stop is UNSET else arguments.stop
    return SortedRange(key, start, stop, arguments.reverse, arguments.limit)


# --- redis_zscore, redis_zrank, redis_zcard ---


class ScoreResult(Struct, frozen=True):
    found: Annotated[bool, Meta(description="Whether it is in the sorted set.")]
    score: (
        Annotated[float | None, Meta(description="null: infinite, which only other programs write.")]
        | UnsetType
    ) = UNSET


class ScoreReader(Reader, frozen=True):
    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        (score,) = _scores(replies[0])
        return ScoreResult(False) if score is None else ScoreResult(True, _said(score))


def step_zscore(arguments: MemberArguments, call: Call) -> Step | Fault:
    member = key_fault(arguments.key) or member_of(arguments.member)
    if isinstance(member, Fault):
        return member
    return Step((SortedScore(call.namespace.key(arguments.key), (member,)),), ScoreReader())


class ZrankArguments(MemberArguments, frozen=True, forbid_unknown_fields=True):
    reverse: Annotated[bool, Meta(description="true: count from the highest score.")] = False


class RankResult(Struct, frozen=True):
    found: Annotated[bool, Meta(description="Whether it is in the sorted set.")]
    rank: Annotated[int, Meta(ge=0, description="How many members stand before it.")] | UnsetType = UNSET


class RankReader(Reader, frozen=True):
    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        rank = replies[0]
        return RankResult(False) if rank is None else RankResult(True, of_type(rank, int))


def step_zrank(arguments: ZrankArguments, call: Call) -> Step | Fault:
    member = key_fault(arguments.key) or member_of(arguments.member)
    if isinstance(member, Fault):
        return member
    return Step((SortedRank(call.namespace.key(arguments.key), member, arguments.reverse),), RankReader())


def step_zcard(arguments: KeyArguments, call: Call) -> Step | Fault:
    fault = key_fault(arguments.key)
    return fault or Step((SortedSize(call.namespace.key(arguments.key)),), Told(CountResult))


SORTED_SETS: Final[tuple[Row, ...]] = (
    tool(
        "redis_zadd", ZaddArguments, ZaddResult, step=step_zadd, hints=OVERWRITE,
        title="Add to a sorted set",
        description="Give members of a sorted set their scores: rankings, priorities, what is due when (a Unix time as "
        "score). Members that are in it get the new score; the set is made if there is none. Gives `added`. "
        'Example: {"key": "due", "members": [{"member": "task:7", "score": 1790000000}]}.',
    ),
    tool(
        "redis_zincrby", ZincrbyArguments, NewScoreResult, step=step_zincrby, hints=ADD,
        title="Add to a score",
        description="Add to the score of a member of a sorted set; one that is not in it begins at 0. Counts of several "
        'agents at once lose nothing. Gives the new `score`. Example: {"key": "votes", "member": "blue", "by": 1}.',
    ),
    tool(
        "redis_zrem", MembersArguments, RemovedResult, step=step_zrem, hints=OVERWRITE,
        title="Remove from a sorted set",
        description="Remove members from a sorted set; without its last member the key is gone. Gives in `removed` how "
        'many were in it. Example: {"key": "due", "members": ["task:7"]}.',
    ),
    tool(
        "redis_zrange", ZrangeArguments, ZrangeResult, step=step_zrange, hints=READ,
        title="Read a part of a sorted set",
        description="Read members of a sorted set with their scores, by rank (start, stop) or by score (min_score, "
        "max_score), from the lowest or, with reverse, from the highest. Gives `members` and the `size` of what was "
        "asked for; next_start or next_offset means that there are more. "
        'Example: {"key": "votes", "start": 0, "stop": 9, "reverse": true}.',
    ),
    tool(
        "redis_zscore", MemberArguments, ScoreResult, step=step_zscore, hints=READ,
        title="Read a score",
        description="Read the score of a member of a sorted set. Gives `found: false` when it is not in it. "
        'Example: {"key": "votes", "member": "blue"}.',
    ),
    tool(
        "redis_zrank", ZrankArguments, RankResult, step=step_zrank, hints=READ,
        title="Read a rank",
        description="Read where a member of a sorted set stands: 0 is the lowest score, with reverse the highest. Gives "
        '`found: false` when it is not in it. Example: {"key": "votes", "member": "blue", "reverse": true}.',
    ),
    tool(
        "redis_zcard", KeyArguments, CountResult, step=step_zcard, hints=READ,
        title="Count the members of a sorted set",
        description="Ask how many members a sorted set has. Gives `count`, 0 when the key does not exist. "
        'Example: {"key": "votes"}.',
    ),
)  # fmt: skip
"""The tools for sorted sets, in the order in which they are listed."""
