"""Legacy event streams: their events have ids, and a client that lost one comes back with the last it saw.

Reference: MCP 2025-03-26 to 2025-11-25, Streamable HTTP, resumability and redelivery.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from kvmcp.core.http import sse
from kvmcp.core.limits import Limits


class Kept(Struct, frozen=True):
    """What there still is of a stream behind some event: numbers and messages."""

    events: list[tuple[int, bytes]]
    ended: bool


class EventStore(Protocol):
    """Remembers the events of streams, boundedly. Events are numbered from 1, per stream.

    An implementation may pass on what it is given, and be filled with what other processes passed on, before a
    client's `Last-Event-ID` is looked up.
    """

    def keep(self, session: str, stream: str, number: int, message: bytes, now: float) -> None:
        """Remember one more event."""
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


class _Events:
    def __init__(self, limit: int) -> None:
        self.events: deque[tuple[int, bytes]] = deque(maxlen=limit)
        self.size = 0
        self.ended = False
        self.touched = 0.0

    def add(self, number: int, message: bytes) -> int:
        """Returns by how many bytes more is kept; the oldest event may have gone."""
        gone = len(self.events[0][1]) if len(self.events) == self.events.maxlen else 0
        self.events.append((number, message))
        self.size += len(message) - gone
        return len(message) - gone


class MemoryEventStore:
    """Events in this process: the newest of each stream, of the streams that were used last."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._streams: dict[tuple[str, str], _Events] = {}
        self.size = 0
        """Bytes kept."""

    def keep(self, session: str, stream: str, number: int, message: bytes, now: float) -> None:
        key = (session, stream)
        events = self._streams.pop(key, None) or _Events(self._limits.stored_events)
        self._streams[key] = events  # At the end: the streams stand in order of their last event.
        events.touched = now
        self.size += events.add(number, message)
        self._make_room(now)

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
        for key in [key for key in self._streams if key[0] == session]:
            self._drop(key)

    def _make_room(self, now: float) -> None:
        """Drop streams, the one whose last event is the oldest first."""
        while self._streams:
            key = next(iter(self._streams))
            is_old = now - self._streams[key].touched >= self._limits.stored_seconds
            is_full = (
                self.size > self._limits.stored_bytes or len(self._streams) > self._limits.stored_streams
            )
            if not is_old and not is_full:
                return
            self._drop(key)

    def _drop(self, key: tuple[str, str]) -> None:
        self.size -= self._streams.pop(key).size


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

    def write(self, messages: list[bytes], now: float) -> bytes:
        """Number and remember messages. Returns them as events."""
        events = list(enumerate(messages, self.written + 1))
        for number, message in events:
            self.store.keep(self.session, self.name, number, message, now)
        self.written += len(events)
        return self.render(events)

    def render(self, events: list[tuple[int, bytes]]) -> bytes:
        """Numbered messages as a client reads them."""
        return b"".join([sse.event(message, self.event_id(number)) for number, message in events])

    def end(self) -> None:
        self.ended = True
        self.store.end(self.session, self.name)

    def event_id(self, number: int) -> bytes:
        """ "Unique per session", a cursor within one stream, and it says which."""
        return f"{self.name}-{number}".encode()


def read_event_id(text: str) -> tuple[str, int] | None:
    """Stream and number of a `Last-Event-ID`, None where it is none of ours."""
    name, _, number = text.rpartition("-")
    if not name or not (number.isascii() and number.isdecimal() and len(number) < 19):
        return None
    return name, int(number)
