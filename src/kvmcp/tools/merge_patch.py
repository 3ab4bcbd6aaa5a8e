"""JSON merge patch (RFC 7386) on JSON text: what a patch does not name stays byte for byte as it was."""

from typing import Final

import msgspec
from msgspec import Raw

from kvmcp.core.json_text import kind

_members: Final = msgspec.json.Decoder(dict[str, Raw]).decode
_encode: Final = msgspec.json.Encoder().encode


def merge_patch(target: bytes | None, patch: bytes) -> bytes:
    """The document that a patch makes of `target`; None stands for no document.

    As deep as the patch. Raises msgspec.DecodeError where the names of an object are no Unicode.
    """
    if kind(patch) != "object":
        return patch
    members = _members(target) if target is not None and kind(target) == "object" else {}
    for name, change in _members(patch).items():
        if kind(change) == "null":
            members.pop(name, None)
        else:
            there = members.get(name)
            members[name] = Raw(merge_patch(None if there is None else bytes(there), bytes(change)))
    return _encode(members)
