"""What becomes of a legacy request, once its era is known: the session is found, the message finds its reader.

Reference: MCP 2025-03-26 to 2025-11-25, Streamable HTTP.
"""

from typing import Final

from kvmcp.core.errors import INVALID_REQUEST, RpcError
from kvmcp.core.http import agreement
from kvmcp.core.http.admission import Refused
from kvmcp.core.http.answers import Answer, Fixed, refusal, refuse
from kvmcp.core.http.headers import Headers
from kvmcp.core.http.legacy_answers import LegacyAnswer, StreamAnswer
from kvmcp.core.http.messages import BodyPart, empty_response, events_start, json_response
from kvmcp.core.http.relays import ENDED, Relay, concerns_all, rendered
from kvmcp.core.http.sessions import LegacySession, Sessions
from kvmcp.core.http.streams import Stream, read_event_id
from kvmcp.core.jsonrpc import (
    Batch,
    ErrorResponse,
    Id,
    Malformed,
    Message,
    Notification,
    Request,
    Response,
    decode,
    decode_batch,
)
from kvmcp.core.modern import unsupported_version
from kvmcp.core.plan import Caller
from kvmcp.core.service import Service
from kvmcp.core.session import ServerSession, cancelled_id
from kvmcp.core.versions import BATCHING, LEGACY

SESSION: Final = b"mcp-session-id"
_LAST_EVENT: Final = b"last-event-id"

_STANDALONE: Final = "g"
_OF_A_POST: Final = "p"
"""What the names of streams begin with: what has been lost of a POST's stream cannot be made good."""


