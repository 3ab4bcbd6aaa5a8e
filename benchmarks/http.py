"""How many calls a second does `kvmcp serve --transport http` answer, next to other servers in Python?

    python -P benchmarks/http.py [--store redis|dict] [--quick] [--only NAME]… [--era legacy|modern] [--rounds N]
        [--seconds S] [--calls N]

Round trips of `tools/call redis_get` (a value of 100 bytes) to a real process over loopback, on 1, 16 and 64
connections that are kept, each with one request in flight. kvmcp runs under Hypercorn on both loops and under
uvicorn (`kvmcp[fast]`), the official SDK and FastMCP as they run themselves, which is under uvicorn with h11 and
asyncio, in their fastest mode: without sessions, one JSON body per answer. As in `stdio.py`: values live in the
server's memory or in a Redis that is started for the run; load generator and Redis run on one core and the server
on another; contenders take turns within each round; a figure is the median of the rounds; ratios in one run are
what counts. Requests are made beforehand, and of answers only their status and length are looked at. After the
rounds each contender answers `--calls` more on 16 connections: whether its memory grows.
"""

import argparse
import json
import platform
import select
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path[:0] = [path for path in (str(ROOT), str(ROOT / "src")) if path not in sys.path]

from benchmarks.stdio import CHUNK, PATIENCE, Load, check_answer, cores, load, on_store
from benchmarks.websocket import Contender, Process, Rate

CONNECTIONS: Final = (1, 16, 64)
GROWTH_CONNECTIONS: Final = 16
BASES: Final = ("sdk", "fastmcp")
"""Contenders that ratios are made to."""
TARGETS: Final = {"kvmcp-asyncio": 2.0, "kvmcp-uvicorn": 9.0}
"""Ratios to the SDK that kvmcp has to reach with Redis, at 16 connections."""
WARM_UP: Final = 0.1
"""Of the seconds of a measurement, before it."""

HEAD: Final = (
    b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: benchmark/1\r\nAccept: application/json, text/event-stream\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n%b\r\n"
)
MODERN: Final = b"Mcp-Protocol-Version: 2026-07-28\r\nMcp-Method: %b\r\n%b"
LEGACY: Final = b"Mcp-Protocol-Version: 2025-11-25\r\n"


# --- requests and answers -----------------------------------------------------------------------------------------


class Requests:
    """The messages of a load as requests to one server. `session` is the header that the server wants to see again."""

    def __init__(self, messages: Load, era: str, port: int) -> None:
        self._era = era
        self._port = port
        self._messages = messages
        self.session = b""
        self.opening = self._request(messages.opening, b"server/discover")
        if era == "legacy":
            self.opening = self._wrap(messages.opening, b"")

    def call(self, message: bytes, tool: bytes = b"redis_get") -> bytes:
        return self._request(message, b"tools/call", b"Mcp-Name: %b\r\n" % tool)

    @property
    def after_opening(self) -> bytes:
        return self._request(self._messages.after_opening, b"")

    @property
    def store(self) -> bytes:
        return self.call(self._messages.store, b"redis_set")

    def calls(self) -> list[bytes]:
        return [self.call(message) for message in self._messages.calls]

    def _request(self, message: bytes, method: bytes, name: bytes = b"") -> bytes:
        fields = MODERN % (method, name) if self._era == "modern" else LEGACY + self.session
        return self._wrap(message, fields)

    def _wrap(self, message: bytes, fields: bytes) -> bytes:
        body = message.rstrip()
        return HEAD % (self._port, len(body), fields) + body


