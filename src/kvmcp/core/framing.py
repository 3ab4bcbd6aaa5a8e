"""Lines out of chunks: newline framing with a limit (stdio, TCP and Unix sockets).

Knows bytes, not JSON. A line is what stands before `\\n`; a `\\r` before it and blank lines are dropped.
"""

from typing import Final

from msgspec import Struct

HEAD_BYTES: Final = 2048
"""How much of a refused line is kept, so that the request's id can be read from it (`Limits.id_bytes` fits)."""


class Oversized(Struct, frozen=True):
    """A line above the limit. It is thrown away as it arrives; `head` is its beginning."""

    head: bytes
    seen: int
    """Bytes that had arrived when the limit was passed."""


def join_lines(messages: list[bytes]) -> bytes:
    """The messages as lines, in one piece; empty where there are none."""
    if not messages:
        return b""
    if b"\n" in b"".join(messages):  # Counting the lines took 1,800 instructions a message.
        # JSON text that came from elsewhere may be spread over lines; in JSON that is only white space.
        messages = [message.replace(b"\n", b" ") for message in messages]
    return b"\n".join((*messages, b""))


class LineFramer:
    """Collects chunks and hands out complete lines. Memory stays below `limit` plus one chunk."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tail = bytearray()
        self._skipping = False

    def receive(self, data: bytes) -> list[bytes | Oversized]:
        """The lines that `data` completes, in order; none is blank."""
        if self._skipping or self._tail:
            return self._continue(data)
        return self._split(data)

    def end(self) -> list[bytes | Oversized]:
        """The last line, if the stream ended without its newline."""
        rest = bytes(self._tail)
        self._tail.clear()
        return self._clean([rest], check=False)

    def _continue(self, data: bytes) -> list[bytes | Oversized]:
        end = data.find(b"\n")
        if end < 0:
            return [] if self._skipping else self._keep(data)
        if self._skipping:
            self._skipping = False
            first: list[bytes | Oversized] = []
        else:
            self._tail += data[:end]
            first = self._clean([bytes(self._tail)], check=True)
            self._tail.clear()
        return first + self._split(data[end + 1 :])

    def _split(self, data: bytes) -> list[bytes | Oversized]:
        """The lines of `data`, which begins with one."""
        lines = data.split(b"\n")
        tail = lines.pop()
        framed: list[bytes | Oversized]
        # The common chunk is looked at as a whole, which saves three calls a line.
        if len(data) <= self._limit and b"\r" not in data:
            framed = [line for line in lines if line and not line.isspace()]
        else:
            framed = self._clean(lines, check=True)
        return framed + self._keep(tail) if tail else framed

    def _keep(self, tail: bytes) -> list[bytes | Oversized]:
        self._tail += tail
        # A `\r` at the end may belong to the newline that is still to come.
        if len(self._tail) - self._tail.endswith(b"\r") <= self._limit:
            return []
        refused = Oversized(bytes(self._tail[:HEAD_BYTES]), len(self._tail))
        # A new buffer, not clear(): the memory of the long one goes back at once.
        self._tail = bytearray()
        self._skipping = True
        return [refused]

    def _clean(self, lines: list[bytes], check: bool) -> list[bytes | Oversized]:
        cleaned: list[bytes | Oversized] = []
        for line in lines:
            if line.endswith(b"\r"):
                line = line[:-1]
            if check and len(line) > self._limit:
                cleaned.append(Oversized(line[:HEAD_BYTES], len(line)))
            elif line and not line.isspace():
                cleaned.append(line)
        return cleaned
