"""Asking the client in both eras, by the same handlers."""

import json
from collections.abc import Mapping

import pytest
from msgspec import UNSET, Raw, Struct

from kvmcp.core.asking import needed, read_answer
from kvmcp.core.catalog import Catalog
from kvmcp.core.commands import AnswerWork, Ask, WorkDone
from kvmcp.core.errors import LocalProtocolError
from kvmcp.core.items import Tool
from kvmcp.core.limits import Limits
from kvmcp.core.plan import AskBackend, AskClient, Caller, Context, Plan, Start
from kvmcp.core.request_state import Sealer, State, digest
from kvmcp.core.wire.common import (
    ClientAnswer,
    ClientRequest,
    ElicitForm,
    ElicitResult,
    ElicitUrl,
    ListRoots,
    Root,
    RootsResult,
    Sample,
    SampleResult,
    TextContent,
    ToolResult,
)
from tests.core.fixture_catalog import (
    FORM,
    NAME_FORM,
    SAMPLE,
    CountAnswers,
    Get,
    Nothing,
    Put,
    Raises,
    ShowAll,
    arguments,
    ask_many,
)
from tests.core.harness import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    KEY,
    LEGACY,
    MISSING_CLIENT_CAPABILITY,
    MODERN,
    WALL,
    Json,
    Server,
    accepted,
    call,
    codes,
    decoded,
    error_of,
    methods,
    text_of,
)

req = pytest.mark.req
ROOTS = {"roots": [{"uri": "file:///a", "name": "a"}]}
WORD = {"role": "assistant", "content": {"type": "text", "text": "x"}, "model": "m1"}
YES = accepted(yes=True)
DONE = WorkDone(ToolResult((TextContent("done"),)))
ASKING_LEGACY = ("2025-06-18", "2025-11-25")
"""The legacy revisions in which a form can be asked for."""


def tool_of(plan: Plan, *continuations: type[Struct]) -> Catalog:
    tool = Tool(
        name="it", arguments=arguments(Nothing), plan=lambda given, context: plan, continuations=continuations
    )
    return Catalog(tool)


def retried(server: Server, result: Json, responses: Json, params: Json) -> Json:
    """The params of the next round."""
    return params | {"inputResponses": responses, "requestState": result["requestState"]}


# --- legacy ---


@pytest.mark.parametrize("revision", ASKING_LEGACY)
def test_a_question_becomes_a_request_and_its_answer_goes_on(revision: str) -> None:
    server = Server(revision)
    id = server.start("delete", {"key": "a"})
    [question] = server.replies()
    assert question["method"] == "elicitation/create"
    assert question["params"] == {"message": "Delete a?", "requestedSchema": decoded(FORM)}
    server.respond(question["id"], YES)
    [reply] = server.replies()
    assert reply["id"] == id and text_of(reply["result"]) == '{"values":[true]}'
    assert server.store == {"b": "2"}
    assert server.connection.next_deadline() is None


@req("own-ids-unique")
def test_two_rounds_with_two_questions_in_the_second() -> None:
    server = Server("2025-11-25")
    server.start("interview")
    [first] = server.replies()
    server.respond(first["id"], accepted(name="Ada"))
    roots, word = server.replies()
    assert (roots["method"], word["method"]) == ("roots/list", "sampling/createMessage")
    assert len({first["id"], roots["id"], word["id"]}) == 3
    server.respond(word["id"], WORD)
    assert server.replies() == []
    server.respond(roots["id"], ROOTS)
    [reply] = server.replies()
    assert text_of(reply["result"]) == "Ada file:///a m1"


@req("elicitation-url-id")
def test_every_kind_of_question() -> None:
    server = Server("2025-11-25")
    server.start("ask_all")
    form, url, word, roots = server.replies()
    assert url["params"]["elicitationId"] == "token-2"
    for question, answer in ((form, YES), (url, {"action": "accept"}), (word, WORD), (roots, ROOTS)):
        server.respond(question["id"], answer)
    [reply] = server.replies()
    assert text_of(reply["result"]) == "answers: ['form', 'roots', 'url', 'word']"


