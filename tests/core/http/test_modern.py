"""Requests of 2026-07-28 over HTTP: statuses, JSON or a stream, listens, disconnects."""

import pytest

from kvmcp.core.commands import Ask, HangUp, Log, Progress, WorkDone
from kvmcp.core.http.messages import Request, ResponseStart
from kvmcp.core.limits import Limits
from kvmcp.core.subscriptions import ListChanged, ResourceUpdated
from kvmcp.core.wire.common import ElicitForm, TextContent, ToolResult
from tests.core.fixture_catalog import FORM
from tests.core.harness import META, envelope
from tests.core.http.harness import JSON_HEADERS, Json, Web, modern_headers

DONE = WorkDone(ToolResult((TextContent("done"),)))
META_SUBSCRIPTION = META + "subscriptionId"


def test_a_unary_answer_is_one_start_with_its_length_and_one_body() -> None:
    web = Web()
    reply = web.call("get", {"key": "a"})
    assert (reply.status, reply.ended, reply.exchange.closed) == (200, True, True)
    assert reply.header("content-type") == "application/json"
    assert reply.header("content-length") == str(len(reply.body))
    assert reply.header("x-content-type-options") == "nosniff"
    assert reply.header("mcp-session-id") is None
    assert reply.message()["result"]["structuredContent"] == {"found": True, "value": "1"}
    assert web.server.requests == 0


def test_a_call_waits_for_the_store_without_writing() -> None:
    web = Web(held=True)
    reply = web.call("get", {"key": "a"})
    assert reply.waits and web.server.requests == 1 and not reply.exchange.wants_input
    reply.answer_batch()
    assert reply.code() == (200, None)


@pytest.mark.parametrize(
    ("method", "params", "outcome"),
    [
        ("server/discover", {}, (200, None)),
        ("tools/list", {}, (200, None)),
        ("no/such", {}, (404, -32601)),
        ("initialize", {}, (404, -32601)),
        ("ping", {}, (404, -32601)),
        ("logging/setLevel", {"level": "debug"}, (404, -32601)),
        ("resources/subscribe", {"uri": "kv://keys/a"}, (404, -32601)),
        ("resources/unsubscribe", {"uri": "kv://keys/a"}, (404, -32601)),
        ("tools/list", {"cursor": 5}, (400, -32602)),
        ("tools/list", {"cursor": "x"}, (400, -32602)),
        ("tools/call", {}, (400, -32602)),
        ("tools/call", {"name": "none"}, (400, -32602)),
        ("resources/read", {"uri": "kv://none"}, (400, -32602)),
        ("tools/call", {"name": "refuses"}, (200, -31000)),
        ("tools/call", {"name": "raises"}, (200, -32603)),
        ("tools/call", {"name": "fails"}, (200, None)),
    ],
)
def test_each_error_has_its_status(method: str, params: Json, outcome: Json) -> None:
    assert Web().ask(method, params).code() == outcome


def test_a_capability_that_is_missing_is_400() -> None:
    reply = Web().call("delete", {"key": "a"}, meta=envelope(capabilities={}))
    assert reply.status == 400
    error = reply.message()["error"]
    assert (error["code"], error["data"]) == (-32021, {"requiredCapabilities": {"elicitation": {"form": {}}}})


def test_input_is_asked_for_in_the_result_and_comes_with_the_next_request() -> None:
    web = Web()
    first = web.call("delete", {"key": "a"}).message()["result"]
    assert first["resultType"] == "input_required"
    given = {"confirm": {"action": "accept", "content": {"yes": True}}}
    again = {"requestState": first["requestState"], "inputResponses": given}
    reply = web.ask("tools/call", {"name": "delete", "arguments": {"key": "a"}, **again})
    assert reply.code() == (200, None) and "a" not in web.store


def test_the_id_of_an_error_is_that_of_the_request() -> None:
    assert Web().ask("no/such", id="x").message()["id"] == "x"


# --- notifications and what is no single request ---


