"""Requests, what settles them, and what a server must not do; the server is the test."""

import json
from collections.abc import Callable, Mapping

import pytest
from msgspec import Raw

from kvmcp.core.client.events import (
    ConnectionLost,
    ErrorReceived,
    InputRequired,
    ProtocolViolated,
    ResultReceived,
    ServerAsked,
    ServerAskEnded,
    TimedOut,
)
from kvmcp.core.client.profile import ClientLimits
from kvmcp.core.errors import LocalProtocolError, RpcError
from kvmcp.core.limits import Limits
from kvmcp.core.wire.common import ClientCapabilities, ElicitationCapability, SamplingCapability
from kvmcp.core.wire.params import ListenFilter
from kvmcp.core.wire.results import InputRequest
from tests.core.client.pair import LEGACY, MODERN, REVISIONS, Json, Solo, encoded, only

META = "io.modelcontextprotocol/"
each_revision = pytest.mark.parametrize("revision", REVISIONS)
each_legacy = pytest.mark.parametrize("revision", LEGACY)
OK: Json = {"content": []}


# --- requests ---


@pytest.mark.req("client-envelope", "client-progress-token-unique", "client-ids-unique")
def test_the_envelope_is_on_every_request() -> None:
    solo = Solo(MODERN)
    own = {"traceparent": "00-1-2-03", META + "protocolVersion": "mine", META + "logLevel": "alert"}
    solo.session.set_log_level("debug", 0.0)
    solo.session.request("tools/list", b"{}", 0.0)
    solo.session.request("tools/list", encoded({"cursor": "", "_meta": own}), 0.0, progress=True)
    plain, second = solo.sent()
    meta = plain["params"]["_meta"]
    assert set(meta) == {
        META + n for n in ("protocolVersion", "clientInfo", "clientCapabilities", "logLevel")
    }
    assert second["params"]["cursor"] == ""
    merged = second["params"]["_meta"]
    assert merged == meta | {
        "traceparent": "00-1-2-03",
        META + "logLevel": "alert",
        "progressToken": second["id"],
    }


@each_legacy
def test_legacy_requests_have_a_meta_only_where_it_says_something(revision: str) -> None:
    solo = Solo(revision)
    solo.session.request("tools/list", b"{}", 0.0)
    solo.session.request("tools/list", b'{"_meta":{"a":1}}', 0.0, progress=True)
    plain, second = solo.sent()
    assert plain["params"] == {}
    assert second["params"] == {"_meta": {"a": 1, "progressToken": second["id"]}}


@each_legacy
def test_the_log_level_is_a_request(revision: str) -> None:
    solo = Solo(revision)
    ticket = solo.session.set_log_level("debug", 0.0)
    assert solo.say({"id": solo.sent_id(), "result": {}}) == [ResultReceived(ticket or 0, Raw(b"{}"))]


def test_arguments_stay_as_they_were_written() -> None:
    solo = Solo()
    solo.session.call_tool("put", b'{"value": 1.0e2, "key":"\\u0061"}', 0.0)
    [message] = solo.session.take_messages()
    assert b'"arguments":{"value": 1.0e2, "key":"\\u0061"}' in message


@each_revision
def test_results_and_errors(revision: str) -> None:
    solo = Solo(revision)
    one, id1 = solo.call()
    two, id2 = solo.call()
    assert solo.session.next_deadline() is not None
    assert solo.say({"id": id2, "error": {"code": -32602, "message": "no"}}, {"id": id1, "result": OK}) == [
        ErrorReceived(two, RpcError(-32602, "no")),
        ResultReceived(one, Raw(encoded(OK))),
    ]
    # Settled: nothing more happens.
    assert solo.say({"id": id1, "result": OK}, {"id": id2, "error": {"code": 1, "message": ""}}) == []
    solo.session.cancel(one)
    solo.session.answer(one, {"a": b"{}"}, 0.0)
    assert solo.sent() == []
    assert solo.session.next_deadline() is None


@pytest.mark.parametrize("id", [0, -1, 99, "1", "x", 10**300])
def test_answers_to_what_was_never_sent(id: Json) -> None:
    solo = Solo()
    solo.call()
    only(solo.say({"id": id, "result": OK}), ProtocolViolated)
    only(solo.say({"id": id, "error": {"code": 1, "message": ""}}), ProtocolViolated)


