"""The short way of a call is the general one, seen from outside: whatever is sent, and whatever happens meanwhile.

A second `Accept` line says nothing new, but a head with one is looked at header by header: so does `Detour` send
every request the general way, and what comes of it is compared.
"""

import json
from typing import Final

import pytest
from hypothesis import given, strategies as st
from msgspec import Raw, Struct

from kvmcp.core.catalog import Catalog
from kvmcp.core.commands import BatchFailed, HangUp, RunBatch, WorkDone
from kvmcp.core.errors import INVALID_PARAMS, LocalProtocolError, RpcError
from kvmcp.core.http import heads, plain_calls
from kvmcp.core.http.exchange import HttpExchange
from kvmcp.core.http.guard import PASSED, Guard, Turned
from kvmcp.core.http.heads import Heads
from kvmcp.core.http.messages import BodyPart, Request, ResponseStart
from kvmcp.core.items import Tool
from kvmcp.core.limits import Limits
from kvmcp.core.plan import AskBackend, Caller, Context, Plan
from kvmcp.core.service import Service
from kvmcp.core.subscriptions import ListChanged
from kvmcp.core.wire.common import TextContent, ToolResult
from tests.core.fixture_catalog import Get, Nothing, ShowValue, arguments, fixture_catalog
from tests.core.harness import META, Json, a_service, call, envelope
from tests.core.http.harness import JSON_HEADERS, Reply, Session, Web, modern_headers

DONE: Final = WorkDone(ToolResult((TextContent("done"),)))
LEGACY: Final = ("2025-03-26", "2025-06-18", "2025-11-25")
MODERN: Final = "2026-07-28"


class Detour(Web):
    """No head is plain here."""

    def request(self, verb: str, headers: Json, body: bytes = b"", **more: Json) -> Reply:
        fields = (
            headers if isinstance(headers, list) else [(k.encode(), v.encode()) for k, v in headers.items()]
        )
        return super().request(verb, [*fields, (b"Accept", b"text/html")], body, **more)


class AskAgain(Struct, frozen=True):
    """Plans the same once more, `times` times."""

    times: int

    def resume(self, replies: object, context: Context) -> Plan:
        return AskBackend((Get("a"),), AskAgain(self.times - 1) if self.times else ShowValue(), writes=True)


def _again(given: object, context: Context) -> Plan:
    return AskBackend((Get("a"), Get("b")), AskAgain(1))


def _catalog() -> Catalog:
    catalog = fixture_catalog()
    catalog.add(Tool(name="again", arguments=arguments(Nothing), plan=_again))
    return catalog


class Client:
    """One client of one server, which asks for one call and looks at what comes of it."""

    def __init__(self, web: Web, revision: str) -> None:
        self.web = web
        self.session = None if revision == MODERN else Session(web, revision)
        if self.session is not None:
            self.session.ask("ping")  # From now on its session is known here.
        self.reply: Reply
        self.left = False

    def ask(self, params: Json) -> None:
        if self.session is not None:
            self.reply = self.session.ask("tools/call", params, id=7)
        else:
            name = str(params["name"]) if "name" in params else None
            self.reply = self.web.ask("tools/call", params, id=7, Mcp_Name=name)

    def step(self, name: str) -> None:
        """Something happens."""
        reply, web = self.reply, self.web
        match name:
            case "replies" if reply.batches:
                reply.answer_batch()
            case "store fails" if reply.batches:
                reply.complete(reply.batches.pop(0).ticket, BatchFailed())
            case "leave" if not self.left and not reply.exchange.closed:
                self.left = True
                reply.disconnect()
            case "cancel" if self.session is not None:
                params = {"requestId": 7}
                self.session.post({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})
            case "silence":
                web.pass_time(16.0)
            case "too late":
                web.pass_time(31.0)
            case "stop":
                web.shut_down()
            case "change":
                web.publish(ListChanged("tools"))
            case "job ends" if reply.jobs:
                reply.complete(next(iter(reply.jobs)), DONE)
            case "hang up" if reply.jobs:
                reply.tell(HangUp())
            case _:
                pass

    def seen(self) -> Json:
        """What there is to see of the call now."""
        reply, exchange = self.reply, self.reply.exchange
        head = None if reply.start is None else (reply.status, reply.header("content-type"))
        return {
            "head": head,
            "messages": reply.messages(),
            "ended": reply.ended,
            "closed": exchange.closed,
            "turn": exchange.wants_turn,
            "deadline": exchange.next_deadline(),
            "batches": [(batch.ticket, list(batch.ops)) for batch in reply.batches],
            "jobs": list(reply.jobs),
            "stopped": reply.stopped[:],
            "reports": [str(report.error) for report in reply.reports],
            "requests": self.web.server.requests,
            "store": dict(self.web.store),
        }


