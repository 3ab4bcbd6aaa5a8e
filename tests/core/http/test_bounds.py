"""What hostile peers can make one process hold: each table by its name."""

import json

import pytest

from kvmcp.core.commands import Log
from kvmcp.core.http.exchange import HttpExchange
from kvmcp.core.http.messages import Request, ResponseStart
from kvmcp.core.http.streams import MemoryEventStore
from kvmcp.core.limits import Limits
from kvmcp.core.subscriptions import ListChanged, ResourceUpdated
from tests.core.http.harness import JSON_HEADERS, Session, Web
from tests.core.http.replicas import Replicas

PRIMED = "2025-11-25"
POST = Request("POST", [(name.encode(), value.encode()) for name, value in JSON_HEADERS.items()])


def status(exchange: HttpExchange) -> int:
    start, _ = exchange.take_parts()
    assert isinstance(start, ResponseStart)
    return start.status


# --- bodies ---


def test_bodies_that_never_end_hold_only_so_much() -> None:
    web = Web(limits=Limits(arriving_bytes=1000))
    first, second = (web.server.open(POST, web.caller, web.now) for _ in range(2))
    first.receive_body(b" " * 600, web.now)
    second.receive_body(b" " * 400, web.now)
    second.receive_body(b" ", web.now)
    assert status(second) == 503 and second.closed
    second.receive_body(b" " * 1000, web.now)
    first.receive_body(b" " * 400, web.now)
    first.disconnected(web.now)
    third = web.server.open(POST, web.caller, web.now)
    third.receive_body(b" " * 1000, web.now)
    assert third.wants_input, "what was given up makes room"
    third.end_of_body(web.now)
    assert web.call("get", {"key": "a"}).code() == (200, None)


# --- sessions ---


def watch(session: Session, *names: str) -> None:
    for name in names:
        assert session.ask("resources/subscribe", {"uri": f"kv://keys/{name}"}).code() == (200, None)


def test_sessions_watch_only_so_much_together_and_who_watches_most_goes() -> None:
    web = Web(limits=Limits(watched_resources=5))
    modest, greedy = Session(web, PRIMED), Session(web, PRIMED)
    watch(modest, "a")
    stream = greedy.get()
    watch(greedy, "a", "b", "c", "d")
    assert (stream.ended, web.server.sessions) == (False, 2)
    watch(greedy, "e")
    assert (stream.ended, greedy.ask("ping").status, modest.ask("ping").status) == (True, 404, 200)
    late = modest.get()
    web.publish(ResourceUpdated("kv://keys/a"))
    assert len(late.messages()) == 1


def test_a_change_is_told_to_those_who_want_it_and_nobody_else_is_looked_at() -> None:
    web = Web()
    sessions = [Session(web, PRIMED) for _ in range(3)]
    watch(sessions[1], "a")
    streams = [session.get() for session in sessions]
    web.server.publish(ResourceUpdated("kv://keys/a"), web.now)
    assert web.server.take_woken() == [streams[1].exchange]
    sessions[1].ask("resources/unsubscribe", {"uri": "kv://keys/a"})
    web.server.publish(ResourceUpdated("kv://keys/a"), web.now)
    assert web.server.take_woken() == []
    sessions[2].delete()
    web.server.publish(ListChanged("tools"), web.now)
    assert web.server.take_woken() == [streams[0].exchange, streams[1].exchange]


def test_what_is_watched_is_forgotten_with_its_session() -> None:
    web = Web(limits=Limits(watched_resources=2, session_idle=10.0))
    for _ in range(3):
        session = Session(web, PRIMED)
        watch(session, "a", "b")
        web.pass_time(10.0)
        assert web.server.sessions == 0
    session = Session(web, PRIMED)
    watch(session, "a", "b")
    assert session.ask("ping").status == 200


def test_a_batch_that_subscribes_is_heard_of_changes() -> None:
    session = Session(Web(), "2025-03-26")
    params = {"uri": "kv://keys/a"}
    session.post([{"jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": params}])
    stream = session.get()
    session.web.publish(ResourceUpdated("kv://keys/a"))
    assert len(stream.messages()) == 1


def test_a_batch_that_watches_too_much_ends_its_session_and_leaves_nothing_behind() -> None:
    web = Web(limits=Limits(watched_resources=1))
    session = Session(web, "2025-03-26")
    session.post(
        [
            {
                "jsonrpc": "2.0",
                "id": name,
                "method": "resources/subscribe",
                "params": {"uri": f"kv://keys/{name}"},
            }
            for name in "abc"
        ]
    )
    assert web.server.sessions == 0 and session.ask("ping").status == 404
    other = Session(web, PRIMED)
    watch(other, "a")
    assert other.ask("ping").status == 200


