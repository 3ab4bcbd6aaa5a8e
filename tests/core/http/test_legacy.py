"""Sessions of 2025-03-26 to 2025-11-25 over HTTP: ids, streams, questions, batches, resumption."""

import json

import pytest

from kvmcp.core.commands import Ask, HangUp, Log, Progress, WorkDone
from kvmcp.core.limits import Limits
from kvmcp.core.plan import Caller
from kvmcp.core.subscriptions import ListChanged, ResourceUpdated
from kvmcp.core.wire.common import ElicitForm, TextContent, ToolResult
from tests.core.fixture_catalog import FORM
from tests.core.harness import CLIENT_INFO, LEGACY, accepted
from tests.core.http.harness import JSON_HEADERS, Json, Reply, Session, Web

DONE = WorkDone(ToolResult((TextContent("done"),)))
PRIMED, UNPRIMED = "2025-11-25", "2025-06-18"


@pytest.fixture(params=LEGACY)
def session(request: pytest.FixtureRequest) -> Session:
    """A session of each legacy revision."""
    return Session(Web(), request.param)


def ask_form(reply: Reply) -> None:
    reply.tell(Ask({"sure": ElicitForm("Sure?", FORM)}))


# --- sessions ---


def test_a_session_is_opened_and_serves(session: Session) -> None:
    reply = session.call("get", {"key": "a"})
    assert reply.code() == (200, None) and not reply.is_stream
    assert reply.header("mcp-session-id") is None, "only on the response to initialize"
    assert session.ask("ping").message()["result"] == {}


@pytest.mark.parametrize(
    "more",
    [
        {"MCP-Protocol-Version": "2025-11-25"},
        {"MCP-Protocol-Version": "2025-11-25", "Mcp-Method": "initialize"},
    ],
)
def test_headers_do_not_flip_the_era_of_initialize(more: dict[str, str]) -> None:
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": CLIENT_INFO}
    reply = Web().post(
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}, JSON_HEADERS | more
    )
    assert (reply.status, reply.header("mcp-session-id") is not None) == (200, True)


def test_an_initialize_that_is_refused_opens_nothing() -> None:
    reply = Web().post({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}, revision=PRIMED)
    assert reply.code() == (200, -32602) and reply.header("mcp-session-id") is None


def test_a_second_initialize_is_refused(session: Session) -> None:
    params = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": CLIENT_INFO}
    assert session.ask("initialize", params).code() == (200, -32600)


@pytest.mark.parametrize("method", ["ping", "tools/list", "no/such"])
def test_without_a_session_there_is_only_initialize(method: str) -> None:
    reply = Web().post({"jsonrpc": "2.0", "id": 5, "method": method}, revision=PRIMED)
    assert reply.status == 400 and reply.message()["id"] == 5


@pytest.mark.parametrize(
    "message",
    [
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 1, "result": {}},
        [{"jsonrpc": "2.0", "id": 1, "method": "ping"}],
    ],
)
def test_nothing_else_goes_without_a_session_either(message: Json) -> None:
    assert Web().post(message, revision=PRIMED).code() == (400, -32600)


@pytest.mark.parametrize("id", ["x", "s2.x.y", "s2.", "", "s2." + "a" * 2000])
def test_an_unknown_session_is_404(id: str) -> None:
    web = Web()
    session = Session(web, PRIMED)
    session.id = id
    assert session.ask("ping").code() == (404, -32600)
    assert session.get().code() == (404, -32600)
    assert session.delete().code() == (404, -32600)


def test_a_session_id_that_stands_twice_is_400() -> None:
    session = Session(Web(), PRIMED)
    fields = [(name.encode(), value.encode()) for name, value in session.headers.items()]
    fields.append((b"mcp-session-id", session.id.encode()))
    body = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
    assert session.web.request("POST", fields, body, revision=PRIMED).code() == (400, -32600)


def test_an_unknown_version_is_400(session: Session) -> None:
    session.revision = "2031-01-01"
    reply = session.ask("ping")
    reply.revision = "2026-07-28"
    assert reply.code() == (400, -32022)
    assert session.get().status == 400