def test_an_error_without_an_id() -> None:
    solo = Solo()
    said = only(solo.say({"error": {"code": -32700, "message": "not JSON"}}), ProtocolViolated)
    assert said.ticket is None and "not JSON" in said.reason


@each_revision
@pytest.mark.parametrize("result", [7, [], "x", None])
def test_a_result_that_is_no_object(revision: str, result: Json) -> None:
    solo = Solo(revision)
    ticket, id = solo.call()
    assert only(solo.say({"id": id, "result": result}), ProtocolViolated).ticket == ticket
    assert solo.say({"id": id, "result": OK}) == []


# --- resultType ---


@pytest.mark.parametrize("kind", ["partial", "", "task", "Complete", 7, None])
@pytest.mark.req("client-result-type-unknown")
def test_an_unknown_result_type_fails_the_request(kind: Json) -> None:
    solo = Solo()
    ticket, id = solo.call()
    assert only(solo.say({"id": id, "result": OK | {"resultType": kind}}), ProtocolViolated).ticket == ticket


@pytest.mark.parametrize("result", [OK, OK | {"resultType": "complete"}])
@pytest.mark.req("client-result-type-missing")
def test_a_missing_result_type_is_complete(result: Json) -> None:
    solo = Solo()
    ticket, id = solo.call()
    assert only(solo.say({"id": id, "result": result}), ResultReceived).ticket == ticket


def test_tasks_come_to_those_who_declared_them() -> None:
    for extensions, expected in (
        ({"io.modelcontextprotocol/tasks": Raw(b"{}")}, ResultReceived),
        ({}, ProtocolViolated),
    ):
        solo = Solo(capabilities=ClientCapabilities(extensions=extensions))
        _, id = solo.call()
        only(solo.say({"id": id, "result": {"resultType": "task", "taskId": "t"}}), expected)


@each_legacy
def test_result_types_mean_nothing_in_the_legacy_era(revision: str) -> None:
    solo = Solo(revision)
    _, id = solo.call()
    only(solo.say({"id": id, "result": OK | {"resultType": 7}}), ResultReceived)


# --- multi round-trip requests ---

ELICIT: Json = {"method": "elicitation/create", "params": {"message": "?", "requestedSchema": {}}}
ROOTS: Json = {"method": "roots/list"}


def wanted(id: int, state: str | None = None, **requests: Json) -> Json:
    """The server wants input."""
    result: Json = {"resultType": "input_required"}
    if requests:
        result["inputRequests"] = requests
    if state is not None:
        result["requestState"] = state
    return {"id": id, "result": result}


@pytest.mark.req("client-mrtr-all", "client-mrtr-new-id")
def test_one_round_of_input() -> None:
    solo = Solo()
    ticket, id = solo.call(progress=True)
    asked = only(solo.say(wanted(id, "s\u20ac\n", sure=ELICIT, where=ROOTS)), InputRequired)
    assert asked.ticket == ticket
    assert asked.requests["where"] == InputRequest("roots/list", Raw(b"{}"))
    assert json.loads(bytes(asked.requests["sure"].params)) == ELICIT["params"]
    assert solo.session.next_deadline() is None  # A person may take their time.
    solo.session.answer(ticket, {"where": b'{"roots":[]}', "sure": b'{"action":"decline"}'}, 50.0)
    [request] = solo.sent()
    params = request["params"]
    assert request["id"] > id
    assert (params["name"], params["arguments"]) == ("get", {"key": "a"})
    assert params["inputResponses"] == {"where": {"roots": []}, "sure": {"action": "decline"}}
    assert params["requestState"] == "s\u20ac\n"
    assert params["_meta"]["progressToken"] == request["id"]
    assert solo.session.next_deadline() == 110.0
    assert solo.say({"id": id, "result": OK}) == []
    assert only(solo.say({"id": request["id"], "result": OK}), ResultReceived).ticket == ticket


