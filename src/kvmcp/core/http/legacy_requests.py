"""What becomes of a legacy request, once its era is known: the session is found, the message finds its reader.

Reference: MCP 2025-03-26 to 2025-11-25, Streamable HTTP.
"""

from collections.abc import Callable
from typing import Final

from kvmcp.core.errors import INVALID_REQUEST, RpcError
from kvmcp.core.http import agreement
from kvmcp.core.http.admission import Refused
from kvmcp.core.http.answers import Answer, Fixed, refusal, refuse
from kvmcp.core.http.headers import Headers
from kvmcp.core.http.legacy_answers import PRIMING, LegacyAnswer, StreamAnswer
from kvmcp.core.http.messages import BodyPart, empty_response, events_start, json_response
from kvmcp.core.http.relays import ENDED, WISHES, Follow, Told, Written, cancels, rendered
from kvmcp.core.http.remote_streams import RemoteStream
from kvmcp.core.http.sessions import LegacySession, Sessions
from kvmcp.core.http.shared import Shared
from kvmcp.core.http.shared_events import SharedEvents
from kvmcp.core.http.shared_sessions import AfterRecord, SessionRecord
from kvmcp.core.http.streams import (
    Kept,
    Stream,
    is_of_a_post,
    name_of_a_get,
    name_of_a_post,
    read_event_id,
    render,
)
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

_LAST_EVENT: Final = b"last-event-id"


