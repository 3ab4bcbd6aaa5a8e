"""The short way of most requests: a `tools/call` that asks the store once, and is answered by one JSON body.

Nothing is built for what such a call does not do: no session, no stream, no timer. It is begun here if its head
leaves nothing to refuse and its params nothing to decide; whatever differs is left untouched to the general way
(`admission`, `legacy_requests`), so that every refusal is worded there, once. A call that turns out to need more
while it runs, because its handler plans more or because something happens to it (a cancellation, a lost connection,
a deadline, the end), is handed over to a session, which goes on with it as if it had been there from the start.
"""

from collections.abc import Callable, Sequence
from typing import Final, cast

import msgspec
from msgspec import UNSET, Raw

from kvmcp.core.admission import Admitted
from kvmcp.core.commands import Command, RunBatch, Said, Ticket
from kvmcp.core.errors import LocalProtocolError
from kvmcp.core.exchange import Exchange
from kvmcp.core.exchanges import Exchanges
from kvmcp.core.http.answers import ModernAnswer, nobody_to_wake
from kvmcp.core.http.heads import PlainPost
from kvmcp.core.http.legacy_answers import LegacyAnswer
from kvmcp.core.http.legacy_requests import LegacyRequests
from kvmcp.core.http.messages import Part, json_response
from kvmcp.core.http.sessions import LegacySession, Sessions
from kvmcp.core.jsonrpc import ErrorResponse, Id, Request, Response
from kvmcp.core.modern import envelope_version, read_envelope
from kvmcp.core.plan import Answer, AskBackend, Caller, Context, Plan
from kvmcp.core.service import Service
from kvmcp.core.session import ServerSession
from kvmcp.core.subscriptions import Event
from kvmcp.core.task_states import TaskId
from kvmcp.core.tasks import Tasks
from kvmcp.core.versions import LEGACY
from kvmcp.core.wire.params import CallParams

_METHOD: Final = "tools/call"
_TICKET: Final[Ticket] = 1
"""Of the one batch of a call; a session gives its first batch the same."""

REMEMBERED_ENVELOPES: Final = 256
"""As many as heads: a client repeats one envelope with all its requests."""
REMEMBERED_BYTES: Final = 1024
"""Of an envelope that is remembered; a plain one has 200."""

_decode_call = msgspec.json.Decoder(CallParams).decode
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError)
_NO_ARGUMENTS: Final = Raw(b"{}")


