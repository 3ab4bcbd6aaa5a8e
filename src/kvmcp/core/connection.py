"""A session over a stream of bytes: newline framing on both sides (stdio, TCP and Unix sockets)."""

from kvmcp.core import jsonrpc
from kvmcp.core.commands import Command, Said, Ticket
from kvmcp.core.framing import LineFramer, Oversized, join_lines
from kvmcp.core.plan import Caller
from kvmcp.core.service import Service
from kvmcp.core.session import ServerSession
from kvmcp.core.subscriptions import Event


class ServerConnection:
    """The server's side of a stream.

    Feed it bytes and outcomes; after each input run `take_commands` and write `data_to_send`, in turns:

        connection.receive_data(data, now)
        while connection.wants_turn:
            for command in connection.take_commands(): ...
            write(connection.data_to_send())
    """

    def __init__(self, service: Service, caller: Caller | None = None) -> None:
        self._limits = service.limits
        self._framer = LineFramer(service.limits.message_bytes)
        self._session = ServerSession(service, caller)

    def receive_data(self, data: bytes, now: float) -> None:
        """Bytes arrived, cut anywhere."""
        lines, session, at = self._framer.receive(data), self._session, 0
        while (at := session.receive_calls(lines, at, now)) < len(lines):
            self._receive(lines[at], now)
            at += 1

    def receive_eof(self, now: float) -> None:
        """The peer has closed its end; a last line without a newline still counts."""
        for line in self._framer.end():
            self._receive(line, now)
        self._session.receive_eof(now)

    def _receive(self, line: bytes | Oversized, now: float) -> None:
        if isinstance(line, Oversized):
            malformed = jsonrpc.oversized(line.head, line.seen, self._limits)
            self._session.receive_malformed(malformed, now)
        else:
            self._session.receive_message(line, now)

    def complete(self, ticket: Ticket, outcome: object, now: float) -> None:
        """A command finished; the outcome is a value, failures included. See `kvmcp.core.commands`."""
        self._session.complete(ticket, outcome, now)

    def tell(self, ticket: Ticket, said: Said, now: float) -> None:
        """A running job reports progress, logs, or asks the client."""
        self._session.tell(ticket, said, now)

    def publish(self, event: Event, now: float) -> None:
        """Something changed that peers may want to know."""
        self._session.publish(event, now)

    def handle_timeout(self, now: float) -> None:
        """`next_deadline` has passed. Early and repeated calls do nothing."""
        self._session.handle_timeout(now)

    def begin_shutdown(self, now: float) -> None:
        """Take no new requests, finish what was accepted, give up after `Limits.shutdown_grace`."""
        self._session.begin_shutdown(now)

    def take_commands(self) -> list[Command]:
        """What the driver is to do, each exactly once."""
        return self._session.take_commands()

    def data_to_send(self) -> bytes:
        """All that is to be written, rendered now, in one piece; each message is one line."""
        return join_lines(self._session.take_messages())

    @property
    def wants_turn(self) -> bool:
        """Whether `take_commands` or `data_to_send` has something to give: go on until neither has."""
        return self._session.wants_turn

    def next_deadline(self) -> float | None:
        """The earliest moment at which `handle_timeout` has something to do."""
        return self._session.next_deadline()

    @property
    def wants_input(self) -> bool:
        """Whether the peer may be read from now."""
        return self._session.wants_input

    @property
    def closed(self) -> bool:
        """Whether `Close` was given: write what is left and hang up."""
        return self._session.closed
