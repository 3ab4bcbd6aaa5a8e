"""What all HTTP requests of one process share."""

from typing import Final

from msgspec import Raw, Struct

from kvmcp.core import jsonrpc
from kvmcp.core.commands import Command, Said, Ticket
from kvmcp.core.http import agreement
from kvmcp.core.http.admission import Accepted, LegacyMessage, ModernRequest, admit
from kvmcp.core.http.answers import Answer, Fixed, ModernAnswer, earliest, refusal, refuse
from kvmcp.core.http.exchange import BodyRoom, HttpExchange
from kvmcp.core.http.headers import Headers
from kvmcp.core.http.heads import Head, read_head
from kvmcp.core.http.interests import Interests
from kvmcp.core.http.legacy_requests import LegacyRequests
from kvmcp.core.http.messages import EVENTS, Request, empty_response
from kvmcp.core.http.plain_calls import PlainCalls
from kvmcp.core.http.relays import Follow, TaskAsked, TaskTold, Told, Written
from kvmcp.core.http.remote_tasks import RemoteTasks
from kvmcp.core.http.sessions import Sessions
from kvmcp.core.http.shared import FIRST_TICKET as FIRST_SHARED_TICKET, Shared, SharedCommand
from kvmcp.core.http.shared_events import SharedEvents
from kvmcp.core.http.streams import EventStore, MemoryEventStore
from kvmcp.core.jsonrpc import Id
from kvmcp.core.plan import Caller
from kvmcp.core.service import Service
from kvmcp.core.session import ServerSession
from kvmcp.core.subscriptions import Event
from kvmcp.core.task_states import TaskId
from kvmcp.core.tasks import Tasks
from kvmcp.core.versions import MODERN

_LISTEN: Final = "subscriptions/listen"


class _Asked(Struct):
    head: Head
    caller: Caller


