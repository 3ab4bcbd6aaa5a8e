"""What a client session tells: every event, in the past tense.

A ticket names a request of ours, a listen, or a request of the server; the session minted it. Each request and
each listen is settled by exactly one event, unless the application cancelled it: `ResultReceived`,
`ErrorReceived`, `ListenEnded`, `TimedOut`, a `ProtocolViolated` with its ticket, or the `ConnectionLost` that
lists it.
"""

from collections.abc import Mapping
from typing import TypeAlias

from msgspec import UNSET, Raw, Struct, UnsetType

from kvmcp.core.commands import Ticket
from kvmcp.core.errors import RpcError
from kvmcp.core.subscriptions import ListName
from kvmcp.core.wire.common import Implementation, LogLevel
from kvmcp.core.wire.params import Era, ListenFilter
from kvmcp.core.wire.results import InputRequest, ServerCapabilities

# --- the connection -----------------------------------------------------------------------------------------


class Connected(Struct, frozen=True):
    """The server speaks with us. Keep it: passed to `connect`, it saves the probe the next time."""

    era: Era
    version: str
    server_info: Implementation | None
    """For display and logs only: a server may write anything here."""
    capabilities: ServerCapabilities
    instructions: str | None


class ConnectionFailed(Struct, frozen=True):
    """There is no common way to talk; `error` is what the server said, if it said something."""

    reason: str
    error: RpcError | None = None


class ConnectionLost(Struct, frozen=True):
    """The server is gone. What these requests did is unknown; nothing more comes for any ticket."""

    tickets: tuple[Ticket, ...]


class ProtocolViolated(Struct, frozen=True):
    """The server sent what the protocol, or a limit of ours, does not allow. It settles `ticket`, if any."""

    reason: str
    ticket: Ticket | None = None


# --- requests -----------------------------------------------------------------------------------------------


class ResultReceived(Struct, frozen=True, gc=False):
    """A request is done. `result` is a JSON object; see `kvmcp.core.wire.results`."""

    ticket: Ticket
    result: Raw


class ErrorReceived(Struct, frozen=True, gc=False):
    """The server refused a request, or a listen."""

    ticket: Ticket
    error: RpcError


class InputRequired(Struct, frozen=True):
    """The server needs answers before it goes on (2026-07-28): all of them, by key, through `answer`."""

    ticket: Ticket
    requests: Mapping[str, InputRequest]


class TimedOut(Struct, frozen=True, gc=False):
    """No answer came in time. The server was told; what the request did is unknown."""

    ticket: Ticket


class ProgressReceived(Struct, frozen=True, gc=False):
    """How far a request is. `progress` grows from event to event."""

    ticket: Ticket
    progress: float
    total: float | UnsetType = UNSET
    message: str | UnsetType = UNSET


# --- what the server wants or tells ---------------------------------------------------------------------------


class ServerAsked(Struct, frozen=True):
    """A request of the server (legacy): answer it with `reply` or `refuse`. We declared that we can."""

    ticket: Ticket
    method: str
    params: Raw


class ServerAskEnded(Struct, frozen=True, gc=False):
    """The server does not want that answer any more: close the dialog."""

    ticket: Ticket


class LogReceived(Struct, frozen=True, gc=False):
    """A message for our log. `data` is JSON text."""

    level: LogLevel
    data: Raw
    logger: str | UnsetType = UNSET


class ListChanged(Struct, frozen=True, gc=False):
    """Fetch this list again. `ticket` is the listen that brought it; None in the legacy era."""

    name: ListName
    ticket: Ticket | None = None


class ResourceUpdated(Struct, frozen=True, gc=False):
    """Read this resource again; `ticket` as in `ListChanged`."""

    uri: str
    ticket: Ticket | None = None


class NotificationReceived(Struct, frozen=True):
    """A notification that the session does not know, of an extension perhaps. `params` is a JSON object."""

    method: str
    params: Raw


class ListenAcknowledged(Struct, frozen=True):
    """A listen began; `granted` is what will be reported, and may be less than was asked for."""

    ticket: Ticket
    granted: ListenFilter


class ListenEnded(Struct, frozen=True, gc=False):
    """The server ended a listen: listen anew and fetch again what it covered."""

    ticket: Ticket


Event: TypeAlias = (
    Connected
    | ConnectionFailed
    | ConnectionLost
    | ProtocolViolated
    | ResultReceived
    | ErrorReceived
    | InputRequired
    | TimedOut
    | ProgressReceived
    | ServerAsked
    | ServerAskEnded
    | LogReceived
    | ListChanged
    | ResourceUpdated
    | NotificationReceived
    | ListenAcknowledged
    | ListenEnded
)
