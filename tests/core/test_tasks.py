"""The tasks extension, over a stream and over HTTP: calls that outlive their request."""

import pytest

from kvmcp.core.catalog import Catalog
from kvmcp.core.commands import Ask, HangUp, Log, Progress, StartWork, StopWork, WorkDone, WorkFailed
from kvmcp.core.errors import LocalProtocolError, RpcError
from kvmcp.core.items import Tool
from kvmcp.core.limits import Limits
from kvmcp.core.plan import Answer, AskClient, Caller, Context, Plan, Start, ToolError
from kvmcp.core.task_states import iso_time
from kvmcp.core.tasks import FIRST_TICKET
from kvmcp.core.wire.common import ElicitForm, Sample, TextContent, ToolResult
from tests.core.fixture_catalog import (
    FORM,
    NAME_FORM,
    SAMPLE,
    Nothing,
    Number,
    arguments,
    fixture_catalog,
)
from tests.core.harness import Json, Server, accepted, envelope
from tests.core.http.harness import Reply, Session, Web

TASKS = "io.modelcontextprotocol/tasks"
WITH: Json = {"elicitation": {}, "extensions": {TASKS: {}}}
WITHOUT: Json = {"elicitation": {}}
DONE = WorkDone(ToolResult((TextContent("done"),)))
SURE, NAME = ElicitForm("Sure?", FORM), ElicitForm("Name?", NAME_FORM)


class StartNamed(Nothing, frozen=True, tag=True):
    """The name came: go on as a job."""

    def resume(self, answers: object, context: Context) -> Plan:
        return Start("a named job")


def _slow(given: object, context: Context) -> Plan:
    return Start("slow")


def _at_once(given: object, context: Context) -> Plan:
    return Answer(ToolResult((TextContent("at once"),)))


def _ask_first(given: object, context: Context) -> Plan:
    return AskClient({"name": NAME}, StartNamed())


def a_catalog() -> Catalog:
    catalog = fixture_catalog()
    nothing = arguments(Nothing)
    catalog.add(
        Tool(name="slow", arguments=arguments(Number, number="integer"), plan=_slow, task_support="optional")
    )
    catalog.add(Tool(name="must", arguments=nothing, plan=_slow, task_support="required"))
    catalog.add(Tool(name="quick", arguments=nothing, plan=_at_once, task_support="optional"))
    catalog.add(
        Tool(
            name="asks",
            arguments=nothing,
            plan=_ask_first,
            task_support="optional",
            continuations=(StartNamed,),
        )
    )
    return catalog


def a_web(limits: Limits | None = None) -> Web:
    return Web(a_catalog(), limits=limits)


def ask(web: Web, method: str, params: Json = None, capabilities: Json = None) -> Reply:
    return web.ask(method, params, meta=envelope(capabilities=WITH if capabilities is None else capabilities))


def create(web: Web, tool: str = "must", **more: Json) -> Json:
    result = ask(web, "tools/call", {"name": tool, **more}).message()["result"]
    assert result["resultType"] == "task"
    return result


def get(web: Web, id: str) -> Json:
    return ask(web, "tasks/get", {"taskId": id}).message()["result"]


def job(web: Web) -> int:
    """The ticket of the one job that was started."""
    [command] = web.server.take_commands()
    assert isinstance(command, StartWork)
    return command.ticket


def end(web: Web, ticket: int, outcome: object) -> None:
    web.server.complete(ticket, outcome, web.now)
    web.settle()


# --- creation ---


def test_a_job_becomes_a_task_that_is_there_at_once() -> None:
    web = a_web()
    created = create(web, "slow", arguments={"number": 1})
    assert created.keys() == {
        "resultType", "taskId", "status", "createdAt", "lastUpdatedAt", "ttlMs", "pollIntervalMs", "_meta",
    }  # fmt: skip
    assert (created["status"], created["ttlMs"], created["pollIntervalMs"]) == ("working", 3_600_000, 1000)
    assert created["createdAt"] == "2023-11-14T22:15:00Z"
    got = get(web, created["taskId"])
    assert got.keys() == created.keys() and got["resultType"] == "complete"


def test_ids_cannot_be_guessed_from_each_other() -> None:
    web = a_web()
    assert create(web)["taskId"] != create(web)["taskId"]


def test_a_client_that_does_not_know_tasks_waits() -> None:
    reply = ask(a_web(), "tools/call", {"name": "slow", "arguments": {"number": 1}}, WITHOUT)
    assert reply.waits and list(reply.jobs.values()) == ["slow"]
    reply.complete(1, DONE)
    assert reply.message()["result"]["resultType"] == "complete"