class HttpServer:
    """The endpoint. `open` one exchange per request; it, or whatever answers, keeps to itself what it is about.

    An input to one exchange may give others something to do (a client's answer, a change): run what
    `take_woken` names, too. `events` remembers what a legacy client may ask for again. Where several processes
    serve the same sessions (`replicated`), pass on what `take_relays` gives to all others. `resumable` makes a
    stream of every answer to a legacy call, so that a client whose connection breaks can come back for it.
    """

    def __init__(
        self,
        service: Service,
        events: EventStore | None = None,
        *,
        replicated: bool = False,
        resumable: bool = False,
    ) -> None:
        self._service = service
        self._limits = service.limits
        self._shared = Shared(service.sealer, service.token()) if replicated else None
        events = events if events is not None else self._own_events()
        self._sessions = Sessions(service, events, self._shared)
        self._legacy = LegacyRequests(service, self._sessions, self._shared, resumable=resumable)
        self._remote_tasks = None if self._shared is None else RemoteTasks(service, self._shared)
        self._tasks = Tasks(service, self._heard_of_task, self._remote_tasks)
        self._plain_calls = PlainCalls(
            service, self._sessions, self._legacy, self._tasks, resumable=resumable
        )
        self._open: dict[HttpExchange, _Asked] = {}
        self._woken: dict[HttpExchange, None] = {}
        self._streaming: set[HttpExchange] = set()
        self._listening: Interests[Event | TaskId, HttpExchange] = Interests()
        self.body_room = BodyRoom(self._limits.arriving_bytes)
        self._ending = False

    def _own_events(self) -> EventStore:
        limits = self._limits
        return MemoryEventStore(limits) if self._shared is None else SharedEvents(limits, self._shared)

    # --- input ---

    def open(self, request: Request, caller: Caller, now: float) -> HttpExchange:
        """A request's head has arrived. `caller` is who its peer was found to be, at the edge."""
        return self.open_read(read_head(request), caller, now)

    def open_read(self, head: Head, caller: Caller, now: float) -> HttpExchange:
        """A request's head has arrived, and was read (`heads`)."""
        exchange = HttpExchange(self, self._limits, now)
        self._open[exchange] = _Asked(head, caller)
        refused = self._fault(head)
        if refused is not None:
            exchange.answer(refused)
        elif head.plain is None:
            self._open_other(exchange, head, caller, now)
        return exchange

    def open_plain(self, head: Head, body: bytes, caller: Caller, now: float) -> HttpExchange | None:
        """A whole request is here; None, and nothing has happened, where it is not one of `plain_calls`."""
        plain = head.plain
        if plain is None or len(body) > self._limits.message_bytes or self._fault(head) is not None:
            return None
        message = jsonrpc.decode(body, self._limits)
        if not isinstance(message, jsonrpc.Request):
            return None
        answer = self._plain_calls.begin(plain, message, caller, now)
        if answer is None:
            return None
        exchange = HttpExchange(self, self._limits, now)
        exchange.answer(answer)
        self._open[exchange] = _Asked(head, caller)
        return exchange

    def _open_other(self, exchange: HttpExchange, head: Head, caller: Caller, now: float) -> None:
        method, headers = head.request.method, head.headers
        if method == "DELETE":
            exchange.answer(self._legacy.delete(headers, caller, now))
        elif method == "GET":
            exchange.answer(self._stream(exchange, headers, caller, now))

    def publish(self, event: Event, now: float) -> None:
        """Something changed; clients that want to know are told when their transport takes it."""
        for exchange in self._listening.of(event):
            exchange.publish(event, now)
        self._sessions.publish(event, now)

    def receive_relay(self, data: bytes, now: float) -> None:
        """Another process, or this one, passed something on; whatever none of them wrote is ignored."""
        relay = None if self._shared is None else self._shared.read(data)
        match relay:
            case Told():
                self._legacy.told(relay, now)
            case Follow():
                self._legacy.follow(relay, now)
            case Written():
                self._legacy.written(relay)
            case TaskAsked(id=id, answers=answers):
                given = None if answers is None else {key: Raw(text) for key, text in answers.items()}
                self._tasks.ask_for_other(id, given, now)
            case TaskTold():
                self._told_of_task(relay)
            case _:
                pass

    def begin_shutdown(self, now: float) -> None:
        """Take no new requests, finish what was accepted, give up after `Limits.shutdown_grace`."""
        self._ending = True
        for exchange in list(self._open):
            exchange.begin_shutdown(now)
            self._woken[exchange] = None
        self._tasks.stop(now)

    def complete(self, ticket: Ticket, outcome: object, now: float) -> None:
        """A command of the server's own finished."""
        if self._shared is not None and ticket > FIRST_SHARED_TICKET:
            self._shared.complete(ticket, outcome, now)
        else:
            self._tasks.complete(ticket, outcome, now)

    def tell(self, ticket: Ticket, said: Said, now: float) -> None:
        """A task asks the client."""
        self._tasks.tell(ticket, said, now)

    def handle_timeout(self, now: float) -> None:
        """`next_deadline` has passed. Early and repeated calls do nothing."""
        self._sessions.sweep(now)
        self._tasks.handle_timeout(now)

    # --- output ---

    def take_commands(self) -> list[Command]:
        """Work that belongs to no request: tasks. To be taken after inputs to exchanges, too."""
        return self._tasks.take_commands()

    def take_records(self) -> list[SharedCommand]:
        """What is to be done with the records that all processes keep in common, in order; see the package."""
        return [] if self._shared is None else self._shared.take_commands()

    def take_woken(self) -> list[HttpExchange]:
        """The exchanges that were given something to do from elsewhere."""
        woken = [exchange for exchange in self._woken if not exchange.closed]
        self._woken.clear()
        return woken

    def take_relays(self) -> list[bytes]:
        """What the other processes are to be told, in order; each is JSON text."""
        return [] if self._shared is None else self._shared.take_relays()

    def next_deadline(self) -> float | None:
        """The earliest moment at which `handle_timeout` has something to do."""
        return earliest(self._sessions.next_deadline(), self._tasks.next_deadline())

    @property
    def sessions(self) -> int:
        """Legacy sessions that are remembered."""
        return len(self._sessions)

    @property
    def requests(self) -> int:
        """Requests that are not answered yet, streams included."""
        return len(self._open)

    # --- heads ---

    def _fault(self, head: Head) -> Fixed | None:
        """What is refused without looking at a body."""
        if self._ending:
            return refuse(503, "the server is shutting down", (b"retry-after", b"1"))
        if len(self._open) > self._limits.open_requests:
            return refuse(503, "too many requests are open", (b"retry-after", b"1"))
        if head.plain is not None:
            return self._length_fault(head.plain.length)
        return self._head_fault(head.request.method, head.headers)

    def _head_fault(self, method: str, headers: Headers) -> Fixed | None:
        if method == "POST":
            return self._post_fault(headers)
        if headers.get(agreement.VERSION) in MODERN:
            return refuse(405, "only POST exists in this revision", (b"allow", b"POST"))
        if method not in ("GET", "DELETE"):
            return refuse(405, "only POST, GET and DELETE exist", (b"allow", b"POST, GET, DELETE"))
        if method == "GET" and not headers.accepts(EVENTS):
            return refuse(406, "the client must accept text/event-stream")
        return None

    def _post_fault(self, headers: Headers) -> Fixed | None:
        if not headers.has_json_body():
            return refuse(415, "the body must be application/json")
        if not headers.accepts_both():
            return refuse(406, "the client must accept application/json and text/event-stream")
        return self._length_fault(headers.content_length())

    def _length_fault(self, length: int | None) -> Fixed | None:
        limit = self._limits.message_bytes
        if length is not None and length > limit:
            return refuse(413, f"message of {length} bytes, limit is {limit}")
        return None

    # --- for exchanges ---

    def answer_body(self, exchange: HttpExchange, body: bytes, now: float) -> Answer:
        """The response to a POST."""
        asked = self._open[exchange]
        head, caller = asked.head, asked.caller
        message = jsonrpc.decode(body, self._limits)
        if head.plain is not None and isinstance(message, jsonrpc.Request):
            plain = self._plain_calls.begin(head.plain, message, caller, now)
            if plain is not None:
                return plain
        verdict = admit(self._service, head.headers, message, caller)
        match verdict:
            case ModernRequest():
                return self._modern(exchange, verdict, caller, now)
            case LegacyMessage():
                return self._legacy.post(head.headers, verdict.message, caller, now)
            case Accepted():
                return Fixed(empty_response(202))
            case _:
                return refusal(verdict)

    def _modern(self, exchange: HttpExchange, asked: ModernRequest, caller: Caller, now: float) -> Answer:
        request = asked.request
        if self._remote_tasks is not None:
            elsewhere = self._remote_tasks.answer(self._tasks, request, asked.admitted, now)
            if elsewhere is not None:
                return elsewhere
        listens = request.method == _LISTEN
        if listens and self._is_full:
            return self._too_many_streams(request.id)
        session = ServerSession(self._service, caller, tasks=self._tasks)
        session.receive_admitted(request, asked.admitted, now)
        if listens:
            self._streaming.add(exchange)
            self._listening.set(exchange, session.listens_to)
        return ModernAnswer(session, request.id, self._limits, now, streams=listens)

    def _stream(self, exchange: HttpExchange, headers: Headers, caller: Caller, now: float) -> Answer:
        """The response to a GET."""
        if self._is_full:
            return self._too_many_streams()
        answer = self._legacy.get(headers, caller, now)
        if answer.streams:
            self._streaming.add(exchange)
        return answer

    @property
    def _is_full(self) -> bool:
        return len(self._streaming) >= self._limits.open_streams

    def _too_many_streams(self, id: Id | None = None) -> Fixed:
        problem = f"{self._limits.open_streams} streams are open, which is the limit"
        return refuse(503, problem, (b"retry-after", b"60"), id=id)

    def woke(self, exchange: HttpExchange) -> None:
        """Another request gave an exchange something to do."""
        self._woken[exchange] = None

    def _heard_of_task(self, id: TaskId) -> None:
        for exchange in self._listening.of(id):
            exchange.note_task(id)

    def _told_of_task(self, told: TaskTold) -> None:
        """Another process has told of a task of its own."""
        assert self._remote_tasks is not None, "relays come where there are other processes"
        self._remote_tasks.told(told)
        if self._listening.of(told.id):
            self._tasks.note_elsewhere(told.id, told.state)
            self._heard_of_task(told.id)

    def left(self, exchange: HttpExchange) -> None:
        """An exchange is over."""
        del self._open[exchange]
        if exchange in self._streaming:
            self._streaming.discard(exchange)
            self._listening.drop(exchange)
        self._woken.pop(exchange, None)