@pytest.mark.parametrize("action", ["decline", "cancel"])
def test_no_is_an_answer(action: str) -> None:
    server = Server("2025-11-25")
    server.start("delete", {"key": "a"})
    [question] = server.replies()
    server.respond(question["id"], {"action": action})
    [reply] = server.replies()
    assert text_of(reply["result"]) == f"kept: {action}"


@req("undeclared-capabilities", "legacy-negotiated-features")
@pytest.mark.parametrize(
    ("revision", "capabilities", "answered"),
    [
        ("2025-11-25", {"roots": {}}, ["roots"]),
        ("2025-11-25", {"sampling": {}}, ["word"]),
        ("2025-11-25", {"elicitation": {}}, ["form"]),
        ("2025-11-25", {"elicitation": {"url": {}}}, ["url"]),
        ("2025-06-18", {"elicitation": {"form": {}, "url": {}}}, ["form"]),
        ("2025-03-26", {"elicitation": {}, "roots": {}}, ["roots"]),
        ("2024-11-05", {"elicitation": {"url": {}}, "sampling": {}}, ["word"]),
    ],
)
def test_only_what_the_client_declared_is_asked(
    revision: str, capabilities: Json, answered: list[str]
) -> None:
    answers = {"form": YES, "url": {"action": "accept"}, "word": WORD, "roots": ROOTS}
    server = Server(revision, capabilities=capabilities)
    server.start("ask_all")
    for question, key in zip(server.replies(), answered, strict=True):
        server.respond(question["id"], answers[key])
    [reply] = server.replies()
    assert text_of(reply["result"]) == f"answers: {answered}"


@req("undeclared-capabilities")
@pytest.mark.parametrize("revision", LEGACY)
def test_a_client_that_can_answer_nothing_gets_a_failure(revision: str) -> None:
    server = Server(revision, capabilities={})
    problem = server.call("delete", {"key": "a"})["result"]
    assert problem["isError"] is True
    assert '{"elicitation":{"form":{}}}' in text_of(problem)
    server.still_serves()


def test_a_question_of_nothing_goes_on_at_once(revision: str) -> None:
    server = Server(revision, catalog=tool_of(ask_many(), CountAnswers))
    assert text_of(server.call("it")["result"]) == "answers: []"


@pytest.mark.parametrize("answer", [{}, {"action": "perhaps"}, {"action": 1}, [], 7])
def test_an_answer_that_makes_no_sense_is_a_failure(answer: Json) -> None:
    server = Server("2025-11-25")
    server.start("delete", {"key": "a"})
    [question] = server.replies()
    server.respond(question["id"], answer)
    [reply] = server.replies()
    assert error_of(reply)["code"] == "CLIENT_REFUSED"
    assert server.store == {"a": "1", "b": "2"}


def test_a_refusal_of_one_question_ends_the_others() -> None:
    server = Server("2025-11-25")
    server.start("ask_all")
    questions = server.replies()
    refusal = {"code": -1, "message": "user rejected sampling request"}
    server.say({"jsonrpc": "2.0", "id": questions[2]["id"], "error": refusal})
    *cancelled, reply = server.replies()
    told = [message["params"]["requestId"] for message in cancelled]
    assert told == [questions[0]["id"], questions[1]["id"], questions[3]["id"]]
    assert error_of(reply)["message"] == "the client refused: user rejected sampling request (-1)"
    server.respond(questions[0]["id"], YES)
    assert server.replies() == []


@pytest.mark.parametrize("id", ["99", 99, 1])
def test_responses_to_nothing_are_ignored(id: Json) -> None:
    server = Server("2025-11-25")
    server.respond(id, YES)
    server.say({"jsonrpc": "2.0", "id": id, "error": {"code": 1, "message": "x"}})
    server.say({"jsonrpc": "2.0", "error": {"code": 1, "message": "x"}})
    assert server.replies() == []
    server.still_serves()


