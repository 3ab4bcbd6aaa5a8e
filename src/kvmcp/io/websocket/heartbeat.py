"""Whether the peer of an open WebSocket lives, and uses the connection: every timer of either side, in one deadline.

What arrives moves no timer; the next moment to look is found when the last one has come. So messages cost none.
"""

from math import inf

from wsproto.frame_protocol import CloseReason

from kvmcp.io.websocket.frames import Violated
from kvmcp.io.websocket.limits import WebSocketLimits


class Heartbeat:
    """Times are seconds on the driver's clock."""

    def __init__(self, limits: WebSocketLimits, now: float) -> None:
        self._limits = limits
        self._heard = now
        self._used = now
        self._message_due = inf
        self._pong_due = inf
        self._was_held = False
        self.deadline = inf
        """When `look` has something to do."""
        self._schedule()

    def hear(self, now: float) -> None:
        """Something arrived, whatever it was."""
        self._heard = now
        self._pong_due = inf

    def use(self, now: float) -> None:
        """A message came or went."""
        self._used = now

    def begin_message(self, now: float) -> None:
        """A message has begun to arrive, and is not yet whole."""
        if self._message_due == inf:
            self._message_due = now + self._limits.message_timeout
            self.deadline = min(self.deadline, self._message_due)

    def end_message(self) -> None:
        """No message is half there."""
        self._message_due = inf

    def look(self, now: float, is_held: bool) -> Violated | bool:
        """Why to end it, or whether to ping. `is_held`: our output is not out, or we do not read."""
        limits = self._limits
        verdict: Violated | bool = False
        if now >= self._message_due:
            return Violated(CloseReason.POLICY_VIOLATION, "a message took too long")
        if now >= self._used + limits.idle_timeout:
            return Violated(CloseReason.GOING_AWAY, "idle")
        if now >= self._pong_due:
            # No sign of life. That proves nothing where the ping may not be out, or its answer is not read.
            if not (is_held or self._was_held):
                return Violated(CloseReason.GOING_AWAY, "no answer to a ping")
            self._was_held = is_held
            self._pong_due = now + limits.pong_timeout
        elif self._pong_due == inf and now >= self._heard + limits.ping_interval:
            verdict = True
            self._was_held = False
            self._pong_due = now + limits.pong_timeout
        self._schedule()
        return verdict

    def _schedule(self) -> None:
        silent = self._heard + self._limits.ping_interval if self._pong_due == inf else self._pong_due
        self.deadline = min(silent, self._message_due, self._used + self._limits.idle_timeout)
