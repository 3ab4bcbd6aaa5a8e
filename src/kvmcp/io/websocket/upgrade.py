"""The upgrade of an HTTP/1.1 connection to WebSocket, on the server's side (RFC 6455, section 4.2).

Knows heads of requests, not frames. Whatever is sent here ends in one of three ways: more is needed, the
connection is upgraded, or it gets an HTTP response and is closed. h11 reads the head and wsproto decides about
the handshake; what makes them raise other exceptions than their own - a Host that is no name, a subprotocol that
is not ASCII - is refused before.
"""

import base64
import binascii
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, TypeAlias

import h11
from msgspec import Struct
from wsproto.connection import ConnectionType
from wsproto.events import AcceptConnection, RejectConnection
from wsproto.handshake import H11Handshake
from wsproto.utilities import RemoteProtocolError

from kvmcp.core.http.guard import Guard, Turned
from kvmcp.core.http.messages import BodyPart, Field, Part, Request, ResponseStart, json_response
from kvmcp.core.plan import Caller
from kvmcp.io.websocket.deflate import Deflate
from kvmcp.io.websocket.limits import HEAD_BYTES, SUBPROTOCOL

PATHS: Final = frozenset({"/", "/mcp", "/ws"})
HEALTH: Final = "/healthz"

CallerOf: TypeAlias = Callable[[Request], Caller | Turned]
"""Who asks for an upgrade, by its head (`Authorization`), or the response that refuses it."""

_READ_BY_WSPROTO: Final = (
    b"connection",
    b"upgrade",
    b"sec-websocket-extensions",
    b"sec-websocket-key",
    b"sec-websocket-protocol",
    b"sec-websocket-version",
)


def anybody(request: Request) -> Caller:
    """For servers that authenticate nobody."""
    return Caller()


class Door(Struct, frozen=True):
    """Who may come in; one for all connections of a listener."""

    guard: Guard
    caller_of: CallerOf = anybody
    paths: frozenset[str] = PATHS
    """Where an upgrade is taken; elsewhere the answer is 404."""

    def admit(self, path: str, request: Request) -> Caller | list[Part]:
        """The caller, or the refusal. Where, from where, who: in this order."""
        if path not in self.paths:
            return text_response(404, f"no WebSocket here, but at {' '.join(sorted(self.paths))}")
        return self.check(request)

    def check(self, request: Request) -> Caller | list[Part]:
        """The same where the path is known to be right."""
        checked = self.guard.check(request)
        if isinstance(checked, Turned):
            return checked.parts
        caller = self.caller_of(request)
        return caller.parts if isinstance(caller, Turned) else caller


class Upgraded(Struct, frozen=True):
    """Frames from now on: send `response`, then read `trailing`, which came behind the head."""

    caller: Caller
    response: bytes
    trailing: bytes
    deflate: Deflate | None


class Refused(Struct, frozen=True):
    """Send `response` and close."""

    response: bytes


class Upgrade:
    """One connection until it is upgraded or refused. `deflate` makes compression possible."""

    def __init__(self, door: Door, deflate: Deflate | None = None) -> None:
        self._door = door
        self._deflate = deflate
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)

    def receive(self, data: bytes) -> Upgraded | Refused | None:
        """Bytes arrived, cut anywhere; None where the head is not yet whole."""
        if data:  # Nothing is the end of the stream, to h11.
            self._h11.receive_data(data)
        try:
            event = self._h11.next_event()
            if event is h11.NEED_DATA:
                return None
            if not isinstance(event, h11.Request):
                return Refused(b"")  # the end of the stream
            return self._answer(event)
        except h11.RemoteProtocolError as error:
            # h11's own words: they may repeat what was sent, so they are not sent back.
            return _refused(error.error_status_hint, "this is no HTTP/1.1 request")

    def _answer(self, head: h11.Request) -> Upgraded | Refused:
        path = head.target.decode("latin-1").partition("?")[0]
        request = Request(head.method.decode("ascii"), list(head.headers))
        if not _wants_upgrade(request):
            return Refused(_plain(request.method, path))
        if request.method != "GET" or head.http_version != b"1.1":
            return _refused(400, "an upgrade is a GET of HTTP/1.1")
        admitted = self._door.admit(path, request)
        if not isinstance(admitted, Caller):
            return Refused(render(admitted))
        if not isinstance(self._h11.next_event(), h11.EndOfMessage):
            return _refused(400, "an upgrade has no body")
        trailing, _ = self._h11.trailing_data
        return self._shake_hands(request, admitted, trailing)

    def _shake_hands(self, request: Request, caller: Caller, trailing: bytes) -> Upgraded | Refused:
        problem = _problem(request)
        if problem:
            return _refused(400, problem)
        headers = [(name, value) for name, value in request.headers if name.lower() in _READ_BY_WSPROTO]
        handshake = H11Handshake(ConnectionType.SERVER)
        try:
            # The Host was checked by the guard; wsproto only wants to see one, and trips over odd ones.
            handshake.initiate_upgrade_connection([(b"host", b"localhost"), *headers], "/")
        except RemoteProtocolError as error:
            hint = error.event_hint
            more = list(hint.headers) if isinstance(hint, RejectConnection) else []
            status = hint.status_code if isinstance(hint, RejectConnection) else 400
            return Refused(render(text_response(status, str(error), *more)))
        accepted = AcceptConnection(
            subprotocol=SUBPROTOCOL if offers_ours(values(request, b"sec-websocket-protocol")) else None,
            extensions=[] if self._deflate is None else [self._deflate],
        )
        response = handshake.send(accepted)
        is_deflating = self._deflate is not None and self._deflate.enabled()
        return Upgraded(caller, response, trailing, self._deflate if is_deflating else None)


