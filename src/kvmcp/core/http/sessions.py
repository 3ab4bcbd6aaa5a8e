"""What is remembered of legacy sessions between their requests. The sealed id is enough to serve one without it."""

from typing import Final, Protocol

from kvmcp.core.admission import Admitted
from kvmcp.core.deadlines import Deadlines
from kvmcp.core.http.interests import Interests
from kvmcp.core.http.relays import ENDED, Told
from kvmcp.core.http.session_ids import Opened, open_sealed, read_sealed, seal
from kvmcp.core.http.shared import Shared
from kvmcp.core.http.shared_sessions import SessionRecord, session_key, write_record
from kvmcp.core.http.streams import EventStore, Stream
from kvmcp.core.jsonrpc import ErrorResponse, Id, Response
from kvmcp.core.legacy import DEFAULT_LOG_LEVEL, LegacyDialect
from kvmcp.core.plan import Caller
from kvmcp.core.service import Service
from kvmcp.core.subscriptions import LIST_NAMES, Event, ListName, ResourceUpdated, Subscription
from kvmcp.core.telling import Wishes

_SWEPT: Final = 16
"""Sessions that one request may have to look at: enough to forget faster than new ones come."""


class Call(Protocol):
    """A POST of the session that is not answered yet."""

    def cancel(self, id: Id, now: float) -> bool:
        """The client wants no answer to its request `id`; False where it is not one of this call's."""
        ...

    def receive_answer(self, answer: Response | ErrorResponse, now: float) -> bool:
        """The client answered a request of ours; False where it is not one of this call's."""
        ...


class LegacySession:
    """One session, as far as this process has seen it."""

    def __init__(self, id: str, opened: Opened, service: Service) -> None:
        self.id = id
        self.owner: str | None = None
        """Whose it is (`Caller.identity`), once a request of theirs has shown that."""
        self.admitted: Admitted | None = None
        """Era and context of its last request that was answered here; its caller was checked."""
        self.opened = opened
        self.dialect: LegacyDialect = service.legacy(opened.version)
        self.wishes = Wishes(Subscription(service.watched))
        # "Only use capabilities that were successfully negotiated": a list that comes later is not told of.
        self.wishes.changes.lists.update(name for name in LIST_NAMES if service.catalog.offers(name))
        self.used = self.now = 0.0
        self.is_read = False
        """Whether what all processes keep of it (`SessionRecord`) is known here; where there is one, nobody asks."""
        self.calls: dict[Call, None] = {}
        self.streams: dict[str, Stream] = {}
        """Streams to which something may still be written, the one opened by GET among them."""
        self.standalone: Stream | None = None
        """The stream that a GET opened: for all that belongs to no request."""

    def admit(self, service: Service, caller: Caller) -> Admitted:
        """Era and context of a request of `caller`, whose session it was found to be."""
        if self.admitted is None or self.admitted.context.caller != caller:
            self.admitted = self.opened.admitted(service, caller)
        return self.admitted

    @property
    def is_open(self) -> bool:
        """Whether a connection or a call uses it now."""
        return bool(self.calls) or (self.standalone is not None and self.standalone.reader is not None)

    @property
    def is_configured(self) -> bool:
        """Whether its client told us something that it relies on."""
        return bool(self.wishes.changes.uris) or self.wishes.log_level != DEFAULT_LOG_LEVEL

    def publish(self, event: Event, now: float) -> None:
        """Note a change, and wake whoever has its stream."""
        self.now = now
        if (
            self.wishes.changes.note(event)
            and self.standalone is not None
            and self.standalone.wake is not None
        ):
            self.standalone.wake()


