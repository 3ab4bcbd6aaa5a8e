"""An HTTP server to talk to in tests: `HttpServer` with a dict for a store; everything is a function call.

`Web` is the process: its clock, its store, its exchanges. `Reply` is one request and what came back, piece by
piece; each message in it is validated against the schema of the revision that it was written for.
"""

import json
import re
from collections.abc import Mapping
from itertools import count
from typing import Any, Final, TypeAlias

from kvmcp.core.catalog import Catalog
from kvmcp.core.commands import (
    AnswerWork,
    BatchFailed,
    Command,
    Report,
    RunBatch,
    Said,
    StartWork,
    StopWork,
    Ticket,
)
from kvmcp.core.http.exchange import HttpExchange
from kvmcp.core.http.messages import BodyPart, Request, ResponseStart
from kvmcp.core.http.server import HttpServer
from kvmcp.core.http.shared import DropRecords, KeepRecord, LoadRecords
from kvmcp.core.http.streams import EventStore
from kvmcp.core.limits import Limits
from kvmcp.core.plan import Caller
from kvmcp.core.service import Service
from kvmcp.core.subscriptions import Event
from tests.core.fixture_catalog import run_op
from tests.core.harness import CLIENT_INFO, EVERYTHING, MODERN, a_service, envelope
from tests.schema import validate_server_message

Json: TypeAlias = Any  # JSON as json.loads gives it: tests look into it freely

JSON_HEADERS: Final = {
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
}
HEADER_MISMATCH: Final = -32020
_NAMED: Final = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


def modern_headers(method: str, params: Json, **more: str | None) -> dict[str, str]:
    """What a client of 2026-07-28 sends with a request; `more` overrides (`_` for `-`), None leaves out."""
    headers: dict[str, str | None] = {
        **JSON_HEADERS,
        "MCP-Protocol-Version": MODERN,
        "Mcp-Method": method,
        "Mcp-Name": params.get(_NAMED.get(method, ""), params.get("taskId")),
    }
    headers.update({name.replace("_", "-"): value for name, value in more.items()})
    return {name: value for name, value in headers.items() if value is not None}


def parse_events(data: bytes) -> list[dict[str, str]]:
    """The events of a stream, comments left out."""
    assert data.endswith(b"\n\n") or not data, "events end with a blank line"
    events: list[dict[str, str]] = []
    for block in data.decode().split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        if lines:
            events.append(dict(line.split(": ", 1) for line in lines))
    return events


class Reply:
    """One request and its response so far. `drive` runs commands and takes parts, as a driver does."""

    def __init__(self, web: "Web", exchange: HttpExchange, revision: str, asked: Mapping[str, str]) -> None:
        self.web = web
        self.exchange = exchange
        self.revision = revision
        self.asked = asked
        """Method of each request in the body, by the JSON text of its id."""
        self.start: ResponseStart | None = None
        self.body = b""
        self.ended = False
        self.reads = True
        """Whether the client takes what is written."""
        self.jobs: dict[Ticket, object] = {}
        self.batches: list[RunBatch] = []
        self.stopped: list[Ticket] = []
        self.answered: list[AnswerWork] = []
        self.reports: list[Report] = []
        self._read = 0

    # --- the driver ---

    def drive(self) -> None:
        while True:
            for command in self.exchange.take_commands():
                self._run(command)
            if self.reads:
                for part in self.exchange.take_parts():
                    self._take(part)
            if not self.exchange.wants_turn:
                return

    def _run(self, command: Command) -> None:
        match command:
            case RunBatch():
                self.batches.append(command)
                if not self.web.held:
                    self.answer_batch()
            case StartWork(ticket, job):
                self.jobs[ticket] = job
            case StopWork(ticket):
                self.stopped.append(ticket)
                del self.jobs[ticket]
            case AnswerWork():
                self.answered.append(command)
            case Report():
                self.reports.append(command)
            case _:
                raise AssertionError(f"not for an exchange: {command!r}")

    def _take(self, part: ResponseStart | BodyPart) -> None:
        assert not self.ended, "nothing comes behind the last part"
        if isinstance(part, ResponseStart):
            assert self.start is None, "a response starts once"
            self.start = part
            assert all(name == name.lower() for name, _ in part.headers)
        else:
            assert self.start is not None, "the start comes first"
            self.body += part.data
            self.ended = not part.more
            if self.ended and self.header("content-length") is not None:
                assert self.header("content-length") == str(len(self.body))

    def answer_batch(self) -> None:
        batch = self.batches.pop(0)
        replies = [run_op(op, self.web.store) for op in batch.ops]
        self.exchange.complete(batch.ticket, replies, self.web.now)
        if self.web.held:
            self.drive()

    def complete(self, ticket: Ticket, outcome: object) -> None:
        self.jobs.pop(ticket, None)
        self.exchange.complete(ticket, outcome, self.web.now)
        self.web.settle(self)

    def tell(self, *said: Said) -> None:
        """Let the one job say something."""
        [ticket] = self.jobs
        for one in said:
            self.exchange.tell(ticket, one, self.web.now)
        self.web.settle(self)

    def disconnect(self) -> None:
        self.exchange.disconnected(self.web.now)
        self.web.settle(self)

    # --- the client ---

    @property
    def status(self) -> int:
        assert self.start is not None, "no response yet"
        return self.start.status

    @property
    def waits(self) -> bool:
        """Whether nothing has been written yet."""
        return self.start is None

    @property
    def is_stream(self) -> bool:
        return self.header("content-type") == "text/event-stream"

    def header(self, name: str) -> str | None:
        assert self.start is not None, "no response yet"
        found = [value.decode() for key, value in self.start.headers if key.decode() == name]
        assert len(found) < 2, f"{name} stands twice"
        return found[0] if found else None

    def events(self) -> list[dict[str, str]]:
        """All events so far."""
        assert self.is_stream
        return parse_events(self.body)

    def messages(self) -> list[Json]:
        """The messages that have come since the last look."""
        if self.start is None or not self.body:
            return []
        if self.is_stream:
            texts = [event["data"] for event in self.events() if event.get("data")]
        else:
            texts = [self.body.decode()]
        fresh, self._read = texts[self._read :], len(texts)
        checked = [self._checked(text) for text in fresh]
        return [message for group in checked for message in (group if isinstance(group, list) else [group])]

    def message(self) -> Json:
        """The one message that has come."""
        [message] = self.messages()
        return message

    def _checked(self, text: str) -> Json:
        message = json.loads(text)
        if isinstance(message, list):
            return [self._checked(json.dumps(one)) for one in message]
        method = self.asked.get(json.dumps(message.get("id"))) if "result" in message else None
        validate_server_message(self.revision, text.encode(), method)
        return message

    def code(self) -> Json:
        """`(status, error code)`; the code is None for a result."""
        return self.status, self.message().get("error", {}).get("code")


