"""A POST's stream that was broken off is resumed on another process, whether its call still runs or not."""

import pytest
from hypothesis import given, strategies as st

from kvmcp.core.commands import Ask, HangUp, Progress, WorkDone
from kvmcp.core.http.relays import Follow, Written, encode
from kvmcp.core.http.shared import FIRST_TICKET, LoadRecords, Shared
from kvmcp.core.http.shared_events import event_key, head_key, read_head
from kvmcp.core.http.streams import MemoryEventStore
from kvmcp.core.limits import Limits
from kvmcp.core.subscriptions import ListChanged, ResourceUpdated
from kvmcp.core.wire.common import ElicitForm, TextContent, ToolResult
from tests.core.fixture_catalog import FORM
from tests.core.harness import accepted
from tests.core.http.harness import Reply, Session, Web
from tests.core.http.replicas import Replicas

DONE = WorkDone(ToolResult((TextContent("done"),)))
PRIMED, UNPRIMED = "2025-11-25", "2025-06-18"


class Broken:
    """A call at the first process that has told of progress 1 and 2, and whose client knows of the first event."""

    def __init__(self, revision: str = PRIMED, limits: Limits | None = None) -> None:
        self.all = Replicas(3, limits)
        self.session = Session(self.all.webs[0], revision)
        params = {"name": "job", "_meta": {"progressToken": 1}}
        self.reply = self.session.ask("tools/call", params)
        self.tell(1, 2)
        self.seen = self.reply.events()[-2]["id"]
        self.stream = self.seen.rpartition("-")[0]
        self.progress = 2

    def tell(self, *progress: int) -> None:
        self.reply.tell(*map(Progress, progress))
        self.all.settle()

    def finish(self) -> None:
        self.reply.complete(1, DONE)
        self.all.settle()

    def resume(self, index: int = 1, seen: str | None = None) -> Reply:
        back = self.all.at(index, lambda web: self.session.get(seen or self.seen, web))
        back.asked = {"1": "tools/call"}
        return back


def progress(reply: Reply) -> list[float]:
    return [one["params"]["progress"] for one in reply.messages() if one.get("method")]


@pytest.mark.parametrize("revision", [UNPRIMED, PRIMED])
@pytest.mark.parametrize("lossy", [False, True])
def test_a_stream_that_still_runs_goes_on_at_another_process(revision: str, lossy: bool) -> None:
    broken = Broken(revision)
    broken.reply.disconnect()
    broken.tell(3)
    broken.all.lossy = lossy
    back = broken.resume()
    assert back.is_stream and progress(back) == [2, 3]
    assert ("retry" in back.events()[0]) == (revision == PRIMED)
    broken.tell(4)
    assert progress(back) == ([] if lossy else [4])
    broken.finish()
    assert back.ended != lossy
    if lossy:
        broken.all.pass_time(15.0)
    messages = back.messages()
    assert "result" in messages[-1] and back.ended and back.exchange.closed
    numbers = [event["id"].rpartition("-")[2] for event in back.events()]
    assert numbers[-4:] == ["2", "3", "4", "5"] and broken.all.webs[1].server.requests == 0


def test_a_stream_that_has_ended_is_replayed_elsewhere_although_its_process_is_gone() -> None:
    broken = Broken()
    broken.reply.disconnect()
    broken.finish()
    del broken.all.webs[0]
    back = broken.resume(0)
    assert len(back.messages()) == 2 and back.ended


def test_a_stream_without_events_goes_on_elsewhere() -> None:
    both = Replicas()
    session = Session(both.webs[0], PRIMED)
    reply = session.call("job")
    reply.tell(HangUp())
    both.settle()
    assert reply.ended
    back = both.at(1, lambda web: session.get(reply.events()[0]["id"], web))
    back.asked = {"1": "tools/call"}
    assert (back.is_stream, back.ended, back.messages()) == (True, False, [])
    reply.complete(1, DONE)
    both.settle()
    assert "result" in back.message() and back.ended


