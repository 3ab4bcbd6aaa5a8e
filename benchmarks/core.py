"""What does the core cost per call, without sockets and event loop?

    python benchmarks/core.py [--quick] [--rounds N]

One `ServerConnection` with the real tools and the memory backend is driven as the drivers do it: a chunk of
encoded requests goes in, the batch runs, one piece of bytes comes out. Depth is the number of requests in a
chunk. `mixed` is what an agent does in a session, in a seeded random order. With `both` sides a
`ClientConnection` makes the requests and reads the results, nothing between the two. Cases take turns within each
round; a rate is the median of the rounds, by CPU time; percentiles are those of single chunks. One JSON line
per case, then the table.

Answer (20 November 2026, CPython 3.11, msgspec 0.22): a get costs 4.1 us at depth 64 (modern 4.8, for the longer
request), half of it in msgspec, bytes and the store, half in the calls between functions; the rest of a turn
costs another 4 us, which only depth 1 pays for alone. The client's core costs twice as much as the server's.
"""

import argparse
import json
import platform
import random
import secrets
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from time import perf_counter_ns, process_time_ns
from typing import TypeVar, cast

import msgspec

from kvmcp import __version__
from kvmcp.backends.base import Ops
from kvmcp.backends.memory import MemoryBackend
from kvmcp.core.catalog import Catalog
from kvmcp.core.client.connection import ClientConnection
from kvmcp.core.client.events import Connected, Event, ResultReceived
from kvmcp.core.client.opening import Mode
from kvmcp.core.client.profile import ClientProfile
from kvmcp.core.commands import RunBatch
from kvmcp.core.connection import ServerConnection
from kvmcp.core.request_state import Sealer
from kvmcp.core.service import Service
from kvmcp.core.wire.common import Implementation
from kvmcp.tools.definition import Environment
from kvmcp.tools.surface import Selection, build_tools

SEED = 20261120
VALUE = {"name": "Ada Lovelace", "mail": "ada@example.org", "visits": 42, "note": "x" * 31}
"""100 bytes of JSON text."""
KEYS = [f"user:{number}" for number in range(100)]
CHUNKS = 64
"""Different chunks of a case, fed in turn."""

INFO: dict[str, object] = {"name": "benchmark", "version": "1"}
MODERN: dict[str, object] = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": INFO,
}


# --- one machine ----------------------------------------------------------------------------------------------


class Machine:
    """A server without a driver."""

    def __init__(self) -> None:
        service = Service(
            Catalog(*build_tools(Selection(), Environment(secrets.token_hex, time.time))),
            Implementation("kvmcp", __version__),
            sealer=Sealer(b"k" * 32, wall_offset=0.0),
            token=lambda: "token",
        )
        self._connection = ServerConnection(service)
        self._backend = MemoryBackend(clock=time.monotonic)

    def turn(self, chunk: bytes) -> bytes:
        """One chunk in, its answers out: the two steps of `kvmcp.io.driver`."""
        connection, now = self._connection, time.monotonic()
        connection.receive_data(chunk, now)
        while commands := connection.take_commands():
            for command in commands:
                assert type(command) is RunBatch
                replies = self._backend.execute_now(cast(Ops, command.ops))
                connection.complete(command.ticket, replies, now)
        connection.next_deadline()
        return connection.data_to_send()


# --- what is sent ---------------------------------------------------------------------------------------------

ItemT = TypeVar("ItemT")
Call = tuple[str, dict[str, object]]
"""A tool's name and its arguments."""


def get(chance: random.Random) -> Call:
    return "redis_get", {"key": chance.choice(KEYS)}


def put(chance: random.Random) -> Call:
    return "redis_set", {"key": chance.choice(KEYS), "value": VALUE}


def mixed(chance: random.Random) -> Call:
    """Six reads, two writes, and one each of the others in twelve."""
    key = chance.choice(KEYS)
    calls: list[Call] = [
        *(get(chance) for _ in range(6)),
        ("redis_set", {"key": key, "value": VALUE}),
        ("redis_set", {"key": key, "value": VALUE, "ttl": 3600}),
        ("redis_exists", {"keys": [key, "nobody"]}),
        ("redis_ttl", {"key": key}),
        ("redis_expire", {"key": key, "ttl": 3600}),
        ("redis_keys", {"pattern": "user:1*"}),
    ]
    return chance.choice(calls)


def encode(**members: object) -> bytes:
    return msgspec.json.encode({"jsonrpc": "2.0", **members}) + b"\n"


