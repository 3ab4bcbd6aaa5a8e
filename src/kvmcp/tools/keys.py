"""Arguments that many tools share, as the store takes them: keys, times to live, values, patterns.

A struct checks what a JSON Schema can say; the functions here check the rest. Each gives the sentence of a
refusal, or None; none repeats a key or a value.
"""

from collections.abc import Iterable
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta, Raw

from kvmcp.backends.ops import (
    MAX_BATCH_KEYS,
    MAX_KEY_BYTES,
    MAX_PATTERN_BYTES,
    MAX_PATTERN_STARS,
    MAX_TTL_SECONDS,
    MAX_VALUE_BYTES,
    Code,
)
from kvmcp.core.arguments import MAX_DEPTH
from kvmcp.core.json_text import number_fault, too_deep
from kvmcp.core.plan import Answer
from kvmcp.tools.answers import refused

Key: TypeAlias = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_KEY_BYTES,
        description=f'The key, for example "user:1:name". 1 to {MAX_KEY_BYTES} bytes of UTF-8.',
    ),
]
Keys: TypeAlias = Annotated[
    tuple[Annotated[str, Meta(min_length=1, max_length=MAX_KEY_BYTES)], ...],
    Meta(
        min_length=1,
        max_length=MAX_BATCH_KEYS,
        description=f'An array of 1 to {MAX_BATCH_KEYS} keys, for example ["user:1", "user:2"].',
        examples=[["user:1", "user:2"]],
    ),
]
Seconds: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_TTL_SECONDS)]


_LF: Final = 0x0A
_CR: Final = 0x0D
"""As numbers: to look for `b"\\n"` in bytes costs CPython 3.11 an exception each time."""


def key_fault(key: str) -> str | None:
    """What is wrong with a key besides its length in characters."""
    if key.isascii():  # Its length in bytes is that in characters, which the struct has checked.
        return None
    return _encoded_fault("a key", key, MAX_KEY_BYTES)


def keys_fault(keys: Iterable[str]) -> str | None:
    return next((fault for key in keys if (fault := key_fault(key)) is not None), None)


def pattern_fault(pattern: str) -> str | None:
    if (stars := pattern.count("*")) > MAX_PATTERN_STARS:
        return f"a pattern with {stars} `*`, limit is {MAX_PATTERN_STARS}"
    return _encoded_fault("a pattern", pattern, MAX_PATTERN_BYTES)


def stored_value(raw: Raw) -> bytes | Answer:
    """The JSON text to store, or the refusal of one that would not come back as it is.

    The text is kept as it came, but on one line: it will be part of messages that end at a line's end.
    """
    value = bytes(raw)
    if len(value) > MAX_VALUE_BYTES:
        message = f"a value of {len(value)} bytes of JSON, limit is {MAX_VALUE_BYTES}"
        return refused(message, Code.TOO_LARGE.value)
    if (fault := number_fault(value)) is not None:
        return refused(f"`value` holds {fault}; send it as a string")
    if not value.isascii() and not _is_utf8(value):
        return refused("`value` is not UTF-8")
    if too_deep(value, MAX_DEPTH):
        return refused(f"`value` is nested deeper than {MAX_DEPTH} levels")
    if _LF in value or _CR in value:
        return msgspec.json.format(value, indent=-1)
    return value


def _encoded_fault(what: str, text: str, limit: int) -> str | None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return f"{what} with a lone surrogate, which UTF-8 cannot hold"
    return f"{what} of {size} bytes of UTF-8, limit is {limit}" if size > limit else None


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
