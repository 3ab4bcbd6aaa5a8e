"""The client's side of one conversation, message by message: the mirror of `kvmcp.core.session`.

    opening ─▸ Connected ─▸ requests, listens, answers ─▸ ConnectionLost
       └─────▸ ConnectionFailed

For channels that both sides share (stdio, TCP and Unix sockets, WebSocket). Knows messages, not bytes on a
stream (`connection` frames them). Whoever feeds it writes the messages and takes the events.
"""

from collections.abc import Mapping
from typing import Final

from msgspec import Raw, UnsetType

from kvmcp.core import jsonrpc
from kvmcp.core.client.answers import (
    Complete,
    Meaning,
    Wanted,
    read_legacy,
    read_modern,
    shared_version,
)
from kvmcp.core.client.asked import ServerAsks
from kvmcp.core.client.calls import Call, Calls, members, text
from kvmcp.core.client.events import (
    Connected,
    ConnectionFailed,
    ConnectionLost,
    ErrorReceived,
    Event,
    InputRequired,
    ListenEnded,
    ProtocolViolated,
    ResultReceived,
    TimedOut,
)
from kvmcp.core.client.features import Features
from kvmcp.core.client.notices import Notices
from kvmcp.core.client.opening import OPENING, Mode, Opening, Outcome, envelope
from kvmcp.core.client.profile import ClientProfile
from kvmcp.core.commands import Ticket
from kvmcp.core.errors import UNSUPPORTED_VERSION, LocalProtocolError, RpcError
from kvmcp.core.jsonrpc import Batch, ErrorResponse, Id, Malformed, Message, Notification, Request, Response
from kvmcp.core.versions import BATCHING
from kvmcp.core.wire.common import LogLevel
from kvmcp.core.wire.params import LOG_LEVEL, ListenFilter


