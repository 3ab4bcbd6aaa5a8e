"""A WebSocket peer that is written by hand, and the server's machine with a store, without sockets.

Frames are made and read here without wsproto and without our own `Frames`: tests must not share their mistakes.
"""

import json
import time
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

from kvmcp.backends.base import Ops
from kvmcp.backends.memory import MemoryBackend
from kvmcp.core.catalog import Catalog
from kvmcp.core.commands import Close, Command, RunBatch, StartWork, StopWork
from kvmcp.core.http.guard import Guard
from kvmcp.core.limits import Limits
from kvmcp.core.request_state import Sealer
from kvmcp.core.service import Service
from kvmcp.core.wire.common import Implementation
from kvmcp.io.websocket.limits import WebSocketLimits
from kvmcp.io.websocket.server import WebSocketConnection
from kvmcp.io.websocket.upgrade import Door
from tests.io.support import ANY_LENGTH, Witness
from tests.tools.support import redis_tools

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
"""The pair of RFC 6455, section 1.3."""


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes | None = b"\x01\x80\xfe\x37",
    size: int | None = None,
    length: int | None = None,
) -> bytes:
    """A frame as a client sends it; `size` is how many bytes say the length (0, 2, 8), `length` a lie about it."""
    length = len(payload) if length is None else length
    if size is None:
        size = 0 if length < 126 else 2 if length < 1 << 16 else 8
    short = length if size == 0 else {2: 126, 8: 127}[size]
    head = bytes((fin << 7 | rsv << 4 | opcode, (mask is not None) << 7 | short))
    head += length.to_bytes(size, "big") if size else b""
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[n % 4] for n, byte in enumerate(payload))


def text(*messages: dict[str, Any] | str | bytes) -> bytes:
    """Each message as one masked text frame."""
    return b"".join(frame(TEXT, as_bytes(message)) for message in messages)


def as_bytes(message: dict[str, Any] | str | bytes) -> bytes:
    if isinstance(message, dict):
        message = json.dumps(message)
    return message.encode() if isinstance(message, str) else message


def closing(code: int | None = 1000, reason: bytes = b"", **options: Any) -> bytes:
    return frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason, **options)


class Frame(NamedTuple):
    opcode: int
    payload: bytes
    fin: bool = True
    rsv: int = 0

    @property
    def code(self) -> int | None:
        """Of a Close."""
        return int.from_bytes(self.payload[:2], "big") if self.payload else None


def split_frames(data: bytes) -> tuple[list[Frame], bytes]:
    """The whole frames of a server, and what is left. Asserts what a server must not do."""
    frames: list[Frame] = []
    while len(data) >= 2:
        first, length = data[0], data[1]
        assert not length & 128, "a server must not mask"
        start = 2
        if length >= 126:
            size = 2 if length == 126 else 8
            start += size
            length = int.from_bytes(data[2:start], "big")
            assert len(data) < start or length >= (126 if size == 2 else 1 << 16), "a length must be minimal"
        if len(data) < start + length:
            break
        frames.append(Frame(first & 15, data[start : start + length], bool(first & 128), first >> 4 & 7))
        data = data[start + length :]
    return frames, data


def upgrade(
    path: str = "/mcp",
    *,
    method: str = "GET",
    version: str = "1.1",
    more: Iterable[bytes] = (),
    without: Iterable[str] = (),
    **headers: bytes,
) -> bytes:
    """The head of an upgrade. A keyword replaces a header: `sec_websocket_key=b"…"`; `more` are whole lines."""
    fields = {
        "host": b"127.0.0.1:8920",
        "upgrade": b"websocket",
        "connection": b"Upgrade",
        "sec-websocket-key": KEY,
        "sec-websocket-version": b"13",
        "sec-websocket-protocol": b"mcp",
    }
    fields.update({name.replace("_", "-"): value for name, value in headers.items()})
    lines = [f"{method} {path} HTTP/{version}".encode()]
    lines += [name.encode() + b": " + value for name, value in fields.items() if name not in set(without)]
    return b"\r\n".join([*lines, *more, b"", b""])


