"""Each example runs as its own program, serves two clients at a time in both eras, and is short."""

import json
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

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
