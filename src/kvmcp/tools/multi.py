"""`redis_multi`: steps of several tools that happen all or not at all, in one round trip."""

from collections.abc import Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Raw, Struct

from kvmcp.backends.ops import MAX_ATOMIC_OPS, Atomic, Failure, Reply, Unmet
from kvmcp.core.errors import clip
from kvmcp.core.items import BadArguments
from kvmcp.core.plan import AskBackend, Context, Plan
from kvmcp.tools.answers import CONFLICT, TOO_LARGE, Fault, answer, encode, failed, to_json
from kvmcp.tools.definition import TAKE, Call, DryRun, Offered, Row, Step, tool
from kvmcp.tools.keys import bad
from kvmcp.tools.room import FRAME, chars, fits

MAX_OPERATIONS: Final = 50
"""Operations of one call: what a model writes without mistakes, and even the shortest results fit into one."""


class Operation(Struct, frozen=True, forbid_unknown_fields=True):
    tool: Annotated[
        str, Meta(min_length=1, max_length=128, description='A tool of this server, such as "redis_set".')
    ]
    arguments: Annotated[
        Raw, Meta(description="What the tool takes, without dry_run.", extra_json_schema={"type": "object"})
    ]


class MultiArguments(Struct, frozen=True, forbid_unknown_fields=True):
    operations: Annotated[
        tuple[Operation, ...],
        Meta(
            min_length=1,
            max_length=MAX_OPERATIONS,
            description=f"1 to {MAX_OPERATIONS} operations, done in this order.",
            examples=[[{"tool": "redis_set", "arguments": {"key": "a", "value": 1}}]],
        ),
    ]
    dry_run: DryRun = False


class MultiResult(Struct, frozen=True):
    results: Annotated[
        tuple[Annotated[Raw, Meta(extra_json_schema={"type": "object"})], ...],
        Meta(description="What each tool gives, in the order of the operations."),
    ]


class Member(Struct, frozen=True):
    """One operation of a call: its step, and whether only its result tells what it did."""

    step: Step
    writes: bool


def members_of(arguments: MultiArguments, call: Call) -> tuple[Member, ...] | Fault:
    """The steps of all operations, or what is wrong with the first that cannot be done."""
    members: list[Member] = []
    for index, operation in enumerate(arguments.operations):
        member = _member(operation, arguments.dry_run, call)
        if isinstance(member, Fault):
            return _at(index, member)
        members.append(member)
    if (ops := sum(len(member.step.ops) for member in members)) > MAX_ATOMIC_OPS:
        return Fault(TOO_LARGE, f"{ops} operations of the store, limit is {MAX_ATOMIC_OPS}; split the call")
    return tuple(members)


def _member(operation: Operation, dry: bool, call: Call) -> Member | Fault:
    part = call.offered.get(operation.tool)
    if part is None or part.row.step is None:
        able = ", ".join(name for name, other in call.offered.items() if other.row.step is not None)
        return bad(f"`{clip(operation.tool)}` cannot be part of redis_multi; allowed are: {able}")
    decoded = _decoded(operation, call.offered)
    if isinstance(decoded, Fault):
        return decoded
    if not part.row.reads_only:
        if decoded.dry_run:
            return bad("dry_run came inside of an operation; send it to redis_multi itself")
        decoded = msgspec.structs.replace(decoded, dry_run=dry)
    step = part.row.step(decoded, call)
    return step if isinstance(step, Fault) else Member(step, not part.row.reads_only)


def _decoded(operation: Operation, offered: Offered) -> Any:
    """The tool's own arguments (`Any`: of its type), or a `Fault`."""
    arguments = offered[operation.tool].arguments
    parsed = arguments.repair(bytes(operation.arguments))
    return bad(parsed.message) if isinstance(parsed, BadArguments) else parsed.arguments


def _at(index: int, fault: Fault) -> Fault:
    return msgspec.structs.replace(fault, message=f"operations[{index}]: {fault.message}")


def removed_keys(arguments: MultiArguments, offered: Offered) -> Sequence[str]:
    """The keys that all operations together would remove for good."""
    keys: list[str] = []
    for operation in arguments.operations:
        part = offered.get(operation.tool)
        if part is not None and part.row.removes is not None:
            decoded = _decoded(operation, offered)
            if not isinstance(decoded, Fault):
                keys += part.row.removes(decoded, offered)
    return keys


