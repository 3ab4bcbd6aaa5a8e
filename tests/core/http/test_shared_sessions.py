"""What a process that was started later, or that has forgotten, knows of a session: as much as all others."""

import pytest

from kvmcp.core.commands import HangUp, Log, WorkDone
from kvmcp.core.http.shared import LoadRecords, Shared
from kvmcp.core.http.shared_sessions import SessionRecord, read_record, session_key
from kvmcp.core.limits import Limits
from kvmcp.core.plan import Caller
from kvmcp.core.subscriptions import ListChanged, ResourceUpdated
from kvmcp.core.wire.common import TextContent, ToolResult
from tests.core.http.harness import Reply, Session, Web
from tests.core.http.replicas import Replicas

PRIMED = "2025-11-25"
DONE = WorkDone(ToolResult((TextContent("done"),)))
CONFIG = "kv://config"


class Late:
    """A session at one process, and another one to which no relay came."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.all = Replicas(2, limits)
        self.session = Session(self.all.webs[0], PRIMED)
        self.all.lossy = True
        self.web = self.all.webs[1]

    def early(self, method: str, **params: object) -> Reply:
        return self.all.at(0, lambda web: self.session.ask(method, params, web=web))


def test_wishes_are_known_to_who_comes_later_and_what_may_have_changed_is_told() -> None:
    late = Late()
    late.early("resources/subscribe", uri=CONFIG)
    late.early("logging/setLevel", level="debug")
    stream = late.session.get(web=late.web)
    assert stream.message()["params"]["uri"] == CONFIG
    late.web.publish(ResourceUpdated(CONFIG))
    assert len(stream.messages()) == 1
    call = late.session.call("job", web=late.web)
    call.tell(Log("debug", b"1"))
    assert call.message()["params"]["data"] == 1


def test_what_was_taken_back_is_not_wished_for() -> None:
    late = Late()
    late.early("resources/subscribe", uri=CONFIG)
    late.early("resources/unsubscribe", uri=CONFIG)
    stream = late.session.get(web=late.web)
    late.web.publish(ResourceUpdated(CONFIG))
    assert stream.messages() == []


def test_the_end_of_a_session_is_known_to_who_comes_later() -> None:
    late = Late()
    late.early("resources/subscribe", uri=CONFIG)
    late.all.at(0, lambda web: late.session.delete(web))
    for act in (
        late.session.ask("ping", web=late.web),
        late.session.get(web=late.web),
        late.session.delete(late.web),
    ):
        assert act.status == 404


def test_a_session_that_watches_too_much_ends_everywhere() -> None:
    late = Late(Limits(watched_resources=1))
    for name in "ab":
        late.early("resources/subscribe", uri=f"kv://keys/{name}")
    assert late.session.ask("ping", web=late.web).status == 404
    again = Late(Limits(watched_resources=1))
    again.all.lossy = False
    stream = again.all.at(1, lambda web: again.session.get(web=web))
    for name in "ab":
        again.early("resources/subscribe", uri=f"kv://keys/{name}")
    assert stream.ended


def test_what_was_told_is_not_undone_by_what_is_read() -> None:
    late = Late()
    late.early("logging/setLevel", level="error")
    late.all.lossy = False
    late.all.webs[0].records_work = False
    late.early("logging/setLevel", level="debug")
    call = late.session.call("job", web=late.web)
    call.tell(Log("debug", b"1"))
    assert call.message()["params"]["data"] == 1


def test_what_was_forgotten_is_read_again() -> None:
    late = Late(Limits(session_idle=10.0))
    late.early("resources/subscribe", uri=CONFIG)
    late.all.webs[0].pass_time(10.0)
    assert late.all.webs[0].server.sessions == 0
    stream = late.session.get()
    late.all.webs[0].publish(ResourceUpdated(CONFIG))
    assert len(stream.messages()) == 2


def test_a_record_that_cannot_be_read_is_looked_for_with_the_next_request() -> None:
    late = Late()
    late.early("resources/subscribe", uri=CONFIG)
    late.web.records_work = False
    assert late.session.ask("ping", web=late.web).code() == (200, None), "a store that is down ends nothing"
    late.web.records_work = True
    assert late.session.ask("ping", web=late.web).code() == (200, None)
    assert late.session.get(web=late.web).message()["params"]["uri"] == CONFIG


def test_only_its_owner_lets_a_session_be_looked_for() -> None:
    late = Late()
    late.web.replicated = False
    late.web.caller = Caller("mallory")
    assert late.session.ask("ping", web=late.web).status == 404
    assert late.web.server.take_records() == []


def a_look(late: Late, reply: Reply) -> LoadRecords:
    [load] = [command for command in late.web.server.take_records() if isinstance(command, LoadRecords)]
    assert reply.waits and load.keys == (session_key(late.session.id),)
    return load


def test_requests_that_wait_for_the_record_are_served_in_the_end() -> None:
    late = Late(Limits(backend_timeout=5.0))
    late.web.replicated = False
    first, second = (late.session.call("get", {"key": "a"}, web=late.web) for _ in range(2))
    commands = late.web.server.take_records()
    for command in commands:
        assert isinstance(command, LoadRecords)
        late.web.server.complete(command.ticket, [None], late.web.now)
    late.web.settle()
    assert first.code() == second.code() == (200, None)
    other = Late(Limits(backend_timeout=5.0))
    other.web.replicated = False
    reply = other.session.call("get", {"key": "a"}, web=other.web)
    load = a_look(other, reply)
    reply.exchange.handle_timeout(other.web.now)
    other.web.pass_time(5.0)
    assert reply.code() == (200, None)
    other.web.server.complete(load.ticket, [None], other.web.now)


def test_a_connection_that_is_lost_meanwhile_is_no_cancellation() -> None:
    late = Late()
    late.web.replicated = False
    reply = late.session.call("put", {"key": "z", "value": "9"}, web=late.web)
    load = a_look(late, reply)
    reply.disconnect()
    assert (reply.exchange.closed, late.web.server.requests) == (False, 1)
    late.web.server.complete(load.ticket, [None], late.web.now)
    late.web.settle()
    assert (late.web.store["z"], reply.start, late.web.server.requests) == ("9", None, 0)


def test_the_end_of_the_server_meanwhile_is_the_end_of_a_stream() -> None:
    late = Late(Limits(open_streams=1))
    late.web.replicated = False
    stream = late.session.get(web=late.web)
    assert late.session.get(web=late.web).status == 503, "it counts as a stream"
    load = a_look(late, stream)
    late.web.shut_down()
    late.web.server.complete(load.ticket, [None], late.web.now)
    late.web.settle()
    assert stream.is_stream and stream.ended


def test_what_comes_before_and_behind_the_record() -> None:
    late = Late()
    late.web.replicated = False
    reply = late.session.call("job", web=late.web)
    load = a_look(late, reply)
    exchange = reply.exchange
    exchange.complete(1, DONE, 0.0)
    exchange.tell(1, HangUp(), 0.0)
    exchange.publish(ListChanged("tools"), 0.0)
    exchange.note_task("tk")
    assert exchange.take_commands() == [] and exchange.next_deadline() == late.web.now + 30.0
    late.web.server.complete(load.ticket, [None], late.web.now)
    late.web.settle()
    late.web.pass_time(15.0)
    late.web.shut_down()
    reply.disconnect()
    reply.complete(1, DONE)
    assert reply.exchange.closed


@pytest.mark.parametrize("payload", [None, b"", b"\xff", b"\x91\xa4loud", b"\x92\xa5debug\x91\xa1\xff"])
def test_a_record_of_another_version_is_that_of_a_new_session(payload: bytes | None) -> None:
    assert read_record(payload) == SessionRecord()


def test_a_session_that_expires_meanwhile_is_404() -> None:
    late = Late(Limits(session_lifetime=20.0))
    late.web.replicated = False
    reply = late.session.ask("ping", web=late.web)
    load = a_look(late, reply)
    late.web.now += 20.0
    late.web.server.complete(load.ticket, [None], late.web.now)
    late.web.settle()
    assert reply.status == 404
    shared = Shared(late.web.service.sealer, "x")
    assert shared.take_commands() == []


def test_one_process_alone_asks_nobody() -> None:
    web = Web()
    assert Session(web, PRIMED).ask("ping").code() == (200, None) and web.server.take_records() == []
