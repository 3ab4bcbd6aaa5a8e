"""The fast lane begins what the general machine would have begun, and nothing else.

Property: a session that is fed its messages as lines of one chunk, and one that is fed them one by one past the
fast lane, give the same commands and the same answers, whatever the messages are.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given, strategies as st
from msgspec import Struct

from kvmcp.core.catalog import Catalog
from kvmcp.core.commands import BatchFailed, Command, RunBatch
from kvmcp.core.connection import ServerConnection
from kvmcp.core.framing import Oversized
from kvmcp.core.limits import Limits
from kvmcp.core.plan import Answer, AskBackend, Caller, Context, Plan
from kvmcp.core.session import ServerSession
from kvmcp.core.wire.common import ToolResult
from tests.core.fixture_catalog import fixture_catalog, run_op
from tests.core.harness import (
    CLIENT_INFO,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    LEGACY,
    MODERN,
    REVISIONS,
    Json,
    Server,
    a_service,
    call,
    codes,
    envelope,
    ids,
    text_of,
    to_line,
)

LIMITS = Limits(message_bytes=4000, nesting_depth=16, id_bytes=20)
META = envelope()


def line(message: Json) -> bytes:
    return to_line(message).removesuffix(b"\n")


def a_call(id: Json, tool: str, arguments: Json = None, **more: Json) -> Json:
    return {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": call(tool, arguments, **more)}


def opening(revision: str) -> list[bytes]:
    """What is said before, so that the era of a call is known."""
    if revision == MODERN:
        return [line(a_call(9000, "get", {"key": "a"}, _meta=META))]
    params = {"protocolVersion": revision, "capabilities": {}, "clientInfo": CLIENT_INFO}
    return [line({"jsonrpc": "2.0", "id": 9000, "method": "initialize", "params": params})]


def begun(revision: str, *lines: object) -> int:
    """How many of the lines the fast lane begins, in a conversation of a revision."""
    session = ServerSession(a_service(limits=LIMITS))
    for message in opening(revision):
        session.receive_message(message, 0.0)
    return session.receive_calls(lines, 0, 0.0)


def own(revision: str, **more: Json) -> Json:
    return {"_meta": META, **more} if revision == MODERN else more


# --- what is for the fast lane ---


@pytest.mark.parametrize("revision", REVISIONS)
def test_ordinary_calls_are_begun_here(revision: str) -> None:
    lines = [
        line(a_call(1, "get", {"key": "a"}, **own(revision))),
        line(a_call(2, "put", {"key": "a", "value": "x"}, **own(revision))),
        line(a_call(3, "add", {"number": 1}, **own(revision))),
        line(a_call(4, "raises", **own(revision))),
        line(a_call(5, "job", **own(revision))),
    ]
    assert begun(revision, *lines) == len(lines)


def test_members_may_stand_in_any_order() -> None:
    message = a_call(1, "get", {"key": "a"})
    turned = {name: message[name] for name in reversed(message)}
    assert begun(LEGACY[-1], line(turned)) == 1


DEEP = "[" * 300 + "]" * 300
OTHERS: dict[str, object] = {
    "too long": Oversized(b"{", 5000),
    "no JSON": b'{"jsonrpc":"2.0",',
    "spaces": json.dumps(a_call(1, "get", {"key": "a"})).encode(),
    "another method": line({"jsonrpc": "2.0", "id": 1, "method": "tools/cast", "params": {"name": "get"}}),
    "a notification": line({"jsonrpc": "2.0", "method": "notifications/initialized"}),
    "a member twice": b'{"jsonrpc":"2.0","id":1,"id":2,"method":"tools/call","params":{"name":"add"}}',
    "an id of text": line(a_call("one", "get", {"key": "a"})),
    "a negative id": line(a_call(-1, "get", {"key": "a"})),
    "a long id": line(a_call(10**20, "get", {"key": "a"})),
    "no ASCII": '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"ä"}}'.encode(),
    "too deep": line(a_call(1, "get", {"key": "a"}))[:-3] + b',"more":%b}}}' % DEEP.encode(),
    "no such tool": line(a_call(1, "nothing")),
    "bad arguments": line(a_call(1, "add", {"number": "1"})),
    "params that are no object": b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[1]}',
    "a client's answers": line(a_call(1, "get", {"key": "a"}, inputResponses={})),
    "a progress token": line(a_call(1, "get", {"key": "a"}, _meta={"progressToken": 1})),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_differs_is_left_to_the_general_machine(name: str) -> None:
    ordinary = line(a_call(7, "get", {"key": "a"}))
    assert begun(LEGACY[-1], ordinary, OTHERS[name], ordinary) == 1


def test_a_tool_whose_job_may_become_a_task_is_left_to_the_general_machine() -> None:
    tool = fixture_catalog().tool("job")
    assert tool is not None
    session = ServerSession(a_service(Catalog(msgspec.structs.replace(tool, task_support="optional"))))
    session.receive_message(opening(LEGACY[-1])[0], 0.0)
    assert session.receive_calls([line(a_call(1, "job"))], 0, 0.0) == 0


def test_a_modern_call_with_another_envelope_is_read_by_the_general_machine() -> None:
    other = line(a_call(1, "get", {"key": "a"}, _meta=envelope(log_level="debug")))
    assert begun(MODERN, other) == 0
    assert begun(MODERN, line(a_call(1, "get", {"key": "a"}))) == 0


def test_nothing_is_begun_before_the_era_is_known() -> None:
    session = ServerSession(a_service())
    assert session.receive_calls([line(a_call(1, "get", {"key": "a"}))], 0, 0.0) == 0
    assert session.receive_calls([line(a_call(1, "get", {"key": "a"}, _meta=META))], 0, 0.0) == 0


def test_nothing_is_begun_at_the_end() -> None:
    session = ServerSession(a_service())
    session.receive_message(opening(LEGACY[-1])[0], 0.0)
    session.begin_shutdown(0.0)
    assert session.receive_calls([line(a_call(1, "get", {"key": "a"}))], 0, 0.0) == 0


def test_nothing_is_begun_where_an_id_could_be_too_long() -> None:
    session = ServerSession(a_service(limits=Limits(id_bytes=5)))
    session.receive_message(opening(LEGACY[-1])[0], 0.0)
    assert session.receive_calls([line(a_call(1, "get", {"key": "a"}))], 0, 0.0) == 0


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_call_that_names_its_caller_itself_is_read_by_the_general_machine(revision: str) -> None:
    service = a_service(limits=LIMITS)
    service.caller_of = lambda caller, meta: Caller(namespace="named")
    session = ServerSession(service)
    for message in opening(revision):
        session.receive_message(message, 0.0)
    assert session.receive_calls([line(a_call(1, "get", {"key": "a"}, **own(revision)))], 0, 0.0) == 0


# --- what becomes of them ---


@pytest.mark.parametrize("revision", [LEGACY[-1], MODERN])
def test_each_is_answered_once_and_a_bug_costs_one_call(revision: str) -> None:
    server = Server(revision)
    server.say(server.request("tools/call", call("get", {"key": "a"}), id=1))
    server.replies()
    tools = [("get", {"key": "a"}), ("raises", None), ("raises_later", None), ("get", {"key": "b"})]
    server.say(
        *(server.request("tools/call", call(tool, given), id=id) for id, (tool, given) in enumerate(tools, 2))
    )
    replies = {reply["id"]: reply for reply in server.replies()}
    assert sorted(replies) == [2, 3, 4, 5]
    assert text_of(replies[2]["result"]) == "1" and text_of(replies[5]["result"]) == "2"
    assert [replies[id]["error"]["code"] for id in (3, 4)] == [INTERNAL_ERROR, INTERNAL_ERROR]
    assert [type(report.error) for report in server.reports] == [ZeroDivisionError] * 2


class Unwritable(Struct, frozen=True):
    def resume(self, replies: object, context: Context) -> Plan:
        return Answer(ToolResult(structured=b'{"text":"\xff"}'))


def test_a_result_that_cannot_be_written_costs_its_own_call_only() -> None:
    tool = fixture_catalog().tool("get")
    assert tool is not None
    broken = msgspec.structs.replace(
        tool, name="broken", plan=lambda given, context: AskBackend((), Unwritable())
    )
    server = Server(LEGACY[-1], catalog=Catalog(tool, broken))
    server.say(
        server.request("tools/call", call("broken", {"key": "a"}), id=1),
        server.request("tools/call", call("get", {"key": "a"}), id=2),
    )
    assert codes(server.replies()) == [(1, INTERNAL_ERROR), (2, None)]
    assert [type(report.error) for report in server.reports] == [UnicodeDecodeError]


def test_an_id_in_flight_is_refused_and_may_come_again_afterwards() -> None:
    server = Server(LEGACY[-1], held=True)
    message = server.request("tools/call", call("get", {"key": "a"}), id=1)
    server.say(message, message)
    assert codes(server.replies()) == [(1, INVALID_REQUEST)]
    server.answer_batch()
    assert codes(server.replies()) == [(1, None)]
    server.say(message)
    server.answer_batch()
    assert codes(server.replies()) == [(1, None)]


def test_a_cancelled_call_is_not_answered_and_its_id_is_free() -> None:
    server = Server(LEGACY[-1], held=True)
    message = server.request("tools/call", call("get", {"key": "a"}), id=1)
    server.say(message)
    server.cancel(1)
    server.say(server.request("tools/call", call("get", {"key": "b"}), id=1))
    server.answer_batch()
    assert server.replies() == []
    server.answer_batch()
    [reply] = server.replies()
    assert reply["id"] == 1 and text_of(reply["result"]) == "2"


# --- the property ---


@dataclass
class Side:
    """One of the two sessions: what it was asked to do and what it answered."""

    session: ServerSession
    store: dict[str, str] = field(default_factory=lambda: {"a": "1", "b": "2"})
    commands: list[Command] = field(default_factory=list[Command])
    answers: list[bytes] = field(default_factory=list[bytes])

    def settle(self, fails: bool) -> None:
        while commands := self.session.take_commands():
            for command in commands:
                self.commands.append(command)
                if isinstance(command, RunBatch):
                    replies = [run_op(op, self.store) for op in command.ops]
                    self.session.complete(command.ticket, BatchFailed() if fails else replies, 0.0)
        self.answers += self.session.take_messages()


def both(chunks: Sequence[tuple[Sequence[bytes], bool]]) -> tuple[Side, Side]:
    connection = ServerConnection(a_service(limits=LIMITS))
    fast = Side(connection._session)
    slow = Side(ServerSession(a_service(limits=LIMITS)))
    for messages, fails in chunks:
        connection.receive_data(b"".join(message + b"\n" for message in messages), 0.0)
        for message in messages:
            slow.session.receive_message(message, 0.0)
        fast.settle(fails)
        slow.settle(fails)
    return fast, slow


TOOLS = ["get", "put", "add", "raises", "raises_later", "array", "fails", "refuses", "unwritable"]
GIVEN: list[Json] = [None, {"key": "a"}, {"key": "c", "value": "ä"}, {"number": 1}, {"number": "1"}, {}, []]
calls = st.builds(
    lambda id, tool, given, more: line(a_call(id, tool, given, **more)),
    st.sampled_from([1, 2, 3, 4, 5, "1", "x", -0.5, None, 10**25]),
    st.sampled_from([*TOOLS, "nothing"]),
    st.sampled_from(GIVEN),
    st.sampled_from([{}, {}, {"_meta": META}, {"_meta": {"progressToken": 1}}, {"inputResponses": {}}]),
)
others = st.sampled_from(
    [
        *(message for message in OTHERS.values() if isinstance(message, bytes)),
        line({"jsonrpc": "2.0", "id": 6, "method": "ping"}),
        line({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}),
    ]
)
chunks = st.lists(st.tuples(st.lists(calls | others, max_size=8), st.booleans()), max_size=4)


@given(revision=st.sampled_from([LEGACY[0], LEGACY[-1], MODERN]), chunks=chunks)
def test_it_does_what_the_general_machine_does(revision: str, chunks: list[tuple[list[bytes], bool]]) -> None:
    fast, slow = both([(opening(revision), False), *chunks])
    assert fast.answers == slow.answers
    assert [repr(command) for command in fast.commands] == [repr(command) for command in slow.commands]
    assert fast.store == slow.store


def test_a_tool_that_was_removed_is_unknown_here_too() -> None:
    server = Server(LEGACY[-1])
    tool = server.service.catalog.tool("get")
    assert tool is not None
    server.say(server.request("tools/call", call("get", {"key": "a"}), id=1))
    server.service.catalog.remove(tool)
    server.say(server.request("tools/call", call("get", {"key": "a"}), id=2))
    assert ids([reply for reply in server.replies() if "error" in reply]) == [2]
