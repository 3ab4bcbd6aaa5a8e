"""`kvmcp serve --transport http` as operators and strangers meet it: real processes, on both loops and under uvicorn."""

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.backends.redis.servers import RedisServer, free_port
from tests.io.http.processes import HttpProcess
from tests.io.http.support import ACCEPTS, INITIALIZE, LEGACY, legacy, modern, modern_headers
from tests.io.http.test_containment import HOSTILE
from tests.io.support import MODERN_META, call
from tests.patience import PATIENCE
from tests.schema import validate_server_message

KINDS = {
    "asyncio": ["--loop", "asyncio"],
    "trio": ["--loop", "trio"],
    "uvicorn": ["--http-server", "uvicorn"],
}
TIMES = 50
NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""httpx would read all authorities of the machine for each client."""


ASYNCIO = KINDS["asyncio"]
"""For what has nothing to do with loops."""


@pytest.fixture(params=KINDS)
def options(request: pytest.FixtureRequest) -> list[str]:
    return KINDS[request.param]


@pytest.fixture
def running() -> Iterator[ExitStack]:
    """Ends what a test has started."""
    with ExitStack() as stack:
        yield stack


def start(running: ExitStack, *options: str, **more: Any) -> HttpProcess:
    process = HttpProcess(*options, **more)
    running.callback(process.kill)
    return process


def call_modern(
    port: int, tool: str, *, scheme: str = "http", verify: Any = NO_TLS, **arguments: object
) -> Any:
    message = modern("tools/call", name=tool, arguments=arguments)
    with httpx.Client(verify=verify, trust_env=False, timeout=PATIENCE) as http:
        response = http.post(
            f"{scheme}://127.0.0.1:{port}/mcp", json=message, headers=modern_headers(message)
        )
    assert response.status_code == 200, response.text
    validate_server_message("2026-07-28", response.content, "tools/call")
    return response.json()["result"]["structuredContent"]


def get(port: int, path: str, **headers: str) -> httpx.Response:
    url = f"http://127.0.0.1:{port}{path}"
    return httpx.get(url, headers=headers, verify=NO_TLS, trust_env=False, timeout=PATIENCE)


# --- hostile requests, and the end ------------------------------------------------------------------------------


def attack(port: int, data: bytes) -> socket.socket:
    """Sends what it can, and stays."""
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
    sock.settimeout(1)
    with suppress(OSError):
        sock.sendall(data)
    return sock


def test_hostile_requests_and_then_a_signal(options: list[str], running: ExitStack) -> None:
    """Each one fifty times, a good client beside it; then SIGTERM, with a connection of each kind still there."""
    process = start(running, *options)
    calls, over = 0, threading.Event()

    def be_good() -> None:
        nonlocal calls
        while not over.is_set():
            assert call_modern(process.port, "redis_get", key="none") == {"found": False}
            calls += 1

    with ThreadPoolExecutor() as pool:
        good = pool.submit(be_good)
        for data in HOSTILE.values():
            for sock in pool.map(attack, [process.port] * TIMES, [data] * TIMES):
                sock.close()
        over.set()
        good.result(PATIENCE)
    assert calls
    assert call_modern(process.port, "redis_get", key="none") == {"found": False}
    for data in HOSTILE.values():
        running.enter_context(attack(process.port, data))
    assert process.end() == 0
    assert "Traceback" not in process.log


def open_listen(port: int) -> socket.socket:
    """A stream that has begun and would not end by itself."""
    message = modern("subscriptions/listen", 5, notifications={"toolsListChanged": True})
    return request_stream(port, message, modern_headers(message))


def request_stream(port: int, message: Any, headers: dict[str, str]) -> socket.socket:
    body = json.dumps(message).encode()
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
    sock.sendall(
        f"POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n{head}\r\n".encode() + body
    )
    received = b""
    while b"data:" not in received:
        received += sock.recv(4096)
    return sock


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_streams_and_idle_connections(
    number: signal.Signals, options: list[str], running: ExitStack
) -> None:
    process = start(running, *options)
    streams = [running.enter_context(open_listen(process.port)) for _ in range(20)]
    for _ in range(20):
        running.enter_context(socket.create_connection(("127.0.0.1", process.port)))
    assert process.end(number) == 0
    assert f"{number.name}: stopping" in process.log
    assert "ending at once" not in process.log
    for stream in streams:
        rest = b""
        while data := stream.recv(65536):
            rest += data
        assert b'"id":5' in rest, "a listen that the server ends has a result"


SLOW = ("tests.io.http.replica_server",)


def test_a_second_signal_does_not_wait(options: list[str], running: ExitStack) -> None:
    """The grace is an hour, and a call is under way that does not end by itself."""
    process = start(running, *options, "--shutdown-grace", "3600", module=SLOW)
    name = {"name": "steps", "arguments": {"count": 1, "gate": "never"}}
    message = modern("tools/call", 5, **name)
    message["params"]["_meta"] = {**message["params"]["_meta"], "progressToken": 1}
    running.enter_context(request_stream(process.port, message, modern_headers(message)))
    process.child.send_signal(signal.SIGTERM)
    process.logged("SIGTERM: stopping")
    process.child.send_signal(signal.SIGTERM)
    assert process.child.wait(PATIENCE) == 0
    process.logged("SIGTERM: ending at once")
    assert "Traceback" not in process.log


# --- what cannot be served --------------------------------------------------------------------------------------


def refused(*options: str) -> str:
    """What a start that fails says: one line, and the exit status of wrong usage."""
    run = subprocess.run(
        [sys.executable, "-m", "kvmcp", "serve", *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (run.returncode, run.stdout) == (2, b""), run.stderr
    lines = run.stderr.decode().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize("workers", [[], ["--workers", "2", "--backend", "redis://127.0.0.1:1"]])
def test_a_port_that_is_taken(workers: list[str], running: ExitStack) -> None:
    process = start(running, *ASYNCIO)
    said = refused("--transport", f"http:{process.port}", *workers)
    assert said == (
        f"kvmcp: cannot listen on 127.0.0.1:{process.port}: Address already in use; "
        "choose another --port or --host"
    )


def test_a_port_that_workers_have_is_taken_for_other_workers(running: ExitStack) -> None:
    """They could share it, and would each have half of the clients."""
    store = ["--workers", "2", "--backend", "redis://127.0.0.1:1"]
    process = start(running, *store)
    said = refused("--transport", f"http:{process.port}", *store)
    assert "Address already in use" in said


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--transport", "http", "--workers", "2"], "needs a store that processes share"),
        (
            ["--transport", "stdio", "--transport", "http", "--workers", "2", "--backend", "redis://h"],
            "--transport stdio is for one process",
        ),
        (["--transport", "http", "--transport", "websocket", "--port", "0"], "--port is for one transport"),
        (["--transport", "websocket:0", "--admin-bind", "127.0.0.1:0"], "--admin-bind has no effect"),
        (
            ["--transport", "http:0", "--transport", "http:1", "--admin-bind", "127.0.0.1:0"],
            "--admin-bind goes with one",
        ),
        (["--transport", "http", "--tls-cert", "x"], "--tls-cert and --tls-key go together"),
        (
            ["--transport", "http", "--tls-cert", "/none", "--tls-key", "/none"],
            "cannot be used: No such file",
        ),
        (["--transport", "http", "--host", "203.0.113.1"], "cannot listen on 203.0.113.1:8765"),
        (["--transport", "http", "--http-server", "uvicorn", "--loop", "trio"], "does not run on trio"),
        (["--transport", "http", "--allowed-origin", "good.example"], "--allowed-origin SCHEME://NAME"),
        (["--transport", "websocket:0", "--allowed-host", "http://x"], "--allowed-host takes NAME"),
    ],
)
def test_what_does_not_fit_together_is_one_line(wrong: Sequence[str], said: str) -> None:
    assert said in refused(*wrong)


# --- settings ---------------------------------------------------------------------------------------------------


def test_standard_input_and_http_share_a_store(options: list[str], running: ExitStack) -> None:
    """And the end of input ends nothing else."""
    process = start(running, *options, transports=("stdio", "http:0"), stdin=subprocess.PIPE)
    stdin, stdout = process.child.stdin, process.child.stdout
    assert stdin is not None and stdout is not None
    stdin.write(json.dumps(call(1, "redis_set", MODERN_META, key="k", value="from stdin")).encode() + b"\n")
    stdin.flush()
    assert json.loads(stdout.readline())["result"]["structuredContent"]["ok"]
    assert call_modern(process.port, "redis_get", key="k")["value"] == "from stdin"
    stdin.close()
    assert call_modern(process.port, "redis_get", key="none") == {"found": False}
    assert process.end() == 0


def test_operators_have_an_address_of_their_own(options: list[str], running: ExitStack) -> None:
    process = start(running, *options, "--admin-bind", "127.0.0.1:0")
    admin = process.admin_port
    assert call_modern(process.port, "redis_get", key="k") == {"found": False}
    assert get(admin, "/healthz").text == "ok\n"
    assert get(admin, "/readyz").text == "ready\n"
    assert get(admin, "/health").json()["status"] == "ok"
    assert get(admin, "/metrics", accept="application/json").json()["total_requests"] == 1
    assert "kvmcp_http_requests_total 1" in get(admin, "/metrics").text
    for path in ("/healthz", "/readyz", "/health", "/metrics"):
        assert get(process.port, path).status_code == 404
    assert get(admin, "/mcp").status_code == 404
    assert get(admin, "/healthz", host="evil.example").status_code == 421
    assert process.end() == 0


def test_operators_ask_beside_mcp_where_nothing_else_is_said(running: ExitStack) -> None:
    process = start(running, *ASYNCIO)
    for path in ("/healthz", "/readyz", "/health", "/metrics"):
        assert get(process.port, path).status_code == 200
    assert get(process.port, "/sse").status_code == 404
    assert process.end() == 0


def test_without_redis_it_lives_and_is_not_ready(running: ExitStack) -> None:
    process = start(running, *ASYNCIO, "--backend", f"redis://127.0.0.1:{free_port()}")
    assert get(process.port, "/healthz").status_code == 200
    assert get(process.port, "/readyz").status_code == 503
    assert process.end() == 0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder: Path = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=localhost "
        f"-addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout {folder}/key.pem -out {folder}/cert.pem"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    return f"{folder}/cert.pem", f"{folder}/key.pem"


def test_https(options: list[str], running: ExitStack, certificate: tuple[str, str]) -> None:
    cert, key = certificate
    process = start(running, *options, "--tls-cert", cert, "--tls-key", key)
    assert "https://127.0.0.1" in process.log
    trusting = ssl.create_default_context(cafile=cert)
    found = call_modern(process.port, "redis_get", scheme="https", verify=trusting, key="k")
    assert found == {"found": False}
    for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\0" * 64, b""):
        attack(process.port, data).close()
    running.enter_context(attack(process.port, b"\x16\x03\x01"))
    found = call_modern(process.port, "redis_get", scheme="https", verify=trusting, key="k")
    assert found == {"found": False}
    assert process.end() == 0


def test_the_older_transport_where_it_is_wanted(options: list[str], running: ExitStack) -> None:
    process = start(running, *options, "--legacy-sse")
    url = f"http://127.0.0.1:{process.port}"
    with (
        httpx.Client(base_url=url, trust_env=False, timeout=PATIENCE) as http,
        http.stream("GET", "/sse", headers={"accept": "text/event-stream"}) as response,
    ):
        lines = response.iter_lines()
        assert next(lines) == "event: endpoint"
        messages = next(lines).removeprefix("data: ")
        hello = json.loads(json.dumps(INITIALIZE).replace(LEGACY, "2024-11-05"))
        assert http.post(messages, json=hello, headers=ACCEPTS).status_code == 202
        answer = next(line for line in lines if line.startswith("data: "))
        assert json.loads(answer.removeprefix("data: "))["result"]["protocolVersion"] == "2024-11-05"
        assert process.end() == 0


@pytest.mark.parametrize("flags", [[], ["--resumable"]])
def test_answers_are_streams_where_clients_may_come_back_for_them(
    flags: list[str], options: list[str], running: ExitStack
) -> None:
    process = start(running, *options, *flags)
    url = f"http://127.0.0.1:{process.port}/mcp"
    with httpx.Client(trust_env=False, timeout=PATIENCE) as http:
        hello = http.post(url, json=INITIALIZE, headers=ACCEPTS)
        session = {"mcp-session-id": hello.headers["mcp-session-id"], "mcp-protocol-version": LEGACY}
        answer = http.post(url, json=legacy("tools/list"), headers={**ACCEPTS, **session})
    assert answer.headers["content-type"].startswith("text/event-stream" if flags else "application/json")
    assert ("\nid: " in f"\n{answer.text}") == bool(flags)


def test_one_address_has_as_many_connections_as_it_may(running: ExitStack) -> None:
    process = start(running, *ASYNCIO, "--max-per-address", "2")
    with httpx.Client(trust_env=False, timeout=PATIENCE) as http:
        url = f"http://127.0.0.1:{process.port}/healthz"
        assert http.get(url).status_code == 200  # kept for another request
        running.enter_context(attack(process.port, b"GET"))
        with attack(process.port, b"") as third:
            process.logged("2 connections are open from 127.0.0.1")
            third.settimeout(PATIENCE)
            while third.recv(4096):
                pass
        assert http.get(url).status_code == 200


def test_only_known_names_and_pages_come_in(running: ExitStack) -> None:
    allowed = ["--allowed-host", "kv.example.com", "--allowed-origin", "https://app.example.com"]
    process = start(running, *ASYNCIO, *allowed)
    assert get(process.port, "/healthz", host="kv.example.com").status_code == 200
    assert get(process.port, "/healthz", host="evil.example.com").status_code == 421
    assert get(process.port, "/healthz", origin="https://evil.example.com").status_code == 403
    welcome = get(process.port, "/healthz", origin="https://app.example.com")
    assert welcome.headers["access-control-allow-origin"] == "https://app.example.com"


# --- workers ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("process")).start()
    yield server
    server.kill()


def with_workers(running: ExitStack, redis: RedisServer, options: list[str], *more: str) -> HttpProcess:
    return start(running, *options, "--workers", "2", "--backend", f"{redis.url}/1", *more)


@pytest.mark.parametrize(
    "options",
    [*KINDS.values(), ["--loop", "uvloop"], ["--http-server", "uvicorn", "--loop", "uvloop"]],
    ids=str,
)
def test_workers_share_sessions_and_end_together(
    options: list[str], running: ExitStack, redis: RedisServer
) -> None:
    process = with_workers(running, redis, options)
    url = f"http://127.0.0.1:{process.port}/mcp"

    def post(message: Any, session: dict[str, str]) -> httpx.Response:
        headers = {**ACCEPTS, **session}
        return httpx.post(
            url, json=message, headers=headers, verify=NO_TLS, trust_env=False, timeout=PATIENCE
        )

    hello = post(INITIALIZE, {})
    session = {"mcp-session-id": hello.headers["mcp-session-id"], "mcp-protocol-version": LEGACY}
    for number in range(40):
        assert post(legacy("ping", number), session).json() == {"jsonrpc": "2.0", "id": number, "result": {}}
    seen: list[int] = []
    for _ in range(40):
        metrics = get(process.port, "/metrics", accept="application/json").json()
        seen.append(metrics["total_requests"])
    assert len(set(seen)) == 2 and sum(set(seen)) == 41, "each worker counts its own"
    workers = process.children()
    assert len(workers) == 2
    assert process.end() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    assert "ERROR" not in process.log and "WARNING" not in process.log


def test_signals_to_the_whole_group_stop_workers_once(
    options: list[str], running: ExitStack, redis: RedisServer
) -> None:
    """As systemd (SIGTERM) and terminals (SIGINT) send them: what is under way is still finished."""
    for number in (signal.SIGTERM, signal.SIGINT):
        process = with_workers(running, redis, options)
        streams = [running.enter_context(open_listen(process.port)) for _ in range(8)]
        for pid in process.children():
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        assert process.end(number) == 0
        for stream in streams:
            rest = b""
            while data := stream.recv(65536):
                rest += data
            assert b'"id":5' in rest


def test_workers_end_with_their_parent(options: list[str], running: ExitStack, redis: RedisServer) -> None:
    process = with_workers(running, redis, options)
    streams = [running.enter_context(open_listen(process.port)) for _ in range(8)]
    process.child.kill()
    for stream in streams:
        while stream.recv(65536):
            pass
    process.child.wait()
    process.logged("the parent of this worker is gone: stopping")


def test_a_second_signal_ends_workers_at_once(
    options: list[str], running: ExitStack, redis: RedisServer
) -> None:
    more = ["--workers", "2", "--backend", f"{redis.url}/1", "--shutdown-grace", "3600"]
    process = start(running, *options, *more, module=SLOW)
    message = modern("tools/call", 5, name="steps", arguments={"count": 1, "gate": "never"})
    message["params"]["_meta"] = {**message["params"]["_meta"], "progressToken": 1}
    running.enter_context(request_stream(process.port, message, modern_headers(message)))
    process.child.send_signal(signal.SIGTERM)
    process.logged("SIGTERM: stopping")
    process.child.send_signal(signal.SIGTERM)
    assert process.child.wait(PATIENCE) == 0
    process.logged("SIGTERM: ending at once")


def test_workers_that_die_again_and_again_are_given_up(running: ExitStack, redis: RedisServer) -> None:
    process = with_workers(running, redis, ["--loop", "asyncio"])

    def murder() -> None:

        while process.child.poll() is None:
            with suppress(OSError, IndexError):
                os.kill(process.children()[0], signal.SIGKILL)

    threading.Thread(target=murder, daemon=True).start()
    assert process.child.wait(PATIENCE) == 3
    process.logged(re.escape("ended 5 times within 10 s of its start, at last: signal 9; giving up"))


def test_hostile_requests_to_workers(running: ExitStack, redis: RedisServer) -> None:
    process = with_workers(running, redis, KINDS["trio"])
    get(process.port, "/healthz")
    workers = process.children()
    with ThreadPoolExecutor() as pool:
        for data in HOSTILE.values():
            for sock in pool.map(attack, [process.port] * 8, [data] * 8):
                sock.close()
    assert call_modern(process.port, "redis_get", key="none") == {"found": False}
    assert process.children() == workers
    assert process.end() == 0