def plan_multi(arguments: MultiArguments, call: Call) -> Plan:
    members = members_of(arguments, call)
    if isinstance(members, Fault):
        return failed(members)
    ops = tuple(op for member in members for op in member.step.ops)
    conditions = tuple(condition for member in members for condition in member.step.conditions)
    then = EachResult(members, call.room, arguments.dry_run)
    writes = not arguments.dry_run and any(member.writes for member in members)
    return AskBackend((Atomic(ops, conditions),), then, writes=writes)


class EachResult(Struct, frozen=True):
    """Continuation: one reply, of which each operation gets its part."""

    members: tuple[Member, ...]
    room: int
    dry: bool

    def resume(self, replies: Sequence[Reply], context: Context) -> Plan:
        (reply,) = replies
        if isinstance(reply, Unmet):
            return failed(self._unmet(reply))
        if isinstance(reply, Failure):
            problem = (
                f"{reply.message}; no operation was done" if reply.outcome == "not_applied" else reply.message
            )
            return answer(msgspec.structs.replace(reply, message=problem))
        assert isinstance(reply, tuple), f"the backend broke its contract: {type(reply).__name__}"
        results = self._fitted(self._parts(reply), context)
        return answer(b'{"results":[%b]}' % b",".join(results), dry=self.dry)

    def _parts(self, reply: tuple[Reply, ...]) -> list[tuple[Member, tuple[Reply, ...]]]:
        parts: list[tuple[Member, tuple[Reply, ...]]] = []
        start = 0
        for member in self.members:
            end = start + len(member.step.ops)
            parts.append((member, reply[start:end]))
            start = end
        return parts

    def _fitted(self, parts: list[tuple[Member, tuple[Reply, ...]]], context: Context) -> list[bytes]:
        """The results, those that are too long cut to an equal share of the room."""
        room = self.room - FRAME // 2
        results = [to_json(member.step.outcome(replies, context, room)) for member, replies in parts]
        if fits(b",".join(results), room):
            return results
        share = _share([chars(result) + 1 for result in results], room)
        return [
            result if chars(result) < share else _cut(member, replies, context, share)
            for result, (member, replies) in zip(results, parts, strict=True)
        ]

    def _unmet(self, unmet: Unmet) -> Fault:
        owners = [
            (index, member.step) for index, member in enumerate(self.members) for _ in member.step.conditions
        ]
        index, step = owners[unmet.index]
        said = step.reader.unmet(unmet)
        if not isinstance(said, Fault):
            etag = msgspec.UNSET if unmet.etag is None else unmet.etag
            said = Fault(CONFLICT, "the key exists already", etag=etag)
        return _at(index, msgspec.structs.replace(said, message=f"{said.message}; no operation was done"))


def _share(sizes: Sequence[int], room: int) -> int:
    """The longest that each may be so that all fit: the short ones leave their room to the long ones."""
    left = len(sizes)
    for size in sorted(sizes):
        if size * left > room:
            break
        room -= size
        left -= 1
    return room // max(left, 1)


def _cut(member: Member, replies: tuple[Reply, ...], context: Context, share: int) -> bytes:
    """A result within its share. What a write gave is nowhere else, so it stays where it cannot be cut."""
    result = to_json(member.step.outcome(replies, context, share - 1))
    return result if member.writes or chars(result) < share else _LEFT_OUT


_LEFT_OUT: Final = encode({"truncated": "too long; ask for it alone"})

MULTI: Final[tuple[Row, ...]] = (
    tool(
        "redis_multi", MultiArguments, MultiResult, plan=plan_multi, removes=removed_keys, hints=TAKE,
        title="Do several operations at once",
        description="Do several operations all or not at all, with nothing of others in between: for changes that "
        "belong together. `if_match` and `if_absent` of redis_set are conditions of the whole: when one does not hold "
        "nothing is done and the answer is a CONFLICT. Gives `results`, one per operation. Not possible inside: "
        "redis_keys, redis_subscribe. Example: "
        '{"operations": [{"tool": "redis_set", "arguments": {"key": "a", "value": 1}}, '
        '{"tool": "redis_del", "arguments": {"keys": ["b"]}}]}.',
    ),
)  # fmt: skip
"""The tool for several operations."""
