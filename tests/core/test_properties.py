"""What holds for any input.

- Chunking: however the bytes of a stream are cut, the same set of answers comes out.
- Garbage: whatever bytes arrive, each line is answered with a message that the revision's schema allows and a
  documented code, or not at all; nothing raises, and the next request is served.
- Settling: every admitted request is answered exactly once, or never if it was cancelled, whatever the order of
  replies of the store, answers of the client, ends of jobs, cancellations, deadlines, end of input and shutdown.
- Sealing: a request state opens only as it was made, for the principal, request and time that it was made for.
"""

import json
from collections import Counter
from typing import Any, Final

import pytest
from hypothesis import given, strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from msgspec import Raw

from kvmcp.core.commands import Ask, BatchFailed, Log, Progress, WorkDone, WorkFailed
from kvmcp.core.limits import Limits
from kvmcp.core.plan import ToolError
from kvmcp.core.request_state import Sealer, State, digest
from kvmcp.core.subscriptions import ListChanged, ResourceUpdated
from kvmcp.core.wire.common import ClientRequest, ElicitForm, ListRoots, TextContent, ToolResult
from tests.core.fixture_catalog import FORM, run_op
from tests.core.harness import (
    INVALID_REQUEST,
    KEY,
    LEGACY,
    MODERN,
    REVISIONS,
    Json,
    Server,
    accepted,
    call,
    envelope,
    to_line,
)

req = pytest.mark.req
revisions = st.sampled_from(REVISIONS)

# --- what is sent ---

REQUESTS: Final[tuple[tuple[str, Json], ...]] = (
    ("tools/call", call("get", {"key": "a"})),
    ("tools/call", call("get_many", {"keys": ["a", "b", "ü"]})),
    ("tools/call", call("put", {"key": "naïve", "value": "\u2028"})),
    ("tools/call", call("add", {"number": "41"})),
    ("tools/call", call("delete", {"key": "a"})),
    ("tools/call", call("job")),
    ("tools/call", call("nothing")),
    ("tools/list", {}),
    ("tools/list", {"cursor": "3"}),
    ("resources/read", {"uri": "kv://keys/a"}),
    ("resources/subscribe", {"uri": "kv://config"}),
    ("prompts/get", {"name": "greet", "arguments": {"name": "Ada"}}),
    (
        "completion/complete",
        {"ref": {"type": "ref/prompt", "name": "greet"}, "argument": {"name": "name", "value": ""}},
    ),
    ("subscriptions/listen", {"notifications": {"toolsListChanged": True}}),
    ("server/discover", {}),
    ("ping", {}),
    ("logging/setLevel", {"level": "debug"}),
    (
        "initialize",
        {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}},
    ),
    ("nonsense", {}),
)
OTHERS: Final[tuple[Json, ...]] = (
    {"jsonrpc": "2.0", "method": "notifications/initialized"},
    {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}},
    {"jsonrpc": "2.0", "id": 1, "result": {"action": "accept", "content": {"yes": True}}},
    {"jsonrpc": "2.0", "id": 1, "error": {"code": -1, "message": "no"}},
    b"",
    b"   ",
    b"garbage",
    b"[]",
    b"[1,2]",
    b'{"jsonrpc":"2.0","id":1',
    b"x" * 2000,
    b'{"jsonrpc":"2.0","id":"long","method":"ping","x":"' + b"y" * 2000 + b'"}',
)
ids = st.sampled_from([0, 1, 2, "1", "ü"])


def line_of(revision: str, request: tuple[str, Json], id: Json) -> bytes:
    method, params = request
    if revision == MODERN:
        params = params | {"_meta": envelope()}
    message = {"jsonrpc": "2.0", "id": id, "method": method, "params": params}
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()


@st.composite
def lines(draw: st.DrawFn, revision: str) -> bytes:
    """One line, without its newline."""
    if draw(st.booleans()):
        return line_of(revision, draw(st.sampled_from(REQUESTS)), draw(ids))
    other = draw(st.sampled_from(OTHERS))
    return to_line(other).rstrip(b"\n")


@st.composite
def cuts(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """`data` in pieces, some of them empty or of one byte."""
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=12)))
    return [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]


@st.composite
def mutations(draw: st.DrawFn, data: bytes) -> bytes:
    """`data` with a few bytes changed, lost, doubled or moved."""
    for _ in range(draw(st.integers(1, 4))):
        at, until = sorted((draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))))
        piece = data[at:until]
        match draw(st.sampled_from(["change", "drop", "double", "insert", "swap"])):
            case "change":
                data = data[:at] + draw(st.binary(min_size=1, max_size=3)) + data[at + 1 :]
            case "drop":
                data = data[:at] + data[until:]
            case "double":
                data = data[:until] + piece + data[until:]
            case "insert":
                token = draw(
                    st.sampled_from([b'"', b"{", b"}", b"[", b"]", b",", b":", b"\\", b"null", b"1e999"])
                )
                data = data[:at] + token + data[at:]
            case _:
                data = data[until:] + piece + data[:at]
    return data


