"""Whole conversations, client and server back to back, in all five revisions; every message fits its schema."""

import pytest
from msgspec import UNSET, Raw

from kvmcp.core.client.connection import ClientConnection
from kvmcp.core.client.events import (
    Connected,
    ConnectionLost,
    ErrorReceived,
    InputRequired,
    ListChanged,
    ListenAcknowledged,
    ListenEnded,
    LogReceived,
    ProgressReceived,
    ResourceUpdated,
    ResultReceived,
    ServerAsked,
    ServerAskEnded,
    TimedOut,
)
from kvmcp.core.client.features import Pages
from kvmcp.core.client.profile import ClientLimits
from kvmcp.core.commands import Ask, Log, Progress, WorkDone
from kvmcp.core.errors import RpcError
from kvmcp.core.limits import Limits
from kvmcp.core.subscriptions import ListChanged as Changed, ResourceUpdated as Updated
from kvmcp.core.wire.common import (
    ElicitForm,
    ElicitResult,
    ListRoots,
    Sample,
    SampleResult,
    TextContent,
    ToolResult,
)
from kvmcp.core.wire.params import ListenFilter, PromptReference, ResourceReference
from kvmcp.core.wire.results import (
    CallResult,
    MessagesResult,
    PromptsPage,
    ResourceResult,
    ResourcesPage,
    SuggestionsResult,
    TemplatesPage,
    ToolsPage,
    read,
)
from tests.core.client.pair import (
    ANSWERS,
    LEGACY,
    MODERN,
    NOTHING,
    REVISIONS,
    Pair,
    encoded,
    only,
    profile_for,
)
from tests.core.fixture_catalog import SAMPLE
from tests.core.harness import Server

each_revision = pytest.mark.parametrize("revision", REVISIONS)
each_legacy = pytest.mark.parametrize("revision", LEGACY)

DONE = ToolResult((TextContent("done"),))
FORM = ElicitForm("Sure?", b'{"type":"object","properties":{"yes":{"type":"boolean"}}}')
FORMS_SINCE = "2025-06-18"


def text_of(result: Raw) -> str:
    """The text of a tool's result, which is one block and no failure."""
    called = read(result, CallResult)
    assert called is not None and not called.is_error, bytes(result)
    [block] = called.content
    content = read(block, TextContent)
    assert content is not None
    return content.text


# --- opening ---


@each_revision
@pytest.mark.parametrize("bytewise", [False, True])
def test_both_sides_agree_on_the_revision(revision: str, bytewise: bool) -> None:
    pair = Pair(revision, bytewise=bytewise)
    connected = pair.connected
    assert (connected.version, connected.era) == (revision, "modern" if revision == MODERN else "legacy")
    assert connected.server_info is not None and connected.server_info.name == "kvmcp"
    assert connected.capabilities.tools is not UNSET and connected.capabilities.tools.list_changed
    assert connected.instructions is None
    ticket = pair.session.call_tool("get", b'{"key":"a"}', pair.now)
    done = only(pair.transfer(), ResultReceived)
    assert (done.ticket, text_of(done.result)) == (ticket, "1")


def test_auto_finds_a_modern_server() -> None:
    pair = Pair(MODERN, mode="auto", server=Server(instructions="Keys are UTF-8."))
    assert (pair.connected.era, pair.connected.instructions) == ("modern", "Keys are UTF-8.")


def test_what_was_found_out_saves_the_probe() -> None:
    found = Pair(MODERN, mode="auto").connected
    again = ClientConnection(profile_for(MODERN))
    again.session.connect(0.0, found)
    assert again.take_events() == [found]
    assert again.data_to_send() == b""


def test_a_probe_that_was_given_up_confuses_nobody() -> None:
    """The server is slow: probe and initialize arrive together, and so do their answers."""
    server, client = Server(), ClientConnection(profile_for("2025-11-25"))
    client.session.connect(0.0)
    deadline = client.next_deadline()
    assert deadline is not None
    client.handle_timeout(deadline)
    server.feed(client.data_to_send())
    answers = server.connection.data_to_send()
    assert answers.count(b"\n") == 2
    client.receive_data(answers, deadline)
    assert only(client.take_events(), Connected).version == "2025-11-25"
    client.session.ping(deadline)
    server.feed(client.data_to_send())
    client.receive_data(server.connection.data_to_send(), deadline)
    assert bytes(only(client.take_events(), ResultReceived).result) == b"{}"