def test_a_request_without_a_version_is_of_the_session(session: Session) -> None:
    headers = {**JSON_HEADERS, "Mcp-Session-Id": session.id}
    reply = session.web.post(
        {"jsonrpc": "2.0", "id": 1, "method": "ping"}, headers, revision=session.revision
    )
    assert reply.code() == (200, None)


def test_errors_of_this_era_come_under_200(session: Session) -> None:
    assert session.ask("no/such").code() == (200, -32601)
    assert session.ask("resources/read", {"uri": "kv://none"}).code() == (200, -32002)
    assert session.ask("tools/call", {"name": "none"}).code() == (200, -32602)


def test_a_session_that_was_ended_is_404(session: Session) -> None:
    assert (session.delete().status, session.ask("ping").status) == (204, 404)
    assert session.web.replies[-2].header("content-length") is None


def test_a_session_belongs_to_its_principal() -> None:
    web = Web(caller=Caller("alice"))
    session = Session(web, PRIMED)
    web.caller = Caller("bob")
    assert session.ask("ping").status == 404
    web.caller = Caller("alice", scopes=frozenset({"more"}))
    assert session.ask("ping").status == 200


def test_a_session_expires() -> None:
    web = Web(limits=Limits(session_lifetime=100.0))
    session = Session(web, PRIMED)
    web.pass_time(99.0)
    assert session.ask("ping").status == 200
    web.pass_time(1.0)
    assert session.ask("ping").status == 404


def test_any_process_with_the_key_serves_a_session(session: Session) -> None:
    other = Web()
    for _ in range(3):
        assert session.call("get", {"key": "a"}, web=other).code() == (200, None)
        assert session.call("get", {"key": "b"}).code() == (200, None)


def test_what_a_session_is_travels_in_its_id() -> None:
    session = Session(Web(), PRIMED, {"roots": {}, "sampling": {"tools": {}}})
    who = session.call("who", web=Web()).message()["result"]["content"][0]["text"]
    seen = json.loads(who)
    assert (seen["version"], seen["info"], seen["roots"]) == (PRIMED, CLIENT_INFO["name"], True)


def test_wishes_are_remembered_between_requests() -> None:
    session = Session(Web(), UNPRIMED)
    assert session.ask("logging/setLevel", {"level": "debug"}).message()["result"] == {}
    reply = session.call("job")
    reply.tell(Log("debug", b'"low"'))
    assert reply.message()["params"]["data"] == "low"


def test_sessions_that_are_not_used_are_forgotten_and_nothing_is_lost() -> None:
    web = Web(limits=Limits(session_idle=10.0))
    plain, configured = Session(web, PRIMED), Session(web, PRIMED)
    configured.ask("resources/subscribe", {"uri": "kv://config"})
    assert web.server.sessions == 2
    web.pass_time(10.0)
    assert web.server.sessions == 0 and web.server.next_deadline() is None
    assert plain.ask("ping").status == 200, "its id says all there is"
    assert configured.ask("ping").status == 404, (
        "told to begin anew, rather than left without its subscription"
    )


def test_a_session_in_use_is_not_forgotten() -> None:
    web = Web(limits=Limits(session_idle=10.0))
    session = Session(web, PRIMED)
    job, stream = session.call("job"), session.get()
    web.pass_time(10.0)
    assert web.server.sessions == 1
    job.complete(1, DONE)
    assert not job.waits and not stream.ended


def test_only_so_many_sessions_are_remembered() -> None:
    web = Web(limits=Limits(sessions=2))
    sessions = [Session(web, PRIMED) for _ in range(4)]
    assert web.server.sessions == 2
    for session in sessions:
        assert session.delete().status == 204
    assert [session.ask("ping").status for session in sessions] == [200, 200, 404, 404], "bounded, too"


def test_the_end_of_a_session_is_forgotten_when_its_id_has_expired() -> None:
    web = Web(limits=Limits(session_lifetime=10.0))
    session = Session(web, PRIMED)
    session.delete()
    web.pass_time(10.0)
    Session(web, PRIMED)
    assert session.ask("ping").status == 404


# --- heads ---