# --- chunking ---


def answers(revision: str, chunks: list[bytes]) -> Counter[str]:
    """Everything that a server writes while the store and the jobs are slow, without what says where a cut was."""
    server = Server(revision, limits=Limits(message_bytes=1500), held=True)
    for chunk in chunks:
        server.feed(chunk)
    server.end()
    while server.batches:
        server.answer_batch()
    written = server.replies()
    for message in written:
        if message.get("error", {}).get("message", "").startswith("message of at least"):
            message["error"]["message"] = "message of at least … bytes"
    return Counter(json.dumps(message, sort_keys=True) for message in written)


@req("stdio-line-per-message")
@given(st.data(), revisions, st.sampled_from([b"\n", b"\r\n"]))
def test_however_the_bytes_are_cut_the_answers_are_the_same(
    data: st.DataObject, revision: str, ending: bytes
) -> None:
    stream = ending.join(data.draw(st.lists(lines(revision), max_size=12)) + [b""])
    whole = answers(revision, [stream])
    assert answers(revision, data.draw(cuts(stream))) == whole
    assert answers(revision, [stream[at : at + 1] for at in range(len(stream))]) == whole


# --- garbage ---

DOCUMENTED: Final = {-32700, -32600, -32601, -32602, -32002, -32021, -32022}
"""Codes that a peer's bytes can bring about. An internal error is never the peer's doing."""


def survives(revision: str, data: bytes) -> None:
    server = Server(revision)
    server.still_serves()
    server.feed(b"\n" + data + b"\n")
    for message in server.replies():
        if "error" in message:
            assert message["error"]["code"] in DOCUMENTED, message
    assert server.reports == []
    server.store = {"a": "1"}
    server.still_serves()


@req("bounds-any-bytes", "stdio-only-messages", "error-no-invented-codes")
@given(revisions, st.binary(max_size=300))
def test_any_bytes(revision: str, data: bytes) -> None:
    survives(revision, data)


@req("bounds-any-bytes")
@given(st.data(), revisions)
def test_valid_messages_with_a_few_changes(data: st.DataObject, revision: str) -> None:
    survives(revision, data.draw(mutations(data.draw(lines(revision)))))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
MEMBERS: Final = (
    "jsonrpc", "id", "method", "params", "result", "error", "_meta", "name", "arguments", "uri", "cursor",
    "requestId", "inputResponses", "requestState", "notifications", "ref", "argument", "level",
)  # fmt: skip


@req("bounds-any-bytes", "inputs-validated")
@given(st.data(), revisions)
def test_valid_messages_with_a_member_that_is_something_else(data: st.DataObject, revision: str) -> None:
    message: Json = json.loads(line_of(revision, data.draw(st.sampled_from(REQUESTS)), data.draw(ids)))
    for _ in range(data.draw(st.integers(1, 3))):
        target = data.draw(st.sampled_from([message, *(v for v in message.values() if isinstance(v, dict))]))
        member = data.draw(st.sampled_from([*target, *MEMBERS]))
        target[member] = data.draw(json_values)
    survives(revision, to_line(message))


# --- settling ---

QUESTION: Final[dict[str, ClientRequest]] = {"sure": ElicitForm("Sure?", FORM), "roots": ListRoots()}
SLOW_TOOLS: Final = ("get", "put", "get_many", "delete", "interview", "job")


