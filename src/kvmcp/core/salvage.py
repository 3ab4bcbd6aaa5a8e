"""What can be known of a message that is no JSON, or only the beginning of it: its id, where the SDKs write it."""

import re
from typing import Final

_ID: Final = rb'"id"\s*:\s*(-?[0-9]+|"(?:[^"\\\x00-\x1f]|\\.)*")\s*'
_VERSION: Final = rb'"jsonrpc"\s*:\s*"2\.0"\s*'
_BODY: Final = rb'"(method|params|result|error)"'
_HEAD: Final = re.compile(rb"\s*\{\s*(?:%b,\s*)?%b,\s*(?:%b,\s*)?%b" % (_VERSION, _ID, _VERSION, _BODY))
_METHOD_FIRST: Final = re.compile(rb'\s*\{\s*"method"\s*:\s*"[^"\\]*"\s*,\s*' + _ID + rb"[,}]")
_BEGINNING: Final = re.compile(rb"\s*\{\s*" + _BODY)
_TAIL: Final = re.compile(rb"%b,\s*%b\}\s*\Z" % (_VERSION, _ID))
_EDGE: Final = 2048
"""Bytes at either end of a message in which the id is looked for; `Limits.id_bytes` fits."""


def id_and_body(line: bytes) -> tuple[bytes, bytes] | None:
    """The text of the id, and the member that makes it a request or an answer; None where no id can be read."""
    if match := _HEAD.match(line, 0, _EDGE):
        return match[1], match[2]
    if match := _METHOD_FIRST.match(line, 0, _EDGE):
        return match[1], b"method"
    if (beginning := _BEGINNING.match(line)) and (tail := _TAIL.search(line, max(0, len(line) - _EDGE))):
        return tail[1], beginning[1]
    return None
