"""The server's side of a WebSocket connection, as a machine for `kvmcp.io.driver`: no socket, no clock, no loop.

    bytes ▸ upgrade ▸ frames ▸ whole messages ▸ session ▸ messages ▸ frames ▸ bytes

It ends by our Close frame, or by an HTTP response where it was not upgraded. Then `closed` is true: what is left
is written, and whoever has the socket closes it, which waits a little for the peer's own Close (`kvmcp.io.sockets`).
A peer that goes takes with it what it asked for: nothing is finished that nobody hears of.
"""

import logging
from enum import Enum

from wsproto.connection import ConnectionType
from wsproto.frame_protocol import CloseReason

from kvmcp.core.commands import Command, Said, Ticket
from kvmcp.core.plan import Caller
from kvmcp.core.service import Service
from kvmcp.core.session import ServerSession
from kvmcp.core.subscriptions import Event
from kvmcp.io.websocket.deflate import Deflate
from kvmcp.io.websocket.frames import Closed, Frames, Received, Violated
from kvmcp.io.websocket.heartbeat import Heartbeat
from kvmcp.io.websocket.limits import WebSocketLimits
from kvmcp.io.websocket.upgrade import Door, Refused, Upgrade, Upgraded, render, text_response

logger = logging.getLogger("kvmcp.io")


class Phase(Enum):
    """Where a connection is. It never goes back."""

    UPGRADING = "upgrading"
    OPEN = "open"
    CLOSING = "closing"
    """Nothing more counts that comes in; our Close goes out behind what is answered in this turn."""
    ENDED = "ended"
    """Our last bytes are rendered, or waiting in `data_to_send`."""