@pytest.mark.req("client-mrtr-state-echoed", "client-mrtr-no-state", "client-mrtr-unrelated")
def test_the_state_goes_back_byte_for_byte_and_no_further() -> None:
    solo = Solo()
    ticket, id = solo.call()
    state = b'"v1.\\u0061\\/\xe2\x82\xac"'
    solo.say(
        b'{"jsonrpc":"2.0","id":%d,"result":{"resultType":"input_required","requestState":%b,'
        b'"inputRequests":{"r":{"method":"roots/list"}}}}' % (id, state)
    )
    solo.session.answer(ticket, {"r": b'{"roots":[]}'}, 0.0)
    [message] = solo.session.take_messages()
    assert b'"requestState":' + state in message
    # The next round brings no state: none is sent, nor are earlier answers.
    again = json.loads(message)["id"]
    solo.say(wanted(again, where=ROOTS))
    solo.session.answer(ticket, {"where": b'{"roots":[]}'}, 0.0)
    [request] = solo.sent()
    assert "requestState" not in request["params"]
    assert list(request["params"]["inputResponses"]) == ["where"]
    # Other calls know nothing of it.
    solo.session.call_tool("get", b'{"key":"a"}', 0.0)
    assert set(solo.sent()[0]["params"]) == {"name", "arguments", "_meta"}


def test_a_state_alone_is_sent_back_at_once_within_the_limit() -> None:
    solo = Solo(limits=ClientLimits(rounds=3))
    ticket, id = solo.call()
    for n in range(3):
        assert solo.say(wanted(id, f"later{n}")) == []
        [request] = solo.sent()
        assert request["params"]["requestState"] == f"later{n}"
        assert "inputResponses" not in request["params"]
        id = request["id"]
    failed = only(solo.say(wanted(id, "later")), ProtocolViolated)
    assert failed.ticket == ticket and "more than 3 times" in failed.reason
    assert solo.sent() == []


def test_the_rounds_with_questions_are_limited_too() -> None:
    solo = Solo(limits=ClientLimits(rounds=2))
    ticket, id = solo.call()
    for _ in range(2):
        only(solo.say(wanted(id, where=ROOTS)), InputRequired)
        solo.session.answer(ticket, {"where": b"{}"}, 0.0)
        id = solo.sent_id()
    assert only(solo.say(wanted(id, where=ROOTS)), ProtocolViolated).ticket == ticket


@pytest.mark.parametrize(
    "result",
    [
        {},
        {"inputRequests": {}},
        {"inputRequests": []},
        {"inputRequests": {"a": {}}},
        {"inputRequests": {"a": {"method": "ping"}}},
        {"inputRequests": {"a": {"method": "roots/list"}, "b": {"method": "tools/list"}}},
        {"inputRequests": {"a": {"method": "elicitation/create", "params": {"mode": "psychic"}}}},
        {"inputRequests": {"a": {"method": "elicitation/create", "params": 7}}},
        {"requestState": 7},
        {"requestState": None},
        {"requestState": "x" * 2000},
    ],
)
def test_input_that_cannot_be_asked_for(result: Json) -> None:
    solo = Solo(limits=ClientLimits(state_bytes=1024))
    ticket, id = solo.call()
    message = {"id": id, "result": {"resultType": "input_required"} | result}
    assert only(solo.say(message), ProtocolViolated).ticket == ticket


SAMPLE: Json = {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}}
TOOLS: Json = {"method": "sampling/createMessage", "params": {"tools": []}}
CHOICE: Json = {"method": "sampling/createMessage", "params": {"toolChoice": {}}}
LINK: Json = {"method": "elicitation/create", "params": {"mode": "url", "message": "?", "url": "https://a"}}
CAN_FORM = ClientCapabilities(elicitation=ElicitationCapability())
CAN_LINK = ClientCapabilities(elicitation=ElicitationCapability(url=Raw(b"{}")))
CAN_SAMPLE = ClientCapabilities(sampling=SamplingCapability())
CAN_ROOTS = ClientCapabilities(roots=Raw(b"{}"))

UNDECLARED = [
    (CAN_FORM, LINK, -32602),
    (CAN_FORM, ROOTS, -32601),
    (CAN_FORM, SAMPLE, -32601),
    (CAN_LINK, ELICIT, -32602),
    (CAN_SAMPLE, TOOLS, -32602),
    (CAN_SAMPLE, CHOICE, -32602),
    (CAN_SAMPLE, ELICIT, -32601),
    (CAN_ROOTS, SAMPLE, -32601),
    (CAN_ROOTS, {"method": "resources/list"}, -32601),
    (CAN_SAMPLE, {"method": "sampling/createMessage", "params": []}, None),
]
DECLARED = [(CAN_FORM, ELICIT), (CAN_LINK, LINK), (CAN_SAMPLE, SAMPLE), (CAN_ROOTS, ROOTS)]


