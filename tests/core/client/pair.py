"""A client and a server back to back, with nothing between them, and a client alone.

`Pair` is the main fixture: the client talks to the harness's server (a dict for a store), every message that
either side sends is held to the schema of its revision, and each side gets the other's bytes at once, or one
by one. `Solo` is a client session whose server is the test: it says messages and looks at what was sent.
"""

import json
from typing import Any, Final, TypeAlias, TypeVar

from msgspec import Raw, Struct

from kvmcp.core.client.connection import ClientConnection
from kvmcp.core.client.events import Connected, Event, InputRequired, ServerAsked
from kvmcp.core.client.opening import Mode
from kvmcp.core.client.profile import ClientLimits, ClientProfile
from kvmcp.core.client.session import ClientSession
from kvmcp.core.commands import Ticket
from kvmcp.core.versions import LATEST_LEGACY, LEGACY, LegacyVersion
from kvmcp.core.wire.common import (
    ClientCapabilities,
    ElicitationCapability,
    Icon,
    Implementation,
    SamplingCapability,
)
from kvmcp.core.wire.results import ServerCapabilities
from tests.core.harness import MODERN, REVISIONS, Server
from tests.schema import validate_client_message, validate_server_message

__all__ = ["LEGACY", "MODERN", "REVISIONS"]

Json: TypeAlias = Any  # JSON as json.loads gives it: tests look into it freely
EventT = TypeVar("EventT", bound=Struct)

INFO: Final = Implementation(
    "probe",
    "0.3",
    title="A probe",
    icons=(Icon("https://kv.example/probe.png", mime_type="image/png"),),
)
EVERYTHING: Final = ClientCapabilities(
    roots=Raw(b'{"listChanged":true}'),
    sampling=SamplingCapability(tools=Raw(b"{}")),
    elicitation=ElicitationCapability(form=Raw(b"{}"), url=Raw(b"{}")),
)
NOTHING: Final = ClientCapabilities()

ANSWERS: Final[dict[str, Json]] = {
    "roots/list": {"roots": [{"uri": "file:///home", "name": "home"}]},
    "sampling/createMessage": {
        "role": "assistant",
        "content": {"type": "text", "text": "Kelvin"},
        "model": "a-model",
    },
    "elicitation/create": {"action": "accept", "content": {"yes": True, "name": "Ada"}},
}
"""What the application answers to whatever a server asks."""


def encoded(value: Json) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def profile_for(
    revision: str, capabilities: ClientCapabilities = EVERYTHING, limits: ClientLimits | None = None
) -> ClientProfile:
    """A client that asks for `revision`, where that is a legacy one."""
    asked: LegacyVersion = next((version for version in LEGACY if version == revision), LATEST_LEGACY)
    return ClientProfile(INFO, capabilities, legacy_version=asked, limits=limits)


def only(events: list[Event], kind: type[EventT]) -> EventT:
    """The one event that there is."""
    [event] = events
    assert isinstance(event, kind), event
    return event