def both(revision: str) -> tuple[Client, Client]:
    return Client(Web(_catalog(), held=True), revision), Client(Detour(_catalog(), held=True), revision)


CALLS: Final[tuple[Json, ...]] = (
    call("get", {"key": "a"}),
    call("get", {"key": "none"}),
    call("get", {"key": 5}),
    call("get", {}),
    call("again"),
    call("put", {"key": "a", "value": "x"}),
    call("get_many", {"keys": ["a", "b", "c"]}),
    call("get_many", {"keys": []}),
    call("add", {"number": "3"}),
    call("echo", {"value": "€"}),
    call("delete", {"key": "a"}),
    call("interview"),
    call("who"),
    call("array"),
    call("fails"),
    call("refuses"),
    call("raises"),
    call("raises_later"),
    call("unwritable"),
    call("job"),
    call("none"),
    {"name": 5},
    {},
    call("get", {"key": "a"}, requestState="x"),
    call("get", {"key": "a"}, inputResponses={}),
    call("get", [5]),
)
STEPS: Final = st.lists(
    st.sampled_from(
        ["replies", "replies", "store fails", "leave", "cancel", "silence", "too late", "stop", "change",
         "job ends", "hang up"]
    ),
    max_size=5,
)  # fmt: skip


@given(st.sampled_from([MODERN, *LEGACY]), st.sampled_from(CALLS), STEPS)
def test_whatever_happens_comes_out_the_same(revision: str, params: Json, steps: list[str]) -> None:
    compare(revision, params, steps)


def compare(revision: str, params: Json, steps: list[str]) -> None:
    plain, general = both(revision)
    plain.ask(params)
    general.ask(params)
    assert plain.seen() == general.seen()
    for step in steps:
        plain.step(step)
        general.step(step)
        assert plain.seen() == general.seen(), step


@pytest.mark.parametrize("revision", [MODERN, LEGACY[-1]])
@pytest.mark.parametrize(
    "steps",
    [
        ["replies", "replies", "replies"],
        ["store fails"],
        ["leave", "replies"],
        ["cancel", "replies"],
        ["silence", "replies"],
        ["too late", "replies"],
        ["stop", "too late", "replies"],
    ],
)
def test_what_may_happen_comes_out_the_same(revision: str, steps: list[str]) -> None:
    """As above, without chance."""
    for params in CALLS:
        compare(revision, params, steps)


METAS: Final = st.sampled_from(
    [
        None,
        5,
        {},
        {"progressToken": 3},
        envelope(),
        envelope() | {"progressToken": "p"},
        envelope("2025-11-25"),
        envelope("v9"),
        envelope() | {META + "clientCapabilities": 5},
        envelope() | {META + "protocolVersion": 5},
        envelope() | {"x": "y" * plain_calls.REMEMBERED_BYTES},
    ]
)
CHANGES: Final = st.fixed_dictionaries(
    {},
    optional={
        "MCP-Protocol-Version": st.sampled_from([None, MODERN, "2025-11-25", "v9", ""]),
        "Mcp-Method": st.sampled_from([None, "tools/call", "tools/list"]),
        "Mcp-Name": st.sampled_from([None, "get", "put", "=?base64?Z2V0?=", "=?base64?!?="]),
        "Mcp-Session-Id": st.sampled_from([None, "s2.x"]),
        "Content-Type": st.sampled_from([None, "application/json; charset=utf-8", "text/plain"]),
        "Content-Length": st.sampled_from(["5", "x", "99999999999"]),
    },
)


@given(st.sampled_from([None, *LEGACY]), METAS, CHANGES)
def test_whatever_the_headers_say_comes_out_the_same(revision: str | None, meta: Json, changes: Json) -> None:
    outcomes = [_sent(web, revision, meta, changes) for web in (Web(), Detour())]
    assert outcomes[0] == outcomes[1]


def _sent(web: Web, revision: str | None, meta: Json, changes: Json) -> Json:
    params = call("get", {"key": "a"}) | ({} if meta is None else {"_meta": meta})
    headers = modern_headers("tools/call", params)
    if revision is not None:
        session = Session(web, revision)
        session.ask("ping")
        headers = session.headers
    headers = {name: value for name, value in (headers | changes).items() if value is not None}
    reply = web.post(
        {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params},
        headers,
        revision=revision or MODERN,
    )
    return reply.status, reply.message(), web.server.sessions