def test_a_tool_that_is_nothing_but_a_task_refuses_it() -> None:
    reply = ask(a_web(), "tools/call", {"name": "must"}, WITHOUT)
    assert reply.status == 400
    error = reply.message()["error"]
    assert (error["code"], error["data"]) == (-32021, {"requiredCapabilities": {"extensions": {TASKS: {}}}})


def test_what_is_answered_at_once_is_no_task() -> None:
    web = a_web()
    assert ask(web, "tools/call", {"name": "quick"}).message()["result"]["content"][0]["text"] == "at once"
    assert web.server.take_commands() == []


def test_a_tool_that_did_not_opt_in_makes_no_task() -> None:
    assert list(ask(a_web(), "tools/call", {"name": "job"}).jobs.values()) == ["a job"]


def test_input_before_the_task_is_part_of_the_request() -> None:
    web = a_web()
    first = ask(web, "tools/call", {"name": "asks"}).message()["result"]
    assert first["resultType"] == "input_required" and "taskId" not in first
    again = {"requestState": first["requestState"], "inputResponses": {"name": accepted(name="Alice")}}
    created = create(web, "asks", **again)
    assert "requestState" not in created and "inputRequests" not in created


def test_a_task_of_long_ago_in_the_params_means_nothing() -> None:
    assert create(a_web(), task={"ttl": 5})["ttlMs"] == 3_600_000


def test_the_extension_is_announced_where_a_tool_has_it() -> None:
    discovered = a_web().ask("server/discover").message()["result"]
    assert discovered["capabilities"]["extensions"] == {TASKS: {}}
    assert "tasks" not in discovered["capabilities"]
    assert "extensions" not in Web().ask("server/discover").message()["result"]["capabilities"]


# --- the three methods ---


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
def test_the_methods_need_the_extension_and_a_known_task(method: str) -> None:
    web = a_web()
    params = {"taskId": create(web)["taskId"], "inputResponses": {}}
    assert ask(web, method, params, WITHOUT).code() == (400, -32021)
    assert ask(web, method, {**params, "taskId": "tk_none"}).code() == (400, -32602)
    assert ask(web, method, {}).code() == (400, -32602)
    web.caller = Caller("mallory")
    assert ask(web, method, params).code() == (400, -32602)


@pytest.mark.parametrize("method", ["tasks/result", "tasks/list"])
def test_methods_of_the_older_extension_are_unknown(method: str) -> None:
    assert ask(a_web(), method, {"taskId": "x"}).code() == (404, -32601)


def test_without_such_a_tool_there_are_no_tasks() -> None:
    assert ask(Web(), "tasks/get", {"taskId": "x"}).code() == (404, -32601)


def test_the_name_header_is_the_task() -> None:
    web = a_web()
    meta, id = envelope(capabilities=WITH), create(web)["taskId"]
    assert web.ask("tasks/get", {"taskId": id}, meta=meta, Mcp_Name=id).code() == (200, None)
    assert web.ask("tasks/get", {"taskId": id}, meta=meta, Mcp_Name="other").code() == (400, -32020)


# --- outcomes ---


@pytest.mark.parametrize(
    ("outcome", "status", "is_error"),
    [(DONE, "completed", None), (WorkFailed(ToolError("BROKEN", "it broke")), "completed", True)],
)
def test_a_task_is_completed_with_its_result(outcome: object, status: str, is_error: bool | None) -> None:
    web = a_web()
    id = create(web)["taskId"]
    web.now += 5
    end(web, job(web), outcome)
    got = get(web, id)
    assert (got["status"], got["result"].get("isError")) == (status, is_error)
    assert got["result"]["content"] and "error" not in got and got["lastUpdatedAt"].endswith(":05Z")
    assert f"{TASKS}/related-task" not in got["result"].get("_meta", {})


def test_a_task_fails_by_a_protocol_error() -> None:
    web = a_web()
    id = create(web)["taskId"]
    end(web, job(web), WorkFailed(RpcError(-31000, "no")))
    got = get(web, id)
    assert (got["status"], got["error"]) == (
        "failed",
        {"code": -31000, "message": "no"},
    ) and "result" not in got