class Web:
    """The process: shared state, clock and store. `held` keeps batches until `Reply.answer_batch`."""

    def __init__(
        self,
        catalog: Catalog | None = None,
        *,
        limits: Limits | None = None,
        service: Service | None = None,
        events: EventStore | None = None,
        caller: Caller | None = None,
        held: bool = False,
        piece: int = 65536,
        replicated: bool = False,
        resumable: bool = False,
        store: dict[str, str] | None = None,
        records: dict[str, bytes] | None = None,
    ) -> None:
        self.service = service or a_service(catalog, limits=limits)
        self.server = HttpServer(self.service, events, replicated=replicated, resumable=resumable)
        self.caller = caller or Caller()
        self.store = {"a": "1", "b": "2"} if store is None else store
        self.records: dict[str, bytes] = {} if records is None else records
        """What all processes keep in common (`replicated`)."""
        self.records_work = True
        self.kept: list[KeepRecord] = []
        self.started: list[Command] = []
        """Commands of tasks (`replicated`)."""
        self.replicated = replicated
        self.held = held
        self.piece = piece
        self.now = 100.0
        self.replies: list[Reply] = []
        self._ids = count(1)

    # --- one request ---

    def request(
        self,
        verb: str,
        headers: Mapping[str, str] | list[tuple[bytes, bytes]],
        body: bytes = b"",
        *,
        revision: str = MODERN,
        asked: Mapping[str, str] | None = None,
    ) -> Reply:
        fields = headers if isinstance(headers, list) else _encoded(headers)
        exchange = self.server.open(Request(verb, fields), self.caller, self.now)
        reply = Reply(self, exchange, revision, asked or {})
        self.replies.append(reply)
        for start in range(0, len(body), self.piece):
            exchange.receive_body(body[start : start + self.piece], self.now)
        exchange.end_of_body(self.now)
        self.settle(reply)
        return reply

    def post(
        self, message: Json, headers: Mapping[str, str] | None = None, *, revision: str = MODERN
    ) -> Reply:
        """POST a message (bytes as they are)."""
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        sent = message if isinstance(message, list) else [message]
        asked = {
            json.dumps(one["id"]): one["method"]
            for one in sent
            if isinstance(one, dict) and "id" in one and "method" in one
        }
        return self.request("POST", headers or JSON_HEADERS, body, revision=revision, asked=asked)

    def settle(self, first: Reply | None = None) -> None:
        """Drive whoever has something to do."""
        if first is not None:
            first.drive()
        self.run_shared()
        while woken := self.server.take_woken():
            for exchange in woken:
                for reply in self.replies:
                    if reply.exchange is exchange:
                        reply.drive()
            self.run_shared()

    def run_shared(self) -> None:
        """Carry out what the server wants done with the common records."""
        while self.replicated and (commands := self.server.take_records()):
            for command in commands:
                match command:
                    case KeepRecord():
                        json.loads(command.value)  # Any store of JSON texts can hold it.
                        assert command.key.isascii() and command.key.isprintable() and len(command.key) < 128
                        self.kept.append(command)
                        if self.records_work:
                            self.records[command.key] = command.value
                    case DropRecords():
                        for key in command.keys:
                            self.records.pop(key, None)
                    case LoadRecords():
                        found = [self.records.get(key) for key in command.keys]
                        outcome = found if self.records_work else BatchFailed()
                        self.server.complete(command.ticket, outcome, self.now)
        if self.replicated:
            self.started += self.server.take_commands()

    # --- modern ---

    def ask(
        self, method: str, params: Json = None, *, meta: Json = None, id: Json = None, **headers: str | None
    ) -> Reply:
        """A request of 2026-07-28, with its envelope and its headers (`headers` overrides them)."""
        given = {"_meta": envelope() if meta is None else meta, **(params or {})}
        message = {
            "jsonrpc": "2.0",
            "id": next(self._ids) if id is None else id,
            "method": method,
            "params": given,
        }
        return self.post(message, modern_headers(method, given, **headers))

    def call(self, tool: str, arguments: Json = None, **more: Any) -> Reply:
        params = {"name": tool} | ({} if arguments is None else {"arguments": arguments})
        return self.ask("tools/call", params, **more)

    # --- time and changes ---

    def publish(self, event: Event) -> None:
        self.server.publish(event, self.now)
        self.settle()

    def pass_time(self, seconds: float) -> None:
        """The clock moves, and the timers of whoever has a deadline behind it fire."""
        self.now += seconds
        deadline = self.server.next_deadline()
        if deadline is not None and deadline <= self.now:
            self.server.handle_timeout(self.now)
        for reply in self.replies:
            deadline = reply.exchange.next_deadline()
            if deadline is not None and deadline <= self.now:
                reply.exchange.handle_timeout(self.now)
            self.settle(reply)

    def shut_down(self) -> None:
        self.server.begin_shutdown(self.now)
        self.settle()


