"""Leases: a name that one owner holds for a time, with a token that grows. One row of `LEASES` per tool.

A lease is a value that expires (`KIND_LEASE`): the owner's name. Beside it a counter (`KIND_FENCE`), which outlives it,
counts its holders: that number is the fencing token. Only who takes a free lease raises it, so whoever knows owner and
token of the present holder is the holder; renew and release ask for both.
"""

from collections.abc import Sequence
from typing import Annotated, Final, TypeAlias, cast

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from kvmcp.backends.ops import (
    KIND_FENCE,
    KIND_LEASE,
    MAX_KEY_BYTES,
    MAX_OWNER_BYTES,
    Atomic,
    Condition,
    Delete,
    Exists,
    Expire,
    Failure,
    Get,
    Increment,
    KeyIs,
    NsKey,
    Reply,
    Set,
    Single,
    Ttl,
    TtlReply,
    Unmet,
)
from kvmcp.core.plan import Answer, AskBackend, Context, Plan, Start, WatchUntil
from kvmcp.tools.answers import CONFLICT, Fault, Rendered, Shown, answer, encode, failed, is_done, of_type
from kvmcp.tools.channels import MAX_WAIT_SECONDS
from kvmcp.tools.counting import MAX_POSITION
from kvmcp.tools.definition import ADD, CREATE, OVERWRITE, Call, DryRun, Reader, Row, Step, tool
from kvmcp.tools.keys import Seconds, bad, key_fault, text_fault
from kvmcp.tools.strings import seconds_left

LEASE_LOST: Final = "LEASE_LOST"
"""Code: the caller does not hold the lease."""
LEASE_PAUSE: Final = 2.0
"""Seconds after which one who waits looks again, where the store tells no expiry."""

LeaseName: TypeAlias = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_KEY_BYTES,
        description='What only one shall do at a time, for example "deploy". It needs no making.',
    ),
]
Owner: TypeAlias = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_OWNER_BYTES,
        description='Who you are, for example "agent-7"; others are told. Send the same name with every call.',
    ),
]
Token: TypeAlias = Annotated[
    int, Meta(ge=1, le=MAX_POSITION, description="The `fencing_token` that lease_acquire gave.")
]
Wait: TypeAlias = Annotated[float, Meta(ge=0, le=MAX_WAIT_SECONDS)]
"""Seconds of a tool that waits."""


class LeaseKeys(Struct, frozen=True):
    """Where a lease is kept, and what a holder has written there."""

    lease: NsKey
    fence: NsKey
    owner: bytes

    @classmethod
    def of(cls, name: str, owner: str, call: Call) -> "LeaseKeys | Fault":
        fault = key_fault(name) or text_fault("`owner`", owner, MAX_OWNER_BYTES)
        key = call.namespace.key
        return fault or cls(key(name, KIND_LEASE), key(name, KIND_FENCE), encode(owner))

    def is_free(self) -> tuple[Condition, ...]:
        return (KeyIs(self.lease, None),)

    def is_held_with(self, token: int) -> tuple[Condition, ...]:
        return (KeyIs(self.lease, self.owner), KeyIs(self.fence, b"%d" % token))


# --- lease_acquire ---


class AcquireArguments(Struct, frozen=True, forbid_unknown_fields=True):
    name: LeaseName
    owner: Owner
    ttl: Annotated[Seconds, Meta(description="Seconds until it ends unless it is renewed or released.")] = 30
    timeout: Annotated[
        Wait, Meta(description="Seconds to wait for the lease while somebody else holds it.")
    ] = 0
    dry_run: DryRun = False


class AcquireResult(Struct, frozen=True):
    acquired: Annotated[bool, Meta(description="Whether you hold the lease now.")]
    owner: Annotated[str, Meta(description="Who holds it.")] | UnsetType = UNSET
    ttl: Annotated[int, Meta(ge=0, description="Seconds until it ends.")] | UnsetType = UNSET
    fencing_token: (
        Annotated[
            int,
            Meta(ge=1, description="Greater than that of every holder before; only if acquired. Keep it."),
        ]
        | UnsetType
    ) = UNSET


