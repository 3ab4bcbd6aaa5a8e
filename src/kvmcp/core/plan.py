"""What a handler answers: a plan, as a value. Handlers are pure; the engine carries plans out.

    Plan = Answer | Fail | AskBackend | AskClient | Start

`WatchUntil` is the one job that the engine describes itself; drivers know how to run it.

`AskBackend` and `AskClient` carry a continuation: a frozen struct whose `resume` is called with what came back.
It can be compared, printed and (for `AskClient`, which in the stateless era travels to the client and back)
serialised.
"""

from collections.abc import Mapping
from typing import Any, Final, Protocol, TypeAlias

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from kvmcp.core.errors import RESOURCE_NOT_FOUND, RpcError
from kvmcp.core.wire.common import (
    ClientAnswer,
    ClientCapabilities,
    ClientRequest,
    Implementation,
    LogLevel,
    ProgressToken,
    Result,
    TextContent,
    ToolResult,
)


class Caller(Struct, frozen=True):
    """On whose behalf a request runs. Made at the edge, where the peer was authenticated."""

    principal: str = ""
    """Who; empty where the transport itself is the identity, as on stdio."""
    namespace: str = "default"
    scopes: frozenset[str] = frozenset()

    @property
    def identity(self) -> str:
        """Equal for two requests where one may go on with what the other began: same namespace, same principal."""
        return f"{self.namespace}/{self.principal}"  # No namespace has a slash in it.


class Context(Struct, frozen=True):
    """What a handler may know of its request besides the arguments."""

    caller: Caller
    protocol_version: str
    client_capabilities: ClientCapabilities
    client_info: Implementation | None = None
    """For display and logs only: a peer may write anything here."""
    progress_token: ProgressToken | None = None
    log_level: LogLevel | None = None
    """Modern: the least severe level that this request asked for; None sends no log messages."""
    trace: Mapping[str, str] = {}
    """W3C `traceparent`, `tracestate` and `baggage` as they came."""


class BackendThen(Protocol):
    """Continuation of `AskBackend`: `replies` has one reply per operation, in order.

    `Any`: operations and replies are opaque to the engine; who writes the operations knows their replies.
    """

    def resume(self, replies: Any, context: Context) -> "Plan": ...


class ClientThen(Protocol):
    """Continuation of `AskClient`. A frozen msgspec Struct with a tag, listed in the handler's `continuations`.

    `answers` maps the keys of the requests to what the client answered; a key is missing where the client
    does not offer what the request needs.
    """

    def resume(self, answers: Mapping[str, ClientAnswer], context: Context) -> "Plan": ...


class Answer(Struct, frozen=True, gc=False):
    """Done: send this result."""

    result: Result


class Fail(Struct, frozen=True, gc=False):
    """Done: send a protocol error. For faults of the request, not of the tool; see `tool_error`."""

    error: RpcError


class AskBackend(Struct, frozen=True, gc=False):
    """Run operations (opaque to the engine), then go on."""

    ops: tuple[object, ...]
    then: BackendThen
    writes: bool = False
    """Whether an operation may change the store: without a reply its outcome is then unknown."""


class AskClient(Struct, frozen=True):
    """Ask the client, then go on. Keys name the answers; requests the client does not offer are left out.

    In the legacy eras each becomes a request to the client; in the modern one the answer is `input_required`
    and `then` travels in the sealed `requestState`.
    """

    requests: Mapping[str, ClientRequest]
    then: ClientThen


class Start(Struct, frozen=True):
    """Run a job in its own task: something the driver can run, opaque to the engine."""

    job: object


Plan: TypeAlias = Answer | Fail | AskBackend | AskClient | Start


WATCH_PAUSE: Final = 10.0
"""Seconds between looks, and between signs of life to the client: those who give up a silent call do so after 30
to 60."""


class WatchThen(Protocol):
    """Continuation of `WatchUntil`: `replies` as for `BackendThen`.

    None is "not yet". With `late`, when the time is up or the store tells no more, it has to answer.
    """

    def resume(self, replies: Any, context: Context, late: bool) -> Answer | None: ...


class WatchUntil(Struct, frozen=True):
    """A job for `Start`: run operations now and after every change, until `then` makes an answer of the replies.

    The watch is open before the operations run for the first time, so that no change falls in between. Operations,
    keys and channels are opaque to the engine, as in `AskBackend`.
    """

    context: Context
    ops: tuple[object, ...]
    then: WatchThen
    timeout: float
    """Seconds until the last look."""
    keys: tuple[object, ...] = ()
    channels: tuple[object, ...] = ()
    writes: bool = False
    """Whether an operation may change the store."""
    pause: float = WATCH_PAUSE
    """Seconds after which to look again although nothing was told: for what the store does not tell."""


class ToolError(Struct, frozen=True):
    """Why a tool failed, for the model and for programs: `structuredContent.error` of an `isError` result."""

    code: str
    message: str
    retryable: bool = False
    details: Raw | UnsetType = UNSET


_encode = msgspec.json.Encoder().encode


def error_result(error: ToolError) -> ToolResult:
    """The result with `isError` for a tool's failure: the text reads `CODE: message`."""
    return ToolResult(
        content=(TextContent(f"{error.code}: {error.message}"),),
        structured=_encode({"error": error}),
        is_error=True,
    )


def tool_error(code: str, message: str, retryable: bool = False) -> Answer:
    """Answer with a tool's failure. Write `message` so that a model can correct itself."""
    return Answer(error_result(ToolError(code, message, retryable)))


class _MissingUri(Struct, frozen=True):
    uri: str


def resource_not_found(uri: str) -> Fail:
    """There is no such resource. The modern era, which has no code for it, writes -32602."""
    return Fail(RpcError(RESOURCE_NOT_FOUND, "resource not found", Raw(_encode(_MissingUri(uri)))))
