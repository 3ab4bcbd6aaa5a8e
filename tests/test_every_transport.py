"""Every tool of every set, called well and badly: on every store, through every transport, in both eras, on both loops.

One process for each store and era serves all transports. A conversation is had over one of them in one era: for each tool of
the table (`tests.tools.cases`) a row that goes well, one that fails where there is one, and arguments that no tool
has. Each row has a namespace of its own, so that what comes before a call is what its row says. Well means the
structured result that the table says, as `tests/tools` holds the core to it; a failure is, to the letter, the one that the
core gives when it is called directly.
"""

import http.client
import json
import re
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import cache
from itertools import count, product
from typing import Any, Protocol

import anyio
import pytest

from kvmcp.tools.surface import TOOL_SETS
from tests.io.http.processes import HttpProcess
from tests.io.support import MODERN_META, call, initialize
from tests.io.websocket.support import split_frames, text, upgrade
from tests.tools.cases import ANY, READS, WRITES, Case
from tests.tools.cases_more import MORE_READS, MORE_WRITES
from tests.tools.more_agent import FullAgent
from tests.tools.test_every_tool import ERAS

ALL = (*READS, *MORE_READS, *WRITES, *MORE_WRITES)
TOOLS = [row.name for rows in TOOL_SETS.values() for row in rows]
SETUPS = {
    "memory-asyncio": ("asyncio", "asyncio"),
    "memory-trio": ("trio", "trio"),
    "redis": ("asyncio", "trio"),
    "sentinel": ("trio", "asyncio"),
    "cluster": ("asyncio", "trio"),
}
"""Stores, and for each era the loop of the process that serves it."""
SERVERS = {"redis": "shared_server", "sentinel": "sentinel_set", "cluster": "cluster"}
"""The fixture that has the URL of a store."""
TRANSPORTS = ("stdio", "http", "websocket", "tcp")
SETTLE = 60.0
"""Seconds that a process may take for anything before a test gives up: a bound, never an expectation."""
TOGETHER = 16
"""Calls on the way at a time: a server does not read from a client that does not read."""

Json = dict[str, Any]


def rows_of(tool: str) -> list[Case]:
    """One that goes well, one that fails where there is one (the shortest: some are of a megabyte), one of nonsense."""
    rows = [case for case in ALL if case.tool == tool]
    well = next(case for case in rows if not isinstance(case.expected, str))
    badly = sorted((case for case in rows if isinstance(case.expected, str)), key=lambda case: len(case.name))
    return [well, *badly[:1], Case(tool, {"nonsense": [1]}, "INVALID_PARAMS")]


ROWS = [case for tool in TOOLS for case in rows_of(tool)]


# --- what is expected ---


async def _directly() -> dict[int, Json]:
    without_past = FullAgent(ERAS[0])
    found: dict[int, Json] = {}
    for number, case in enumerate(ROWS):
        if isinstance(case.expected, str):
            agent = FullAgent(ERAS[0]) if case.before else without_past
            for tool, arguments in case.before:
                await agent.does(tool, arguments)
            found[number] = await agent.does(case.tool, case.arguments)
    return found


@cache
def core_says() -> dict[int, Json]:
    """The failures, with nothing between the core and whoever calls; they are the same in both eras."""
    return anyio.run(_directly)


PASSING = {"ttl", "expires_at", "created_at"}
"""What depends on the clock: a process has a real one."""


def same(found: Any, expected: Any) -> bool:
    """Whether a result is what was expected, but for what the clock says and what is `ANY`."""
    if expected is ANY:
        return found is not None
    if isinstance(expected, dict):
        return isinstance(found, dict) and found.keys() == expected.keys() and all(
            passes(found[name], expected[name]) if name in PASSING else same(found[name], expected[name])
            for name in expected
        )  # fmt: skip
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(same, found, expected))
    return isinstance(found, bool) is isinstance(expected, bool) and bool(found == expected)


def passes(found: Any, expected: Any) -> bool:
    if isinstance(expected, int):
        return isinstance(found, int) and 0 < found <= expected
    return (
        found == expected
        if expected is None
        else re.fullmatch(r"20\d\d-\d\d-\d\dT[\d:]{8}Z", found) is not None
    )


