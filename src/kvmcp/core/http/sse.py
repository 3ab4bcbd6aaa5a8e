"""Server-sent events as they are written (reference: WHATWG HTML, server-sent events; MCP, Streamable HTTP)."""

from typing import Final

COMMENT: Final = b": keep-alive\n\n"
"""Keeps a silent connection open; clients ignore it."""

_LINE_BREAKS: Final = bytes.maketrans(b"\r\n", b"  ")


def event(message: bytes, id: bytes = b"") -> bytes:
    """One message as one event, on one `data` line: between the tokens of JSON a line break is only white space."""
    if b"\n" in message or b"\r" in message:
        message = message.translate(_LINE_BREAKS)
    if id:
        return b"id: %b\ndata: %b\n\n" % (id, message)
    return b"data: %b\n\n" % message


def priming(id: bytes, retry_ms: int) -> bytes:
    """An event without data: tells a client where to resume, and when, before there is anything to tell."""
    return b"id: %b\nretry: %d\ndata: \n\n" % (id, retry_ms)
