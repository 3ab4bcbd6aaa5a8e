"""One HTTP request and its response, as a driver sees them."""

from typing import Protocol

from kvmcp.core.commands import Command, Said, Ticket
from kvmcp.core.errors import LocalProtocolError
from kvmcp.core.http.answers import Answer, Fixed, nobody_to_wake, refuse
from kvmcp.core.http.messages import Part
from kvmcp.core.http.plain_calls import PlainAnswer
from kvmcp.core.limits import Limits
from kvmcp.core.subscriptions import Event
from kvmcp.core.task_states import TaskId


class BodyRoom:
    """How much of the bodies that have arrived in part may still be held, over all exchanges of a server."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    def take(self, size: int) -> bool:
        """Whether `size` bytes more may be held."""
        if size > self._left:
            return False
        self._left -= size
        return True

    def give_back(self, size: int) -> None:
        """They are held no more."""
        self._left += size


class Host(Protocol):
    """What an exchange needs of the server that it belongs to."""

    body_room: BodyRoom

    def answer_body(self, exchange: "HttpExchange", body: bytes, now: float) -> Answer: ...
    def woke(self, exchange: "HttpExchange") -> None: ...
    def left(self, exchange: "HttpExchange") -> None: ...


class HttpExchange:
    """One request to the endpoint; made by `HttpServer.open`.

    Feed it the body; after each input, and when `HttpServer.take_woken` names it, run `take_commands` and write
    `take_parts`, in turns while `wants_turn`, and stop when `closed`. A lost connection is an input, too
    (`disconnected`): what the request started may have to go on, so drive it until it is closed.
    """

    def __init__(self, host: Host, limits: Limits, now: float) -> None:
        self._host = host
        self._limits = limits
        self._body = bytearray()
        self._body_until = now + limits.body_timeout
        self._answer: Answer | None = None
        self._left = False

    # --- input ---

    def receive_body(self, chunk: bytes, now: float) -> None:
        """A piece of the request's body arrived; what comes after the answer is ignored."""
        if self._answer is not None:
            return
        size, limit = len(self._body) + len(chunk), self._limits.message_bytes
        if size > limit:
            self.answer(refuse(413, f"message of at least {size} bytes, limit is {limit}"))
        elif not self._host.body_room.take(len(chunk)):
            problem = "too much is arriving at once; try again"
            self.answer(refuse(503, problem, (b"retry-after", b"1")))
        else:
            self._body += chunk

    def end_of_body(self, now: float) -> None:
        """The request is complete."""
        if self._answer is None:
            self.answer(self._host.answer_body(self, bytes(self._body), now))

    def receive_all(self, body: bytes, now: float) -> None:
        """The whole body is here, in one piece that was never kept."""
        if self._answer is None and len(body) <= self._limits.message_bytes:
            self.answer(self._host.answer_body(self, body, now))
        else:
            self.receive_body(body, now)

    def disconnected(self, now: float) -> None:
        """The client has closed the connection, or this stream of it: nothing can be written any more."""
        if self._answer is None:
            self.answer(Fixed([]))
        else:
            self._answer.disconnected(now)

    def complete(self, ticket: Ticket, outcome: object, now: float) -> None:
        """A command finished; the outcome is a value, failures included. See `kvmcp.core.commands`."""
        self._begun.complete(ticket, outcome, now)

    def tell(self, ticket: Ticket, said: Said, now: float) -> None:
        """A running job reports progress, logs, asks the client, or lets go of the connection."""
        self._begun.tell(ticket, said, now)

    def publish(self, event: Event, now: float) -> None:
        """Something changed; `HttpServer.publish` tells all exchanges that listen."""
        if self._begun.publish(event, now):
            self._wake()

    def note_task(self, id: TaskId) -> None:
        """A task has changed."""
        if self._begun.note_task(id):
            self._wake()

    def begin_shutdown(self, now: float) -> None:
        """Finish what was accepted, give up after `Limits.shutdown_grace`; `HttpServer.begin_shutdown` calls it."""
        if self._answer is None:
            self.answer(refuse(503, "the server is shutting down"))
        else:
            self._answer.begin_shutdown(now)

    def handle_timeout(self, now: float) -> None:
        """`next_deadline` has passed. Early and repeated calls do nothing."""
        if self._answer is not None:
            self._answer.handle_timeout(now)
        elif now >= self._body_until:
            self.answer(refuse(408, "the body did not arrive in time"))

    # --- output ---

    def take_commands(self) -> list[Command]:
        """What the driver is to do, each exactly once."""
        return [] if self._answer is None else self._answer.take_commands()

    def take_parts(self) -> list[Part]:
        """What is to be written now, rendered now: take it when the last part has been written."""
        answer = self._answer
        if answer is None:
            return []
        parts = answer.take_parts()
        if answer.closed and not self._left:
            self._left = True
            answer.wake = nobody_to_wake  # So that neither keeps the other until a garbage collection.
            self._host.left(self)
        return parts

    def next_deadline(self) -> float | None:
        """The earliest moment at which `handle_timeout` has something to do."""
        return self._body_until if self._answer is None else self._answer.next_deadline()

    @property
    def wants_turn(self) -> bool:
        """Whether `take_commands` has something to give, now that parts were taken: go on until it has not."""
        return self._answer is not None and self._answer.wants_turn

    @property
    def is_alone(self) -> bool:
        """Whether it has given nothing to do to anybody else, the server included: no turn is due to them."""
        return isinstance(self._answer, PlainAnswer) and self._answer.is_alone

    @property
    def wants_input(self) -> bool:
        """Whether more of the body is read."""
        return self._answer is None

    @property
    def closed(self) -> bool:
        """Whether all was taken and nothing more comes: the driver may forget it."""
        return self._left

    # --- for the server ---

    def answer(self, answer: Answer) -> None:
        """The response is decided."""
        self._answer = answer
        if self._body:
            self._host.body_room.give_back(len(self._body))
            self._body = bytearray()
        answer.wake = self._wake

    def _wake(self) -> None:
        self._host.woke(self)

    @property
    def _begun(self) -> Answer:
        if self._answer is None:
            raise LocalProtocolError("no command was given yet")
        return self._answer
