"""How many calls a second does `kvmcp serve --transport websocket` answer, next to the SDK that last spoke it?

    python -P benchmarks/websocket.py [--store dict|redis] [--quick] [--only NAME]… [--rounds N] [--seconds S]

Round trips of `tools/call redis_get` (a value of 100 bytes) to a real process over loopback, on one connection
at depth 1 (each answer awaited) and 64 (a window of requests in flight), and on 64 connections at depth 1. Frames are
made beforehand, by our own client's codec. As in `stdio.py`: values live in the server's memory or in a Redis that
is started for the run; load generator and Redis run on one core and the server on another; contenders take turns
within each round; a figure is the median of the rounds; ratios in one run are what counts. The SDK is 1.x, the last
with a WebSocket transport, under uvicorn and `websockets` as its documentation has it. `kvmcp-lines` is the same
server over TCP without WebSocket (`--transport tcp`), for scale.
"""

import argparse
import json
import os
import platform
import select
import socket
import statistics
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter, sleep
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path[:0] = [path for path in (str(ROOT), str(ROOT / "src")) if path not in sys.path]

from wsproto.connection import ConnectionType  # the checkout comes first

from benchmarks.stdio import (
    CHUNK,
    PATIENCE,
    Load,
    account,
    check_answer,
    cores,
    load,
    on_store,
    pin,
)
from kvmcp.io.websocket.frames import Frames

UPGRADE: Final = (
    b"GET /mcp HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: mcp\r\n\r\n"
)
MEASURES: Final = ((1, 1), (1, 64), (64, 1))
"""Connections, and the depth on each."""
TARGETS: Final = {(1, 1): 4.5, (1, 64): 40.0}
"""Ratios to the SDK that kvmcp has to reach with Redis."""


@dataclass(frozen=True)
class Contender:
    name: str
    command: tuple[str, ...]
    """`{port}` stands for the port."""
    is_lines: bool = False


# --- one connection -----------------------------------------------------------------------------------------------


class Wire:
    """A blocking connection, and what comes out of it counted."""

    def __init__(self, port: int, is_lines: bool) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._is_lines = is_lines
        self._rest = b""
        if not is_lines:
            self.socket.sendall(UPGRADE % port)
            while b"\r\n\r\n" not in self._rest:
                self._rest += self._receive()
            head, _, self._rest = self._rest.partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 101"):
                raise RuntimeError(f"no upgrade: {head.decode()}")

    def _receive(self) -> bytes:
        data = self.socket.recv(CHUNK)
        if not data:
            raise RuntimeError("the server closed the connection")
        return data

    def answers(self) -> int:
        """How many answers the next chunk completes."""
        data = self._receive()
        if b'"isError":true' in data or b'"error":{' in data:
            raise RuntimeError(f"an answer is an error: {data[:300]!r}")
        if self._is_lines:
            return data.count(b"\n")
        data, position, count = self._rest + data, 0, 0
        size = len(data)
        while position + 4 <= size:
            length = data[position + 1]
            start = position + 2
            if length == 126:
                length, start = data[position + 2] << 8 | data[position + 3], position + 4
            if start + length > size:
                break
            position, count = start + length, count + 1
        self._rest = data[position:]
        return count

    def ask(self, request: bytes) -> bytes:
        """The answer to one request."""
        self.socket.sendall(request)
        data = self._rest + self._receive()
        while self._is_lines and not data.endswith(b"\n"):
            data += self._receive()
        self._rest = b""
        answer = data if self._is_lines else data[4 if data[1] == 126 else 2 :]
        message = json.loads(answer)
        if "error" in message or message["result"].get("isError"):
            raise RuntimeError(f"refused: {answer.decode()}")
        return answer


class Encoded:
    """What is sent, as frames or as lines."""

    def __init__(self, messages: Load, is_lines: bool) -> None:
        def encode(message: bytes) -> bytes:
            frames = Frames(ConnectionType.CLIENT, 1 << 22)
            return message if is_lines or not message else frames.text([message.rstrip()])

        self.opening = encode(messages.opening)
        self.after_opening = encode(messages.after_opening)
        self.store = encode(messages.store)
        self.calls = [encode(call) for call in messages.calls]
        self.ring = self.calls * 2


# --- one server ---------------------------------------------------------------------------------------------------