@pytest.mark.parametrize(("can", "request_", "code"), UNDECLARED)
def test_undeclared_input_fails_the_request(
    can: ClientCapabilities, request_: Json, code: int | None
) -> None:
    solo = Solo(capabilities=can)
    ticket, id = solo.call()
    assert only(solo.say(wanted(id, "s", a=request_)), ProtocolViolated).ticket == ticket


@pytest.mark.parametrize(("can", "request_"), DECLARED)
def test_declared_input_is_asked_for(can: ClientCapabilities, request_: Json) -> None:
    solo = Solo(capabilities=can)
    _, id = solo.call()
    only(solo.say(wanted(id, a=request_)), InputRequired)


@pytest.mark.parametrize("method", ["tools/list", "completion/complete", "server/discover"])
def test_methods_that_cannot_ask(method: str) -> None:
    solo = Solo()
    ticket = solo.session.request(method, b"{}", 0.0)
    assert only(solo.say(wanted(solo.sent_id(), "s")), ProtocolViolated).ticket == ticket


def test_a_call_can_be_cancelled_and_lost_while_it_is_asked_about() -> None:
    solo = Solo()
    one, id1 = solo.call()
    two, id2 = solo.call()
    solo.say(wanted(id1, where=ROOTS), wanted(id2, where=ROOTS))
    solo.session.cancel(one)
    assert solo.sent() == []  # The server has no request that could be cancelled.
    solo.session.receive_eof(0.0)
    assert solo.session.take_events() == [ConnectionLost((two,))]
    solo.session.answer(two, {"where": b"{}"}, 0.0)
    assert solo.sent() == []


# --- a version refused in the middle ---


def unsupported(id: int, *supported: str) -> Json:
    return {"id": id, "error": {"code": -32022, "message": "no", "data": {"supported": supported}}}


def test_a_request_is_repeated_once_with_a_supported_version() -> None:
    solo = Solo()
    ticket, id = solo.call()
    assert solo.say(unsupported(id, MODERN)) == []
    [request] = solo.sent()
    assert request["params"]["_meta"][META + "protocolVersion"] == MODERN
    assert only(solo.say(unsupported(request["id"], MODERN)), ErrorReceived).ticket == ticket


@pytest.mark.parametrize("supported", [(), ("2025-11-25",)])
def test_a_version_that_cannot_be_met_is_an_error(supported: tuple[str, ...]) -> None:
    solo = Solo()
    _, id = solo.call()
    only(solo.say(unsupported(id, *supported)), ErrorReceived)
    _, id = solo.call()
    only(solo.say({"id": id, "error": {"code": -32022, "message": "no"}}), ErrorReceived)


@each_legacy
def test_legacy_versions_are_not_changed(revision: str) -> None:
    solo = Solo(revision)
    _, id = solo.call()
    only(solo.say(unsupported(id, MODERN)), ErrorReceived)


# --- cancellation and time ---


@each_revision
@pytest.mark.req("client-cancel-notifies")
def test_cancelling(revision: str) -> None:
    solo = Solo(revision)
    one, id1 = solo.call()
    two, id2 = solo.call()
    solo.session.cancel(one, 'said "no"')
    solo.session.cancel(two)
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled"}
    assert solo.sent() == [
        cancelled | {"params": {"requestId": id1, "reason": 'said "no"'}},
        cancelled | {"params": {"requestId": id2}},
    ]
    assert solo.say({"id": id1, "result": OK}, {"id": id2, "result": {"resultType": 7}}) == []
    assert solo.session.next_deadline() is None


@each_revision
def test_a_timeout(revision: str) -> None:
    solo = Solo(revision, limits=ClientLimits(request_timeout=10))
    default, id = solo.call()
    short, short_id = solo.call(timeout=2.5)
    assert solo.session.next_deadline() == 2.5
    assert solo.pass_time(2.4) == []
    assert solo.pass_time(0.1) == [TimedOut(short)]
    [notice] = solo.sent()
    assert notice["params"] == {"requestId": short_id, "reason": "timed out"}
    assert solo.pass_time(0) == []
    assert solo.pass_time(7.5) == [TimedOut(default)]
    assert solo.say({"id": id, "result": OK}, {"id": short_id, "result": OK}) == []


