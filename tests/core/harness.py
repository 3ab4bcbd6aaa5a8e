"""A server to talk to in tests: `ServerConnection` with a dict for a store and a small catalog.

Everything is a function call. `say` feeds messages and runs what the core asks; `replies` takes what it wrote,
each message validated against the schema of the revision that it was written for. Time is `server.now`, and
only moves when a test moves it.
"""

import json
from collections.abc import Mapping
from itertools import count
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import UNSET, Struct, UnsetType

from kvmcp.core.catalog import Catalog
from kvmcp.core.commands import (
    AnswerWork,
    Close,
    Command,
    Report,
    RunBatch,
    Said,
    StartWork,
    StopWork,
    Ticket,
)
from kvmcp.core.connection import ServerConnection
from kvmcp.core.limits import Limits
from kvmcp.core.plan import Caller
from kvmcp.core.request_state import Sealer
from kvmcp.core.service import Service
from kvmcp.core.subscriptions import Event
from kvmcp.core.wire.common import Icon, Implementation
from tests.core.fixture_catalog import fixture_catalog, run_op
from tests.schema import validate_server_message

Json: TypeAlias = Any  # JSON as json.loads gives it: tests look into it freely

REVISIONS: Final = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28")
LEGACY: Final = REVISIONS[:-1]
MODERN: Final = REVISIONS[-1]
UNDECIDED: Final = LEGACY[-1]
"""What refusals are held to while no revision is spoken: the newest legacy one, whose errors need no id."""

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32700, -32600, -32601, -32602
INTERNAL_ERROR, RESOURCE_NOT_FOUND = -32603, -32002
MISSING_CLIENT_CAPABILITY, UNSUPPORTED_VERSION = -32021, -32022

META: Final = "io.modelcontextprotocol/"
EVERYTHING: Final[Json] = {
    "roots": {"listChanged": True},
    "sampling": {"tools": {}, "context": {}},
    "elicitation": {"form": {}, "url": {}},
}
"""The capabilities of a client that can be asked anything."""
CLIENT_INFO: Final[Json] = {"name": "harness", "version": "1.0"}
SERVER_INFO: Final = Implementation(
    "kvmcp",
    "1.2.3",
    title="Key values",
    description="A store",
    website_url="https://kv.example",
    icons=(Icon("https://kv.example/icon.png", mime_type="image/png"),),
)
KEY: Final = b"0123456789abcdef0123456789abcdef"
WALL: Final = 1_700_000_000.0


def envelope(
    version: Json = MODERN, capabilities: Json = None, *, log_level: str | None = None, **more: Json
) -> Json:
    """The `_meta` of a modern request. `more` are members without the protocol's prefix."""
    meta: Json = {META + "protocolVersion": version, META + "clientInfo": CLIENT_INFO}
    meta[META + "clientCapabilities"] = EVERYTHING if capabilities is None else capabilities
    if log_level is not None:
        meta[META + "logLevel"] = log_level
    return {**meta, **more}


def to_line(message: Json) -> bytes:
    """One line as it goes over the wire; bytes as they are."""
    return (
        message if isinstance(message, bytes) else json.dumps(message, separators=(",", ":")).encode() + b"\n"
    )


def tokens() -> Any:
    """Predictable where a server has unguessable ones."""
    numbers = count(1)
    return lambda: f"token-{next(numbers)}"


class Asked(Struct):
    """A request that was sent: what its answer is validated against."""

    method: str | None
    revision: str