def test_a_question_is_answered_once() -> None:
    server = Server("2025-11-25")
    server.start("delete", {"key": "a"})
    [question] = server.replies()
    for _ in range(3):
        server.respond(question["id"], YES)
    assert len(server.replies()) == 1


@req("cancellation-silent")
def test_cancelling_takes_the_question_back() -> None:
    server = Server("2025-11-25")
    id = server.start("delete", {"key": "a"})
    [question] = server.replies()
    server.cancel(id)
    [taken_back] = server.replies()
    assert taken_back["method"] == "notifications/cancelled"
    assert taken_back["params"]["requestId"] == question["id"]
    server.respond(question["id"], YES)
    assert server.replies() == [] and server.store == {"a": "1", "b": "2"}


def test_a_client_that_does_not_answer_in_time() -> None:
    server = Server("2025-11-25", limits=Limits(ask_timeout=60.0))
    server.start("delete", {"key": "a"})
    server.replies()
    server.pass_time(60.0)
    cancelled, reply = server.replies()
    assert cancelled["method"] == "notifications/cancelled"
    assert error_of(reply) == {
        "code": "TIMEOUT",
        "message": "the client took too long; nothing was changed",
        "retryable": True,
    }


def test_the_time_for_the_client_does_not_run_on_while_the_store_works() -> None:
    server = Server("2025-11-25", limits=Limits(ask_timeout=60.0, backend_timeout=30.0), held=True)
    server.start("delete", {"key": "a"})
    [question] = server.replies()
    server.pass_time(59.0)
    server.respond(question["id"], YES)
    server.pass_time(2.0)
    assert server.replies() == []
    server.answer_batch()
    assert len(server.replies()) == 1


def test_a_change_before_the_question_is_not_denied_when_the_client_is_late() -> None:
    class AskThen(Struct, frozen=True):
        def resume(self, replies: object, context: Context) -> Plan:
            return ask_many(form=ElicitForm("Sure?", FORM))

    plan = AskBackend((Put("a", "9"),), AskThen(), writes=True)
    server = Server("2025-11-25", catalog=tool_of(plan, CountAnswers))
    server.start("it")
    server.pass_time(600.0)
    assert error_of(server.replies()[-1])["code"] == "UNKNOWN_OUTCOME"


def test_a_bug_behind_an_answer() -> None:
    plan = AskClient({"form": ElicitForm("Sure?", FORM)}, Raises())
    server = Server("2025-11-25", catalog=tool_of(plan, Raises))
    server.start("it")
    [question] = server.replies()
    server.respond(question["id"], YES)
    assert codes(server.replies()) == [("r1", INTERNAL_ERROR)]
    assert len(server.reports) == 1 and server.connection.next_deadline() is None


def test_a_client_that_is_gone_is_asked_nothing_more() -> None:
    server = Server("2025-11-25", held=True)
    server.start("delete", {"key": "a"})
    server.start("job")
    [ticket] = server.jobs
    server.replies()
    server.end()
    replies = server.replies()
    assert error_of(replies[-1])["code"] == "CLIENT_GONE"
    server.tell(ticket, Ask({"form": ElicitForm("?", FORM)}))
    [reply] = server.replies()
    assert error_of(reply)["code"] == "CLIENT_GONE"
    assert server.stopped == [ticket] and server.closed()


@req("mrtr-methods-only")
@pytest.mark.parametrize("revision", ["2025-11-25", MODERN])
def test_only_three_methods_may_ask(revision: str) -> None:
    server = Server(revision)
    reference = {"type": "ref/resource", "uri": "kv://keys/{key}"}
    params = {"ref": reference, "argument": {"name": "key", "value": "ask"}}
    assert server.error("completion/complete", params)["code"] == INTERNAL_ERROR
    [report] = server.reports
    assert isinstance(report.error, LocalProtocolError)


