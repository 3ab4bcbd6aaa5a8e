"""HTTP+SSE of 2024-11-05: one stream, and POSTs to the address that it names."""

import json
from collections.abc import Mapping

import pytest

from kvmcp.core.commands import RunBatch, StartWork, StopWork
from kvmcp.core.http.exchange import HttpExchange
from kvmcp.core.http.messages import BodyPart, Request, ResponseStart
from kvmcp.core.http.old_sse import OldSseServer
from kvmcp.core.limits import Limits
from kvmcp.core.plan import Caller
from kvmcp.core.subscriptions import ListChanged
from tests.core.fixture_catalog import run_op
from tests.core.harness import CLIENT_INFO, Json, a_service, envelope
from tests.core.http.harness import parse_events
from tests.core.test_tasks import WITH, a_catalog
from tests.schema import validate_server_message

GET = Request("GET", [(b"accept", b"text/event-stream")])
POST = Request("POST", [(b"content-type", b"application/json")])
ALICE = Caller("alice")
INITIALIZE = {"protocolVersion": "2024-11-05", "capabilities": {}, "clientInfo": CLIENT_INFO}


class Old:
    """A server, one stream of it, and what has come on that."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.server = OldSseServer(a_service(limits=limits), "/messages")
        self.stream = self.server.open_stream(GET, ALICE, 0.0)
        self.body = b""
        self.ended = False
        self.ran: list[object] = []
        self.drive(0.0)
        [endpoint] = parse_events(self.body)
        assert endpoint["event"] == "endpoint"
        self.token = endpoint["data"].removeprefix("/messages?session=")
        self._read = 1

    def drive(self, now: float) -> None:
        while commands := self.stream.take_commands():
            for command in commands:
                self.ran.append(command)
                if isinstance(command, RunBatch):
                    replies = [run_op(op, {"a": "1"}) for op in command.ops]
                    self.stream.complete(command.ticket, replies, now)
        for part in self.stream.take_parts():
            if isinstance(part, BodyPart):
                self.body += part.data
                self.ended = not part.more

    def post(self, message: Json, now: float = 1.0) -> int:
        exchange = self.server.open_post(POST, self.token, ALICE, now)
        exchange.receive_body(json.dumps(message).encode(), now)
        exchange.end_of_body(now)
        code = status(exchange)
        for woken in self.server.take_woken():
            assert woken is self.stream
            self.drive(now)
        return code

    def ask(self, method: str, params: Mapping[str, Json], id: int = 1) -> Json:
        assert self.post({"jsonrpc": "2.0", "id": id, "method": method, "params": params}) == 202
        [message] = self.messages(method)
        return message

    def messages(self, method: str | None = None) -> list[Json]:
        texts = [event["data"] for event in parse_events(self.body)]
        fresh, self._read = texts[self._read :], len(texts)
        for text in fresh:
            validate_server_message("2024-11-05", text.encode(), method)
        return [json.loads(text) for text in fresh]


def status(exchange: HttpExchange) -> int:
    start, _ = exchange.take_parts()
    assert isinstance(start, ResponseStart) and exchange.closed
    return start.status


def test_a_conversation() -> None:
    old = Old()
    assert old.ask("initialize", INITIALIZE)["result"]["protocolVersion"] == "2024-11-05"
    assert old.post({"jsonrpc": "2.0", "method": "notifications/initialized"}) == 202
    answer = old.ask("tools/call", {"name": "get", "arguments": {"key": "a"}})
    assert answer["result"]["content"][0]["text"] == "1"
    assert old.post([]) == 202 and old.messages()[0]["error"]["code"] == -32600
    old.server.publish(ListChanged("tools"), 2.0)
    assert old.server.take_woken() == [old.stream]
    old.drive(2.0)
    assert old.messages()[0]["method"] == "notifications/tools/list_changed"


def test_a_session_ends_with_its_stream() -> None:
    old = Old()
    old.ask("initialize", INITIALIZE)
    old.post({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "job"}})
    late = old.server.open_post(POST, old.token, ALICE, 1.0)
    old.server.publish(ListChanged("tools"), 1.0)
    old.stream.disconnected(1.0)
    old.drive(1.0)
    assert old.ran[-1] == StopWork(1) and old.stream.closed and old.stream.next_deadline() is None
    assert old.stream.take_parts() == []
    late.end_of_body(1.0)
    assert status(late) == 404
    assert old.post({"jsonrpc": "2.0", "id": 3, "method": "ping"}) == 404


def test_a_stream_is_kept_alive_and_ends_with_the_server() -> None:
    old = Old(Limits(keep_alive=5.0))
    assert old.stream.next_deadline() == 5.0
    old.stream.handle_timeout(5.0)
    old.drive(5.0)
    assert old.body.endswith(b": keep-alive\n\n")
    old.server.begin_shutdown(6.0)
    assert old.server.take_woken() == [old.stream]
    old.drive(6.0)
    assert old.ended and old.stream.closed
    assert status(old.server.open_stream(GET, ALICE, 6.0)) == 503


def test_heads_that_are_refused() -> None:
    old = Old(Limits(open_streams=1))
    server = old.server
    assert status(server.open_stream(POST, ALICE, 0.0)) == 405
    assert status(server.open_stream(Request("GET", [(b"accept", b"text/html")]), ALICE, 0.0)) == 406
    assert status(server.open_stream(GET, ALICE, 0.0)) == 503
    assert status(server.open_post(GET, old.token, ALICE, 0.0)) == 405
    assert status(server.open_post(Request("POST", []), old.token, ALICE, 0.0)) == 415


@pytest.mark.parametrize(("token", "caller"), [("", ALICE), ("x", ALICE), (None, Caller("bob"))])
def test_messages_need_the_token_and_the_principal_of_a_stream(token: str | None, caller: Caller) -> None:
    old = Old()
    assert status(old.server.open_post(POST, old.token if token is None else token, caller, 0.0)) == 404


# --- what a hostile peer can make it hold ---


def test_a_client_that_does_not_read_its_stream_is_not_listened_to() -> None:
    old = Old(Limits(output_bytes=1000))
    old.post({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": INITIALIZE})
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).encode()

    def post() -> int:
        exchange = old.server.open_post(POST, old.token, ALICE, 1.0)
        exchange.receive_body(body, 1.0)
        exchange.end_of_body(1.0)
        return status(exchange)

    assert [post() for _ in range(3)] == [202, 503, 503]
    old.drive(1.0)
    assert post() == 202


def test_only_so_many_messages_arrive_at_once_and_none_at_the_end() -> None:
    old = Old(Limits(open_requests=2, arriving_bytes=10))
    waiting = old.server.open_post(POST, old.token, ALICE, 1.0)
    assert waiting.wants_input
    assert status(old.server.open_post(POST, old.token, ALICE, 1.0)) == 503
    waiting.receive_body(b" " * 11, 1.0)
    assert status(waiting) == 503
    old.server.begin_shutdown(1.0)
    assert status(old.server.open_post(POST, old.token, ALICE, 1.0)) == 503


def test_it_is_reached_below_where_it_is_mounted() -> None:
    old = Old()
    assert old.server.requests == 1
    old.stream = old.server.open_stream(GET, ALICE, 0.0, "/kv")
    old.drive(0.0)
    assert old.server.requests == 2
    address = parse_events(old.body)[-1]["data"]
    assert address.startswith("/kv/messages?session=")
    old.token = address.partition("=")[2]
    assert old.post({"jsonrpc": "2.0", "id": 1, "method": "ping"}) == 202
    old.stream.disconnected(1.0)
    old.drive(1.0)
    assert old.server.requests == 1


def test_tasks_that_were_begun_on_a_stream_end_with_it() -> None:
    old = Old()
    old.server = OldSseServer(a_service(a_catalog()), "/messages")
    old.stream = old.server.open_stream(GET, ALICE, 0.0)
    old.drive(0.0)
    old.token = parse_events(old.body)[-1]["data"].removeprefix("/messages?session=")
    params = {"name": "must", "_meta": envelope(capabilities=WITH)}
    assert old.post({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}) == 202
    [started] = [command for command in old.ran if isinstance(command, StartWork)]
    old.stream.disconnected(1.0)
    old.drive(1.0)
    assert StopWork(started.ticket) in old.ran and old.stream.closed
