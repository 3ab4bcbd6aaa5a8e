"""An agent with the tools of every set, which sees everything that they can write."""

from collections.abc import Mapping
from typing import Any

from kvmcp.backends.base import Backend
from kvmcp.backends.ops import (
    KIND_BARRIER,
    KIND_FENCE,
    KIND_LEASE,
    KIND_SESSION,
    KIND_VALUE,
    SUFFIX_CLAIMS,
    Get,
    HashGetAll,
    Range,
    SetMembers,
    SizeOf,
    SortedRange,
    StreamRange,
    Ttl,
    TypeOf,
    beside,
)
from kvmcp.core.items import Tool
from kvmcp.tools.surface import TOOL_SETS, Selection
from tests.tools.agent import Agent

KINDS = (KIND_VALUE, KIND_SESSION, KIND_LEASE, KIND_FENCE, KIND_BARRIER)
READS: Mapping[object, Any] = {
    "value": Get, "list": Range, "hash": HashGetAll, "set": SetMembers, "sorted_set": SortedRange, "stream": StreamRange,
}  # fmt: skip


class FullAgent(Agent):
    def __init__(
        self,
        revision: str,
        backend: Backend | None = None,
        *,
        namespace: str = "acme",
        tools: list[Tool] | None = None,
    ) -> None:
        selection = Selection(tuple(TOOL_SETS))
        super().__init__(revision, backend, namespace=namespace, selection=selection, tools=tools)

    async def dump(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for kind in KINDS:
            for name in await self._names(self.namespace.space(kind)):
                key = self.namespace.key(name, kind)
                (held,) = await self._ask(TypeOf(key))
                value, ttl = await self._ask(READS[held](key), Ttl(key))
                found[f"{kind}:{name}"] = (value, ttl.milliseconds is None)
        (found["claims"],) = await self._ask(SizeOf(beside(self.namespace.key("q"), SUFFIX_CLAIMS)))
        return found
