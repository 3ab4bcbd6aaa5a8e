"""One page of names out of SCAN replies. Pure; `backend` carries the commands.

SCAN promises at least once, and so does a page; it never uses KEYS. A page asks again while it has found little,
more at a time where matches are rare, until it is full or has looked at enough. What SCAN gives beyond the
page's size travels in the cursor, for SCAN cannot stop inside a step.

Names that are not UTF-8 belong to other programs; no operation could name them, so they are left out.
"""

import base64
import re
from typing import Final

import hiredis
import msgspec

from kvmcp.backends.glob import compile_glob
from kvmcp.backends.ops import MAX_SCAN_COUNT, Code, Failure, Page, Scan
from kvmcp.backends.redis.errors import STRANGE_REPLY, failure_of
from kvmcp.backends.redis.resp import Slot, pack

MAX_ROUNDS: Final = 32
"""SCAN commands for one page: about 25,000 keys looked at, a few milliseconds of Redis's time."""
MAX_EFFORT: Final = 1000
"""Keys looked at in one SCAN: about 0.2 ms in which Redis serves nobody else."""
FAR_CURSOR: Final = 1 << 64

NO_SUCH_CURSOR: Final = Failure(
    Code.INVALID_PARAMS,
    "the cursor is not one that a scan gave; scan again without a cursor",
    retryable=False,
)

_POSITION: Final = re.compile(rb"[0-9]{1,20}")
_SPECIAL: Final = re.compile(rb"[*?\[\]\\^-]")


class _Cursor(msgspec.Struct, frozen=True, array_like=True):
    """What a page's cursor holds: where SCAN goes on, in which server process, and names not yet given."""

    position: int
    node: str
    names: tuple[str, ...]


_decode_cursor: Final = msgspec.json.Decoder(_Cursor).decode


class ScanPage:
    """A page being collected."""

    def __init__(self, op: Scan, prefix: str) -> None:
        """Raises nothing: a wrong operation has `fault` set."""
        self._op = op
        head = f"{prefix}:{op.space}:".encode("utf-8", "surrogatepass")
        self._head = len(head)
        self._match = _escape(head) + op.pattern.encode("utf-8", "surrogatepass")
        self._names: list[str] = []
        self._rounds = 0
        self._effort = op.count
        self._node = ""
        self._position = 0
        self._ended = False
        """Whether SCAN has come round; a position of 0 is its beginning as well."""
        self.fault = _fault(op)
        if self.fault is None and op.cursor:
            self._resume(op.cursor)

    def _resume(self, text: str) -> None:
        cursor = _parse_cursor(text)
        if cursor is None:
            self.fault = NO_SUCH_CURSOR
            return
        self._names, self._node, self._position = list(cursor.names), cursor.node, cursor.position
        self._ended = cursor.position == 0

    def next_command(self, node: str) -> bytes | None:
        """The SCAN to send to `node`; None where the page needs none."""
        if self._finished():
            return None
        if self._node != node:
            # Another process hashes keys differently: from the beginning, which keeps "at least once".
            self._node, self._position = node, 0
        self._rounds += 1
        return pack(b"SCAN", self._position, b"MATCH", self._match, b"COUNT", self._effort)

    def receive(self, slot: Slot, may_continue: bool) -> Page | Failure | None:
        """The page, once it is complete; None where another command is wanted."""
        if isinstance(slot, hiredis.ReplyError):
            return failure_of(slot)
        step = _step(slot)
        if step is None:
            return STRANGE_REPLY
        position, keys = step
        found = [name for key in keys if (name := _name(key[self._head :])) is not None]
        if self._too_many(len(found)) and may_continue and self._rounds < MAX_ROUNDS:
            self._effort = self._op.count
            return None if not self._names else self.page()
        self._position, self._ended = position, position == 0
        self._names += found
        self._effort = min(MAX_EFFORT, self._effort * 2) if len(found) * 4 < self._effort else self._effort
        if may_continue and not self._finished() and self._rounds < MAX_ROUNDS:
            return None
        return self.page()

    def page(self) -> Page:
        """What there is, and the cursor for the rest."""
        count = self._op.count
        given, kept = tuple(self._names[:count]), tuple(self._names[count:])
        if self._ended and not kept:
            return Page(given)
        return Page(given, _format_cursor(_Cursor(self._position, self._node, kept)))

    def _finished(self) -> bool:
        return len(self._names) >= self._op.count or self._ended

    def _too_many(self, found: int) -> bool:
        """Whether a step that looked at more than a page's worth should be asked again, smaller."""
        return self._effort > self._op.count and len(self._names) + found > self._op.count


def _fault(op: Scan) -> Failure | None:
    glob = compile_glob(op.pattern)
    if isinstance(glob, Failure):
        return glob
    if 1 <= op.count <= MAX_SCAN_COUNT:
        return None
    message = f"count of {op.count}, must be from 1 to {MAX_SCAN_COUNT}"
    return Failure(Code.REDIS_ERROR, message, retryable=False)


def _escape(head: bytes) -> bytes:
    """A pattern that matches these bytes only."""
    return _SPECIAL.sub(rb"\\\g<0>", head)


def _step(slot: Slot) -> tuple[int, list[bytes]] | None:
    """SCAN's reply: the next position and keys."""
    if not (isinstance(slot, list) and len(slot) == 2):
        return None
    position, keys = slot
    if not (isinstance(position, bytes) and _POSITION.fullmatch(position) and isinstance(keys, list)):
        return None
    return int(position), [key for key in keys if isinstance(key, bytes)]


def _name(key: bytes) -> str | None:
    try:
        return key.decode()
    except UnicodeDecodeError:
        return None


def _format_cursor(cursor: _Cursor) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(cursor)).decode()


def _parse_cursor(text: str) -> _Cursor | None:
    try:
        cursor = _decode_cursor(base64.b64decode(text.encode(), altchars=b"-_", validate=True))
    except ValueError:  # of base64, of UTF-8, of msgspec
        return None
    return cursor if 0 <= cursor.position < FAR_CURSOR else None