# --- requests ---


@each_revision
@pytest.mark.req("client-ids-unique")
def test_many_requests_in_one_write(revision: str) -> None:
    pair = Pair(revision)
    tickets = [
        pair.session.call_tool("put", encoded({"key": f"k{n}", "value": "v"}), pair.now) for n in range(9)
    ]
    events = pair.transfer()
    assert [e.ticket for e in events if isinstance(e, ResultReceived)] == tickets
    assert len(pair.server.store) == 9 + 2


@each_revision
@pytest.mark.parametrize("bytewise", [False, True])
def test_every_feature_by_name(revision: str, bytewise: bool) -> None:
    pair = Pair(revision, bytewise=bytewise)
    session, now = pair.session, pair.now
    greet = PromptReference("greet")
    session.list_tools(now)
    session.list_resources(now)
    session.list_templates(now)
    session.list_prompts(now)
    session.read_resource("kv://keys/a", now)
    session.get_prompt("greet", {"name": "Ada"}, now)
    session.complete(greet, "name", "A", now)
    session.complete(ResourceReference("kv://keys/{key}"), "key", "few", now, {"other": "x"})
    results = {e.ticket: e.result for e in pair.transfer() if isinstance(e, ResultReceived)}
    tools, resources, templates, prompts, contents, messages, names, keys = (
        results[t] for t in sorted(results)
    )
    listed = read(tools, ToolsPage)
    assert listed is not None and {"get", "add"} < {tool.name for tool in listed.tools}
    here = read(resources, ResourcesPage)
    assert here is not None and here.resources[0].uri == "kv://config"
    shapes = read(templates, TemplatesPage)
    assert shapes is not None and shapes.resource_templates[0].uri_template == "kv://keys/{key}"
    offered = read(prompts, PromptsPage)
    assert offered is not None and offered.prompts[0].name == "greet"
    found = read(contents, ResourceResult)
    assert found is not None and found.contents[0].text == "1"
    said = read(messages, MessagesResult)
    assert said is not None and said.description == "A greeting"
    suggested = read(names, SuggestionsResult)
    assert suggested is not None and suggested.completion.values == ("Ada", "Alan")
    few = read(keys, SuggestionsResult)
    assert few is not None and (few.completion.total, few.completion.has_more) == (7, True)


@each_revision
def test_a_list_in_pages(revision: str) -> None:
    pair = Pair(revision, server=Server(limits=Limits(list_page=5)))
    pages, names, cursor = Pages(100), [], None
    while True:
        pair.session.list_tools(pair.now, cursor)
        result = only(pair.transfer(), ResultReceived).result
        page = read(result, ToolsPage)
        assert page is not None
        names += [tool.name for tool in page.tools]
        cursor = pages.next(result)
        if cursor is None:
            break
    assert len(names) == len(set(names)) == 17


@each_revision
def test_refusals(revision: str) -> None:
    pair = Pair(revision)
    session, now = pair.session, pair.now
    session.call_tool("nobody", b"{}", now)
    session.read_resource("kv://nowhere", now)
    session.list_tools(now, "no cursor")
    missing = -32602 if revision == MODERN else -32002
    codes = [e.error.code for e in pair.transfer() if isinstance(e, ErrorReceived)]
    assert codes == [-32602, missing, -32602]


@each_revision
def test_a_tool_that_fails_is_a_result(revision: str) -> None:
    pair = Pair(revision)
    pair.session.call_tool("fails", b"{}", pair.now)
    failed = read(only(pair.transfer(), ResultReceived).result, CallResult)
    assert failed is not None and failed.is_error


@each_revision
def test_an_answer_that_comes_after_the_cancellation_is_ignored(revision: str) -> None:
    pair = Pair(revision)
    ticket = pair.session.call_tool("get", b'{"key":"a"}', pair.now)
    pair.send()
    pair.session.cancel(ticket, "changed my mind")
    pair.session.cancel(ticket)
    assert pair.transfer() == []


