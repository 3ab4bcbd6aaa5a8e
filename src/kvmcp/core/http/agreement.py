"""Whether the headers of a modern request say what its body says (reference: MCP 2026-07-28, standard headers).

"The body is the source of truth"; whoever routes by headers must be able to rely on them, so a request whose
headers are missing, repeated, malformed or different is refused with -32020. Each function gives the fault in
words, or None.
"""

import re
from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Raw, Struct

from kvmcp.core.http import header_values
from kvmcp.core.http.headers import Headers
from kvmcp.core.json_text import kind
from kvmcp.core.mirrors import Mirror

VERSION: Final = b"mcp-protocol-version"
METHOD: Final = b"mcp-method"
NAME: Final = b"mcp-name"
SESSION: Final = b"mcp-session-id"

_SHOWN: Final = 128
"""Characters of a peer's text in one message."""


class _Named(Struct, frozen=True):
    """The members that `Mcp-Name` may repeat, whatever they hold."""

    name: Raw = Raw()
    uri: Raw = Raw()
    task_id: Raw = msgspec.field(name="taskId", default=Raw())


_NAMED: Final[Mapping[str, str]] = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "task_id",
    "tasks/update": "task_id",
    "tasks/cancel": "task_id",
}
"""The methods whose params have a member that `Mcp-Name` repeats."""

_decode_named = msgspec.json.Decoder(_Named).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode


def fault(headers: Headers, version: str, method: str, params: Raw) -> str | None:
    """What is wrong with the headers that every request has, and with `Mcp-Name`."""
    said = headers.get(VERSION)
    if said is None:
        return "MCP-Protocol-Version is missing"
    if headers.is_repeated(VERSION) or said != version:
        return f"MCP-Protocol-Version says {_shown(said)}, body says {_shown(version)}"
    said = headers.get(METHOD)
    if said is None:
        return "Mcp-Method is missing"
    if headers.is_repeated(METHOD) or said != method:
        return f"Mcp-Method says {_shown(said)}, body says {_shown(method)}"
    member = _NAMED.get(method)
    return None if member is None else _name_fault(headers, member, params)


def name_of(headers: Headers) -> str | None:
    """What `Mcp-Name` says, decoded; None where it is missing or malformed."""
    said = headers.get(NAME)
    return None if said is None else header_values.decode(said)


def _name_fault(headers: Headers, member: str, params: Raw) -> str | None:
    name = _text(getattr(_decode_named(params), member))
    if name is None:
        return None  # The body lacks what is repeated: that is said as -32602, not as a mismatch.
    return _text_fault(headers, NAME, "Mcp-Name", name)


def params_fault(headers: Headers, mirrors: tuple[Mirror, ...], arguments: Raw) -> str | None:
    """What is wrong with the `Mcp-Param-…` headers of a call. `arguments` is JSON text, empty where there are none."""
    for mirror in mirrors:
        found = _param_fault(headers, mirror, _value_at(mirror.path, arguments))
        if found is not None:
            return found
    return None


def _param_fault(headers: Headers, mirror: Mirror, value: Raw) -> str | None:
    label = mirror.header.decode()
    match kind(value) if len(value) else "null":
        case "string":
            text = _text(value)
            return None if text is None else _text_fault(headers, mirror.header, label, text)
        case "boolean":
            return _text_fault(headers, mirror.header, label, bytes(value).decode())
        case "integer" | "number":
            return _number_fault(headers, mirror.header, label, bytes(value).decode())
        case "null":
            return _absence_fault(headers, mirror.header, label)
        case _:  # Not of the annotated type: the tool's own check says so.
            return None


def _absence_fault(headers: Headers, name: bytes, label: str) -> str | None:
    """A header without a value in the body would be believed by whoever routes by it."""
    return None if headers.get(name) is None else f"{label} is there, but the body has no such value"


def _text_fault(headers: Headers, name: bytes, label: str, expected: str) -> str | None:
    said = headers.get(name)
    if said is None:
        return f"{label} is missing"
    if headers.is_repeated(name):
        return f"{label} stands more than once"
    decoded = header_values.decode(said)
    if decoded is None:
        return f"{label} is malformed"
    return None if decoded == expected else f"{label} says {_shown(decoded)}, body says {_shown(expected)}"


def _number_fault(headers: Headers, name: bytes, label: str, expected: str) -> str | None:
    """ "Servers SHOULD compare integers numerically": 42.0 is 42."""
    said = headers.get(name)
    if said is not None and not headers.is_repeated(name) and _same_number(said, expected):
        return None
    return _text_fault(headers, name, label, expected)


_INTEGRAL: Final = re.compile(r"(-?[0-9]{1,32})(?:\.0{1,32})?\Z", re.ASCII)


def _same_number(said: str, expected: str) -> bool:
    ours, theirs = _INTEGRAL.match(said), _INTEGRAL.match(expected)
    return ours is not None and theirs is not None and int(ours[1]) == int(theirs[1])


def _value_at(path: tuple[str, ...], arguments: Raw) -> Raw:
    """The argument at `path`, empty where there is none."""
    value = arguments
    for name in path:
        try:
            value = _decode_members(value).get(name, Raw())
        except (msgspec.DecodeError, UnicodeDecodeError):
            return Raw()
    return value


def _text(raw: Raw) -> str | None:
    """The string that a JSON text is, None where it is none."""
    try:
        return _decode_text(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
