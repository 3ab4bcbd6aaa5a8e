"""Paths into JSON documents: RFC 6901 pointers, and the part of JSONPath (RFC 9535) that names one place.

    /a/0/b          a pointer: `~1` stands for `/`, `~0` for `~`; the empty text is the whole document
    $.a[0].b        the same; also $['a'] and $["a"]; negative numbers count from the end; `$` is the whole document

What can name several places (`*`, `..`, slices, filters) is refused. Where a name stands twice the last one counts.
"""

import re
from collections.abc import Sequence
from typing import Final, TypeAlias

import msgspec
from msgspec import Raw, Struct

from kvmcp.core.json_text import kind

MAX_PATH_CHARS: Final = 1024
"""Twice the longest key."""
MAX_STEPS: Final = 128
"""As deep as a document can be."""

PathStep: TypeAlias = str | int
"""The name of a member, for arrays also a number as text; or a number, for arrays only."""


class NoPath(Struct, frozen=True):
    """Why a text is no path. Holds nothing of the text but the place."""

    problem: str


class Place(Struct, frozen=True):
    """Where a path led: the JSON text there. `taken` of its steps could be taken: all, or it ended before."""

    value: bytes
    taken: tuple[PathStep, ...]
    arrived: bool


_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)
_ESCAPE: Final = re.compile(r"~[01]|~")
_DOT: Final = re.compile(r"\.([\w-]+)")
_BRACKET: Final = re.compile(
    r"""\[\s*(?:(-?(?:0|[1-9][0-9]{0,9}))|'((?:[^'\\]|\\.)*+)'|("(?:[^"\\]|\\.)*+"))\s*\]""",
    re.ASCII | re.DOTALL,
)
_QUOTES: Final = re.compile(r"""\\.|\"""", re.DOTALL)

_members = msgspec.json.Decoder(dict[str, Raw]).decode
_elements = msgspec.json.Decoder(list[Raw]).decode
_text = msgspec.json.Decoder(str).decode


def parse_path(path: str) -> tuple[PathStep, ...] | NoPath:
    """The steps of a path."""
    if len(path) > MAX_PATH_CHARS:
        return NoPath(f"a path of {len(path)} characters, limit is {MAX_PATH_CHARS}")
    if not path or path[0] == "/":
        steps = _parse_pointer(path)
    elif path[0] == "$":
        steps = _parse_jsonpath(path)
    else:
        steps = NoPath("a path begins with / as in /a/0/b, or with $ as in $.a[0].b")
    if not isinstance(steps, NoPath) and len(steps) > MAX_STEPS:
        return NoPath(f"a path of {len(steps)} steps, limit is {MAX_STEPS}")
    return steps


def _parse_pointer(path: str) -> tuple[PathStep, ...] | NoPath:
    tokens = path.split("/")[1:]
    for token in tokens:
        if any(escape == "~" for escape in _ESCAPE.findall(token)):
            return NoPath("a ~ in a pointer must be written ~0, a / in a name ~1")
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in tokens)


def _parse_jsonpath(path: str) -> tuple[PathStep, ...] | NoPath:
    steps: list[PathStep] = []
    at = 1
    while at < len(path):
        step, end = _next_step(path, at)
        if step is None:
            return NoPath(
                f"the path cannot be read from character {at} on: allowed are .name, ['name'] and [0] one after the "
                "other; *, .., slices and filters are not"
            )
        steps.append(step)
        at = end
    return tuple(steps)


def _next_step(path: str, at: int) -> tuple[PathStep | None, int]:
    """The step that begins at a position and where it ends; None where there is none."""
    if (dot := _DOT.match(path, at)) is not None:
        return dot[1], dot.end()
    bracket = _BRACKET.match(path, at)
    if bracket is None:
        return None, at
    if bracket[1] is not None:
        return int(bracket[1]), bracket.end()
    quoted = bracket[3] if bracket[2] is None else f'"{_QUOTES.sub(_requote, bracket[2])}"'
    try:
        return _text(quoted.encode()), bracket.end()
    except (msgspec.DecodeError, UnicodeError):
        return None, at


def _requote(match: re.Match[str]) -> str:
    """What stands between single quotation marks, as it stands between double ones."""
    found = match[0]
    return "'" if found == "\\'" else '\\"' if found == '"' else found


def pointer_of(steps: Sequence[PathStep]) -> str:
    """Steps as an RFC 6901 pointer."""
    return "".join(f"/{str(step).replace('~', '~0').replace('/', '~1')}" for step in steps)


def follow(document: bytes, steps: Sequence[PathStep]) -> Place:
    """Take the steps as far as they lead. The numbers of elements come out as they count from the front."""
    value, taken = document, list[PathStep]()
    for step in steps:
        found = _take(value, step)
        if found is None:
            return Place(value, tuple(taken), False)
        value = found[1]
        taken.append(found[0])
    return Place(value, tuple(taken), True)


def _take(value: bytes, step: PathStep) -> tuple[PathStep, bytes] | None:
    match children_of(value):
        case dict() as members if isinstance(step, str) and step in members:
            return step, bytes(members[step])
        case list() as elements if (index := _index(step, len(elements))) is not None:
            return index, bytes(elements[index])
        case _:
            return None


def _index(step: PathStep, length: int) -> int | None:
    """The position of an element, None where there is none."""
    if isinstance(step, str):
        if _INDEX.fullmatch(step) is None:
            return None
        step = int(step)
    index = step + length if step < 0 else step
    return index if 0 <= index < length else None


def children_of(value: bytes) -> dict[str, Raw] | list[Raw] | None:
    """The members of an object, the elements of an array; None for anything else, also for what cannot be read."""
    try:
        match kind(value):
            case "object":
                return _members(value)
            case "array":
                return _elements(value)
            case _:
                return None
    except (msgspec.DecodeError, UnicodeError):
        return None
