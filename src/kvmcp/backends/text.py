"""JSON text of strings, looked at and not parsed. Pure.

`redis/script_values.py` counts in the same steps; what one takes for a string the other does, too.
"""

import re
from typing import Final

_PAIR: Final = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_UNIT: Final = re.compile(rb"\\u[0-9a-fA-F]{4}")
_ESCAPE: Final = re.compile(rb"\\.", re.DOTALL)
_CONTINUATION: Final = bytes(range(0x80, 0xC0))


def string_length(text: bytes) -> int | None:
    """Characters (code points) of a JSON string, given with its quotation marks; None for any other text."""
    if len(text) < 2 or text[0] != 0x22 or text[-1] != 0x22:
        return None
    inner = text[1:-1]
    if b"\\" in inner:
        inner = inner.replace(b"\\\\", b"x")
        for pattern in (_PAIR, _UNIT, _ESCAPE):
            inner = pattern.sub(b"x", inner)
        if b"\\" in inner:
            return None
    if b'"' in inner:
        return None
    return len(inner) if inner.isascii() else len(inner.translate(None, _CONTINUATION))
