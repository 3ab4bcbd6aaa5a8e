"""RESP3 without I/O: calls in, bytes out; bytes in, settled calls and pushes out.

Knows the protocol (through the hiredis codec) and which bytes were handed out and written, so that each
command's fate is known when a connection dies. Knows no socket, clock or loop, and no key. `link` drives it.

    machine.send(call)          queue commands            ▸ data_to_send() ▸ wrote(n)
    machine.receive_data(data)  the calls that are now settled, in the order in which they were sent
    machine.take_pushes()       what Redis said unasked
    machine.lose()              the connection is gone: every call that is left, each command's fate in place

A command that was not written to its last byte cannot have run: Redis runs whole commands only.
"""

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from itertools import islice
from typing import Final, TypeAlias, cast

import hiredis
from msgspec import Struct

from kvmcp.backends.ops import Failure
from kvmcp.backends.redis.errors import REPLIES_TOO_LARGE

MAX_REPLY_BYTES: Final = 16 * 1024 * 1024
"""One reply. Ours are below 2 MiB (a value, a page of names); another program's value may be larger and is
refused from here on, long before a 512 MiB string is in memory."""
MAX_CALL_REPLY_BYTES: Final = 64 * 1024 * 1024
"""Replies of one call that are kept: sixty-four of the largest values. Whoever waits for the whole call holds them
all, so this bounds what one batch can make us hold; replies of many calls leave as they come."""
SMALL_REPLY: Final = 1024
"""A reply up to this size is always kept: what a write answers, and numbers."""
MAX_ELEMENTS_DIGITS: Final = 5
"""Digits of an element count: replies have at most 99,999 elements. hiredis allocates what a header says."""
MAX_PUSHES: Final = 65536
"""Pushes in one chunk that nobody took yet. A chunk of 64 KiB has fewer."""

Value: TypeAlias = "bytes | int | float | bool | None | list[Value] | dict[Value, Value] | hiredis.ReplyError"
"""One reply as hiredis gives it; errors of commands are values too."""


class Lost(Enum):
    """In the place of a reply that never came."""

    UNSENT = "unsent"
    """The command was not written to its end: it has not run."""
    UNANSWERED = "unanswered"
    """The command was written: it may have run."""
    DROPPED = "dropped"
    """The command has run; its reply was thrown away, for its call had too many bytes of them already."""


Slot: TypeAlias = "Value | Lost"

_NOT_YET: Final = object()
_HUGE: Final = re.compile(rb"(?:^|\n)[*~>%%|](?=[0-9]{%d})" % (MAX_ELEMENTS_DIGITS + 1))
"""An aggregate's header with too many digits, if it is one: inside a string it is just text."""
_INNER: Final = re.compile(rb"\n[*~>%%|](?=[0-9]{%d})" % (MAX_ELEMENTS_DIGITS + 1))
"""The same, but for the first byte of the data."""
_AGGREGATES: Final = (b"*", b"~", b">", b"%", b"|")
_OPEN: Final = re.compile(rb"(?:^|\n)([*~>%%|][0-9]{0,%d})$" % MAX_ELEMENTS_DIGITS)
"""What may be the first half of such a header. No reply ends so: each ends with a line end."""
_CONFIRMED_BY_PUSH: Final = frozenset((b"subscribe", b"unsubscribe", b"ssubscribe", b"sunsubscribe"))
"""In RESP3 these commands have no reply of their own: a push confirms them."""


class Garbage(Exception):
    """What came is not RESP3, or more than one reply may be. The connection cannot be used any further."""


class Oversized(Garbage):
    """The oldest open call's reply is larger than any may be."""


class _Full(list[Slot]):
    """The replies of a call that has had enough of them."""

    def append(self, reply: Slot) -> None:
        large = len(reply) > SMALL_REPLY if isinstance(reply, bytes) else isinstance(reply, list | dict)
        super().append(Lost.DROPPED if large else reply)

    def extend(self, replies: Iterable[Slot], /) -> None:
        for reply in replies:
            self.append(reply)


