"""Stored values as the JSON that a caller gets. Pure.

What another program wrote under the prefix and is not JSON comes back as `{"$text": "…"}`, or as
`{"$base64": "…"}` where it is not UTF-8 either. JSON with line breaks between its tokens, or nested too deep,
could not travel in a line: the former comes back compact, the latter as text.
"""

import base64
from typing import Final

import msgspec

MAX_DEPTH: Final = 128
"""Levels of a foreign value that is passed on as JSON: what the core accepts itself."""

_LF: Final = 0x0A
_CR: Final = 0x0D
"""As numbers: to look for `b"\\n"` in bytes costs CPython 3.11 an exception each time, here 8% of
a call of `redis_get` (counted with cachegrind)."""

_check_json: Final = msgspec.json.Decoder(msgspec.Raw).decode


def present(value: bytes) -> bytes:
    """A stored value as one line of JSON; see the module's text for what is not."""
    try:
        _check_json(value)  # all but the UTF-8 inside strings
        if not value.isascii():
            value.decode()
    except (ValueError, RecursionError):  # msgspec's errors and UnicodeDecodeError are ValueErrors
        return _foreign(value)
    if len(value) > 2 * MAX_DEPTH and _is_deep(value):
        return _foreign(value)
    if _LF in value or _CR in value:
        return msgspec.json.format(value, indent=-1)
    return value


def _foreign(value: bytes) -> bytes:
    try:
        return msgspec.json.encode({"$text": value.decode()})
    except UnicodeDecodeError:
        return msgspec.json.encode({"$base64": base64.b64encode(value).decode()})


def _is_deep(value: bytes) -> bool:
    """Whether valid JSON has more than `MAX_DEPTH` levels."""
    if value.count(b"[") + value.count(b"{") <= MAX_DEPTH:
        return False
    deepest = level = 0
    quoted = escaped = False
    for byte in value:
        if quoted:
            quoted = escaped or byte != 0x22
            escaped = not escaped and byte == 0x5C
        elif byte == 0x22:
            quoted = True
        elif byte in b"[{":
            level += 1
            deepest = max(deepest, level)
        elif byte in b"]}":
            level -= 1
    return deepest > MAX_DEPTH
