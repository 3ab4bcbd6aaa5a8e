"""Redis's glob patterns: what a pattern matches is decided on bytes, exactly as Redis 7 decides it.

Knows patterns and bytes; knows no store. Backends call `compile_glob`, which also refuses the patterns that
are too long or have too many stars, so that every backend refuses the same ones.

A pattern becomes a sequence of tokens, each a star or the set of bytes that one position may hold, and then a
regular expression in which each star gives up its bytes once and for all (an atomic group, as in the standard
library's `fnmatch.translate`). That is right because everything between two stars has a fixed length: the
leftmost place where it fits leaves most room for the rest. So work is at most the length of the name times
the length of the pattern, however many stars there are.
"""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import groupby
from typing import Final, TypeAlias

from msgspec import Struct

from kvmcp.backends.ops import MAX_PATTERN_BYTES, MAX_PATTERN_STARS, Code, Failure

ByteSet: TypeAlias = frozenset[int]
Token: TypeAlias = ByteSet | None
"""The bytes that one position may hold, or None for a star."""

ANY_BYTE: Final[ByteSet] = frozenset(range(256))
COMPILED_PATTERNS: Final = 256
"""Compiled patterns that are kept. Compiling costs 0.1-2 ms, and scans ask for the same pattern page by page."""

_STAR, _QUESTION, _OPEN, _CLOSE, _BACKSLASH, _CARET, _DASH = b"*?[]\\^-"


class Glob(Struct, frozen=True):
    """A pattern, ready to match."""

    regex: re.Pattern[bytes] | None
    """None where everything matches, which needs no look at the name."""
    weight: int
    """Byte comparisons per byte of a name, at worst: the longest part that has to be searched for."""

    def matches(self, name: bytes) -> bool:
        return self.regex is None or self.regex.fullmatch(name) is not None


@lru_cache(maxsize=COMPILED_PATTERNS)
def compile_glob(pattern: str) -> Glob | Failure:
    """The matcher of a pattern, or why no backend takes it."""
    encoded = pattern.encode("utf-8", "surrogatepass")
    if len(encoded) > MAX_PATTERN_BYTES:
        return _too_large(f"pattern of {len(encoded)} bytes, limit is {MAX_PATTERN_BYTES}")
    tokens = parse_glob(encoded)
    stars = tokens.count(None)
    if stars > MAX_PATTERN_STARS:
        return _too_large(f"pattern with {stars} stars, limit is {MAX_PATTERN_STARS}")
    return _compile(tokens)


def parse_glob(pattern: bytes) -> list[Token]:
    """The tokens of a pattern; stars in a row are one star. Every sequence of bytes is a pattern."""
    tokens: list[Token] = []
    at = 0
    while at < len(pattern):
        token, at = _read_token(pattern, at)
        if token is not None or tokens[-1:] != [None]:
            tokens.append(token)
    return tokens


def _read_token(pattern: bytes, at: int) -> tuple[Token, int]:
    """The token at `at`, and where the next one begins."""
    byte = pattern[at]
    if byte == _STAR:
        return None, at + 1
    if byte == _QUESTION:
        return ANY_BYTE, at + 1
    if byte == _OPEN:
        return _read_class(pattern, at + 1)
    if byte == _BACKSLASH and at + 1 < len(pattern):
        at += 1  # a backslash at the very end stands for itself
    return frozenset((pattern[at],)), at + 1


def _read_class(pattern: bytes, at: int) -> tuple[ByteSet, int]:
    """What follows a `[`. The end of the pattern closes a class that nothing else closes; `[]` holds nothing."""
    negated = pattern[at : at + 1] == b"^"
    at += negated
    members: set[int] = set()
    while at < len(pattern) and pattern[at] != _CLOSE:
        found, at = _read_members(pattern, at)
        members.update(found)
    return ANY_BYTE - members if negated else frozenset(members), at + 1


def _read_members(pattern: bytes, at: int) -> tuple[Iterable[int], int]:
    """One item of a class: an escaped byte, a range, or a byte.

    A range takes whatever byte follows its dash, a `]` or a backslash too. An escaped byte begins no range.
    """
    left = len(pattern) - at
    if left >= 2 and pattern[at] == _BACKSLASH:
        return (pattern[at + 1],), at + 2
    if left >= 3 and pattern[at + 1] == _DASH:
        return _byte_range(pattern[at], pattern[at + 2]), at + 3
    return (pattern[at],), at + 1


def _byte_range(start: int, end: int) -> Iterable[int]:
    """The bytes of a range, in either order.

    Redis compares C `char`s, which are signed on x86-64: there a range that starts in ASCII and ends in a
    byte above 0x7f runs downwards through zero. Such a range has no meaning for text; it has this one here.
    """
    low, high = sorted((_signed(start), _signed(end)))
    return (value & 0xFF for value in range(low, high + 1))


def _signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte


def _compile(tokens: list[Token]) -> Glob:
    if tokens == [None]:
        return Glob(None, 0)
    head, *searched = _segments(tokens)
    parts = [_render(head)]
    if searched:
        *middle, tail = searched
        parts += [b"(?>.*?" + _render(segment) + b")" for segment in middle]
        parts.append(b".*" + _render(tail))
    return Glob(re.compile(b"".join(parts), re.DOTALL), max(map(len, searched), default=0))


def _segments(tokens: list[Token]) -> list[list[ByteSet]]:
    """What is between the stars: one more part than there are stars, the first and last perhaps empty."""
    segments: list[list[ByteSet]] = [[]]
    for token in tokens:
        if token is None:
            segments.append([])
        else:
            segments[-1].append(token)
    return segments


def _render(segment: list[ByteSet]) -> bytes:
    return b"".join(map(_render_set, segment))


def _render_set(members: ByteSet) -> bytes:
    """One position as a regular expression."""
    if members == ANY_BYTE:
        return b"."
    if len(members) == 1:
        return b"\\x%02x" % min(members)
    if not members:
        return b"(?!)"
    return b"[" + b"".join(b"\\x%02x-\\x%02x" % run for run in _runs(sorted(members))) + b"]"


def _runs(members: list[int]) -> Iterator[tuple[int, int]]:
    """First and last of each unbroken run, so that a negated class is two ranges and not 255 bytes."""
    for _, run in groupby(enumerate(members), key=lambda item: item[1] - item[0]):
        values = [value for _, value in run]
        yield values[0], values[-1]


def _too_large(message: str) -> Failure:
    return Failure(Code.TOO_LARGE, message, retryable=False)