@pytest.mark.parametrize("revision", ["2025-11-25", MODERN])
@pytest.mark.parametrize("asked", [ElicitForm("\ud800", FORM), ElicitUrl("?", "\ud800")])
def test_a_question_that_cannot_be_written_is_a_bug_of_the_handler(
    revision: str, asked: ClientRequest
) -> None:
    server = Server(revision, catalog=tool_of(ask_many(form=ElicitForm("?", FORM), bad=asked), CountAnswers))
    assert server.call("it")["error"]["code"] == INTERNAL_ERROR
    assert len(server.reports) == 1
    assert server.connection.next_deadline() is None


# --- modern ---


@req("mrtr-one-of-two", "modern-no-server-requests")
def test_a_question_is_an_answer_and_the_next_request_brings_the_answer() -> None:
    server = Server(MODERN)
    params = call("delete", {"key": "a"})
    first = server.result("tools/call", params)
    assert first["resultType"] == "input_required"
    assert first["inputRequests"] == {
        "confirm": {
            "method": "elicitation/create",
            "params": {"message": "Delete a?", "requestedSchema": decoded(FORM)},
        }
    }
    assert server.connection.next_deadline() is None, "nothing is remembered"
    second = server.result("tools/call", retried(server, first, {"confirm": YES}, params))
    assert text_of(second) == '{"values":[true]}'
    assert server.store == {"b": "2"}


@req("mrtr-one-of-two")
def test_another_server_with_the_same_key_goes_on() -> None:
    params = call("interview")
    first = Server(MODERN).result("tools/call", params)
    other = Server(MODERN)
    second = other.result("tools/call", retried(other, first, {"name": accepted(name="Ada")}, params))
    assert sorted(second["inputRequests"]) == ["roots", "word"]
    third = Server(MODERN)
    last = third.result("tools/call", retried(third, second, {"roots": ROOTS, "word": WORD}, params))
    assert text_of(last) == "Ada file:///a m1"


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("resources/read", {"uri": "kv://asking"}),
        ("resources/read", {"uri": "kv://careful/a"}),
        ("prompts/get", {"name": "ask-first"}),
        ("tools/call", {"name": "delete", "arguments": {"key": "a"}}),
    ],
)
@req("mrtr-methods-only")
def test_all_three_methods(method: str, params: Json) -> None:
    server = Server(MODERN)
    first = server.result(method, params)
    [key] = first["inputRequests"]
    second = server.result(method, retried(server, first, {key: YES}, params))
    assert second["resultType"] == "complete"


def test_answers_that_are_missing_or_make_no_sense_are_asked_again_and_extra_ones_ignored() -> None:
    server = Server(MODERN)
    params = call("ask_all")
    first = server.result("tools/call", params)
    partial = {"form": YES, "url": 7, "roots": {"roots": 1}, "extra": {"a": 1}}
    second = server.result("tools/call", retried(server, first, partial, params))
    assert sorted(second["inputRequests"]) == ["roots", "url", "word"]
    rest = {"url": {"action": "decline"}, "word": WORD, "roots": ROOTS}
    third = server.result("tools/call", retried(server, second, rest, params))
    assert text_of(third) == "answers: ['form', 'roots', 'url', 'word']"


def test_without_answers_the_same_is_asked_again() -> None:
    server = Server(MODERN)
    params = call("delete", {"key": "a"})
    first = server.result("tools/call", params)
    again = server.result("tools/call", params | {"requestState": first["requestState"]})
    assert again["inputRequests"] == first["inputRequests"]


def test_answers_without_a_state_serve_the_first_questions_that_fit() -> None:
    server = Server(MODERN)
    params = call("delete", {"key": "a"}, inputResponses={"confirm": YES})
    assert text_of(server.result("tools/call", params)) == '{"values":[true]}'