def progress(token: Json, amount: Json) -> Json:
    return {"method": "notifications/progress", "params": {"progressToken": token, "progress": amount}}


@each_revision
def test_progress_buys_time_up_to_the_cap(revision: str) -> None:
    solo = Solo(revision, limits=ClientLimits(request_timeout=10, request_cap=25))
    ticket, id = solo.call(progress=True)
    for n in range(3):
        solo.pass_time(8)
        assert len(solo.say(progress(id, n))) == 1
    assert solo.session.next_deadline() == 25
    assert solo.pass_time(0.9) == []
    assert solo.pass_time(0.1) == [TimedOut(ticket)]
    assert solo.say(progress(id, 9)) == []


def test_a_timeout_above_the_cap_is_meant() -> None:
    solo = Solo(limits=ClientLimits(request_cap=25))
    solo.call(timeout=100)
    assert solo.session.next_deadline() == 100


@each_legacy
def test_while_the_server_waits_for_us_the_call_goes_on_up_to_the_cap(revision: str) -> None:
    solo = Solo(revision, limits=ClientLimits(request_timeout=10, request_cap=25))
    ticket, _ = solo.call()
    only(solo.say({"id": 1, "method": "roots/list"}), ServerAsked)
    assert solo.pass_time(10) == []
    assert solo.pass_time(10) == []
    assert solo.session.next_deadline() == 25
    assert solo.pass_time(5) == [TimedOut(ticket)]


# --- requests of the server ---


@each_legacy
@pytest.mark.req("client-ping-answered")
def test_a_legacy_server_pings(revision: str) -> None:
    solo = Solo(revision)
    assert solo.say({"id": "p", "method": "ping"}, {"id": 1, "method": "ping"}) == []
    assert [(answer["id"], answer["result"]) for answer in solo.sent()] == [("p", {}), (1, {})]


@pytest.mark.parametrize(("can", "request_", "code"), UNDECLARED)
@pytest.mark.req("client-undeclared-refused")
def test_what_was_not_declared_is_refused(can: ClientCapabilities, request_: Json, code: int | None) -> None:
    solo = Solo("2025-11-25", capabilities=can)
    assert solo.say({"id": 1} | request_) == []
    [refusal] = solo.sent()
    assert refusal["error"]["code"] == (-32602 if code is None else code)


@pytest.mark.parametrize(("can", "request_"), DECLARED)
def test_what_was_declared_reaches_the_application(can: ClientCapabilities, request_: Json) -> None:
    solo = Solo("2025-11-25", capabilities=can)
    asked = only(solo.say({"id": "q"} | request_), ServerAsked)
    assert asked.method == request_["method"]
    solo.session.reply(asked.ticket, b'{"a":1}')
    assert solo.sent() == [{"jsonrpc": "2.0", "id": "q", "result": {"a": 1}}]
    solo.session.refuse(asked.ticket, RpcError(-1, "no"))
    assert solo.sent() == []


@pytest.mark.req("client-negotiated-features")
def test_older_revisions_know_fewer_requests() -> None:
    for revision, expected in (("2025-03-26", -32601), ("2025-06-18", -32602)):
        solo = Solo(revision)
        assert solo.say({"id": 1} | LINK) == []
        assert solo.sent()[0]["error"]["code"] == expected


@each_legacy
def test_requests_of_the_server_are_limited(revision: str) -> None:
    solo = Solo(revision, limits=ClientLimits(server_requests=2))
    tickets = [only(solo.say({"id": n, "method": "roots/list"}), ServerAsked).ticket for n in range(2)]
    assert solo.say({"id": 2, "method": "roots/list"}) == []
    assert solo.sent()[0]["error"]["code"] == -32603
    solo.session.refuse(tickets[0], RpcError(-1, "no"))
    assert solo.sent()[0]["error"] == {"code": -1, "message": "no"}
    only(solo.say({"id": 2, "method": "roots/list"}), ServerAsked)


@each_legacy
def test_an_id_that_is_still_open(revision: str) -> None:
    solo = Solo(revision)
    only(solo.say({"id": 1, "method": "roots/list"}), ServerAsked)
    only(solo.say({"id": 1, "method": "roots/list"}), ProtocolViolated)
    assert solo.sent() == []


