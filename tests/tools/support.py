"""What tests of tools share: an environment that can be foretold, and the tools in it."""

from collections.abc import Callable, Sequence
from functools import cache
from itertools import count
from typing import Any, cast

import msgspec

from kvmcp.backends.base import Ops
from kvmcp.backends.memory import MemoryBackend
from kvmcp.backends.ops import Reply, etag_of
from kvmcp.core.items import Tool
from kvmcp.core.plan import Answer, AskBackend, Caller, Context, Plan
from kvmcp.core.wire.common import ClientCapabilities, ToolResult
from kvmcp.tools.definition import Environment
from kvmcp.tools.room import MAX_RESULT_CHARS
from kvmcp.tools.surface import Selection, build_tools

NOW = 1_700_000_000.0


def numbered() -> Callable[[], str]:
    """Predictable where a server has unguessable ones."""
    numbers = count(1)
    return lambda: f"token-{next(numbers)}"


def environment(
    *, max_result_chars: int = MAX_RESULT_CHARS, confirm_destructive: bool = False
) -> Environment:
    return Environment(numbered(), lambda: NOW, max_result_chars, confirm_destructive)


def redis_tools(sets: Sequence[str] = ("redis",), max_result_chars: int = MAX_RESULT_CHARS) -> list[Tool]:
    return build_tools(Selection(sets), environment(max_result_chars=max_result_chars))


def stored(value: object) -> dict[str, Any]:
    """What `redis_set` says of a value that came as compact JSON text."""
    return {"ok": True, "etag": etag_of(msgspec.json.encode(value))}


def found(value: object) -> dict[str, Any]:
    """What `redis_get` says of such a value."""
    return {"found": True, "value": value, "etag": etag_of(msgspec.json.encode(value))}


def without_etag(result: object) -> dict[str, Any]:
    """A structured result whose etag depends on how a client writes JSON."""
    assert isinstance(result, dict) and isinstance(result.get("etag", ""), str)
    return {name: member for name, member in result.items() if name != "etag"}


class DirectCaller:
    """Calls tools on a store in memory, plan by plan, without the core: for tests that call very often."""

    def __init__(
        self, backend: MemoryBackend, limit: int = MAX_RESULT_CHARS, namespace: str = "acme"
    ) -> None:
        self.limit = limit
        self._backend = backend
        self._tools = tools_for(limit)
        self._context = Context(Caller(namespace=namespace), "2025-11-25", ClientCapabilities())

    def plans(self, tool: str, arguments: dict[str, Any]) -> Plan:
        found = self._tools[tool]
        return found.plan(found.arguments.decode(msgspec.json.encode(arguments)), self._context)

    def step(self, plan: AskBackend) -> Plan:
        """Let the store run what a plan asks, and go on by one."""
        return self.goes_on(plan, self._backend.execute_now(cast(Ops, plan.ops)))

    def goes_on(self, plan: AskBackend, replies: Sequence[Reply]) -> Plan:
        """What a plan does with the replies of whatever store."""
        return plan.then.resume(tuple(replies), self._context)

    def calls(self, tool: str, arguments: dict[str, Any]) -> ToolResult:
        plan = self.plans(tool, arguments)
        while isinstance(plan, AskBackend):
            plan = self.step(plan)
        return result_of(plan)


def result_of(plan: Plan) -> ToolResult:
    assert isinstance(plan, Answer) and isinstance(plan.result, ToolResult), plan
    return plan.result


@cache
def tools_for(limit: int) -> dict[str, Tool]:
    tools = build_tools(Selection(("redis", "simple_kv")), environment(max_result_chars=limit))
    return {tool.name: tool for tool in tools}


def caller(limit: int = MAX_RESULT_CHARS) -> DirectCaller:
    return DirectCaller(MemoryBackend(clock=lambda: 0.0), limit)
