"""Responses of the legacy era: to a POST with requests, and to a GET that opens or resumes a stream.

A lost connection is no cancellation: the work goes on, and a client that has an event id comes back for the rest.
"""

from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Struct

from kvmcp.core.commands import HangUp, Said, Ticket
from kvmcp.core.errors import INVALID_REQUEST, RpcError
from kvmcp.core.http import sse
from kvmcp.core.http.answers import Quiet, SessionAnswer, SilenceTimer, earliest, nobody_to_wake
from kvmcp.core.http.messages import BodyPart, Part, events_start, json_response
from kvmcp.core.http.sessions import LegacySession
from kvmcp.core.http.streams import EventStore, Stream
from kvmcp.core.jsonrpc import ErrorResponse, Id, Malformed, Request, Response
from kvmcp.core.limits import Limits
from kvmcp.core.session import ServerSession

PRIMING: Final = "2025-11-25"
"""Since then a stream begins with an event that has no data; before, it would break clients."""


class _Head(Struct):
    method: str = ""


_decode_head = msgspec.json.Decoder(_Head).decode


def _is_answer(message: bytes) -> bool:
    return not _decode_head(message).method


class LegacyAnswer(SessionAnswer):
    """The response to a POST with one request, or with a batch that holds some.

    A `resumable` one is a stream from the start, so that its client has an event id to come back with.
    """

    def __init__(
        self,
        session: ServerSession,
        home: LegacySession,
        stream: Stream,
        limits: Limits,
        now: float,
        *,
        batch: bool = False,
        resumable: bool = False,
    ) -> None:
        super().__init__(session, limits, now)
        self._home = home
        self._stream = stream
        self._limits = limits
        self._batch = batch
        self._resumable = resumable
        self.streams = False
        self._begun = False
        self._connected = True
        self._leaving = False
        self._closed = False
        self._renew_every = limits.stored_seconds / 3
        self._renew_at: float | None = None
        self._gathered: list[bytes] = []
        home.calls[self] = None

    def receive(self, message: Request | Malformed, now: float) -> None:
        """A message of the POST. What the answers of a batch may weigh is bounded: a hundred bytes ask for a list."""
        if sum(map(len, self._gathered)) <= self._limits.output_bytes:
            self._session.receive(message, now)
        elif message.id is not None:
            problem = (
                f"the answers to this batch are above {self._limits.output_bytes} bytes, which is the limit"
            )
            self._session.refuse(message.id, RpcError(INVALID_REQUEST, problem))
        if self._batch:
            self._gathered += self._session.take_messages()

    # --- what other requests of the session bring ---

    def cancel(self, id: Id, now: float) -> bool:
        if id not in self._session.exchanges.open:
            return False
        self._session.cancel(id, now)
        self.wake()
        return True

    def receive_answer(self, answer: Response | ErrorResponse, now: float) -> bool:
        """The client answered a request of ours; False where it is not one of this call's."""
        if not self._session.asking.awaits(answer.id):
            return False
        self._session.receive(answer, now)
        self.wake()
        return True

    # --- what comes of its own ---

    def tell(self, ticket: Ticket, said: Said, now: float) -> None:
        super().tell(ticket, said, now)
        if isinstance(said, HangUp) and self._home.opened.version >= PRIMING:
            self._leaving = self._connected

    def disconnected(self, now: float) -> None:
        """ "Disconnection SHOULD NOT be interpreted as the client cancelling its request"."""
        self._leave()
        if not self._begun:
            self._session.lose_client(now)  # Without an event id it cannot come back to be asked.

    def _leave(self) -> None:
        self._connected = False
        if self._stream.reader is self:
            self._stream.reader = self._stream.wake = None

    # --- the response ---

    def take_parts(self) -> list[Part]:
        if self._closed:
            return []
        messages = self._gathered + self._session.take_messages()
        self._gathered = []
        self._closed = self._settled
        if self._closed:
            self._home.calls.pop(self, None)
        if self._begun:
            return self._go_on(messages)
        if not self._connected:
            return []
        if self._closed and messages and not self._resumable and all(map(_is_answer, messages)):
            return json_response(200, b"[%b]" % b",".join(messages) if self._batch else messages[0])
        if messages or self._closed or self._leaving or self._resumable or self._silence.is_due:
            return [events_start(), *self._begin(messages)]
        return []

    def _begin(self, messages: list[bytes]) -> list[Part]:
        self._begun = True
        self._stream.begin(self._session.exchanges.now)
        self._renew_at = self._session.exchanges.now + self._renew_every
        self._stream.reader = self
        self._stream.wake = self.wake
        self._home.streams[self._stream.name] = self._stream
        primed = b""
        if self._home.opened.version >= PRIMING:
            primed = sse.priming(self._stream.event_id(0), self._limits.retry_ms)
        return self._go_on(messages, primed)

    def _go_on(self, messages: list[bytes], primed: bytes = b"") -> list[Part]:
        """Write to the stream; what of it goes out here."""
        data = primed + self._stream.write(messages, self._session.exchanges.now)
        if self._closed:
            self._stream.end()
            del self._home.streams[self._stream.name]
        if self._stream.reader is not self:
            return self._hand_over()
        data += self._silence.take()
        more = not (self._closed or self._leaving)
        if not more:
            self._leave()
        self._leaving = False
        return [BodyPart(data, more)] if data or not more else []

    def _hand_over(self) -> list[Part]:
        """What was written is read elsewhere, or later; if the client came back, this connection ends."""
        if self._stream.wake is not None:
            self._stream.wake()
        was_connected, self._connected = self._connected, False
        return [BodyPart(b"")] if was_connected else []

    def next_deadline(self) -> float | None:
        if self._closed:
            return None
        silent_at = self._silence.due_at if self._connected else None
        return earliest(self._session.next_deadline(), silent_at, self._renew_at)

    def handle_timeout(self, now: float) -> None:
        super().handle_timeout(now)
        if self._renew_at is not None and now >= self._renew_at:
            self._renew_at = now + self._renew_every
            self._stream.renew(now)

    @property
    def closed(self) -> bool:
        return self._closed