# --- conversations ---


class Channel(Protocol):
    """How messages travel in one era; what they are about is `Conversation`'s."""

    def say(self, messages: Sequence[Json]) -> list[Json]:
        """The replies, in whatever order."""
        ...


class Stream:
    """Messages in pieces of a byte stream; an older client shakes hands once."""

    def __init__(self, era: str) -> None:
        if era == ERAS[0]:
            hello, initialized = initialize(era)
            hello["params"]["_meta"] = {"tenant": "greeting"}
            [greeted] = self.say([hello])
            assert greeted["result"]["protocolVersion"] == era
            self.write([initialized])

    def say(self, messages: Sequence[Json]) -> list[Json]:
        self.write(messages)
        return [self.read() for _ in messages]

    def write(self, messages: Sequence[Json]) -> None:
        raise NotImplementedError

    def read(self) -> Json:
        raise NotImplementedError


class Stdio(Stream):
    def __init__(self, server: HttpProcess, era: str) -> None:
        assert server.child.stdin is not None and server.child.stdout is not None
        self._input, self._output = server.child.stdin, server.child.stdout
        super().__init__(era)

    def write(self, messages: Sequence[Json]) -> None:
        self._input.write(b"".join(json.dumps(message).encode() + b"\n" for message in messages))
        self._input.flush()

    def read(self) -> Json:
        message: Json = json.loads(self._output.readline())
        return message


class Tcp(Stream):
    def __init__(self, port: int, era: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), SETTLE)
        self._lines = self._socket.makefile("rb")
        super().__init__(era)

    def write(self, messages: Sequence[Json]) -> None:
        self._socket.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    def read(self) -> Json:
        message: Json = json.loads(self._lines.readline())
        return message

    def close(self) -> None:
        self._lines.close()
        self._socket.close()


class WebSocket(Stream):
    def __init__(self, port: int, era: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), SETTLE)
        self._socket.sendall(upgrade(host=f"127.0.0.1:{port}".encode()))
        self._pending = b""
        while b"\r\n\r\n" not in self._pending:
            self._pending += self._socket.recv(65536)
        head, _, self._pending = self._pending.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101"), head
        self._heard: list[Json] = []
        super().__init__(era)

    def write(self, messages: Sequence[Json]) -> None:
        self._socket.sendall(text(*messages))

    def read(self) -> Json:
        while not self._heard:
            frames, self._pending = split_frames(self._pending + self._socket.recv(65536))
            self._heard += [json.loads(frame.payload) for frame in frames]
        return self._heard.pop(0)

    def close(self) -> None:
        self._socket.close()


class Http:
    """A request for each message; an older client has a session for each namespace."""

    def __init__(self, port: int, era: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SETTLE)
        self._era = era
        self._sessions: dict[str, str] = {}

    def say(self, messages: Sequence[Json]) -> list[Json]:
        return [self._post(message, self._headers(message))[1] for message in messages]

    def _headers(self, message: Json) -> dict[str, str]:
        headers = {"mcp-protocol-version": self._era}
        if self._era == ERAS[1]:
            return {**headers, "mcp-method": message["method"], "mcp-name": message["params"]["name"]}
        tenant = message["params"]["_meta"]["tenant"]
        if tenant not in self._sessions:
            self._sessions[tenant] = self._shake_hands(tenant)
        return {**headers, "mcp-session-id": self._sessions[tenant]}

    def _shake_hands(self, tenant: str) -> str:
        hello, _ = initialize(self._era)
        hello["params"]["_meta"] = {"tenant": tenant}
        session, _ = self._post(hello, {})
        assert session is not None
        return session

    def _post(self, message: Json, headers: dict[str, str]) -> tuple[str | None, Json]:
        accepted = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
        self._connection.request("POST", "/mcp", json.dumps(message), {**accepted, **headers})
        response = self._connection.getresponse()
        body = response.read()
        assert response.status == 200, body
        if response.headers["content-type"].startswith("text/event-stream"):
            body = [line.removeprefix(b"data:") for line in body.splitlines() if line.startswith(b"data:")][
                -1
            ]
        reply: Json = json.loads(body)
        return response.headers["mcp-session-id"], reply

    def close(self) -> None:
        self._connection.close()