# --- what is plain ---


@pytest.mark.parametrize("revision", [MODERN, *LEGACY])
def test_a_call_that_asks_the_store_is_plain(revision: str) -> None:
    client = Client(Web(held=True), revision)
    client.ask(call("get", {"key": "a"}))
    assert client.reply.exchange.is_alone
    client.step("replies")
    assert client.reply.exchange.is_alone and client.reply.exchange.closed
    assert client.reply.message()["result"]["content"] == [{"type": "text", "text": "1"}]


@pytest.mark.parametrize(
    ("tool", "alone"), [("get", True), ("who", False), ("none", False), ("delete", False)]
)
def test_what_needs_more_is_not(tool: str, alone: bool) -> None:
    client = Client(Web(held=True), MODERN)
    client.ask(call(tool, {"key": "a"} if tool in ("get", "delete") else {}))
    assert client.reply.exchange.is_alone is alone


def test_a_session_is_known_from_its_first_request_on() -> None:
    session = Session(Web(held=True), "2025-11-25")
    other = Web(service=session.web.service, held=True)  # Another process, with the same key.
    alone = [session.call("get", {"key": "a"}, web=other).exchange.is_alone for _ in range(2)]
    assert alone == [False, True]


def test_a_session_is_its_callers_and_ends() -> None:
    web = Web(held=True)
    session = Session(web, "2025-11-25")
    assert session.ask("ping").code() == (200, None)
    web.caller = Caller(principal="other")
    assert session.call("get", {"key": "a"}).status == 404
    web.caller = Caller()
    assert session.call("get", {"key": "a"}).exchange.is_alone
    web.now += web.service.limits.session_lifetime
    assert session.call("get", {"key": "a"}).status == 404


def test_what_all_processes_keep_of_a_session_is_read_first() -> None:
    records: dict[str, bytes] = {}
    session = Session(Web(replicated=True, records=records), "2025-11-25")
    other = Web(service=session.web.service, replicated=True, records=records)
    other.records_work = False
    alone = [session.call("get", {"key": "a"}, web=other).exchange.is_alone for _ in range(2)]
    assert alone == [False, False]
    other.records_work = True
    alone = [session.call("get", {"key": "a"}, web=other).exchange.is_alone for _ in range(2)]
    assert alone == [False, True]


def test_a_session_is_of_the_legacy_era() -> None:
    session = Session(Web(), "2025-11-25")
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call("get", {"key": "a"})}
    for version, status in (("2025-11-25", 200), (MODERN, 400), ("v9", 400)):
        headers = session.headers | {"MCP-Protocol-Version": version}
        assert session.web.post(asked, headers, revision="2025-11-25").status == status


def test_where_clients_come_back_for_answers_they_are_streams() -> None:
    session = Session(Web(held=True, resumable=True), "2025-11-25")
    assert session.ask("ping").is_stream
    reply = session.call("get", {"key": "a"})
    assert reply.is_stream and not reply.exchange.is_alone


def test_where_requests_name_their_caller_nothing_is_plain() -> None:
    def caller_of(caller: Caller, meta: Raw) -> Caller | RpcError:
        return caller if b"known" in bytes(meta) else RpcError(INVALID_PARAMS, "whose?")

    given = a_service()
    service = Service(given.catalog, given.info, sealer=given.sealer, token=given.token, caller_of=caller_of)
    web = Web(service=service)
    assert web.call("get", {"key": "a"}).code() == (400, INVALID_PARAMS)
    assert web.call("get", {"key": "a"}, meta=envelope() | {"who": "known"}).code() == (200, None)


def test_envelopes_are_remembered_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plain_calls, "REMEMBERED_ENVELOPES", 2)
    web = Web()
    for number in (1, 2, 3, 1, 3):
        assert web.call("get", {"key": "a"}, meta=envelope() | {"n": number}).code() == (200, None)
    assert web.call("get", {"key": "a"}, meta=envelope() | {"n": 3}, id="€").message()["id"] == "€"


@pytest.mark.parametrize("meta", [5, {}, {"progressToken": 1}, {META + "protocolVersion": MODERN}])
def test_a_meta_that_is_no_envelope_is_looked_at_elsewhere(meta: Json) -> None:
    params = call("get", {"key": "a"}) | {"_meta": meta}
    headers = modern_headers("tools/call", params)
    reply = Web().post({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}, headers)
    assert reply.code() == (400, INVALID_PARAMS)