class StreamAnswer(Quiet):
    """The response to a GET: a stream that is written to by whoever has something to say.

    The one that a GET opened itself (`standalone`) tells of changes; one that a POST began goes on here when
    its first connection was lost. `seen` is the number of the last event that the client has, `replayed` are
    events of an earlier stream that this one goes on with.
    """

    def __init__(
        self,
        home: LegacySession,
        stream: Stream,
        seen: int,
        store: EventStore,
        limits: Limits,
        now: float,
        replayed: bytes = b"",
    ) -> None:
        self.wake: Callable[[], None] = nobody_to_wake
        self._home = home
        self._stream = stream
        self._seen = min(seen, stream.written)  # A client may claim to have seen what was never written.
        self._store = store
        self.streams = home.standalone is stream
        self._retry_ms = limits.retry_ms
        self._silence = SilenceTimer(limits, now)
        self._now = now
        self._begun = False
        self._stopping = False
        self._closed = False
        self._replayed = replayed
        stream.let_go()
        stream.reader = self
        stream.wake = self._wake_self

    def _wake_self(self) -> None:
        self.wake()

    def take_parts(self) -> list[Part]:
        if self._closed:
            return []
        data = b"" if self._begun else self._replayed + self._primed()
        data += self._missed() + self._silence.take()
        self._closed = self._stopping or self._stream.ended or self._stream.reader is not self
        if self._closed:
            self._leave()
        begun, self._begun = self._begun, True
        if not begun:
            return [events_start(), BodyPart(data, not self._closed)]
        return [BodyPart(data, not self._closed)] if data or self._closed else []

    def _primed(self) -> bytes:
        if self._home.opened.version < PRIMING:
            return b""
        return sse.priming(self._stream.event_id(self._seen), self._retry_ms)

    def _missed(self) -> bytes:
        """What was written since we last looked, and the changes that are still to be written."""
        stream, now = self._stream, max(self._now, self._home.now)
        if stream.reader is not self:
            return b""
        data = b""
        if self._seen != stream.written:
            kept = self._store.after(stream.session, stream.name, self._seen, now)
            data = b"" if kept is None else stream.render(kept.events)
        if self.streams:
            changed = map(self._home.dialect.changed, self._home.wishes.changes.take())
            data += stream.write(list(changed), now)
        self._seen = stream.written
        return data

    def disconnected(self, now: float) -> None:
        self._leave()
        self._closed = True

    def _leave(self) -> None:
        if self._stream.reader is self:
            self._stream.reader = self._stream.wake = None

    def begin_shutdown(self, now: float) -> None:
        self._stopping = True

    def handle_timeout(self, now: float) -> None:
        self._now = now
        self._silence.pass_time(now)

    def next_deadline(self) -> float | None:
        return None if self._closed else self._silence.due_at

    @property
    def closed(self) -> bool:
        return self._closed
