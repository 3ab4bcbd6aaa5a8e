"""`kvmcp serve --transport websocket`: many idle connections in one real process, and how it stops. Both loops."""

import json
import os
import re
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.io.support import MODERN_META, call
from tests.io.websocket.support import CLOSE, Frame, split_frames, text, upgrade
from tests.patience import PATIENCE
from tests.tools.support import without_etag

IDLE = 2000
KIB_EACH = 40
"""Resident memory that an idle connection may cost (reference: F17)."""


class Process:
    """A running server, its port read from its log."""

    def __init__(self, loop: str) -> None:
        self.child = subprocess.Popen(
            [sys.executable, "-m", "kvmcp", "serve", "--loop", loop, "--transport", "websocket:0"],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if not name.startswith("KVMCP_")},
        )
        assert self.child.stderr is not None
        line = self.child.stderr.readline().decode()
        match = re.search(r"ws://127\.0\.0\.1:(\d+)/mcp", line)
        assert match, line
        self.port = int(match[1])
        self.log = bytearray()
        threading.Thread(target=self._keep_log, daemon=True).start()

    def _keep_log(self) -> None:
        assert self.child.stderr is not None
        for line in self.child.stderr:
            self.log += line

    def rss_kib(self) -> int:
        pages = int(Path(f"/proc/{self.child.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") // 1024

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        """An upgraded connection."""
        sock = socket.create_connection(("127.0.0.1", self.port), PATIENCE, (source, 0))
        sock.sendall(upgrade(host=f"127.0.0.1:{self.port}".encode()))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += sock.recv(4096)
        assert head.startswith(b"HTTP/1.1 101"), head
        return sock


@pytest.fixture
def descriptors() -> Iterator[int]:
    """How many connections this process and its child may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = IDLE + 500
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, wanted), hard))
    yield min(IDLE, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(params=["asyncio", "trio"])
def server(descriptors: int, request: pytest.FixtureRequest) -> Iterator[Process]:
    process = Process(request.param)  # It inherits the limit that was raised.
    yield process
    process.child.kill()
    process.child.wait()
    assert process.child.stderr is not None
    process.child.stderr.close()


def frames_of(sock: socket.socket, count: int) -> list[Frame]:
    data = b""
    while len(split_frames(data)[0]) < count:
        more = sock.recv(65536)
        assert more, data
        data += more
    return split_frames(data)[0]


def ask(sock: socket.socket, number: int) -> None:
    key = f"k{number}"
    messages = [
        call(1, "redis_set", MODERN_META, key=key, value=number),
        call(2, "redis_get", MODERN_META, key=key),
    ]
    sock.sendall(text(*messages))
    answers = [json.loads(frame.payload) for frame in frames_of(sock, 2)]
    assert without_etag(answers[1]["result"]["structuredContent"]) == {"found": True, "value": number}


def test_two_thousand_idle_connections(
    descriptors: int, server: Process, record_property: Callable[[str, object], None]
) -> None:
    good = server.connect()
    for number in range(100):
        ask(good, number)
    before = server.rss_kib()
    # From several addresses, as no single one may have them all.
    idle = [server.connect(f"127.0.0.{2 + number % 8}") for number in range(descriptors)]
    each = (server.rss_kib() - before) / len(idle)
    record_property("kib_per_idle_connection", round(each, 1))
    print(f"{len(idle)} idle connections: {each:.1f} KiB each")
    for number in range(100):
        ask(good, number)
    ask(idle[0], 1)
    ask(idle[-1], 2)
    assert each <= KIB_EACH
    for sock in [good, *idle]:
        sock.close()


def test_a_signal_says_goodbye_to_everybody(server: Process) -> None:
    socks = [server.connect() for _ in range(200)]
    for number, sock in enumerate(socks):
        sock.sendall(text(call(number, "redis_set", MODERN_META, key="k", value=number)))
    for sock in socks:
        assert frames_of(sock, 1)
    server.child.send_signal(signal.SIGTERM)
    for sock in socks:
        (end,) = frames_of(sock, 1)
        assert (end.opcode, end.code) == (CLOSE, 1001)
        sock.close()
    assert server.child.wait(PATIENCE) == 0


def test_a_signal_while_hostile_peers_hang_on(server: Process) -> None:
    """The three upgrades that stop other servers from stopping, and peers that do not read or close."""
    hostile = [
        upgrade(sec_websocket_extensions=b"permessage-deflate; client_max_window_bits=abc"),
        upgrade(sec_websocket_protocol=b"\xc3\xa9"),
        upgrade() + b"\x00trailing",
        upgrade() + text(call(1, "redis_get", MODERN_META, key="k")) * 2000,
        b"GET ",
        b"",
    ]
    socks: list[socket.socket] = []
    for sent in hostile * 5:
        sock = socket.create_connection(("127.0.0.1", server.port), PATIENCE)
        sock.sendall(sent)
        socks.append(sock)
    good = server.connect()
    ask(good, 1)
    server.child.send_signal(signal.SIGTERM)
    assert server.child.wait(PATIENCE) == 0
    assert b"ERROR" not in server.log
    for sock in [good, *socks]:
        assert select.select([sock], [], [], PATIENCE)[0], "each connection has ended"
        sock.close()
