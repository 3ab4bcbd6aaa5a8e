"""A client session over a stream of bytes: newline framing on both sides (stdio, TCP and Unix sockets)."""

from kvmcp.core import jsonrpc
from kvmcp.core.client.events import Event
from kvmcp.core.client.profile import ClientProfile
from kvmcp.core.client.session import ClientSession
from kvmcp.core.framing import LineFramer, Oversized, join_lines


class ClientConnection:
    """The client's side of a stream, the mirror of `ServerConnection`.

    What the application wants goes to `session`; bytes and time go through here. After each input, whichever
    it was, write `data_to_send` and look at `take_events`:

        connection.session.connect(now)
        write(connection.data_to_send())
        connection.receive_data(data, now)
        for event in connection.take_events(): ...
    """

    def __init__(self, profile: ClientProfile) -> None:
        self._limits = profile.limits.wire
        self._framer = LineFramer(self._limits.message_bytes)
        self.session = ClientSession(profile)

    def receive_data(self, data: bytes, now: float) -> None:
        """Bytes arrived, cut anywhere."""
        for line in self._framer.receive(data):
            self._receive(line, now)

    def receive_eof(self, now: float) -> None:
        """The server has closed its end; a last line without a newline still counts."""
        for line in self._framer.end():
            self._receive(line, now)
        self.session.receive_eof(now)

    def _receive(self, line: bytes | Oversized, now: float) -> None:
        if isinstance(line, Oversized):
            malformed = jsonrpc.oversized(line.head, line.seen, self._limits)
            self.session.receive_malformed(malformed, now)
        else:
            self.session.receive_message(line, now)

    def handle_timeout(self, now: float) -> None:
        """`next_deadline` has passed. Early and repeated calls do nothing."""
        self.session.handle_timeout(now)

    def data_to_send(self) -> bytes:
        """All that is to be written, in one piece; each message is one line."""
        return join_lines(self.session.take_messages())

    def take_events(self) -> list[Event]:
        """What has happened since the last take, in order."""
        return self.session.take_events()

    def next_deadline(self) -> float | None:
        """The earliest moment at which `handle_timeout` has something to do."""
        return self.session.next_deadline()

    @property
    def closed(self) -> bool:
        """Whether the conversation is over: hang up."""
        return self.session.closed
