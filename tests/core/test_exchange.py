"""The life of requests, against a session: plans, batches, jobs, deadlines, and that each settles once."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from msgspec import Struct

from kvmcp.core.catalog import Catalog
from kvmcp.core.commands import (
    Ask,
    BatchFailed,
    Close,
    Log,
    Progress,
    RunBatch,
    StartWork,
    StopWork,
    WorkDone,
    WorkFailed,
)
from kvmcp.core.errors import LocalProtocolError, RpcError
from kvmcp.core.items import Tool
from kvmcp.core.limits import Limits
from kvmcp.core.plan import Answer, AskBackend, Caller, Context, Plan, Start, ToolError, WatchUntil
from kvmcp.core.subscriptions import ListChanged
from kvmcp.core.versions import LEGACY
from kvmcp.core.wire.common import (
    ClientCapabilities,
    ElicitForm,
    PromptMessage,
    PromptResult,
    TextContent,
    ToolResult,
)
from tests.core.fixture_catalog import FORM, Get, Nothing, Put, ShowAll, arguments
from tests.core.harness import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    Server,
    codes,
    error_of,
    ids,
    text_of,
)

req = pytest.mark.req
DONE = WorkDone(ToolResult((TextContent("done"),)))


def plan_of(plan: Plan) -> Catalog:
    """A catalog whose tool `it` answers this plan."""
    return Catalog(Tool(name="it", arguments=arguments(Nothing), plan=lambda given, context: plan))


class Then(Struct, frozen=True):
    """Go on with another plan."""

    plan: Plan

    def resume(self, replies: Sequence[object], context: Context) -> Plan:
        return self.plan


def running(revision: str = "2025-11-25", limits: Limits | None = None) -> tuple[Server, int]:
    """A server with one job, and the job's ticket."""
    server = Server(revision, limits=limits)
    server.start("job")
    [ticket] = server.jobs
    return server, ticket


# --- the store ---


def test_all_calls_of_a_chunk_go_to_the_store_in_one_batch_and_come_back_in_one_piece() -> None:
    server = Server("2025-11-25", held=True)
    server.say(
        server.request("tools/call", {"name": "get", "arguments": {"key": "a"}}),
        server.request("tools/call", {"name": "get_many", "arguments": {"keys": ["b", "none", "a"]}}),
        server.request("tools/call", {"name": "get_many"}),
        server.request("tools/call", {"name": "put", "arguments": {"key": "c", "value": "3"}}),
        server.request("tools/list"),
        b"garbage\n",
    )
    [batch] = server.batches
    assert batch.ops == [Get("a"), Get("b"), Get("none"), Get("a"), Put("c", "3")]
    assert ids(server.replies()) == ["r5", None]
    server.answer_batch()
    replies = {reply["id"]: reply["result"]["structuredContent"] for reply in server.replies()}
    assert replies == {
        "r1": {"found": True, "value": "1"},
        "r2": {"values": ["2", None, "1"]},
        "r3": {"values": []},
        "r4": {"values": [True]},
    }


def test_a_plan_without_operations_is_completed_with_no_replies() -> None:
    server = Server("2025-11-25", held=True)
    server.start("get_many", {"keys": []})
    assert server.batches == [RunBatch(server.batches[0].ticket, [])]
    server.answer_batch()
    assert ids(server.replies()) == ["r1"]


def test_a_continuation_may_ask_the_store_again() -> None:
    again = AskBackend((Get("a"),), Then(AskBackend((Get("b"),), ShowAll())))
    server = Server("2025-11-25", catalog=plan_of(again))
    assert server.call("it")["result"]["structuredContent"] == {"values": ["2"]}
    assert [command.ops for command in server.ran if isinstance(command, RunBatch)] == [
        [Get("a")],
        [Get("b")],
    ]


def test_a_reply_to_a_cancelled_call_is_dropped_and_the_others_are_answered() -> None:
    server = Server("2025-11-25", held=True)
    first, second = server.start("get", {"key": "a"}), server.start("get", {"key": "b"})
    server.cancel(first)
    server.answer_batch()
    server.answer_batch()
    assert ids(server.replies()) == [second]


