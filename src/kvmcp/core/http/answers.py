"""One response, from its first byte to its last: what every kind has, and the kinds that need no session.

A response becomes a stream only when something must stream: a notification before the result, a listen, or
silence for so long that a proxy might cut the connection. Until then the status is still open, and an answer is
one start and one body.
"""

from collections.abc import Callable
from typing import Protocol

from kvmcp.core.commands import Close, Command, Said, Ticket
from kvmcp.core.errors import INVALID_REQUEST, RpcError
from kvmcp.core.exchanges import Exchanges
from kvmcp.core.http import sse
from kvmcp.core.http.admission import Refused, status_of
from kvmcp.core.http.messages import BodyPart, Field, Part, events_start, json_response
from kvmcp.core.jsonrpc import Id, error_response
from kvmcp.core.limits import Limits
from kvmcp.core.session import ServerSession
from kvmcp.core.subscriptions import Event
from kvmcp.core.task_states import TaskId


def nobody_to_wake() -> None:
    """What an answer calls before an exchange listens to it."""


class Answer(Protocol):
    """One response in the making. `wake` is called when another request gave it something to do.

    `publish` and `note_task` say whether it has something to tell now.
    """

    wake: Callable[[], None]
    streams: bool
    """Whether it stays open for what may come, rather than for an answer."""

    def take_commands(self) -> list[Command]: ...
    def take_parts(self) -> list[Part]: ...
    def complete(self, ticket: Ticket, outcome: object, now: float) -> None: ...
    def tell(self, ticket: Ticket, said: Said, now: float) -> None: ...
    def publish(self, event: Event, now: float) -> bool: ...
    def note_task(self, id: TaskId) -> bool: ...
    def disconnected(self, now: float) -> None: ...
    def begin_shutdown(self, now: float) -> None: ...
    def handle_timeout(self, now: float) -> None: ...
    def next_deadline(self) -> float | None: ...

    @property
    def wants_turn(self) -> bool:
        """Whether commands are there to be taken although no input came."""
        ...

    @property
    def closed(self) -> bool:
        """Whether nothing more comes of it."""
        ...


class Quiet:
    """What an answer has for which nothing runs: it is known from the start, or others bring what it tells."""

    def take_commands(self) -> list[Command]:
        return []

    def complete(self, ticket: Ticket, outcome: object, now: float) -> None:
        """Nothing runs for it."""

    def tell(self, ticket: Ticket, said: Said, now: float) -> None:
        """Nothing runs for it."""

    def publish(self, event: Event, now: float) -> bool:
        return False

    def note_task(self, id: TaskId) -> bool:
        return False

    @property
    def wants_turn(self) -> bool:
        return False


class Fixed(Quiet):
    """A response that is known from the start."""

    def __init__(self, parts: list[Part]) -> None:
        self._parts = parts
        self.streams = False
        self.wake: Callable[[], None] = nobody_to_wake

    def take_parts(self) -> list[Part]:
        parts, self._parts = self._parts, []
        return parts

    def disconnected(self, now: float) -> None:
        self._parts = []

    def begin_shutdown(self, now: float) -> None:
        """It ends at once anyway."""

    def handle_timeout(self, now: float) -> None:
        """It waits for nothing."""

    def next_deadline(self) -> float | None:
        return None

    @property
    def closed(self) -> bool:
        return not self._parts


def refusal(refused: Refused, *more: Field) -> Fixed:
    """An error as a whole response."""
    return Fixed(json_response(refused.status, error_response(refused.id, refused.error), *more))


def refuse(status: int, problem: str, *more: Field, id: Id | None = None) -> Fixed:
    """A request that is none of MCP's, or comes at the wrong time."""
    return refusal(Refused(RpcError(INVALID_REQUEST, problem), id, status), *more)


class SilenceTimer:
    """When a response that has said nothing for long must say something."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._every = limits.keep_alive
        self.due_at = now + self._every
        self.is_due = False

    def pass_time(self, now: float) -> None:
        if now >= self.due_at:
            self.is_due = True
            self.due_at = now + self._every

    def take(self) -> bytes:
        """A comment, if one is due."""
        due, self.is_due = self.is_due, False
        return sse.COMMENT if due else b""


def earliest(*moments: float | None) -> float | None:
    """The first of several moments, None where there is none."""
    return min((moment for moment in moments if moment is not None), default=None)


class SessionAnswer:
    """What the answers of both eras do with the session of their request."""

    def __init__(self, session: ServerSession, limits: Limits, now: float) -> None:
        self._session = session
        self._silence = SilenceTimer(limits, now)
        self.wake: Callable[[], None] = nobody_to_wake

    @property
    def exchanges(self) -> Exchanges:
        """The requests of its session."""
        return self._session.exchanges

    def take_commands(self) -> list[Command]:
        """Of the session; its end is the response's end, which the parts say."""
        return [command for command in self._session.take_commands() if type(command) is not Close]

    def complete(self, ticket: Ticket, outcome: object, now: float) -> None:
        self._session.complete(ticket, outcome, now)

    def tell(self, ticket: Ticket, said: Said, now: float) -> None:
        self._session.tell(ticket, said, now)

    def publish(self, event: Event, now: float) -> bool:
        return self._session.publish(event, now)

    def note_task(self, id: TaskId) -> bool:
        return self._session.note_task(id)

    def begin_shutdown(self, now: float) -> None:
        self._session.begin_shutdown(now)

    def handle_timeout(self, now: float) -> None:
        self._silence.pass_time(now)
        self._session.handle_timeout(now)

    @property
    def wants_turn(self) -> bool:
        return self._session.exchanges.wants_turn

    @property
    def _settled(self) -> bool:
        return not self._session.exchanges.open


class ModernAnswer(SessionAnswer):
    """The response to a request of 2026-07-28. Its connection's end is the request's cancellation."""

    def __init__(
        self, session: ServerSession, id: Id, limits: Limits, now: float, *, streams: bool = False
    ) -> None:
        super().__init__(session, limits, now)
        self._id = id
        self.streams = streams
        self._begun = False
        self._closed = False

    def take_parts(self) -> list[Part]:
        if self._closed:
            return []
        messages = self._session.take_messages()
        self._closed = settled = self._settled
        if not self._begun and settled and len(messages) == 1:
            return json_response(status_of(messages[0], self._id), messages[0])
        data = b"".join(map(sse.event, messages)) + self._silence.take()
        if not data and not settled:
            return []
        begun, self._begun = self._begun, True
        body = BodyPart(data, more=not settled)
        return [body] if begun else [events_start(), body]

    def disconnected(self, now: float) -> None:
        """ "Closing the response stream is the cancel; after it the server MUST NOT send more"."""
        self._session.abandon(now)
        self._closed = True

    def next_deadline(self) -> float | None:
        return None if self._closed else earliest(self._session.next_deadline(), self._silence.due_at)

    @property
    def closed(self) -> bool:
        return self._closed
