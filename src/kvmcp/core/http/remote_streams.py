"""The response to a GET that resumes a POST's stream which another process began.

Its events come from the common records, page by page, and from the process that still writes it, as it writes
them (`Follow`, `Written`). Neither is relied on alone: what a relay lacks is loaded, and what a record lacks
yet, because it is on its way, is told. Events have numbers, so that each goes out once and in order.
"""

from collections.abc import Callable
from typing import Final

import msgspec

from kvmcp.core.commands import Ticket
from kvmcp.core.http import sse
from kvmcp.core.http.answers import Quiet, SilenceTimer, earliest, nobody_to_wake, refuse
from kvmcp.core.http.messages import BodyPart, Part, events_start
from kvmcp.core.http.relays import Follow, Written
from kvmcp.core.http.shared import Loaded, Shared
from kvmcp.core.http.shared_events import Head, event_key, head_key, read_head
from kvmcp.core.http.streams import event_id, render
from kvmcp.core.limits import Limits

_PAGE: Final = 16
"""Events that one load asks for: a client that comes back rarely lacks more, and 16 of the largest are 64 MiB."""

_SECOND_LOOK: Final = 1.0
"""Seconds after which a stream that is not found is looked for again: its record may be on its way."""


class RemoteStream(Quiet):
    """Answers one GET. `left` is called when it is over."""

    def __init__(
        self,
        shared: Shared,
        wanted: Follow,
        limits: Limits,
        now: float,
        *,
        primed: bool,
        left: Callable[["RemoteStream"], object],
    ) -> None:
        self.wake: Callable[[], None] = nobody_to_wake
        self.streams = False
        self.wanted = wanted
        self._shared = shared
        self._limits = limits
        self._primed = primed
        self._left = left
        self._seen = wanted.seen
        self._unsent: list[tuple[int, bytes]] = []
        self._size = 0
        self._last: int | None = None
        """The number of the stream's last event; None until it is known that there is one."""
        self._ended = False
        self._load: Ticket | None = None
        self._page_first = 0
        self._looked = False
        self._look_again: float | None = None
        self._silence = SilenceTimer(limits, now)
        self._refusal: list[Part] = []
        self._begun = False
        self._stopping = False
        self._closed = False
        shared.tell(wanted)
        self._look()

    # --- what comes ---

    def _look(self) -> None:
        """Ask for the head and for the events that come next."""
        if self._load is None:
            session, stream, first = self.wanted.session, self.wanted.stream, self._seen + 1
            self._page_first = first
            events = [event_key(session, stream, number) for number in range(first, first + _PAGE)]
            self._load = self._shared.load((head_key(session, stream), *events), self._found)

    def _found(self, loaded: Loaded, now: float) -> None:
        self._load = None
        if loaded is None:
            self._refuse(503, "what is kept of the stream cannot be read now")
        elif loaded[0] is None or (head := read_head(loaded[0])) is None:
            self._lose(now)
        else:
            self._take_page(head, loaded[1:])
        self.wake()

    def _take_page(self, head: Head, events: list[bytes | None]) -> None:
        """Events behind those that the client had when the page was asked for; relays may have brought some since."""
        first = self._page_first
        self._looked = False
        self._note(head.last, head.ended)
        for number, message in enumerate(events, first):
            if message is not None and number > self._seen:
                self._add(number, message)
        # What is missing up to here is gone: it was kept before the head was.
        self._seen = max(self._seen, min(head.last, first + _PAGE - 1), head.first - 1)

    def told(self, written: Written) -> None:
        """The process that writes the stream has told of it."""
        self._looked, self._look_again = False, None  # Whoever writes it is there.
        self._note(written.last, written.ended)
        for number, message in written.events:
            if number == self._seen + 1 and not self._is_full:
                self._add(number, message)
        self.wake()

    def _note(self, last: int, ended: bool) -> None:
        self._last = max(last, self._last or 0)
        self._ended = self._ended or ended

    def _add(self, number: int, message: bytes) -> None:
        self._unsent.append((number, message))
        self._size += len(message)
        self._seen = number

    @property
    def _is_full(self) -> bool:
        """Whether a client that does not read has as much waiting as is kept for it; the rest is loaded later."""
        return len(self._unsent) >= self._limits.stored_events or self._size >= self._limits.output_bytes

    def _lose(self, now: float) -> None:
        """There is no such record: not yet, or nobody writes the stream any more."""
        if not self._looked:
            self._looked = True
            self._look_again = now + _SECOND_LOOK
        elif self._last is not None:
            self._stopping = True
        else:
            self._refuse(400, "what Last-Event-ID names is not kept any more")

    def _refuse(self, status: int, problem: str) -> None:
        if self._last is None:
            self._refusal = refuse(status, problem).take_parts()

    # --- the response ---

    def take_parts(self) -> list[Part]:
        if self._closed:
            return []
        if self._last is None and self._refusal:
            self._end()
            return self._refusal
        if self._last is None and not self._stopping:
            return []
        parts = self._render()
        if not self._closed and self._is_behind:
            self._look()
        return parts

    def _render(self) -> list[Part]:
        data = b"" if self._begun or not self._primed else self._priming()
        data += render(self.wanted.stream, self._unsent) + self._silence.take()
        self._unsent, self._size = [], 0
        if self._stopping or (self._ended and not self._is_behind):
            self._end()
        begun, self._begun = self._begun, True
        if not begun:
            return [events_start(), BodyPart(data, not self._closed)]
        return [BodyPart(data, not self._closed)] if data or self._closed else []

    @property
    def _is_behind(self) -> bool:
        return self._seen < (self._last or 0)

    def _priming(self) -> bytes:
        return sse.priming(event_id(self.wanted.stream, self.wanted.seen), self._limits.retry_ms)

    def _end(self) -> None:
        self._closed = True
        if self._load is not None:
            self._shared.forget(self._load)
        self._left(self)

    # --- the other inputs ---

    def give_way(self) -> None:
        """The client has come back once more: this connection ends."""
        self._stopping = True
        self.wake()

    def disconnected(self, now: float) -> None:
        if not self._closed:
            self._end()

    def begin_shutdown(self, now: float) -> None:
        self._stopping = True

    def handle_timeout(self, now: float) -> None:
        self._silence.pass_time(now)
        looks = self._look_again is not None and now >= self._look_again
        if looks or self._silence.is_due:  # Relays can be lost, and processes can vanish.
            self._look_again = None
            self._shared.tell(msgspec.structs.replace(self.wanted, seen=self._seen, anew=False))
            self._look()

    def next_deadline(self) -> float | None:
        return None if self._closed else earliest(self._silence.due_at, self._look_again)

    @property
    def closed(self) -> bool:
        return self._closed