def test_the_client_is_asked_and_answers_wherever_it_is() -> None:
    broken = Broken()
    broken.reply.disconnect()
    back = broken.resume()
    broken.reply.tell(Ask({"sure": ElicitForm("Sure?", FORM)}))
    broken.all.settle()
    asked = back.messages()[-1]
    broken.all.at(2, lambda web: broken.session.answer(asked, accepted(yes=True), web))
    assert len(broken.reply.answered) == 1


def test_a_client_that_comes_back_early_takes_its_stream_with_it() -> None:
    broken = Broken()
    back = broken.resume(1)
    assert broken.reply.ended, "its old connection is given up"
    assert broken.all.webs[0].server.requests == 1
    again = broken.resume(2)
    assert (back.ended, back.exchange.closed, again.ended) == (True, True, False)
    third = broken.resume(2)
    assert (again.ended, third.ended) == (True, False)
    home = broken.resume(0)
    broken.tell(3)
    assert progress(home) == [2, 3]
    broken.all.pass_time(15.0)
    assert not home.ended, "who only looks whether there is more takes nothing away"


def test_what_is_not_there_is_looked_for_twice() -> None:
    both = Replicas()
    session = Session(both.webs[0], PRIMED)
    back = both.at(1, lambda web: session.get("pnothing-1", web))
    assert back.waits
    both.pass_time(1.0)
    assert back.code() == (400, -32600) and back.exchange.closed


def test_a_record_that_is_on_its_way_is_waited_for() -> None:
    broken = Broken()
    broken.reply.disconnect()
    late = dict(broken.all.records)
    broken.all.records.clear()
    broken.all.lossy = True
    back = broken.resume()
    assert back.waits
    broken.all.records.update(late)
    broken.all.pass_time(1.0)
    assert progress(back) == [2]


def test_what_the_owner_tells_serves_where_records_are_missing() -> None:
    broken = Broken()
    broken.reply.disconnect()
    broken.all.records.clear()
    back = broken.resume()
    assert progress(back) == [2]
    for _ in range(3):
        broken.all.records.clear()
        broken.all.pass_time(1.0)
    broken.tell(3)
    assert progress(back) == [3] and not back.ended
    broken.finish()
    assert "result" in back.message() and back.ended


def test_records_that_cannot_be_read_are_503_or_waited_for() -> None:
    broken = Broken()
    broken.reply.disconnect()
    broken.all.lossy = True
    broken.all.webs[1].records_work = False
    assert broken.resume().code() == (503, -32600)
    broken.all.webs[1].records_work = True
    back = broken.resume()
    assert progress(back) == [2]
    broken.all.webs[1].records_work = False
    broken.all.pass_time(15.0)
    assert not back.ended and back.body.endswith(b": keep-alive\n\n")


def test_a_stream_whose_process_has_vanished_ends() -> None:
    broken = Broken(limits=Limits(keep_alive=10.0))
    broken.reply.disconnect()
    back = broken.resume()
    vanished = broken.all.webs.pop(0)
    for key in [key for key in broken.all.records if key.startswith("e.")]:
        del broken.all.records[key]  # As their time has passed, and nobody renews them.
    broken.all.pass_time(10.0)
    assert (back.ended, back.exchange.closed) == (False, False)
    broken.all.pass_time(1.0)
    assert (back.ended, back.exchange.closed) == (True, True)
    assert vanished.server.requests == 1


def test_a_stream_that_says_nothing_is_renewed_while_it_runs() -> None:
    broken = Broken(limits=Limits(stored_seconds=30.0, keep_alive=100.0))
    broken.reply.disconnect()
    web = broken.all.webs[0]
    for _ in range(10):
        web.kept.clear()
        broken.all.pass_time(10.0)
        assert [command.seconds for command in web.kept] == [30.0]
    assert progress(broken.resume()) == [2]
    broken.finish()
    assert broken.reply.exchange.next_deadline() is None


