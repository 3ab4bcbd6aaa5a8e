"""Legacy event streams: their events have ids, and a client that lost one comes back with the last it saw.

Reference: MCP 2025-03-26 to 2025-11-25, Streamable HTTP, resumability and redelivery.
"""

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from msgspec import Struct

from kvmcp.core.http import sse
from kvmcp.core.limits import Limits

_OF_A_GET: Final = "g"
_OF_A_POST: Final = "p"
"""What the names of streams begin with: what has been lost of a POST's stream cannot be made good."""


def name_of_a_get(token: str) -> str:
    return _OF_A_GET + token


def name_of_a_post(token: str) -> str:
    return _OF_A_POST + token


def is_of_a_post(stream: str) -> bool:
    return stream.startswith(_OF_A_POST)


class Kept(Struct, frozen=True):
    """What there still is of a stream behind some event: numbers and messages."""

    events: list[tuple[int, bytes]]
    ended: bool


class EventStore(Protocol):
    """Remembers the events of streams in this process, boundedly. Events are numbered from 1, per stream."""

    def begin(self, session: str, stream: str, now: float) -> None:
        """A client knows of a stream that has no event yet."""
        ...

    def keep(self, session: str, stream: str, number: int, message: bytes, now: float) -> None:
        """Remember one more event."""
        ...

    def renew(self, session: str, stream: str, now: float) -> None:
        """Nothing was written for a while, but something will be."""
        ...

    def end(self, session: str, stream: str) -> None:
        """No event will follow."""
        ...

    def after(self, session: str, stream: str, number: int, now: float) -> Kept | None:
        """The events behind `number`; None where nothing is known of such a stream of this session."""
        ...

    def forget(self, session: str) -> None:
        """A session is over."""
        ...


class Events:
    """The newest events of one stream."""

    def __init__(self) -> None:
        self.events: deque[tuple[int, bytes]] = deque()
        self.size = 0
        self.written = 0
        self.ended = False
        self.followed = False
        """Whether another process wants each new event (`SharedEvents`)."""
        self.touched = 0.0


class MemoryEventStore:
    """Events in this process: the newest of each stream, of the streams that were used last."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._streams: dict[tuple[str, str], Events] = {}
        self._of_session: dict[str, dict[str, None]] = {}
        """Streams by session, in order of their last event."""
        self.size = 0
        """Bytes kept."""

    def begin(self, session: str, stream: str, now: float) -> None:
        self._touch(session, stream, now)
        self._make_room(now)

    def keep(self, session: str, stream: str, number: int, message: bytes, now: float) -> None:
        events = self._touch(session, stream, now)
        events.written = number
        events.events.append((number, message))
        self._grow(events, len(message))
        while len(events.events) > self._limits.stored_events:
            gone, text = events.events.popleft()
            self._grow(events, -len(text))
            self.lost(session, stream, [gone])
        self._make_room(now)

    def renew(self, session: str, stream: str, now: float) -> None:
        self.begin(session, stream, now)

    def end(self, session: str, stream: str) -> None:
        events = self._streams.get((session, stream))
        if events is not None:
            events.ended = True

    def after(self, session: str, stream: str, number: int, now: float) -> Kept | None:
        self._make_room(now)
        found = self._streams.get((session, stream))
        if found is None:
            return None
        return Kept([event for event in found.events if event[0] > number], found.ended)

    def forget(self, session: str) -> None:
        for stream in list(self._of_session.get(session, ())):
            self._drop(session, stream)

    def lost(self, session: str, stream: str, numbers: list[int], *, whole: bool = False) -> None:
        """Events are kept no more; `whole`: nor is the stream. For stores that keep a copy elsewhere."""

    def _touch(self, session: str, stream: str, now: float) -> Events:
        """At the end: the streams stand in order of their last event."""
        events = self._streams.pop((session, stream), None) or Events()
        self._streams[session, stream] = events
        events.touched = now
        own = self._of_session.setdefault(session, {})
        own.pop(stream, None)
        own[stream] = None
        if len(own) > self._limits.stored_session_streams:
            self._drop(session, next(iter(own)))
        return events

    def _make_room(self, now: float) -> None:
        """Drop streams, the one whose last event is the oldest first."""
        while self._streams:
            session, stream = next(iter(self._streams))
            is_old = now - self._streams[session, stream].touched >= self._limits.stored_seconds
            is_full = (
                self.size > self._limits.stored_bytes or len(self._streams) > self._limits.stored_streams
            )
            if not is_old and not is_full:
                return
            self._drop(session, stream)

    def _grow(self, events: Events, size: int) -> None:
        events.size += size
        self.size += size

    def _drop(self, session: str, stream: str) -> None:
        events = self._streams.pop((session, stream))
        self.size -= events.size
        own = self._of_session[session]
        del own[stream]
        if not own:
            del self._of_session[session]
        self.lost(session, stream, [number for number, _ in events.events], whole=True)


class Stream:
    """One stream of a session, as long as something may still be written to it."""

    def __init__(self, session: str, name: str, store: EventStore) -> None:
        self.session = session
        self.name = name
        self.store = store
        self.written = 0
        self.ended = False
        self.reader: object | None = None
        """Who sends it to the client; None while no connection is open."""
        self.wake: Callable[[], None] | None = None
        """Tells the reader that there is more."""

    def let_go(self) -> None:
        """Whoever sends it ends its response: the client reads it elsewhere now."""
        wake, self.reader, self.wake = self.wake, None, None
        if wake is not None:
            wake()

    def write(self, messages: list[bytes], now: float) -> bytes:
        """Number and remember messages. Returns them as events."""
        events = list(enumerate(messages, self.written + 1))
        for number, message in events:
            self.store.keep(self.session, self.name, number, message, now)
        self.written += len(events)
        return self.render(events)

    def render(self, events: list[tuple[int, bytes]]) -> bytes:
        """Numbered messages as a client reads them."""
        return render(self.name, events)

    def begin(self, now: float) -> None:
        """A client is about to learn of the stream."""
        self.store.begin(self.session, self.name, now)

    def renew(self, now: float) -> None:
        """It goes on, although nothing was written for a while."""
        self.store.renew(self.session, self.name, now)

    def end(self) -> None:
        self.ended = True
        self.store.end(self.session, self.name)

    def event_id(self, number: int) -> bytes:
        return event_id(self.name, number)


def event_id(stream: str, number: int) -> bytes:
    """ "Unique per session", a cursor within one stream, and it says which."""
    return f"{stream}-{number}".encode()


def render(stream: str, events: list[tuple[int, bytes]]) -> bytes:
    """Numbered messages as a client reads them."""
    return b"".join([sse.event(message, event_id(stream, number)) for number, message in events])


def read_event_id(text: str) -> tuple[str, int] | None:
    """Stream and number of a `Last-Event-ID`, None where it is none of ours."""
    name, _, number = text.rpartition("-")
    if not name or not (number.isascii() and number.isdecimal() and len(number) < 19):
        return None
    return name, int(number)
