"""How much a result may say, and what of a long one is said: whole values, as many as there is room for.

A model pays for every character, and hosts cut what is too long wherever it happens to be. So the tools leave
out whole values, say what is missing and how to go on. Sizes are characters of JSON text.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta, UnsetType

MAX_RESULT_CHARS: Final = 25_000
"""Characters of one result, its text and its structured content together. Hosts warn at about twice as many, and cut."""
MIN_RESULT_CHARS: Final = 10_000
"""The least that can be set: below it the longest key, escaped, and the sentence about what is missing do not fit."""
_NOTES: Final = 500
"""Kept free for notes about arguments that had to be repaired."""
FRAME: Final = 700
"""Of the room: for what a cut result says about itself, and the small fields around."""

Truncated: TypeAlias = (
    Annotated[str, Meta(description="Only when something was left out for its length: what, how to get it.")]
    | UnsetType
)

_encode = msgspec.json.Encoder().encode


def room_of(max_result_chars: int) -> int:
    """How long the JSON of a result may be: it is sent twice, as text and as structured content."""
    return (max_result_chars - _NOTES) // 2


def chars(json: bytes) -> int:
    return len(json) if json.isascii() else len(json.decode())


def fits(json: bytes, room: int) -> bool:
    """Whether JSON text is no longer than `room`. Its bytes are at least its characters."""
    return len(json) <= room or chars(json) <= room


def how_many_fit(items: Iterable[bytes], room: int) -> int:
    """How many of the first items of an array, each as JSON text, there is room for."""
    count = used = 0
    for item in items:
        used += chars(item) + 1
        if used > room:
            break
        count += 1
    return count


def members_that_fit(
    members: Sequence[tuple[str, bytes]], room: int
) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """The members of an object that there is room for, in order, passing over those that are too long; and the
    names of the others."""
    kept: dict[str, bytes] = {}
    missing: list[str] = []
    for name, value in members:
        size = chars(_encode(name)) + chars(value) + 2
        if size <= room:
            kept[name] = value
            room -= size
        else:
            missing.append(name)
    return kept, tuple(missing)


def named(names: Sequence[str], room: int = 300) -> str:
    """Some names, for a sentence: as many as fit, then how many more."""
    shown = how_many_fit([_encode(name) for name in names], room)
    listed = ", ".join(_encode(name).decode() for name in names[:shown])
    if shown == len(names):
        return listed
    return f"{listed} and {len(names) - shown} more" if shown else f"{len(names)} with long names"
