"""Sets: members that are in or not. One row of `SETS` per tool.

Members are compared as JSON text. So that it does not matter how a client writes JSON, they are kept without spaces
and strings without needless escapes; `1` and `1.0` are two members all the same.
"""

from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias, cast

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from kvmcp.backends.ops import (
    MAX_ITEMS,
    MAX_MEMBER_BYTES,
    Reply,
    SetAdd,
    SetContains,
    SetMembers,
    SetRemove,
    SetSize,
    Ttl,
    TtlReply,
)
from kvmcp.core.json_text import kind
from kvmcp.core.plan import Context
from kvmcp.tools.answers import TOO_LARGE, Fault, Rendered, encode, of_type
from kvmcp.tools.counting import Counted, Offset, Told, flags_of
from kvmcp.tools.definition import CREATE, OVERWRITE, READ, Call, DryRun, Reader, Row, Step, tool
from kvmcp.tools.keys import Detail, Key, key_fault, stored_value
from kvmcp.tools.keyspace import KeyArguments
from kvmcp.tools.more_lists import RemovedResult
from kvmcp.tools.room import Truncated, how_many_fit
from kvmcp.tools.strings import seconds_left

AROUND: Final = 400
"""Of the room: for what a result says besides members. With the smallest room the longest member still fits."""

Member: TypeAlias = Annotated[
    Raw,
    Meta(
        description=f'The member: any JSON value of at most {MAX_MEMBER_BYTES} bytes, for example "agent-1".'
    ),
]
Members: TypeAlias = Annotated[
    tuple[Raw, ...],
    Meta(
        min_length=1,
        max_length=MAX_ITEMS,
        description=f"An array of 1 to {MAX_ITEMS} JSON values of at most {MAX_MEMBER_BYTES} bytes each, for example "
        '["agent-1", "agent-2"].',
        examples=[["agent-1", "agent-2"]],
    ),
]


def member_of(raw: Raw, what: str = "`member`") -> bytes | Fault:
    """A member as it is kept."""
    value = stored_value(raw, what)
    if isinstance(value, Fault):
        return value
    member = _one_way(value)
    if len(member) > MAX_MEMBER_BYTES:
        problem = f"{what} of {len(member)} bytes of JSON, limit is {MAX_MEMBER_BYTES}"
        return Fault(TOO_LARGE, f"{problem}; use a name for it, and keep the thing itself under a key")
    return member


def _one_way(value: bytes) -> bytes:
    if kind(value) != "string":
        return msgspec.json.format(value, indent=-1)
    try:
        return encode(msgspec.json.decode(value))
    except (msgspec.DecodeError, UnicodeError):  # Half of a character, escaped: kept as it came.
        return value.strip()


def members_of(raws: Sequence[Raw]) -> tuple[bytes, ...] | Fault:
    """Different members as they are kept, or what is wrong with the first that cannot be."""
    members: list[bytes] = []
    for index, raw in enumerate(raws):
        member = member_of(raw, f"`members[{index}]`")
        if isinstance(member, Fault):
            return member
        members.append(member)
    return tuple(dict.fromkeys(members))


# --- redis_sadd, redis_srem ---


class MembersArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    members: Members
    dry_run: DryRun = False


class AddedResult(Struct, frozen=True):
    added: Annotated[int, Meta(ge=0, description="How many are new.")]


def step_sadd(arguments: MembersArguments, call: Call) -> Step | Fault:
    members = key_fault(arguments.key) or members_of(arguments.members)
    if isinstance(members, Fault):
        return members
    key = call.namespace.key(arguments.key)
    if arguments.dry_run:
        return Step((SetContains(key, members),), Counted(AddedResult, there=False))
    return Step((SetAdd(key, members),), Told(AddedResult))


def step_srem(arguments: MembersArguments, call: Call) -> Step | Fault:
    members = key_fault(arguments.key) or members_of(arguments.members)
    if isinstance(members, Fault):
        return members
    key = call.namespace.key(arguments.key)
    if arguments.dry_run:
        return Step((SetContains(key, members),), Counted(RemovedResult))
    return Step((SetRemove(key, members),), Told(RemovedResult))


# --- redis_smembers ---


class SmembersArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    offset: Annotated[
        Offset, Meta(description="How many members to pass over: `next_offset` of a result.")
    ] = 0
    detail: Detail = "concise"


