"""Two agents, one store: a queue of work, a lease and a session, through two kvmcp processes on one Redis.

    python -m examples.two_agents [redis://HOST:PORT/DB]

Starts a `redis-server` of its own where no Redis is named, and two `kvmcp serve --transport http` on free ports. Ann
talks to one of them, Bob to the other, over plain HTTP; every word that passes between them goes through kvmcp. Bob falls
asleep while he holds the lease, and his task with it; the story says what becomes of both. Needs no SDK. On a Redis that was
named nothing is left but the lease's counter, which has to outlive its holders, in a namespace of this run's own.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

VERSION = "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": VERSION,
    "io.modelcontextprotocol/clientCapabilities": {},
}
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # to this machine, past any proxy
PATIENCE = 60.0
"""Seconds after which an answer will not come any more; the longest wait that is asked for is 20."""
THINKING = 0.1
"""Seconds that a chapter takes."""

CHAPTERS = ["a lighthouse", "the storm", "nobody at the door", "a lamp lit by itself", "footsteps", "dawn"]


class Refused(Exception):
    """A tool said no; `code` says why."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.code: str = error["code"]


class Agent:
    """Somebody who knows nothing but the address of a kvmcp, and tells what happens to them."""

    def __init__(self, name: str, url: str) -> None:
        self.name = name
        self._url = url

    def says(self, text: str) -> None:
        sys.stdout.write(f"{self.name:>8} {text}\n")
        sys.stdout.flush()

    def call(self, tool: str, **arguments: Any) -> dict[str, Any]:
        """The structured result of a tool. Raises Refused."""
        params = {"name": tool, "arguments": arguments, "_meta": META}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        headers = {
            "content-type": "application/json", "accept": "application/json, text/event-stream",
            "mcp-protocol-version": VERSION, "mcp-method": "tools/call", "mcp-name": tool,
        }  # fmt: skip
        request = urllib.request.Request(self._url, json.dumps(body).encode(), headers)
        with DIRECT.open(request, timeout=PATIENCE) as response:
            # A call that waits is answered as a stream of events, of which the last one is the result.
            lines = [line.removeprefix(b"data:") for line in response if line.startswith((b"data:", b"{"))]
        result: dict[str, Any] = json.loads(lines[-1])["result"]["structuredContent"]
        if "error" in result:
            raise Refused(result["error"])
        return result

    def meets_the_other(self, where: str) -> None:
        """Wait until both have come."""
        met = self.call("barrier_wait", name=where, party=self.name, parties=2, timeout=20)
        assert met["complete"], f"{self.name} waited in vain: {where}"

    # --- work ---

    def claim(self, visibility: int) -> dict[str, Any] | None:
        """A task; None once all is done. What somebody else has claimed may still come back."""
        wait = 0
        while True:
            found = self.call(
                "queue_claim", queue="chapters", owner=self.name, visibility=visibility, timeout=wait
            )
            if found["items"]:
                task: dict[str, Any] = found["items"][0]
                again = " (somebody had it before, and gave up)" if task["deliveries"] > 1 else ""
                self.says(f"claims {task['value']!r}{again}")
                return task
            if not found["claimed"]:
                return None
            wait = 1

    def take_the_pen(self, ttl: int) -> int:
        """The lease on the story; its fencing token."""
        lease = self.call("lease_acquire", name="pen", owner=self.name, ttl=ttl, timeout=20)
        token: int = lease["fencing_token"]
        self.says(f"takes the pen, token {token}")
        return token

    def write(self, text: str, token: int) -> None:
        """Add to the story in the session: all of it happens, or, without the lease, nothing."""
        story = self.call("redis_session_get", session_id="story")["data"]["story"]
        story.append({"text": text, "by": self.name, "token": token})
        holds = {"name": "pen", "owner": self.name, "fencing_token": token}
        changes = {"session_id": "story", "data": {"story": story}, "extend_ttl": False}
        self.call("redis_multi", operations=[
            {"tool": "lease_renew", "arguments": holds},
            {"tool": "redis_session_update", "arguments": changes},
        ])  # fmt: skip
        self.says(f"writes {text!r}")

    def finish(self, task: dict[str, Any]) -> None:
        time.sleep(THINKING)
        token = self.take_the_pen(ttl=10)
        self.write(task["value"], token)
        self.call("lease_release", name="pen", owner=self.name, fencing_token=token)
        self.call("queue_ack", queue="chapters", receipt=task["receipt"])

    def do_the_rest(self) -> None:
        while (task := self.claim(visibility=30)) is not None:
            self.finish(task)
        self.says("finds nothing left to do")