class Session:
    """A legacy session: its id, and the headers that its client sends."""

    def __init__(self, web: Web, revision: str, capabilities: Json = None) -> None:
        self.web = web
        self.revision = revision
        params = {
            "protocolVersion": revision,
            "capabilities": EVERYTHING if capabilities is None else capabilities,
            "clientInfo": CLIENT_INFO,
        }
        opened = web.post(
            {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}, revision=revision
        )
        assert opened.status == 200 and opened.message()["result"]["protocolVersion"] == revision
        self.id = opened.header("mcp-session-id") or ""
        assert re.fullmatch(r"[!-~]+", self.id), "visible ASCII"
        self._ids = count(1)
        self.say("notifications/initialized")

    @property
    def headers(self) -> dict[str, str]:
        version = {"MCP-Protocol-Version": self.revision} if self.revision >= "2025-06-18" else {}
        return {**JSON_HEADERS, "Mcp-Session-Id": self.id, **version}

    def post(self, message: Json, web: Web | None = None) -> Reply:
        return (web or self.web).post(message, self.headers, revision=self.revision)

    def say(self, method: str, **params: Json) -> Reply:
        """Send a notification."""
        reply = self.post({"jsonrpc": "2.0", "method": method, "params": params})
        assert (reply.status, reply.body, reply.ended) == (202, b"", True)
        return reply

    def ask(self, method: str, params: Json = None, *, id: Json = None, web: Web | None = None) -> Reply:
        asked = {"jsonrpc": "2.0", "id": next(self._ids) if id is None else id, "method": method}
        return self.post({**asked, "params": params or {}}, web)

    def call(self, tool: str, arguments: Json = None, **more: Any) -> Reply:
        return self.ask("tools/call", {"name": tool, "arguments": arguments or {}}, **more)

    def answer(self, asked: Json, result: Json, web: Web | None = None) -> Reply:
        """Answer a request of the server's."""
        return self.post({"jsonrpc": "2.0", "id": asked["id"], "result": result}, web)

    def get(self, last_event: str | None = None, web: Web | None = None) -> Reply:
        headers = {**self.headers, "Accept": "text/event-stream"}
        if last_event is not None:
            headers["Last-Event-ID"] = last_event
        return (web or self.web).request("GET", headers, revision=self.revision)

    def delete(self, web: Web | None = None) -> Reply:
        return (web or self.web).request("DELETE", self.headers, revision=self.revision)


def _encoded(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
