"""Direct calls of the tools of every set, in memory."""

import json
from typing import Any

from kvmcp.backends.memory import MemoryBackend
from kvmcp.core.plan import Caller, Context, Start, WatchUntil
from kvmcp.core.wire.common import ClientCapabilities, TextContent
from kvmcp.tools.room import MAX_RESULT_CHARS, chars
from kvmcp.tools.surface import TOOL_SETS, Selection, build_tools
from tests.tools.support import DirectCaller, environment, result_of


class FullCaller(DirectCaller):
    def __init__(
        self, backend: MemoryBackend, limit: int = MAX_RESULT_CHARS, namespace: str = "acme"
    ) -> None:
        super().__init__(backend, limit, namespace)
        tools = build_tools(Selection(tuple(TOOL_SETS)), environment(max_result_chars=limit))
        self._tools = {tool.name: tool for tool in tools}
        self.backend = backend
        self.context = Context(Caller(namespace=namespace), "2025-11-25", ClientCapabilities())


def caller_of_all(limit: int = MAX_RESULT_CHARS, clock: Any = None) -> FullCaller:
    return FullCaller(MemoryBackend(clock=clock or (lambda: 0.0)), limit)


def said(me: DirectCaller, tool: str, **arguments: Any) -> Any:
    """The structured result of a call, failures included; unless it fails its size is within the limit."""
    result = me.calls(tool, arguments)
    assert result.structured is not None
    texts = [block.text for block in result.content if isinstance(block, TextContent)]
    size = sum(map(len, texts)) if texts else chars(result.structured)
    assert result.is_error or size + chars(result.structured) <= me.limit
    return json.loads(result.structured)


class Waiting:
    """A call that waits: what a driver would do at each event."""

    def __init__(self, me: FullCaller, tool: str, arguments: dict[str, Any]) -> None:
        plan = me.plans(tool, arguments)
        while not isinstance(plan, Start):
            plan = me.step(plan)  # type: ignore[arg-type]  # an answer at once fails the test here
        assert isinstance(plan.job, WatchUntil)
        self.job = plan.job
        self._me = me

    def look(self, *, late: bool = False) -> Any:
        """The structured result, None where it goes on waiting."""
        replies = self._me.backend.execute_now(self.job.ops)  # type: ignore[arg-type]  # opaque to the engine
        answer = self.job.then.resume(replies, self._me.context, late)
        return None if answer is None else json.loads(result_of(answer).structured or b"")