@each_legacy
def test_a_server_that_takes_its_request_back(revision: str) -> None:
    solo = Solo(revision)
    asked = only(solo.say({"id": 1, "method": "roots/list"}), ServerAsked)
    cancel = {"method": "notifications/cancelled", "params": {"requestId": 1, "reason": "enough"}}
    assert solo.say(cancel) == [ServerAskEnded(asked.ticket)]
    assert solo.say(cancel) == []
    solo.session.reply(asked.ticket, b"{}")
    assert solo.sent() == []


@pytest.mark.req("client-never-answers")
def test_a_modern_server_must_not_ask() -> None:
    solo = Solo()
    for method in ("ping", "roots/list", "x" * 1000):
        said = only(solo.say({"id": 1, "method": method}), ProtocolViolated)
        assert len(said.reason) < 200
    assert solo.sent() == []


# --- what cannot be read ---


@pytest.mark.parametrize(
    "raw", [b"", b"x", b"[]", b"7", b"{}", b"[{}]", b'{"jsonrpc":"2.0"}', b"\xff", b'{"a":"\xff"}']
)
@each_revision
def test_garbage(revision: str, raw: bytes) -> None:
    solo = Solo(revision)
    only(solo.say(raw), ProtocolViolated)
    assert solo.sent() == []


LITTLE = ClientLimits(wire=Limits(nesting_depth=4))
DEEP = b"[" * 10 + b"]" * 10


@pytest.mark.parametrize(
    "answer",
    [
        b'{"jsonrpc":"2.0","id":%d,"result":{"a":%b}}',
        b'{"result":{"a":%b},"jsonrpc":"2.0","id":%d}',
        b'{"id":%d,"jsonrpc":"2.0","error":{"a":%b}}',
    ],
)
@each_revision
def test_an_answer_that_is_too_deep_settles_its_request(revision: str, answer: bytes) -> None:
    solo = Solo(revision, limits=LITTLE)
    ticket, id = solo.call()
    raw = answer % ((DEEP, id) if answer.startswith(b'{"result"') else (id, DEEP))
    said = only(solo.say(raw), ProtocolViolated)
    assert said.ticket == ticket and "deeper" in said.reason
    assert solo.say(raw) == [ProtocolViolated(said.reason)]


@each_revision
def test_a_request_that_is_too_deep_is_refused_in_the_legacy_era(revision: str) -> None:
    solo = Solo(revision, limits=LITTLE)
    _, id = solo.call()
    raw = b'{"jsonrpc":"2.0","id":%d,"method":"roots/list","params":{"a":%b}}' % (id, DEEP)
    assert only(solo.say(raw), ProtocolViolated).ticket is None
    assert [message["id"] for message in solo.sent()] == ([] if revision == MODERN else [id])
    only(solo.say(b'{"jsonrpc":"2.0","method":"x","params":{"a":%b}}' % DEEP), ProtocolViolated)
    assert solo.sent() == []


# --- batches ---


@each_revision
@pytest.mark.req("client-batch-receive")
def test_batches_exist_in_one_revision(revision: str) -> None:
    solo = Solo(revision)
    _, id = solo.call()
    batch = [
        {"jsonrpc": "2.0", "id": id, "result": OK},
        {"jsonrpc": "2.0", "id": "p", "method": "ping"},
        [],
        7,
    ]
    events = solo.say(encoded(batch))
    if revision == "2025-03-26":
        assert isinstance(events[0], ResultReceived)
        assert [type(event) for event in events[1:]] == [ProtocolViolated] * 2
        assert [answer["id"] for answer in solo.sent()] == ["p"]
    else:
        only(events, ProtocolViolated)
        assert solo.sent() == []


def test_a_batch_before_the_connection() -> None:
    solo = Solo(mode="auto")
    only(solo.say(encoded([{"jsonrpc": "2.0", "id": 1, "result": {}}])), ProtocolViolated)


# --- our own misuse ---


def test_nothing_goes_before_the_connection() -> None:
    solo = Solo(mode="auto")
    uses: list[Callable[[], object]] = [
        lambda: solo.session.ping(0.0),
        lambda: solo.session.listen(ListenFilter(), 0.0),
        lambda: solo.session.set_log_level("debug", 0.0),
        solo.session.tell_roots_changed,
    ]
    for use in uses:
        with pytest.raises(LocalProtocolError, match="not open yet"):
            use()
    with pytest.raises(LocalProtocolError, match="once"):
        solo.session.connect(0.0)


