"""One peer's conversation, message by message: each goes to where it belongs, and all that they give comes out here.

Knows messages, not bytes on a stream (`connection` frames them), nor how a request is answered (`admission`,
`dispatch`, `methods`, `exchanges`). Whoever feeds it runs the commands it takes and writes the messages it
takes; see `kvmcp.core.commands`.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from kvmcp.core import jsonrpc
from kvmcp.core.admission import Admission, Admitted
from kvmcp.core.asking import ClientAsking
from kvmcp.core.commands import Ask, Close, Command, Log, Progress, Said, Ticket
from kvmcp.core.dispatch import Dispatch
from kvmcp.core.errors import INVALID_REQUEST, LocalProtocolError, RpcError
from kvmcp.core.exchange import Exchange, Phase
from kvmcp.core.exchanges import Exchanges
from kvmcp.core.fast_calls import FastCalls
from kvmcp.core.jsonrpc import (
    Batch,
    ErrorResponse,
    Id,
    Malformed,
    Message,
    Notification,
    Request,
    Response,
)
from kvmcp.core.limits import Limits
from kvmcp.core.plan import Caller, ToolError
from kvmcp.core.service import Service
from kvmcp.core.subscriptions import Event
from kvmcp.core.task_states import TaskId
from kvmcp.core.tasks import FIRST_TICKET, Tasks
from kvmcp.core.telling import ClientTelling, Wishes
from kvmcp.core.versions import BATCHING
from kvmcp.core.wire.params import CancelledParams, InitializeParams

_decode_cancelled = msgspec.json.Decoder(CancelledParams).decode

_SHUTDOWN: Final[Ticket] = 0
"""The deadline of the shutdown grace; no command has this ticket."""


_CLIENT_GONE: Final = ToolError("CLIENT_GONE", "the client is gone and cannot answer")


class ServerSession:
    """The server's side of one conversation.

    `caller` is who the peer was found to be, at the edge. `receive_message`, `complete`, `publish`, `tell`,
    `handle_timeout`, `receive_eof` and `begin_shutdown` never raise for what a peer sends; they raise
    LocalProtocolError where the driver breaks the contract of a command.

    Over HTTP a conversation is spread over many requests, and each has a `ServerSession` of its own: a legacy one
    is given what `initialize` settled (`legacy`), what is remembered between requests (`wishes`), and under
    which name its questions to the client go out (`name`, which no other request of the conversation has). Tasks
    outlive requests, so there they are the server's (`tasks`); elsewhere they end with the conversation.
    """

    def __init__(
        self,
        service: Service,
        caller: Caller | None = None,
        *,
        legacy: Admitted | None = None,
        wishes: Wishes | None = None,
        name: str = "",
        tasks: Tasks | None = None,
    ) -> None:
        self._service = service
        self._catalog = service.catalog
        self._limits = service.limits
        self._out: list[bytes] = []
        self._admission = Admission(service, caller if caller is not None else Caller(), self._out, legacy)
        self._exchanges = Exchanges(service.limits, self._out)
        self._asking = ClientAsking(service, self._exchanges, self._out, name)
        self._exchanges.asking = self._asking
        self._exchanges.start_task = self._start_task
        self._telling = ClientTelling(service, self._exchanges, self._out, wishes, self._state_of_task)
        self._exchanges.held_is_ready = self._telling.acknowledge
        self._fast_calls = FastCalls(service, self._exchanges)
        self._dispatch = Dispatch(self, self._admission)
        self._tasks = tasks
        self._own_tasks: Tasks | None = None
        self._ending: str | None = None
        self._closed = False

    # --- input ---

    def receive_message(self, raw: bytes, now: float) -> None:
        """One whole message arrived."""
        self._exchanges.now = now
        message = jsonrpc.decode(raw, self._limits)
        # The common message without the ladder (benchmarks/core.py).
        if type(message) is Request and self._ending is None:
            self._dispatch.request(message)
        else:
            self._receive(message)

    def receive_calls(self, lines: Sequence[object], start: int, now: float) -> int:
        """Begin the calls among whole messages, from `start` on, that are quickly begun (see `fast_calls`).

        Gives the place of the first that is not: it is to be received by itself.
        """
        self._exchanges.now = now
        if self._ending is not None:
            return start
        return self._fast_calls.begin(lines, start, self._admission.legacy, self._admission.remembered)

    def receive(self, message: Message, now: float) -> None:
        """One decoded message arrived."""
        self._exchanges.now = now
        self._receive(message)

    def receive_admitted(self, request: Request, admitted: Admitted, now: float) -> None:
        """A request arrived whose era and context the transport has read already (HTTP)."""
        self._exchanges.now = now
        self._dispatch.admitted(request, admitted)

    def receive_malformed(self, malformed: Malformed, now: float) -> None:
        """Something arrived that the framing had to refuse."""
        self._exchanges.now = now
        self._receive(malformed)

    def receive_eof(self, now: float) -> None:
        """The peer will send nothing more: finish what was accepted, ask it nothing."""
        self._exchanges.now = now
        self._end("the client closed its end", _CLIENT_GONE)

    def lose_client(self, now: float) -> None:
        """The client can be asked nothing any more; what it asked for goes on."""
        self._exchanges.now = now
        self._asking.lose_client(_CLIENT_GONE)

    def abandon(self, now: float) -> None:
        """Nobody waits for anything any more: what was accepted is cancelled, and nothing is answered."""
        self._exchanges.now = now
        self._telling.close()
        for exchange in list(self._exchanges.open.values()):
            self._exchanges.stop(exchange, None)
        if self._own_tasks is not None:
            self._own_tasks.stop(now)

    def cancel(self, id: Id, now: float) -> None:
        """The peer wants no answer to its request `id` any more; ids of no open request are ignored."""
        self._exchanges.now = now
        self._exchanges.cancel(id)
        self._telling.end_listen(id)

    def begin_shutdown(self, now: float) -> None:
        """Take no new requests, finish what was accepted, give up after `Limits.shutdown_grace`."""
        self._exchanges.now = now
        problem = "the server is shutting down and cannot wait for an answer"
        self._end("the server is shutting down", ToolError("SHUTTING_DOWN", problem, retryable=True))

    def complete(self, ticket: Ticket, outcome: object, now: float) -> None:
        """A command finished; the outcome is a value, failures included."""
        if ticket > FIRST_TICKET:
            self.tasks.complete(ticket, outcome, now)
            return
        self._exchanges.now = now
        self._exchanges.complete(ticket, outcome)

    def tell(self, ticket: Ticket, said: Said, now: float) -> None:
        """A running job reports progress, logs, or asks the client."""
        if ticket > FIRST_TICKET:
            self.tasks.tell(ticket, said, now)
            return
        self._exchanges.now = now
        exchange = self._exchanges.work(ticket)
        if exchange is None:
            return
        match said:
            case Progress():
                self._telling.tell_progress(exchange, said)
            case Log():
                self._telling.tell_log(exchange, said)
            case Ask():
                if exchange.phase is Phase.WAITING_FOR_CLIENT:
                    raise LocalProtocolError("a job asks the client one thing at a time")
                self._asking.ask(exchange, said.requests)
            case _:
                pass  # Only a transport on which the client can come back does it.

    def publish(self, event: Event, now: float) -> bool:
        """Something changed; peers that want to know are told when their transport takes it. Whether there are any."""
        self._exchanges.now = now
        return self._telling.note(event)

    def handle_timeout(self, now: float) -> None:
        """`next_deadline` has passed. Early and repeated calls do nothing."""
        self._exchanges.now = now
        for ticket in self._exchanges.deadlines.due(now):
            if ticket == _SHUTDOWN:
                self._exchanges.give_up_all("the server is stopping")
            else:
                self._exchanges.handle_due(ticket)
        if self._own_tasks is not None:
            self._own_tasks.handle_timeout(now)

    # --- output ---

    def take_commands(self) -> list[Command]:
        """What the driver is to do, each exactly once."""
        commands = self._exchanges.take_commands()
        if self._own_tasks is not None:
            commands += self._own_tasks.take_commands()
        if self._ending is not None and not self._closed and not self._exchanges.open:
            self._closed = True
            commands.append(Close(self._ending))
        return commands

    def take_messages(self) -> list[bytes]:
        """All that is to be written, rendered now."""
        self._telling.render()
        messages = self._out[:]
        self._out.clear()
        self._exchanges.rendered = 0
        return messages

    @property
    def wants_turn(self) -> bool:
        """Whether `take_commands` or `take_messages` has something to give."""
        return bool(
            self._out
            or self._exchanges.wants_turn
            or (self._ending is not None and not self._closed and not self._exchanges.open)
            or self._telling.has_news()
            or (self._own_tasks is not None and self._own_tasks.wants_turn)
        )

    def next_deadline(self) -> float | None:
        """The earliest moment at which `handle_timeout` has something to do."""
        own = self._exchanges.deadlines.next()
        if self._own_tasks is None:
            return own
        return min(
            (when for when in (own, self._own_tasks.next_deadline()) if when is not None), default=None
        )

    @property
    def listens_to(self) -> set[Event | TaskId]:
        """What its listens (modern) were granted."""
        return self._telling.listens_to

    @property
    def wants_input(self) -> bool:
        """Whether the peer may be read from: not while too many calls wait for the store, nor at the end."""
        return self._ending is None and self._exchanges.calls_out < self._limits.pending_calls

    @property
    def closed(self) -> bool:
        """Whether `Close` was given."""
        return self._closed

    # --- messages ---

    def _receive(self, message: Message) -> None:
        if self._ending is not None:
            return
        match message:
            case Request():
                self._dispatch.request(message)
            case Notification():
                self._notification(message)
            case Response(id=id, result=result):
                self._asking.receive(id, result)
            case ErrorResponse(id=id, error=error):
                self._asking.receive_error(id, error)
            case Batch():
                self._batch(message)
            case _:
                # An answer's id is one of ours: echoed, it could settle an unrelated request of the peer.
                id = None if message.is_answer else message.id
                self._out.append(jsonrpc.error_response(id, message.error))

    def _batch(self, batch: Batch) -> None:
        if self._admission.legacy is None or self._admission.legacy.dialect.version != BATCHING:
            problem = f"batches exist in revision {BATCHING} only; send one message at a time"
            self._out.append(jsonrpc.error_response(None, RpcError(INVALID_REQUEST, problem)))
            return
        for message in jsonrpc.decode_batch(batch, self._limits):
            if isinstance(message, Batch):
                message = Malformed(RpcError(INVALID_REQUEST, "a batch inside a batch"))
            self._receive(message)

    def _notification(self, notification: Notification) -> None:
        if notification.method == "notifications/initialized":
            self._telling.begin_legacy(self._admission.legacy)
        elif notification.method == "notifications/cancelled":
            self._cancelled(notification)
        # All others, roots/list_changed and progress among them, need no reaction; unknown ones get none.

    def _cancelled(self, notification: Notification) -> None:
        id = cancelled_id(notification, self._limits)
        if id is not None:
            self.cancel(id, self._exchanges.now)

    # --- what methods (see `methods`) may do with a session ---

    @property
    def service(self) -> Service:
        return self._service

    @property
    def legacy(self) -> Admitted | None:
        """What `initialize` settled, None where there was none."""
        return self._admission.legacy

    @property
    def exchanges(self) -> Exchanges:
        return self._exchanges

    @property
    def asking(self) -> ClientAsking:
        return self._asking

    @property
    def telling(self) -> ClientTelling:
        return self._telling

    @property
    def tasks(self) -> Tasks:
        """The server's, or those of this conversation."""
        if self._tasks is None:
            self._tasks = self._own_tasks = Tasks(self._service, self.note_task)
        return self._tasks

    def note_task(self, id: TaskId) -> bool:
        """A task has changed: whoever listens is told when the transport takes it. Whether somebody does."""
        return self._telling.note_task(id)

    def _state_of_task(self, id: TaskId, listener: Caller) -> bytes | None:
        return self.tasks.state_for(id, listener, self._exchanges.now)

    def _start_task(self, exchange: Exchange, job: object) -> None:
        message = self.tasks.create(exchange, job, self._exchanges.now)
        if message is None:
            self._exchanges.refuse_for_room(exchange)
        else:
            self._exchanges.settle(exchange, message)

    def send(self, message: bytes) -> None:
        self._out.append(message)

    def refuse(self, id: Id, error: RpcError) -> None:
        """Answer a request with a protocol error, in the words of the connection's era."""
        if self._admission.legacy is None:
            self._out.append(self._service.modern.error(id, error))
        else:
            self._out.append(jsonrpc.error_response(id, error))

    def open_legacy(self, id: Id, params: InitializeParams) -> None:
        """Begin the legacy conversation."""
        if self._admission.legacy is not None:
            problem = RpcError(INVALID_REQUEST, "this connection is initialized already")
            self._out.append(jsonrpc.error_response(id, problem))
            return
        dialect = self._admission.open_legacy(params)
        self._telling.want_lists()
        result = dialect.initialize_result(self._catalog, self._service.info, self._service.instructions)
        self._out.append(jsonrpc.response(id, result))

    # --- the end ---

    def _end(self, reason: str, unanswered: ToolError) -> None:
        """Finish what was accepted, but for what needs the client's answer: nothing is read any more."""
        if self._ending is not None:
            return
        self._ending = reason
        self._asking.lose_client(unanswered)
        self._exchanges.deadlines.set(_SHUTDOWN, self._exchanges.now + self._limits.shutdown_grace)
        self._telling.render()
        self._telling.answer_listens()
        self._telling.close()
        if self._own_tasks is not None:
            self._own_tasks.stop(self._exchanges.now)


def cancelled_id(notification: Notification, limits: Limits) -> Id | None:
    """Which request a `notifications/cancelled` is about; None where it does not say so."""
    try:
        params = _decode_cancelled(notification.params)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return jsonrpc.read_id(params.request_id, limits)
