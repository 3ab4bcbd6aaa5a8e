"""How far is an agent's client from `kvmcp serve` over stdio, next to other servers in Python?

    python benchmarks/stdio.py [--store dict|redis] [--quick] [--only NAME]… [--era legacy|modern] [--rounds N]

Round trips of `tools/call redis_get` (a value of 100 bytes) to a real process through pipes, at depth 1 (each
answer awaited) and depth 64 (a sliding window of requests in flight); from the start of the process to its
first answers; memory and CPU time. Requests are encoded beforehand. Values live in the server's own memory, or
(`--store redis`) in a Redis that is started for the run: kvmcp gets `--redis-url`, the others use
`redis.asyncio` as its users do. This process, the load generator, and Redis run on one core and the server on
another, where there are two. Contenders take turns within each round, so that noise meets all of them; a figure
is the median of the rounds. One JSON line per result, then the tables. Absolute figures move by 10-30% between
runs: the ratios to the SDK's server in one run are what counts. `sdk` is the SDK as its documentation shows it,
`sdk-lowlevel` the same without its decorators; there is a table of ratios to each.

Answer (21 November 2026, 2 cores of a busy host whose speed moves by half within a run, CPython 3.11, legacy era; SDK
2.3.0, redis-py 8.1 with hiredis, Redis 7.0; `--rounds 21 --seconds 0.25`), as ratios to `sdk`:

    store          depth 1   depth 64   first answer   RSS
    dict           11.2x     75x        0.20x          0.42x
    dict, trio     11.4x     80x        0.29x          0.48x
    redis          5.0x      96x        0.24x          0.41x
    redis, trio    5.1x      89x        0.26x          0.45x

At depth 64 other runs gave 57x to 100x for the dict and 73x to 116x for Redis; the longest, of 41 rounds, 85x with Redis
and 82x on trio as the median of the rounds' own ratios. Met are depth 1 and, on asyncio, the first answer; not met are
depth 64 (41,000 instructions a call in memory, 7,500 of them SHA-1 for the etag; 52,000 with Redis) and memory: what
asyncio, anyio, msgspec and ssl take before a line of ours is 24.3 MiB, 27.9 with trio.
"""

import argparse
import json
import os
import platform
import select
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, sleep

ROOT = Path(__file__).resolve().parent.parent

KEY = "user:1"
VALUE = {"name": "Ada Lovelace", "mail": "ada@example.org", "visits": 42, "note": "x" * 31}
"""100 bytes of JSON text."""

REQUESTS = 4096
"""Encoded requests, sent in turn. More than the depth, so that no id is twice in flight."""
CHUNK = 1 << 16
PATIENCE = 30.0
"""Seconds without an answer until a contender is given up."""

BASES = ("sdk", "sdk-lowlevel")
"""Contenders that ratios are made to."""
TARGETS = {"depth 1": 5.0, "depth 64": 100.0, "first answer": 0.25, "RSS": 0.4}
"""Ratios to the SDK's server that kvmcp has to reach: at least for rates, at most for time and memory."""


@dataclass(frozen=True)
class Contender:
    name: str
    command: tuple[str, ...]
    modules: tuple[str, ...] = ("redis", "hiredis")
    """What it needs for Redis. redis-py would do without hiredis, and be half as fast."""


@dataclass(frozen=True)
class Load:
    """What is sent: the first messages of a connection, and the calls."""

    opening: bytes
    after_opening: bytes
    store: bytes
    calls: list[bytes]


@dataclass(frozen=True)
class Plan:
    """How long and how often."""

    rounds: int
    seconds: float
    warm_up: int
    depths: tuple[int, ...] = (1, 64)


# --- requests -------------------------------------------------------------------------------------------------