def test_an_answer_serves_one_question() -> None:
    class AskAgain(Struct, frozen=True, tag=True):
        def resume(self, answers: Mapping[str, ClientAnswer], context: Context) -> Plan:
            return ask_many(form=ElicitForm("Really?", FORM))

    plan = AskClient({"form": ElicitForm("Sure?", FORM)}, AskAgain())
    server = Server(MODERN, catalog=tool_of(plan, AskAgain, CountAnswers))
    reply = server.result("tools/call", call("it", inputResponses={"form": YES}))
    assert reply["inputRequests"]["form"]["params"]["message"] == "Really?"


@pytest.mark.parametrize("responses", [None, 7, [], "x"])
def test_input_responses_must_be_an_object(responses: Json) -> None:
    server = Server(MODERN)
    error = server.error("tools/call", call("delete", {"key": "a"}, inputResponses=responses))
    assert error["code"] == INVALID_PARAMS
    server.still_serves()


@req("state-rejected", "state-bound")
@pytest.mark.parametrize(
    "change",
    [
        lambda params: params | {"requestState": params["requestState"][:-1]},
        lambda params: params | {"requestState": params["requestState"] + "0"},
        lambda params: params | {"requestState": ""},
        lambda params: params | {"requestState": "x" * (64 * 1024 + 1)},
        lambda params: params | {"arguments": {"key": "b"}},
        lambda params: params | {"name": "get"},
        lambda params: params | {"more": 1},
    ],
)
def test_a_state_that_was_changed_or_moved_is_refused(change: Json) -> None:
    server = Server(MODERN)
    params = call("delete", {"key": "a"})
    first = server.result("tools/call", params)
    error = server.error("tools/call", change(retried(server, first, {"confirm": YES}, params)))
    assert error["code"] == INVALID_PARAMS
    assert server.store == {"a": "1", "b": "2"}


@req("state-rejected", "state-bound")
def test_a_state_of_another_principal_or_an_old_one_is_refused() -> None:
    params = call("delete", {"key": "a"})
    alice = Server(MODERN, caller=Caller("alice"), limits=Limits(state_lifetime=100.0))
    first = alice.result("tools/call", params)
    again = retried(alice, first, {"confirm": YES}, params)
    mallory = Server(MODERN, caller=Caller("mallory"))
    assert mallory.error("tools/call", again)["code"] == INVALID_PARAMS
    alice.now = 99.9
    assert alice.result("tools/call", again)["resultType"] == "complete"
    alice.now = 100.0
    assert alice.error("tools/call", again)["code"] == INVALID_PARAMS


@pytest.mark.parametrize(
    "state",
    [
        State(then=Raw(b'{"type":"Unknown"}')),
        State(then=Raw(b'{"type":"DeleteConfirmed","key":7}')),
        State(then=Raw(b'{"type":"DeleteConfirmed","key":"a"}'), requests=Raw(b'{"confirm":7}')),
    ],
)
def test_a_state_that_an_older_version_of_us_sealed_is_refused_kindly(state: State) -> None:
    params = call("delete", {"key": "a"})
    sealed = Sealer(KEY, WALL).seal(
        state, Caller().identity, digest("tools/call", Raw(json.dumps(params).encode())), 100.0, "n"
    )
    error = Server(MODERN).error("tools/call", params | {"requestState": sealed})
    assert error["code"] == INVALID_PARAMS and "older version" in error["message"]


def test_a_state_for_a_handler_without_continuations_is_refused() -> None:
    params = call("get", {"key": "a"})
    state = State(then=Raw(b'{"type":"DeleteConfirmed","key":"a"}'), requests=Raw(b"{}"))
    sealed = Sealer(KEY, WALL).seal(
        state, Caller().identity, digest("tools/call", Raw(json.dumps(params).encode())), 100.0, "n"
    )
    assert Server(MODERN).error("tools/call", params | {"requestState": sealed})["code"] == INVALID_PARAMS


