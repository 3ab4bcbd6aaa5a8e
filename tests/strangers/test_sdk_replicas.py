"""The official Python SDK's clients subscribe at one replica and are told of what is changed through another one.

Both replicas are `kvmcp serve` over HTTP, on one Redis; one runs on asyncio, the other on trio. The SDK has the
conversation in its own environment (`sdk1_replicas.py`, `sdk2_replicas.py`).
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backends.redis.servers import RedisServer
from tests.io.http.processes import HttpProcess
from tests.strangers.test_sdk_clients import CLIENTS, LOOPS, ON_STDIO, sdk_python

HERE = Path(__file__).parent
URI = "kv://default/keys/plan%2F1"
CHANGES = [
    ("redis_set", {"key": "plan/1", "value": {"step": 2}}),
    ("redis_expire", {"key": "plan/1", "ttl": 1000}),
    ("redis_del", {"keys": ["plan/1"]}),
]
PYTHON_CLIENTS = list(dict.fromkeys(client for client, _, _ in ON_STDIO))
WAYS = [*zip(LOOPS, reversed(LOOPS), strict=True)]
"""On which loop the one runs where somebody watches, and the one where the change is made."""


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Their URLs, by the loop that they run on."""
    redis = RedisServer(tmp_path_factory.mktemp("replicas")).start()
    processes: dict[str, HttpProcess] = {}
    try:
        for loop in LOOPS:
            processes[loop] = HttpProcess("--loop", loop, "--redis-url", redis.url)
        yield {loop: f"http://127.0.0.1:{process.port}/mcp" for loop, process in processes.items()}
        assert [process.end() for process in processes.values()] == [0, 0]
        assert not any("Traceback" in process.log for process in processes.values())
    finally:
        for process in processes.values():
            process.kill()
        redis.kill()


@pytest.mark.parametrize("way", WAYS, ids="-to-".join)
@pytest.mark.parametrize("client", PYTHON_CLIENTS)
def test_a_client_is_told_of_what_is_changed_through_another_replica(
    client: str, way: tuple[str, str], replicas: dict[str, str]
) -> None:
    sdk, mode, _ = CLIENTS[client]
    watched, changed = way
    job: dict[str, Any] = {
        "mode": mode, "uri": URI, "changes": CHANGES,
        "watched_at": replicas[watched], "changed_at": replicas[changed],
    }  # fmt: skip
    run = subprocess.run(
        [sdk_python(sdk), HERE / f"{sdk}_replicas.py"],
        input=json.dumps(job), capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == [URI] * len(CHANGES)