@pytest.mark.parametrize(
    ("verb", "headers", "status"),
    [
        ("PUT", {}, 405),
        ("HEAD", {}, 405),
        ("GET", {"Accept": "text/html"}, 406),
        ("GET", {"Accept": "text/event-stream"}, 400),
        ("DELETE", {}, 400),
        ("POST", {}, 415),
        ("POST", {"Content-Type": "text/plain"}, 415),
        ("POST", {"Content-Type": "application/json", "Accept": "application/json"}, 406),
        ("POST", {"Content-Type": "application/json", "Content-Length": "4194305"}, 413),
        ("POST", {"Content-Type": "application/json"}, 400),
        ("POST", {"Content-Type": "application/json", "Accept": "*/*"}, 400),
    ],
)
def test_heads_that_are_refused(verb: str, headers: dict[str, str], status: int) -> None:
    reply = Web().request(verb, headers)
    assert reply.status == status and reply.ended
    if status == 405:
        assert reply.header("allow") == "POST, GET, DELETE"


# --- the stream of a POST ---


def test_what_a_call_says_goes_on_its_own_stream(session: Session) -> None:
    reply = session.ask("tools/call", {"name": "job", "_meta": {"progressToken": "p"}})
    reply.tell(Progress(1, 2), Log("error", b'"bad"'))
    reply.complete(1, DONE)
    assert [message.get("method") for message in reply.messages()] == [
        "notifications/progress",
        "notifications/message",
        None,
    ]
    assert reply.ended and reply.exchange.closed
    ids = [event["id"] for event in reply.events()]
    assert len(set(ids)) == len(ids)
    assert ("retry" in reply.events()[0]) == (session.revision == PRIMED)


@pytest.mark.parametrize("revision", [UNPRIMED, PRIMED])
def test_the_client_is_asked_on_the_stream_and_answers_by_another_post(revision: str) -> None:
    session = Session(Web(), revision)
    reply = session.call("delete", {"key": "a"})
    asked = reply.message()
    assert asked["method"] == "elicitation/create" and isinstance(asked["id"], str)
    answer = session.answer(asked, accepted(yes=True))
    assert (answer.status, answer.body) == (202, b"")
    assert reply.message()["result"]["structuredContent"] == {"values": [True]}
    assert reply.ended and "a" not in session.web.store


def test_questions_of_concurrent_calls_do_not_meet() -> None:
    session = Session(Web(), PRIMED)
    first, second = session.call("delete", {"key": "a"}), session.call("delete", {"key": "b"})
    one, two = first.message(), second.message()
    assert one["id"] != two["id"]
    session.answer(two, accepted(yes=True))
    assert (first.ended, second.ended) == (False, True)
    session.answer(one, {"action": "decline"})
    assert first.ended and session.web.store == {"a": "1"}


def test_an_answer_of_another_session_does_nothing() -> None:
    web = Web()
    session, other = Session(web, PRIMED), Session(web, PRIMED)
    reply = session.call("delete", {"key": "a"})
    assert other.answer(reply.message(), accepted(yes=True)).status == 202
    assert not reply.ended and "a" in web.store