class WebSocketConnection:
    """One client's connection. `now` is when it began; `door` and `service` are shared by all of a listener."""

    def __init__(
        self, service: Service, door: Door, now: float, limits: WebSocketLimits | None = None
    ) -> None:
        self._service = service
        self._limits = limits if limits is not None else WebSocketLimits()
        self._message_bytes = service.limits.message_bytes
        deflate = Deflate(self._message_bytes) if self._limits.compression else None
        self._upgrade: Upgrade | None = Upgrade(door, deflate)
        self._phase = Phase.UPGRADING
        self._session = ServerSession(service, Caller())
        self._frames: Frames
        self._out: list[bytes] = []
        self._sending = False
        """Whether what was rendered last is, as far as we know, still being written."""
        self._now = now
        self._upgrade_due = now + self._limits.handshake_timeout
        self._heartbeat: Heartbeat
        self._closing = (int(CloseReason.NORMAL_CLOSURE), "")

    # --- input ---

    def receive_data(self, data: bytes, now: float) -> None:
        """Bytes arrived, cut anywhere."""
        self._now = now
        try:
            if self._phase is Phase.OPEN:
                self._receive_frames(data, now)
            elif self._phase is Phase.UPGRADING:
                self._receive_head(data, now)
        except Exception as error:  # a bug of ours: the peer is told that it is not at fault
            logger.error("a WebSocket connection failed", exc_info=error)
            self._close(CloseReason.INTERNAL_ERROR, "internal error")
            if self._phase is Phase.UPGRADING:
                self._end(now)

    def _receive_head(self, data: bytes, now: float) -> None:
        assert self._upgrade is not None
        outcome = self._upgrade.receive(data)
        if outcome is None:
            return
        self._upgrade = None
        self._out.append(outcome.response)
        if isinstance(outcome, Refused):
            self._end(now)
        else:
            self._open(outcome, now)

    def _open(self, upgraded: Upgraded, now: float) -> None:
        self._phase = Phase.OPEN
        self._session = ServerSession(self._service, upgraded.caller)
        self._frames = Frames(
            ConnectionType.SERVER, self._message_bytes, upgraded.deflate, self._limits.compress_from
        )
        self._heartbeat = Heartbeat(self._limits, now)
        if upgraded.trailing:
            self._receive_frames(upgraded.trailing, now)

    def _receive_frames(self, data: bytes, now: float) -> None:
        receive_message, heartbeat = self._session.receive_message, self._heartbeat
        heartbeat.hear(now)
        for incoming in self._frames.receive(data):
            if type(incoming) is bytes:
                heartbeat.use(now)
                receive_message(incoming, now)
            elif isinstance(incoming, Closed):
                # "… the endpoint typically echos the status code it received" (section 5.5.1).
                self._close(incoming.code)
            elif isinstance(incoming, Violated):
                self._close(incoming.code, incoming.reason)
            else:
                assert isinstance(incoming, Received)
        self._out += self._frames.take_answers()
        if self._frames.is_between:
            heartbeat.end_message()
        else:
            heartbeat.begin_message(now)

    def receive_eof(self, now: float) -> None:
        """The peer is gone, with or without a Close."""
        self._end(now)

    def complete(self, ticket: Ticket, outcome: object, now: float) -> None:
        """A command finished; the outcome is a value, failures included. See `kvmcp.core.commands`."""
        self._now = now
        self._session.complete(ticket, outcome, now)

    def tell(self, ticket: Ticket, said: Said, now: float) -> None:
        """A running job reports progress, logs, or asks the client."""
        self._now = now
        self._session.tell(ticket, said, now)

    def publish(self, event: Event, now: float) -> None:
        """Something changed that peers may want to know."""
        self._now = now
        self._session.publish(event, now)

    def begin_shutdown(self, now: float) -> None:
        """Take no new requests, finish what was accepted, give up after `Limits.shutdown_grace`."""
        if self._phase is Phase.UPGRADING:
            self._out.append(render(text_response(503, "the server is stopping")))
            self._end(now)
        elif self._phase is Phase.OPEN:
            self._session.begin_shutdown(now)

    # --- time ---

    def handle_timeout(self, now: float) -> None:
        """`next_deadline` has passed. Early and repeated calls do nothing."""
        self._now = now
        self._session.handle_timeout(now)
        if self._phase is Phase.UPGRADING and now >= self._upgrade_due:
            self._out.append(render(text_response(408, "the head of the request took too long")))
            self._end(now)
        elif self._phase is Phase.OPEN and now >= self._heartbeat.deadline:
            verdict = self._heartbeat.look(now, is_held=self._sending or not self.wants_input)
            if isinstance(verdict, Violated):
                self._close(verdict.code, verdict.reason)
            elif verdict:
                self._out.append(self._frames.ping())

    # --- output ---

    def take_commands(self) -> list[Command]:
        """What the driver is to do, each exactly once."""
        return self._session.take_commands()

    def data_to_send(self) -> bytes:
        """All that is to be written, rendered now, in one piece."""
        if self._phase in (Phase.OPEN, Phase.CLOSING):
            self._render()
        data = b"".join(self._out)
        self._out.clear()
        self._sending = bool(data)
        return data

    def _render(self) -> None:
        messages = self._session.take_messages()
        if messages:
            self._heartbeat.use(self._now)
            self._out.append(self._frames.text(messages))
        if self._session.closed:
            self._close(CloseReason.GOING_AWAY, "the server is stopping")
        if self._phase is Phase.CLOSING:
            self._out.append(self._frames.close(*self._closing))
            self._end(self._now)

    @property
    def wants_turn(self) -> bool:
        """Whether `take_commands` or `data_to_send` has something to give: go on until neither has."""
        if self._phase is Phase.ENDED:
            return bool(self._out)
        return bool(
            self._out or self._phase is Phase.CLOSING or self._session.wants_turn or self._session.closed
        )

    def next_deadline(self) -> float | None:
        """The earliest moment at which `handle_timeout` has something to do."""
        session = self._session.next_deadline()
        if self._phase in (Phase.CLOSING, Phase.ENDED):
            return session
        own = self._heartbeat.deadline if self._phase is Phase.OPEN else self._upgrade_due
        return own if session is None else min(own, session)

    @property
    def wants_input(self) -> bool:
        """Whether the peer may be read from now."""
        return self._phase in (Phase.UPGRADING, Phase.OPEN) and self._session.wants_input

    @property
    def closed(self) -> bool:
        """Whether this is the end: write what is left and hang up."""
        return self._phase is Phase.ENDED

    # --- the end ---

    def _close(self, code: int, reason: str = "") -> None:
        """Say goodbye: at the peer's wish, because it broke a rule or is gone, or because we stop."""
        if self._phase is Phase.OPEN:
            logger.debug("closing a WebSocket: %d %s", code, reason)
            self._phase = Phase.CLOSING
            self._closing = (code, reason)

    def _end(self, now: float) -> None:
        """Nobody waits any more: cancel what was accepted, answer nothing."""
        self._phase = Phase.ENDED
        self._upgrade = None
        self._session.abandon(now)
        self._session.receive_eof(now)
