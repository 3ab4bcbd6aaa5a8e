"""What holds for every client session, whatever the server sends and in whatever order things happen.

- Any bytes become documented events, never an exception, and the session still serves.
- However the bytes are cut, the same events come.
- Every request and every listen is settled exactly once: by one event, or by its cancellation.
- No id is used twice, and no message goes out that the era does not have.
"""

import json
from collections import Counter
from collections.abc import Iterable
from typing import get_args

from hypothesis import given, strategies as st

from kvmcp.core.client.connection import ClientConnection
from kvmcp.core.client.events import (
    Connected,
    ConnectionFailed,
    ConnectionLost,
    ErrorReceived,
    Event,
    InputRequired,
    ListenEnded,
    ProtocolViolated,
    ResultReceived,
    ServerAsked,
    TimedOut,
)
from kvmcp.core.client.profile import ClientLimits
from kvmcp.core.commands import Progress, Ticket, WorkDone
from kvmcp.core.errors import RpcError
from kvmcp.core.limits import Limits
from kvmcp.core.subscriptions import ListChanged as Changed
from kvmcp.core.wire.common import TextContent, ToolResult
from kvmcp.core.wire.params import ListenFilter
from tests.core.client.pair import ANSWERS, MODERN, REVISIONS, Json, Pair, Solo, encoded, profile_for
from tests.core.harness import Server

EVENTS = get_args(Event)
SETTLING = (ResultReceived, ErrorReceived, ListenEnded, TimedOut)
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
DONE = WorkDone(ToolResult((TextContent("done"),)))

revisions = st.sampled_from(REVISIONS)


def settled(events: Iterable[Event]) -> list[Ticket]:
    """The tickets that events settle."""
    tickets: list[Ticket] = []
    for event in events:
        if isinstance(event, SETTLING):
            tickets.append(event.ticket)
        elif isinstance(event, ConnectionLost):
            tickets += event.tickets
        elif isinstance(event, ProtocolViolated) and event.ticket is not None:
            tickets.append(event.ticket)
    return tickets


# --- what a server may send -----------------------------------------------------------------------------------


def any_word_of(text: str) -> st.SearchStrategy[str]:
    """One of the words; those that stand twice come more often."""
    return st.sampled_from(text.split())


