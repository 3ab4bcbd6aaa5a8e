"""The server's side of a WebSocket connection, as a machine for `kvmcp.io.driver`: no socket, no clock, no loop.

    bytes ▸ upgrade ▸ frames ▸ whole messages ▸ session ▸ messages ▸ frames ▸ bytes

It ends by our Close frame, or by an HTTP response where it was not upgraded. Then `closed` is true: what is left
is written, and whoever has the socket closes it, which waits a little for the peer's own Close (`kvmcp.io.sockets`).
A peer that goes takes with it what it asked for: nothing is finished that nobody hears of.
"""

import logging
from enum import Enum
from math import inf

from wsproto.connection import ConnectionType
from wsproto.frame_protocol import CloseReason

from kvmcp.core.commands import Command, Said, Ticket
from kvmcp.core.plan import Caller
from kvmcp.core.service import Service
from kvmcp.core.session import ServerSession
from kvmcp.core.subscriptions import Event
from kvmcp.io.websocket.deflate import Deflate
from kvmcp.io.websocket.frames import Closed, Frames, Received, Violated
from kvmcp.io.websocket.limits import WebSocketLimits
from kvmcp.io.websocket.upgrade import Door, Refused, Upgrade, Upgraded, render, text_response

logger = logging.getLogger("kvmcp.io")


class Phase(Enum):
    """Where a connection is. It never goes back."""

    UPGRADING = "upgrading"
    OPEN = "open"
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
        self._heard = now
        self._active = now
        """When a message came or went."""
        self._message_due = inf
        self._pong_due = inf
        self._was_held = False
        self._deadline = now + self._limits.handshake_timeout

    # --- input ---

    def receive_data(self, data: bytes, now: float) -> None:
        """Bytes arrived, cut anywhere."""
        self._now = self._heard = now
        self._pong_due = inf
        try:
            if self._phase is Phase.OPEN:
                self._receive_frames(data, now)
            elif self._phase is Phase.UPGRADING:
                self._receive_head(data, now)
        except Exception as error:  # a bug of ours: the peer is told that it is not at fault
            logger.error("a WebSocket connection failed", exc_info=error)
            self._fail(CloseReason.INTERNAL_ERROR, "internal error", now)

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
        self._active = now
        self._schedule(now)
        if upgraded.trailing:
            self._receive_frames(upgraded.trailing, now)

    def _receive_frames(self, data: bytes, now: float) -> None:
        receive_message = self._session.receive_message
        for incoming in self._frames.receive(data):
            if type(incoming) is bytes:
                self._active = now
                receive_message(incoming, now)
            elif isinstance(incoming, Closed):
                self._answer_close(incoming, now)
            elif isinstance(incoming, Violated):
                self._fail(incoming.code, incoming.reason, now)
            else:
                assert isinstance(incoming, Received)
        self._out += self._frames.take_answers()
        if self._frames.is_between:
            self._message_due = inf
        elif self._message_due == inf:
            self._message_due = now + self._limits.message_timeout
            self._deadline = min(self._deadline, self._message_due)

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
        self._session.handle_timeout(now)
        if now < self._deadline:
            return
        if self._phase is Phase.UPGRADING:
            self._out.append(render(text_response(408, "the head of the request took too long")))
            self._end(now)
        elif self._phase is Phase.OPEN:
            self._look_after_peer(now)

    def _look_after_peer(self, now: float) -> None:
        limits = self._limits
        if now >= self._message_due:
            self._fail(CloseReason.POLICY_VIOLATION, "a message took too long", now)
        elif now - self._active >= limits.idle_timeout:
            self._fail(CloseReason.GOING_AWAY, "idle", now)
        elif now >= self._pong_due:
            self._judge_silence(now)
        elif self._pong_due == inf and now - self._heard >= limits.ping_interval:
            self._out.append(self._frames.ping())
            self._pong_due = now + limits.pong_timeout
            self._was_held = False
        self._schedule(now)

    def _judge_silence(self, now: float) -> None:
        """No sign of life since the ping. That proves nothing where the ping is not out, or we do not read."""
        is_held = self._sending or not self.wants_input
        if is_held or self._was_held:
            self._was_held = is_held
            self._pong_due = now + self._limits.pong_timeout
        else:
            self._fail(CloseReason.GOING_AWAY, "no answer to a ping", now)

    def _schedule(self, now: float) -> None:
        """The next moment to look; what arrives meanwhile moves nothing, so that messages cost no timers."""
        if self._phase is Phase.OPEN:
            limits = self._limits
            heartbeat = self._heard + limits.ping_interval if self._pong_due == inf else self._pong_due
            self._deadline = min(heartbeat, self._message_due, self._active + limits.idle_timeout)
        else:
            self._deadline = inf

    # --- output ---

    def take_commands(self) -> list[Command]:
        """What the driver is to do, each exactly once."""
        return self._session.take_commands()

    def data_to_send(self) -> bytes:
        """All that is to be written, rendered now, in one piece."""
        if self._phase is Phase.OPEN:
            messages = self._session.take_messages()
            if messages:
                self._active = self._now
                self._out.append(self._frames.text(messages))
            if self._session.closed:
                self._out.append(self._frames.close(CloseReason.GOING_AWAY, "the server is stopping"))
                self._phase = Phase.ENDED
        data = b"".join(self._out)
        self._out.clear()
        self._sending = bool(data)
        return data

    @property
    def wants_turn(self) -> bool:
        """Whether `take_commands` or `data_to_send` has something to give: go on until neither has."""
        if self._phase is Phase.ENDED:
            return bool(self._out)
        return bool(self._out) or self._session.wants_turn or self._session.closed

    def next_deadline(self) -> float | None:
        """The earliest moment at which `handle_timeout` has something to do."""
        own = self._session.next_deadline()
        deadline = self._deadline if own is None else min(own, self._deadline)
        return None if deadline == inf else deadline

    @property
    def wants_input(self) -> bool:
        """Whether the peer may be read from now."""
        return self._phase is not Phase.ENDED and self._session.wants_input

    @property
    def closed(self) -> bool:
        """Whether this is the end: write what is left and hang up."""
        return self._phase is Phase.ENDED

    # --- the end ---

    def _answer_close(self, closed: Closed, now: float) -> None:
        """ "When sending a Close frame in response, the endpoint typically echos the status code" (5.5.1)."""
        self._out += self._frames.take_answers()
        self._out.append(self._frames.close(closed.code))
        self._end(now)

    def _fail(self, code: int, reason: str, now: float) -> None:
        """The peer broke a rule, or is gone: say so, and end."""
        if self._phase is Phase.OPEN:
            logger.debug("closing a WebSocket: %d %s", code, reason)
            self._out += self._frames.take_answers()
            self._out.append(self._frames.text(self._session.take_messages()))
            self._out.append(self._frames.close(code, reason))
        self._end(now)

    def _end(self, now: float) -> None:
        """Nobody waits any more: cancel what was accepted, answer nothing."""
        self._phase = Phase.ENDED
        self._upgrade = None
        self._deadline = inf
        self._session.abandon(now)
        self._session.receive_eof(now)