@req("bounds-state")
def test_a_state_above_the_limit_is_an_internal_error() -> None:
    server = Server(MODERN, limits=Limits(state_bytes=100))
    error = server.error("tools/call", call("delete", {"key": "a"}))
    assert error["code"] == INTERNAL_ERROR and "limit is 100" in error["message"]


def test_an_id_in_flight_cannot_be_used_for_the_next_round() -> None:
    server = Server(MODERN, held=True)
    params = call("delete", {"key": "a"})
    first = server.result("tools/call", params)
    id = server.start("get", {"key": "a"})
    again = retried(server, first, {"confirm": YES}, params)
    assert codes([server.ask("tools/call", again, id=id)]) == [(id, -32600)]


@req("undeclared-capabilities", "error-missing-capability", "mrtr-declared-only")
@pytest.mark.parametrize(
    ("tool", "required"),
    [
        ("delete", {"elicitation": {"form": {}}}),
        ("ask_all", {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}),
    ],
)
def test_a_modern_client_without_the_capability_is_told_which(tool: str, required: Json) -> None:
    server = Server(MODERN, capabilities={"experimental": {}})
    error = server.error("tools/call", call(tool, {"key": "a"}))
    assert error["code"] == MISSING_CLIENT_CAPABILITY
    assert error["data"] == {"requiredCapabilities": required}


@req("mrtr-declared-only")
def test_a_modern_client_is_asked_only_what_it_declared_on_this_request() -> None:
    server = Server(MODERN, capabilities={"roots": {}})
    first = server.result("tools/call", call("ask_all"))
    assert sorted(first["inputRequests"]) == ["roots"]
    params = call("ask_all", inputResponses={"roots": ROOTS, "form": YES}, requestState=first["requestState"])
    assert text_of(server.result("tools/call", params)) == "answers: ['roots']"


def test_a_legacy_peers_members_of_these_names_mean_nothing() -> None:
    server = Server("2025-11-25")
    params = call("delete", {"key": "a"}, inputResponses={"confirm": YES}, requestState="x")
    server.say(server.request("tools/call", params))
    assert methods(server.replies()) == ["elicitation/create"]


# --- jobs ---


def asked(message: str) -> Ask:
    return Ask({message: ElicitForm(message, NAME_FORM)})


def test_a_legacy_job_asks_and_goes_on() -> None:
    server = Server("2025-11-25", limits=Limits(work_timeout=50.0, ask_timeout=100.0))
    server.start("job")
    [ticket] = server.jobs
    server.tell(ticket, asked("one"))
    assert server.connection.next_deadline() == 100.0
    with pytest.raises(LocalProtocolError, match="one thing at a time"):
        server.tell(ticket, asked("two"))
    [question] = server.replies()
    server.pass_time(90.0)
    server.respond(question["id"], accepted(name="Ada"))
    assert server.connection.next_deadline() == 140.0
    assert server.answered == [AnswerWork(ticket, {"one": ElicitResult("accept", Raw(b'{"name":"Ada"}'))})]
    server.tell(ticket, asked("two"))
    assert methods(server.replies()) == ["elicitation/create"]
    server.complete(ticket, DONE)
    cancelled, reply = server.replies()
    assert cancelled["method"] == "notifications/cancelled" and text_of(reply["result"]) == "done"


def test_a_legacy_job_whose_client_is_late_refuses_or_cannot_is_stopped() -> None:
    for end in ("late", "refuses", "cannot"):
        server = Server("2025-11-25", capabilities={} if end == "cannot" else None)
        server.start("job")
        [ticket] = server.jobs
        server.tell(ticket, asked("one"))
        replies = server.replies()
        if end == "late":
            server.pass_time(600.0)
        elif end == "refuses":
            server.say({"jsonrpc": "2.0", "id": replies[0]["id"], "error": {"code": -1, "message": "no"}})
        reply = (replies + server.replies())[-1]
        wanted = {
            "late": "UNKNOWN_OUTCOME",
            "refuses": "CLIENT_REFUSED",
            "cannot": "MISSING_CLIENT_CAPABILITY",
        }
        assert error_of(reply)["code"] == wanted[end]
        assert server.stopped == [ticket]