@each_revision
def test_a_cancelled_job_is_stopped(revision: str) -> None:
    pair = Pair(revision)
    ticket = pair.session.call_tool("job", b"{}", pair.now)
    assert pair.transfer() == []
    job = pair.job()
    pair.session.cancel(ticket, "too slow")
    assert pair.transfer() == []
    assert pair.server.stopped == [job]


@each_revision
def test_a_job_reports_progress_and_logs(revision: str) -> None:
    pair = Pair(revision)
    pair.session.set_log_level("info", pair.now)
    pair.transfer()
    ticket = pair.session.call_tool("job", b"{}", pair.now, progress=True)
    pair.transfer()
    job = pair.job()
    for said in (
        Progress(1, 3, "one"),
        Progress(0.5),
        Progress(2),
        Log("debug", b"0"),
        Log("error", b'{"n":1}', "kv"),
    ):
        pair.server.tell(job, said)
    message = UNSET if revision == "2024-11-05" else "one"
    assert pair.transfer() == [
        ProgressReceived(ticket, 1, 3, message),
        ProgressReceived(ticket, 2),
        LogReceived("error", Raw(b'{"n":1}'), "kv"),
    ]
    pair.server.complete(job, WorkDone(DONE))
    assert text_of(only(pair.transfer(), ResultReceived).result) == "done"


@each_revision
def test_a_timeout_stops_the_work_on_both_sides(revision: str) -> None:
    pair = Pair(revision)
    ticket = pair.session.call_tool("job", b"{}", pair.now, timeout=5, progress=True)
    pair.transfer()
    job = pair.job()
    assert pair.pass_time(4.9) == []
    pair.server.tell(job, Progress(1))
    assert pair.transfer() == [ProgressReceived(ticket, 1)]
    assert pair.pass_time(4.9) == []
    assert pair.pass_time(0.2) == [TimedOut(ticket)]
    assert pair.server.stopped == [job]
    assert pair.client.next_deadline() is None


# --- being asked ---


@each_revision
@pytest.mark.parametrize("bytewise", [False, True])
def test_a_continuation_asks_once(revision: str, bytewise: bool) -> None:
    pair = Pair(revision, bytewise=bytewise)
    ticket = pair.session.call_tool("delete", b'{"key":"a"}', pair.now)
    done = only(pair.settle(ticket), ResultReceived)
    called = read(done.result, CallResult)
    assert called is not None
    # Before 2025-06-18 nobody can be asked that.
    assert called.is_error is (revision < FORMS_SINCE)
    assert ("a" in pair.server.store) is (revision < FORMS_SINCE)


@pytest.mark.parametrize("revision", REVISIONS[2:])
def test_a_continuation_asks_twice(revision: str) -> None:
    pair = Pair(revision)
    ticket = pair.session.call_tool("interview", b"{}", pair.now)
    done = only(pair.settle(ticket), ResultReceived)
    assert (done.ticket, text_of(done.result)) == (ticket, "Ada file:///home a-model")


@pytest.mark.parametrize("revision", REVISIONS[2:])
def test_resources_and_prompts_ask_too(revision: str) -> None:
    pair = Pair(revision)
    reading = pair.session.read_resource("kv://asking", pair.now)
    contents = read(only(pair.settle(reading), ResultReceived).result, ResourceResult)
    assert contents is not None and contents.contents[0].text == "as you wish"
    getting = pair.session.get_prompt("ask-first", {}, pair.now)
    messages = read(only(pair.settle(getting), ResultReceived).result, MessagesResult)
    assert messages is not None and messages.messages[0].role == "user"


@each_revision
def test_everything_is_asked_that_the_revision_knows(revision: str) -> None:
    pair = Pair(revision)
    ticket = pair.session.call_tool("ask_all", b"{}", pair.now)
    done = only(pair.settle(ticket), ResultReceived)
    asked = ["form", "roots", "url", "word"]
    if revision < FORMS_SINCE:
        asked = ["roots", "word"]
    elif revision < "2025-11-25":
        asked.remove("url")
    assert text_of(done.result) == f"answers: {asked}"


