"""How a value of the body is written in a header, and read back (reference: MCP 2026-07-28, standard headers).

Visible ASCII goes as it is, everything else as `=?base64?…?=`: a header can carry neither a line break nor
anything that a proxy would trim or re-code.
"""

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from typing import Final

_PREFIX: Final = "=?base64?"
_SUFFIX: Final = "?="
_PLAIN: Final = re.compile(r"(?:[!-~](?:[ -~]*[!-~])?)?\Z")
"""Printable ASCII without white space at its edges; empty is plain, too."""


def encode(value: str) -> str:
    """`value` as a header carries it. "Values that already look like the sentinel are encoded too"."""
    if _PLAIN.match(value) and not _is_marked(value):
        return value
    return f"{_PREFIX}{b64encode(value.encode()).decode()}{_SUFFIX}"


def decode(text: str) -> str | None:
    """The value that a header carries, None where it is none: bad base64, no UTF-8, characters that must be encoded.

    "Without the complete prefix and suffix the text is literal."
    """
    if not _is_marked(text):
        return text if _PLAIN.match(text) else None
    encoded = text[len(_PREFIX) : -len(_SUFFIX)]
    try:
        decoded = b64decode(encoded, validate=True)
        # Bits that base64 ignores would make two spellings of one value: parsers disagree on them.
        return decoded.decode() if b64encode(decoded).decode() == encoded else None
    except (Base64Error, ValueError):
        return None


def _is_marked(text: str) -> bool:
    marks = len(_PREFIX) + len(_SUFFIX)
    return text.startswith(_PREFIX) and text.endswith(_SUFFIX) and len(text) >= marks
