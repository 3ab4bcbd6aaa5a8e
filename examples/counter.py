"""What the three examples serve: one tool, one operation, one store. Pure, and the same for every loop."""

import secrets
from collections.abc import Sequence

from msgspec import Struct

from kvmcp.core import (
    Answer,
    AskBackend,
    Catalog,
    Context,
    Implementation,
    Plan,
    Sealer,
    Service,
    StructArguments,
    Tool,
    ToolResult,
)


class CountArguments(Struct, forbid_unknown_fields=True):
    """Arguments of the tool `count`; the input schema is made from this."""

    name: str


class Increment(Struct, frozen=True):
    """An operation. To the engine it is an opaque value; `run` below is what understands it."""

    name: str


class ShowCount(Struct, frozen=True):
    """What to do with the reply."""

    def resume(self, replies: Sequence[int], context: Context) -> Plan:
        return Answer(ToolResult(structured=b'{"count":%d}' % replies[0]))


def plan_count(arguments: CountArguments, context: Context) -> Plan:
    return AskBackend((Increment(arguments.name),), then=ShowCount(), writes=True)


def make_service() -> Service:
    tool = Tool(
        name="count", description="Counts.", arguments=StructArguments(CountArguments), plan=plan_count
    )
    sealer = Sealer(secrets.token_bytes(32))
    return Service(Catalog(tool), Implementation("counter", "1"), sealer=sealer, token=secrets.token_hex)


def run(operations: Sequence[Increment], counts: dict[str, int]) -> list[int]:
    """The store: as many replies as operations, in order."""
    replies = []
    for operation in operations:
        counts[operation.name] = counts.get(operation.name, 0) + 1
        replies.append(counts[operation.name])
    return replies