class Acquired(Reader, frozen=True):
    """Reads the number of the new holder; for a dry run the number of the last one as it is stored."""

    owner: str
    ttl: int

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        reply = replies[0]
        token = reply if isinstance(reply, int) else _stored_number(reply) + 1
        return AcquireResult(True, self.owner, self.ttl, token)

    def unmet(self, unmet: Unmet) -> Rendered:
        return Fault(
            CONFLICT, "somebody holds the lease; nothing was changed; wait with lease_acquire and a timeout"
        )


def _stored_number(reply: Reply) -> int:
    return 0 if reply is None else msgspec.json.decode(of_type(reply, bytes), type=int)


def step_acquire(arguments: AcquireArguments, call: Call) -> Step | Fault:
    """For `redis_multi`, which cannot wait."""
    keys = LeaseKeys.of(arguments.name, arguments.owner, call)
    if isinstance(keys, Fault):
        return keys
    if arguments.timeout:
        return bad("timeout came, but redis_multi cannot wait; leave it out there")
    return _acquire(keys, arguments)


def _acquire(keys: LeaseKeys, arguments: AcquireArguments) -> Step:
    reader = Acquired(arguments.owner, arguments.ttl)
    if arguments.dry_run:
        return Step((Get(keys.fence),), reader, keys.is_free())
    take: tuple[Single, ...] = (Increment(keys.fence), Set(keys.lease, keys.owner, arguments.ttl * 1000))
    return Step(take, reader, keys.is_free())


class Try(Struct, frozen=True):
    """Takes the lease and looks who holds it, in one trip: as the continuation of the first try, and of a watch."""

    step: Step
    keys: LeaseKeys
    timeout: float
    dry: bool

    def ops(self) -> tuple[Atomic | Get | Ttl, ...]:
        take = Atomic(self.step.ops, self.step.conditions)
        return take, Get(self.keys.lease), Ttl(self.keys.lease)

    def resume(self, replies: Sequence[Reply], context: Context, late: bool | None = None) -> Answer | None:
        """None where somebody else holds it, and it is not late."""
        taken, owner, ttl = replies
        if isinstance(taken, Failure):
            return answer(taken)
        if not isinstance(taken, Unmet):
            done = cast(tuple[Reply, ...], of_type(taken, tuple))
            return answer(self.step.outcome(done, context, 0), dry=self.dry)
        return answer(_held_by(owner, ttl, self.keys.owner), dry=self.dry) if late else None


def _held_by(owner: Reply, ttl: Reply, asks: bytes) -> Rendered:
    """Who has it. The answers are of a moment later, when it may have ended; a failure leaves it unsaid."""
    note = "note: somebody else holds the lease; do nothing that it protects."
    if owner == asks:  # Or another one of that name: the number tells them apart.
        note = (
            "note: this owner has taken the lease already; go on with lease_renew and the fencing_token that was "
            "given then; without it wait until the lease ends."
        )
    if not isinstance(owner, bytes) or not isinstance(ttl, TtlReply):
        return Shown(AcquireResult(False), notes=(note,))
    return Shown(
        AcquireResult(False, msgspec.json.decode(owner, type=str), seconds_left(ttl) or 0), notes=(note,)
    )


class FirstTry(Struct, frozen=True):
    """Waits where the first try did not succeed, if the caller wants to."""

    attempt: Try

    def resume(self, replies: Sequence[Reply], context: Context) -> Plan:
        attempt = self.attempt
        found = attempt.resume(replies, context, late=attempt.dry or not attempt.timeout)
        if found is not None:
            return found
        watched = (attempt.keys.lease,)
        return Start(
            WatchUntil(
                context, attempt.ops(), attempt, attempt.timeout, watched, writes=True, pause=LEASE_PAUSE
            )
        )