def test_answers_and_cancellations_of_elsewhere_are_no_reason_to_remember_a_session() -> None:
    both = Replicas()
    session = Session(both.webs[0], PRIMED)
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5}}
    both.at(0, lambda web: session.answer({"id": "x"}, {}, web))
    both.at(0, lambda web: session.post(cancelled, web))
    assert both.webs[1].server.sessions == 0


def test_what_was_found_here_is_not_told_elsewhere() -> None:
    web = Web(replicated=True)
    session = Session(web, PRIMED)
    call = session.call("job", id="c")
    session.say("notifications/cancelled", requestId="c")
    session.say("notifications/cancelled", requestId=None)
    session.post({"jsonrpc": "2.0", "error": {"code": 1, "message": ""}})
    session.say("notifications/anything")
    assert call.ended and web.server.take_relays() == []
    session.say("notifications/cancelled", requestId="c")
    assert len(web.server.take_relays()) == 1


# --- what is rendered ---


def test_a_batch_asks_for_only_so_much() -> None:
    session = Session(Web(limits=Limits(output_bytes=2000)), "2025-03-26")
    batch = [{"jsonrpc": "2.0", "id": id, "method": "tools/list"} for id in range(50)] + [{"jsonrpc": "2.0"}]
    reply = session.post(batch)
    answered = reply.messages()
    assert len(answered) == 50 and "result" in answered[0]
    assert answered[-1]["error"]["code"] == -32600 and len(reply.body) < 20_000


# --- events ---


def test_one_session_keeps_only_so_many_streams() -> None:
    store = MemoryEventStore(Limits(stored_session_streams=2))
    store.keep("other", "p0", 1, b"x", 0.0)
    for number in range(5):
        store.keep("s", f"p{number}", 1, b"x", 0.0)
        store.begin("s", f"q{number}", 0.0)
    assert store.after("s", "p4", 0, 0.0) is not None and store.after("s", "q4", 0, 0.0) is not None
    assert store.after("s", "p3", 0, 0.0) is None and store.after("other", "p0", 0, 0.0) is not None
    store.forget("s")
    store.forget("s")
    assert store.size == 1


@pytest.mark.parametrize("events", [0, 1])
def test_few_events_or_none_may_be_kept(events: int) -> None:
    store = MemoryEventStore(Limits(stored_events=events))
    for number in (1, 2):
        store.keep("s", "p", number, b"xx", 0.0)
    assert store.size == 2 * events


def test_a_client_that_claims_to_have_seen_the_future_hears_what_comes() -> None:
    session = Session(Web(), PRIMED)
    reply = session.call("job")
    reply.tell(Log("error", b"1"))
    stream = reply.events()[0]["id"].rpartition("-")[0]
    back = session.get(f"{stream}-999999")
    assert back.events()[0]["id"] == f"{stream}-1"
    reply.tell(Log("error", b"2"))
    assert back.message()["params"]["data"] == 2


def test_a_get_stream_whose_session_was_forgotten_goes_on() -> None:
    web = Web(limits=Limits(session_idle=10.0))
    session = Session(web, PRIMED)
    stream = session.get()
    web.publish(ListChanged("tools"))
    known = stream.events()[0]["id"]
    stream.disconnect()
    web.pass_time(10.0)
    assert web.server.sessions == 0
    back = session.get(known)
    assert back.message()["method"] == "notifications/tools/list_changed" and not back.ended
    web.publish(ListChanged("prompts"))
    assert back.message()["method"] == "notifications/prompts/list_changed"
    assert back.events()[-1]["id"] != known


# --- headers ---


@pytest.mark.parametrize(
    "body", [{"jsonrpc": "2.0", "id": 1, "method": "ping"}, {"jsonrpc": "2.0", "method": "x"}]
)
def test_a_version_that_stands_twice_is_believed_by_nobody(body: dict[str, object]) -> None:
    web = Web()
    session = Session(web, PRIMED)
    fields = [(name.encode(), value.encode()) for name, value in session.headers.items()]
    fields.append((b"mcp-protocol-version", b"2026-07-28"))
    assert web.request("POST", fields, json.dumps(body).encode()).code() == (400, -32020)