class PlainCalls:
    """Begins the calls that leave nothing to decide. `resumable` ones are streams in the legacy era: never plain."""

    def __init__(
        self, service: Service, sessions: Sessions, legacy: LegacyRequests, tasks: Tasks, *, resumable: bool
    ) -> None:
        self._service = service
        self._catalog = service.catalog
        self._limits = service.limits
        self._sessions = sessions
        self._legacy = legacy
        self._tasks = tasks
        self._resumable = resumable
        self._envelopes: dict[bytes, Admitted] = {}
        self.patience = min(self._limits.keep_alive, self._limits.backend_timeout)
        """Seconds that a call may wait before a session has to look after it."""

    def begin(self, head: PlainPost, request: Request, caller: Caller, now: float) -> "PlainAnswer | None":
        """The response to a request, None where it is not plain. `head` is that of its POST."""
        if request.method != _METHOD or self._service.caller_of is not None:
            return None
        try:
            params = _decode_call(request.params)
            tool = self._catalog.tool(params.name)
            if tool is None or tool.task_support != "forbidden" or _is_resumed(params):
                return None
            arguments = tool.arguments.decode(params.arguments or _NO_ARGUMENTS)
        except _UNREADABLE:
            return None
        home: LegacySession | None = None
        if params.meta:
            admitted = self._modern(head, params, caller)
        else:
            home = self._home(head, caller, now)
            admitted = None if home is None else home.admitted
        if admitted is None:
            return None
        exchange = Exchange(
            request.id, _METHOD, request.params, admitted.dialect, admitted.context, tool.continuations
        )
        answer = PlainAnswer(self, exchange, home, now)
        try:
            plan = tool.plan(arguments, admitted.context)
        except Exception as error:  # noqa: BLE001  # whatever a handler raises becomes an answer and a report
            answer.fail(error)
        else:
            answer.carry_out(plan)
        return answer

    def _modern(self, head: PlainPost, params: CallParams, caller: Caller) -> Admitted | None:
        """Era and context of a call whose envelope and headers agree; None where anything is to be said of them."""
        if head.method != _METHOD or head.name != params.name or self._catalog.mirrors(params.name):
            return None
        meta = bytes(params.meta)
        admitted = self._envelopes.get(meta)
        if admitted is None or admitted.context.caller != caller:
            admitted = self._read_envelope(meta, caller)
        return (
            admitted if admitted is not None and head.version == admitted.context.protocol_version else None
        )

    def _read_envelope(self, meta: bytes, caller: Caller) -> Admitted | None:
        raw = Raw(meta)
        try:
            context = None if envelope_version(raw) is None else read_envelope(raw, caller)
        except _UNREADABLE:
            return None
        if not isinstance(context, Context):
            return None
        admitted = Admitted(self._service.modern, context)
        if len(meta) <= REMEMBERED_BYTES:
            if len(self._envelopes) >= REMEMBERED_ENVELOPES:
                self._envelopes.clear()
            self._envelopes[meta] = admitted
        return admitted

    def _home(self, head: PlainPost, caller: Caller, now: float) -> LegacySession | None:
        if self._resumable or head.session is None:
            return None
        if head.version is not None and head.version not in LEGACY:
            return None
        return self._sessions.of_next_call(head.session, caller, now)

    def hand_over(
        self, exchange: Exchange, home: LegacySession | None, since: float
    ) -> ModernAnswer | LegacyAnswer:
        """The answer of a session that knows of no request yet, for one that goes on with a call begun at `since`."""
        caller = exchange.context.caller
        if home is not None:
            return self._legacy.new_answer(home, caller, since)
        session = ServerSession(self._service, caller, tasks=self._tasks)
        return ModernAnswer(session, exchange.id, self._limits, since)


def _is_resumed(params: CallParams) -> bool:
    return len(params.input_responses) > 0 or params.request_state is not UNSET