def plan_acquire(arguments: AcquireArguments, call: Call) -> Plan:
    keys = LeaseKeys.of(arguments.name, arguments.owner, call)
    if isinstance(keys, Fault):
        return failed(keys)
    attempt = Try(_acquire(keys, arguments), keys, arguments.timeout, arguments.dry_run)
    return AskBackend(attempt.ops(), FirstTry(attempt), writes=not arguments.dry_run)


# --- lease_renew, lease_release ---


class HolderReader(Reader, frozen=True):
    """What a step of the holder gives, and that its condition says who is none."""

    result: Struct

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        is_done(replies[0])
        return self.result

    def unmet(self, unmet: Unmet) -> Rendered:
        problem = (
            "the lease has ended" if not unmet.found else "the lease is not held with this owner and token"
        )
        return Fault(
            LEASE_LOST,
            f"{problem}, so somebody else may hold it; nothing was changed; stop what it protects, look at the state "
            "again, then ask for it anew with lease_acquire",
        )


class RenewArguments(Struct, frozen=True, forbid_unknown_fields=True):
    name: LeaseName
    owner: Owner
    fencing_token: Token
    ttl: Annotated[Seconds, Meta(description="Seconds from now until it ends.")] = 30
    dry_run: DryRun = False


class RenewResult(Struct, frozen=True):
    renewed: bool
    ttl: Annotated[int, Meta(ge=1, description="Seconds until it ends.")]


class ReleaseArguments(Struct, frozen=True, forbid_unknown_fields=True):
    name: LeaseName
    owner: Owner
    fencing_token: Token
    dry_run: DryRun = False


class ReleaseResult(Struct, frozen=True):
    released: bool


def step_renew(arguments: RenewArguments, call: Call) -> Step | Fault:
    keys = LeaseKeys.of(arguments.name, arguments.owner, call)
    if isinstance(keys, Fault):
        return keys
    write = Exists((keys.lease,)) if arguments.dry_run else Expire(keys.lease, arguments.ttl * 1000)
    reader = HolderReader(RenewResult(True, arguments.ttl))
    return Step((write,), reader, keys.is_held_with(arguments.fencing_token))


def step_release(arguments: ReleaseArguments, call: Call) -> Step | Fault:
    keys = LeaseKeys.of(arguments.name, arguments.owner, call)
    if isinstance(keys, Fault):
        return keys
    write = Exists((keys.lease,)) if arguments.dry_run else Delete((keys.lease,))
    return Step((write,), HolderReader(ReleaseResult(True)), keys.is_held_with(arguments.fencing_token))


LEASES: Final[tuple[Row, ...]] = (
    tool(
        "lease_acquire", AcquireArguments, AcquireResult, step=step_acquire, plan=plan_acquire, hints=ADD,
        title="Take a lease",
        description="Become the only one who does something, for `ttl` seconds; others are told acquired: false, or "
        "wait up to `timeout` seconds. Work only while it lasts: lease_renew before it ends, lease_release when done. "
        "`fencing_token` grows with every holder: store it with what you write, and refuse smaller ones. "
        'Example: {"name": "deploy", "owner": "agent-7", "ttl": 60, "timeout": 20}.',
    ),
    tool(
        "lease_renew", RenewArguments, RenewResult, step=step_renew, hints=CREATE,
        title="Prolong a lease",
        description="Let a lease that you hold end `ttl` seconds from now. LEASE_LOST when it has ended: then stop. As "
        "part of redis_multi it lets writes happen only while you hold the lease. "
        'Example: {"name": "deploy", "owner": "agent-7", "fencing_token": 3, "ttl": 60}.',
    ),
    tool(
        "lease_release", ReleaseArguments, ReleaseResult, step=step_release, hints=OVERWRITE,
        title="Give a lease back",
        description="End a lease that you hold, so that others need not wait for its ttl. LEASE_LOST when it had ended "
        "already: others may have worked at the same time. "
        'Example: {"name": "deploy", "owner": "agent-7", "fencing_token": 3}.',
    ),
)  # fmt: skip
"""The tools for leases, in the order in which they are listed."""