def test_a_task_is_cancelled_once() -> None:
    web = a_web()
    id = create(web)["taskId"]
    ticket = job(web)
    for _ in range(2):
        result = ask(web, "tasks/cancel", {"taskId": id}).message()["result"]
        assert result.keys() == {"resultType", "_meta"}
    assert web.server.take_commands() == [StopWork(ticket)]
    web.server.complete(ticket, DONE, web.now)
    assert get(web, id)["status"] == "cancelled"


def test_a_task_outlives_its_request_and_its_connection() -> None:
    web = a_web()
    reply = ask(web, "tools/call", {"name": "must"})
    reply.disconnect()
    end(web, job(web), DONE)
    assert get(web, reply.message()["result"]["taskId"])["status"] == "completed"


def test_a_task_that_takes_too_long_is_given_up() -> None:
    web = a_web(Limits(task_timeout=10.0))
    id = create(web)["taskId"]
    ticket = job(web)
    web.pass_time(10.0)
    assert web.server.take_commands() == [StopWork(ticket)]
    got = get(web, id)
    assert (got["status"], got["result"]["isError"]) == ("completed", True)


def test_tasks_are_forgotten_in_time() -> None:
    web = a_web(Limits(task_lifetime=10.0, task_timeout=100.0))
    id = create(web)["taskId"]
    ticket = job(web)
    web.pass_time(9.0)
    get(web, id)
    web.now += 1.0
    assert ask(web, "tasks/get", {"taskId": id}).code() == (400, -32602)
    assert web.server.take_commands() == [StopWork(ticket)]
    web.server.handle_timeout(web.now)


def test_only_so_many_tasks_are_kept_and_those_that_are_over_go_first() -> None:
    web = a_web(Limits(tasks=2))
    first, second = create(web)["taskId"], create(web)["taskId"]
    refused = ask(web, "tools/call", {"name": "must"}).message()["result"]
    assert refused["structuredContent"]["error"]["code"] == "TOO_MANY_REQUESTS"
    ask(web, "tasks/cancel", {"taskId": second})
    create(web)
    assert get(web, first)["status"] == "working"
    assert ask(web, "tasks/get", {"taskId": second}).status == 400


def test_a_caller_who_is_known_displaces_only_their_own_tasks() -> None:
    web = a_web(Limits(tasks=4, caller_tasks=2))
    web.caller = Caller("bob")
    bobs = create(web)["taskId"]
    ask(web, "tasks/cancel", {"taskId": bobs})
    web.caller = Caller("alice")
    first, _ = create(web)["taskId"], create(web)
    refused = ask(web, "tools/call", {"name": "must"}).message()["result"]
    assert refused["structuredContent"]["error"]["code"] == "TOO_MANY_REQUESTS"
    ask(web, "tasks/cancel", {"taskId": first})
    create(web)
    assert ask(web, "tasks/get", {"taskId": first}).status == 400
    web.caller = Caller("bob")
    assert get(web, bobs)["status"] == "cancelled"


def test_outcomes_weigh_only_so_much_and_those_that_were_over_first_go_first() -> None:
    web = a_web(Limits(task_bytes=2000))
    ids = [create(web)["taskId"] for _ in range(3)]
    large = WorkDone(ToolResult((TextContent("x" * 400),)))
    tickets = [command.ticket for command in web.server.take_commands() if isinstance(command, StartWork)]

    def known() -> list[bool]:
        return [ask(web, "tasks/get", {"taskId": id}).status == 200 for id in ids]

    for ticket in reversed(tickets):
        web.now += 1
        end(web, ticket, large)
    assert known() == [True, True, False], "the last one to end has just been answered"


def test_what_is_too_old_is_forgotten_although_nobody_asks() -> None:
    web = a_web(Limits(task_lifetime=10.0))
    create(web)
    end(web, job(web), DONE)
    assert web.server.next_deadline() == web.now + 10.0
    web.pass_time(10.0)
    assert web.server.next_deadline() is None


def test_at_the_end_of_the_server_tasks_are_stopped() -> None:
    web = a_web()
    create(web)
    ticket = job(web)
    web.shut_down()
    assert web.server.take_commands() == [StopWork(ticket)]


# --- how far it is ---


def test_the_message_of_a_progress_report_is_what_is_told_of_the_status() -> None:
    web = a_web()
    id = create(web)["taskId"]
    ticket = job(web)
    assert "statusMessage" not in get(web, id)
    web.now += 3
    web.server.tell(ticket, Progress(1, 2, "half"), web.now)
    web.server.tell(ticket, Progress(2, 2), web.now + 1)
    got = get(web, id)
    assert (got["status"], got["statusMessage"]) == ("working", "half")
    assert got["lastUpdatedAt"].endswith(":03Z")
    end(web, ticket, DONE)
    assert "statusMessage" not in get(web, id)


