"""The client's side of a WebSocket connection: no socket, no clock, no loop. `kvmcp.io.client` drives it.

    connection = WebSocketClientConnection(profile, WebSocketAddress("127.0.0.1:8920", "/mcp"), now)
    connection.session.connect(now)
    write(connection.data_to_send())

What the session says before the server has agreed to the upgrade waits until then.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Final

import h11
from msgspec import Struct
from wsproto.connection import ConnectionType
from wsproto.events import AcceptConnection, RejectConnection, Request
from wsproto.frame_protocol import CloseReason
from wsproto.handshake import H11Handshake
from wsproto.utilities import ProtocolError

from kvmcp.core.client.events import Event
from kvmcp.core.client.profile import ClientProfile
from kvmcp.core.client.session import ClientSession
from kvmcp.io.websocket.deflate import Deflate
from kvmcp.io.websocket.frames import Closed, Frames, Violated
from kvmcp.io.websocket.heartbeat import Heartbeat
from kvmcp.io.websocket.limits import HEAD_BYTES, SUBPROTOCOL, WebSocketLimits

CLOSE_TIMEOUT: Final = 5.0
"""Seconds for the server to close after us: it finishes nothing then, so a round trip is enough."""

_END_OF_HEAD: Final = b"\r\n\r\n"


class WebSocketAddress(Struct, frozen=True):
    """What an upgrade asks for."""

    authority: str
    """Host and port as the server knows them: the Host header."""
    path: str = "/"
    headers: Sequence[tuple[bytes, bytes]] = ()
    """More headers: Authorization."""


class _Phase(Enum):
    UPGRADING = "upgrading"
    OPEN = "open"
    CLOSING = "closing"
    """Our Close is out; the server's is waited for."""
    ENDED = "ended"