class LegacyRequests:
    """Answers POST, GET and DELETE of the legacy era."""

    def __init__(
        self, service: Service, sessions: Sessions, *, replicated: bool = False, resumable: bool = False
    ) -> None:
        self._service = service
        self._limits = service.limits
        self._sessions = sessions
        self._replicated = replicated
        self._resumable = resumable
        self.relays: list[Relay] = []
        """What the other processes are to be told; nothing where there are none."""

    # --- POST ---

    def post(self, headers: Headers, message: Message, caller: Caller, now: float) -> Answer:
        if isinstance(message, Request) and message.method == "initialize" and headers.get(SESSION) is None:
            return self._initialize(message, caller, now)
        id = message.id if isinstance(message, Request) else None
        session = self._find(headers, caller, now, id)
        if isinstance(session, Fixed):
            return session
        match message:
            case Request():
                return self._call(session, [message], caller, now)
            case Batch():
                return self._batch(session, message, caller, now)
            case _:
                self._deliver(session, message, now)
                return Fixed(empty_response(202))

    def _initialize(self, request: Request, caller: Caller, now: float) -> Fixed:
        session = ServerSession(self._service, caller)
        session.receive(request, now)
        [reply] = session.take_messages()
        if session.legacy is None:
            return Fixed(json_response(200, reply))
        id = self._sessions.open(session.legacy, now)
        return Fixed(json_response(200, reply, (SESSION, id.encode())))

    def _find(
        self, headers: Headers, caller: Caller, now: float, id: Id | None = None
    ) -> LegacySession | Fixed:
        """The session that a request names, or why it cannot be served."""
        version = headers.get(agreement.VERSION)
        if version is not None and version not in LEGACY:
            return refusal(Refused(unsupported_version(version), id))
        named = headers.get(SESSION)
        if named is None or headers.is_repeated(SESSION):
            return refuse(400, "Mcp-Session-Id must be there once; initialize gives one", id=id)
        session = self._sessions.find(named, caller, now)
        if session is None:
            return refuse(404, "no such session; initialize again", id=id)
        return session

    def _batch(self, session: LegacySession, batch: Batch, caller: Caller, now: float) -> Answer:
        if session.opened.version != BATCHING:
            return refuse(400, f"batches exist in revision {BATCHING} only; send one message at a time")
        if not batch.messages:
            return refuse(400, "a batch must hold at least one message")
        asked: list[Request | Malformed] = []
        for message in decode_batch(batch, self._limits):
            if isinstance(message, Batch):
                asked.append(Malformed(RpcError(INVALID_REQUEST, "a batch inside a batch")))
            elif isinstance(message, Request | Malformed):
                asked.append(message)
            else:
                self._deliver(session, message, now)
        if not asked:
            return Fixed(empty_response(202))
        return self._call(session, asked, caller, now, batch=True)

    def _call(
        self,
        home: LegacySession,
        asked: "list[Request] | list[Request | Malformed]",
        caller: Caller,
        now: float,
        *,
        batch: bool = False,
    ) -> LegacyAnswer:
        name = self._service.token()
        admitted = home.opened.admitted(self._service, caller)
        session = ServerSession(self._service, caller, legacy=admitted, wishes=home.wishes, name=name)
        stream = Stream(home.id, _OF_A_POST + name, self._sessions.store)
        answer = LegacyAnswer(
            session, home, stream, self._limits, now, batch=batch, resumable=self._resumable
        )
        for message in asked:
            session.receive(message, now)
            if isinstance(message, Request) and concerns_all(message):
                self._relay(home, rendered(message))
        return answer

    def _deliver(self, session: LegacySession, message: Message, now: float) -> None:
        """A notification or an answer, for whichever call of the session it is about, here or elsewhere."""
        if isinstance(message, Response | ErrorResponse):
            if not self._receive_answer(session, message, now):
                self._relay(session, rendered(message))
        elif isinstance(message, Notification) and concerns_all(message):
            self._cancel(session, message, now)
            self._relay(session, rendered(message))

    def _receive_answer(self, session: LegacySession, answer: Response | ErrorResponse, now: float) -> bool:
        return any(call.receive_answer(answer, now) for call in list(session.calls))

    def _cancel(self, session: LegacySession, notification: Notification, now: float) -> None:
        id = cancelled_id(notification, self._limits)
        if id is not None:
            for call in list(session.calls):
                call.cancel(id, now)

    # --- other processes ---

    def _relay(self, session: LegacySession, message: bytes) -> None:
        if self._replicated:
            self.relays.append(Relay(session.id, message))

    def receive_relay(self, relay: Relay, now: float) -> None:
        """Another process was told something that may be about a call, or the stream, of this one."""
        session = self._sessions.adopt(relay.session, now)
        if session is None:
            return
        if relay.message == ENDED:
            self._end(session)
            return
        match decode(relay.message, self._limits):
            case Request() as request:
                admitted = session.opened.admitted(self._service, Caller())
                ServerSession(self._service, legacy=admitted, wishes=session.wishes).receive(request, now)
            case Notification() as notification:
                self._cancel(session, notification, now)
            case Response() | ErrorResponse() as answer:
                self._receive_answer(session, answer, now)
            case _:
                pass  # Nothing that `rendered` writes.

    # --- DELETE ---

    def delete(self, headers: Headers, caller: Caller, now: float) -> Answer:
        """ "DELETE … to explicitly terminate the session"; its calls go on, as nothing cancels them."""
        session = self._find(headers, caller, now)
        if isinstance(session, Fixed):
            return session
        self._end(session)
        self._relay(session, ENDED)
        return Fixed(empty_response(204))

    def _end(self, session: LegacySession) -> None:
        self._sessions.end(session)
        if session.standalone is not None:
            session.standalone.end()
            if session.standalone.wake is not None:
                session.standalone.wake()

    # --- GET ---

    def get(self, headers: Headers, caller: Caller, now: float) -> Answer:
        session = self._find(headers, caller, now)
        if isinstance(session, Fixed):
            return session
        last = headers.get(_LAST_EVENT)
        if not last:
            return self._open_stream(session, now)
        read = read_event_id(last)
        if read is None:
            return refuse(400, "Last-Event-ID is none of ours")
        return self._resume(session, *read, now)

    def _open_stream(self, session: LegacySession, now: float) -> Answer:
        stream = session.standalone
        if stream is None:
            stream = Stream(session.id, _STANDALONE + self._service.token(), self._sessions.store)
            session.standalone = session.streams[stream.name] = stream
        if stream.reader is not None:
            return refuse(409, "this session has a stream already; resume it with Last-Event-ID")
        return StreamAnswer(session, stream, stream.written, self._sessions.store, self._limits, now)

    def _resume(self, session: LegacySession, name: str, seen: int, now: float) -> Answer:
        store = self._sessions.store
        stream = session.streams.get(name)
        if stream is not None:
            return StreamAnswer(session, stream, seen, store, self._limits, now)
        kept = store.after(session.id, name, seen, now)
        if kept is not None:
            data = Stream(session.id, name, store).render(kept.events)
            return Fixed([events_start(), BodyPart(data)])
        # What was opened by a GET only told of changes: a new one begins where the lost one ended.
        if name.startswith(_STANDALONE):
            return self._open_stream(session, now)
        return refuse(400, "what Last-Event-ID names is not kept any more")
