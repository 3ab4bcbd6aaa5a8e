"""What driver tests share: a transport in memory, a store that waits, a server to talk to."""

import json
import math
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
from msgspec import Struct

from kvmcp.backends.base import Done, Ops, Replies
from kvmcp.backends.memory import MemoryBackend
from kvmcp.backends.ops import Event, NsKey
from kvmcp.core.limits import Limits
from kvmcp.server import Server
from tests.patience import PATIENCE
from tests.schema import validate_server_message
from tests.tools.support import redis_tools

ANY_LENGTH = 100_000_000
"""Characters of a result: transports are to be tested with long ones."""
MODERN_META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
}


class Witness:
    """Holds every message of a server to the schema of the revision that is spoken."""

    def __init__(self) -> None:
        self._revision = "2025-11-25"
        self._asked: dict[str, tuple[str, str]] = {}

    def said(self, message: dict[str, Any]) -> None:
        """The client sends this."""
        params = message.get("params", {})
        if message.get("method") == "initialize":
            self._revision = params["protocolVersion"]
        elif "io.modelcontextprotocol/protocolVersion" in params.get("_meta", {}):
            self._revision = "2026-07-28"
        if "id" in message and "method" in message:
            self._asked[json.dumps(message["id"])] = (self._revision, message["method"])

    def heard(self, line: bytes) -> dict[str, Any]:
        """The server has sent this."""
        message: dict[str, Any] = json.loads(line)
        revision, method = self._revision, None
        if "method" not in message and "id" in message:
            revision, method = self._asked.get(json.dumps(message["id"]), (revision, None))
        validate_server_message(revision, line, method)
        return message


class MemoryTransport:
    """A duplex stream in memory. What the test sends arrives in pieces of `piece` bytes, a single one by default;
    the server writes at most `most` bytes at a time."""

    def __init__(self, *, piece: int = 1, room: float = math.inf, most: int = 7) -> None:
        self._to_server, self._input = anyio.create_memory_object_stream[bytes](math.inf)
        self._output, self._from_server = anyio.create_memory_object_stream[bytes](room)
        self._piece = piece
        self._most = most
        self._pending = b""
        self._witness = Witness()
        self.reads = 0
        self.broken = False

    # the driver's side

    async def receive(self) -> bytes:
        self.reads += 1
        try:
            return await self._input.receive()
        except anyio.EndOfStream:
            return b""

    async def send_some(self, data: bytes | memoryview) -> int:
        if self.broken:
            raise BrokenPipeError
        some = bytes(data[: self._most])
        await self._output.send(some)
        return len(some)

    # the test's side

    def say(self, *messages: dict[str, Any] | bytes) -> None:
        for message in messages:
            if not isinstance(message, bytes):
                self._witness.said(message)
            data = message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n"
            for start in range(0, len(data), self._piece):
                self._to_server.send_nowait(data[start : start + self._piece])

    def hang_up(self) -> None:
        self._to_server.close()

    async def hear(self) -> dict[str, Any]:
        """The next message of the server."""
        with anyio.fail_after(PATIENCE):
            while b"\n" not in self._pending:
                self._pending += await self._from_server.receive()
        line, _, self._pending = self._pending.partition(b"\n")
        return self._witness.heard(line)

    def close(self) -> None:
        for stream in (self._to_server, self._input, self._output, self._from_server):
            stream.close()


class SlowBackend:
    """A memory store that makes everybody wait until it is released."""

    def __init__(self) -> None:
        self.store = MemoryBackend(clock=time.monotonic)
        self.released = anyio.Event()
        self.batches: list[int] = []

    async def start(self) -> None:
        await self.store.start()

    async def aclose(self) -> None:
        await self.store.aclose()

    @property
    def time_limit(self) -> float:
        return 5.0

    async def check(self) -> str | None:
        return await self.store.check()

    def execute_soon(self, batch: Ops, done: Done) -> bool:
        return False

    async def execute(self, batch: Ops) -> Replies:
        self.batches.append(len(batch))
        await self.released.wait()
        return await self.store.execute(batch)

    def watch(
        self, keys: Sequence[NsKey] = (), channels: Sequence[NsKey] = ()
    ) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        return self.store.watch(keys, channels)


class BrokenBackend(SlowBackend):
    """A store with a bug: it raises."""

    def __init__(self, *, at_once: bool) -> None:
        super().__init__()
        self._at_once = at_once

    def execute_soon(self, batch: Ops, done: Done) -> bool:
        if self._at_once:
            raise RuntimeError("a bug")
        return False

    async def execute(self, batch: Ops) -> Replies:
        raise RuntimeError("a bug")


class NoArguments(Struct, forbid_unknown_fields=True):
    """A tool without arguments."""


def make_server(backend: Any = None, **limits: Any) -> Server:
    return Server(
        "kvmcp-test",
        backend=backend,
        items=redis_tools(max_result_chars=ANY_LENGTH),
        limits=Limits(**limits),
        state_key=b"k" * 32,
    )


@asynccontextmanager
async def serving(server: Server, transport: MemoryTransport) -> AsyncIterator[MemoryTransport]:
    """The server runs on the transport inside the context, and has ended by itself when it is left."""
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve, transport)
            with anyio.fail_after(PATIENCE):
                yield transport
            transport.hang_up()
    finally:
        transport.close()


def initialize(version: str = "2025-11-25", **capabilities: Any) -> list[dict[str, Any]]:
    params = {
        "protocolVersion": version,
        "capabilities": capabilities,
        "clientInfo": {"name": "test", "version": "1"},
    }
    return [
        {"jsonrpc": "2.0", "id": "init", "method": "initialize", "params": params},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
    ]


def call(id: int | str, tool: str, meta: dict[str, Any] | None = None, **arguments: Any) -> dict[str, Any]:
    params: dict[str, Any] = {"name": tool, "arguments": arguments}
    if meta is not None:
        params["_meta"] = meta
    return {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}


def ping(id: int | str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id, "method": "ping"}
