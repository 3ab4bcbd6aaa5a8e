"""Several processes that serve the same sessions: each request of a conversation may reach any of them."""

from collections.abc import Callable

from hypothesis import given, strategies as st

from kvmcp.core.commands import Ask, WorkDone
from kvmcp.core.http.relays import Follow, Relay, Told, Written, encode
from kvmcp.core.subscriptions import ListChanged, ResourceUpdated
from kvmcp.core.wire.common import ElicitForm, TextContent, ToolResult
from tests.core.fixture_catalog import FORM
from tests.core.harness import accepted
from tests.core.http.harness import Json, Reply, Session, Web
from tests.core.http.replicas import Replicas

DONE = WorkDone(ToolResult((TextContent("done"),)))


def test_an_answer_finds_the_process_that_asked() -> None:
    both = Replicas()
    session = Session(both.webs[0], "2025-11-25")
    reply = session.call("delete", {"key": "a"})
    asked = reply.message()
    both.at(1, lambda web: session.answer(asked, accepted(yes=True), web))
    assert reply.ended and "a" not in both.webs[0].store
    refused = session.call("delete", {"key": "b"})
    error = {"jsonrpc": "2.0", "id": refused.message()["id"], "error": {"code": -1, "message": "no"}}
    both.at(1, lambda web: session.post(error, web))
    assert refused.message()["result"]["isError"] is True


def test_an_answer_that_nobody_waits_for_does_nothing() -> None:
    both = Replicas()
    session = Session(both.webs[0], "2025-11-25")
    both.at(1, lambda web: session.answer({"id": "x"}, accepted(), web))
    assert all(web.server.take_relays() == [] for web in both.webs)


def test_a_cancellation_finds_its_call() -> None:
    both = Replicas()
    session = Session(both.webs[0], "2025-11-25")
    reply = session.call("job", id="c")
    both.at(
        1,
        lambda web: session.post(
            {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "c"}}, web
        ),
    )
    assert reply.stopped == [1] and reply.ended


def test_wishes_and_ends_are_known_everywhere() -> None:
    both = Replicas()
    session = Session(both.webs[0], "2025-11-25")
    both.at(0, lambda web: session.ask("resources/subscribe", {"uri": "kv://config"}, web=web))
    stream = both.at(1, lambda web: session.get(web=web))
    both.webs[1].publish(ResourceUpdated("kv://config"))
    assert stream.message()["method"] == "notifications/resources/updated"
    both.at(0, lambda web: session.ask("resources/unsubscribe", {"uri": "kv://config"}, web=web))
    both.webs[1].publish(ResourceUpdated("kv://config"))
    assert stream.messages() == []
    both.at(0, lambda web: session.delete(web))
    assert stream.ended and session.ask("ping", web=both.webs[1]).status == 404


def test_nothing_is_relayed_where_there_is_nobody() -> None:
    web = Web()
    session = Session(web, "2025-11-25")
    session.ask("logging/setLevel", {"level": "debug"})
    session.answer({"id": "x"}, {})
    session.delete()
    assert web.server.take_relays() == []


def test_relays_that_make_no_sense_do_nothing() -> None:
    web = Web(replicated=True)
    session = Session(web, "2025-11-25")
    session.delete()
    live = Session(web, "2025-11-25")
    call = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"put","arguments":{"key":"x","value":"y"}}}'
    answer = b'{"jsonrpc":"2.0","id":1,"result":{}}'
    stranger = Session(Web(), "2025-11-25").id
    nonsense: list[Relay] = [Told(live.id, text) for text in (b"{", b"[]", b"5", call)]
    nonsense += [Told("x", b""), Told(session.id, b""), Told(stranger, answer)]
    for relay in (
        *nonsense,
        Follow(live.id, "p1", 0),
        Follow("x", "p1", 0, anew=True),
        Written(live.id, "p1", [], 0),
    ):
        web.server.receive_relay(encode(web.service.sealer, "another", relay), web.now)
        web.settle()
    for junk in (b"", b'"', b'""', b'"\xff"', b'"x"', b'"r1.e30.x"'):
        web.server.receive_relay(junk, web.now)
    assert web.server.sessions == 1, (
        "a relay about a session that is unknown here is no reason to remember it"
    )
    assert "x" not in web.store
    assert live.ask("ping").status == 200


def test_a_listed_change_is_told_by_the_process_that_has_the_stream() -> None:
    both = Replicas()
    session = Session(both.webs[0], "2025-11-25")
    stream = session.get(web=both.webs[1])
    for web in both.webs:
        web.publish(ListChanged("tools"))
    assert len(stream.messages()) == 1


@given(
    st.lists(st.integers(0, 2), min_size=9, max_size=9),
    st.sampled_from(["2025-03-26", "2025-06-18", "2025-11-25"]),
)
def test_a_conversation_is_the_same_wherever_its_requests_go(route: list[int], revision: str) -> None:
    replicas = Replicas(3)
    turns = iter(route)
    session = Session(replicas.webs[next(turns)], revision)

    def send(act: Callable[[Web], Reply]) -> Reply:
        return replicas.at(next(turns), act)

    assert send(lambda web: session.call("put", {"key": "k", "value": "v"}, web=web)).code() == (200, None)
    got = send(lambda web: session.call("get", {"key": "k"}, web=web)).message()["result"]
    assert got["content"][0]["text"] == "v"
    if revision == "2025-03-26":  # It knows no elicitation.
        return
    job = send(lambda web: session.call("job", web=web))
    job.tell(Ask({"sure": ElicitForm("Sure?", FORM)}))
    asked: Json = job.message()
    assert send(lambda web: session.answer(asked, accepted(yes=True), web)).status == 202
    assert len(job.answered) == 1
    job.complete(1, DONE)
    assert "result" in job.message() and job.ended
    removal = send(lambda web: session.call("delete", {"key": "k"}, web=web))
    question = removal.message()
    send(lambda web: session.answer(question, accepted(yes=True), web))
    assert removal.ended and "k" not in replicas.webs[0].store
    assert send(lambda web: session.delete(web)).status == 204
    assert send(lambda web: session.ask("ping", web=web)).status == 404