class Call:
    """Commands that travel together, and what became of each.

    Settled once: `replies` then has as many slots as there are commands.
    """

    __slots__ = ("cause", "commands", "deadline", "end", "ghost", "replies", "size", "wake")

    def __init__(self, commands: Sequence[bytes], deadline: float = 0.0) -> None:
        self.commands = commands
        self.replies: list[Slot] = []
        self.size = sum(map(len, commands))
        self.deadline = deadline
        """Seconds on the driver's clock."""
        self.end = -1
        """Where its last byte is in the connection's stream; -1 until it was handed out."""
        self.ghost = False
        """Nobody waits any more: late replies are thrown away."""
        self.cause: Failure | None = None
        """Why replies were lost, or may have been."""
        self.wake: Callable[[], None] | None = None
        """What its caller wants to be called once it is settled."""

    @property
    def settled(self) -> bool:
        return self.ghost or len(self.replies) >= len(self.commands)

    def lose(self, written: int, cause: Failure | None) -> None:
        """Fill the empty slots: `written` bytes of the stream have left."""
        self.cause = cause
        position = self.end - self.size
        for index, command in enumerate(self.commands):
            position += len(command)
            if index >= len(self.replies):
                gone = self.end >= 0 and position <= written
                self.replies.append(Lost.UNANSWERED if gone else Lost.UNSENT)

    def finish(self) -> None:
        """Wake the caller, once."""
        wake, self.wake = self.wake, None
        if wake is not None:
            wake()


class Push(Struct, frozen=True, gc=False):
    """Something Redis sends unasked: a message, an invalidation."""

    kind: bytes
    items: tuple[Value, ...]


def pack(*arguments: bytes | str | int) -> bytes:
    """One command as RESP."""
    return cast(bytes, hiredis.pack_command(arguments))  # type: ignore[arg-type]  # the stub says 1-tuple, means any