class Conversation:
    """All rows, step by step: first what each needs first, then what it needs next, at last the calls themselves."""

    def __init__(self, channel: Channel, era: str, name: str) -> None:
        self._channel = channel
        self._era = era
        self._name = name

    def had(self) -> list[Json]:
        """The result of each row."""
        for step in range(max(len(case.before) for case in ROWS)):
            told = self._call_all({
                number: case.before[step] for number, case in enumerate(ROWS) if step < len(case.before)
            })  # fmt: skip
            assert not any(result.get("isError") for result in told.values()), told
        told = self._call_all({number: (case.tool, case.arguments) for number, case in enumerate(ROWS)})
        return [told[number] for number in range(len(ROWS))]

    def _call_all(self, calls: dict[int, tuple[str, Json]]) -> dict[int, Json]:
        messages = [self._message(number, *called) for number, called in calls.items()]
        replies: list[Json] = []
        for start in range(0, len(messages), TOGETHER):
            replies += self._channel.say(messages[start : start + TOGETHER])
        assert sorted(reply["id"] for reply in replies) == sorted(calls), "each call is answered once"
        return {reply["id"]: reply["result"] for reply in replies}

    def _message(self, number: int, tool: str, arguments: Json) -> Json:
        meta = MODERN_META if self._era == ERAS[1] else {}
        return call(number, tool, {**meta, "tenant": f"{self._name}-{number}"}, **arguments)


@pytest.fixture(scope="module", params=SETUPS)
def servers(request: pytest.FixtureRequest) -> Iterator[dict[str, HttpProcess]]:
    """One process for each era: on standard input and output a client keeps to the era that it began in."""
    store: str = request.param
    url = request.getfixturevalue(SERVERS[store]).url if store in SERVERS else "memory://"
    with ExitStack() as running:
        started: dict[str, HttpProcess] = {}
        for era, loop in zip(ERAS, SETUPS[store], strict=True):
            started[era] = HttpProcess(
                "--loop", loop, "--backend", url, "--tools", ",".join(TOOL_SETS), "--namespace-from", "meta:tenant",
                transports=("stdio", "http:0", "websocket:0", "tcp:0"), stdin=subprocess.PIPE,
            )  # fmt: skip
            running.callback(started[era].kill)
        yield started


def channel(server: HttpProcess, transport: str, era: str) -> Channel:
    if transport == "stdio":
        return Stdio(server, era)
    if transport == "http":
        return Http(server.port, era)
    if transport == "tcp":
        return Tcp(int(server.logged(r"MCP in lines: 127\.0\.0\.1:(\d+)")[1]), era)
    return WebSocket(int(server.logged(r"ws://127\.0\.0\.1:(\d+)/mcp")[1]), era)


_conversations = count()


@pytest.fixture(params=product(TRANSPORTS, ERAS), ids="-".join)
def had(request: pytest.FixtureRequest, servers: dict[str, HttpProcess]) -> Iterator[list[Json]]:
    transport, era = request.param
    way = channel(servers[era], transport, era)
    yield Conversation(way, era, f"c{next(_conversations)}").had()
    if not isinstance(way, Stdio):
        assert isinstance(way, Http | Tcp | WebSocket)
        way.close()


def test_every_tool_answers_as_the_core_does(had: list[Json]) -> None:
    for number, (case, result) in enumerate(zip(ROWS, had, strict=True)):
        found = result["structuredContent"]
        if isinstance(case.expected, str):
            assert found["error"]["code"] == case.expected, (case.name, found)
            assert found == core_says()[number], case.name
            assert result["isError"] is True
        else:
            assert same(found, case.expected), (case.name, found)
            assert result.get("isError", False) is False
            assert json.loads(result["content"][0]["text"]) == found


def test_every_tool_is_called_well_and_badly() -> None:
    for good in (True, False):
        assert {case.tool for case in ROWS if isinstance(case.expected, str) is not good} == set(TOOLS)