def test_who_listens_to_a_task_hears_how_far_it_is() -> None:
    web = a_web()
    id = create(web)["taskId"]
    ticket = job(web)
    listen = ask(web, "subscriptions/listen", {"notifications": {"taskIds": [id]}})
    listen.messages()
    for _ in range(2):
        web.server.tell(ticket, Progress(1, message="half"), web.now)
        web.settle()
    [told] = listen.messages()
    assert (told["method"], told["params"]["statusMessage"]) == ("notifications/tasks", "half")


# --- input ---


def test_a_task_asks_and_partial_answers_leave_the_rest_open() -> None:
    web = a_web()
    id = create(web)["taskId"]
    ticket = job(web)
    web.server.tell(ticket, Ask({"sure": SURE, "name": NAME}), web.now)
    got = get(web, id)
    assert got["status"] == "input_required" and got["inputRequests"].keys() == {"sure", "name"}
    assert got["inputRequests"]["sure"]["method"] == "elicitation/create"
    with pytest.raises(LocalProtocolError):
        web.server.tell(ticket, Ask({"more": SURE}), web.now)

    def update(**given: Json) -> None:
        result = ask(web, "tasks/update", {"taskId": id, "inputResponses": given}).message()["result"]
        assert result.keys() == {"resultType", "_meta"}

    update(unknown=accepted(), name=12345)
    assert get(web, id)["inputRequests"].keys() == {"sure", "name"}
    update(name=accepted(name="Alice"))
    assert get(web, id)["inputRequests"].keys() == {"sure"}
    update(sure=accepted(yes=True), name=accepted(name="Bob"))
    assert get(web, id)["status"] == "working"
    [answered] = web.server.take_commands()
    assert sorted(answered.answers) == ["name", "sure"]  # type: ignore[union-attr]  # it is AnswerWork
    update(sure=accepted(yes=False))
    assert web.server.take_commands() == []


def test_keys_are_never_used_twice() -> None:
    web = a_web()
    id = create(web)["taskId"]
    ticket = job(web)
    for key in ("sure", "sure-2"):
        web.server.tell(ticket, Ask({"sure": SURE}), web.now)
        assert get(web, id)["inputRequests"].keys() == {key}
        ask(web, "tasks/update", {"taskId": id, "inputResponses": {key: accepted(yes=True)}})
        [answered] = web.server.take_commands()
        assert list(answered.answers) == ["sure"]  # type: ignore[union-attr]  # it is AnswerWork


def test_keys_that_look_like_later_ones_are_not_used_twice_either() -> None:
    web = a_web()
    id = create(web)["taskId"]
    ticket = job(web)
    seen: list[str] = []
    for asked in ({"a-2": SURE, "a": SURE}, {"a": SURE}, {"a-2": SURE, "a": SURE}):
        web.server.tell(ticket, Ask(asked), web.now)
        keys = list(get(web, id)["inputRequests"])
        seen += keys
        answers = {key: accepted(yes=True) for key in keys}
        ask(web, "tasks/update", {"taskId": id, "inputResponses": answers})
        [answered] = web.server.take_commands()
        assert answered.answers.keys() == asked.keys()  # type: ignore[union-attr]  # it is AnswerWork
    assert len(set(seen)) == len(seen) == 5


def test_a_task_asks_only_what_the_client_can_answer() -> None:
    web = a_web()
    id = create(web)["taskId"]
    ticket = job(web)
    web.server.tell(ticket, Ask({}), web.now)
    assert len(web.server.take_commands()) == 1
    web.server.tell(ticket, Ask({"word": Sample(SAMPLE)}), web.now)
    assert web.server.take_commands() == [StopWork(ticket)]
    assert get(web, id)["result"]["structuredContent"]["error"]["code"] == "MISSING_CLIENT_CAPABILITY"


def test_a_task_that_waits_for_input_can_be_cancelled() -> None:
    web = a_web()
    id = create(web)["taskId"]
    web.server.tell(job(web), Ask({"sure": SURE}), web.now)
    ask(web, "tasks/cancel", {"taskId": id})
    got = get(web, id)
    assert got["status"] == "cancelled" and "inputRequests" not in got


