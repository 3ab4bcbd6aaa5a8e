"""What all processes keep of a legacy session: what its client wants to hear of, and whether it is over.

The session's id says all else. A process reads the record once, before it serves the first request of a session
that it has not seen, so that one that was started later knows what the others know.
"""

import hashlib
from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct

from kvmcp.core.commands import Command, Said, Ticket
from kvmcp.core.http.answers import Answer, nobody_to_wake
from kvmcp.core.http.messages import Part
from kvmcp.core.http.shared import Loaded, Shared
from kvmcp.core.legacy import DEFAULT_LOG_LEVEL
from kvmcp.core.limits import Limits
from kvmcp.core.subscriptions import Event
from kvmcp.core.task_states import TaskId
from kvmcp.core.wire.common import LogLevel


class SessionRecord(Struct, frozen=True, array_like=True):
    """What is kept of a session in common."""

    level: LogLevel = DEFAULT_LOG_LEVEL
    uris: tuple[str, ...] = ()
    ended: bool = False


_DIGEST: Final = 32
"""As in `shared_events`."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SessionRecord).decode


def session_key(id: str) -> str:
    return f"s.{hashlib.sha256(id.encode()).hexdigest()[:_DIGEST]}"


def write_record(record: SessionRecord) -> bytes:
    return _encode(record)


def read_record(payload: bytes | None) -> SessionRecord:
    """What was kept; a new session's where there is nothing, or what another version of this server wrote."""
    if payload is None:
        return SessionRecord()
    try:
        return _decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return SessionRecord()


Then: TypeAlias = Callable[[SessionRecord | None, float], Answer]
"""What is answered once the record is there; None where it cannot be read."""


class AfterRecord:
    """A response that is decided when the record of its session has been read."""

    def __init__(
        self, shared: Shared, id: str, then: Then, limits: Limits, now: float, *, streams: bool = False
    ) -> None:
        self.wake: Callable[[], None] = nobody_to_wake
        self.streams = streams
        self._shared = shared
        self._then = then
        self._decided: Answer | None = None
        self._disconnected = self._ending = False
        self._give_up_at = now + limits.backend_timeout
        self._load = shared.load((session_key(id),), self._found)

    def _found(self, loaded: Loaded, now: float) -> None:
        self._decide(None if loaded is None else read_record(loaded[0]), now)
        self.wake()

    def _decide(self, record: SessionRecord | None, now: float) -> None:
        decided = self._decided = self._then(record, now)
        decided.wake = self._wake_self
        if self._ending:
            decided.begin_shutdown(now)
        if self._disconnected:  # That is no cancellation.
            decided.disconnected(now)

    def _wake_self(self) -> None:
        self.wake()

    # --- as what was decided does ---

    def take_commands(self) -> list[Command]:
        return [] if self._decided is None else self._decided.take_commands()

    def take_parts(self) -> list[Part]:
        return [] if self._decided is None else self._decided.take_parts()

    def complete(self, ticket: Ticket, outcome: object, now: float) -> None:
        if self._decided is not None:
            self._decided.complete(ticket, outcome, now)

    def tell(self, ticket: Ticket, said: Said, now: float) -> None:
        if self._decided is not None:
            self._decided.tell(ticket, said, now)

    def publish(self, event: Event, now: float) -> bool:
        return False

    def note_task(self, id: TaskId) -> bool:
        return False

    def disconnected(self, now: float) -> None:
        self._disconnected = True
        if self._decided is not None:
            self._decided.disconnected(now)

    def begin_shutdown(self, now: float) -> None:
        self._ending = True
        if self._decided is not None:
            self._decided.begin_shutdown(now)

    def handle_timeout(self, now: float) -> None:
        if self._decided is not None:
            self._decided.handle_timeout(now)
        elif now >= self._give_up_at:
            self._shared.forget(self._load)
            self._decide(None, now)

    def next_deadline(self) -> float | None:
        return self._give_up_at if self._decided is None else self._decided.next_deadline()

    @property
    def wants_turn(self) -> bool:
        return self._decided is not None and self._decided.wants_turn

    @property
    def closed(self) -> bool:
        return self._decided is not None and self._decided.closed