class Settling(RuleBasedStateMachine):
    """A model knows which ids wait for an answer; the server must agree after every step."""

    @initialize(revision=st.sampled_from([*LEGACY, MODERN]), room=st.sampled_from([2, 100]))
    def begin(self, revision: str, room: int) -> None:
        self.server = Server(revision, held=True, limits=Limits(open_exchanges=room))
        self.modern = revision == MODERN
        self.waiting: set[str] = set()
        """Ids, as JSON, that are to be answered once."""
        self.tickets: list[int] = []
        """Of all jobs that ever started."""
        self.questions: list[Json] = []
        """Requests of the server to the client, answered or not."""
        self.rounds: list[Json] = []
        """Modern: params of calls that were answered `input_required`, as they are to be sent again."""
        self.sent: dict[str, Json] = {}
        self.ended = False

    # --- the peer ---

    @rule(tool=st.sampled_from(SLOW_TOOLS), id=ids)
    def call(self, tool: str, id: Json) -> None:
        arguments = {"get": {"key": "a"}, "put": {"key": "a", "value": "1"}, "delete": {"key": "a"}}.get(
            tool, {}
        )
        self.send(id, call(tool, arguments))

    @precondition(lambda self: self.modern and self.rounds)
    @rule(
        id=ids,
        data=st.data(),
        answer=st.sampled_from([accepted(name="Ada", yes=True), {"action": "cancel"}, 7]),
    )
    def call_again(self, id: Json, data: st.DataObject, answer: Json) -> None:
        params = data.draw(st.sampled_from(self.rounds))
        keys = params["inputResponses"]
        self.send(id, params | {"inputResponses": dict.fromkeys(keys, answer)})

    def send(self, id: Json, params: Json) -> None:
        key = json.dumps(id)
        taken = key in self.waiting
        if not self.ended:
            self.waiting.add(key)
            self.sent[key] = params
        self.server.say(self.server.request("tools/call", params, id=id))
        replies = self.take()
        if taken and not self.ended:
            # The answer to the second is a refusal; the first goes on waiting.
            assert [reply["error"]["code"] for reply in replies if reply.get("id") == id] == [INVALID_REQUEST]
        else:
            self.settle(replies)

    @rule(id=ids)
    def cancel(self, id: Json) -> None:
        self.server.cancel(id)
        if not self.ended:
            self.waiting.discard(json.dumps(id))
        self.settle(self.take())

    @precondition(lambda self: self.questions)
    @rule(data=st.data(), how=st.sampled_from(["accept", "decline", "junk", "refuse"]))
    def answer_a_question(self, data: st.DataObject, how: str) -> None:
        question = data.draw(st.sampled_from(self.questions))
        answers: Json = {"decline": {"action": "decline"}, "junk": [7]}
        good: Json = {
            "elicitation/create": accepted(name="Ada", yes=True),
            "roots/list": {"roots": []},
            "sampling/createMessage": {"role": "user", "content": {"type": "text", "text": ""}, "model": "m"},
        }
        message: Json = {"jsonrpc": "2.0", "id": question["id"]}
        if how == "refuse":
            message["error"] = {"code": -1, "message": "no"}
        else:
            message["result"] = answers.get(how, good[question["method"]])
        self.server.say(message)
        self.settle(self.take())

    @rule(eof=st.booleans())
    def end(self, eof: bool) -> None:
        self.ended = True
        if eof:
            self.server.end()
        else:
            self.server.shut_down()
        self.settle(self.take())

    # --- the driver ---

    @precondition(lambda self: self.server.batches)
    @rule(data=st.data(), fails=st.booleans())
    def store_replies(self, data: st.DataObject, fails: bool) -> None:
        batch = self.server.batches.pop(data.draw(st.integers(0, len(self.server.batches) - 1)))
        replies: Any = BatchFailed() if fails else [run_op(op, self.server.store) for op in batch.ops]
        self.server.connection.complete(batch.ticket, replies, self.server.now)
        self.server.run()
        self.settle(self.take())

    @precondition(lambda self: self.tickets)
    @rule(data=st.data(), fails=st.booleans())
    def a_job_ends(self, data: st.DataObject, fails: bool) -> None:
        done = WorkDone(ToolResult((TextContent("done"),)))
        outcome = WorkFailed(ToolError("BROKEN", "it broke")) if fails else done
        self.server.complete(data.draw(st.sampled_from(self.tickets)), outcome)
        self.settle(self.take())

    @precondition(lambda self: self.server.jobs)
    @rule(data=st.data(), said=st.sampled_from([Progress(1), Log("error", b"1"), Ask(QUESTION), Ask({})]))
    def a_job_says_something(self, data: st.DataObject, said: Progress | Log | Ask) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.server.jobs)))
        if isinstance(said, Ask) and ticket in self.asking():
            return  # A job asks one thing at a time.
        self.server.tell(ticket, said)
        self.settle(self.take())

    def asking(self) -> set[int]:
        """Tickets of jobs that wait for the client."""
        exchanges = self.server.connection._session._exchanges.open.values()
        return {exchange.ticket for exchange in exchanges if exchange.phase.name == "WAITING_FOR_CLIENT"}

    @rule(seconds=st.sampled_from([0.0, 1.0, 4.9, 29.0, 301.0, 700.0]))
    def time_passes(self, seconds: float) -> None:
        self.server.pass_time(seconds)
        self.settle(self.take())

    @rule(early=st.floats(0, 5))
    def the_timer_fires_too_early(self, early: float) -> None:
        self.server.connection.handle_timeout(self.server.now - early)
        self.server.run()
        self.settle(self.take())

    @rule(event=st.sampled_from([ListChanged("tools"), ResourceUpdated("kv://config")]))
    def something_changes(self, event: ListChanged | ResourceUpdated) -> None:
        self.server.publish(event)
        self.settle(self.take())

    # --- the model ---

    def take(self) -> list[Json]:
        self.tickets += [ticket for ticket in self.server.jobs if ticket not in self.tickets]
        replies = self.server.replies()
        self.questions += [reply for reply in replies if "method" in reply and "id" in reply]
        return [reply for reply in replies if "method" not in reply]

    def settle(self, replies: list[Json]) -> None:
        """Each answer is for an id that waits, and it waits no longer."""
        for reply in replies:
            key = json.dumps(reply["id"])
            assert key in self.waiting, f"nobody waits for {key}"
            self.waiting.remove(key)
            result = reply.get("result", {})
            if result.get("resultType") == "input_required":
                again = {
                    "inputResponses": dict(result["inputRequests"]),
                    "requestState": result["requestState"],
                }
                self.rounds.append(self.sent[key] | again)

    @invariant()
    def the_server_waits_for_what_the_model_waits_for(self) -> None:
        opened = self.server.connection._session._exchanges.open
        assert {json.dumps(json.loads(id)) for id in opened} == self.waiting
        assert self.server.reports == []

    @invariant()
    def the_end_comes_when_all_is_answered(self) -> None:
        assert (self.server.closed() is not None) == (self.ended and not self.waiting)

    @invariant()
    def nothing_is_left_to_do_twice(self) -> None:
        assert self.server.connection.take_commands() == []
        assert self.server.connection.data_to_send() == b""

    def teardown(self) -> None:
        """When every deadline has passed, all is answered and nothing is kept."""
        if not hasattr(self, "server"):
            return
        for _ in range(1000):
            deadline = self.server.connection.next_deadline()
            if deadline is None:
                break
            self.server.now = max(self.server.now, deadline)
            self.server.pass_time(0.0)
            self.settle(self.take())
        assert self.waiting == set()
        assert set(self.server.jobs) == set()
        session = self.server.connection._session
        assert session._exchanges._slow == {} and session._asking._sent == {}
        while self.server.batches:
            self.store_replies_late()
        assert session._exchanges.calls_out == 0

    def store_replies_late(self) -> None:
        batch = self.server.batches.pop()
        self.server.connection.complete(batch.ticket, [None] * len(batch.ops), self.server.now)
        assert self.take() == []


