"""How a tool of the store is written down: a row of `tool(...)`."""

from collections.abc import Callable
from typing import Final, TypeVar, cast

from msgspec import Struct

from kvmcp.core.arguments import StructArguments
from kvmcp.core.catalog import Tool
from kvmcp.core.json_schema import output_schema
from kvmcp.core.plan import Context, Plan
from kvmcp.core.wire.common import ToolAnnotations
from kvmcp.tools.answers import Fault

ArgumentsT = TypeVar("ArgumentsT", bound=Struct)

READ: Final = ToolAnnotations(
    read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False
)
"""Changes nothing."""
OVERWRITE: Final = ToolAnnotations(
    read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
)
"""What was there may be lost; doing it twice is like doing it once."""


def tool(
    name: str,
    arguments: type[ArgumentsT],
    plan: Callable[[ArgumentsT, Context], Plan],
    result: type[Struct],
    *,
    hints: ToolAnnotations,
    title: str,
    description: str,
) -> Tool:
    """A tool whose arguments and structured results are structs. Failures are `Fault`s, see `answers`."""
    return Tool(
        name=name,
        arguments=StructArguments(arguments),
        # The engine hands `plan` what `arguments.decode` gave, which is an `ArgumentsT`.
        plan=cast(Callable[[object, Context], Plan], plan),
        title=title,
        description=description,
        output_schema=output_schema(result, Fault),
        annotations=hints,
    )