def encode(id: int | None, method: str, params: dict[str, object]) -> bytes:
    numbered = {} if id is None else {"id": id}
    message = {"jsonrpc": "2.0", **numbered, "method": method, "params": params}
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def load(era: str) -> Load:
    meta: dict[str, object] = {}
    info: dict[str, object] = {"name": "benchmark", "version": "1"}
    if era == "modern":
        reserved = "io.modelcontextprotocol/"
        envelope: dict[str, object] = {
            "protocolVersion": "2026-07-28",
            "clientCapabilities": {},
            "clientInfo": info,
        }
        meta = {"_meta": {reserved + name: value for name, value in envelope.items()}}
        opening, after_opening = encode(0, "server/discover", meta), b""
    else:
        hello: dict[str, object] = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info}
        opening = encode(0, "initialize", hello)
        after_opening = encode(None, "notifications/initialized", {})

    def call(id: int, name: str, arguments: dict[str, object]) -> bytes:
        return encode(id, "tools/call", {"name": name, "arguments": arguments, **meta})

    calls = [call(id, "redis_get", {"key": KEY}) for id in range(10, 10 + REQUESTS)]
    store = call(1, "redis_set", {"key": KEY, "value": VALUE})
    return Load(opening, after_opening, store, calls)


# --- one server -----------------------------------------------------------------------------------------------


