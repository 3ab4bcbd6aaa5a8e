"""Coroutines as handlers: what a tool's coroutine may do while it runs, and what it may return.

One way of asking the client serves both eras. In the legacy eras `ask` waits for the client's response. In
the modern one the request ends there with `input_required`, and the coroutine runs again from its start when
the client comes back; its earlier questions are then answered at once. So ask first, act afterwards.
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, cast

import anyio
import msgspec
from msgspec import UNSET, Raw, Struct

from kvmcp.core.commands import Ask, HangUp, Log, Progress, Said
from kvmcp.core.errors import LocalProtocolError, RpcError
from kvmcp.core.plan import Context, ToolError
from kvmcp.core.wire.common import (
    ClientAnswer,
    ClientRequest,
    CompletionResult,
    LogLevel,
    PromptResult,
    ReadResult,
    Result,
    TextContent,
    ToolResult,
)

_encode = msgspec.json.Encoder().encode


class ToolFailed(Exception):
    """Raise it in a tool to answer with `isError`: the model reads `code` and `message` and can react."""

    def __init__(self, code: str, message: str, *, retryable: bool = False) -> None:
        super().__init__(f"{code}: {message}")
        self.error = ToolError(code, message, retryable)


class RequestFailed(Exception):
    """Raise it in a handler to answer with a JSON-RPC error."""

    def __init__(self, code: int, message: str, data: object = UNSET) -> None:
        super().__init__(message)
        self.error = RpcError(code, message, UNSET if data is UNSET else Raw(_encode(data)))


class Work:
    """A running coroutine's way to its client."""

    def __init__(self, context: Context, tell: Callable[[Said], Awaitable[None]]) -> None:
        self.context = context
        """Who asks, in which revision, with which capabilities."""
        self._tell = tell
        self._asking = False
        self._answered = anyio.Event()
        self._answers: Mapping[str, ClientAnswer] = {}

    async def report_progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Say how far the work is. Sent if the client asked for it and `progress` has grown.

        A task has no progress; there `message` is what the client is told of its status.
        """
        await self._tell(
            Progress(progress, UNSET if total is None else total, UNSET if message is None else message)
        )

    async def log(self, level: LogLevel, data: object, logger: str | None = None) -> None:
        """Send a message (anything that JSON can say, no secrets) to the client's log, if it wants that level."""
        await self._tell(Log(level, json_text(data), UNSET if logger is None else logger))

    async def ask(self, requests: Mapping[str, ClientRequest]) -> Mapping[str, ClientAnswer]:
        """Ask the client; the answers have the keys of the requests.

        Requests that the client does not offer have no answer; where it offers none of them the request is
        refused and this coroutine is cancelled. Keys must be unique within one run.
        """
        if self._asking:
            raise LocalProtocolError("one question at a time: await the answer before asking again")
        self._asking, self._answered = True, anyio.Event()
        try:
            await self._tell(Ask(requests))
            await self._answered.wait()
        finally:
            self._asking = False
        return self._answers

    async def hang_up(self) -> None:
        """Let go of the connection while the work goes on: for work that takes minutes.

        Over HTTP a client of 2025-11-25 comes back by itself for what is still to come. Elsewhere nothing happens:
        other clients could not come back.
        """
        await self._tell(HangUp())

    def answer(self, answers: Mapping[str, ClientAnswer]) -> None:
        """For the driver: the client has answered."""
        self._answers = answers
        self._answered.set()


Returned: TypeAlias = Result | Struct | Mapping[str, object] | str | None


class Job(Protocol):
    """What `Start` carries for these drivers."""

    @property
    def context(self) -> Context: ...

    async def run(self, work: Work) -> Result: ...


def as_result(value: Returned) -> Result:
    """What a coroutine returned, as a result: text, or data (a struct or a mapping), or a result as it is."""
    if isinstance(value, ToolResult | ReadResult | PromptResult | CompletionResult):
        return value
    if value is None:
        return ToolResult()
    if isinstance(value, str):
        return ToolResult((TextContent(value),))
    return ToolResult(structured=json_text(value))


class FunctionJob(Struct, frozen=True):
    """A user's coroutine function, with its arguments. `Any`: what the function takes, and what it returns."""

    function: Callable[[Any, Work], Awaitable[Any]]
    arguments: object
    context: Context
    as_result: Callable[[Any], Result] = as_result
    """Makes a result of what the function returns."""

    async def run(self, work: Work) -> Result:
        return self.as_result(await self.function(self.arguments, work))


def json_text(value: object) -> bytes:
    """JSON text. Raises ValueError where a number is NaN or infinite: JSON cannot say it, null would be a lie."""
    plain = (
        msgspec.to_builtins(value, builtin_types=(bytes, msgspec.Raw)) if isinstance(value, Struct) else value
    )
    _refuse_unsayable(plain)
    return _encode(value)


def _refuse_unsayable(value: object) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no JSON number")
    if isinstance(value, Mapping):
        value = list(cast(Mapping[object, object], value).values())
    if isinstance(value, list | tuple):
        for part in cast(Sequence[object], value):
            _refuse_unsayable(part)
