"""Each example runs as its own program. Those of the engine serve two clients at a time in both eras, and are short;
that of two agents tells the same story whichever Redis it is told on.
"""

import json
import os
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from kvmcp.backends.ops import KIND_BARRIER, KIND_FENCE
from tests.backends.redis.servers import RedisServer, need
from tests.io.support import MODERN_META, Witness, call, initialize

ROOT = Path(__file__).parent.parent
EXAMPLES = ["asyncio_streams", "trio_nursery", "threads_and_sockets"]
MAX_LINES = 50


@pytest.fixture(params=EXAMPLES)
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    program = subprocess.Popen(
        [sys.executable, "-m", f"examples.{request.param}"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    yield int(program.stdout.readline().split()[-1])
    program.kill()
    program.communicate()


class Client:
    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.witness = Witness()
        self.lines = self.socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.lines.close()
        self.socket.close()

    def say(self, *messages: dict[str, Any]) -> None:
        for message in messages:
            self.witness.said(message)
        self.socket.sendall(b"".join(json.dumps(message).encode() + b"\n" for message in messages))

    def hear(self) -> dict[str, Any]:
        return self.witness.heard(self.lines.readline())


def test_an_example_serves_both_eras_and_several_clients(port: int) -> None:
    with Client(port) as legacy, Client(port) as modern:
        legacy.say(*initialize(), call(1, "count", name="a"), call(2, "count", name="a"))
        assert legacy.hear()["result"]["protocolVersion"] == "2025-11-25"
        assert [legacy.hear()["result"]["structuredContent"] for _ in range(2)] == [
            {"count": 1},
            {"count": 2},
        ]
        modern.say(call("x", "count", MODERN_META, name="a"))
        assert modern.hear()["result"]["structuredContent"] == {"count": 3}
        modern.say(call("y", "count", MODERN_META, nam="a"))
        assert modern.hear()["result"]["isError"] is True
        modern.socket.shutdown(socket.SHUT_WR)
        assert modern.lines.readline() == b""


def test_a_client_that_breaks_off_hurts_only_itself(port: int) -> None:
    for _ in range(3):
        rude = Client(port)
        rude.say(*initialize())
        rude.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        rude.__exit__()
    with Client(port) as polite:
        polite.say(call("x", "count", MODERN_META, name="a"))
        assert polite.hear()["result"]["structuredContent"] == {"count": 1}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_short(name: str) -> None:
    assert len((ROOT / "examples" / f"{name}.py").read_text().splitlines()) < MAX_LINES


# --- two agents, one store ---

STORY_WITHIN = 120.0
"""Seconds; a bound, never an expectation."""


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path / "redis").start()
    yield server
    server.kill()


def story(*redis_url: str, path: Path | None = None) -> list[tuple[str, str]]:
    """Who says what. `path`: a folder of programs to look into first."""
    looked_into = os.environ["PATH"] if path is None else f"{path}{os.pathsep}{os.environ['PATH']}"
    run = subprocess.run(
        [sys.executable, "-m", "examples.two_agents", *redis_url],
        cwd=ROOT, env={**os.environ, "PATH": looked_into},
        capture_output=True, text=True, timeout=STORY_WITHIN, check=False,
    )  # fmt: skip
    assert (run.returncode, run.stderr) == (0, "")
    return [(who, what) for who, _, what in (line.strip().partition(" ") for line in run.stdout.splitlines())]


def check_story(told: list[tuple[str, str]]) -> None:
    addresses = {who: what.removeprefix("talks to ") for who, what in told if what.startswith("talks to ")}
    assert addresses.keys() == {"ann", "bob"} and addresses["ann"] != addresses["bob"]
    [planned] = [int(found[1]) for _, what in told if (found := re.search(r"queues (\d+) chapters", what))]
    written = [(who, what) for who, what in told if what.startswith("writes ")]
    assert len({what for _, what in written}) == len(written) == planned, "each chapter, and once"
    assert {who for who, _ in written} <= {"ann", "bob"}
    tokens = [int(found[1]) for _, what in told if (found := re.match(r"takes the pen, token (\d+)", what))]
    assert tokens == list(range(1, planned + 2)), "each holder's is greater, and one of them wrote nothing"
    assert ("bob", "wakes up, wants to write with token 1, and is refused: LEASE_LOST") in told
    twice = [what for _, what in told if "had it before" in what]
    assert len(twice) == 1, "what Bob had is done by somebody"
    [read] = [what for who, what in told if who == "planner" and what.startswith("reads: ")]
    assert [re.sub(r" \(.*", "", line) for line in read.removeprefix("reads: ").split("; ")] == [
        what.removeprefix("writes ").strip("'") for _, what in written
    ]


def test_two_agents_share_a_queue_a_lease_and_a_session(redis: RedisServer) -> None:
    check_story(story(redis.url))
    left = redis.ask("-n", "1", "--scan").splitlines()
    ttls = {key.split(":")[2]: int(redis.ask("-n", "1", "ttl", key)) for key in left}
    assert ttls.keys() <= {KIND_FENCE, KIND_BARRIER}, "no list, session, lease or claim"
    assert ttls.get(KIND_BARRIER, 1) > 0, "goes by itself; the lease's counter outlives its holders"


def test_two_agents_bring_a_redis_of_their_own() -> None:
    check_story(story(path=Path(need("redis-server")).parent))
