"""`kvmcp serve` as a client meets it: a real process, real pipes, on both loops."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.io.support import MODERN_META, Witness, call, initialize, ping
from tests.patience import PATIENCE
from tests.tools.support import without_etag

LIMIT = 4 * 1024 * 1024


class Process:
    """A running `kvmcp serve`."""

    def __init__(self, loop: str, *options: str) -> None:
        self.witness = Witness()
        self.child = subprocess.Popen(
            [sys.executable, "-m", "kvmcp", "serve", "--loop", loop, *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if not name.startswith("KVMCP_")},
        )

    def say(self, *messages: dict[str, Any] | bytes) -> None:
        assert self.child.stdin is not None
        for message in messages:
            if not isinstance(message, bytes):
                self.witness.said(message)
            data = message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n"
            self.child.stdin.write(data)
        self.child.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.child.stdout is not None
        return self.witness.heard(self.child.stdout.readline())

    def rss(self) -> int:
        """Resident memory in bytes."""
        pages = int(Path(f"/proc/{self.child.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def end(self) -> tuple[int, bytes]:
        """Status and standard error, after the end of input."""
        _, errors = self.child.communicate(timeout=PATIENCE)
        return self.child.returncode, errors


@pytest.fixture(params=["asyncio", "trio"])
def loop(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def server(loop: str) -> Iterator[Process]:
    process = Process(loop)
    yield process
    if process.child.poll() is None:
        process.child.kill()
    process.child.communicate()


def test_a_conversation_and_a_clean_end(server: Process) -> None:
    server.say(*initialize(), call(1, "redis_set", key="k", value=[1, "two"]), call(2, "redis_get", key="k"))
    assert server.hear()["result"]["serverInfo"]["name"] == "kvmcp"
    assert server.hear()["id"] == 1
    assert without_etag(server.hear()["result"]["structuredContent"]) == {"found": True, "value": [1, "two"]}
    assert server.end() == (0, b"")


def test_end_of_input_ends_at_once_though_nothing_was_said(server: Process) -> None:
    assert server.end() == (0, b"")


def test_accepted_requests_are_answered_after_the_end_of_input(server: Process) -> None:
    server.say(*(call(number, "redis_get", MODERN_META, key="k") for number in range(500)))
    assert server.child.stdin is not None
    server.child.stdin.close()
    server.child.stdin = None
    out, errors = server.child.communicate(timeout=PATIENCE)
    assert [json.loads(line)["id"] for line in out.splitlines()] == list(range(500))
    assert (server.child.returncode, errors) == (0, b"")


@pytest.mark.parametrize("moment", [0.0, 0.05, 0.1, 0.15, 0.2, 0.3])
def test_a_signal_while_it_starts_ends_it_quietly(loop: str, moment: float) -> None:
    """Python needs a moment before any code of ours runs; until then it dies of the signal, as any program does."""
    server = Process(loop)
    time.sleep(moment)
    server.child.send_signal(signal.SIGTERM)
    status, errors = server.end()
    assert status in (0, -signal.SIGTERM)
    assert b"Traceback" not in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_the_end_changes_nothing(server: Process, number: signal.Signals) -> None:
    server.say(ping(1))
    server.hear()
    assert server.child.stdin is not None
    server.child.stdin.close()
    server.child.stdin = None
    for _ in range(5):
        server.child.send_signal(number)
        time.sleep(0.005)
    assert server.child.wait(timeout=PATIENCE) == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_are_an_empty_input_and_no_output(loop: str, closed: str) -> None:
    command = f"{sys.executable} -m kvmcp serve --loop {loop} {closed}"
    run = subprocess.run(
        ["sh", "-c", command], stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_stop_cleanly(server: Process, number: signal.Signals) -> None:
    server.say(ping(1))
    server.hear()
    server.child.send_signal(number)
    assert server.child.wait(timeout=PATIENCE) == 0
    assert server.child.stderr is not None
    assert number.name in server.child.stderr.read().decode()


def test_a_signal_with_a_listen_open_ends_it_properly(server: Process) -> None:
    listen = {"_meta": MODERN_META, "notifications": {"toolsListChanged": True}}
    server.say({"jsonrpc": "2.0", "id": 9, "method": "subscriptions/listen", "params": listen})
    assert server.hear()["method"] == "notifications/subscriptions/acknowledged"
    server.child.send_signal(signal.SIGTERM)
    assert server.hear()["id"] == 9
    assert server.child.wait(timeout=PATIENCE) == 0


def test_a_broken_pipe_is_quiet(server: Process) -> None:
    server.say(ping(1))
    server.hear()
    assert server.child.stdout is not None
    server.child.stdout.close()
    server.child.stdout = None
    server.say(ping(2))
    assert server.child.wait(timeout=PATIENCE) == 0
    assert server.child.stderr is not None
    assert server.child.stderr.read() == b""


def test_a_client_that_never_reads_is_not_read_from(server: Process) -> None:
    server.say(ping(0))
    server.hear()
    before = server.rss()
    written = _fill(server, b"".join(_line(ping(number)) for number in range(2000)))
    # What pipes and one chunk hold, on both sides, and no more: it stopped reading.
    assert written < 1024 * 1024
    assert server.rss() - before < 16 * 1024 * 1024
    assert server.child.stdout is not None
    server.child.kill()


def test_much_asked_and_nothing_read_costs_bounded_memory(server: Process) -> None:
    """62 kB of requests for a value of 1 MB: the answers would take 1.2 GB."""
    server.say(call("set", "redis_set", MODERN_META, key="k", value="x" * 1_000_000))
    server.hear()
    before = server.rss()
    server.say(b"".join(_line(call(number, "redis_get", MODERN_META, key="k")) for number in range(250)))
    _wait_until_idle(server)
    assert server.rss() - before < 64 * 1024 * 1024
    assert [server.hear()["id"] for _ in range(250)] == list(range(250))
    assert server.end() == (0, b"")


def _wait_until_idle(server: Process) -> None:
    """Until it has used no processor for a while."""
    used, since = _cpu(server), time.monotonic()
    while time.monotonic() - since < 0.3:
        time.sleep(0.02)
        if _cpu(server) != used:
            used, since = _cpu(server), time.monotonic()


def _fill(server: Process, data: bytes) -> int:
    """Write until nothing more is taken; how much was."""
    assert server.child.stdin is not None
    descriptor = server.child.stdin.fileno()
    os.set_blocking(descriptor, False)
    written = 0
    while written < 64 * 1024 * 1024:
        _, writable, _ = select.select([], [descriptor], [], 1.0)
        if not writable:
            break
        written += os.write(descriptor, data[written % len(data) :][:65536])
    return written


def test_an_endless_line_costs_no_more_than_its_limit(server: Process) -> None:
    server.say(ping(0))
    server.hear()
    before = server.rss()
    server.say(b'{"jsonrpc":"2.0","id":77,"method":"tools/call","params":"')
    piece, peak = b"x" * (1024 * 1024), 0
    for _ in range(128):
        server.say(piece)
        peak = max(peak, server.rss())
    server.say(b'"}\n', ping(1))
    refused = server.hear()
    assert refused["error"]["code"] == -32600
    assert refused["id"] == 77
    assert "limit is 4194304" in refused["error"]["message"]
    assert server.hear()["id"] == 1
    assert peak - before < 3 * LIMIT


def test_bad_lines_are_answered_and_serving_goes_on(server: Process) -> None:
    bad: list[tuple[bytes, int, object]] = [
        (b"garbage", -32700, None),
        (b'{"jsonrpc":"2.0","id":1,"method":"pi', -32700, 1),
        (b'{"jsonrpc":"2.0","id":2,"method":"x","params":' + b"[" * 900 + b"]" * 900 + b"}", -32600, 2),
        (
            b'{"jsonrpc":"2.0","id":3,"method":"x","params":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            -32600,
            3,
        ),
        (b'{"jsonrpc":"2.0","id":4,"method":"x","params":{"a":NaN}}', -32700, 4),
        (b'{"jsonrpc":"2.0","id":5,"method":"x","params":{"a":Infinity}}', -32700, 5),
        (b'{"jsonrpc":"2.0","id":6,"method":"x","params":{"a":"\\ud800"}}', -32700, 6),
        (b'{"jsonrpc":"2.0","id":7,"method":"x","params":{"a":"\xff"}}', -32700, 7),
        (b'{"jsonrpc":"2.0","id":8,"id":9,"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":true,"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}', -32600, None),
        (b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b',"method":"ping"}', -32600, None),
        (b'[{"jsonrpc":"2.0","id":10,"method":"ping"}]', -32600, None),
    ]
    for line, code, id in bad:
        server.say(line + b"\n", b"\r\n", b"  \n", _line(ping("ok")).rstrip() + b"\r\n")
        refused = server.hear()
        assert (refused["error"]["code"], refused.get("id")) == (code, id), line[:60]
        assert server.hear() == {"jsonrpc": "2.0", "id": "ok", "result": {}}


@pytest.mark.parametrize("value", ["1e400", "-1e999", "1" + "0" * 400])
def test_numbers_that_no_reader_can_hold_are_refused_by_the_tool(server: Process, value: str) -> None:
    line = _line(call(1, "redis_set", MODERN_META, key="k", value="@")).replace(b'"@"', value.encode())
    server.say(line, call(2, "redis_get", MODERN_META, key="k"))
    assert server.hear()["result"]["structuredContent"]["error"]["code"] == "INVALID_PARAMS"
    assert without_etag(server.hear()["result"]["structuredContent"]) == {"found": False}


def test_values_never_reach_the_log(server: Process) -> None:
    server.child.kill()
    server.child.communicate()
    noisy = Process("asyncio", "--log-level", "debug", "--log-format", "json")
    noisy.say(
        *initialize(), call(1, "redis_set", key="canary-key", value="canary-value"), b"canary-garbage\n"
    )
    for _ in range(3):
        noisy.hear()
    status, errors = noisy.end()
    assert status == 0
    assert b"canary" not in errors
    for line in errors.splitlines():
        assert json.loads(line)["level"] in ("debug", "info")


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def test_the_process_does_not_spin_while_it_waits(server: Process) -> None:
    server.say(ping(1))
    server.hear()
    before = _cpu(server)
    time.sleep(0.5)
    assert _cpu(server) - before <= 10, "clock ticks (10 ms) in half a second without work"


def _cpu(server: Process) -> int:
    fields = Path(f"/proc/{server.child.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