def test_what_was_dropped_here_is_dropped_in_common() -> None:
    broken = Broken(limits=Limits(stored_events=2))
    broken.tell(3, 4, 5)
    events = [key for key in broken.all.records if key.startswith("e.")]
    assert len(events) == 3, "a head and two events"
    broken.reply.disconnect()
    assert progress(broken.resume()) == [4, 5]
    assert broken.all.at(0, lambda web: broken.session.delete(web)).status == 204
    assert [key for key in broken.all.records if key.startswith("e.")] == []


def test_much_is_fetched_page_by_page_and_no_more_than_the_client_reads() -> None:
    broken = Broken(limits=Limits(log_messages=1000))
    broken.tell(*range(3, 60))
    broken.reply.disconnect()
    broken.all.lossy = True
    back = broken.resume()
    assert progress(back) == list(range(2, 60))
    broken.all.lossy = False
    back = broken.resume(2)
    back.reads = False
    for number in range(60, 400):
        broken.tell(number)
    back.reads = True
    back.drive()
    broken.all.settle()
    assert progress(back) == list(range(2, 400))


def test_a_reader_that_has_left_is_told_nothing() -> None:
    broken = Broken()
    broken.reply.disconnect()
    back = broken.resume()
    body = back.body
    back.disconnect()
    back.exchange.disconnected(0.0)
    broken.tell(3)
    assert back.body == body and back.exchange.closed and back.exchange.take_parts() == []
    assert broken.all.webs[1].server.requests == 0


def test_a_reader_that_leaves_before_it_was_found_is_forgotten() -> None:
    both = Replicas()
    session = Session(both.webs[0], PRIMED)
    web = both.webs[1]
    session.ask("ping", web=web)
    web.replicated = False  # Its commands are taken by hand.
    back = session.get("pnothing-1", web)
    [load] = [command for command in web.server.take_records() if isinstance(command, LoadRecords)]
    back.disconnect()
    web.server.complete(load.ticket, [None] * len(load.keys), web.now)
    assert back.start is None and back.exchange.closed


def test_one_look_at_a_time() -> None:
    both = Replicas()
    session = Session(both.webs[0], PRIMED)
    web = both.webs[1]
    session.ask("ping", web=web)
    web.replicated = False
    back = session.get("pnothing-1", web)
    back.exchange.handle_timeout(web.now + 1.0)
    for _ in range(2):
        web.pass_time(15.0)
    loads = [command for command in web.server.take_records() if isinstance(command, LoadRecords)]
    assert len(loads) == 1 and back.waits


def test_a_store_of_events_that_is_this_process_own_serves_nobody_else() -> None:
    web = Web(replicated=True, events=MemoryEventStore(Limits()))
    session = Session(web, PRIMED)
    reply = session.call("job")
    reply.tell(HangUp())
    wanted = Follow(session.id, reply.events()[0]["id"].rpartition("-")[0], 0, anew=True)
    web.server.take_relays()
    web.server.receive_relay(encode(web.service.sealer, "x", wanted), web.now)
    assert web.server.take_relays() == []


def test_the_end_of_the_server_ends_what_it_reads() -> None:
    broken = Broken()
    broken.reply.disconnect()
    back = broken.resume()
    broken.all.webs[1].shut_down()
    assert back.ended and broken.all.webs[1].server.requests == 0
    both = Replicas()
    session = Session(both.webs[0], PRIMED)
    web = both.webs[1]
    waiting = session.get("pnothing-1", web)
    web.shut_down()
    assert waiting.ended and waiting.exchange.next_deadline() is None


def test_a_remote_stream_has_nothing_to_do_with_work_and_changes() -> None:
    broken = Broken()
    broken.reply.disconnect()
    broken.session.ask(
        "ping", web=broken.all.webs[1]
    )  # So that nothing about the session is still to be read.
    exchange = broken.resume().exchange
    exchange.complete(1, DONE, 0.0)
    exchange.tell(1, HangUp(), 0.0)
    exchange.publish(ListChanged("tools"), 0.0)
    exchange.note_task("tk")
    assert exchange.take_commands() == [] and not exchange.wants_turn and not exchange.closed


def test_another_sessions_stream_is_not_to_be_had_elsewhere_either() -> None:
    broken = Broken()
    other = Session(broken.all.webs[0], PRIMED)
    back = broken.all.at(1, lambda web: other.get(broken.seen, web))
    broken.all.pass_time(1.0)
    assert back.code() == (400, -32600)