@each_revision
def test_who_can_be_asked_nothing_is_asked_nothing(revision: str) -> None:
    pair = Pair(revision, capabilities=NOTHING)
    ticket = pair.session.call_tool("interview", b"{}", pair.now)
    [event] = pair.settle(ticket)
    if revision == MODERN:
        assert isinstance(event, ErrorReceived) and event.error.code == -32021
    else:
        assert isinstance(event, ResultReceived) and b'"isError":true' in bytes(event.result)


@each_legacy
def test_a_job_asks_a_legacy_client(revision: str) -> None:
    pair = Pair(revision)
    pair.session.call_tool("job", b"{}", pair.now)
    pair.transfer()
    job = pair.job()
    pair.server.tell(job, Ask({"roots": ListRoots(), "word": Sample(SAMPLE)}))
    first, second = pair.transfer()
    assert isinstance(first, ServerAsked) and isinstance(second, ServerAsked)
    assert (first.method, second.method) == ("roots/list", "sampling/createMessage")
    pair.session.reply(second.ticket, encoded(ANSWERS["sampling/createMessage"]))
    assert pair.transfer() == []
    pair.session.reply(first.ticket, encoded(ANSWERS["roots/list"]))
    pair.session.reply(first.ticket, encoded(ANSWERS["roots/list"]))
    assert pair.transfer() == []
    [answered] = pair.server.answered
    assert answered.answers["word"] == SampleResult(
        "assistant", Raw(b'{"type":"text","text":"Kelvin"}'), "a-model"
    )
    pair.server.complete(job, WorkDone(DONE))
    assert text_of(only(pair.transfer(), ResultReceived).result) == "done"


def test_a_job_asks_a_modern_client() -> None:
    """The job is run again from its start; earlier answers come from the state, at once."""
    pair = Pair(MODERN)
    ticket = pair.session.call_tool("job", b"{}", pair.now, progress=True)
    pair.transfer()
    for question in ({"sure": FORM}, {"sure": FORM, "roots": ListRoots()}):
        job = pair.job()
        pair.server.tell(job, Ask({"sure": FORM}))
        if "roots" in question:
            pair.server.tell(job, Ask({"roots": ListRoots()}))
        assert pair.server.jobs == {}
        asked = only(pair.transfer(), InputRequired)
        answers = {key: encoded(ANSWERS[request.method]) for key, request in asked.requests.items()}
        pair.session.answer(ticket, answers, pair.now)
        assert pair.transfer() == []
    job = pair.job()
    pair.server.tell(job, Ask({"sure": FORM}))
    pair.server.tell(job, Ask({"roots": ListRoots()}))
    sure, roots = pair.server.answered[-2:]
    assert isinstance(sure.answers["sure"], ElicitResult)
    assert list(roots.answers) == ["roots"]
    pair.server.tell(job, Progress(1))
    pair.server.complete(job, WorkDone(DONE))
    told, done = pair.transfer()
    assert told == ProgressReceived(ticket, 1)
    assert isinstance(done, ResultReceived) and text_of(done.result) == "done"


@each_legacy
def test_a_refusal_of_the_person(revision: str) -> None:
    pair = Pair(revision)
    pair.session.call_tool("job", b"{}", pair.now)
    pair.transfer()
    pair.server.tell(pair.job(), Ask({"word": Sample(SAMPLE)}))
    asked = only(pair.transfer(), ServerAsked)
    pair.session.refuse(asked.ticket, RpcError(-1, "the user said no"))
    called = read(only(pair.transfer(), ResultReceived).result, CallResult)
    assert called is not None and called.is_error and b"the user said no" in bytes(called.content[0])


@each_legacy
def test_a_question_that_is_not_needed_any_more(revision: str) -> None:
    pair = Pair(revision)
    ticket = pair.session.call_tool("job", b"{}", pair.now)
    pair.transfer()
    pair.server.tell(pair.job(), Ask({"word": Sample(SAMPLE)}))
    asked = only(pair.transfer(), ServerAsked)
    pair.session.cancel(ticket)
    assert pair.transfer() == [ServerAskEnded(asked.ticket)]
    pair.session.reply(asked.ticket, encoded(ANSWERS["sampling/createMessage"]))
    assert pair.client.data_to_send() == b""