def test_progress_and_messages_of_a_task_are_not_told() -> None:
    web = a_web()
    id = create(web)["taskId"]
    ticket = job(web)
    for said in (Progress(1), Log("error", b"1"), HangUp()):
        web.server.tell(ticket, said, web.now)
    end(web, ticket, DONE)
    web.server.tell(ticket, Ask({"sure": SURE}), web.now)
    assert get(web, id)["status"] == "completed"


@pytest.mark.parametrize("ticket", [0, 1, FIRST_TICKET, FIRST_TICKET + 1])
def test_tickets_that_were_never_given(ticket: int) -> None:
    web = a_web()
    with pytest.raises(LocalProtocolError):
        web.server.complete(ticket, DONE, web.now)
    with pytest.raises(LocalProtocolError):
        web.server.tell(ticket, HangUp(), web.now)


# --- listening ---


def test_who_listens_hears_of_every_change() -> None:
    web = a_web()
    id = create(web)["taskId"]
    listen = ask(web, "subscriptions/listen", {"notifications": {"taskIds": [id, "tk_none", id]}})
    assert listen.message()["params"]["notifications"] == {"taskIds": [id]}
    other = web.ask("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
    other.messages()
    ticket = job(web)
    web.server.tell(ticket, Ask({"sure": SURE}), web.now)
    web.settle()
    end_of_wait = listen.message()
    assert end_of_wait["method"] == "notifications/tasks"
    assert end_of_wait["params"]["status"] == "input_required" and end_of_wait["params"]["inputRequests"]
    assert end_of_wait["params"]["_meta"]
    listen.reads = False
    ask(web, "tasks/update", {"taskId": id, "inputResponses": {"sure": accepted(yes=True)}})
    end(web, ticket, DONE)
    listen.reads = True
    listen.drive()
    assert listen.message()["params"]["status"] == "completed", "late readers hear of the last state only"
    assert other.messages() == []


def test_streams_of_the_legacy_era_hear_nothing_of_tasks() -> None:
    web = a_web()
    stream = Session(web, "2025-11-25").get()
    create(web)
    end(web, job(web), DONE)
    assert stream.messages() == []


def test_a_task_that_is_gone_is_not_told_of() -> None:
    web = a_web(Limits(task_lifetime=10.0))
    id = create(web)["taskId"]
    listen = ask(web, "subscriptions/listen", {"notifications": {"taskIds": [id]}})
    listen.messages()
    web.now += 10
    ask(web, "tasks/get", {"taskId": id})
    web.settle()
    assert listen.messages() == []


def test_listening_to_tasks_needs_the_extension() -> None:
    web = a_web()
    params = {"notifications": {"taskIds": ["x"]}}
    assert ask(web, "subscriptions/listen", params, WITHOUT).code() == (400, -32021)


# --- over a stream ---


def test_over_a_stream_tasks_are_the_connections_own() -> None:
    server = Server("2026-07-28", catalog=a_web().service.catalog, capabilities=WITH)
    created = server.ask("tools/call", {"name": "must"})["result"]
    assert created["resultType"] == "task"
    id = created["taskId"]
    server.ask("tools/call", {"name": "asks"})
    [ticket] = server.jobs
    assert not server.connection.wants_turn
    assert ticket > FIRST_TICKET and server.connection.next_deadline() == 2700.0
    server.tell(ticket, Ask({"sure": SURE}))
    assert server.ask("tasks/get", {"taskId": id})["result"]["status"] == "input_required"
    server.pass_time(2700.0)
    assert server.stopped == [ticket]
    assert server.ask("tasks/get", {"taskId": id})["result"]["status"] == "completed"
    server.ask("tools/call", {"name": "must"})
    [ticket] = server.jobs
    server.complete(ticket, DONE)
    server.ask("tools/call", {"name": "must"})
    [ticket] = server.jobs
    server.end()
    assert ticket in server.stopped and server.closed() is not None


def test_legacy_clients_wait_for_any_tool() -> None:
    server = Server("2025-11-25", catalog=a_web().service.catalog)
    server.start("must")
    server.complete(1, DONE)
    assert server.replies()[0]["result"]["content"][0]["text"] == "done"
    assert server.error("tasks/get", {"taskId": "x"})["code"] == -32601


@pytest.mark.parametrize(
    ("unix", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (951_782_400.9, "2000-02-29T00:00:00Z"),
        (1_709_251_199, "2024-02-29T23:59:59Z"),
        (1_735_689_599, "2024-12-31T23:59:59Z"),
        (4_107_542_400, "2100-03-01T00:00:00Z"),
    ],
)
def test_moments_in_iso_8601(unix: float, text: str) -> None:
    assert iso_time(unix) == text
