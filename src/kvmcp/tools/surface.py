"""Which tools there are, and which of them a server offers. A new tool is one more row in its module; a new set is
one more row here.

What is not offered is not in the catalog: it is neither listed nor callable, also not inside `redis_multi`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct

from kvmcp.core.arguments import StructArguments
from kvmcp.core.items import Tool
from kvmcp.tools.channels import CHANNELS
from kvmcp.tools.confirm import asking
from kvmcp.tools.definition import Environment, Offered, Part, Row, planner, result_schema
from kvmcp.tools.hashes import HASHES
from kvmcp.tools.keyspace import KEYSPACE
from kvmcp.tools.lists import LISTS
from kvmcp.tools.multi import MULTI
from kvmcp.tools.sessions import SESSIONS
from kvmcp.tools.simple_kv import SIMPLE_KV
from kvmcp.tools.strings import STRINGS


def _redis() -> tuple[Row, ...]:
    return (*STRINGS, *KEYSPACE, *LISTS, *HASHES, *SESSIONS, *CHANNELS, *MULTI)


def _simple_kv() -> tuple[Row, ...]:
    return SIMPLE_KV


def _data() -> tuple[Row, ...]:
    from kvmcp.tools.json_documents import DOCUMENTS
    from kvmcp.tools.many_values import MANY_VALUES
    from kvmcp.tools.more_hashes import MORE_HASHES
    from kvmcp.tools.more_keys import MORE_KEYS
    from kvmcp.tools.more_lists import MORE_LISTS
    from kvmcp.tools.more_strings import MORE_STRINGS
    from kvmcp.tools.sets import SETS
    from kvmcp.tools.sorted_sets import SORTED_SETS
    from kvmcp.tools.streams import STREAMS

    return (
        *MANY_VALUES, *MORE_STRINGS, *MORE_KEYS, *MORE_LISTS, *MORE_HASHES, *SETS, *SORTED_SETS, *STREAMS, *DOCUMENTS,
    )  # fmt: skip


def _coordination() -> tuple[Row, ...]:
    from kvmcp.tools.leases import LEASES
    from kvmcp.tools.queues import QUEUES
    from kvmcp.tools.waiting import WAITING

    return (*LEASES, *QUEUES, *WAITING)


class _Sets(Mapping[str, tuple[Row, ...]]):
    """Sets by name. One that nobody asks for is not loaded: that would be most of the start of a server."""

    def __init__(self, **sets: Callable[[], tuple[Row, ...]]) -> None:
        self._sets = sets

    def __getitem__(self, name: str) -> tuple[Row, ...]:
        return self._sets[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._sets)

    def __len__(self) -> int:
        return len(self._sets)


TOOL_SETS: Final[Mapping[str, tuple[Row, ...]]] = _Sets(
    redis=_redis, simple_kv=_simple_kv, data=_data, coordination=_coordination
)
"""Rows by the name under which a server is told to offer them, in the order in which they are listed."""
QUIET_SETS: Final = ("simple_kv",)
"""Sets whose tools can be called, but are not listed unless the set, or the tool, is asked for."""


class UnknownName(ValueError):
    """A name that no tool, or no set, has; the message says which."""


class Selection(Struct, frozen=True):
    """What an operator chose.

    `allow`, where not empty, names exactly the tools to offer, of whatever set; `deny` takes tools away; `read_only`
    takes away every tool that can change something.
    """

    sets: Sequence[str] = ("redis",)
    allow: Sequence[str] = ()
    deny: Sequence[str] = ()
    read_only: bool = False


class Chosen(Struct, frozen=True):
    """A tool that is offered."""

    row: Row
    listed: bool


def select(selection: Selection, sets: Mapping[str, tuple[Row, ...]] = TOOL_SETS) -> tuple[Chosen, ...]:
    """The tools to offer, in the order of the sets. Raises UnknownName for a name that nothing has."""
    _check(selection.sets, sets, "set of tools")
    names = [name for name in sets if name in selection.sets or name in QUIET_SETS]
    if selection.allow or selection.deny:
        names = list(sets)  # A name may be of any set.
        everything = [row.name for rows in sets.values() for row in rows]
        _check((*selection.allow, *selection.deny), everything, "tool")
    return tuple(
        Chosen(row, name in selection.sets or row.name in selection.allow)
        for name in names
        for row in sets[name]
        if (row.name in selection.allow if selection.allow else name in selection.sets or name in QUIET_SETS)
        and row.name not in selection.deny
        and (row.reads_only or not selection.read_only)
    )


def build_tools(
    selection: Selection, environment: Environment, sets: Mapping[str, tuple[Row, ...]] = TOOL_SETS
) -> list[Tool]:
    """The catalog's items of what an operator chose. Raises UnknownName for a name that nothing has."""
    chosen = select(selection, sets)
    offered = {each.row.name: Part(each.row, StructArguments(each.row.arguments)) for each in chosen}
    return [_offer(each, environment, offered) for each in chosen]


def _offer(chosen: Chosen, environment: Environment, offered: Offered) -> Tool:
    row = chosen.row
    arguments, plan = offered[row.name].arguments, planner(row, environment, offered)
    continuations: tuple[type[Struct], ...] = ()
    if environment.confirm_destructive and row.removes is not None:
        first = asking(row, plan, offered)
        arguments, plan, continuations = StructArguments(first.arguments), first.plan, (first.then,)
    return Tool(
        name=row.name,
        arguments=arguments,
        plan=plan,
        title=row.title,
        description=row.description,
        output_schema=result_schema(row),
        annotations=row.hints,
        meta=row.meta,
        continuations=continuations,
        listed=chosen.listed,
    )


def exported_schemas(tools: Iterable[Tool]) -> list[tuple[str, str]]:
    """File name and JSON text of each tool's input and output schema."""
    files: list[tuple[str, str]] = []
    for tool in tools:
        files.append((f"{tool.name}.input.schema.json", tool.arguments.schema.decode()))
        if tool.output_schema is not None:
            files.append((f"{tool.name}.output.schema.json", tool.output_schema.decode()))
    return files


def _check(names: Iterable[str], known: Iterable[str], what: str) -> None:
    there = list(known)
    for name in names:
        if name not in there:
            from difflib import get_close_matches  # 1.4 ms that only a wrong name shall cost

            near = get_close_matches(name, there, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(there)}"
            raise UnknownName(f"unknown {what} {name!r} ({hint})")