def ann(agent: Agent) -> None:
    task = agent.claim(visibility=30)
    assert task is not None
    agent.meets_the_other("bob has the pen")
    agent.finish(task)  # once Bob's lease has run out
    agent.meets_the_other("bob wakes up")
    agent.meets_the_other("bob is awake")
    agent.do_the_rest()


def bob(agent: Agent) -> None:
    task = agent.claim(visibility=1)
    assert task is not None
    token = agent.take_the_pen(ttl=1)
    agent.says("falls asleep with the pen in his hand")
    agent.meets_the_other("bob has the pen")
    agent.meets_the_other("bob wakes up")
    try:
        agent.write(task["value"], token)
    except Refused as refused:
        if refused.code != "LEASE_LOST":
            raise
        agent.says(f"wakes up, wants to write with token {token}, and is refused: {refused.code}")
    agent.meets_the_other("bob is awake")
    agent.do_the_rest()


def tell(urls: list[str]) -> None:
    planner = Agent("planner", urls[0])
    planner.call("redis_session_create", session_id="story", data={"story": []}, ttl=600)
    planner.call("redis_rpush", key="chapters", values=CHAPTERS)
    planner.says(f"opens a session and queues {len(CHAPTERS)} chapters")
    with ThreadPoolExecutor() as threads:
        acts = [threads.submit(ann, Agent("ann", urls[0])), threads.submit(bob, Agent("bob", urls[1]))]
    for act in acts:
        act.result()
    told = Agent("planner", urls[1])  # whichever: both know everything
    story = told.call("redis_session_get", session_id="story")["data"]["story"]
    told.says("reads: " + "; ".join(f"{line['text']} ({line['by']}, {line['token']})" for line in story))
    assert sorted(line["text"] for line in story) == sorted(CHAPTERS), "each chapter once"
    told.call("redis_session_delete", session_id="story")
    told.says("closes the session")


# --- the processes ---


@contextlib.contextmanager
def redis_of_its_own() -> Iterator[str]:
    """The URL of a Redis that is gone afterwards."""
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        sys.exit(
            "there is no redis-server here; name a Redis: python -m examples.two_agents redis://HOST:PORT"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/redis.sock"
        command = [binary, "--port", "0", "--unixsocket", path, "--save", "", "--dir", folder]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as redis:
            try:
                while not os.path.exists(path):
                    if redis.poll() is not None:
                        sys.exit("redis-server did not start")
                    time.sleep(0.01)
                yield f"unix://{path}"
            finally:
                redis.terminate()


@contextlib.contextmanager
def replica(redis_url: str, namespace: str) -> Iterator[subprocess.Popen[str]]:
    """A kvmcp that has ended well afterwards."""
    options = ["--transport", "http:0", "--tools", "redis,coordination", "--namespace", namespace]
    command = [sys.executable, "-m", "kvmcp", "serve", *options, "--redis-url", redis_url]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            yield process
        finally:
            process.terminate()
            log = process.stderr.read()
    assert process.returncode == 0, log


def address(process: subprocess.Popen[str]) -> str:
    """The URL of a kvmcp, once it serves."""
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"http://\S+/mcp", line):
            return found[0]
    sys.exit("kvmcp did not start")


def main(*redis_url: str) -> None:
    with contextlib.ExitStack() as running:
        store = redis_url[0] if redis_url else running.enter_context(redis_of_its_own())
        namespace = f"two-agents-{secrets.token_hex(4)}"  # nobody else's
        replicas = [running.enter_context(replica(store, namespace)) for _ in range(2)]
        urls = [address(process) for process in replicas]
        for name, url in zip(("ann", "bob"), urls, strict=True):
            Agent(name, url).says(f"talks to {url}")
        tell(urls)


if __name__ == "__main__":
    main(*sys.argv[1:])
