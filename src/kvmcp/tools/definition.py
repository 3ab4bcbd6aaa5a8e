"""How a tool of the store is written down: a row of `tool(...)`; and how a row becomes a tool that is offered.

Most tools are one step: `step` turns arguments into operations and a `Reader` of their replies. A step can be part
of `redis_multi`, too, and for `dry_run` it gives reads that tell what would happen. What needs several trips to the
store, or waits, has a `plan` of its own.

    def step_del(arguments: DelArguments, call: Call) -> Step | Fault: ...

Tools have neither clock nor randomness: `Environment` brings both, and the limits.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from kvmcp.backends.ops import Atomic, Condition, Failure, Namespace, Reply, Single, Unmet
from kvmcp.core.items import ArgumentsType
from kvmcp.core.json_schema import output_schema
from kvmcp.core.plan import AskBackend, BackendThen, Context, Plan
from kvmcp.core.wire.common import ToolAnnotations
from kvmcp.tools.answers import Fault, Rendered, answer, conflict, failed
from kvmcp.tools.room import MAX_RESULT_CHARS, room_of

ArgumentsT = TypeVar("ArgumentsT", bound=Struct)

READ: Final = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
"""Changes nothing."""
ADD: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False
)
"""Loses nothing that was there; doing it twice adds twice."""
CREATE: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
"""Loses nothing that was there; doing it twice is like doing it once."""
OVERWRITE: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)
"""What was there may be lost; doing it twice is like doing it once."""
TAKE: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=False
)
"""What was there may be lost, and doing it twice loses more."""

ALWAYS_LOAD: Final = Raw(b'{"anthropic/alwaysLoad":true}')
"""`_meta` for the few tools that a host which loads tools late shall show from the start."""

DryRun: TypeAlias = Annotated[bool, Meta(description="true: change nothing, say what would happen.")]
"""The last argument of every write: `dry_run: DryRun = False`."""


class Environment(Struct, frozen=True):
    """What tools get from outside."""

    token: Callable[[], str]
    """An unguessable string of at least 128 bits at each call."""
    wall: Callable[[], float]
    """Unix time in seconds."""
    max_result_chars: int = MAX_RESULT_CHARS
    confirm_destructive: bool = False
    """Whether calls that remove several keys ask first."""


class Call(Struct, frozen=True, gc=False):
    """What a step may know besides its arguments."""

    context: Context
    environment: Environment
    offered: "Offered" = {}
    """The tools that are offered, by name."""

    @property
    def namespace(self) -> Namespace:
        return Namespace(self.context.caller.namespace)

    @property
    def room(self) -> int:
        return room_of(self.environment.max_result_chars)


class Reader(Struct, frozen=True):
    """Reads the replies to a step's operations."""

    def read(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        """The result, no longer than `room` characters. No reply is a `Failure`."""
        raise NotImplementedError

    def unmet(self, unmet: Unmet) -> Rendered:
        """What a condition of the step that did not hold means."""
        return conflict(unmet)


class Step(Struct, frozen=True, gc=False):
    """Operations that happen together, under conditions; and how their replies read."""

    ops: tuple[Single, ...]
    reader: Reader
    conditions: tuple[Condition, ...] = ()

    @property
    def is_atomic(self) -> bool:
        return len(self.ops) > 1 or bool(self.conditions)

    def outcome(self, replies: Sequence[Reply], context: Context, room: int) -> Rendered:
        """What the replies to `ops` say; a failure of any of them is the failure of the step."""
        failure = next((reply for reply in replies if isinstance(reply, Failure)), None)
        return self.reader.read(replies, context, room) if failure is None else failure


class Read(Struct, frozen=True):
    """Continuation of a step."""

    step: Step
    room: int
    dry: bool

    def resume(self, replies: Sequence[Reply], context: Context) -> Plan:
        if self.step.is_atomic:
            (reply,) = replies
            if isinstance(reply, Unmet):
                return answer(self.step.reader.unmet(reply), dry=self.dry)
            if not isinstance(reply, Failure):
                assert isinstance(reply, tuple), f"the backend broke its contract: {type(reply).__name__}"
                replies = reply
        return answer(self.step.outcome(replies, context, self.room), dry=self.dry)


def ask(step: Step, room: int, *, writes: bool, dry: bool = False) -> AskBackend:
    """Ask the store what a step asks."""
    ops = (Atomic(step.ops, step.conditions),) if step.is_atomic else step.ops
    return AskBackend(ops, Read(step, room, dry), writes=writes and not dry)


def ask_for(ops: tuple[object, ...], then: BackendThen, *, writes: bool = False) -> AskBackend:
    """Ask the store, then go on with a continuation of the tool's own."""
    return AskBackend(ops, then, writes)


Planner: TypeAlias = Callable[[Any, Context], Plan]
"""What the catalog calls. `Any`: the tool's own type of arguments."""


class Row(Struct, frozen=True, kw_only=True):
    """A tool before it is offered. `Any` is the tool's own type of arguments, as in `Tool`."""

    name: str
    arguments: type[Struct]
    result: type[Struct] | None
    hints: ToolAnnotations
    title: str
    description: str
    step: Callable[[Any, Call], Step | Fault] | None = None
    plan: Callable[[Any, Call], Plan] | None = None
    """For what is not one step. A tool that has both plans for itself, and is a step of `redis_multi`."""
    quick: Callable[[int], Planner] | None = None
    """For a hot path: a plan for a given room, without a `Call`."""
    removes: Callable[[Any, "Offered"], Sequence[str]] | None = None
    """The keys that a call would remove for good: several ask first, see `confirm`."""
    meta: Raw | UnsetType = UNSET

    @property
    def reads_only(self) -> bool:
        return self.hints.read_only_hint is True


class Part(Struct, frozen=True):
    """A tool that is offered, as others see it."""

    row: Row
    arguments: ArgumentsType


Offered: TypeAlias = Mapping[str, Part]
"""The tools that are offered, by name."""


def tool(
    name: str,
    arguments: type[ArgumentsT],
    result: type[Struct] | None,
    *,
    hints: ToolAnnotations,
    title: str,
    description: str,
    step: Callable[[ArgumentsT, Call], Step | Fault] | None = None,
    plan: Callable[[ArgumentsT, Call], Plan] | None = None,
    quick: Callable[[int], Callable[[ArgumentsT, Context], Plan]] | None = None,
    removes: "Callable[[ArgumentsT, Offered], Sequence[str]] | None" = None,
    meta: Raw | UnsetType = UNSET,
) -> Row:
    """A tool whose arguments and structured results are structs. Failures are `Fault`s, see `answers`.

    A write has the argument `dry_run`; its `step` or `plan` looks at it.
    """
    return Row(
        name=name,
        arguments=arguments,
        result=result,
        hints=hints,
        title=title,
        description=description,
        step=step,
        plan=plan,
        quick=quick,
        removes=removes,
        meta=meta,
    )


def run(row: Row, arguments: Any, call: Call) -> Plan:
    """What a call of the tool plans, once its arguments are decoded and nobody has to be asked."""
    if row.plan is not None:
        return row.plan(arguments, call)
    assert row.step is not None, f"{row.name} has neither a step nor a plan"
    step = row.step(arguments, call)
    if isinstance(step, Fault):
        return failed(step)
    dry = not row.reads_only and bool(getattr(arguments, "dry_run", False))
    return ask(step, call.room, writes=not row.reads_only, dry=dry)


def result_schema(row: Row) -> bytes | None:
    """The schema of the structured result. It fits failures and dry runs, too, at the price of `required`: see
    `output_schema`."""
    if row.result is None:
        return None
    members = msgspec.json.decode(output_schema(row.result), type=dict[str, Raw])
    properties = msgspec.json.decode(members["properties"], type=dict[str, Raw])
    if "dry_run" in row.arguments.__struct_fields__:
        properties["dry_run"] = Raw(b'{"type":"boolean"}')
    schema = {"type": members["type"], "properties": {**properties, "error": _FAULT}}
    return msgspec.json.encode(schema)


_FAULT: Final = Raw(output_schema(Fault))
"""Written once: it is in the schema of every tool."""


def planner(row: Row, environment: Environment, offered: Offered) -> Planner:
    """The plan of a row, in its environment, among the tools that are offered."""
    if row.quick is not None:
        return row.quick(room_of(environment.max_result_chars))

    def plan(arguments: Any, context: Context) -> Plan:
        return run(row, arguments, Call(context, environment, offered))

    return plan