def test_a_handler_may_ask_the_store_again() -> None:
    client = Client(Web(_catalog(), held=True), "2025-11-25")
    client.ask(call("again"))
    for ticket in (1, 2, 3):
        assert [batch.ticket for batch in client.reply.batches] == [ticket]
        assert client.reply.exchange.is_alone is (ticket == 1)
        client.step("replies")
    assert client.reply.code() == (200, None)


def test_an_envelope_says_nothing_of_who_its_next_sender_is() -> None:
    web = Web(held=True)
    seen: list[str] = []
    for namespace in ("a", "b", "a"):
        web.caller = Caller(namespace=namespace)
        web.held = True
        reply = web.call("get", {"key": "a"})
        seen.append(reply.exchange.is_alone and namespace or "")
    assert seen == ["a", "b", "a"]


# --- the driver's own mistakes, and what cannot happen ---


def test_a_batch_is_completed_once_and_fully() -> None:
    client = Client(Web(held=True), MODERN)
    client.ask(call("get", {"key": "a"}))
    exchange = client.reply.exchange
    for ticket, outcome in ((2, ["1"]), (1, ["1", "2"]), (1, "no list at all")):
        with pytest.raises(LocalProtocolError):
            exchange.complete(ticket, outcome, 100.0)
    client.step("replies")
    assert client.reply.status == 200


def test_what_is_answered_waits_for_nothing() -> None:
    web = Web()
    client = Client(web, "2025-11-25")
    client.ask(call("get", {"key": "a"}))
    exchange = client.reply.exchange
    with pytest.raises(LocalProtocolError):
        exchange.complete(1, ["1"], web.now)
    with pytest.raises(LocalProtocolError):
        exchange.tell(1, HangUp(), web.now)
    exchange.begin_shutdown(web.now)
    exchange.handle_timeout(web.now + 99.0)
    exchange.publish(ListChanged("tools"), web.now)
    exchange.note_task("t")
    assert exchange.closed and exchange.next_deadline() is None and not exchange.wants_turn


def test_a_batch_that_nobody_took_is_handed_over_with_the_call() -> None:
    web = Web()
    exchange = _received(web, call("get", {"key": "a"}))
    exchange.handle_timeout(web.now + 20.0)
    [command] = exchange.take_commands()
    assert isinstance(command, RunBatch)
    exchange.complete(command.ticket, ["1"], web.now)
    parts = exchange.take_parts()
    assert isinstance(parts[-1], BodyPart) and not parts[-1].more and exchange.closed


def test_replies_before_the_batch_was_taken_are_a_mistake() -> None:
    web = Web()
    exchange = _received(web, call("get", {"key": "a"}))
    with pytest.raises(LocalProtocolError):
        exchange.complete(1, ["1"], web.now)


def test_an_answer_that_nobody_took_is_lost_with_its_reader() -> None:
    web = Web()
    exchange = _received(web, call("get", {"key": "a"}))
    [command] = exchange.take_commands()
    assert isinstance(command, RunBatch)
    exchange.complete(command.ticket, ["1"], web.now)
    exchange.begin_shutdown(web.now)
    assert exchange.next_deadline() is None
    exchange.disconnected(web.now)
    assert exchange.take_parts() == []
    assert exchange.closed and web.server.requests == 0


def _received(web: Web, params: Json) -> HttpExchange:
    """A modern call whose body has come, of which the driver has taken nothing."""
    given = params | {"_meta": envelope()}
    fields = [(name.encode(), value.encode()) for name, value in modern_headers("tools/call", given).items()]
    exchange = web.server.open(Request("POST", fields), web.caller, web.now)
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": given}
    exchange.receive_all(json.dumps(message).encode(), web.now)
    return exchange


def test_an_answer_to_no_question_of_ours_changes_nothing() -> None:
    client = Client(Web(held=True), "2025-11-25")
    client.ask(call("get", {"key": "a"}))
    assert client.session is not None
    assert client.session.answer({"id": "x"}, {}).status == 202
    client.session.post({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 8}})
    assert client.reply.exchange.is_alone
    client.step("replies")
    assert client.reply.status == 200


def test_news_and_tasks_are_for_whoever_goes_on_with_the_call() -> None:
    client = Client(Web(held=True), MODERN)
    client.ask(call("get", {"key": "a"}))
    exchange = client.reply.exchange
    exchange.publish(ListChanged("tools"), 100.0)
    exchange.note_task("t")
    client.step("silence")
    exchange.publish(ListChanged("tools"), 100.0)
    exchange.note_task("t")
    assert client.web.server.take_woken() == []