@pytest.mark.parametrize("method", ["notifications/cancelled", "notifications/anything"])
@pytest.mark.parametrize("named", ["2026-07-28"])
def test_a_notification_is_accepted(method: str, named: str) -> None:
    reply = Web().post({"jsonrpc": "2.0", "method": method}, {**JSON_HEADERS, "MCP-Protocol-Version": named})
    assert (reply.status, reply.body, reply.header("content-length")) == (202, b"", "0")


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b"7", -32600),
        (b"{}", -32600),
        ([], -32600),
        ([{"jsonrpc": "2.0", "id": 1, "method": "ping"}], -32600),
        ({"jsonrpc": "2.0", "id": 1, "result": {}}, -32600),
        ({"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": ""}}, -32600),
    ],
)
def test_a_body_that_is_no_single_request_is_400(message: Json, code: int) -> None:
    reply = Web().post(message, {**JSON_HEADERS, "MCP-Protocol-Version": "2026-07-28"})
    assert reply.code() == (400, code)


@pytest.mark.parametrize("verb", ["GET", "DELETE", "PUT"])
def test_only_post_exists(verb: str) -> None:
    reply = Web().request(verb, modern_headers("x", {}))
    assert (reply.status, reply.header("allow")) == (405, "POST")


# --- streams ---


def test_what_is_told_before_the_result_makes_it_a_stream() -> None:
    web = Web()
    reply = web.call("job", meta=envelope(progressToken="p", log_level="info"))
    assert reply.waits
    reply.tell(Progress(0.5), Log("info", b'"half"'), Log("debug", b'"unasked"'))
    assert (reply.status, reply.is_stream, reply.ended) == (200, True, False)
    assert reply.header("cache-control") == "no-cache, no-transform"
    assert reply.header("x-accel-buffering") == "no"
    assert reply.header("content-length") is None
    progress, log = reply.messages()
    assert (progress["params"]["progressToken"], log["params"]["data"]) == ("p", "half")
    reply.complete(1, DONE)
    assert reply.message()["result"]["resultType"] == "complete"
    assert reply.ended and reply.exchange.closed
    assert all(event.keys() == {"data"} for event in reply.events()), "no ids in this era"


def test_notices_and_result_of_one_turn_come_in_one_stream() -> None:
    web = Web()
    reply = web.call("job", meta=envelope(progressToken=1))
    reply.exchange.tell(1, Progress(0.5), web.now)
    reply.exchange.complete(1, DONE, web.now)
    reply.drive()
    assert len(reply.messages()) == 2 and reply.ended


def test_an_error_behind_the_first_event_comes_in_the_stream() -> None:
    reply = Web().call("job", meta=envelope(capabilities={}, progressToken=1))
    reply.tell(Progress(0.1))
    reply.tell(Ask({"sure": ElicitForm("Sure?", FORM)}))
    assert (reply.status, reply.messages()[1]["error"]["code"]) == (200, -32021)
    assert reply.stopped == [1]


def test_a_job_that_asks_is_stopped_and_the_input_is_required() -> None:
    reply = Web().call("job")
    reply.tell(Ask({"sure": ElicitForm("Sure?", FORM)}))
    assert reply.message()["result"]["resultType"] == "input_required"


def test_a_job_cannot_hang_up_in_this_era() -> None:
    reply = Web().call("job")
    reply.tell(HangUp())
    assert reply.waits
    reply.complete(1, DONE)
    assert reply.code() == (200, None)


def test_silence_becomes_a_stream_with_comments() -> None:
    web = Web(limits=Limits(keep_alive=10.0))
    reply = web.call("job")
    web.pass_time(9.9)
    assert reply.waits
    web.pass_time(0.1)
    assert reply.is_stream and reply.body == b": keep-alive\n\n"
    web.pass_time(10.0)
    assert reply.body == b": keep-alive\n\n" * 2
    reply.complete(1, DONE)
    assert reply.ended and len(reply.messages()) == 1
    assert reply.exchange.next_deadline() is None


def test_json_that_came_on_several_lines_goes_out_on_one() -> None:
    web = Web()
    reply = web.call("job", meta=envelope(log_level="info"))
    reply.tell(Log("info", b'{"a":\r\n1}'))
    assert reply.message()["params"]["data"] == {"a": 1}


def test_a_disconnect_is_the_cancellation() -> None:
    web = Web()
    reply = web.call("job", meta=envelope(progressToken=1))
    reply.tell(Progress(0.1))
    before = reply.body
    reply.disconnect()
    assert reply.stopped == [1] and reply.exchange.closed and reply.body == before
    reply.exchange.complete(1, DONE, web.now)
    assert reply.exchange.take_parts() == [] and web.server.requests == 0