def split(items: list[ItemT], size: int) -> list[list[ItemT]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def check(results: list[dict[str, object]], depth: int) -> None:
    assert len(results) == depth, f"{len(results)} answers to {depth} requests"
    assert not any(result.get("isError") for result in results), f"an error among {results}"


def hello() -> bytes:
    params = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": INFO}
    return encode(id=0, method="initialize", params=params) + encode(method="notifications/initialized")


def requests(calls: list[Call], modern: bool) -> Iterator[bytes]:
    meta: dict[str, object] = {"_meta": MODERN} if modern else {}
    for id, (name, arguments) in enumerate(calls, start=1):
        yield encode(id=id, method="tools/call", params={"name": name, "arguments": arguments, **meta})


class Pair:
    """A client's core and a server's, back to back."""

    def __init__(self, mode: Mode) -> None:
        self._client = ClientConnection(ClientProfile(Implementation("benchmark", "1")))
        self._server = Machine()
        self._client.session.connect(0.0, mode)
        while data := self._client.data_to_send():
            self._client.receive_data(self._server.turn(data), 0.0)
        (connected,) = self._client.take_events()
        assert isinstance(connected, Connected), f"not connected: {connected}"

    def turn(self, calls: list[tuple[str, bytes]]) -> list[Event]:
        """The client calls, the server answers, the client has read the results."""
        client, now = self._client, time.monotonic()
        for name, arguments in calls:
            client.session.call_tool(name, arguments, now)
        client.receive_data(self._server.turn(client.data_to_send()), now)
        client.next_deadline()
        return client.take_events()


@dataclass
class Case:
    """What is done in turn, and how long it took."""

    name: str
    choose: Callable[[random.Random], Call]
    depth: int
    modern: bool = False
    pair: bool = False
    """Whether the client's core takes part; otherwise requests are encoded beforehand."""
    turns: list[Callable[[], object]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    """Calls per second of CPU time, by round: other programs on the machine do not count."""
    times: list[int] = field(default_factory=list)
    """Nanoseconds of each chunk."""

    @property
    def era(self) -> Mode:
        return "modern" if self.modern else "legacy"

    def prepare(self) -> None:
        chance = random.Random(SEED)
        calls = [self.choose(chance) for _ in range(CHUNKS * self.depth)]
        filling: list[Call] = [("redis_set", {"key": key, "value": VALUE}) for key in KEYS]
        self.turns = self.pair_turns(calls, filling) if self.pair else self.machine_turns(calls, filling)

    def machine_turns(self, calls: list[Call], filling: list[Call]) -> list[Callable[[], object]]:
        machine = Machine()
        if not self.modern:
            machine.turn(hello())
        machine.turn(b"".join(requests(filling, self.modern)))
        chunks = [b"".join(chunk) for chunk in split(list(requests(calls, self.modern)), self.depth)]
        for chunk in chunks:
            check([json.loads(line)["result"] for line in machine.turn(chunk).splitlines()], self.depth)
        return [partial(machine.turn, chunk) for chunk in chunks]

    def pair_turns(self, calls: list[Call], filling: list[Call]) -> list[Callable[[], object]]:
        pair = Pair(self.era)
        pair.turn([(name, msgspec.json.encode(arguments)) for name, arguments in filling])
        encoded = [(name, msgspec.json.encode(arguments)) for name, arguments in calls]
        chunks = split(encoded, self.depth)
        for chunk in chunks:
            events = pair.turn(chunk)
            check([json.loads(bytes(e.result)) for e in events if isinstance(e, ResultReceived)], self.depth)
        return [partial(pair.turn, chunk) for chunk in chunks]

    def run(self, seconds: float) -> None:
        turns, times = cycle(self.turns), self.times
        count, cpu = -len(times), process_time_ns()
        end = perf_counter_ns() + int(seconds * 1e9)
        while (begin := perf_counter_ns()) < end:
            next(turns)()
            times.append(perf_counter_ns() - begin)
        count += len(times)
        self.rates.append(count * self.depth / (process_time_ns() - cpu) * 1e9)

    def result(self) -> dict[str, float]:
        """Medians over the rounds."""
        rate = statistics.median(self.rates)
        ordered = sorted(self.times)
        return {
            "calls_per_s": round(rate),
            "us_per_call": round(1e6 / rate, 2),
            "chunk_p50_us": ordered[len(ordered) // 2] / 1000,
            "chunk_p99_us": ordered[len(ordered) * 99 // 100] / 1000,
        }


def cases() -> list[Case]:
    return [
        Case("get", get, 1),
        Case("get", get, 64),
        Case("get", get, 1, modern=True),
        Case("get", get, 64, modern=True),
        Case("set", put, 64),
        Case("mixed", mixed, 64),
        Case("mixed", mixed, 64, modern=True),
        Case("get", get, 1, pair=True),
        Case("get", get, 64, pair=True),
        Case("get", get, 64, modern=True, pair=True),
    ]


# --- the command ----------------------------------------------------------------------------------------------


def sides(case: Case) -> str:
    return "both" if case.pair else "server"


def row(case: Case, result: dict[str, float]) -> str:
    return (
        f"{case.name:8}{case.era:8}{sides(case):8}{case.depth:>6}{result['calls_per_s']:>12,.0f}{result['us_per_call']:>10.2f}"
        f"{result['chunk_p50_us']:>14.1f}{result['chunk_p99_us']:>14.1f}"
    )


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help="a smoke test of a second; its figures mean little"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each case in each round")
    args = parser.parse_args(words)
    rounds, seconds = (1, 0.05) if args.quick else (args.rounds, args.seconds)
    measured = cases()
    for case in measured:
        case.prepare()
    for _ in range(rounds):
        for case in measured:
            case.run(seconds)
    table = [
        f"{'case':8}{'era':8}{'sides':8}{'depth':>6}{'calls/s':>12}{'us/call':>10}{'p50 us/chunk':>14}{'p99':>14}"
    ]
    machine = {"python": platform.python_version(), "msgspec": msgspec.__version__, "kvmcp": __version__}
    for case in measured:
        result = case.result()
        about = {"case": case.name, "era": case.era, "sides": sides(case), "depth": case.depth}
        print(json.dumps({"benchmark": "core", **about, **result, "rounds": rounds, **machine}), flush=True)
        table.append(row(case, result))
    print("\n".join(table))


if __name__ == "__main__":
    main()
