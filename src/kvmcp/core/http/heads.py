"""What the head of a request says, read once: clients send the same few heads with all their requests.

Knows header lines and nothing of bodies. `Heads` remembers what it has read, boundedly; a request whose head is
remembered costs one look-up, whatever it took to check it (benchmarks/http.py).
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from kvmcp.core.http import agreement
from kvmcp.core.http.guard import Guard, Passed, Turned
from kvmcp.core.http.headers import Headers
from kvmcp.core.http.messages import Field, Request

REMEMBERED_HEADS: Final = 256
"""A client has one or two, and some hundred clients take turns in one process."""
REMEMBERED_BYTES: Final = 2048
"""Names and values of a head that is remembered: with `REMEMBERED_HEADS` half a megabyte at most."""

SECRETS: Final = frozenset({b"authorization", b"proxy-authorization", b"cookie", b"x-api-key"})
"""Headers whose values open doors elsewhere. Nothing here depends on them, and no memory of ours is to hold them
longer than their request."""

_LINES: Final = frozenset(
    {
        b"content-type",
        b"accept",
        b"content-length",
        agreement.SESSION,
        agreement.VERSION,
        agreement.METHOD,
        agreement.NAME,
    }
)
"""Headers that a plain POST has once at most."""


class PlainPost(Struct, frozen=True):
    """What the head of a POST says that leaves nothing to refuse before the body is read; None where it is silent."""

    length: int | None
    session: str | None
    version: str | None
    method: str | None
    name: str | None
    """Decoded; None also where it is malformed."""


class Head(Struct, frozen=True):
    """A request's head, with what there is to know of it."""

    request: Request
    """Without `SECRETS` where `Heads` has read it."""
    headers: Headers
    plain: PlainPost | None
    """None where it is no POST, or one that has to be looked at header by header."""


class Heads:
    """Heads that were read, and what a guard said of each."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._known: dict[tuple[object, ...], tuple[Head, Passed | Turned]] = {}

    def read(self, method: str, fields: Sequence[Field]) -> tuple[Head, Passed | Turned]:
        """The head of a request, `SECRETS` left out, and whether it may go on."""
        key = (method, *map(tuple, fields))
        known = self._known.get(key)
        if known is not None:
            return known
        public = [(name, value) for name, value in fields if name.lower() not in SECRETS]
        if len(public) < len(fields):
            return self.read(method, public)
        request = Request(method, public)
        read = (read_head(request), self._guard.check(request))
        if sum(len(name) + len(value) for name, value in request.headers) <= REMEMBERED_BYTES:
            if len(self._known) >= REMEMBERED_HEADS:
                self._known.clear()
            self._known[key] = read
        return read


def read_head(request: Request) -> Head:
    """What a request's head says."""
    headers = Headers(request.headers)
    is_plain = (
        request.method == "POST"
        and not any(map(headers.is_repeated, _LINES))
        and headers.has_json_body()
        and headers.accepts_both()
    )
    return Head(request, headers, _plain_post(headers) if is_plain else None)


def _plain_post(headers: Headers) -> PlainPost:
    return PlainPost(
        headers.content_length(),
        headers.get(agreement.SESSION),
        headers.get(agreement.VERSION),
        headers.get(agreement.METHOD),
        agreement.name_of(headers),
    )
