"""What the core asks of its driver, and what the driver may say while work runs."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from msgspec import UNSET, Struct, UnsetType

from kvmcp.core.errors import RpcError
from kvmcp.core.plan import ToolError
from kvmcp.core.wire.common import ClientAnswer, ClientRequest, LogLevel, Result

Ticket: TypeAlias = int
"""Names one command that is to be completed. Minted by the core, never by the peer."""


class RunBatch(Struct, frozen=True, gc=False):
    """Run operations of the backend; complete with as many replies, in order."""

    ticket: Ticket
    ops: Sequence[Any]
    """`Any`: opaque to the engine, as the tools made them."""


class StartWork(Struct, frozen=True, gc=False):
    """Run a job in its own task; complete with `WorkDone` or `WorkFailed`."""

    ticket: Ticket
    job: object


class StopWork(Struct, frozen=True, gc=False):
    """Cancel a job: nobody waits for it any more. Completing it is allowed and does nothing."""

    ticket: Ticket


class AnswerWork(Struct, frozen=True, gc=False):
    """What the client answered to the `Ask` of a running job, by key."""

    ticket: Ticket
    answers: Mapping[str, ClientAnswer]


class Report(Struct, frozen=True, gc=False):
    """Our own code raised while it handled a request: for the log, not for the peer."""

    method: str
    error: Exception


class Close(Struct, frozen=True, gc=False):
    """Nothing more will come: write what is left and end the connection."""

    reason: str


Command: TypeAlias = RunBatch | StartWork | StopWork | AnswerWork | Report | Close


class BatchFailed(Struct, frozen=True, gc=False):
    """Outcome of a batch whose backend broke its contract: whether anything happened is not known."""


class WorkDone(Struct, frozen=True, gc=False):
    """Outcome of a job."""

    result: Result


class WorkFailed(Struct, frozen=True, gc=False):
    """Outcome of a job: a protocol error, or a tool's failure."""

    error: RpcError | ToolError


class Progress(Struct, frozen=True, gc=False):
    """How far a job is. Sent only if the request asked for it, and only if `progress` grows."""

    progress: float
    total: float | UnsetType = UNSET
    message: str | UnsetType = UNSET


class Log(Struct, frozen=True, gc=False):
    """A message for the client's log. `data` is JSON text, without secrets. Sent at or above the level asked for."""

    level: LogLevel
    data: bytes
    logger: str | UnsetType = UNSET


class Ask(Struct, frozen=True, gc=False):
    """Questions for the client; `AnswerWork` brings the answers, or the job is stopped (see `AskClient`)."""

    requests: Mapping[str, ClientRequest]


class HangUp(Struct, frozen=True, gc=False):
    """Let go of the connection while the job goes on; the client comes back for the rest (HTTP, since 2025-11-25).

    Elsewhere it does nothing: there the client could not come back.
    """


Said: TypeAlias = Progress | Log | Ask | HangUp
