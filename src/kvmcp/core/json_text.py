"""Questions about JSON text that are answered without building the value.

Knows bytes. The text is well-formed JSON unless a function says otherwise.
"""

import math
import re
from itertools import accumulate
from typing import Final, Literal, TypeAlias

from msgspec import Raw

Kind: TypeAlias = Literal["object", "array", "string", "integer", "number", "boolean", "null"]
"""JSON Schema's types; `number` is one that is not written as an integer."""

_KINDS: Final[dict[bytes, Kind]] = {
    b"{": "object", b"[": "array", b'"': "string", b"t": "boolean", b"f": "boolean", b"n": "null",
}  # fmt: skip
_INTEGER: Final = re.compile(rb"-?[0-9]+\s*\Z")

_RUN: Final = 200
"""Digits in a row that are still far from 1.8e308, even with an exponent of 99."""
_LONG: Final = re.compile(rb"[0-9](?<![0-9][0-9])[0-9]{%d}" % (_RUN - 1))
"""The lookbehind starts a search only where a run starts, so it stays linear."""
_DIGIT: Final = re.compile(rb"[0-9]")
_RAISED: Final = re.compile(rb"[eE]\+?[0-9]{3}")
_TOKENS: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"|(-?[0-9][0-9.eE+-]*+)', re.DOTALL)

_STRINGS: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_BRACKETS: Final = b"[]{}"
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_SLICE: Final = 65536
"""Brackets that are looked at together: a deep text is refused after its first slice."""


def _all_but(kept: bytes) -> bytes:
    return bytes(byte for byte in range(256) if byte not in kept)


_NO_BRACKETS: Final = _all_but(_BRACKETS)
_NO_PUNCTUATION: Final = _all_but(_BRACKETS + b",")


def kind(raw: bytes | Raw) -> Kind:
    """What sort of value the text is, by its first byte and, for numbers, by how they are written."""
    text = bytes(raw).lstrip()
    named = _KINDS.get(text[:1])
    if named is not None:
        return named
    return "integer" if _INTEGER.match(text) else "number"


def number_fault(raw: bytes) -> str | None:
    """What is wrong with a number in the text, None where every one is finite as an IEEE 754 double.

    Fewer than 200 digits in a row with an exponent of at most two digits stay below the largest double, so
    most texts cost a quick search; only the others are read number by number.
    """
    if not _has_long_run(raw) and _RAISED.search(raw) is None:
        return None
    for token in _TOKENS.finditer(raw):
        if (number := token[1]) is not None and not _is_finite(number):
            return "a number above 1.8e308, which programs that read JSON numbers as doubles cannot hold"
    return None


def _has_long_run(raw: bytes) -> bool:
    """Every run of `_RUN` digits covers one of the bytes that are `_RUN` apart: look at those first."""
    return _DIGIT.search(raw[_RUN - 1 :: _RUN]) is not None and _LONG.search(raw) is not None


def _is_finite(number: bytes) -> bool:
    try:
        return math.isfinite(float(number))
    except ValueError:  # Text that is not JSON: whoever decodes it says so.
        return True


def too_deep(raw: bytes, limit: int) -> bool:
    """Whether arrays and objects nest deeper than `limit`. Any bytes; linear; most texts cost two counts."""
    if raw.count(b"{") + raw.count(b"[") <= limit:
        return False
    brackets = _STRINGS.sub(b"", raw).translate(_STEPS, _NO_BRACKETS)
    depth = 0
    for start in range(0, len(brackets), _SLICE):
        steps = memoryview(brackets)[start : start + _SLICE].cast("b")
        levels = list(accumulate(steps, initial=depth))
        if max(levels) > limit:
            return True
        depth = levels[-1]
    return False


def has_more_items(line: bytes, limit: int) -> bool:
    """Whether an array has more than `limit` items. Counts before anything is built: an item costs two bytes
    on the wire and a hundred in memory.
    """
    if line.count(b",") < limit:
        return False
    depth = commas = 0
    for token in _STRINGS.sub(b"", line).translate(None, _NO_PUNCTUATION):
        if token in b"[{":
            depth += 1
        elif token in b"]}":
            depth -= 1
        elif depth == 1:
            commas += 1
            if commas >= limit:
                return True
    return False