class ClientSession(Features):
    """The client's side of one conversation.

    `connect` first, then, after the event `Connected`, anything else. `receive_…`, `handle_timeout` and
    `receive_eof` never raise; the others raise LocalProtocolError where the application breaks their contract.
    A ticket whose request is settled already is never an error: events and calls may cross.
    """

    def __init__(self, profile: ClientProfile) -> None:
        self._profile = profile
        self._limits = profile.limits
        self._out: list[bytes] = []
        self._events: list[Event] = []
        self._calls = Calls(profile.limits, self._out)
        self._opening = Opening(profile, self._calls, self._out)
        self._asks = ServerAsks(profile.limits.server_requests, self._calls, self._out, self._events)
        self._notices = Notices(self._calls, self._asks, self._events, profile.limits.wire)
        self._begun = False
        self._connected: Connected | None = None
        self._closed = False

    # --- input from the application ---

    def connect(self, now: float, mode: Mode | Connected = "auto") -> None:
        """Find out how the server talks; `Connected` or `ConnectionFailed` tells the end of it.

        `mode` is an era where it is known, or the `Connected` of an earlier connection to the same server:
        then a modern server is not asked again.
        """
        if self._begun:
            raise LocalProtocolError("connect is called once")
        self._begun = True
        self._settle_opening(self._opening.begin(mode, now))

    def request(
        self, method: str, params: bytes, now: float, *, progress: bool = False, timeout: float | None = None
    ) -> Ticket:
        """Send a request; events name it by the ticket.

        `params` is the JSON text of an object; its `_meta` is kept and completed. `progress` asks for
        `ProgressReceived`, which also gives the server more time. `timeout` is in seconds. Raises
        LocalProtocolError for arguments that do not fit, without a connection, and where `has_room` is false.
        """
        self._require_connection()
        if method in ("initialize", "subscriptions/listen"):
            raise LocalProtocolError(f"{method} is sent by connect and listen")
        return self._calls.begin(method, params, now, progress=progress, timeout=timeout)

    def listen(self, wanted: ListenFilter, now: float, *, timeout: float | None = None) -> Ticket:
        """Ask to be told of changes (2026-07-28). `timeout` is for the acknowledgement. Raises as `request`."""
        if self._require_connection().era == "legacy":
            raise LocalProtocolError(
                "listens are modern; a legacy server tells of lists unasked, see subscribe"
            )
        params = b'{"notifications":%b}' % bytes(text(wanted))
        return self._calls.begin("subscriptions/listen", params, now, timeout=timeout, listening=wanted)

    def set_log_level(self, level: LogLevel, now: float) -> Ticket | None:
        """Ask for log messages. Legacy: a request. Modern: said with each request from now on, so no ticket."""
        if self._require_connection().era == "legacy":
            return self.request("logging/setLevel", text({"level": level}), now)
        self._calls.preferences[LOG_LEVEL] = text(level)
        return None

    def answer(self, ticket: Ticket, answers: Mapping[str, bytes], now: float) -> None:
        """What `InputRequired` asked for, each an object as JSON text: the request is sent again with it.

        Raises LocalProtocolError where keys are missing or foreign, or nothing was asked.
        """
        call = self._calls.find(ticket)
        if call is None:
            return
        if call.awaited is None:
            raise LocalProtocolError(f"nothing was asked about ticket {ticket}")
        if call.awaited.symmetric_difference(answers):
            raise LocalProtocolError(f"answers are needed for {sorted(call.awaited)}, got {sorted(answers)}")
        for given in answers.values():
            members(given)
        self._calls.send(call, now, {key: Raw(given) for key, given in answers.items()})

    def reply(self, ticket: Ticket, result: bytes) -> None:
        """Answer a `ServerAsked`. `result` is an object as JSON text."""
        members(result)
        if (id := self._asks.take(ticket)) is not None:
            self._out.append(jsonrpc.response(id, result))

    def refuse(self, ticket: Ticket, error: RpcError) -> None:
        """Refuse a `ServerAsked`; -1 says that the user rejected it."""
        text(error)
        if (id := self._asks.take(ticket)) is not None:
            self._out.append(jsonrpc.error_response(id, error))

    def cancel(self, ticket: Ticket, reason: str | None = None) -> None:
        """Give up a request or a listen: no event follows, late answers are ignored."""
        said = None if reason is None else text(reason)
        call = self._calls.find(ticket)
        if call is not None:
            self._calls.withdraw(call, said)

    def tell_roots_changed(self) -> None:
        """Legacy: the roots that the server may have listed are others now. Modern servers ask each time."""
        if self._require_connection().era == "legacy":
            self._out.append(jsonrpc.notification("notifications/roots/list_changed"))

    # --- input from the server ---

    def receive_message(self, raw: bytes, now: float) -> None:
        """One whole message arrived."""
        message = jsonrpc.decode(raw, self._limits.wire)
        if isinstance(message, Malformed):
            self.receive_malformed(message, now)
        else:
            self._receive(message, now)

    def receive_malformed(self, malformed: Malformed, now: float) -> None:
        """Something arrived that cannot be read: where it was to be an answer, its request is settled."""
        if self._closed:
            return
        id = malformed.id
        call = self._calls.by_id.get(id) if malformed.is_answer and id is not None else None
        if call is not None:
            self._break(call, malformed.error.message)
            return
        self._events.append(ProtocolViolated(malformed.error.message))
        if not malformed.is_answer and id is not None and self._may_be_legacy:
            self._out.append(jsonrpc.error_response(id, malformed.error))

    def receive_eof(self, now: float) -> None:
        """The server is gone."""
        if self._closed:
            return
        if self._connected is None:
            self._settle_opening(ConnectionFailed("the server closed the connection"))
            return
        self._closed = True
        self._asks.forget()
        self._events.append(ConnectionLost(self._calls.lose()))

    def handle_timeout(self, now: float) -> None:
        """`next_deadline` has passed. Early and repeated calls do nothing."""
        for ticket in self._calls.deadlines.due(now):
            if ticket == OPENING:
                self._settle_opening(self._opening.give_up(now))
                continue
            call = self._calls.open[ticket]
            # While the server waits for us, the wait is ours: a person may be reading a form.
            if self._asks.waiting and self._calls.may_extend(call, now):
                self._calls.extend(call, now)
            else:
                self._calls.withdraw(call, _TOO_LATE)
                self._events.append(TimedOut(ticket))

    # --- output ---

    def take_messages(self) -> list[bytes]:
        """All that is to be written."""
        messages = self._out[:]
        self._out.clear()
        return messages

    def take_events(self) -> list[Event]:
        """What has happened since the last take, in order."""
        events = self._events[:]
        self._events.clear()
        return events

    def next_deadline(self) -> float | None:
        """The earliest moment at which `handle_timeout` has something to do."""
        return self._calls.deadlines.next()

    @property
    def connected(self) -> Connected | None:
        """How the server talks; None until that is known."""
        return self._connected

    @property
    def has_room(self) -> bool:
        """Whether one more request may be open."""
        return self._calls.has_room

    @property
    def closed(self) -> bool:
        """Whether the conversation is over: hang up."""
        return self._closed

    # --- messages ---

    def _receive(self, message: Message, now: float) -> None:
        if self._closed:
            return
        match message:
            case Response(id=id, result=result):
                self._response(id, result, now)
            case ErrorResponse(id=id, error=error):
                self._error(id, error, now)
            case Notification():
                self._notices.receive(message, now)
            case Request():
                self._request(message)
            case Batch():
                self._batch(message, now)
            case malformed:
                self.receive_malformed(malformed, now)

    def _batch(self, batch: Batch, now: float) -> None:
        if self._connected is None or self._connected.version != BATCHING:
            self._events.append(ProtocolViolated(f"a batch; they exist in revision {BATCHING} only"))
            return
        for message in jsonrpc.decode_batch(batch, self._limits.wire):
            if isinstance(message, Batch):
                self._events.append(ProtocolViolated("a batch inside a batch"))
            else:
                self._receive(message, now)

    @property
    def _may_be_legacy(self) -> bool:
        """Whether the server may send requests. One that does before the era is known is legacy."""
        return self._opening.may_be_legacy if self._connected is None else self._connected.era == "legacy"

    def _request(self, request: Request) -> None:
        if self._may_be_legacy:
            self._asks.receive(request)
        else:
            # "Servers MUST NOT send requests, clients MUST NOT send responses."
            problem = f"the server sent a request, {request.method[:40]!r}; only legacy servers may"
            self._events.append(ProtocolViolated(problem))

    def _response(self, id: Id, result: Raw, now: float) -> None:
        if id == self._opening.id:
            self._settle_opening(self._opening.receive(result, now))
            return
        call = self._calls.by_id.get(id)
        if call is None:
            self._stray(id)
        elif call.listening is None:
            self._result(call, result, now)
        elif self._notices.began(call):
            self._calls.settle(call)
            self._events.append(ListenEnded(call.ticket))

    def _result(self, call: Call, result: Raw, now: float) -> None:
        match self._meaning(call, result):
            case Complete():
                self._calls.settle(call)
                self._events.append(ResultReceived(call.ticket, result))
            case Wanted() as wanted:
                self._wanted(call, wanted, now)
            case broken:
                self._break(call, broken.reason)

    def _meaning(self, call: Call, result: Raw) -> Meaning:
        if not self._notices.modern:
            return read_legacy(result)
        return read_modern(call.method, result, self._asks.declared, self._limits.state_bytes)

    def _wanted(self, call: Call, wanted: Wanted, now: float) -> None:
        if call.rounds >= self._limits.rounds:
            self._break(call, f"the server asked for input more than {self._limits.rounds} times")
            return
        call.rounds += 1
        # "Send no requestState if none came": that of an earlier round does not count.
        call.state = wanted.state
        if wanted.requests:
            self._calls.await_answers(call, frozenset(wanted.requests))
            self._events.append(InputRequired(call.ticket, wanted.requests))
        else:
            self._calls.renew(call, now)

    def _error(self, id: Id | None, error: RpcError, now: float) -> None:
        if id is None:
            self._events.append(ProtocolViolated(f"the server could not read a message: {error.message}"))
            return
        if id == self._opening.id:
            self._settle_opening(self._opening.receive_error(error, now))
            return
        call = self._calls.by_id.get(id)
        if call is None:
            self._stray(id)
        elif (version := self._correction(call, error)) is not None:
            call.corrected = True
            self._calls.envelope = envelope(self._profile, version)
            self._calls.renew(call, now)
        else:
            self._calls.settle(call)
            self._events.append(ErrorReceived(call.ticket, error))

    def _correction(self, call: Call, error: RpcError) -> str | None:
        """The version to repeat a refused request with, once: -32022 names what the server takes."""
        if error.code != UNSUPPORTED_VERSION or isinstance(error.data, UnsetType):
            return None
        return shared_version(error.data) if self._notices.modern and not call.corrected else None

    def _break(self, call: Call, reason: str) -> None:
        self._calls.settle(call)
        self._events.append(ProtocolViolated(reason, call.ticket))

    def _stray(self, id: Id) -> None:
        """Late answers are ignored; answers to what was never asked are not."""
        if not self._calls.was_sent(id):
            self._events.append(ProtocolViolated("an answer to a request that was never sent"))

    # --- the connection ---

    def _settle_opening(self, outcome: Outcome | None) -> None:
        if outcome is None:
            return
        self._opening.end()
        self._events.append(outcome)
        if isinstance(outcome, ConnectionFailed):
            self._closed = True
            return
        self._connected = outcome
        self._asks.declared = self._profile.declared(outcome.version)
        if outcome.era == "modern":
            self._notices.modern = True
            self._calls.envelope = envelope(self._profile, outcome.version)

    def _require_connection(self) -> Connected:
        if self._connected is None or self._closed:
            state = "is over" if self._closed else "is not open yet: wait for Connected"
            raise LocalProtocolError(f"the connection {state}")
        return self._connected


_TOO_LATE: Final = text("timed out")