class SmembersResult(Struct, frozen=True):
    members: Annotated[tuple[Raw, ...], Meta(description="In the order of their JSON text.")]
    count: Annotated[int, Meta(ge=0, description="How many members the whole set has.")]
    next_offset: (
        Annotated[int, Meta(description="Only if there are more: send it as `offset` to go on.")] | UnsetType
    ) = UNSET
    ttl: (
        Annotated[int | None, Meta(description="Detailed: seconds it lives; null: for good.")] | UnsetType
    ) = UNSET
    truncated: Truncated = UNSET


class MembersReader(Reader, frozen=True):
    """Reads members behind the first `offset`; with a second reply the set's time to live, too."""

    offset: int

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        # `ops.SetMembers` lays down what is in the tuple.
        members = cast(tuple[bytes, ...], of_type(replies[0], tuple))
        ttl = UNSET if len(replies) == 1 else seconds_left(of_type(replies[1], TtlReply))
        rest = members[self.offset :]
        fit = how_many_fit(rest, room - AROUND)
        shown = tuple(map(Raw, rest[:fit]))
        if fit == len(rest):
            return SmembersResult(shown, len(members), UNSET, ttl)
        problem = f"{len(rest) - fit} more members do not fit in one result; go on with next_offset"
        return SmembersResult(shown, len(members), self.offset + fit, ttl, problem)


def step_smembers(arguments: SmembersArguments, call: Call) -> Step | Fault:
    if (fault := key_fault(arguments.key)) is not None:
        return fault
    key = call.namespace.key(arguments.key)
    ops = (SetMembers(key), Ttl(key)) if arguments.detail == "detailed" else (SetMembers(key),)
    return Step(ops, MembersReader(arguments.offset))


# --- redis_sismember, redis_scard ---


class MemberArguments(Struct, frozen=True, forbid_unknown_fields=True):
    key: Key
    member: Member


class IsMemberResult(Struct, frozen=True):
    is_member: Annotated[bool, Meta(description="Whether it is in the set.")]


class IsMemberReader(Reader, frozen=True):
    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        return IsMemberResult(flags_of(replies[0])[0])


def step_sismember(arguments: MemberArguments, call: Call) -> Step | Fault:
    member = key_fault(arguments.key) or member_of(arguments.member)
    if isinstance(member, Fault):
        return member
    return Step((SetContains(call.namespace.key(arguments.key), (member,)),), IsMemberReader())


class CountResult(Struct, frozen=True):
    count: Annotated[int, Meta(ge=0, description="How many members there are; 0 without a key.")]


def step_scard(arguments: KeyArguments, call: Call) -> Step | Fault:
    fault = key_fault(arguments.key)
    return fault or Step((SetSize(call.namespace.key(arguments.key)),), Told(CountResult))


SETS: Final[tuple[Row, ...]] = (
    tool(
        "redis_sadd", MembersArguments, AddedResult, step=step_sadd, hints=CREATE,
        title="Add to a set",
        description="Add members to a set, where each stands once; the set is made if there is none. Gives in `added` "
        "how many are new, so of several agents that add the same member one is told 1. "
        'Example: {"key": "seen", "members": ["https://example.com/a"]}.',
    ),
    tool(
        "redis_srem", MembersArguments, RemovedResult, step=step_srem, hints=OVERWRITE,
        title="Remove from a set",
        description="Remove members from a set; without its last member the key is gone. Gives in `removed` how many "
        'were in it. Example: {"key": "online", "members": ["agent-1"]}.',
    ),
    tool(
        "redis_smembers", SmembersArguments, SmembersResult, step=step_smembers, hints=READ,
        title="Read a set",
        description="Read the members of a set. Gives `members`, an empty array when the key does not exist, and their "
        "`count`; `next_offset` means that there are more. To look for one use redis_sismember. "
        'Example: {"key": "online"}.',
    ),
    tool(
        "redis_sismember", MemberArguments, IsMemberResult, step=step_sismember, hints=READ,
        title="Look for a member of a set",
        description="Ask whether a JSON value is a member of a set. Gives `is_member`, false also when the key does "
        'not exist. Example: {"key": "seen", "member": "https://example.com/a"}.',
    ),
    tool(
        "redis_scard", KeyArguments, CountResult, step=step_scard, hints=READ,
        title="Count the members of a set",
        description="Ask how many members a set has. Gives `count`, 0 when the key does not exist. "
        'Example: {"key": "online"}.',
    ),
)  # fmt: skip
"""The tools for sets, in the order in which they are listed."""