def test_nothing_goes_after_the_end() -> None:
    solo = Solo()
    lost, id = solo.call()
    listen = solo.session.listen(ListenFilter(), 0.0)
    solo.session.receive_eof(0.0)
    assert solo.session.take_events() == [ConnectionLost((lost, listen))]
    with pytest.raises(LocalProtocolError, match="is over"):
        solo.session.ping(0.0)
    assert solo.say({"id": id, "result": OK}, b"x") == []
    assert solo.pass_time(1e6) == []
    solo.session.receive_eof(0.0)
    assert solo.session.take_events() == []
    assert solo.session.closed and solo.session.next_deadline() is None


@pytest.mark.parametrize(
    "use",
    [
        lambda solo: solo.session.request("initialize", b"{}", 0.0),
        lambda solo: solo.session.request("subscriptions/listen", b"{}", 0.0),
        lambda solo: solo.session.request("a", b"[]", 0.0),
        lambda solo: solo.session.request("a", b'{"a"', 0.0),
        lambda solo: solo.session.request("a", b'{"\xff":1}', 0.0),
        lambda solo: solo.session.request("a", b'{"_meta":7}', 0.0),
        lambda solo: solo.session.request("a", b'{"a":' + b"[" * 100_000, 0.0),
        lambda solo: solo.session.request("\ud800", b"{}", 0.0),
        lambda solo: solo.session.request("a", b"{}", 0.0, timeout=0),
        lambda solo: solo.session.request("a", b"{}", 0.0, timeout=float("nan")),
        lambda solo: solo.session.call_tool("\ud800", b"{}", 0.0),
        lambda solo: solo.session.cancel(0),
        lambda solo: solo.session.cancel(99),
        lambda solo: solo.session.cancel(1, "\ud800"),
        lambda solo: solo.session.reply(99, b"{}"),
        lambda solo: solo.session.reply(1, b"7"),
        lambda solo: solo.session.refuse(99, RpcError(-1, "")),
        lambda solo: solo.session.refuse(1, RpcError(-1, "\ud800")),
        lambda solo: solo.session.answer(1, {}, 0.0),
        lambda solo: solo.session.answer(99, {}, 0.0),
        lambda solo: solo.session.answer(2, {}, 0.0),
        lambda solo: solo.session.answer(2, {"where": b"{}", "more": b"{}"}, 0.0),
        lambda solo: solo.session.answer(2, {"where": b"7"}, 0.0),
    ],
)
def test_misuse(use: Callable[[Solo], object]) -> None:
    solo = Solo()
    solo.call()
    _, id = solo.call()
    solo.say(wanted(id, where=ROOTS))
    with pytest.raises(LocalProtocolError):
        use(solo)
    assert solo.sent() == []


def test_listens_are_modern() -> None:
    with pytest.raises(LocalProtocolError, match="modern"):
        Solo("2025-11-25").session.listen(ListenFilter(), 0.0)


def test_the_open_requests_are_limited() -> None:
    solo = Solo(limits=ClientLimits(open_requests=2))
    tickets, room = [], []
    for _ in range(2):
        room.append(solo.session.has_room)
        tickets.append(solo.call()[0])
    room.append(solo.session.has_room)
    with pytest.raises(LocalProtocolError, match="2 requests"):
        solo.call()
    solo.session.cancel(tickets[0])
    room.append(solo.session.has_room)
    assert room == [True, True, False, True]


def test_roots_changes_are_told_to_legacy_servers() -> None:
    for revision, told in (("2025-11-25", 1), (MODERN, 0)):
        solo = Solo(revision)
        solo.session.tell_roots_changed()
        assert len(solo.sent()) == told


def test_answers_may_be_any_mapping() -> None:
    solo = Solo()
    ticket, id = solo.call()
    solo.say(wanted(id, where=ROOTS))
    answers: Mapping[str, bytes] = {"where": b' {"roots": []} '}
    solo.session.answer(ticket, answers, 0.0)
    assert solo.sent()[0]["params"]["inputResponses"] == {"where": {"roots": []}}