class Process:
    """A running server: what is written to it, what it answers, what it uses."""

    def __init__(self, contender: Contender, server_cores: set[int], own_cores: set[int]) -> None:
        # As installed: modules are compiled once. A working copy may be kept from writing what it compiled.
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        pin(server_cores)  # The child inherits it.
        self._process = subprocess.Popen(
            contender.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd=ROOT,
            env=environ,
        )
        pin(own_cores)
        assert self._process.stdin is not None and self._process.stdout is not None
        self._writer = self._process.stdin.fileno()
        self._reader = self._process.stdout.fileno()
        self._readable = select.poll()
        self._readable.register(self._reader, select.POLLIN)

    def send(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._writer, data) :]

    def receive(self) -> bytes:
        """The next chunk. Raises RuntimeError when the server ends, or is silent for too long."""
        if not self._readable.poll(PATIENCE * 1000):
            raise RuntimeError(f"no answer for {PATIENCE:.0f} s")
        data = os.read(self._reader, CHUNK)
        if not data:
            raise RuntimeError(f"the server ended with status {self._process.wait()}")
        return data

    def ask(self, request: bytes) -> bytes:
        """The answer to one request, which must not be an error."""
        self.send(request)
        answer = b""
        while not answer.endswith(b"\n"):
            answer += self.receive()
        message = json.loads(answer)
        if "error" in message or message["result"].get("isError"):
            raise RuntimeError(f"refused: {answer.decode()}")
        return answer

    def cpu_seconds(self) -> float:
        """User and system time of all its threads."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_kib(self) -> int:
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def pin(cores: set[int]) -> None:
    if cores:
        os.sched_setaffinity(0, cores)


@contextmanager
def redis_server(cores: set[int]) -> Generator[str]:
    """The URL of an empty Redis of our own on the loopback, which keeps nothing and ends with the context."""
    binary = shutil.which("redis-server")
    if binary is None:
        raise SystemExit("--store redis needs redis-server on the PATH (on Debian: apt install redis-server)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pin(cores)
    with tempfile.TemporaryDirectory() as folder:
        where = ["--bind", "127.0.0.1", "--port", str(port), "--dir", folder]
        process = subprocess.Popen(
            [binary, *where, "--save", "", "--appendonly", "no"], stdout=subprocess.DEVNULL
        )
        try:
            wait_for(port, process)
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    end = perf_counter() + PATIENCE
    while perf_counter() < end and process.poll() is None:
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            sleep(0.02)
    raise SystemExit(f"redis-server did not come up on port {port} (status {process.poll()})")


# --- measuring ------------------------------------------------------------------------------------------------


@dataclass
class Start:
    initialized_ms: float
    answered_ms: float
    rss_kib: int
    info: dict[str, str]


@dataclass
class Rate:
    calls_per_s: float
    p50_us: float
    p99_us: float
    cpu_us: float


def opened(start: Callable[[], Process], load: Load, plan: Plan) -> tuple[Process, Start]:
    """A server that is warm, and how long its first answers took."""
    begin = perf_counter()
    process = start()
    try:
        hello = json.loads(process.ask(load.opening))
        initialized = perf_counter()
        process.send(load.after_opening)
        process.ask(load.store)
        answered = perf_counter()
        check_answer(process.ask(load.calls[0]))
        pump(process, load.calls, 64, count=plan.warm_up)
    except BaseException:
        process.close()
        raise
    result = hello["result"]
    info = result.get("serverInfo") or result["_meta"]["io.modelcontextprotocol/serverInfo"]
    milliseconds = (initialized - begin) * 1000, (answered - begin) * 1000
    return process, Start(*milliseconds, process.rss_kib(), info)


def check_answer(answer: bytes) -> None:
    """All contenders give the value both ways: as data, and as text."""
    result = json.loads(answer)["result"]
    data = result["structuredContent"]  # kvmcp's has an etag besides
    if data.get("value") != VALUE or json.loads(result["content"][0]["text"]) != data:
        raise RuntimeError(f"an answer that does not fit: {answer.decode()}")


def measure(process: Process, load: Load, depth: int, seconds: float) -> Rate:
    cpu = process.cpu_seconds()
    begin = perf_counter()
    latencies = pump(process, load.calls, depth, seconds=seconds)
    elapsed = perf_counter() - begin
    cpu = process.cpu_seconds() - cpu
    latencies.sort()
    count = len(latencies)
    p50, p99 = latencies[count // 2] * 1e6, latencies[count * 99 // 100] * 1e6
    return Rate(count / elapsed, p50, p99, cpu / count * 1e6)


def pump(
    process: Process, calls: list[bytes], depth: int, *, count: int = sys.maxsize, seconds: float = 1e9
) -> list[float]:
    """Keep `depth` requests in flight; how long each took, in seconds.

    Answers are counted, not parsed: the first one back is taken for the first one sent.
    """
    latencies: list[float] = []
    sent: deque[tuple[float, int]] = deque()
    ring = calls + calls[:depth]
    position, in_flight, missing = 0, 0, min(depth, count)
    end = perf_counter() + seconds
    while missing or in_flight:
        if missing:
            sent.append((perf_counter(), missing))
            process.send(b"".join(ring[position : position + missing]))
            position = (position + missing) % len(calls)
            in_flight += missing
        data = process.receive()
        if b'"isError":true' in data or b'"error":{' in data:
            raise RuntimeError("an answer is an error")
        now, answered = perf_counter(), data.count(b"\n")
        in_flight -= answered
        account(latencies, sent, now, answered)
        room = count - len(latencies) - in_flight
        missing = min(answered, room) if now < end else 0
    return latencies


def account(latencies: list[float], sent: "deque[tuple[float, int]]", now: float, answered: int) -> None:
    while answered:
        when, outstanding = sent.popleft()
        settled = min(outstanding, answered)
        latencies += [now - when] * settled
        answered -= settled
        if settled < outstanding:
            sent.appendleft((when, outstanding - settled))


class Figures:
    """All rounds of one contender."""

    def __init__(self) -> None:
        self.starts: list[Start] = []
        self.rates: dict[int, list[Rate]] = {}

    def run(self, start: Callable[[], Process], load: Load, plan: Plan) -> None:
        process, started = opened(start, load, plan)
        try:
            self.starts.append(started)
            for depth in plan.depths:
                self.rates.setdefault(depth, []).append(measure(process, load, depth, plan.seconds))
        finally:
            process.close()

    def results(self) -> dict[str, dict[str, object]]:
        """By measure; `median` of the rounds, and what each of them gave."""
        results: dict[str, dict[str, object]] = {}
        for depth, rates in self.rates.items():
            results[f"depth {depth}"] = {
                "calls_per_s": round(statistics.median(rate.calls_per_s for rate in rates)),
                "p50_us": round(statistics.median(rate.p50_us for rate in rates), 1),
                "p99_us": round(statistics.median(rate.p99_us for rate in rates), 1),
                "cpu_us_per_call": round(statistics.median(rate.cpu_us for rate in rates), 2),
                "rounds": [round(rate.calls_per_s) for rate in rates],
            }
        results["first answer"] = {
            "initialize_ms": round(statistics.median(start.initialized_ms for start in self.starts), 1),
            "tools_call_ms": round(statistics.median(start.answered_ms for start in self.starts), 1),
            "rounds": [round(start.answered_ms, 1) for start in self.starts],
        }
        results["RSS"] = {"kib": round(statistics.median(start.rss_kib for start in self.starts))}
        return results


# --- reporting ------------------------------------------------------------------------------------------------

FIGURE = {"first answer": "tools_call_ms", "RSS": "kib"}
"""The figure of a measure that ratios are made of; rates have `calls_per_s`."""


def emit(**members: object) -> None:
    print(json.dumps({"benchmark": "stdio", **members}), flush=True)


def figure(results: dict[str, dict[str, object]], measure: str) -> float:
    value = results[measure][FIGURE.get(measure, "calls_per_s")]
    assert isinstance(value, int | float)
    return value


def table(all_results: dict[str, dict[str, dict[str, object]]], base_name: str | None) -> str:
    """A row per contender: the figures, and each as a ratio to those of `base_name`."""
    measures = list(next(iter(all_results.values())))
    base = None if base_name is None else all_results[base_name]
    heads = ["contender"]
    for measure in measures:
        heads += [measure + {"RSS": " MiB", "first answer": " ms"}.get(measure, " calls/s")]
        heads += ["ratio" if base_name is None else f"to {base_name}"]
    rows = [heads]
    for name, results in all_results.items():
        row = [name]
        for measure in measures:
            value = figure(results, measure)
            row.append(f"{value / 1024:.1f}" if measure == "RSS" else f"{value:,.0f}")
            row.append("" if base is None else f"{value / figure(base, measure):.2f}x")
        rows.append(row)
    if base is not None:
        wanted = ["target for kvmcp"]
        for measure in measures:
            at_most = measure in FIGURE
            wanted += ["", f"{'<=' if at_most else '>='} {TARGETS[measure]:g}x" if measure in TARGETS else ""]
        rows.append(wanted)
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )


# --- the command ----------------------------------------------------------------------------------------------


def contenders(args: argparse.Namespace, redis_url: str | None) -> list[Contender]:
    """Those asked for whose interpreter is there and has what they need."""
    kvmcp = (sys.executable, "-m", "kvmcp", "serve", *(("--redis-url", redis_url) if redis_url else ()))
    store = (redis_url,) if redis_url else ()
    known = [
        Contender("kvmcp-asyncio", (*kvmcp, "--loop", "asyncio"), ("hiredis",)),
        Contender("kvmcp-trio", (*kvmcp, "--loop", "trio"), ("hiredis",)),
        Contender("sdk", (args.sdk_python, "-m", "benchmarks.peers.sdk_server", *store)),
        Contender("sdk-lowlevel", (args.sdk_python, "-m", "benchmarks.peers.sdk_lowlevel_server", *store)),
        Contender("fastmcp", (args.fastmcp_python, "-m", "benchmarks.peers.fastmcp_server", *store)),
    ]
    unknown = set(args.only or ()) - {contender.name for contender in known}
    if unknown:
        raise SystemExit(
            f"no contender {', '.join(sorted(unknown))}; there are: {', '.join(c.name for c in known)}"
        )
    there: list[Contender] = []
    for contender in known:
        if args.only and contender.name not in args.only:
            continue
        missing = what_is_missing(contender.command[0], contender.modules if redis_url else ())
        if missing is None:
            there.append(contender)
        else:
            print(f"{contender.name} left out: {missing}", file=sys.stderr)
    return there


def what_is_missing(python: str, modules: Sequence[str]) -> str | None:
    """Why a contender cannot take part."""
    if not Path(python).exists():
        return f"no {python} (make bench makes it)"
    for module in modules:
        command = [python, "-c", f"import {module}"]
        if subprocess.run(command, check=False, stderr=subprocess.DEVNULL, cwd=ROOT).returncode:
            return f"{python} has no {module}, which --store redis needs"
    return None


def cores() -> tuple[set[int], set[int]]:
    """Where the server runs, and where this process does; empty sets where they cannot be kept apart."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return ({allowed[0]}, {allowed[1]}) if len(allowed) > 1 else (set(), set())