class Pair:
    """Client and server. `now` is both sides' clock."""

    def __init__(
        self,
        revision: str,
        *,
        capabilities: ClientCapabilities = EVERYTHING,
        limits: ClientLimits | None = None,
        server: Server | None = None,
        bytewise: bool = False,
        mode: Mode | Connected | None = None,
    ) -> None:
        self.revision = revision
        self.bytewise = bytewise
        self.server = Server() if server is None else server
        self.client = ClientConnection(profile_for(revision, capabilities, limits))
        self.session = self.client.session
        self.now = 0.0
        self._asked: dict[tuple[str, str], tuple[str, str]] = {}
        self.session.connect(self.now, mode or ("modern" if revision == MODERN else "legacy"))
        self.connected = only(self.transfer(), Connected)

    # --- bytes ---

    def transfer(self) -> list[Event]:
        """Carry bytes to and fro until both sides are quiet; what the client has to tell."""
        while self.send() or self.receive():
            pass
        return self.client.take_events()

    def send(self) -> bool:
        """Carry what the client wrote to the server, and run what that asks; whether there was anything."""
        data = self.client.data_to_send()
        self._check("client", data)
        for piece in self._cut(data):
            self.server.feed(piece)
        self.server.run()
        return len(data) > 0

    def receive(self) -> bool:
        """Carry what the server wrote to the client; whether there was anything."""
        data = self.server.connection.data_to_send()
        self._check("server", data)
        for piece in self._cut(data):
            self.client.receive_data(piece, self.now)
        return len(data) > 0

    def _cut(self, data: bytes) -> list[bytes]:
        return [data[n : n + 1] for n in range(len(data))] if self.bytewise else [data]

    def _check(self, sender: str, data: bytes) -> None:
        for line in data.splitlines():
            message = json.loads(line)
            revision, method = self._spoken_of(sender, message)
            validate = validate_client_message if sender == "client" else validate_server_message
            validate(revision, line, method)

    def _spoken_of(self, sender: str, message: Json) -> tuple[str, str | None]:
        """The revision of a message and, for an answer, the method of its request."""
        if "method" not in message:
            asker = "server" if sender == "client" else "client"
            return self._asked.pop((asker, json.dumps(message["id"])))
        revision = MODERN if message["method"] == "server/discover" else self.revision
        if "id" in message:
            self._asked[sender, json.dumps(message["id"])] = (revision, message["method"])
        return revision, None

    # --- time and the end ---

    def pass_time(self, seconds: float) -> list[Event]:
        """Both clocks move; timers fire where they are due."""
        self.now += seconds
        self.client.handle_timeout(self.now)
        self.server.pass_time(seconds)
        return self.transfer()

    def server_is_closed(self) -> bool:
        """Whether the server has nothing more to do and hangs up."""
        return self.server.connection.closed

    def close_server(self) -> list[Event]:
        """The server stops, writes what is left and hangs up."""
        self.server.shut_down()
        events = self.transfer()
        self.client.receive_eof(self.now)
        return events + self.client.take_events()

    # --- the application ---

    def settle(self, ticket: Ticket) -> list[Event]:
        """Carry bytes and answer whatever is asked, until nothing is asked any more; all other events."""
        told: list[Event] = []
        while events := self.transfer():
            for event in events:
                if isinstance(event, InputRequired):
                    assert event.ticket == ticket
                    answers = {key: encoded(ANSWERS[r.method]) for key, r in event.requests.items()}
                    self.session.answer(ticket, answers, self.now)
                elif isinstance(event, ServerAsked):
                    self.session.reply(event.ticket, encoded(ANSWERS[event.method]))
                else:
                    told.append(event)
        return told

    def job(self) -> Ticket:
        """The ticket of the one job that runs on the server."""
        [ticket] = self.server.jobs
        return ticket


class Solo:
    """A client session, connected without a word unless `mode` says otherwise."""

    def __init__(
        self,
        revision: str = MODERN,
        *,
        capabilities: ClientCapabilities = EVERYTHING,
        limits: ClientLimits | None = None,
        mode: Mode | Connected | None = None,
    ) -> None:
        self.session = ClientSession(profile_for(revision, capabilities, limits))
        self.now = 0.0
        if mode is not None:
            self.session.connect(self.now, mode)
        elif revision == MODERN:
            self.session.connect(self.now, Connected("modern", MODERN, None, ServerCapabilities(), None))
            only(self.session.take_events(), Connected)
        else:
            self._initialize(revision)

    def _initialize(self, revision: str) -> None:
        self.session.connect(self.now, "legacy")
        [request] = self.sent()
        hello = {"protocolVersion": revision, "capabilities": {}, "serverInfo": {"name": "s", "version": "1"}}
        only(self.say({"id": request["id"], "result": hello}), Connected)
        self.sent()

    def say(self, *messages: Json) -> list[Event]:
        """The server says messages (objects without `jsonrpc`, or bytes as they are); what the client tells."""
        for message in messages:
            raw = message if isinstance(message, bytes) else encoded({"jsonrpc": "2.0", **message})
            self.session.receive_message(raw, self.now)
        return self.session.take_events()

    def sent(self) -> list[Json]:
        """What the client has sent since the last time."""
        return [json.loads(message) for message in self.session.take_messages()]

    def sent_id(self) -> int:
        """The id of the one request that was sent."""
        [request] = self.sent()
        assert isinstance(request["id"], int)
        return request["id"]

    def call(self, **options: Json) -> tuple[Ticket, int]:
        """Call a tool: its ticket and the request's id."""
        ticket = self.session.call_tool("get", b'{"key":"a"}', self.now, **options)
        return ticket, self.sent_id()

    def pass_time(self, seconds: float) -> list[Event]:
        self.now += seconds
        self.session.handle_timeout(self.now)
        return self.session.take_events()