def test_a_store_that_is_late_is_given_up_and_its_reply_ignored() -> None:
    server = Server("2025-11-25", held=True, limits=Limits(backend_timeout=10.0))
    server.say(
        server.request("tools/call", {"name": "get", "arguments": {"key": "a"}}),
        server.request("tools/call", {"name": "put", "arguments": {"key": "a", "value": "9"}}),
        server.request("tools/call", {"name": "get", "arguments": {"key": "b"}}),
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "r3"}},
    )
    assert server.connection.next_deadline() == 10.0
    server.pass_time(9.9)
    assert server.replies() == []
    server.pass_time(0.1)
    read, write = map(error_of, server.replies())
    assert (read["code"], read["retryable"]) == ("TIMEOUT", True)
    assert (write["code"], write["retryable"]) == ("UNKNOWN_OUTCOME", False)
    server.answer_batch()
    assert server.replies() == []
    assert server.connection.next_deadline() is None


def test_a_change_that_was_made_is_not_denied_when_a_later_step_is_late() -> None:
    plan = AskBackend((Put("a", "9"),), Then(AskBackend((Get("a"),), ShowAll())), writes=True)
    server = Server("2025-11-25", catalog=plan_of(plan), held=True)
    server.start("it")
    server.answer_batch()
    server.pass_time(30.0)
    [reply] = server.replies()
    assert error_of(reply)["code"] == "UNKNOWN_OUTCOME"


class NeverAnswers(Struct, frozen=True):
    def resume(self, replies: object, context: Context, late: bool) -> Answer | None:
        return None


@pytest.mark.parametrize(("writes", "code"), [(False, "TIMEOUT"), (True, "UNKNOWN_OUTCOME")])
def test_a_watch_that_only_looks_has_changed_nothing_when_it_is_given_up(writes: bool, code: str) -> None:
    context = Context(Caller(), "2025-11-25", ClientCapabilities())
    watch = WatchUntil(context, (Get("a"),), NeverAnswers(), timeout=50.0, keys=("a",), writes=writes)
    server = Server("2025-11-25", catalog=plan_of(Start(watch)), limits=Limits(work_timeout=20.0))
    server.start("it")
    assert list(server.jobs.values()) == [watch]
    server.pass_time(20.0)
    [reply] = server.replies()
    assert error_of(reply)["code"] == code


@pytest.mark.parametrize("outcome", [None, [], ["1", "2"], 7, DONE])
def test_a_batch_needs_as_many_replies_as_operations(outcome: object) -> None:
    server = Server("2025-11-25", held=True)
    server.start("get", {"key": "a"})
    with pytest.raises(LocalProtocolError, match="needs a sequence of 1 replies"):
        server.connection.complete(server.batches[0].ticket, outcome, 0.0)
    server.answer_batch()
    assert ids(server.replies()) == ["r1"]


def test_a_store_that_breaks_its_contract_is_owned_up_to() -> None:
    server = Server("2025-11-25", held=True)
    server.say(
        server.request("tools/call", {"name": "get", "arguments": {"key": "a"}}),
        server.request("tools/call", {"name": "put", "arguments": {"key": "a", "value": "9"}}),
    )
    server.cancel(server.start("get", {"key": "b"}))
    for batch in server.batches:
        server.connection.complete(batch.ticket, BatchFailed(), 0.0)
    server.run()
    read, write = map(error_of, server.replies())
    assert (read["code"], read["message"]) == ("TIMEOUT", "the store failed; nothing was changed")
    assert write["code"] == "UNKNOWN_OUTCOME"
    assert server.connection.next_deadline() is None and server.reads()


def test_a_batch_is_completed_once() -> None:
    server = Server("2025-11-25", held=True)
    server.start("get", {"key": "a"})
    [batch] = server.batches
    server.answer_batch()
    with pytest.raises(LocalProtocolError, match="work ends as"):
        server.connection.complete(batch.ticket, ["1"], 0.0)


@pytest.mark.parametrize("ticket", [0, -1, 99])
def test_tickets_that_were_never_given(ticket: int) -> None:
    server, _ = running()
    with pytest.raises(LocalProtocolError, match="was never given"):
        server.connection.complete(ticket, DONE, 0.0)
    with pytest.raises(LocalProtocolError, match="was never given"):
        server.connection.tell(ticket, Progress(1), 0.0)


def test_too_many_calls_in_the_store_stop_the_reading() -> None:
    server = Server("2025-11-25", held=True, limits=Limits(pending_calls=2))
    server.start("get", {"key": "a"})
    assert server.reads()
    server.start("get", {"key": "b"})
    assert not server.reads()
    server.answer_batch()
    assert server.reads()


# --- jobs ---