class Sessions:
    """The sessions of this process, bounded; those used last are kept."""

    def __init__(self, service: Service, store: EventStore, shared: Shared | None = None) -> None:
        self._service = service
        self._shared = shared
        self._limits = service.limits
        self.store = store
        self._live: dict[str, LegacySession] = {}
        self._by_list: Interests[ListName, LegacySession] = Interests()
        self._by_uri: Interests[str, LegacySession] = Interests()
        self._ended: dict[str, None] = {}
        """Ids that are valid by their seal, and ended all the same."""
        self._ends: Deadlines[str] = Deadlines()
        """When they expire anyway."""

    def __len__(self) -> int:
        return len(self._live)

    def open(self, settled: Admitted, now: float) -> str:
        """A new session, as `initialize` settled it; gives its id. It is remembered from its next request on."""
        assert isinstance(settled.dialect, LegacyDialect), "initialize is a legacy request"
        return seal(self._service, settled.dialect, settled.context, now)

    def find(self, id: str, caller: Caller, now: float) -> LegacySession | None:
        """The session of an id; None where it is over, or not the caller's: both are the same to a client."""
        session = self._live.get(id)
        # An id that is remembered was checked when it came first, and only the same bytes find it.
        if session is None or session.owner != caller.identity or now >= session.opened.expires:
            opened = open_sealed(self._service, id, caller, now)
            if opened is None or id in self._ended:
                return None
            # Another process may have told of it before its first request came here.
            session = session or self._remember(id, opened)
            session.owner = caller.identity
        self._touch(session, now)
        self.sweep(now)
        return session

    def of_next_call(self, id: str, caller: Caller, now: float) -> LegacySession | None:
        """The session of an id if there is nothing to find out: this process has served its caller before."""
        session = self._live.get(id)
        if session is None or session.admitted is None or session.admitted.context.caller != caller:
            return None
        if now >= session.opened.expires or (self._shared is not None and not session.is_read):
            return None
        self._touch(session, now)
        return session

    def known(self, id: str) -> LegacySession | None:
        """The session of an id if this process has to do with it."""
        return self._live.get(id)

    def is_unread(self, id: str, caller: Caller, now: float) -> bool:
        """Whether there may be more to know of a session of the caller's than this process does."""
        session = self._live.get(id)
        if self._shared is None or (session is not None and session.is_read) or id in self._ended:
            return False
        return open_sealed(self._service, id, caller, now) is not None

    def restore(self, id: str, record: SessionRecord, now: float) -> None:
        """What all processes keep of a session has been read."""
        session = self.adopt(id, now)
        if session is None or session.is_read:
            return
        session.is_read = True
        if record.ended:
            self.end(session)
            return
        wishes = session.wishes
        if wishes.log_level == DEFAULT_LOG_LEVEL:
            wishes.log_level = record.level
        for uri in set(record.uris) - wishes.changes.uris:
            wishes.changes.watch(uri)
            wishes.changes.note(ResourceUpdated(uri))  # Nobody here knows what has changed meanwhile.
        self.note_wishes(session, now)

    def adopt(self, id: str, now: float) -> LegacySession | None:
        """The session of an id that another process has checked; None where it is over."""
        opened = read_sealed(self._service, id, now)
        if opened is None or id in self._ended:
            return None
        session = self._live.get(id) or self._remember(id, opened)
        self._touch(session, now)
        self.sweep(now)
        return session

    def _remember(self, id: str, opened: Opened) -> LegacySession:
        session = self._live[id] = LegacySession(id, opened, self._service)
        self._by_list.set(session, session.wishes.changes.lists)
        return session

    def note_wishes(self, session: LegacySession, now: float) -> None:
        """What a session wants to hear of may have changed; those that want most go where all want too much."""
        if self._live.get(session.id) is not session:
            return
        self._by_uri.set(session, session.wishes.changes.uris)
        while self._by_uri.size > self._limits.watched_resources:
            self.end_everywhere(max(self._live.values(), key=_watched), now)

    def record(self, session: LegacySession, now: float, *, ended: bool = False) -> None:
        """Let all processes know, also those that begin later, what a session's client wants, or that it is over."""
        if self._shared is not None:
            wishes = session.wishes
            record = SessionRecord(wishes.log_level, tuple(wishes.changes.uris), ended)
            if ended:
                record = SessionRecord(ended=True)
            left = max(session.opened.expires - now, 1.0)
            self._shared.keep(session_key(session.id), write_record(record), left)

    def end_everywhere(self, session: LegacySession, now: float) -> None:
        """The client, or we, want no more of it, wherever it is served."""
        self.end(session)
        self.record(session, now, ended=True)
        if self._shared is not None:
            self._shared.tell(Told(session.id, ENDED))

    def _touch(self, session: LegacySession, now: float) -> None:
        """Sessions stand in order of their last use."""
        session.used = session.now = now
        self._live.pop(session.id, None)
        self._live[session.id] = session

    def end(self, session: LegacySession) -> None:
        """No more of it here. Its calls go on, as nothing cancels them."""
        self._drop(session)
        if session.standalone is not None:
            session.standalone.end()
            if session.standalone.wake is not None:
                session.standalone.wake()
        self.store.forget(session.id)
        self._ended[session.id] = None
        self._ends.set(session.id, session.opened.expires)
        if len(self._ended) > self._limits.sessions:
            oldest = next(iter(self._ended))
            del self._ended[oldest]
            self._ends.clear(oldest)

    def publish(self, event: Event, now: float) -> None:
        """Something changed; costs what there are sessions that want to know."""
        if isinstance(event, ResourceUpdated):
            interested = self._by_uri.of(event.uri)
        else:
            interested = self._by_list.of(event.name)
        for session in interested:
            session.publish(event, now)

    def sweep(self, now: float) -> None:
        """Forget the sessions that were not used for long, and the ends of those that have expired."""
        for id in self._ends.due(now):
            del self._ended[id]
        idle_since = now - self._limits.session_idle
        for _ in range(min(len(self._live), _SWEPT)):
            session = next(iter(self._live.values()))
            is_full = len(self._live) > self._limits.sessions
            if not is_full and session.used > idle_since:
                return
            if session.is_open:
                self._touch(session, now)
            else:
                self._forget(session)

    def _forget(self, session: LegacySession) -> None:
        """What the client relies on must not vanish silently: it is told 404, and initializes again.

        What all processes keep is read again when it comes back.
        """
        if session.is_configured and not session.is_read:
            self.end(session)
        else:
            self._drop(session)

    def _drop(self, session: LegacySession) -> None:
        self._live.pop(session.id, None)
        self._by_list.drop(session)
        self._by_uri.drop(session)
        session.wishes.changes.close()

    def next_deadline(self) -> float | None:
        """When `sweep` has something to do."""
        oldest = next(iter(self._live.values()), None)
        return None if oldest is None else oldest.used + self._limits.session_idle


def _watched(session: LegacySession) -> int:
    return len(session.wishes.changes.uris)