class WebSocketClientConnection:
    """One connection. Bytes and time go through here, what the application wants to `session`.

    Raises ValueError for an address that cannot be written as an HTTP request.
    """

    def __init__(
        self,
        profile: ClientProfile,
        address: WebSocketAddress,
        now: float,
        limits: WebSocketLimits | None = None,
    ) -> None:
        self.session = ClientSession(profile)
        self.ending = ""
        """Why the connection ended, for people; empty while it has not."""
        self._limits = limits if limits is not None else WebSocketLimits()
        self._message_bytes = profile.limits.wire.message_bytes
        self._deflate = Deflate(self._message_bytes) if self._limits.compression else None
        self._phase = _Phase.UPGRADING
        self._handshake = H11Handshake(ConnectionType.CLIENT)
        self._head = b""
        self._frames: Frames
        self._heartbeat: Heartbeat
        self._now = now
        self._sending = False
        self._due = now + self._limits.handshake_timeout
        """Of the upgrade, later of the end."""
        self._out = [self._request(address)]

    def _request(self, address: WebSocketAddress) -> bytes:
        request = Request(
            host=address.authority,
            target=address.path,
            subprotocols=[SUBPROTOCOL],
            extensions=[] if self._deflate is None else [self._deflate],
            extra_headers=list(address.headers),
        )
        try:
            return bytes(self._handshake.send(request))
        except (h11.LocalProtocolError, UnicodeError) as error:
            raise ValueError(f"no address to connect to: {error}") from error

    # --- input ---

    def receive_data(self, data: bytes, now: float) -> None:
        """Bytes arrived, cut anywhere."""
        self._now = now
        if self._phase is _Phase.UPGRADING:
            data = self._receive_head(data, now)
        if data and self._phase in (_Phase.OPEN, _Phase.CLOSING):
            self._receive_frames(data, now)

    def _receive_head(self, data: bytes, now: float) -> bytes:
        """What is behind the head, once that is there."""
        self._head += data
        head, mark, rest = self._head.partition(_END_OF_HEAD)
        if len(head) > HEAD_BYTES:
            self._end("the head of the response is too long", now)
        elif mark:
            self._head = b""
            self._shake_hands(head + mark, now)
        return rest

    def _shake_hands(self, head: bytes, now: float) -> None:
        try:
            self._handshake.receive_data(head)
            events = list(self._handshake.events())
        except (ProtocolError, ValueError) as error:
            self._end(f"no WebSocket: {error}", now)
            return
        match events:
            case [AcceptConnection(), *_]:
                self._open(now)
            case [RejectConnection(status_code=status), *_]:
                self._end(f"the server refused: HTTP {status}", now)
            case _:
                self._end("no WebSocket", now)

    def _open(self, now: float) -> None:
        is_deflating = self._deflate is not None and self._deflate.enabled()
        self._phase = _Phase.OPEN
        self._heartbeat = Heartbeat(self._limits, now)
        self._frames = Frames(
            ConnectionType.CLIENT,
            self._message_bytes,
            self._deflate if is_deflating else None,
            self._limits.compress_from,
        )

    def _receive_frames(self, data: bytes, now: float) -> None:
        receive_message, heartbeat = self.session.receive_message, self._heartbeat
        heartbeat.hear(now)
        for incoming in self._frames.receive(data):
            if type(incoming) is bytes:
                heartbeat.use(now)
                receive_message(incoming, now)
            elif isinstance(incoming, Closed):
                self._out.append(self._frames.close(incoming.code))
                self._end(f"the server closed: {incoming.code} {incoming.reason}".rstrip(), now)
            elif isinstance(incoming, Violated):
                self._fail(incoming, now)
        if self._phase is _Phase.OPEN:
            self._out += self._frames.take_answers()
        if self._frames.is_between:
            heartbeat.end_message()
        else:
            heartbeat.begin_message(now)

    def receive_eof(self, now: float) -> None:
        """The server is gone."""
        self._end("the server closed the connection", now)

    def close(self, now: float) -> None:
        """Say goodbye. What is open then ends as `ConnectionLost`."""
        if self._phase is _Phase.OPEN:
            self._flush_messages()
            self._out.append(self._frames.close(CloseReason.NORMAL_CLOSURE))
            self._phase = _Phase.CLOSING
            self._due = now + CLOSE_TIMEOUT
        elif self._phase is _Phase.UPGRADING:
            self._end("closed", now)

    def handle_timeout(self, now: float) -> None:
        """`next_deadline` has passed. Early and repeated calls do nothing."""
        self._now = now
        self.session.handle_timeout(now)
        if self._phase is _Phase.OPEN:
            if now >= self._heartbeat.deadline:
                verdict = self._heartbeat.look(now, is_held=self._sending)
                if isinstance(verdict, Violated):
                    self._fail(verdict, now)
                elif verdict:
                    self._out.append(self._frames.ping())
        elif self._phase is not _Phase.ENDED and now >= self._due:
            self._end("the server did not answer in time", now)

    # --- output ---

    def data_to_send(self) -> bytes:
        """All that is to be written, in one piece."""
        if self._phase is _Phase.OPEN:
            self._flush_messages()
        if self.session.closed:
            self.close(self._now)  # The two sides found no common way to talk.
        data = b"".join(self._out)
        self._out.clear()
        self._sending = bool(data)
        return data

    def _flush_messages(self) -> None:
        messages = self.session.take_messages()
        if messages:
            self._heartbeat.use(self._now)
            self._out.append(self._frames.text(messages))

    def take_events(self) -> list[Event]:
        """What has happened since the last take, in order."""
        return self.session.take_events()

    def next_deadline(self) -> float | None:
        """The earliest moment at which `handle_timeout` has something to do."""
        session = self.session.next_deadline()
        if self._phase is _Phase.ENDED:
            return session
        own = self._heartbeat.deadline if self._phase is _Phase.OPEN else self._due
        return own if session is None else min(own, session)

    @property
    def closed(self) -> bool:
        """Whether this is the end: write what is left and hang up."""
        return self._phase is _Phase.ENDED

    def _fail(self, violated: Violated, now: float) -> None:
        self._out.append(self._frames.close(violated.code, violated.reason))
        self._end(f"the connection failed: {violated.code} {violated.reason}", now)

    def _end(self, ending: str, now: float) -> None:
        if self._phase is not _Phase.ENDED:
            self._phase = _Phase.ENDED
            self.ending = ending
        self.session.receive_eof(now)