def make_service(**limits: Any) -> Service:
    return Service(
        Catalog(*redis_tools(max_result_chars=ANY_LENGTH)),
        Implementation("kvmcp-test", "0"),
        sealer=Sealer(b"k" * 32, wall_offset=0.0),
        token=lambda: "t" * 32,
        limits=Limits(**limits),
    )


def make_door(**options: Any) -> Door:
    return Door(Guard("127.0.0.1"), **options)


class Served:
    """The server's machine, driven by plain calls with a clock that the test moves.

    `store` answers batches at once; with `is_slow` they wait in `batches` until `answer` is called.
    """

    def __init__(
        self,
        limits: WebSocketLimits | None = None,
        door: Door | None = None,
        *,
        is_slow: bool = False,
        **core: Any,
    ) -> None:
        self.now = 100.0
        self.machine = WebSocketConnection(make_service(**core), door or make_door(), self.now, limits)
        self.store = MemoryBackend(clock=time.monotonic)
        self.is_slow = is_slow
        self.batches: list[RunBatch] = []
        self.commands: list[Command] = []
        self.written = bytearray()
        self.writes = 0
        self.head = b""
        self._witness = Witness()

    # --- input ---

    def open(self, **headers: Any) -> "Served":
        """Upgrade; `head` is the response."""
        self.feed(upgrade(**headers))
        self.head, mark, rest = bytes(self.written).partition(b"\r\n\r\n")
        assert mark
        self.written[:] = rest
        assert self.head.startswith(b"HTTP/1.1 101 "), self.head
        return self

    def feed(self, data: bytes, cuts: Iterable[int] = ()) -> None:
        """Bytes arrive, cut there."""
        start = 0
        for cut in [*cuts, len(data)]:
            self.machine.receive_data(data[start:cut], self.now)
            start = cut
            self.turn()

    def say(self, *messages: dict[str, Any]) -> None:
        for message in messages:
            self._witness.said(message)
        self.feed(text(*messages))

    def pass_time(self, seconds: float) -> None:
        """The clock moves on, and the timer goes off at each deadline on the way."""
        end = self.now + seconds
        while (due := self.machine.next_deadline()) is not None and due <= end:
            assert due >= self.now
            self.now = due
            self.machine.handle_timeout(due)
            self.turn()
        self.now = end

    def hang_up(self) -> None:
        self.machine.receive_eof(self.now)
        self.turn()

    def stop(self) -> None:
        self.machine.begin_shutdown(self.now)
        self.turn()

    def answer(self) -> None:
        """The store is done with what waits."""
        batches, self.batches = self.batches, []
        for batch in batches:
            self._complete(batch)
        self.turn()

    # --- the driver's part ---

    def turn(self) -> None:
        machine = self.machine
        while True:
            while commands := machine.take_commands():
                self.commands += commands
                for command in commands:
                    self._run(command)
            while data := machine.data_to_send():
                self.writes += 1
                self.written += data
            if not machine.wants_turn:
                return

    def _run(self, command: Command) -> None:
        if isinstance(command, RunBatch):
            self.batches.append(command)
            if not self.is_slow:
                self._complete(self.batches.pop())
        else:
            assert isinstance(command, Close | StartWork | StopWork)

    def _complete(self, batch: RunBatch) -> None:
        replies = self.store.execute_now(cast(Ops, batch.ops))
        self.machine.complete(batch.ticket, replies, self.now)

    # --- output ---

    def frames(self) -> list[Frame]:
        """What was written since, as frames."""
        frames, rest = split_frames(bytes(self.written))
        self.written[:] = rest
        return frames

    def hear(self) -> list[dict[str, Any]]:
        """What was written since: messages only, each held to the schema."""
        frames = self.frames()
        assert all((frame.opcode, frame.fin, frame.rsv) == (TEXT, True, 0) for frame in frames), frames
        return [self._witness.heard(frame.payload) for frame in frames]

    def ending(self) -> tuple[int | None, bytes]:
        """The code and reason of our Close, which must be the last thing written, once; and the end must be near."""
        frames = self.frames()
        assert [frame.opcode for frame in frames].count(CLOSE) == 1, frames
        assert frames[-1].opcode == CLOSE, frames
        assert self.machine.closed
        assert not self.machine.wants_input and not self.machine.wants_turn
        return frames[-1].code, frames[-1].payload[2:]
