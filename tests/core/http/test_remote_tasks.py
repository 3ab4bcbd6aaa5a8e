"""Tasks that are asked for at another process than the one that runs them."""

import pytest
from hypothesis import given, strategies as st

from kvmcp.core.commands import AnswerWork, Ask, HangUp, StartWork, StopWork, WorkDone, WorkFailed
from kvmcp.core.errors import RpcError
from kvmcp.core.http.relays import TaskAsked, TaskTold, encode
from kvmcp.core.http.remote_tasks import record_key
from kvmcp.core.http.shared import LoadRecords
from kvmcp.core.limits import Limits
from kvmcp.core.plan import Caller
from kvmcp.core.subscriptions import ListChanged
from kvmcp.core.wire.common import TextContent, ToolResult
from tests.core.harness import Json, accepted
from tests.core.http.harness import Reply
from tests.core.http.replicas import Replicas
from tests.core.test_tasks import NAME, SURE, WITHOUT, a_catalog, ask

DONE = WorkDone(ToolResult((TextContent("done"),)))


class Started:
    """A task that runs at the first of three processes."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.all = Replicas(3, limits, a_catalog)
        self.id: str = self.at(0, "tools/call", name="must").message()["result"]["taskId"]
        [command] = self.all.webs[0].started
        assert isinstance(command, StartWork)
        self.ticket = command.ticket

    def at(self, index: int, method: str, capabilities: Json = None, **params: Json) -> Reply:
        return self.all.at(index, lambda web: ask(web, method, params, capabilities))

    def get(self, index: int) -> Json:
        return self.at(index, "tasks/get", taskId=self.id).message()["result"]

    def update(self, index: int, **given: Json) -> Reply:
        return self.at(index, "tasks/update", taskId=self.id, inputResponses=given)

    def end(self, outcome: object = DONE) -> None:
        self.all.webs[0].server.complete(self.ticket, outcome, self.all.webs[0].now)
        self.all.settle()

    def ask(self, **questions: Json) -> None:
        self.all.webs[0].server.tell(self.ticket, Ask(questions), self.all.webs[0].now)
        self.all.settle()


def test_any_process_tells_what_has_become_of_a_task() -> None:
    task = Started()
    first = task.get(0)
    assert task.get(1) == first and first["status"] == "working" and first["resultType"] == "complete"
    task.end()
    assert task.get(2) == task.get(0) and task.get(1)["result"]["content"][0]["text"] == "done"


def test_an_outcome_outlives_its_process() -> None:
    task = Started()
    task.end(WorkFailed(RpcError(-31000, "no")))
    del task.all.webs[0]
    assert task.get(0)["error"] == {"code": -31000, "message": "no"}
    assert task.at(1, "tasks/cancel", taskId=task.id).message()["result"].keys() == {"resultType", "_meta"}


def test_input_and_cancellation_find_the_process_that_runs_it() -> None:
    task = Started()
    task.ask(sure=SURE, name=NAME)
    assert task.get(1)["inputRequests"].keys() == {"sure", "name"}
    acknowledged = task.update(1, name=accepted(name="Alice"), nothing=accepted())
    assert acknowledged.message()["result"].keys() == {"resultType", "_meta"}
    assert task.get(2)["inputRequests"].keys() == {"sure"}, "at once, and everywhere"
    task.update(2, sure=accepted(yes=True))
    [_, answered] = task.all.webs[0].started
    assert isinstance(answered, AnswerWork) and answered.answers.keys() == {"sure", "name"}
    assert task.get(2)["status"] == "working"
    assert task.at(2, "tasks/cancel", taskId=task.id).code() == (200, None)
    assert task.all.webs[0].started[-1] == StopWork(task.ticket)
    assert task.get(1)["status"] == "cancelled"
    assert task.at(2, "tasks/cancel", taskId=task.id).code() == (200, None)


def test_input_that_changes_nothing_is_acknowledged_after_a_moment() -> None:
    task = Started()
    task.ask(sure=SURE)
    reply = task.update(1, sure=5)
    assert reply.waits
    task.all.pass_time(1.0)
    assert reply.code() == (200, None) and reply.exchange.closed
    assert task.get(1)["status"] == "input_required"


@pytest.mark.parametrize("method", ["tasks/get", "tasks/update", "tasks/cancel"])
def test_the_same_is_refused_everywhere(method: str) -> None:
    task = Started()
    params = {"taskId": task.id, "inputResponses": {}}
    assert task.at(1, method, WITHOUT, **params).code() == (400, -32021)
    assert task.at(1, method, **{**params, "taskId": "tk_none"}).code() == (400, -32602)
    assert task.at(1, method, **{**params, "taskId": task.id[:-1] + "x"}).code() == (400, -32602)
    assert task.at(1, method).code() == (400, -32602)
    task.all.webs[1].caller = Caller("mallory")
    assert task.at(1, method, **params).code() == (400, -32602)
    plain = Replicas(2)
    assert plain.at(1, lambda web: ask(web, method, params)).code() == (404, -32601)


def test_a_task_whose_process_has_vanished_is_gone() -> None:
    task = Started()
    task.all.webs.pop(0)
    task.all.records.clear()  # As their time has passed, and nobody renews them.
    for web in task.all.webs:
        web.now += 10.0
    assert task.at(0, "tasks/get", taskId=task.id).code() == (400, -32602)


def test_a_record_that_is_on_its_way_is_waited_for() -> None:
    task = Started()
    late = dict(task.all.records)
    task.all.records.clear()
    reply = task.at(1, "tasks/get", taskId=task.id)
    assert reply.waits
    reply.exchange.handle_timeout(task.all.webs[1].now)
    task.all.pass_time(0.1)
    assert reply.waits
    task.all.records.update(late)
    task.all.pass_time(0.1)
    assert reply.code() == (200, None)


def test_a_store_that_does_not_answer_is_an_internal_error() -> None:
    task = Started(Limits(backend_timeout=5.0))
    task.all.webs[1].records_work = False
    assert task.at(1, "tasks/get", taskId=task.id).code() == (200, -32603)
    web = task.all.webs[2]
    web.replicated = False  # Its commands are not carried out.
    reply = ask(web, "tasks/get", {"taskId": task.id})
    web.pass_time(5.0)
    assert reply.code() == (200, -32603)
    [load] = [command for command in web.server.take_records() if isinstance(command, LoadRecords)]
    web.server.complete(load.ticket, [None], web.now)


def test_what_runs_is_renewed_and_what_is_over_is_kept_to_its_end() -> None:
    task = Started(Limits(stored_seconds=30.0))
    web = task.all.webs[0]
    assert [kept.seconds for kept in web.kept if kept.key == record_key(task.id)] == [30.0]
    for _ in range(3):
        web.kept.clear()
        task.all.pass_time(5.0)
        assert web.kept == []
        task.all.pass_time(5.0)
        assert [kept.key for kept in web.kept] == [record_key(task.id)]
    web.kept.clear()
    task.end()
    assert [kept.seconds for kept in web.kept] == [3570.0]
    web.kept.clear()
    task.all.pass_time(10.0)
    assert web.kept == []
    task.all.pass_time(3570.0)
    assert record_key(task.id) not in task.all.records


def test_an_outcome_that_comes_at_the_very_end_is_kept_for_a_moment() -> None:
    task = Started(Limits(task_lifetime=10.0))
    task.all.webs[0].now += 10.0
    task.end()
    assert task.all.webs[0].kept[-1].seconds == 1.0


def test_who_listens_at_another_process_hears_of_every_change() -> None:
    task = Started()
    params = {"notifications": {"taskIds": [task.id, "tk_none"]}}
    listens = [task.at(index, "subscriptions/listen", **params) for index in (1, 2)]
    for listen in listens:
        assert listen.message()["params"]["notifications"] == {"taskIds": [task.id]}
    task.ask(sure=SURE)
    for listen in listens:
        heard = listen.message()["params"]
        assert heard["status"] == "input_required" and heard["inputRequests"].keys() == {"sure"}
    listens[0].reads = False
    task.update(2, sure=accepted(yes=True))
    task.end()
    listens[0].reads = True
    listens[0].drive()
    assert listens[0].message()["params"]["status"] == "completed", "late readers hear of the last state only"


def test_states_that_nobody_has_read_are_kept_up_to_a_number() -> None:
    task = Started()
    ids = [task.at(0, "tools/call", name="must").message()["result"]["taskId"] for _ in range(70)]
    listen = task.at(1, "subscriptions/listen", notifications={"taskIds": ids})
    listen.messages()
    listen.reads = False
    for id in ids:
        task.at(0, "tasks/cancel", taskId=id)
    listen.reads = True
    listen.drive()
    assert [one["params"]["taskId"] for one in listen.messages()] == ids[-64:]


def test_a_request_that_is_given_up_is_forgotten() -> None:
    task = Started()
    task.ask(sure=SURE)
    reply = task.update(1, sure=5)
    reply.disconnect()
    reply.exchange.disconnected(0.0)
    assert reply.start is None and reply.exchange.closed and reply.exchange.next_deadline() is None
    web = task.all.webs[2]
    web.replicated = False
    early = ask(web, "tasks/get", {"taskId": task.id})
    early.disconnect()
    early.exchange.handle_timeout(web.now + 100.0)
    assert early.exchange.closed and early.start is None and web.server.requests == 0


def test_such_a_request_has_nothing_to_do_with_work_and_changes() -> None:
    task = Started()
    task.ask(sure=SURE)
    exchange = task.update(1, sure=5).exchange
    exchange.complete(1, DONE, 0.0)
    exchange.tell(1, HangUp(), 0.0)
    exchange.publish(ListChanged("tools"), 0.0)
    exchange.note_task(task.id)
    exchange.begin_shutdown(0.0)
    assert exchange.take_commands() == [] and not exchange.wants_turn and not exchange.closed


def test_relays_about_tasks_that_are_unknown_do_nothing() -> None:
    task = Started()
    web = task.all.webs[1]
    for relay in (TaskAsked("tk_x", None), TaskAsked("tk_x", {}), TaskTold("tk_x", b"{}")):
        web.server.receive_relay(encode(web.service.sealer, "x", relay), web.now)
    assert web.server.take_woken() == [] and web.server.take_records() == []


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from(["get", "ask", "give", "wrong", "end", "cancel"])),
        max_size=12,
    )
)
def test_every_process_says_the_same_of_a_task(steps: list[tuple[int, str]]) -> None:
    task = Started()
    for index, step in steps:
        before = task.get(0)["status"]
        if step == "ask" and before == "working":
            task.ask(sure=SURE)
        elif step in ("give", "wrong"):
            keys = task.get(index).get("inputRequests", {"none": None})
            task.update(index, **{key: accepted(yes=True) if step == "give" else 5 for key in keys})
        elif step == "end" and before == "working":
            task.end()
        elif step == "cancel":
            task.at(index, "tasks/cancel", taskId=task.id)
        task.all.pass_time(1.0)
        states = [task.get(one) for one in range(3)]
        assert states[0] == states[1] == states[2]