def test_a_disconnect_before_the_body_is_complete_ends_it() -> None:
    web = Web()
    reply = web.call("get", {"key": "a"})
    exchange = web.server.open(Request("POST", [(b"content-type", b"application/json")]), web.caller, 0.0)
    exchange.receive_body(b"{", 0.0)
    exchange.disconnected(0.0)
    assert exchange.take_parts() == [] and exchange.closed
    assert reply.exchange.closed and web.server.requests == 0


# --- listens ---


def listen(web: Web, **wanted: Json) -> Json:
    return web.ask("subscriptions/listen", {"notifications": wanted})


def test_a_listen_is_acknowledged_at_once_and_hears_only_what_it_asked_for() -> None:
    web = Web()
    reply = listen(web, toolsListChanged=True, resourceSubscriptions=["kv://keys/a"])
    assert reply.is_stream and not reply.ended
    acknowledged = reply.message()
    assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
    web.publish(ListChanged("prompts"))
    assert reply.messages() == []
    web.publish(ListChanged("tools"))
    web.publish(ResourceUpdated("kv://keys/a"))
    heard = reply.messages()
    assert [one["method"] for one in heard] == [
        "notifications/tools/list_changed",
        "notifications/resources/updated",
    ]
    assert {one["params"]["_meta"][META_SUBSCRIPTION] for one in heard} == {
        acknowledged["params"]["_meta"][META_SUBSCRIPTION]
    }


def test_changes_that_a_slow_reader_missed_are_told_once() -> None:
    web = Web()
    reply = listen(web, toolsListChanged=True)
    reply.messages()
    reply.reads = False
    for _ in range(3):
        web.publish(ListChanged("tools"))
    reply.reads = True
    reply.drive()
    assert len(reply.messages()) == 1


def test_only_so_many_requests_are_open() -> None:
    web = Web(limits=Limits(open_requests=1), held=True)
    first = web.call("get", {"key": "a"})
    assert web.call("get", {"key": "a"}).code() == (503, -32600)
    first.answer_batch()
    assert web.call("get", {"key": "a"}).waits


def test_only_those_who_listen_are_woken() -> None:
    web = Web()
    tools = listen(web, toolsListChanged=True)
    listen(web, promptsListChanged=True)
    web.server.publish(ListChanged("tools"), web.now)
    assert web.server.take_woken() == [tools.exchange]


def test_a_listen_ends_with_its_connection_and_with_the_server() -> None:
    web = Web()
    first, second = listen(web, toolsListChanged=True), listen(web, toolsListChanged=True)
    first.disconnect()
    assert first.exchange.closed and web.server.requests == 1
    web.shut_down()
    assert second.ended and "result" in second.messages()[-1]
    assert web.server.requests == 0


def test_a_listen_that_is_refused_has_a_status() -> None:
    assert listen(Web(), toolsListChanged=5).code() == (400, -32602)


def test_only_so_many_streams_are_open() -> None:
    web = Web(limits=Limits(open_streams=1))
    first = listen(web, toolsListChanged=True)
    full = listen(web, toolsListChanged=True)
    assert full.code() == (503, -32600) and full.header("retry-after") == "60"
    first.disconnect()
    assert listen(web, toolsListChanged=True).is_stream


# --- the end ---


def test_at_the_end_what_was_accepted_is_finished_and_nothing_more_is_taken() -> None:
    web = Web(held=True)
    reply = web.call("get", {"key": "a"})
    web.shut_down()
    refused = web.call("get", {"key": "a"})
    assert refused.code() == (503, -32600) and refused.header("retry-after") == "1"
    reply.answer_batch()
    assert reply.code() == (200, None)


def test_at_the_end_of_the_grace_what_is_open_is_given_up() -> None:
    web = Web(limits=Limits(shutdown_grace=2.0))
    reply = web.call("job")
    web.shut_down()
    web.pass_time(2.0)
    assert reply.message()["result"]["isError"] is True and reply.exchange.closed


def test_a_body_that_is_still_arriving_at_the_end_is_refused() -> None:
    web = Web()
    headers = [(name.encode(), value.encode()) for name, value in JSON_HEADERS.items()]
    exchange = web.server.open(Request("POST", headers), web.caller, web.now)
    web.server.begin_shutdown(web.now)
    assert web.server.take_woken() == [exchange]
    start, _ = exchange.take_parts()
    assert isinstance(start, ResponseStart) and start.status == 503