def test_the_client_may_refuse_a_question(session: Session) -> None:
    reply = (
        session.call("interview")
        if session.revision > "2025-03-26"
        else session.ask("tools/call", {"name": "ask_all"})
    )
    asked = reply.messages()[-1]
    session.post({"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -1, "message": "no"}})
    assert reply.messages()[-1]["result"]["isError"] is True


def test_a_cancellation_comes_by_another_post_and_ends_the_stream() -> None:
    session = Session(Web(), PRIMED)
    reply, other = session.call("job", id="c"), session.call("job", id="d")
    session.say("notifications/cancelled", requestId="nobody")
    session.say("notifications/cancelled", requestId=None)
    session.say("notifications/cancelled", requestId="c")
    assert reply.stopped == [1] and reply.ended and reply.messages() == [] and other.waits
    assert reply.status == 200 and reply.exchange.closed


def test_a_cancelled_question_is_taken_back_on_the_stream() -> None:
    session = Session(Web(), UNPRIMED)
    reply = session.call("delete", {"key": "a"}, id="c")
    reply.messages()
    session.say("notifications/cancelled", requestId="c")
    assert reply.message()["method"] == "notifications/cancelled" and reply.ended


def test_a_job_may_ask_and_go_on() -> None:
    session = Session(Web(), PRIMED)
    reply = session.call("job")
    ask_form(reply)
    session.answer(reply.message(), accepted(yes=True))
    assert len(reply.answered) == 1
    reply.complete(1, DONE)
    assert reply.ended


# --- lost connections ---


def test_a_disconnect_is_no_cancellation() -> None:
    session = Session(Web(held=True), PRIMED)
    reply = session.call("put", {"key": "c", "value": "3"})
    reply.disconnect()
    assert session.web.server.requests == 1
    reply.answer_batch()
    assert session.web.store["c"] == "3"
    assert reply.waits and reply.exchange.closed and session.web.server.requests == 0


def test_without_an_event_id_a_lost_client_is_not_asked() -> None:
    session = Session(Web(), PRIMED)
    reply = session.call("job")
    reply.disconnect()
    ask_form(reply)
    assert reply.stopped == [1] and reply.exchange.closed


@pytest.mark.parametrize("revision", ["2025-03-26", UNPRIMED, PRIMED])
def test_a_lost_stream_is_resumed_behind_the_last_event(revision: str) -> None:
    session = Session(Web(), revision)
    reply = session.ask("tools/call", {"name": "job", "_meta": {"progressToken": 1}})
    reply.tell(Progress(1), Progress(2))
    seen = reply.events()[-2]["id"]
    reply.disconnect()
    reply.tell(Progress(3))
    back = session.get(seen)
    back.asked = {"1": "tools/call"}
    assert back.is_stream and [m["params"]["progress"] for m in back.messages()] == [2, 3]
    assert ("retry" in back.events()[0]) == (revision == PRIMED)
    reply.tell(Progress(4))
    assert back.message()["params"]["progress"] == 4
    reply.complete(1, DONE)
    assert "result" in back.message() and back.ended and back.exchange.closed
    assert [event["id"] for event in back.events()][-4:] == [f"{seen[:-2]}-{n}" for n in (2, 3, 4, 5)]


def test_a_stream_that_has_ended_is_replayed_and_ends() -> None:
    session = Session(Web(), PRIMED)
    reply = session.call("delete", {"key": "a"})
    first = reply.events()[0]["id"]
    session.answer(reply.messages()[0], accepted(yes=True))
    back = session.get(first)
    assert [m.get("method") for m in back.messages()] == ["elicitation/create", None] and back.ended
    assert back.exchange.closed


def test_a_client_that_comes_back_early_takes_its_stream_with_it() -> None:
    session = Session(Web(), PRIMED)
    reply = session.call("delete", {"key": "a"})
    [asked] = reply.messages()
    back = session.get(reply.events()[0]["id"])
    assert reply.ended, "the old connection is given up"
    assert (reply.exchange.closed, back.message()) == (False, asked)
    session.answer(asked, accepted(yes=True))
    assert back.ended and "result" in back.messages()[-1] and reply.exchange.closed
    again = session.get(back.events()[0]["id"])
    assert len(again.messages()) == 2


def test_a_stream_changes_hands_twice() -> None:
    session = Session(Web(), PRIMED)
    reply = session.call("job")
    ask_form(reply)
    event = reply.events()[0]["id"]
    second = session.get(event)
    third = session.get(event)
    assert second.ended and second.exchange.closed and not third.ended
    third.disconnect()
    reply.complete(1, DONE)
    assert reply.exchange.closed and third.messages()[0]["method"] == "elicitation/create"
    assert session.get(event).ended


@pytest.mark.parametrize("revision", ["2025-03-26", UNPRIMED, PRIMED])
def test_where_answers_are_resumable_each_is_a_stream_that_is_replayed(revision: str) -> None:
    session = Session(Web(resumable=True), revision)
    reply = session.ask("tools/list")
    assert reply.is_stream and reply.ended and reply.exchange.closed
    first = reply.events()[0]
    assert ("retry" in first) == (revision == PRIMED)
    back = session.get(f"{first['id'].rpartition('-')[0]}-0")
    back.asked = reply.asked
    assert back.messages() == reply.messages() and back.ended


def test_a_resumable_answer_is_a_stream_before_there_is_anything_to_say() -> None:
    session = Session(Web(resumable=True), PRIMED)
    reply = session.call("job")
    [priming] = reply.events()
    assert priming["data"] == "" and not reply.ended
    reply.disconnect()
    reply.complete(1, DONE)
    back = session.get(priming["id"])
    back.asked = reply.asked
    assert "result" in back.message() and back.ended


def test_a_job_hangs_up_and_the_client_comes_back() -> None:
    session = Session(Web(limits=Limits(retry_ms=300)), PRIMED)
    reply = session.call("job")
    reply.tell(HangUp())
    assert reply.events() == [{"id": reply.events()[0]["id"], "retry": "300", "data": ""}]
    assert reply.ended and not reply.exchange.closed
    reply.disconnect()
    back = session.get(reply.events()[0]["id"])
    assert not back.ended
    reply.complete(1, DONE)
    assert "result" in back.message() and back.ended


def test_a_job_that_has_hung_up_may_hang_up_again() -> None:
    session = Session(Web(), PRIMED)
    reply = session.call("job")
    reply.tell(HangUp())
    reply.tell(HangUp())
    reply.complete(1, DONE)
    assert reply.exchange.closed


def test_before_priming_a_job_cannot_hang_up() -> None:
    reply = Session(Web(), UNPRIMED).call("job")
    reply.tell(HangUp())
    assert reply.waits


@pytest.mark.parametrize("last", ["x", "-1", "p-x", "p-", "punknown-3", "p-\u00b2", "p-" + "1" * 30])
def test_an_event_that_is_none_of_ours_is_400(last: str) -> None:
    assert Session(Web(), PRIMED).get(last).code() == (400, -32600)


def test_the_events_of_another_session_are_not_to_be_had() -> None:
    web = Web()
    session, other = Session(web, PRIMED), Session(web, PRIMED)
    reply = session.call("delete", {"key": "a"})
    assert other.get(reply.events()[0]["id"]).status == 400
    session.answer(reply.messages()[0], accepted(yes=True))
    assert other.get(reply.events()[0]["id"]).status == 400


def test_silence_becomes_a_stream_that_can_be_resumed() -> None:
    web = Web(limits=Limits(keep_alive=5.0))
    session = Session(web, PRIMED)
    reply = session.call("job")
    web.pass_time(5.0)
    assert reply.is_stream and reply.body.endswith(b": keep-alive\n\n")
    web.pass_time(5.0)
    reply.disconnect()
    web.pass_time(5.0)
    reply.complete(1, DONE)
    assert "result" in session.get(reply.events()[0]["id"]).message()


# --- the stream of a GET ---


def test_changes_are_told_on_the_stream_of_a_get(session: Session) -> None:
    session.ask("resources/subscribe", {"uri": "kv://config"})
    stream = session.get()
    assert stream.is_stream and not stream.ended
    session.web.publish(ResourceUpdated("kv://config"))
    session.web.publish(ResourceUpdated("kv://other"))
    session.web.publish(ListChanged("tools"))
    assert [m["method"] for m in stream.messages()] == [
        "notifications/resources/updated",
        "notifications/tools/list_changed",
    ]
    session.ask("resources/unsubscribe", {"uri": "kv://config"})
    session.web.publish(ResourceUpdated("kv://config"))
    assert stream.messages() == []


def test_changes_before_the_stream_are_told_when_it_opens() -> None:
    session = Session(Web(), PRIMED)
    session.web.publish(ListChanged("tools"))
    assert session.call("get", {"key": "a"}).code() == (200, None), "not on the response to another request"
    assert session.get().message()["method"] == "notifications/tools/list_changed"


def test_a_session_has_one_stream() -> None:
    session = Session(Web(), PRIMED)
    first = session.get()
    assert session.get().code() == (409, -32600)
    first.disconnect()
    assert first.exchange.closed and session.get().is_stream


def test_a_lost_get_stream_is_resumed() -> None:
    session = Session(Web(), PRIMED)
    stream = session.get()
    primed = stream.events()[0]["id"]
    session.web.publish(ListChanged("tools"))
    stream.disconnect()
    session.web.publish(ListChanged("prompts"))
    back = session.get(primed)
    assert [m["method"] for m in back.messages()] == [
        "notifications/tools/list_changed",
        "notifications/prompts/list_changed",
    ]


def test_a_get_stream_that_this_process_does_not_know_begins_anew() -> None:
    session, other = Session(Web(), PRIMED), Web()
    known = session.get().events()[0]["id"]
    assert session.get(known, web=other).is_stream


def test_a_get_stream_is_kept_alive_and_ends_with_the_server() -> None:
    web = Web(limits=Limits(keep_alive=5.0))
    stream = Session(web, UNPRIMED).get()
    assert stream.body == b""
    web.pass_time(5.0)
    assert stream.body == b": keep-alive\n\n"
    web.shut_down()
    assert stream.ended and stream.exchange.next_deadline() is None and web.server.requests == 0


def test_a_get_stream_ends_with_its_session() -> None:
    session = Session(Web(), PRIMED)
    stream = session.get()
    assert session.delete().status == 204
    assert stream.ended and stream.exchange.closed
    other = Session(session.web, PRIMED)
    lost = other.get()
    lost.disconnect()
    assert other.delete().status == 204


def test_only_so_many_get_streams_are_open() -> None:
    web = Web(limits=Limits(open_streams=1))
    first, second = Session(web, PRIMED), Session(web, PRIMED)
    stream = first.get()
    assert second.get().code() == (503, -32600)
    stream.disconnect()
    assert second.get().is_stream


def test_a_get_stream_has_nothing_to_do_with_work() -> None:
    stream = Session(Web(), PRIMED).get()
    stream.exchange.complete(1, DONE, 0.0)
    stream.exchange.tell(1, HangUp(), 0.0)
    stream.exchange.publish(ListChanged("tools"), 0.0)
    stream.exchange.note_task("tk")
    assert stream.exchange.take_commands() == [] and not stream.ended
    stream.disconnect()
    assert stream.exchange.take_parts() == []


# --- batches ---


def test_a_batch_of_requests_is_answered_by_an_array() -> None:
    session = Session(Web(), "2025-03-26")
    call = {"name": "get", "arguments": {"key": "a"}}
    reply = session.post(
        [
            {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call},
            {"jsonrpc": "2.0", "method": "notifications/initialized"},
            {"jsonrpc": "2.0", "id": 2, "method": "ping"},
            {"jsonrpc": "2.0", "id": 3},
            [],
        ]
    )
    assert reply.body.startswith(b"[") and reply.ended
    messages = reply.messages()
    assert {m.get("id"): m.get("error", {}).get("code") for m in messages} == {
        1: None,
        2: None,
        3: -32600,
        None: -32600,
    }


def test_a_batch_that_tells_becomes_a_stream_of_single_messages() -> None:
    session = Session(Web(), "2025-03-26")
    reply = session.post(
        [{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "ask_all"}},
         {"jsonrpc": "2.0", "id": 2, "method": "ping"}]
    )  # fmt: skip
    for asked in [m for m in reply.messages() if m.get("method")]:
        session.post([{"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -1, "message": "no"}}])
    assert reply.ended


def test_a_batch_whose_answers_are_large_is_rendered_in_turns() -> None:
    session = Session(Web(limits=Limits(output_bytes=1)), "2025-03-26")
    session.web.store["big"] = "x" * 10_000
    call = {"name": "get", "arguments": {"key": "big"}}
    batch = [{"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": call} for id in range(4)]
    reply = session.post(batch)
    assert [message["id"] for message in reply.messages()] == [0, 1, 2, 3] and reply.ended


@pytest.mark.parametrize(
    "batch",
    [
        [{"jsonrpc": "2.0", "method": "notifications/initialized"}],
        [
            {"jsonrpc": "2.0", "id": "x", "result": {}},
            {"jsonrpc": "2.0", "id": "y", "error": {"code": 1, "message": ""}},
        ],
    ],
)
def test_a_batch_without_requests_is_accepted(batch: Json) -> None:
    reply = Session(Web(), "2025-03-26").post(batch)
    assert (reply.status, reply.body) == (202, b"")


def test_an_empty_batch_and_batches_of_other_revisions_are_400(session: Session) -> None:
    assert session.post([]).code() == (400, -32600)
    batch = session.post([{"jsonrpc": "2.0", "id": 1, "method": "ping"}])
    assert (batch.status == 200) == (session.revision == "2025-03-26")


# --- the end ---


def test_at_the_end_calls_are_finished() -> None:
    session = Session(Web(held=True), PRIMED)
    reply = session.call("get", {"key": "a"})
    session.web.shut_down()
    assert session.ask("ping").status == 503
    reply.answer_batch()
    assert reply.code() == (200, None)