class Process:
    """A running server."""

    def __init__(self, contender: Contender, server_cores: set[int], own_cores: set[int]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environ["PYTHONPATH"] = str(ROOT / "src")
        command = [word.format(port=self.port) for word in contender.command]
        pin(server_cores)  # The child inherits it.
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT, env=environ
        )
        pin(own_cores)
        self.pid = self._process.pid
        self._wait()

    def _wait(self) -> None:
        end = perf_counter() + PATIENCE
        while perf_counter() < end and self._process.poll() is None:
            try:
                return socket.create_connection(("127.0.0.1", self.port)).close()
            except ConnectionRefusedError:
                sleep(0.02)
        raise RuntimeError(f"no server on port {self.port} (status {self._process.poll()})")

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


# --- measuring ----------------------------------------------------------------------------------------------------


@dataclass
class Rate:
    calls_per_s: float
    p50_us: float
    p99_us: float
    cpu_us: float


@dataclass
class _Flight:
    """What is in flight on one connection."""

    wire: Wire
    position: int
    sent: "deque[tuple[float, int]]" = field(default_factory=deque)

    def send(self, encoded: Encoded, count: int) -> None:
        self.sent.append((perf_counter(), count))
        self.wire.socket.sendall(b"".join(encoded.ring[self.position : self.position + count]))
        self.position = (self.position + count) % len(encoded.calls)


def pump(wires: Sequence[Wire], encoded: Encoded, depth: int, seconds: float) -> list[float]:
    """Keep `depth` requests in flight on each connection; how long each took, in seconds."""
    latencies: list[float] = []
    flights = {wire.socket.fileno(): _Flight(wire, n * 61) for n, wire in enumerate(wires)}
    ready = select.epoll()
    for descriptor in flights:
        ready.register(descriptor, select.EPOLLIN)
    end = perf_counter() + seconds
    for flight in flights.values():
        flight.send(encoded, depth)
    in_flight = depth * len(flights)
    while in_flight:
        for descriptor, _ in ready.poll(PATIENCE):
            flight = flights[descriptor]
            answered = flight.wire.answers()
            now = perf_counter()
            account(latencies, flight.sent, now, answered)
            in_flight -= answered
            if answered and now < end:
                flight.send(encoded, answered)
                in_flight += answered
    ready.close()
    return latencies


def measure(
    process: Process, encoded: Encoded, is_lines: bool, connections: int, depth: int, seconds: float
) -> Rate:
    wires = [Wire(process.port, is_lines) for _ in range(connections)]
    try:
        for wire in wires:
            wire.ask(encoded.opening)
            wire.socket.sendall(encoded.after_opening)
            check_answer(wire.ask(encoded.calls[0]))
        pump(wires, encoded, depth, seconds / 10)
        cpu, begin = process.cpu_seconds(), perf_counter()
        latencies = pump(wires, encoded, depth, seconds)
        elapsed, cpu = perf_counter() - begin, process.cpu_seconds() - cpu
    finally:
        for wire in wires:
            wire.socket.close()
    latencies.sort()
    count = len(latencies)
    return Rate(
        count / elapsed, latencies[count // 2] * 1e6, latencies[count * 99 // 100] * 1e6, cpu / count * 1e6
    )


def run_round(contender: Contender, messages: Load, seconds: float) -> dict[tuple[int, int], Rate]:
    process = Process(contender, *cores())
    encoded = Encoded(messages, contender.is_lines)
    try:
        first = Wire(process.port, contender.is_lines)
        first.ask(encoded.opening)
        first.socket.sendall(encoded.after_opening)
        first.ask(encoded.store)
        first.socket.close()
        return {
            (connections, depth): measure(process, encoded, contender.is_lines, connections, depth, seconds)
            for connections, depth in MEASURES
        }
    finally:
        process.close()


# --- reporting ----------------------------------------------------------------------------------------------------


def emit(**members: object) -> None:
    print(json.dumps({"benchmark": "websocket", **members}), flush=True)


def name_of(measure: tuple[int, int]) -> str:
    return f"{measure[0]} x depth {measure[1]}"


def table(medians: dict[str, dict[tuple[int, int], float]], base: str | None) -> str:
    """A row per contender: calls a second, and the ratio to those of `base`."""
    heads = ["contender"]
    for measure in MEASURES:
        heads += [f"{name_of(measure)}", "ratio" if base is None else f"to {base}"]
    rows = [heads]
    for name, figures in medians.items():
        row = [name]
        for measure in MEASURES:
            ratio = "" if base is None else f"{figures[measure] / medians[base][measure]:.2f}x"
            row += [f"{figures[measure]:,.0f}", ratio]
        rows.append(row)
    if base is not None:
        wanted = ["target for kvmcp"]
        for measure in MEASURES:
            wanted += ["", f">= {TARGETS[measure]:g}x" if measure in TARGETS else ""]
        rows.append(wanted)
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )


# --- the command --------------------------------------------------------------------------------------------------


def contenders(args: argparse.Namespace, redis_url: str | None) -> list[Contender]:
    kvmcp = [sys.executable, "-P", "-m", "kvmcp", "serve", *(("--redis-url", redis_url) if redis_url else ())]

    def ours(loop: str, transport: str) -> tuple[str, ...]:
        return (*kvmcp, "--loop", loop, "--transport", transport + ":{port}")

    peer = (args.sdk_python, "-m", "benchmarks.peers.sdk1_websocket", "{port}")
    known = [
        Contender("kvmcp-asyncio", ours("asyncio", "websocket")),
        Contender("kvmcp-trio", ours("trio", "websocket")),
        Contender("kvmcp-lines", ours("asyncio", "tcp"), is_lines=True),
        Contender("sdk1", (*peer, redis_url) if redis_url else peer),
    ]
    there: list[Contender] = []
    for contender in known:
        if args.only and contender.name not in args.only:
            continue
        problem = what_is_missing(contender, redis_url)
        if problem:
            print(f"{contender.name} left out: {problem}", file=sys.stderr)
        else:
            there.append(contender)
    return there


def what_is_missing(contender: Contender, redis_url: str | None) -> str:
    """Why a contender cannot take part."""
    python = contender.command[0]
    if not Path(python).exists():
        return f"no {python} (make bench makes it)"
    modules = ["hiredis"] if redis_url else []
    if contender.name == "sdk1":
        modules += ["websockets", "uvicorn", *(["redis"] if redis_url else [])]
    for module in modules:
        command = [python, "-P", "-c", f"import {module}"]
        if subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode:
            return f"{python} has no {module}"
    return ""


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke test; its figures mean little")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="kvmcp-asyncio, kvmcp-trio, kvmcp-lines, sdk1"
    )
    parser.add_argument("--store", choices=("dict", "redis"), default="dict", help="where values live")
    parser.add_argument("--era", choices=("legacy", "modern"), default="legacy")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measure in each round")
    parser.add_argument("--sdk-python", default=str(ROOT / ".venvs/sdk1/bin/python"), metavar="PATH")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    on_store(parse(words), compare)


def compare(args: argparse.Namespace, redis_url: str | None) -> None:
    rounds, seconds = (1, 0.2) if args.quick else (args.rounds, args.seconds)
    chosen = contenders(args, redis_url)
    if not chosen:
        raise SystemExit("nobody to measure")
    messages = load(args.era)
    results: dict[str, list[dict[tuple[int, int], Rate]]] = {contender.name: [] for contender in chosen}
    for _ in range(rounds):
        for contender in chosen:
            results[contender.name].append(run_round(contender, messages, seconds))
    emit(
        measure="settings",
        era=args.era,
        store=args.store,
        rounds=rounds,
        seconds=seconds,
        quick=args.quick,
        python=platform.python_version(),
        system=platform.platform(),
    )
    medians: dict[str, dict[tuple[int, int], float]] = {}
    for name, rates in results.items():
        medians[name] = {}
        for measure in MEASURES:
            medians[name][measure] = report(name, measure, [rate[measure] for rate in rates])
    print(table(medians, "sdk1" if "sdk1" in medians else None))


def report(name: str, measure: tuple[int, int], rates: list[Rate]) -> float:
    """Print one result; its calls a second."""

    def median(of: Callable[[Rate], float], digits: int) -> float:
        return round(statistics.median(of(rate) for rate in rates), digits)

    calls_per_s = median(lambda rate: rate.calls_per_s, 0)
    emit(
        contender=name,
        measure=name_of(measure),
        calls_per_s=calls_per_s,
        p50_us=median(lambda rate: rate.p50_us, 1),
        p99_us=median(lambda rate: rate.p99_us, 1),
        cpu_us_per_call=median(lambda rate: rate.cpu_us, 2),
        rounds=[round(rate.calls_per_s) for rate in rates],
    )
    return calls_per_s


if __name__ == "__main__":
    main()