def offers_ours(offers: list[bytes]) -> bool:
    """Whether the client offers our subprotocol. One that offers none, or others only, is served without."""
    names = [name.strip() for offer in offers for name in offer.split(b",")]
    return SUBPROTOCOL.encode() in names


def values(request: Request, name: bytes) -> list[bytes]:
    """All values of a header."""
    return [value for field, value in request.headers if field.lower() == name]


def _wants_upgrade(request: Request) -> bool:
    return any(value.strip().lower() == b"websocket" for value in values(request, b"upgrade"))


def _problem(request: Request) -> str:
    """What wsproto does not look at, or trips over."""
    for name in (
        b"connection",
        b"sec-websocket-extensions",
        b"sec-websocket-protocol",
        b"sec-websocket-version",
    ):
        if not all(value.isascii() for value in values(request, name)):
            return f"{name.decode()} is not ASCII"
    keys = values(request, b"sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        return "Sec-WebSocket-Key must be there once, 16 bytes in Base64"
    if len(values(request, b"sec-websocket-version")) > 1:
        return "Sec-WebSocket-Version must be there once"
    return ""


def _is_key(value: bytes) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) == 16
    except binascii.Error:
        return False


def _plain(method: str, path: str) -> bytes:
    """The answer to a request that is no upgrade."""
    has_body = method != "HEAD"
    if path == HEALTH and method in ("GET", "HEAD"):
        return render(json_response(200, b'{"status":"ok"}'), has_body=has_body)
    upgrade: Field = (b"upgrade", b"websocket")
    problem = "this port speaks MCP over WebSocket; connect with ws:// and subprotocol mcp"
    return render(text_response(426, problem, upgrade), has_body=has_body)


def _refused(status: int, problem: str) -> Refused:
    return Refused(render(text_response(status, problem)))


def text_response(status: int, text: str, *more: Field) -> list[Part]:
    """A whole response with a line of text for people."""
    body = text.encode() + b"\n"
    length: Field = (b"content-length", b"%d" % len(body))
    kind: Field = (b"content-type", b"text/plain; charset=utf-8")
    return [
        ResponseStart(status, [kind, length, (b"x-content-type-options", b"nosniff"), *more]),
        BodyPart(body),
    ]


def render(parts: list[Part], *, has_body: bool = True) -> bytes:
    """A whole response as bytes; the connection ends with it."""
    pieces: list[bytes] = []
    for part in parts:
        if isinstance(part, ResponseStart):
            pieces.append(b"HTTP/1.1 %d %b\r\n" % (part.status, HTTPStatus(part.status).phrase.encode()))
            pieces += [b"%b: %b\r\n" % field for field in part.headers]
            # "The sender of an Upgrade header field MUST also send an "Upgrade" connection option."
            upgrades = any(name == b"upgrade" for name, _ in part.headers)
            pieces.append(b"connection: %bclose\r\n\r\n" % (b"upgrade, " if upgrades else b""))
        elif has_body:
            pieces.append(part.data)
    return b"".join(pieces)