def run(chosen: Sequence[Contender], load: Load, plan: Plan) -> dict[str, Figures]:
    server_cores, own_cores = cores()
    figures = {contender.name: Figures() for contender in chosen}
    for contender in chosen:
        warm = Process(contender, server_cores, own_cores)
        warm.ask(load.opening)
        warm.close()
    for _ in range(plan.rounds):
        for contender in chosen:

            def start(contender: Contender = contender) -> Process:
                return Process(contender, server_cores, own_cores)

            figures[contender.name].run(start, load, plan)
    return figures


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="a smoke test of some seconds; its figures mean little"
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help="kvmcp-asyncio, kvmcp-trio, sdk, sdk-lowlevel or fastmcp",
    )
    parser.add_argument(
        "--store",
        choices=("dict", "redis"),
        default="dict",
        help="where values live: in the server, or in Redis",
    )
    parser.add_argument(
        "--era", choices=("legacy", "modern"), default="legacy", help="2025-11-25 or 2026-07-28"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each depth in each round")
    parser.add_argument("--sdk-python", default=str(ROOT / ".venvs/sdk2/bin/python"), metavar="PATH")
    parser.add_argument("--fastmcp-python", default=str(ROOT / ".venvs/fastmcp/bin/python"), metavar="PATH")
    return parser.parse_args(words)


def on_store(args: argparse.Namespace, compare: Callable[[argparse.Namespace, str | None], None]) -> None:
    """Compare with the store that was asked for; a Redis runs for as long as that takes."""
    if args.store == "dict":
        return compare(args, None)
    with redis_server(cores()[1]) as url:
        compare(args, url)


def main(words: Sequence[str] | None = None) -> None:
    on_store(parse(words), compare)


def compare(args: argparse.Namespace, redis_url: str | None) -> None:
    plan = Plan(args.rounds, args.seconds, warm_up=2000)
    if args.quick:
        plan = Plan(rounds=1, seconds=0.2, warm_up=64)
    chosen = contenders(args, redis_url)
    if not chosen:
        raise SystemExit("nobody to measure")
    server_cores, own_cores = cores()
    pinned = {"server": sorted(server_cores), "load": sorted(own_cores)}
    figures = run(chosen, load(args.era), plan)
    machine = {"python": platform.python_version(), "system": platform.platform(), "pinned": pinned}
    emit(
        measure="settings",
        era=args.era,
        store=args.store,
        rounds=plan.rounds,
        seconds=plan.seconds,
        quick=args.quick,
        **machine,
    )
    all_results = {name: measured.results() for name, measured in figures.items()}
    for name, results in all_results.items():
        for measure, result in results.items():
            emit(contender=name, version=figures[name].starts[0].info["version"], measure=measure, **result)
    bases: list[str | None] = [name for name in BASES if name in all_results]
    print("\n\n".join(table(all_results, base) for base in bases or [None]))


if __name__ == "__main__":
    main()