TestSettling = pytest.mark.req("settles-once", "cancellation-silent")(Settling.TestCase)


# --- sealing ---

SEALED_FOR: Final = digest("tools/call", Raw(b'{"name":"x"}'))


# json.dumps writes an infinite number as `Infinity`, which is no JSON and comes in no answer.
json_texts = (
    json_values.map(json.dumps)
    .filter(lambda text: "Infinity" not in text)
    .map(lambda text: Raw(text.encode()))
)


@req("state-protected")
@given(
    answers=st.dictionaries(st.text(max_size=5), json_texts, max_size=3),
    principal=st.text(max_size=5),
    data=st.data(),
)
def test_a_sealed_state_opens_only_as_it_was_made(
    answers: dict[str, Raw], principal: str, data: st.DataObject
) -> None:
    sealer, state = Sealer(KEY), State(answers=answers)
    sealed = sealer.seal(state, principal, SEALED_FOR, 10.0, "nonce")
    assert sealer.open(sealed, principal, SEALED_FOR, 9.0) == state
    tampered = data.draw(mutations(sealed.encode())).decode("latin-1")
    if tampered != sealed:
        assert sealer.open(tampered, principal, SEALED_FOR, 9.0) is None


@req("state-bound")
@given(ours=st.text(max_size=3), theirs=st.text(max_size=3), now=st.floats(0, 20))
def test_a_sealed_state_opens_only_for_its_principal_and_in_time(ours: str, theirs: str, now: float) -> None:
    sealer = Sealer(KEY)
    sealed = sealer.seal(State(), ours, SEALED_FOR, 10.0, "nonce")
    opened = sealer.open(sealed, theirs, SEALED_FOR, now)
    assert (opened is not None) == (ours == theirs and now < 10.0)


@req("state-rejected")
@given(st.data())
def test_a_tampered_state_is_refused_by_the_server_and_nothing_happens(data: st.DataObject) -> None:
    server = Server(MODERN)
    params = call("delete", {"key": "a"})
    state = server.result("tools/call", params)["requestState"]
    tampered = data.draw(mutations(state.encode())).decode("latin-1")
    if tampered == state:
        return
    responses = {"confirm": accepted(yes=True)}
    error = server.error("tools/call", params | {"inputResponses": responses, "requestState": tampered})
    assert error["code"] == -32602 and server.store == {"a": "1", "b": "2"}
