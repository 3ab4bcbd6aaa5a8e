"""The events of POSTs' streams where several processes serve the same sessions: here, and in common records.

What is kept here, within the limits of one process, is what the process keeps in common; what it drops here it
drops there. A stream has one record that says how far it is (`Head`), and one for each event. The head of a
stream that still runs is renewed, and vanishes soon after the process that renews it.
"""

import hashlib
from typing import Final

import msgspec
from msgspec import Struct

from kvmcp.core.http.relays import Follow, Written
from kvmcp.core.http.shared import Shared
from kvmcp.core.http.streams import MemoryEventStore, is_of_a_post
from kvmcp.core.limits import Limits


class Head(Struct, frozen=True, array_like=True):
    """How far a stream is: the numbers of the first event that is kept and of the last, and whether that is the end."""

    first: int
    last: int
    ended: bool


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Head).decode

_DIGEST: Final = 32
"""Characters of a session's name in keys: 128 bits. Its id is long, and no business of who reads keys."""


def head_key(session: str, stream: str) -> str:
    return f"e.{hashlib.sha256(session.encode()).hexdigest()[:_DIGEST]}.{stream}"


def event_key(session: str, stream: str, number: int) -> str:
    return f"{head_key(session, stream)}.{number}"


def read_head(payload: bytes) -> Head | None:
    """None where it was written by another version of this server."""
    try:
        return _decode(payload)
    except msgspec.DecodeError:
        return None


class SharedEvents(MemoryEventStore):
    """An `EventStore` whose streams other processes can go on with."""

    def __init__(self, limits: Limits, shared: Shared) -> None:
        super().__init__(limits)
        self._shared = shared

    def begin(self, session: str, stream: str, now: float) -> None:
        super().begin(session, stream, now)
        self._keep_head(session, stream)

    def keep(self, session: str, stream: str, number: int, message: bytes, now: float) -> None:
        if is_of_a_post(stream):
            key = event_key(session, stream, number)
            self._shared.keep(key, message, self._limits.stored_seconds)
        super().keep(session, stream, number, message, now)
        self._keep_head(session, stream)
        self._tell(session, stream, [(number, message)])

    def end(self, session: str, stream: str) -> None:
        super().end(session, stream)
        self._keep_head(session, stream)
        self._tell(session, stream, [])

    def follow(self, wanted: Follow, now: float) -> None:
        """Another process goes on with a stream: if it is one of ours, tell it what it lacks, and all that comes."""
        kept = self.after(wanted.session, wanted.stream, wanted.seen, now)
        if kept is not None:
            self._streams[wanted.session, wanted.stream].followed = True
            self._tell(wanted.session, wanted.stream, kept.events)

    def lost(self, session: str, stream: str, numbers: list[int], *, whole: bool = False) -> None:
        if is_of_a_post(stream):
            heads = [head_key(session, stream)] if whole else []
            self._shared.drop(*heads, *(event_key(session, stream, number) for number in numbers))

    def _keep_head(self, session: str, stream: str) -> None:
        events = self._streams.get((session, stream))
        if events is not None and is_of_a_post(stream):
            first = events.events[0][0] if events.events else events.written + 1
            head = _encode(Head(first, events.written, events.ended))
            self._shared.keep(head_key(session, stream), head, self._limits.stored_seconds)

    def _tell(self, session: str, stream: str, events: list[tuple[int, bytes]]) -> None:
        known = self._streams.get((session, stream))
        if known is not None and known.followed:
            self._shared.tell(Written(session, stream, events, known.written, known.ended))