class PlainAnswer:
    """The response to a call that waits for the store, or has its answer; what else happens is for a session."""

    def __init__(self, calls: PlainCalls, exchange: Exchange, home: LegacySession | None, now: float) -> None:
        self.wake: Callable[[], None] = nobody_to_wake
        self.streams = False
        self._calls = calls
        self._exchange = exchange
        self._home = home
        self._since = now
        self._asked: AskBackend | None = None
        self._is_taken = False
        """Whether the driver has the batch."""
        self._is_settled = False
        self._message = b""
        """The answer, until it is taken."""
        self._general: ModernAnswer | LegacyAnswer | None = None
        """Who goes on with the call."""
        if home is not None:
            home.calls[self] = None

    # --- the call ---

    def carry_out(self, plan: Plan) -> None:
        """What its handler has planned."""
        if type(plan) is AskBackend:
            self._asked = plan
        else:
            self._hand_over().carry_out(self._exchange, plan)

    def fail(self, error: Exception) -> None:
        """Its handler has raised."""
        exchanges = self._hand_over()
        exchanges.carry_out(self._exchange, exchanges.failed(self._exchange.method, error))

    def take_commands(self) -> list[Command]:
        if self._general is not None:
            return self._general.take_commands()
        if self._is_taken or self._asked is None:
            return []
        self._is_taken = True
        return [RunBatch(_TICKET, self._asked.ops)]

    def complete(self, ticket: Ticket, outcome: object, now: float) -> None:
        asked = self._asked
        if self._general is not None or asked is None or not isinstance(outcome, list):
            self._more().complete(ticket, outcome, now)
            return
        replies = cast(list[object], outcome)
        if ticket != _TICKET or not self._is_taken or len(replies) != len(asked.ops):
            self._more().complete(ticket, replies, now)
        else:
            self._resume(asked, tuple(replies), now)

    def _resume(self, asked: AskBackend, replies: Sequence[object], now: float) -> None:
        exchange = self._exchange
        try:
            plan = asked.then.resume(replies, exchange.context)
            if type(plan) is Answer:
                self._settle(exchange.dialect.render(exchange.id, plan.result))
                return
        except Exception as error:  # noqa: BLE001  # as in `PlainCalls.begin`
            self.fail(error)
            return
        exchanges = self._hand_over()
        exchanges.now = now
        exchanges.mint()  # The ticket of the batch that is over.
        exchanges.carry_out(exchange, plan)

    def _settle(self, message: bytes) -> None:
        self._is_settled, self._message, self._asked = True, message, None
        if self._home is not None:
            del self._home.calls[self]

    def _hand_over(self) -> Exchanges:
        """From now on a session goes on with the call; its requests, without this one."""
        general = self._general = self._calls.hand_over(self._exchange, self._home, self._since)
        general.wake = self._wake_self
        if self._home is not None:
            del self._home.calls[self]
        general.exchanges.now = self._since
        return general.exchanges

    def _more(self) -> ModernAnswer | LegacyAnswer:
        """Who goes on with the call while the store has its batch."""
        if self._general is None:
            if self._asked is None:
                raise LocalProtocolError("a call that is answered waits for nothing")
            exchanges = self._hand_over()
            exchanges.ask_backend(self._exchange, self._asked)
            if self._is_taken:
                exchanges.take_commands()  # The driver has this one, with the same ticket.
            assert self._general is not None, "it was handed over"
        return self._general

    @property
    def is_alone(self) -> bool:
        """Whether no session has to do with it."""
        return self._general is None

    def _wake_self(self) -> None:
        self.wake()

    # --- the response ---

    def take_parts(self) -> list[Part]:
        if self._general is not None:
            return self._general.take_parts()
        if not self._message:
            return []
        message, self._message = self._message, b""
        return json_response(200, message)

    @property
    def closed(self) -> bool:
        return self._is_settled and not self._message if self._general is None else self._general.closed

    # --- what may happen to it ---

    def disconnected(self, now: float) -> None:
        if self._is_settled:
            self._message = b""
        else:
            self._more().disconnected(now)

    def begin_shutdown(self, now: float) -> None:
        if not self._is_settled:
            self._more().begin_shutdown(now)

    def handle_timeout(self, now: float) -> None:
        deadline = self.next_deadline()
        if deadline is not None and now >= deadline:
            self._more().handle_timeout(now)

    def next_deadline(self) -> float | None:
        if self._general is not None:
            return self._general.next_deadline()
        return None if self._is_settled else self._since + self._calls.patience

    def cancel(self, id: Id, now: float) -> bool:
        """The client of a legacy session wants no answer any more."""
        if id != self._exchange.id:
            return False
        general = self._more()
        assert isinstance(general, LegacyAnswer), "only legacy sessions cancel so"
        return general.cancel(id, now)

    def receive_answer(self, answer: Response | ErrorResponse, now: float) -> bool:
        """It has asked its client nothing."""
        return False

    def tell(self, ticket: Ticket, said: Said, now: float) -> None:
        self._more().tell(ticket, said, now)

    def publish(self, event: Event, now: float) -> bool:
        return self._general is not None and self._general.publish(event, now)

    def note_task(self, id: TaskId) -> bool:
        return self._general is not None and self._general.note_task(id)

    @property
    def wants_turn(self) -> bool:
        return self._general is not None and self._general.wants_turn
