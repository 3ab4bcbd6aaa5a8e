"""What goes in and out of an HTTP exchange, as values (reference: RFC 9110; MCP, Streamable HTTP)."""

from typing import Final, TypeAlias

from msgspec import Struct

Field: TypeAlias = tuple[bytes, bytes]
"""A header's name and value, as they are on the wire. Names are compared without regard to case."""


class Request(Struct, frozen=True):
    """The head of a request to the endpoint. Which path that is, the driver knows."""

    method: str
    headers: list[Field]


class ResponseStart(Struct, frozen=True):
    """The head of the response. Names are lower-case."""

    status: int
    headers: list[Field]


class BodyPart(Struct, frozen=True):
    """A piece of the response's body; the last one has no `more`."""

    data: bytes
    more: bool = False


Part: TypeAlias = ResponseStart | BodyPart

JSON: Final = b"application/json"
EVENTS: Final = b"text/event-stream"

SAFE: Final[list[Field]] = [(b"x-content-type-options", b"nosniff")]
"""On every response: a browser must not take it for anything else than it is."""

_JSON_HEAD: Final[list[Field]] = [(b"content-type", JSON), (b"cache-control", b"no-store"), *SAFE]
_EVENTS_HEAD: Final[list[Field]] = [
    (b"content-type", EVENTS),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
    *SAFE,
]
"""A proxy must pass a stream on as it comes: nginx reads `X-Accel-Buffering`."""


def json_response(status: int, body: bytes, *more: Field) -> list[Part]:
    """A whole response: one start with its length, one body."""
    length = (b"content-length", b"%d" % len(body))
    return [ResponseStart(status, [*_JSON_HEAD, length, *more]), BodyPart(body)]


def empty_response(status: int, *more: Field) -> list[Part]:
    """A whole response without a body. 204 has no length at all (RFC 9110, section 8.6)."""
    length: list[Field] = [] if status == 204 else [(b"content-length", b"0")]
    return [ResponseStart(status, [*SAFE, *length, *more]), BodyPart(b"")]


def events_start(*more: Field) -> ResponseStart:
    """The head of a stream of events."""
    return ResponseStart(200, [*_EVENTS_HEAD, *more])