# --- heads and whole bodies ---


def test_a_whole_body_has_the_limits_of_any() -> None:
    web = Web(limits=Limits(message_bytes=10))
    fields = [(name.encode(), value.encode()) for name, value in JSON_HEADERS.items()]
    exchange = web.server.open(Request("POST", fields), web.caller, web.now)
    exchange.receive_all(b" " * 11, web.now)
    [start, _] = exchange.take_parts()
    assert isinstance(start, ResponseStart) and start.status == 413
    exchange.receive_all(b" ", web.now)
    assert exchange.take_parts() == [] and exchange.closed


def test_a_head_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "REMEMBERED_HEADS", 2)
    known = Heads(Guard("127.0.0.1"))
    fields = [(b"host", b"localhost"), (b"accept", b"*/*"), (b"content-type", b"application/json")]
    first, verdict = known.read("POST", fields)
    assert verdict is PASSED and first.plain is not None and first.request == Request("POST", fields)
    assert known.read("POST", list(fields))[0] is first
    assert known.read("PUT", fields)[0] is not first
    assert known.read("POST", [*fields, (b"x", b"1")])[0] is not first
    assert known.read("POST", fields)[0] is not first
    large = [*fields, (b"x", b"1" * heads.REMEMBERED_BYTES)]
    assert known.read("POST", large)[0] is not known.read("POST", large)[0]
    assert isinstance(known.read("POST", [(b"host", b"example.org")])[1], Turned)


@pytest.mark.parametrize(
    "name", [b"authorization", b"Authorization", b"Cookie", b"proxy-authorization", b"x-api-key"]
)
def test_no_secret_is_remembered_with_a_head(name: bytes) -> None:
    known = Heads(Guard("127.0.0.1"))
    fields = [(b"host", b"localhost"), (b"accept", b"*/*"), (b"content-type", b"application/json")]
    head, verdict = known.read("POST", [(name, b"Bearer of-the-first"), *fields])
    assert verdict is PASSED and head.plain is not None
    assert head.request == Request("POST", fields) and head.headers.get(name.lower()) is None
    assert known.read("POST", [*fields, (name, b"Bearer of-the-second")])[0] is head
    assert known.read("POST", fields)[0] is head


def _whole(web: Web, message: Json, headers: Json, *, body: bytes | None = None) -> HttpExchange | None:
    head = heads.read_head(Request("POST", [(k.encode(), v.encode()) for k, v in headers.items()]))
    text = json.dumps(message).encode() if body is None else body
    return web.server.open_plain(head, text, web.caller, web.now)


def _get_a() -> tuple[Json, Json]:
    params = call("get", {"key": "a"}) | {"_meta": envelope()}
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return message, modern_headers("tools/call", params)


def test_a_plain_call_that_is_here_is_begun_at_once() -> None:
    web = Web()
    exchange = _whole(web, *_get_a())
    assert exchange is not None and web.server.requests == 1
    [command] = exchange.take_commands()
    assert isinstance(command, RunBatch)
    exchange.complete(command.ticket, ["1"], web.now)
    start, body = exchange.take_parts()
    assert exchange.is_alone and exchange.closed and web.server.requests == 0
    general = web.post(*_get_a())
    assert isinstance(body, BodyPart) and (start, body.data) == (general.start, general.body)


def test_what_is_not_plain_is_left_untouched() -> None:
    web, (message, headers) = Web(limits=Limits(message_bytes=1000)), _get_a()
    assert _whole(web, message, headers, body=b" " * 1001) is None
    assert _whole(web, message, headers, body=b"{") is None
    assert _whole(web, {"jsonrpc": "2.0", "method": "notifications/x"}, headers) is None
    assert _whole(web, message | {"method": "tools/list"}, headers) is None
    assert _whole(web, message, headers | {"Accept": "text/html"}) is None
    assert _whole(web, message, headers | {"Content-Length": "1001"}) is None
    web.server.begin_shutdown(web.now)
    assert _whole(web, message, headers) is None
    assert web.server.requests == 0


@pytest.mark.parametrize(
    "name", ["Content-Type", "Mcp-Name", "Mcp-Session-Id", "MCP-Protocol-Version", "Accept"]
)
def test_a_head_with_a_line_twice_is_not_plain(name: str) -> None:
    fields = [(name.encode(), value.encode()) for name, value in JSON_HEADERS.items()]
    request = Request("POST", [*fields, (name.encode(), b"x"), (name.lower().encode(), b"x")])
    assert heads.read_head(request).plain is None