def size_of(data: bytes) -> int:
    """How long the response at the start of `data` is, 0 where its head is not complete."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return 0
    if not data.startswith(b"HTTP/1.1 20"):
        raise RuntimeError(f"refused: {data[:1000].decode()}")
    head = data[: end + 2].lower()
    start = head.find(b"\ncontent-length:")
    if start < 0:
        raise RuntimeError(f"an answer of unknown length: {data[:1000].decode()}")
    return end + 4 + int(head[start + 16 : head.index(b"\r", start)])


class Wire:
    """One connection, with at most one request in flight."""

    def __init__(self, port: int, position: int = 0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.position = position
        self.sent_at = 0.0
        self._rest = b""

    def answer(self) -> bytes | None:
        """Read once; the whole answer, None where more of it is to come."""
        data = self.socket.recv(CHUNK)
        if not data:
            raise RuntimeError("the server closed the connection")
        data = self._rest + data
        size = size_of(data)
        if not size or len(data) < size:
            self._rest = data
            return None
        self._rest = b""
        return data

    def ask(self, request: bytes) -> tuple[bytes, bytes]:
        """The head and the body of the answer to one request."""
        self.socket.sendall(request)
        while (data := self.answer()) is None:
            pass
        head, _, body = data.partition(b"\r\n\r\n")
        return head, body


# --- one server ---------------------------------------------------------------------------------------------------


class Server(Process):
    """A running server that has a value to give."""

    def __init__(self, contender: Contender, messages: Load, era: str) -> None:
        super().__init__(contender, *cores())
        try:
            requests = Requests(messages, era, self.port)
            wire = Wire(self.port)
            head, body = wire.ask(requests.opening)
            result = json.loads(body)["result"]
            info = result.get("serverInfo") or result["_meta"]["io.modelcontextprotocol/serverInfo"]
            self.version: str = info["version"]
            for line in head.split(b"\r\n"):
                if line.lower().startswith(b"mcp-session-id:"):
                    requests.session = line + b"\r\n"
            if messages.after_opening:
                wire.ask(requests.after_opening)
            wire.ask(requests.store)
            self.calls = requests.calls()
            check_answer(wire.ask(self.calls[0])[1])
            wire.socket.close()
        except BaseException:
            self.close()
            raise

    def rss_kib(self) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))


# --- measuring ----------------------------------------------------------------------------------------------------


@dataclass
class Growth:
    before_kib: int
    after_kib: int


def pump(server: Server, connections: int, *, seconds: float = 1e9, count: int = sys.maxsize) -> list[float]:
    """Keep one request in flight on each connection; how long each took, in seconds."""
    calls, latencies = server.calls, list[float]()
    wires = {wire.socket.fileno(): wire for wire in (Wire(server.port, n * 61) for n in range(connections))}
    ready = select.epoll()
    try:
        for descriptor, wire in wires.items():
            ready.register(descriptor, select.EPOLLIN)
            wire.sent_at = perf_counter()
            wire.socket.sendall(calls[wire.position])
        end, in_flight = perf_counter() + seconds, connections
        while in_flight:
            events = ready.poll(PATIENCE)
            if not events:
                raise RuntimeError(f"no answer for {PATIENCE:.0f} s")
            for descriptor, _ in events:
                wire = wires[descriptor]
                data = wire.answer()
                if data is None:
                    continue
                if b'"isError":true' in data or b'"error":{' in data:
                    raise RuntimeError(f"an answer is an error: {data!r}")
                now = perf_counter()
                latencies.append(now - wire.sent_at)
                if now < end and len(latencies) + in_flight <= count:
                    wire.position = (wire.position + 1) % len(calls)
                    wire.sent_at = now
                    wire.socket.sendall(calls[wire.position])
                else:
                    in_flight -= 1
        return latencies
    finally:
        ready.close()
        for wire in wires.values():
            wire.socket.close()


def measure(server: Server, connections: int, seconds: float) -> Rate:
    pump(server, connections, seconds=seconds * WARM_UP)
    cpu, begin = server.cpu_seconds(), perf_counter()
    latencies = pump(server, connections, seconds=seconds)
    elapsed, cpu = perf_counter() - begin, server.cpu_seconds() - cpu
    latencies.sort()
    count = len(latencies)
    p50, p99 = latencies[count // 2] * 1e6, latencies[count * 99 // 100] * 1e6
    return Rate(count / elapsed, p50, p99, cpu / count * 1e6)


def measure_growth(server: Server, calls: int) -> Growth:
    """Memory before and after; what a first tenth of the calls takes is there to stay."""
    pump(server, GROWTH_CONNECTIONS, count=max(calls // 10, GROWTH_CONNECTIONS))
    before = server.rss_kib()
    pump(server, GROWTH_CONNECTIONS, count=calls)
    return Growth(before, server.rss_kib())


class Figures:
    """All rounds of one contender."""

    def __init__(self, contender: Contender) -> None:
        self.contender = contender
        self.version = ""
        self.rates: dict[int, list[Rate]] = {connections: [] for connections in CONNECTIONS}
        self.growth = Growth(0, 0)

    def run(self, messages: Load, era: str, seconds: float) -> None:
        server = Server(self.contender, messages, era)
        try:
            self.version = server.version
            for connections, rates in self.rates.items():
                rates.append(measure(server, connections, seconds))
        finally:
            server.close()

    def grow(self, messages: Load, era: str, calls: int) -> None:
        server = Server(self.contender, messages, era)
        try:
            self.growth = measure_growth(server, calls)
        finally:
            server.close()

    def calls_per_s(self, connections: int) -> float:
        return statistics.median(rate.calls_per_s for rate in self.rates[connections])


# --- reporting ----------------------------------------------------------------------------------------------------


def emit(**members: object) -> None:
    print(json.dumps({"benchmark": "http", **members}), flush=True)


def name_of(connections: int) -> str:
    return f"{connections} connection{'s' if connections > 1 else ''}"


def report(figures: Figures, calls: int) -> None:
    """Print the results of one contender."""
    who = {"contender": figures.contender.name, "version": figures.version}

    def median(rates: list[Rate], of: Callable[[Rate], float], digits: int) -> float:
        return round(statistics.median(map(of, rates)), digits)

    for connections, rates in figures.rates.items():
        emit(
            **who,
            measure=name_of(connections),
            calls_per_s=round(figures.calls_per_s(connections)),
            p50_us=median(rates, lambda rate: rate.p50_us, 1),
            p99_us=median(rates, lambda rate: rate.p99_us, 1),
            cpu_us_per_call=median(rates, lambda rate: rate.cpu_us, 2),
            rounds=[round(rate.calls_per_s) for rate in rates],
        )
    growth = figures.growth
    if calls:
        emit(**who, measure="RSS", calls=calls, before_kib=growth.before_kib, after_kib=growth.after_kib)


def table(measured: Sequence[Figures], base: Figures | None, calls: int) -> str:
    """A row per contender: calls a second and their ratio to those of `base`, CPU time, memory."""
    heads = ["contender"]
    for connections in CONNECTIONS:
        heads += [name_of(connections), "ratio" if base is None else f"to {base.contender.name}"]
    heads += ["CPU us/call at 16", "p99 us at 16", *(["RSS MiB", f"after {calls:,} calls"] if calls else [])]
    rows = [heads]
    for figures in measured:
        row = [figures.contender.name]
        for connections in CONNECTIONS:
            rate = figures.calls_per_s(connections)
            ratio = "" if base is None else f"{rate / base.calls_per_s(connections):.2f}x"
            row += [f"{rate:,.0f}", ratio]
        row += [f"{statistics.median(rate.cpu_us for rate in figures.rates[16]):.0f}"]
        row += [f"{statistics.median(rate.p99_us for rate in figures.rates[16]):,.0f}"]
        if calls:
            growth = figures.growth
            row += [f"{growth.before_kib / 1024:.1f}", f"{growth.after_kib / 1024:.1f}"]
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )


def targets(measured: Sequence[Figures], base: Figures) -> str:
    """What kvmcp has to reach next to the SDK."""
    return "\n".join(
        f"target for {figures.contender.name} at 16 connections: >= {TARGETS[figures.contender.name]:g}x; "
        f"reached: {figures.calls_per_s(16) / base.calls_per_s(16):.2f}x"
        for figures in measured
        if figures.contender.name in TARGETS
    )


# --- the command --------------------------------------------------------------------------------------------------


def contenders(args: argparse.Namespace, redis_url: str | None) -> list[Contender]:
    """Those asked for whose interpreter is there and has what they need."""
    kvmcp = [sys.executable, "-P", "-m", "kvmcp", "serve", *(("--redis-url", redis_url) if redis_url else ())]
    store = (redis_url,) if redis_url else ()

    def ours(*flags: str) -> tuple[str, ...]:
        return (*kvmcp, "--transport", "http:{port}", "--log-level", "warning", *flags)

    known = {
        Contender("kvmcp-asyncio", ours("--loop", "asyncio")): ("hypercorn",),
        Contender("kvmcp-trio", ours("--loop", "trio")): ("hypercorn", "trio"),
        Contender("kvmcp-uvicorn", ours("--http-server", "uvicorn", "--loop", "uvloop")): (
            "uvicorn",
            "httptools",
            "uvloop",
        ),
        Contender("sdk", (args.sdk_python, "-m", "benchmarks.peers.sdk_http", "{port}", *store)): ("mcp",),
        Contender(
            "fastmcp", (args.fastmcp_python, "-m", "benchmarks.peers.fastmcp_http", "{port}", *store)
        ): ("fastmcp",),
    }
    names = [contender.name for contender in known]
    unknown = set(args.only or ()) - set(names)
    if unknown:
        raise SystemExit(f"no contender {', '.join(sorted(unknown))}; there are: {', '.join(names)}")
    there: list[Contender] = []
    for contender, modules in known.items():
        if args.only and contender.name not in args.only:
            continue
        if redis_url:
            modules = (*modules, "hiredis", *(() if contender.name.startswith("kvmcp") else ("redis",)))
        problem = what_is_missing(contender.command[0], modules)
        if problem:
            print(f"{contender.name} left out: {problem}", file=sys.stderr)
        else:
            there.append(contender)
    return there


def what_is_missing(python: str, modules: Sequence[str]) -> str:
    """Why a contender cannot take part."""
    if not Path(python).exists():
        return f"no {python} (make bench makes it)"
    for module in modules:
        command = [python, "-P", "-c", f"import {module}"]
        if subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode:
            return f"{python} has no {module}"
    return ""


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke test; its figures mean little")
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help="kvmcp-asyncio, kvmcp-trio, kvmcp-uvicorn, sdk or fastmcp",
    )
    parser.add_argument("--store", choices=("dict", "redis"), default="redis", help="where values live")
    parser.add_argument(
        "--era", choices=("legacy", "modern"), default="legacy", help="2025-11-25 or 2026-07-28"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each measure in each round")
    parser.add_argument(
        "--calls", type=int, default=100_000, help="after which memory is looked at again; 0 for none"
    )
    parser.add_argument("--sdk-python", default=str(ROOT / ".venvs/sdk2/bin/python"), metavar="PATH")
    parser.add_argument("--fastmcp-python", default=str(ROOT / ".venvs/fastmcp/bin/python"), metavar="PATH")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    on_store(parse(words), compare)


def compare(args: argparse.Namespace, redis_url: str | None) -> None:
    rounds, seconds, calls = args.rounds, args.seconds, args.calls
    if args.quick:
        rounds, seconds, calls = 1, 0.2, min(calls, 200)
    measured = [Figures(contender) for contender in contenders(args, redis_url)]
    if not measured:
        raise SystemExit("nobody to measure")
    messages = load(args.era)
    for _ in range(rounds):
        for figures in measured:
            figures.run(messages, args.era, seconds)
    for figures in measured if calls else ():
        figures.grow(messages, args.era, calls)
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
    for figures in measured:
        report(figures, calls)
    by_name = {figures.contender.name: figures for figures in measured}
    bases: list[Figures | None] = [by_name[name] for name in BASES if name in by_name]
    print("\n\n".join(table(measured, base, calls) for base in bases or [None]))
    if "sdk" in by_name and args.store == "redis":
        print("\n" + targets(measured, by_name["sdk"]))


if __name__ == "__main__":
    main()
