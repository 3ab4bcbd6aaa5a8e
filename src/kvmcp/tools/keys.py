"""Arguments that many tools share, as the store takes them: keys, times to live, values, patterns.

A struct checks what a JSON Schema can say; the functions here check the rest. Each gives a `Fault`, or what the
store takes; none repeats a key or a value.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
from msgspec import Meta, Raw

from kvmcp.backends.ops import (
    MAX_BATCH_KEYS,
    MAX_FIELD_BYTES,
    MAX_ITEMS,
    MAX_KEY_BYTES,
    MAX_PATTERN_BYTES,
    MAX_PATTERN_STARS,
    MAX_TTL_SECONDS,
    MAX_VALUE_BYTES,
)
from kvmcp.core.arguments import MAX_DEPTH
from kvmcp.core.json_text import number_fault, too_deep
from kvmcp.tools.answers import INVALID_PARAMS, TOO_LARGE, Fault

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
Field: TypeAlias = Annotated[
    str,
    Meta(max_length=MAX_FIELD_BYTES, description='The name of the field, for example "status".'),
]
Value: TypeAlias = Annotated[
    Raw,
    Meta(
        description="Any JSON value: an object, array, string, number, boolean or null. Stored as it is: "
        "send an object as an object, not as a string of JSON."
    ),
]
Values: TypeAlias = Annotated[
    tuple[Raw, ...],
    Meta(
        min_length=1,
        max_length=MAX_ITEMS,
        description=f"An array of 1 to {MAX_ITEMS} JSON values of any kind, for example "
        '["a", {"task": 1}].',
        examples=[["a", {"task": 1}]],
    ),
]
Detail: TypeAlias = Annotated[
    Literal["concise", "detailed"],
    Meta(description="concise: only what was asked for; detailed: also ttl and size."),
]
Seconds: TypeAlias = Annotated[int, Meta(ge=1, le=MAX_TTL_SECONDS)]


_LF: Final = 0x0A
_CR: Final = 0x0D
"""As numbers: to look for `b"\\n"` in bytes costs CPython 3.11 an exception each time."""


def bad(message: str) -> Fault:
    """The arguments cannot be used."""
    return Fault(INVALID_PARAMS, message)


def key_fault(key: str) -> Fault | None:
    """What is wrong with a key besides its length in characters."""
    if key.isascii():  # Its length in bytes is that in characters, which the struct has checked.
        return None
    return text_fault("a key", key, MAX_KEY_BYTES)


def keys_fault(keys: Iterable[str]) -> Fault | None:
    return next((fault for key in keys if (fault := key_fault(key)) is not None), None)


def field_fault(field: str) -> Fault | None:
    return text_fault("the name of a field", field, MAX_FIELD_BYTES)


def pattern_fault(pattern: str) -> Fault | None:
    if (stars := pattern.count("*")) > MAX_PATTERN_STARS:
        return bad(
            f"a pattern with {stars} `*`, limit is {MAX_PATTERN_STARS}; ask for a longer fixed beginning"
        )
    return text_fault("a pattern", pattern, MAX_PATTERN_BYTES)


def stored_value(raw: Raw, what: str = "`value`") -> bytes | Fault:
    """The JSON text to store, or the refusal of one that would not come back as it is.

    The text is kept as it came, but on one line: it will be part of messages that end at a line's end.
    """
    value = bytes(raw)
    if len(value) > MAX_VALUE_BYTES:
        problem = f"{what} of {len(value)} bytes of JSON, limit is {MAX_VALUE_BYTES}; store it in parts"
        return Fault(TOO_LARGE, problem)
    if (fault := number_fault(value)) is not None:
        return bad(f"{what} holds {fault}; send it as a string")
    if not value.isascii() and not _is_utf8(value):
        return bad(f"{what} is not UTF-8; send text as Unicode, bytes as base64")
    if too_deep(value, MAX_DEPTH):
        return bad(f"{what} is nested deeper than {MAX_DEPTH} levels; flatten it")
    if _LF in value or _CR in value:
        return msgspec.json.format(value, indent=-1)
    return value


def stored_values(raws: Sequence[Raw]) -> tuple[bytes, ...] | Fault:
    """Several values to store, or the refusal of the first that cannot be."""
    values: list[bytes] = []
    for index, raw in enumerate(raws):
        value = stored_value(raw, f"`values[{index}]`")
        if isinstance(value, Fault):
            return value
        values.append(value)
    return tuple(values)


def text_fault(what: str, text: str, limit: int) -> Fault | None:
    """What is wrong with a text that the store keeps as UTF-8 of at most `limit` bytes."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return bad(f"{what} with a lone surrogate, which UTF-8 cannot hold; send whole characters")
    return bad(f"{what} of {size} bytes of UTF-8, limit is {limit}; shorten it") if size > limit else None


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
