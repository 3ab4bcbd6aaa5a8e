"""How many operations a second does our own link to Redis reach, and would a client library do?

GET of 100 bytes against a local Redis: one at a time, 64 tasks at once, pipelines of 64. One process per contender
and loop; one JSON line per result, the table last.

    python benchmarks/redis.py [--seconds 2] [--rounds 3] [--url redis://127.0.0.1:6379]

Answer (two cores that others used as well, CPython 3.11, Redis 7.0 on loopback, two runs, medians of 3; ratios within
one run are what counts): one at a time 13,000-27,000 a second, 64 tasks 100,000-111,000, pipelines of 64
266,000-319,000, with values checked and deadlines and outcomes kept. redis-py's asyncio client reaches 10,000-14,000,
15,000-21,000 and 61,000-108,000 (and does not run on trio), coredis 4,000-6,500, 8,000-21,000 and 80,000-102,000.
"""

import argparse
import contextlib
import json
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Final, TypeAlias

import anyio

CONTENDERS: Final = [
    ("kvmcp", "asyncio"),
    ("kvmcp", "trio"),
    ("redis-py", "asyncio"),
    ("coredis", "asyncio"),
    ("coredis", "trio"),
]
SHAPES: Final = ["one at a time", "64 tasks", "pipelines of 64"]
VALUE: Final = b'"' + b"x" * 98 + b'"'
WIDTH: Final = 64

Once: TypeAlias = Callable[[], Awaitable[object]]
"""One GET, or one pipeline of them."""


class Client:
    """What a contender can do."""

    def __init__(self, get: Once, pipeline: Once) -> None:
        self.get = get
        self.pipeline = pipeline


@contextlib.asynccontextmanager
async def kvmcp_client(url: str) -> AsyncIterator[Client]:
    from kvmcp.backends.ops import Get, Namespace, Set
    from kvmcp.backends.redis import open_backend

    backend = open_backend(url)
    await backend.start()
    key = Namespace("bench").key("k")
    assert await backend.execute([Set(key, VALUE)]) == [True]
    one, many = [Get(key)], [Get(key)] * WIDTH
    assert await backend.execute(many) == [VALUE] * WIDTH
    yield Client(lambda: backend.execute(one), lambda: backend.execute(many))
    await backend.aclose()


@contextlib.asynccontextmanager
async def redis_py_client(url: str) -> AsyncIterator[Client]:
    from redis.asyncio import Redis

    client = Redis.from_url(url)
    await client.set("bench", VALUE)

    async def pipeline() -> object:
        pipe = client.pipeline(transaction=False)
        for _ in range(WIDTH):
            pipe.get("bench")
        return await pipe.execute()

    yield Client(lambda: client.get("bench"), pipeline)
    await client.aclose()


@contextlib.asynccontextmanager
async def coredis_client(url: str) -> AsyncIterator[Client]:
    import coredis

    async with coredis.Redis.from_url(url) as client:
        await client.set("bench", VALUE)

        async def pipeline() -> object:
            async with client.pipeline(transaction=False) as pipe:
                for _ in range(WIDTH):
                    pipe.get("bench")
            return None

        yield Client(lambda: client.get("bench"), pipeline)


CLIENTS: Final = {"kvmcp": kvmcp_client, "redis-py": redis_py_client, "coredis": coredis_client}


async def measure(name: str, url: str, seconds: float) -> None:
    """Print one JSON line per shape."""
    async with CLIENTS[name](url) as client:
        for shape, work in zip(SHAPES, (client.get, client.get, client.pipeline), strict=True):
            tasks = WIDTH if shape == "64 tasks" else 1
            await repeat(work, tasks, seconds / 4)
            cpu, start = time.process_time(), time.perf_counter()
            turns = await repeat(work, tasks, seconds)
            wall, cpu = time.perf_counter() - start, time.process_time() - cpu
            operations = turns * (WIDTH if shape == "pipelines of 64" else 1)
            result = {"shape": shape, "per_second": operations / wall, "cpu_us": cpu / operations * 1e6}
            print(json.dumps(result), flush=True)


async def repeat(work: Once, tasks: int, seconds: float) -> int:
    """Run `work` in so many tasks for so long; how often it ran."""
    end = time.perf_counter() + seconds
    turns = 0

    async def loop() -> None:
        nonlocal turns
        while time.perf_counter() < end:
            await work()
            turns += 1

    if tasks == 1:
        await loop()
        return turns
    async with anyio.create_task_group() as group:
        for _ in range(tasks):
            group.start_soon(loop)
    return turns


@contextlib.contextmanager
def local_redis() -> Iterator[str]:
    """A server of our own; its URL."""
    binary = shutil.which("redis-server") or sys.exit("no redis-server on this machine: give --url")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.02)
            yield f"redis://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def run_all(url: str, seconds: float, rounds: int) -> None:
    rates: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    print(json.dumps(versions()), flush=True)
    for turn in range(rounds):
        for name, loop in CONTENDERS:
            # -P: this file's folder must not be searched, or `import redis` finds this file.
            options = ["--url", url, "--seconds", str(seconds)]
            command = [sys.executable, "-P", __file__, "--one", name, loop, *options]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["?"])[-1]
                print(json.dumps({"contender": name, "loop": loop, "skipped": reason}), flush=True)
                continue
            for result in map(json.loads, done.stdout.splitlines()):
                print(json.dumps({"round": turn, "contender": name, "loop": loop, **result}), flush=True)
                figures = (result["per_second"], result["cpu_us"])
                rates.setdefault((name, loop, result["shape"]), []).append(figures)
    print_table(rates)


def print_table(rates: dict[tuple[str, str, str], list[tuple[float, float]]]) -> None:
    """Medians; in brackets CPU µs per operation and kvmcp's rate on the same loop divided by this one's."""
    print(f"\n{'':20}" + "".join(f"{shape:>32}" for shape in SHAPES))
    for name, loop in CONTENDERS:
        cells: list[str] = []
        for shape in SHAPES:
            if (name, loop, shape) not in rates:
                cells.append(f"{'-':>32}")
                continue
            rate, cpu = (statistics.median(column) for column in zip(*rates[name, loop, shape], strict=True))
            ours = statistics.median([figures[0] for figures in rates["kvmcp", loop, shape]])
            cells.append(f"{f'{rate:,.0f} ({cpu:.1f} µs, {ours / rate:.1f}x)':>32}")
        print(f"{name + ', ' + loop:20}" + "".join(cells))


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in ("anyio", "trio", "hiredis", "redis", "coredis"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=2, metavar=("CONTENDER", "LOOP"))
    arguments = parser.parse_args()
    if arguments.one:
        name, loop = arguments.one
        anyio.run(measure, name, arguments.url, arguments.seconds, backend=loop)
    elif arguments.url:
        run_all(arguments.url, arguments.seconds, arguments.rounds)
    else:
        with local_redis() as url:
            run_all(url, arguments.seconds, arguments.rounds)


if __name__ == "__main__":
    main()