class Server:
    """The server's side of one stream, and the driver, the store and the clock around it.

    `revision` opens the conversation: a legacy one is initialized, a modern one gets its envelope on each
    request. Without it nothing is said. With `held` batches wait in `batches` until `answer_batch`.
    """

    def __init__(
        self,
        revision: str | None = None,
        *,
        catalog: Catalog | None = None,
        capabilities: Json = None,
        limits: Limits | None = None,
        caller: Caller | None = None,
        instructions: str | UnsetType = UNSET,
        store: dict[str, str] | None = None,
        held: bool = False,
        service: Service | None = None,
    ) -> None:
        self.service = service or a_service(catalog, limits=limits, instructions=instructions)
        self.connection = ServerConnection(self.service, caller)
        self.store: dict[str, str] = {"a": "1", "b": "2"} if store is None else store
        self.held = held
        self.now = 0.0
        self.revision = revision
        self.capabilities = EVERYTHING if capabilities is None else capabilities
        self.batches: list[RunBatch] = []
        self.jobs: dict[Ticket, object] = {}
        self.stopped: list[Ticket] = []
        self.answered: list[AnswerWork] = []
        self.reports: list[Report] = []
        self._closed: str | None = None
        self.ran: list[Command] = []
        """Every command, in order."""
        self._ids = count(1)
        self._asked: dict[str, Asked] = {}
        if revision in LEGACY:
            self.handshake(revision)

    # --- speaking ---

    def handshake(self, revision: str, **params: Json) -> Json:
        """Initialize; gives the result."""
        given = {"protocolVersion": revision, "capabilities": self.capabilities, "clientInfo": CLIENT_INFO}
        asked = {"jsonrpc": "2.0", "id": "init", "method": "initialize", "params": given | params}
        self.say(asked)
        self._asked[json.dumps("init")] = Asked("initialize", revision)
        [reply] = self.replies()
        self.revision = reply["result"]["protocolVersion"]
        self.notify("notifications/initialized")
        return reply["result"]

    def request(self, method: str, params: Json = None, *, id: Json = None, meta: Json = None) -> Json:
        """A request as a client of this revision writes it. `meta` is added to `_meta`."""
        message: Json = {
            "jsonrpc": "2.0",
            "id": f"r{next(self._ids)}" if id is None else id,
            "method": method,
        }
        whole = dict(params or {})
        own = {
            **(envelope(capabilities=self.capabilities) if self.revision == MODERN else {}),
            **(meta or {}),
        }
        if own:
            whole["_meta"] = own
        if whole or params is not None:
            message["params"] = whole
        return message

    def say(self, *messages: Json) -> None:
        """Feed messages (objects, or bytes as they are) in one chunk, and run what the core asks."""
        for message in messages:
            self._note(message)
        self.feed(b"".join(map(to_line, messages)))

    def feed(self, data: bytes) -> None:
        self.connection.receive_data(data, self.now)
        self.run()

    def ask(self, method: str, params: Json = None, *, id: Json = None, meta: Json = None) -> Json:
        """The one message that answers a request."""
        self.say(self.request(method, params, id=id, meta=meta))
        [reply] = self.replies()
        return reply

    def result(self, method: str, params: Json = None, *, meta: Json = None) -> Json:
        reply = self.ask(method, params, meta=meta)
        assert "result" in reply, reply
        return reply["result"]

    def error(self, method: str, params: Json = None, *, meta: Json = None) -> Json:
        reply = self.ask(method, params, meta=meta)
        assert "error" in reply, reply
        return reply["error"]

    def call(self, tool: str, arguments: Json = None, *, meta: Json = None, **more: Json) -> Json:
        """The message that answers a call of a tool."""
        return self.ask("tools/call", call(tool, arguments, **more), meta=meta)

    def start(self, tool: str, arguments: Json = None, *, meta: Json = None, **more: Json) -> Json:
        """Call a tool whose answer will take a while; gives the request's id."""
        message = self.request("tools/call", call(tool, arguments, **more), meta=meta)
        self.say(message)
        return message["id"]

    def notify(self, method: str, params: Json = None) -> None:
        message: Json = {"jsonrpc": "2.0", "method": method}
        self.say(message if params is None else message | {"params": params})

    def cancel(self, id: Json) -> None:
        self.notify("notifications/cancelled", {"requestId": id})

    def respond(self, id: Json, result: Json) -> None:
        """Answer a request of the server (legacy)."""
        self.say({"jsonrpc": "2.0", "id": id, "result": result})

    def still_serves(self) -> None:
        """Assert that a request is answered as if nothing had happened."""
        if self.revision in LEGACY:
            assert self.result("ping") == {}
        assert text_of(self.call("get", {"key": "a"})["result"]) == self.store["a"]

    # --- listening ---

    def replies(self) -> list[Json]:
        """What the server wrote since the last time, validated."""
        lines = self.connection.data_to_send().split(b"\n")
        assert lines.pop() == b"", "output ends with a newline"
        return [self._checked(line) for line in lines]

    def _note(self, message: Json) -> None:
        """Remember what a request asks: its answer is validated against that."""
        if not isinstance(message, dict) or "method" not in message or "id" not in message:
            return
        params = message.get("params")
        meta = params.get("_meta") if isinstance(params, dict) else None
        modern = isinstance(meta, dict) and META + "protocolVersion" in meta
        method = message["method"]
        known = method if isinstance(method, str) else None
        self._asked[json.dumps(message["id"])] = Asked(known, MODERN if modern else self._spoken)

    @property
    def _spoken(self) -> str:
        return self.revision or UNDECIDED

    def _checked(self, line: bytes) -> Json:
        message = json.loads(line)
        asked = None
        if "method" not in message:
            asked = self._asked.get(json.dumps(message.get("id")))
        if asked is None:
            validate_server_message(self._spoken, line)
        elif "error" in message:
            validate_server_message(asked.revision, line)
        else:
            validate_server_message(asked.revision, line, asked.method)
            del self._asked[json.dumps(message["id"])]
        return message

    def reads(self) -> bool:
        """Whether the driver would read from the peer now."""
        return self.connection.wants_input

    def closed(self) -> str | None:
        """Why `Close` was given, None while it was not."""
        assert self.connection.closed == (self._closed is not None)
        return self._closed

    # --- the driver ---

    def run(self) -> None:
        """Run commands until there are none; with `held` batches stay out."""
        while commands := self.connection.take_commands():
            for command in commands:
                self.ran.append(command)
                self._run(command)

    def _run(self, command: Command) -> None:
        match command:
            case RunBatch():
                self.batches.append(command)
                if not self.held:
                    self.answer_batch()
            case StartWork(ticket, job):
                self.jobs[ticket] = job
            case StopWork(ticket):
                self.stopped.append(ticket)
                self.jobs.pop(ticket)
            case AnswerWork():
                self.answered.append(command)
            case Report():
                self.reports.append(command)
            case Close(reason):
                assert self._closed is None, "Close is given once"
                self._closed = reason

    def answer_batch(self, index: int = 0) -> None:
        """Let the store answer a batch that waits."""
        batch = self.batches.pop(index)
        replies = [run_op(op, self.store) for op in batch.ops]
        self.connection.complete(batch.ticket, replies, self.now)
        if self.held:
            self.run()

    def complete(self, ticket: Ticket, outcome: object) -> None:
        """Let a job end."""
        self.jobs.pop(ticket, None)
        self.connection.complete(ticket, outcome, self.now)
        self.run()

    def tell(self, ticket: Ticket, said: Said) -> None:
        self.connection.tell(ticket, said, self.now)
        self.run()

    def publish(self, event: Event) -> None:
        self.connection.publish(event, self.now)
        self.run()

    def pass_time(self, seconds: float) -> None:
        """The clock moves, and the driver's timer fires if a deadline has passed."""
        self.now += seconds
        deadline = self.connection.next_deadline()
        if deadline is not None and deadline <= self.now:
            self.connection.handle_timeout(self.now)
        self.run()

    def end(self) -> None:
        """The client closes its end."""
        self.connection.receive_eof(self.now)
        self.run()

    def shut_down(self) -> None:
        self.connection.begin_shutdown(self.now)
        self.run()