def test_a_modern_job_runs_again_from_its_start_with_what_was_answered() -> None:
    params = call("job")
    responses: Json = {}
    state: Json = {}
    for rounds in range(3):
        server = Server(MODERN)
        server.say(server.request("tools/call", params | responses | state))
        [ticket] = server.jobs
        for question in ("one", "two")[: rounds + 1]:
            server.tell(ticket, asked(question))
        if rounds == 2:
            break
        [reply] = server.replies()
        assert server.stopped == [ticket]
        [key] = reply["result"]["inputRequests"]
        assert key == ("one", "two")[rounds]
        responses = {"inputResponses": {key: accepted(name=key)}}
        state = {"requestState": reply["result"]["requestState"]}
    names = [answer.answers for answer in server.answered]
    assert [sorted(answers) for answers in names] == [["one"], ["two"]]
    server.complete(ticket, DONE)
    [reply] = server.replies()
    assert text_of(reply["result"]) == "done"


# --- words ---


@pytest.mark.parametrize(
    ("request_", "raw", "answer"),
    [
        (ListRoots(), b'{"roots":[{"uri":"file:///a"}]}', RootsResult((Root("file:///a"),))),
        (ListRoots(), b'{"roots":{}}', None),
        (Sample(SAMPLE), b'{"role":"user","content":[],"model":"m"}', SampleResult("user", Raw(b"[]"), "m")),
        (Sample(SAMPLE), b'{"role":"robot","content":[],"model":"m"}', None),
        (ElicitForm("", FORM), b'{"action":"decline","_meta":{}}', ElicitResult("decline", UNSET)),
        (ElicitUrl("", ""), b'{"action":"accept"}', ElicitResult("accept")),
        (ElicitUrl("", ""), b"\xff", None),
    ],
)
def test_reading_answers(request_: ClientRequest, raw: bytes, answer: ClientAnswer | None) -> None:
    assert read_answer(request_, Raw(raw)) == answer


@req("sampling-tools-capability")
def test_naming_capabilities() -> None:
    requests: dict[str, ClientRequest] = {
        "a": Sample(SAMPLE, tools=True),
        "b": Sample(SAMPLE),
        "c": ListRoots(),
        "d": ElicitUrl("", ""),
    }
    assert decoded(needed(requests)) == {
        "sampling": {"tools": {}},
        "roots": {},
        "elicitation": {"url": {}},
    }


def test_a_plan_that_starts_a_job_after_the_client_answered() -> None:
    class Begin(Struct, frozen=True, tag=True):
        def resume(self, answers: Mapping[str, ClientAnswer], context: Context) -> Plan:
            return Start("later")

    server = Server("2025-11-25", catalog=tool_of(AskClient({"f": ElicitForm("?", FORM)}, Begin()), Begin))
    server.start("it")
    [question] = server.replies()
    server.respond(question["id"], YES)
    [(ticket, job)] = server.jobs.items()
    assert job == "later"
    server.complete(ticket, DONE)
    assert len(server.replies()) == 1


def test_a_plan_that_asks_both_store_and_client() -> None:
    class AskThen(Struct, frozen=True):
        def resume(self, replies: object, context: Context) -> Plan:
            return AskClient({"f": ElicitForm("?", FORM)}, ThenStore())

    server = Server("2025-11-25", catalog=tool_of(AskBackend((Get("a"),), AskThen()), ThenStore))
    server.start("it")
    [question] = server.replies()
    server.respond(question["id"], YES)
    [reply] = server.replies()
    assert text_of(reply["result"]) == '{"values":["2"]}'


class ThenStore(Struct, frozen=True, tag=True):
    def resume(self, answers: Mapping[str, ClientAnswer], context: Context) -> Plan:
        return AskBackend((Get("b"),), ShowAll())