@pytest.mark.parametrize("revision", ["2025-11-25", "2026-07-28"])
def test_a_job_runs_and_its_result_is_the_answer(revision: str) -> None:
    server, ticket = running(revision)
    assert server.ran == [StartWork(ticket, "a job")]
    assert server.replies() == []
    server.complete(ticket, DONE)
    [reply] = server.replies()
    assert text_of(reply["result"]) == "done"
    server.complete(ticket, DONE)
    assert server.replies() == []


def test_a_job_may_fail_as_a_tool_or_as_a_request() -> None:
    server, ticket = running()
    server.complete(ticket, WorkFailed(ToolError("WRONG_TYPE", "a list")))
    [reply] = server.replies()
    assert error_of(reply) == {"code": "WRONG_TYPE", "message": "a list", "retryable": False}

    server, ticket = running()
    server.complete(ticket, WorkFailed(RpcError(-31000, "no")))
    assert codes(server.replies()) == [("r1", -31000)]


def test_a_failure_of_what_is_no_tool_is_a_protocol_error() -> None:
    server = Server("2025-11-25")
    server.say(server.request("prompts/get", {"name": "long"}))
    [ticket] = server.jobs
    server.complete(ticket, WorkFailed(ToolError("BROKEN", "it broke", retryable=True)))
    [reply] = server.replies()
    assert reply["error"] == {
        "code": INTERNAL_ERROR,
        "message": "it broke",
        "data": {"code": "BROKEN", "message": "it broke", "retryable": True},
    }


def test_a_job_of_a_prompt() -> None:
    server = Server("2026-07-28")
    server.say(server.request("prompts/get", {"name": "long"}))
    [ticket] = server.jobs
    server.complete(ticket, WorkDone(PromptResult((PromptMessage("user", TextContent("x")),))))
    [reply] = server.replies()
    assert reply["result"]["messages"][0]["content"]["text"] == "x"


@pytest.mark.parametrize("outcome", [None, "text", ToolResult(), Answer(ToolResult())])
def test_a_job_ends_as_done_or_failed(outcome: object) -> None:
    server, ticket = running()
    with pytest.raises(LocalProtocolError, match="work ends as WorkDone or WorkFailed"):
        server.connection.complete(ticket, outcome, 0.0)


@req("cancellation-silent")
@pytest.mark.parametrize("revision", ["2025-11-25", "2026-07-28"])
def test_a_cancelled_job_is_stopped_and_nothing_is_said_any_more(revision: str) -> None:
    server, ticket = running(revision)
    server.cancel("r1")
    assert server.stopped == [ticket]
    server.tell(ticket, Progress(1))
    server.tell(ticket, Log("error", b"1"))
    server.tell(ticket, Ask({"x": ElicitForm("?", FORM)}))
    server.complete(ticket, DONE)
    assert server.replies() == []
    assert server.connection.next_deadline() is None


def test_a_job_that_takes_too_long_is_stopped() -> None:
    server, ticket = running(limits=Limits(work_timeout=20.0))
    server.pass_time(20.0)
    [reply] = server.replies()
    assert error_of(reply)["code"] == "UNKNOWN_OUTCOME"
    assert server.stopped == [ticket]
    server.complete(ticket, DONE)
    assert server.replies() == []


def test_early_and_repeated_wake_ups_are_harmless() -> None:
    server, ticket = running(limits=Limits(work_timeout=20.0))
    for now in (0.0, 5.0, 19.999):
        server.connection.handle_timeout(now)
    assert server.replies() == []
    for now in (20.0, 20.0, 30.0):
        server.connection.handle_timeout(now)
    server.run()
    assert ids(server.replies()) == ["r1"] and server.stopped == [ticket]


def test_too_many_jobs_are_refused_until_one_is_done() -> None:
    server, ticket = running(limits=Limits(open_exchanges=1))
    refused = error_of(server.call("job"))
    assert (refused["code"], refused["retryable"]) == ("TOO_MANY_REQUESTS", True)
    assert error_of(server.call("delete", {"key": "a"}))["code"] == "TOO_MANY_REQUESTS"
    server.still_serves()
    server.complete(ticket, DONE)
    server.start("job")
    assert len(server.jobs) == 1
    assert len(server.replies()) == 1


# --- what goes wrong in our own code ---


@req("handler-exceptions")
@pytest.mark.parametrize("tool", ["raises", "raises_later", "unwritable"])
def test_a_bug_of_a_handler_is_an_internal_error_and_a_report(revision: str, tool: str) -> None:
    server = Server(revision)
    reply = server.call(tool)
    assert reply["error"] == {"code": INTERNAL_ERROR, "message": "internal error; the server's log says more"}
    [report] = server.reports
    assert report.method == "tools/call"
    assert isinstance(report.error, ZeroDivisionError | UnicodeEncodeError)
    server.still_serves()