small_ids: st.SearchStrategy[Json] = st.integers(0, 12) | st.sampled_from(["1", "x", None, 1.5, -1])
scalars: st.SearchStrategy[Json] = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
)
names = any_word_of(
    "resultType inputRequests requestState method params mode progressToken progress level data uri"
    " notifications requestId toolsListChanged supported protocolVersion capabilities supportedVersions _meta "
    + SUBSCRIPTION
)
words: st.SearchStrategy[Json] = any_word_of(
    "complete input_required task roots/list elicitation/create sampling/createMessage ping url debug "
    + " ".join(REVISIONS)
)
values: st.SearchStrategy[Json] = st.recursive(
    scalars | words | small_ids,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=5),
    max_leaves=12,
)
objects = st.dictionaries(names, values, max_size=6)
methods = any_word_of(
    "ping roots/list elicitation/create sampling/createMessage tools/list x notifications/progress"
    " notifications/message notifications/cancelled notifications/tools/list_changed"
    " notifications/resources/updated notifications/subscriptions/acknowledged notifications/x"
)
messages: st.SearchStrategy[Json] = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0")},
    optional={
        "id": small_ids,
        "method": methods,
        "params": objects | values,
        "result": objects | values,
        "error": st.fixed_dictionaries(
            {"code": st.sampled_from([-32022, -32602, -32601, 0]), "message": st.text(max_size=5)},
            optional={"data": objects},
        )
        | values,
    },
)
lines = (
    st.binary(max_size=80)
    | messages.map(lambda message: json.dumps(message).encode())
    | st.lists(messages, max_size=4).map(lambda batch: json.dumps(batch).encode())
)


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """A line with a few bytes changed, dropped or doubled."""
    line = bytearray(draw(lines))
    for _ in range(draw(st.integers(0, 3))):
        if line:
            at = draw(st.integers(0, len(line) - 1))
            line[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(line)


def modes() -> st.SearchStrategy[Json]:
    return st.sampled_from(["auto", "legacy", "modern"])


LITTLE = ClientLimits(wire=Limits(message_bytes=600, nesting_depth=12), open_requests=16, rounds=3)


@given(modes(), st.lists(mutations(), max_size=12))
def test_any_bytes_before_the_connection(mode: Json, sent: list[bytes]) -> None:
    connection = ClientConnection(profile_for(MODERN, limits=LITTLE))
    connection.session.connect(0.0, mode)
    events: list[Event] = []
    for line in sent:
        connection.receive_data(line + b"\n", 0.0)
        events += connection.take_events()
        connection.data_to_send()
    assert all(isinstance(event, EVENTS) for event in events)
    connection.receive_eof(0.0)
    events += connection.take_events()
    assert connection.closed and connection.next_deadline() is None
    assert isinstance(events[-1], ConnectionFailed | ConnectionLost) or any(
        isinstance(event, ConnectionFailed) for event in events
    )
    assert sum(isinstance(event, Connected | ConnectionFailed) for event in events) == 1


@given(revisions, st.lists(mutations(), max_size=12))
def test_any_bytes_and_still_serving(revision: str, sent: list[bytes]) -> None:
    solo = Solo(revision, limits=LITTLE)
    tickets = [solo.session.call_tool("get", b"{}", 0.0, progress=True) for _ in range(3)]
    if revision == MODERN:
        tickets.append(solo.session.listen(ListenFilter(True, True, True, ("u",)), 0.0))
    events = solo.say(*sent)
    assert all(isinstance(event, EVENTS) for event in events)
    solo.sent()
    last, id = solo.call()
    assert settled(solo.say({"id": id, "result": {}})) == [last]
    solo.session.receive_eof(0.0)
    events += solo.session.take_events()
    assert sorted(settled(events)) == tickets


@given(revisions, st.lists(mutations(), max_size=6), st.lists(st.integers(1, 40), min_size=1, max_size=30))
def test_however_the_bytes_are_cut(revision: str, sent: list[bytes], sizes: list[int]) -> None:
    data = b"\n".join(sent)
    told: list[list[Event]] = []
    for cut in (False, True):
        connection = ClientConnection(profile_for(revision, limits=LITTLE))
        connection.session.connect(0.0, "modern" if revision == MODERN else "legacy")
        at = 0
        for size in sizes if cut else [len(data)]:
            connection.receive_data(data[at : at + size], 0.0)
            at += size
        connection.receive_data(data[at:], 0.0)
        connection.receive_eof(0.0)
        told.append(connection.take_events())
    assert [_blurred(event) for event in told[0]] == [_blurred(event) for event in told[1]]


def _blurred(event: Event) -> object:
    """How many bytes of a line had arrived when it was refused depends on the cuts."""
    if isinstance(event, ProtocolViolated) and "limit is" in event.reason:
        return (type(event), event.ticket)
    return event


# --- interleavings ------------------------------------------------------------------------------------------

steps = st.lists(
    st.tuples(
        any_word_of(
            "call call call listen cancel answer result result error unsupported wanted state odd progress ack"
            " changed cancelled ask take-back reply wait"
        ),
        st.integers(0, 1_000_000),
    ),
    max_size=60,
)


class Driver:
    """Carries out steps on a session, and keeps count."""

    def __init__(self, revision: str) -> None:
        self.solo = Solo(revision, limits=ClientLimits(request_timeout=10, request_cap=30, rounds=2))
        self.modern = revision == MODERN
        self.ids: list[int] = []
        self.tickets: list[Ticket] = []
        self.asked: dict[Ticket, InputRequired] = {}
        self.server_asked: list[Ticket] = []
        self.settled: Counter[Ticket] = Counter()
        self.events: list[Event] = []

    def step(self, what: str, seed: int) -> None:
        session, now = self.solo.session, self.solo.now
        ticket = self.tickets[seed % len(self.tickets)] if self.tickets else None
        id = self.ids[seed % len(self.ids)] if self.ids else 0
        match what:
            case "call":
                self.tickets.append(session.call_tool("a", b"{}", now, progress=seed % 2 == 0))
            case "listen" if self.modern:
                self.tickets.append(session.listen(ListenFilter(tools_list_changed=True), now))
            case "cancel" if ticket is not None:
                if ticket not in self.settled:
                    self.settled[ticket] += 1
                session.cancel(ticket)
            case "answer" if self.asked:
                ticket = sorted(self.asked)[seed % len(self.asked)]
                session.answer(ticket, dict.fromkeys(self.asked.pop(ticket).requests, b"{}"), now)
            case "reply" if self.server_asked:
                session.reply(self.server_asked[seed % len(self.server_asked)], b"{}")
            case "wait":
                self.solo.now += seed % 13
                session.handle_timeout(self.solo.now)
            case _:
                self.solo.session.receive_message(encoded({"jsonrpc": "2.0", **said(what, id, seed)}), now)
        self.note()

    def note(self) -> None:
        events = self.solo.session.take_events()
        self.events += events
        for ticket in settled(events):
            self.settled[ticket] += 1
            self.asked.pop(ticket, None)
        for event in events:
            if isinstance(event, InputRequired):
                self.asked[event.ticket] = event
            elif isinstance(event, ServerAsked):
                self.server_asked.append(event.ticket)
        for ticket in self.settled:
            self.asked.pop(ticket, None)
        for message in self.solo.sent():
            if "method" in message and "id" in message:
                self.ids.append(message["id"])
            elif "method" not in message:
                assert not self.modern, "clients MUST NOT send responses"


def said(what: str, id: int, seed: int) -> Json:
    """What the server says in a step."""
    meta = {"_meta": {SUBSCRIPTION: id}}
    answers: Json = {
        "result": {"id": id, "result": {}},
        "error": {"id": id, "error": {"code": -32602, "message": "no"}},
        "unsupported": {"id": id, "error": {"code": -32022, "message": "", "data": {"supported": [MODERN]}}},
        "wanted": {
            "id": id,
            "result": {"resultType": "input_required", "inputRequests": {"a": {"method": "roots/list"}}},
        },
        "state": {"id": id, "result": {"resultType": "input_required", "requestState": "s"}},
        "odd": {"id": id, "result": {"resultType": "odd"}},
        "progress": {"method": "notifications/progress", "params": {"progressToken": id, "progress": seed}},
        "ack": {
            "method": "notifications/subscriptions/acknowledged",
            "params": {**meta, "notifications": {}},
        },
        "changed": {"method": "notifications/tools/list_changed", "params": meta},
        "cancelled": {"method": "notifications/cancelled", "params": {"requestId": id}},
        "ask": {"id": seed % 5, "method": "roots/list"},
        "take-back": {"method": "notifications/cancelled", "params": {"requestId": seed % 5}},
    }
    return answers.get(what, {"method": "notifications/x"})


@given(revisions, steps)
def test_everything_is_settled_exactly_once(revision: str, todo: list[tuple[str, int]]) -> None:
    driver = Driver(revision)
    for what, seed in todo:
        driver.step(what, seed)
    session = driver.solo.session
    # Early and repeated wake-ups are harmless.
    session.handle_timeout(driver.solo.now)
    assert session.take_events() == []
    session.receive_eof(driver.solo.now)
    driver.note()
    assert driver.settled == Counter(driver.tickets)
    assert len(set(driver.ids)) == len(driver.ids)
    assert session.next_deadline() is None
    assert all(isinstance(event, EVENTS) for event in driver.events)


pair_steps = st.lists(
    st.tuples(
        any_word_of(
            "get job job interview ask_all listen cancel carry carry send receive reply refuse finish progress batch"
            " publish wait"
        ),
        st.integers(0, 1_000_000),
    ),
    max_size=40,
)


class PairDriver:
    """Client and server, and a store and jobs that answer when it pleases them."""

    def __init__(self, revision: str, bytewise: bool) -> None:
        self.pair = Pair(revision, server=Server(held=True), bytewise=bytewise)
        self.tickets: list[Ticket] = []
        self.settled: Counter[Ticket] = Counter()
        self.asked: list[Event] = []

    def step(self, what: str, seed: int) -> None:
        pair, session, server = self.pair, self.pair.session, self.pair.server
        match what:
            case "get":
                self.tickets.append(session.call_tool("get", b'{"key":"a"}', pair.now))
            case "job" | "interview" | "ask_all":
                self.tickets.append(session.call_tool(what, b"{}", pair.now, progress=True))
            case "listen" if pair.revision == MODERN:
                self.tickets.append(session.listen(ListenFilter(tools_list_changed=True), pair.now))
            case "cancel" if self.tickets:
                ticket = self.tickets[seed % len(self.tickets)]
                if ticket not in self.settled:
                    self.settled[ticket] += 1
                session.cancel(ticket)
            case "send":
                pair.send()
            case "receive":
                pair.receive()
            case "carry":
                self.note(pair.transfer())
            case "reply" | "refuse" if self.asked:
                self.reply(self.asked.pop(seed % len(self.asked)), what == "refuse")
            case "finish" if server.jobs:
                server.complete(sorted(server.jobs)[seed % len(server.jobs)], DONE)
            case "progress" if server.jobs:
                server.tell(sorted(server.jobs)[seed % len(server.jobs)], Progress(seed))
            case "batch" if server.batches:
                server.answer_batch(seed % len(server.batches))
            case "publish":
                server.publish(Changed("tools"))
            case "wait":
                self.note(pair.pass_time(seed % 30))
            case _:
                pass
        self.note(pair.client.take_events())

    def reply(self, event: Event, refuse: bool) -> None:
        session = self.pair.session
        if isinstance(event, ServerAsked):
            if refuse:
                session.refuse(event.ticket, RpcError(-1, "no"))
            else:
                session.reply(event.ticket, encoded(ANSWERS[event.method]))
        elif isinstance(event, InputRequired):
            if refuse:
                self.settled[event.ticket] += event.ticket not in self.settled
                session.cancel(event.ticket)
            else:
                answers = {key: encoded(ANSWERS[asked.method]) for key, asked in event.requests.items()}
                session.answer(event.ticket, answers, self.pair.now)

    def note(self, events: list[Event]) -> None:
        assert all(isinstance(event, EVENTS) for event in events)
        assert not [event for event in events if isinstance(event, ProtocolViolated)]
        self.settled.update(settled(events))
        self.asked += [event for event in events if isinstance(event, ServerAsked | InputRequired)]

    def finish(self) -> None:
        """Let everything end in peace."""
        pair = self.pair
        while True:
            self.note(pair.transfer())
            if self.asked:
                self.reply(self.asked.pop(), refuse=False)
            elif pair.server.batches:
                pair.server.answer_batch()
            elif pair.server.jobs:
                pair.server.complete(min(pair.server.jobs), DONE)
            else:
                break


@given(revisions, st.booleans(), pair_steps)
def test_client_and_server_agree_on_what_is_settled(
    revision: str, bytewise: bool, todo: list[tuple[str, int]]
) -> None:
    driver = PairDriver(revision, bytewise)
    for what, seed in todo:
        driver.step(what, seed)
    driver.finish()
    # What is left are the listens that nobody cancelled.
    driver.note(driver.pair.close_server())
    assert driver.settled == Counter(driver.tickets)
    assert driver.pair.server_is_closed()
    assert driver.pair.server.reports == []