def test_records_of_somebody_else_are_as_good_as_nothing() -> None:
    broken = Broken()
    broken.reply.disconnect()
    broken.all.lossy = True
    head = head_key(broken.session.id, broken.stream)
    event = event_key(broken.session.id, broken.stream, 2)
    good = broken.all.records[head]
    for forged in (b"5", b'"x"', b'"\xff"', broken.all.records[event], good[:-2] + b'x"'):
        broken.all.records[head] = forged
        back = broken.resume()
        broken.all.pass_time(1.0)
        assert back.status == 400
    broken.all.records[head] = good
    broken.all.records[event] = b'"forged"'
    assert progress(broken.resume()) == []
    assert read_head(b"\xff") is None


def test_a_head_of_another_version_is_none() -> None:
    broken = Broken()
    broken.reply.disconnect()
    broken.all.lossy = True
    web = broken.all.webs[0]
    shared = Shared(web.service.sealer, "x")
    shared.keep(head_key(broken.session.id, broken.stream), b"\xff", 1.0)
    [kept] = shared.take_commands()
    broken.all.records[head_key(broken.session.id, broken.stream)] = kept.value  # type: ignore[union-attr]  # the one
    back = broken.resume()
    broken.all.pass_time(1.0)
    assert back.status == 400


def test_what_was_told_twice_or_too_early_goes_out_once_and_in_order() -> None:
    broken = Broken()
    broken.reply.disconnect()
    back = broken.resume()
    web = broken.all.webs[1]
    sealer = web.service.sealer
    later = Written(broken.session.id, broken.stream, [(9, b"{}"), (2, b"{}")], 2)
    web.server.receive_relay(encode(sealer, "x", later), web.now)
    web.settle()
    assert progress(back) == [2]


def test_a_get_stream_begins_anew_elsewhere_and_nothing_is_missed() -> None:
    both = Replicas()
    session = Session(both.webs[0], PRIMED)
    both.at(0, lambda web: session.ask("resources/subscribe", {"uri": "kv://config"}, web=web))
    known = session.get().events()[0]["id"]
    back = both.at(1, lambda web: session.get(known, web))
    heard = [one["method"] for one in back.messages()]
    assert "notifications/resources/updated" in heard and "notifications/tools/list_changed" in heard
    both.webs[1].publish(ResourceUpdated("kv://config"))
    assert len(back.messages()) == 1


@given(st.lists(st.sampled_from(["tell", "away", "back", "lose", "heal", "time"]), max_size=14), st.data())
def test_whatever_happens_the_client_reads_every_event_once_and_in_order(
    steps: list[str], data: st.DataObject
) -> None:
    """Wherever it comes back, as long as records are kept and it takes up where it was."""
    broken = Broken()
    reader, heard, told = broken.reply, [1.0, 2.0], 2
    broken.reply.messages()

    def read() -> None:
        heard.extend(progress(reader))

    for step in steps:
        if step == "tell":
            told += 1
            broken.tell(told)
        elif step == "away":
            reader.disconnect()
        elif step in ("lose", "heal"):
            broken.all.lossy = step == "lose"
        elif step == "time":
            broken.all.pass_time(15.0)
        else:
            read()
            last = f"{broken.stream}-{len(heard)}"
            reader = broken.resume(data.draw(st.integers(0, 2)), last)
        read()
    read()
    reader = broken.resume(1, f"{broken.stream}-{len(heard)}")
    broken.all.lossy = False
    broken.reply.complete(1, DONE)
    broken.all.settle()
    broken.all.pass_time(15.0)
    reader.asked = {"1": "tools/call"}
    messages = reader.messages()
    heard += [one["params"]["progress"] for one in messages[:-1]]
    assert heard == [float(number) for number in range(1, told + 1)]
    assert "result" in messages[-1] and reader.ended


def test_tickets_of_loads_are_apart() -> None:
    assert FIRST_TICKET > 1 << 40