def test_a_jobs_result_that_cannot_be_written() -> None:
    server, ticket = running()
    server.complete(ticket, WorkDone(ToolResult((TextContent("\ud800"),))))
    assert codes(server.replies()) == [("r1", INTERNAL_ERROR)]
    assert len(server.reports) == 1


# --- ids ---


@pytest.mark.parametrize("tool", ["get", "job", "delete"])
def test_an_id_that_is_in_flight_cannot_be_used_again_until_it_is_answered(tool: str) -> None:
    server = Server("2025-11-25", held=True)
    params = {"name": tool, "arguments": {"key": "a"}}
    server.say(server.request("tools/call", params, id=1))
    server.replies()
    server.say(server.request("tools/call", params, id=1))
    assert codes(server.replies()) == [(1, INVALID_REQUEST)]
    server.say(server.request("tools/call", params, id="1"))
    server.cancel(1)
    server.replies()
    server.say(server.request("tools/call", {"name": "echo"}, id=1))
    assert codes(server.replies()) == [(1, None)]


# --- the end ---


def test_the_end_of_input_answers_what_was_accepted_and_then_closes() -> None:
    server = Server("2025-11-25", held=True)
    server.start("get", {"key": "a"})
    server.start("job")
    server.end()
    assert server.closed() is None and not server.reads()
    server.answer_batch()
    assert server.closed() is None
    server.complete(next(iter(server.jobs)), DONE)
    assert server.closed() == "the client closed its end"
    assert ids(server.replies()) == ["r1", "r2"]
    server.end()
    assert [command for command in server.ran if isinstance(command, Close)] == [
        Close("the client closed its end")
    ]


def test_nothing_is_taken_after_the_end() -> None:
    server = Server("2025-11-25")
    server.end()
    assert server.closed()
    server.say(server.request("tools/list"), b"garbage\n")
    assert server.replies() == []


def test_a_shutdown_finishes_what_was_accepted_until_the_grace_is_over() -> None:
    server = Server("2025-11-25", held=True, limits=Limits(shutdown_grace=5.0))
    server.start("get", {"key": "a"})
    server.start("put", {"key": "a", "value": "9"})
    server.start("job")
    server.shut_down()
    server.say(server.request("tools/list"))
    assert server.connection.next_deadline() == 5.0
    server.pass_time(4.9)
    assert server.replies() == [] and server.closed() is None
    server.pass_time(0.1)
    told = [error_of(reply)["code"] for reply in server.replies()]
    assert told == ["TIMEOUT", "UNKNOWN_OUTCOME", "UNKNOWN_OUTCOME"]
    assert server.closed() == "the server is shutting down"
    assert isinstance(server.ran[-2], StopWork)
    server.answer_batch()
    server.answer_batch()
    assert server.replies() == []


def test_a_shutdown_does_not_wait_for_the_client() -> None:
    """Nothing is read any more, so no answer can come."""
    server = Server("2025-11-25")
    server.start("delete", {"key": "a"})
    [asked] = server.replies()
    assert asked["method"] == "elicitation/create"
    server.shut_down()
    cancelled, refused = server.replies()
    assert cancelled["method"] == "notifications/cancelled"
    assert error_of(refused) == {
        "code": "SHUTTING_DOWN",
        "message": "the server is shutting down and cannot wait for an answer",
        "retryable": True,
    }
    assert server.closed() == "the server is shutting down"


def test_a_handler_that_returns_no_plan_is_to_blame() -> None:
    nothing: Any = None
    server = Server("2025-11-25", catalog=plan_of(nothing))
    assert server.error("tools/call", {"name": "it"})["code"] == INTERNAL_ERROR
    [report] = server.reports
    assert str(report.error) == "a handler returned NoneType, which is no plan"


LARGE = b'"' + b"x" * 5000 + b'"'


def asking_for_much(count: int, output_bytes: int) -> tuple[Server, list[Any]]:
    """A server whose store has just given `count` large replies, and the ids of the requests."""
    server = Server("2025-11-25", held=True, limits=Limits(output_bytes=output_bytes))
    calls = [server.request("tools/call", {"name": "get", "arguments": {"key": "a"}}) for _ in range(count)]
    server.say(*calls)
    [batch] = server.batches
    server.connection.complete(batch.ticket, [LARGE] * count, server.now)
    return server, [call["id"] for call in calls]