def a_service(
    catalog: Catalog | None = None,
    *,
    limits: Limits | None = None,
    instructions: str | UnsetType = UNSET,
    key: bytes = KEY,
) -> Service:
    return Service(
        fixture_catalog() if catalog is None else catalog,
        SERVER_INFO,
        sealer=Sealer(key, WALL),
        token=tokens(),
        instructions=instructions,
        limits=limits,
    )


def call(tool: str, arguments: Json = None, **more: Json) -> Json:
    """The params of a call."""
    return {"name": tool, **({} if arguments is None else {"arguments": arguments}), **more}


def text_of(result: Json) -> str:
    """The text of a tool's result: one block."""
    [block] = result["content"]
    assert block["type"] == "text"
    text: str = block["text"]
    return text


def error_of(reply: Json) -> Json:
    """The structured error of a tool's failure (`isError`)."""
    result = reply["result"]
    assert result["isError"] is True, reply
    return result["structuredContent"]["error"]


def codes(replies: list[Json]) -> list[Json]:
    """`(id, error code)` for each message, None for what is missing."""
    return [(reply.get("id"), reply.get("error", {}).get("code")) for reply in replies]


def ids(replies: list[Json]) -> list[Json]:
    return [reply.get("id") for reply in replies]


def methods(replies: list[Json]) -> list[Json]:
    """The methods of what was written: None for responses."""
    return [reply.get("method") for reply in replies]


def accepted(**content: Json) -> Json:
    """How a person's accepted form comes back."""
    return {"action": "accept", "content": content}


def merged(*parts: Mapping[str, Json]) -> Json:
    whole: Json = {}
    for part in parts:
        whole.update(part)
    return whole


def decoded(raw: bytes) -> Json:
    return msgspec.json.decode(raw)