@each_legacy
def test_a_person_who_reads_a_form_does_not_time_out_the_call(revision: str) -> None:
    pair = Pair(revision, limits=ClientLimits(request_timeout=60, request_cap=900))
    ticket = pair.session.call_tool("job", b"{}", pair.now)
    pair.transfer()
    pair.server.tell(pair.job(), Ask({"word": Sample(SAMPLE)}))
    asked = only(pair.transfer(), ServerAsked)
    for _ in range(9):
        assert pair.pass_time(60) == []
    pair.session.reply(asked.ticket, encoded(ANSWERS["sampling/createMessage"]))
    pair.transfer()
    pair.server.complete(pair.job(), WorkDone(DONE))
    assert only(pair.transfer(), ResultReceived).ticket == ticket


# --- changes ---


@each_legacy
def test_a_legacy_client_is_told_of_changes(revision: str) -> None:
    pair = Pair(revision)
    pair.session.subscribe("kv://keys/a", pair.now)
    only(pair.transfer(), ResultReceived)
    pair.server.publish(Changed("tools"))
    pair.server.publish(Updated("kv://keys/a"))
    pair.server.publish(Updated("kv://keys/b"))
    assert pair.transfer() == [ListChanged("tools"), ResourceUpdated("kv://keys/a")]
    pair.session.unsubscribe("kv://keys/a", pair.now)
    only(pair.transfer(), ResultReceived)
    pair.server.publish(Updated("kv://keys/a"))
    assert pair.transfer() == []
    pair.session.tell_roots_changed()
    assert pair.transfer() == []


@pytest.mark.parametrize("bytewise", [False, True])
def test_two_listens(bytewise: bool) -> None:
    pair = Pair(MODERN, bytewise=bytewise)
    lists = ListenFilter(tools_list_changed=True, prompts_list_changed=True)
    keys = ListenFilter(resource_subscriptions=("kv://keys/a", "other://x"))
    one, two = pair.session.listen(lists, pair.now), pair.session.listen(keys, pair.now)
    assert pair.transfer() == [
        ListenAcknowledged(one, lists),
        ListenAcknowledged(two, ListenFilter(resource_subscriptions=("kv://keys/a",))),
    ]
    for event in (Changed("tools"), Changed("resources"), Updated("kv://keys/a"), Changed("tools")):
        pair.server.publish(event)
    assert pair.transfer() == [ListChanged("tools", one), ResourceUpdated("kv://keys/a", two)]
    pair.session.cancel(one)
    pair.server.publish(Changed("tools"))
    assert pair.transfer() == []
    assert pair.pass_time(100_000) == []
    assert pair.close_server() == [ListenEnded(two), ConnectionLost(())]


def test_a_change_that_crosses_the_end_of_its_listen_is_ignored() -> None:
    pair = Pair(MODERN)
    listen = pair.session.listen(ListenFilter(tools_list_changed=True), pair.now)
    pair.transfer()
    pair.server.publish(Changed("tools"))
    pair.session.cancel(listen)
    assert pair.receive()
    assert pair.transfer() == []


# --- the end ---


@each_revision
def test_what_was_accepted_is_finished_before_the_end(revision: str) -> None:
    pair = Pair(revision)
    ticket = pair.session.call_tool("job", b"{}", pair.now)
    pair.transfer()
    job = pair.job()
    pair.server.shut_down()
    late = pair.session.call_tool("get", b'{"key":"a"}', pair.now)
    assert pair.transfer() == []
    pair.server.complete(job, WorkDone(DONE))
    assert only(pair.transfer(), ResultReceived).ticket == ticket
    assert pair.server_is_closed()
    pair.client.receive_eof(pair.now)
    assert pair.client.take_events() == [ConnectionLost((late,))]
    assert pair.client.closed


@each_revision
def test_the_client_leaves(revision: str) -> None:
    pair = Pair(revision)
    pair.session.call_tool("job", b"{}", pair.now)
    pair.transfer()
    pair.server.end()
    assert not pair.server_is_closed()
    pair.server.complete(pair.job(), WorkDone(DONE))
    assert pair.server_is_closed()
