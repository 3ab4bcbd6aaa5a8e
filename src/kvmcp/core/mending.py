"""Reading arguments that do not fit as they came: what can be mended, and what is said where it cannot.

Loaded when the first such arguments come, or with the first tool that brings a schema of its own: what hosts send
fits, nearly always.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

import msgspec
from msgspec import Raw, Struct

from kvmcp.core.errors import clip
from kvmcp.core.items import BadArguments, Parsed
from kvmcp.core.json_schema import Schema, describe, example, plain_type, size_said
from kvmcp.core.json_text import Kind, kind, too_deep
from kvmcp.core.limits import Limits

_MAX_DEPTH: Final = Limits().nesting_depth
"""Levels of a JSON text that came in a string: the message's own check cannot see them."""
_SHOWN_NAMES: Final = 5
"""Unknown names in one message; they are the peer's own text."""

UNREADABLE: Final = (msgspec.DecodeError, UnicodeError, RecursionError)
"""What decoding can raise; msgspec.ValidationError is a DecodeError."""

decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_items = msgspec.json.Decoder(list[Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_any = msgspec.json.Decoder(Raw).decode
decode_schema = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode

_STRING_NOTE: Final = (
    "note: the arguments came as a string and were read as a JSON object; send an object next time."
)
_NULL_NOTE: Final = "note: the arguments came as null and were read as {}; send an object next time."


def repair(raw: bytes, shape: "Shape", decode: Callable[[bytes], object]) -> Parsed | BadArguments:
    """Read arguments that `decode` refused. Never raises; arguments that `decode` takes come back as they are."""
    text, notes = _unwrap(raw)
    try:
        return Parsed(decode(text), notes)
    except UNREADABLE:
        pass  # What is wrong is said of the mended text below.
    try:
        members = decode_members(text)
    except UNREADABLE:
        return BadArguments(_unreadable(text))
    if mended := shape.mend(members):
        text = _encode(members)
    try:
        return Parsed(decode(text), (*notes, *mended))
    except msgspec.ValidationError as error:
        faults = shape.faults(members) or [_explain(str(error), shape.root, text)]
        return BadArguments("; ".join(faults))
    except UNREADABLE:
        return BadArguments(_unreadable(text))


def _unwrap(raw: bytes) -> tuple[bytes, tuple[str, ...]]:
    """The text of the arguments' object, and a note where it came otherwise. Absent arguments are `{}`."""
    if not raw.strip():
        return b"{}", ()
    match kind(raw):
        case "null":
            return b"{}", (_NULL_NOTE,)
        case "string" if (text := _text_in(raw)) is not None and kind(text) == "object":
            return text, (_STRING_NOTE,)
        case _:
            return raw, ()


def _text_in(raw: bytes) -> bytes | None:
    """The JSON text that a JSON string holds, None where it holds something else or is nested too deeply."""
    try:
        text = bytes(_decode_any(_decode_text(raw).encode()))
    except UNREADABLE:
        return None
    return None if too_deep(text, _MAX_DEPTH) else text


def _unreadable(text: bytes) -> str:
    """What is wrong with arguments that are no JSON object, or hold text that is no Unicode."""
    try:
        found = kind(_decode_any(text))
    except UNREADABLE:
        return "the arguments are not JSON"
    if found == "object":
        return "the arguments hold text that is not UTF-8"
    return f'the arguments: {_CAME[found]} came, but only an object is allowed, like {{"name": …}}'


_CAME: Final[dict[Kind, str]] = {
    "object": "an object",
    "array": "an array",
    "string": "a string",
    "integer": "an integer",
    "number": "a number",
    "boolean": "a boolean",
    "null": "null",
}
_PARSED: Final = ("object", "array", "integer", "number", "boolean")
_INTEGRAL: Final = re.compile(rb"(-?[0-9]{1,16})(?:\.0{1,32})?(?:[eE]\+?([0-9]{1,2}))?\Z")
_LARGEST: Final = 2**53
"""Above it a double does not hold every integer, so its integral value would be a guess."""


class Shape(Struct, frozen=True):
    """The top level of a schema: what a repair and a message need of it."""

    root: Schema
    properties: dict[str, object]
    types: dict[str, Kind]
    """The plain type of each property that has one."""
    required: tuple[str, ...]
    closed: bool
    nullable: frozenset[str]

    @classmethod
    def of(cls, root: Schema, nullable: frozenset[str]) -> "Shape":
        """Any JSON object can be `root`: what is not understood is left out."""
        found = root.get("properties")
        properties = cast(dict[str, object], found) if isinstance(found, dict) else {}
        required = root.get("required")
        names = cast(list[object], required) if isinstance(required, list) else []
        return cls(
            root=root,
            properties=properties,
            types={name: named for name, node in properties.items() if (named := plain_type(node))},
            required=tuple(name for name in names if isinstance(name, str)),
            closed=root.get("additionalProperties") is False and "patternProperties" not in root,
            nullable=nullable,
        )

    def mend(self, members: dict[str, Raw]) -> tuple[str, ...]:
        """Repair `members` in place. Returns a note for each repair."""
        notes: list[str] = []
        for name, wanted in self.types.items():
            if name not in members or (came := kind(members[name])) == wanted:
                continue
            if came == "null" and name not in self.required and name not in self.nullable:
                del members[name]
                notes.append(f"note: `{name}` came as null and was read as absent; leave it out next time.")
            elif (mended := _mend(members[name], came, wanted)) is not None:
                members[name] = Raw(mended)
                notes.append(_note(name, came, wanted))
        return tuple(notes)

    def faults(self, members: Mapping[str, Raw]) -> list[str]:
        """What is wrong with the names and plain types, in sentences for a model."""
        unknown = [name for name in members if name not in self.properties] if self.closed else []
        faults = [f"unknown argument `{clip(name)}`{self._hint(name)}" for name in unknown[:_SHOWN_NAMES]]
        if len(unknown) > _SHOWN_NAMES:
            faults.append(f"{len(unknown) - _SHOWN_NAMES} more unknown arguments")
        faults += [f"`{name}` is missing" for name in self.required if name not in members]
        if faults:
            faults.append(self._allowed())
        return faults + [
            _mismatch(f"`{name}`", self.properties[name], came, members[name])
            for name, wanted in self.types.items()
            if name in members
            and not _is_a(came := kind(members[name]), wanted)
            and not self._takes(name, came)
        ]

    def _takes(self, name: str, came: Kind) -> bool:
        return came == "null" and name in self.nullable

    def _hint(self, name: str) -> str:
        if clip(name) != name:
            return ""
        from difflib import get_close_matches  # 1.4 ms that only the first wrong name shall cost

        near = get_close_matches(name.lower(), self.properties, n=1)
        return f" (did you mean `{near[0]}`?)" if near else ""

    def _allowed(self) -> str:
        if not self.properties:
            return "no arguments are allowed"
        named = [f"`{name}` (required)" if name in self.required else f"`{name}`" for name in self.properties]
        return "allowed arguments: " + ", ".join(named)


_WANTED: Final[dict[Kind, str]] = {**_CAME, "boolean": "true or false"}


def _note(name: str, came: Kind, wanted: Kind) -> str:
    read = f"a JSON {wanted}" if came == "string" else "an integer"
    return f"note: `{name}` came as {_WANTED[came]} and was read as {read}; send {_WANTED[wanted]} next time."


def _is_a(came: Kind, wanted: Kind) -> bool:
    return came == wanted or (came == "integer" and wanted == "number")


def _mend(raw: bytes, came: Kind, wanted: Kind) -> bytes | None:
    """The JSON text of type `wanted` that `raw` means, None where it does not mean one."""
    if came == "string" and wanted in _PARSED:
        text = _text_in(raw)
        if text is None or _is_a(kind(text), wanted):
            return text
        raw, came = text, kind(text)
    return _integer(raw) if came == "number" and wanted == "integer" else None


def _integer(raw: bytes) -> bytes | None:
    """The integer that a number without a fraction is, exactly."""
    match = _INTEGRAL.match(raw)
    if match is None:
        return None
    value = int(match[1]) * 10 ** int(match[2] or 0)
    return b"%d" % value if abs(value) <= _LARGEST else None


# --- explaining ---

_PLACE: Final = re.compile(r" - at `\$(.*)`\Z", re.DOTALL)
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[([0-9]+)\]|\[\.\.\.\]")


_NUMBER: Final = re.compile(rb"\s*(-?[0-9][0-9.eE+-]{0,24})\s*\Z")
"""A number that is short enough to be said again."""


def _mismatch(where: str, node: object, came: Kind | None, raw: Raw | None) -> str:
    """What came at a place, and what its schema allows."""
    what = f"{_said(node, came, raw)} came"
    allowed = describe(node)
    if allowed is None or (came is not None and allowed == _CAME[came]):
        return f"{where}: {what}, and it does not fit"
    shown = example(node) if came != plain_type(node) else None
    return f"{where}: {what}, but only {allowed} is allowed" + (f", like {shown}" if shown else "")


def _said(node: object, came: Kind | None, raw: Raw | None) -> str:
    """What came: a number as it is, where the schema asks for one; else its kind, and its size if that is bounded."""
    if raw is None or came is None:
        return "something else"
    number = _NUMBER.match(bytes(raw)) if plain_type(node) in ("integer", "number") else None
    return number[1].decode() if number is not None else _CAME[came] + size_said(node, came, raw)


def _explain(problem: str, root: Schema, text: bytes) -> str:
    """A sentence out of msgspec's: it knows the place; what it says of values is not repeated."""
    place = _PLACE.search(problem)
    path = place[1] if place is not None else ""
    where = f"`{clip(path.removeprefix('.'))}`" if path else "the arguments"
    node, came = _follow(path, root, Raw(text))
    if problem.startswith("Object "):  # Names a field that is missing or unknown.
        members = cast(Schema, cast(Schema, node or {}).get("properties") or {})
        allowed = "; allowed are " + ", ".join(f"`{name}`" for name in members) if members else ""
        return f"{where}: o{clip(_PLACE.sub('', problem)[1:])}{allowed}"
    return _mismatch(where, node, None if came is None else kind(came), came)


def _follow(path: str, node: object, raw: Raw | None) -> tuple[object, Raw | None]:
    """The schema and the text of the value at `path`; None where the path does not lead to one value."""
    for step in _STEP.finditer(path):
        schema = cast(Schema, node) if isinstance(node, dict) else {}
        name, index = step[1], step[2]
        raw = _child(raw, name, index)
        if name is not None:
            node = cast(Schema, schema.get("properties") or {}).get(name)
        else:
            node = schema.get("items" if index is not None else "additionalProperties")
    return node, raw


def _child(raw: Raw | None, name: str | None, index: str | None) -> Raw | None:
    """A member or an item of the JSON text; None where there is none, or the step does not say which."""
    if raw is None or (name is None and index is None):
        return None
    try:
        return decode_members(raw)[name] if name is not None else _decode_items(raw)[int(index or 0)]
    except (*UNREADABLE, LookupError):
        return None