def pieces(server: Server) -> list[bytes]:
    """What is written, turn by turn."""
    written = []
    while server.connection.wants_turn:
        assert server.connection.take_commands() == []
        written.append(server.connection.data_to_send())
    return written


def test_what_is_rendered_is_bounded_and_the_rest_waits_as_it_came() -> None:
    server, asked = asking_for_much(10, output_bytes=12_000)
    written = pieces(server)
    assert len(written) > 3
    one = max(map(len, b"".join(written).splitlines())) + 1
    assert all(len(piece) < 12_000 + one for piece in written)
    assert [json.loads(line)["id"] for line in b"".join(written).splitlines()] == asked


def test_replies_of_a_later_batch_wait_behind_those_of_an_earlier_one() -> None:
    server = Server("2025-11-25", held=True, limits=Limits(output_bytes=1))
    asked = [server.request("tools/call", {"name": "get", "arguments": {"key": "a"}}) for _ in range(4)]
    server.say(*asked[:2])
    server.say(*asked[2:])
    first, second = server.batches
    server.connection.complete(first.ticket, [LARGE] * 2, server.now)
    server.connection.complete(second.ticket, [LARGE] * 2, server.now)
    written = pieces(server)
    assert len(written) == len(asked)
    assert [json.loads(line)["id"] for line in b"".join(written).splitlines()] == [one["id"] for one in asked]


def test_a_request_that_is_cancelled_while_its_reply_waits_is_not_answered() -> None:
    server, asked = asking_for_much(3, output_bytes=1)
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": asked[1]}}
    server.connection.receive_data(json.dumps(cancel).encode() + b"\n", server.now)
    written = b"".join(pieces(server))
    assert [json.loads(line)["id"] for line in written.splitlines()] == [asked[0], asked[2]]


def wants_turn(server: Server) -> bool:
    return server.connection.wants_turn


def test_a_turn_is_wanted_while_there_is_something_to_run_or_to_write(revision: str) -> None:
    server = Server(revision)
    connection = server.connection
    assert not wants_turn(server)
    connection.receive_data(b"garbage\n", server.now)
    assert wants_turn(server)
    connection.data_to_send()
    assert not wants_turn(server)
    connection.publish(ListChanged("tools"), server.now)
    assert wants_turn(server) == (revision in LEGACY)
    connection.data_to_send()
    connection.receive_eof(server.now)
    assert wants_turn(server)
    assert [type(command) for command in connection.take_commands()] == [Close]
    assert not wants_turn(server)


def test_a_listen_wants_a_turn_when_something_changed() -> None:
    server = Server("2026-07-28")
    server.say(server.request("subscriptions/listen", {"notifications": {"toolsListChanged": True}}))
    server.replies()
    assert not wants_turn(server)
    server.connection.publish(ListChanged("tools"), server.now)
    assert wants_turn(server)
    assert len(pieces(server)) == 1


def test_a_batch_is_no_longer_than_its_limit() -> None:
    server = Server("2025-11-25", held=True, limits=Limits(batch_calls=4))
    calls = [server.request("tools/call", {"name": "get", "arguments": {"key": "a"}}) for _ in range(10)]
    server.say(*calls)
    assert [len(batch.ops) for batch in server.batches] == [4, 4, 2]
    while server.batches:
        server.answer_batch()
    assert ids(server.replies()) == [call["id"] for call in calls]


def test_the_grace_and_another_deadline_may_pass_at_once() -> None:
    server, ticket = running(limits=Limits(shutdown_grace=4.0, work_timeout=5.0, backend_timeout=5.0))
    server.held = True
    server.start("get", {"key": "a"})
    server.shut_down()
    server.pass_time(100.0)
    assert ids(server.replies()) == ["r1", "r2"]
    assert server.stopped == [ticket] and server.closed()


def test_an_idle_shutdown_closes_at_once() -> None:
    server = Server("2025-11-25")
    server.shut_down()
    assert server.closed() == "the server is shutting down"
    server.pass_time(100.0)
    assert server.replies() == []


@pytest.mark.parametrize("ask", [lambda s: s.end(), lambda s: s.shut_down()])
def test_a_cancel_just_before_the_end(ask: Callable[[Server], None]) -> None:
    server, ticket = running()
    server.cancel("r1")
    ask(server)
    assert server.closed() and server.stopped == [ticket]


def test_a_plan_that_starts_a_job_after_the_store_answered() -> None:
    server = Server("2025-11-25", catalog=plan_of(AskBackend((Get("a"),), Then(Start("later")))))
    server.start("it")
    assert list(server.jobs.values()) == ["later"]