class LegacyRequests:
    """Answers POST, GET and DELETE of the legacy era. `shared` is there where other processes serve them, too."""

    def __init__(
        self, service: Service, sessions: Sessions, shared: Shared | None, *, resumable: bool = False
    ) -> None:
        self._service = service
        self._limits = service.limits
        self._sessions = sessions
        self._shared = shared
        self._resumable = resumable
        self._remote: dict[tuple[str, str], RemoteStream] = {}
        """Streams that clients read here and other processes write; each has an open request."""

    # --- POST ---

    def post(self, headers: Headers, message: Message, caller: Caller, now: float) -> Answer:
        if (
            isinstance(message, Request)
            and message.method == "initialize"
            and headers.get(agreement.SESSION) is None
        ):
            return self._initialize(message, caller, now)
        return self._knowing(headers, caller, now, lambda at: self._post(headers, message, caller, at))

    def _post(self, headers: Headers, message: Message, caller: Caller, now: float) -> Answer:
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
        return Fixed(json_response(200, reply, (agreement.SESSION, id.encode())))

    def _knowing(
        self,
        headers: Headers,
        caller: Caller,
        now: float,
        answer: Callable[[float], Answer],
        *,
        streams: bool = False,
    ) -> Answer:
        """`answer` at once, or when what other processes know of the session has been read."""
        id = headers.get(agreement.SESSION)
        if self._shared is None or id is None or not self._sessions.is_unread(id, caller, now):
            return answer(now)

        def then(record: SessionRecord | None, at: float) -> Answer:
            if record is not None:  # If it cannot be read, the next request tries again.
                self._sessions.restore(id, record, at)
            return answer(at)

        return AfterRecord(self._shared, id, then, self._limits, now, streams=streams)

    def _find(
        self, headers: Headers, caller: Caller, now: float, id: Id | None = None
    ) -> LegacySession | Fixed:
        """The session that a request names, or why it cannot be served."""
        version = headers.get(agreement.VERSION)
        if version is not None and version not in LEGACY:
            return refusal(Refused(unsupported_version(version), id))
        named = headers.get(agreement.SESSION)
        if named is None or headers.is_repeated(agreement.SESSION):
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
        answer = self.new_answer(home, caller, now, batch=batch)
        for message in asked:
            answer.receive(message, now)
            if isinstance(message, Request) and message.method in WISHES:
                self._sessions.record(home, now)
                self._sessions.note_wishes(home, now)
                self._relay(home, rendered(message))
        return answer

    def new_answer(
        self, home: LegacySession, caller: Caller, now: float, *, batch: bool = False
    ) -> LegacyAnswer:
        """The response to a POST of a session, before anything of it was received."""
        name = self._service.token()
        admitted = home.admit(self._service, caller)
        session = ServerSession(self._service, caller, legacy=admitted, wishes=home.wishes, name=name)
        stream = Stream(home.id, name_of_a_post(name), self._sessions.store)
        return LegacyAnswer(session, home, stream, self._limits, now, batch=batch, resumable=self._resumable)

    def _deliver(self, session: LegacySession, message: Message, now: float) -> None:
        """A notification or an answer, for whichever call of the session it is about, here or elsewhere."""
        if isinstance(message, Response | ErrorResponse):
            is_known = message.id is None or _receive_answer(session, message, now)
        elif isinstance(message, Notification) and cancels(message):
            is_known = self._cancel(session, message, now)
        else:
            return  # All others need no reaction, or none that another process could have.
        if not is_known:
            self._relay(session, rendered(message))

    def _cancel(self, session: LegacySession, notification: Notification, now: float) -> bool:
        """Whether there is nothing more to look for."""
        id = cancelled_id(notification, self._limits)
        if id is None:
            return True
        found = [call.cancel(id, now) for call in list(session.calls)]
        return any(found)

    # --- other processes ---

    def _relay(self, session: LegacySession, message: bytes) -> None:
        if self._shared is not None:
            self._shared.tell(Told(session.id, message))

    def told(self, told: Told, now: float) -> None:
        """Another process was told something that may be about a call, or the stream, of this one."""
        message = decode(told.message, self._limits) if told.message != ENDED else None
        if message is None or isinstance(message, Request):
            self._told_for_all(told.session, message, now)
            return
        session = self._sessions.known(told.session)
        if session is None:
            return  # No call of it can be waiting here.
        if isinstance(message, Notification):
            self._cancel(session, message, now)
        elif isinstance(message, Response | ErrorResponse):
            _receive_answer(session, message, now)

    def _told_for_all(self, id: str, wish: Request | None, now: float) -> None:
        """What holds for all that is still to come of a session: its end, or what its client wants to hear of."""
        session = self._sessions.adopt(id, now)
        if session is None:
            return
        if wish is None:
            self._sessions.end(session)
        elif wish.method in WISHES:
            # That process has checked on whose behalf the request came; the id says in which namespace.
            admitted = session.opened.admitted(self._service, Caller(namespace=session.opened.namespace))
            ServerSession(self._service, legacy=admitted, wishes=session.wishes).receive(wish, now)
            self._sessions.note_wishes(session, now)

    def follow(self, wanted: Follow, now: float) -> None:
        """Another process has a client that goes on with a stream."""
        store, session = self._sessions.store, self._sessions.known(wanted.session)
        if isinstance(store, SharedEvents):
            store.follow(wanted, now)
        if not wanted.anew:
            return
        if session is not None and wanted.stream in session.streams:
            session.streams[wanted.stream].let_go()
        self._give_way(wanted.session, wanted.stream)

    def written(self, written: Written) -> None:
        """The process that writes a stream has told of it."""
        reader = self._remote.get((written.session, written.stream))
        if reader is not None:
            reader.told(written)

    def _give_way(self, session: str, stream: str) -> None:
        before = self._remote.pop((session, stream), None)
        if before is not None:
            before.give_way()

    def _left(self, reader: RemoteStream) -> None:
        key = (reader.wanted.session, reader.wanted.stream)
        if self._remote.get(key) is reader:
            del self._remote[key]

    # --- DELETE ---

    def delete(self, headers: Headers, caller: Caller, now: float) -> Answer:
        """ "DELETE … to explicitly terminate the session"."""
        return self._knowing(headers, caller, now, lambda at: self._delete(headers, caller, at))

    def _delete(self, headers: Headers, caller: Caller, now: float) -> Answer:
        session = self._find(headers, caller, now)
        if isinstance(session, Fixed):
            return session
        self._sessions.end_everywhere(session, now)
        return Fixed(empty_response(204))

    # --- GET ---

    def get(self, headers: Headers, caller: Caller, now: float) -> Answer:
        return self._knowing(headers, caller, now, lambda at: self._get(headers, caller, at), streams=True)

    def _get(self, headers: Headers, caller: Caller, now: float) -> Answer:
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

    def _open_stream(self, session: LegacySession, now: float, replayed: bytes = b"") -> Answer:
        stream = session.standalone
        if stream is None:
            stream = Stream(session.id, name_of_a_get(self._service.token()), self._sessions.store)
            session.standalone = session.streams[stream.name] = stream
        if stream.reader is not None:
            return refuse(409, "this session has a stream already; resume it with Last-Event-ID")
        store, limits = self._sessions.store, self._limits
        return StreamAnswer(session, stream, stream.written, store, limits, now, replayed)

    def _resume(self, session: LegacySession, name: str, seen: int, now: float) -> Answer:
        store = self._sessions.store
        stream = session.streams.get(name)
        if stream is not None:
            return StreamAnswer(session, stream, seen, store, self._limits, now)
        kept = store.after(session.id, name, seen, now)
        if not is_of_a_post(name):
            return self._resume_changes(session, kept, name, now)
        if kept is not None:
            return Fixed([events_start(), BodyPart(render(name, kept.events))])
        if self._shared is not None:
            return self._resume_elsewhere(
                self._shared, session, Follow(session.id, name, seen, anew=True), now
            )
        return refuse(400, "what Last-Event-ID names is not kept any more")

    def _resume_changes(self, session: LegacySession, kept: Kept | None, name: str, now: float) -> Answer:
        """What was opened by a GET only told of changes: a new one begins where the lost one ended.

        Where nothing is known of the lost one, nobody knows what the client has not heard: it hears of all.
        """
        if kept is None:
            session.wishes.changes.note_all()
        return self._open_stream(session, now, b"" if kept is None else render(name, kept.events))

    def _resume_elsewhere(self, shared: Shared, session: LegacySession, wanted: Follow, now: float) -> Answer:
        self._give_way(wanted.session, wanted.stream)
        primed = session.opened.version >= PRIMING
        reader = RemoteStream(shared, wanted, self._limits, now, primed=primed, left=self._left)
        self._remote[wanted.session, wanted.stream] = reader
        return reader


def _receive_answer(session: LegacySession, answer: Response | ErrorResponse, now: float) -> bool:
    return any(call.receive_answer(answer, now) for call in list(session.calls))