class RespMachine:
    """One connection's protocol state."""

    def __init__(
        self, max_reply_bytes: int = MAX_REPLY_BYTES, max_call_reply_bytes: int = MAX_CALL_REPLY_BYTES
    ) -> None:
        self._reader = hiredis.Reader(notEnoughData=_NOT_YET)
        self._max_reply_bytes = max_reply_bytes
        self._max_call_reply_bytes = max_call_reply_bytes
        self._queued: deque[Call] = deque()
        self._flying: deque[Call] = deque()
        self._settled: list[Call] = []
        """Calls that have all their replies and were not given out yet."""
        self._pushes: list[Push] = []
        self.handed_out = 0
        """Bytes given out by `data_to_send`, ever."""
        self.answered = 0
        """Where in that stream the last answered call ended."""
        self._written = 0
        self._incomplete = 0
        self._held = b""
        self.received = 0
        """Bytes that came, ever."""
        self._begun = 0
        """How many of them had come when the oldest call in flight became the oldest; a chunk too many, perhaps."""

    # --- out

    @property
    def in_flight(self) -> int:
        """Calls that were handed out and whose replies are not all here."""
        return len(self._flying)

    def calls(self) -> Iterable[Call]:
        """Every call that is not settled, oldest first."""
        return (*self._flying, *self._queued)

    def send(self, call: Call) -> None:
        self._queued.append(call)

    def data_to_send(self) -> bytes:
        """All that is queued, as one piece."""
        chunks: list[bytes] = []
        if not self._flying:
            self._begun = self.received
        while self._queued:
            call = self._queued.popleft()
            self.handed_out += call.size
            call.end = self.handed_out
            chunks += call.commands
            self._flying.append(call)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def wrote(self, count: int) -> None:
        """So many more of the bytes handed out have left for the server."""
        self._written += count

    # --- in

    def receive_data(self, data: bytes) -> list[Call]:
        """The calls that `data` settles. Raises `Garbage`; then `lose` is all that is left to do."""
        self.received += len(data)
        if self._held:
            data = self._held + data
            self._held = b""
        if data and not data.endswith(b"\n"):
            data = self._hold_back(data)
        # Without the alternation of `_HUGE`, which costs 800 ns a call (benchmarks/stdio.py).
        if data[:1] not in _AGGREGATES and _INNER.search(data) is None:
            self._feed(data)
        else:
            self._feed_carefully(data)
        if self._flying and self.received - self._begun > self._max_call_reply_bytes:
            self._drop_large_replies(self._flying[0])
        return self._take_settled()

    def _take_settled(self) -> list[Call]:
        settled, self._settled = self._settled, []
        return settled

    def take_pushes(self) -> list[Push]:
        pushes, self._pushes = self._pushes, []
        return pushes

    def lose(self, cause: Failure | None = None) -> list[Call]:
        """The connection is gone. All calls that were not given out, with each command's fate in its slot.

        Among them are those that were answered just before `Garbage`.
        """
        lost = [call for call in self.calls() if not call.ghost]
        self._queued.clear()
        self._flying.clear()
        for call in lost:
            call.lose(self._written, cause)
        return self._take_settled() + lost

    def give_up(self, call: Call, cause: Failure | None = None) -> None:
        """Settle one call now. What Redis still sends for it is thrown away."""
        if call.end < 0 and call in self._queued:
            self._queued.remove(call)
        if not call.settled:
            replies = list(call.replies)
            call.lose(self._written, cause)
            self._haunt(call, replies)

    def _haunt(self, call: Call, replies: list[Slot]) -> None:
        """Put a ghost in the call's place, so that the replies that still come find somebody."""
        for index, flying in enumerate(self._flying):
            if flying is call:
                ghost = Call(call.commands)
                ghost.end, ghost.ghost, ghost.replies = call.end, True, replies
                self._flying[index] = ghost
                return

    def _feed(self, data: bytes) -> None:
        self._incomplete += len(data)
        reader = self._reader
        try:
            reader.feed(data)
            self._read_replies()
        except Garbage:
            raise
        except Exception as error:  # hiredis raises its own, TypeError (odd map keys), MemoryError
            raise Garbage(f"{type(error).__name__} in the reply stream") from error
        if self._incomplete > self._max_reply_bytes:
            raise Oversized(f"a reply of more than {self._max_reply_bytes} bytes")

    def _read_replies(self) -> None:
        gets = self._reader.gets
        while True:
            replies: list[Value] = []
            try:
                # All that the oldest call may be given, without a turn of a loop of ours (benchmarks/redis.py).
                replies += islice(iter(gets, _NOT_YET), self._missing())
            finally:  # What came in front of garbage did come.
                if hiredis.PushNotification in map(type, replies):
                    self._sort(replies)
                elif replies:
                    self._answer(replies)
            if not replies:
                return
            self._incomplete = 0

    def _missing(self) -> int:
        """How many replies the oldest call still needs. Without a call only pushes come, as many as there are."""
        if not self._flying:
            return MAX_PUSHES
        call = self._flying[0]
        return len(call.commands) - len(call.replies)

    def _sort(self, replies: list[Value]) -> None:
        """Replies with pushes among them."""
        for reply in replies:
            if type(reply) is hiredis.PushNotification:
                self._pushed(reply)
            else:
                self._answer([reply])

    def _answer(self, replies: Sequence[Value]) -> None:
        """Give the oldest call replies, no more than it needs."""
        if not self._flying:
            raise Garbage("a reply that nobody asked for")
        call = self._flying[0]
        call.replies.extend(replies)
        if len(call.replies) == len(call.commands):
            self._flying.popleft()
            self.answered = call.end
            self._begun = self.received
            if not call.ghost:
                self._settled.append(call)

    def _drop_large_replies(self, call: Call) -> None:
        """From now on: the call is settled when the last of them has come, and says so by its cause."""
        if not isinstance(call.replies, _Full):
            call.replies = _Full(call.replies)
            call.cause = REPLIES_TOO_LARGE

    def _pushed(self, items: list[Value]) -> None:
        kind = items[0] if items else b""
        if not isinstance(kind, bytes):
            raise Garbage("a push without a name")
        if kind in _CONFIRMED_BY_PUSH and self._awaits(kind, items):
            self._answer([list(items)])
        elif len(self._pushes) < MAX_PUSHES:
            self._pushes.append(Push(kind, tuple(items[1:])))
        else:
            raise Garbage(f"more than {MAX_PUSHES} pushes at once")

    def _awaits(self, kind: bytes, items: list[Value]) -> bool:
        """Whether the oldest open command is the one that this push confirms."""
        if not self._flying or len(items) < 2 or not isinstance(items[1], bytes):
            return False
        call = self._flying[0]
        return call.commands[len(call.replies)] == pack(kind.upper(), items[1])

    # --- headers that promise too much

    def _hold_back(self, data: bytes) -> bytes:
        """Keep what may be half of a header until its other half is here."""
        half = _OPEN.search(data, max(0, len(data) - MAX_ELEMENTS_DIGITS - 2))
        if half is None:
            return data
        self._held = half[1]
        return data[: half.start(1)]

    def _feed_carefully(self, data: bytes) -> None:
        """Feed up to each suspicious header and see whether the reader stands inside a string there.

        hiredis keeps an incomplete string unread; where it has read everything, the next byte is a type.
        """
        start = 0
        for match in _HUGE.finditer(data):
            end = match.end() - 1
            self._feed(data[start:end])
            start = end
            if not self._reader.has_data():
                raise Garbage(f"a reply of more than {10**MAX_ELEMENTS_DIGITS - 1} elements")
        self._feed(data[start:])
