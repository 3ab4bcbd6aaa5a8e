"""The official Python SDK's clients see what is in the store, subscribe to it, and are told: versions 1 and 2, both eras.

`sdk1_resources.py` and `sdk2_resources.py` have the conversation in the SDK's own environment, with `kvmcp serve` over
stdio; what they report is judged here.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.strangers.test_sdk_clients import CHECKOUT, CLIENTS, LOOPS, ON_STDIO, client_command, serve_command

HERE = Path(__file__).parent

URI = "kv://default/keys/plan%2F1"
JOB = {
    "writes": [
        ("redis_set", {"key": "plan/1", "value": {"step": 1}, "ttl": 600}),
        ("redis_set", {"key": "plan/2", "value": 2}),
    ],
    "uri": URI,
    "template": "kv://{namespace}/keys/{key}",
    "argument": {"name": "key", "value": "plan"},
    "prompt": {"task": "ship it"},
    "changes": [
        ("redis_set", {"key": "plan/1", "value": {"step": 2}}),
        ("redis_del", {"keys": ["plan/1"]}),
    ],
}


STDIO_CLIENTS = list(dict.fromkeys(client for client, _, _ in ON_STDIO))


@pytest.fixture(scope="module", params=STDIO_CLIENTS)
def report(request: pytest.FixtureRequest) -> dict[str, Any]:
    """What one client saw; the servers of the two loops take turns."""
    sdk, mode, _ = CLIENTS[request.param]
    loop = LOOPS[STDIO_CLIENTS.index(request.param) % len(LOOPS)]
    python, _ = client_command(sdk)
    run = subprocess.run(
        [python, HERE / f"{sdk}_resources.py"],
        # The SDK hands no environment on; this checkout is to be served, not whichever is installed.
        input=json.dumps(
            {**JOB, "command": ["env", f"PYTHONPATH={CHECKOUT / 'src'}", *serve_command(loop)], "mode": mode}
        ),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    return found


def test_it_lists_what_is_in_the_store(report: dict[str, Any]) -> None:
    assert [resource["uri"] for resource in report["resources"]] == [
        "kv://default/stats", URI, "kv://default/keys/plan%2F2",
    ]  # fmt: skip
    assert report["resources"][1]["size"] == len('{"step":1}')
    assert {template["uriTemplate"] for template in report["templates"]} >= {
        "kv://{namespace}/keys/{key}",
        "kv://{namespace}/sessions/{id}",
        "kv://{namespace}/channels/{name}",
        "kv://{namespace}/stats",
    }
    assert {prompt["name"] for prompt in report["prompts"]} >= {"resume_session", "hand_over", "coordinate"}


def test_it_reads_completes_and_gets_a_prompt(report: dict[str, Any]) -> None:
    [part] = report["read"]
    assert (part["uri"], part["mimeType"], json.loads(part["text"])) == (URI, "application/json", {"step": 1})
    assert report["values"] == ["plan/1", "plan/2"]
    assert "ship it" in report["prompt"][0]["content"]["text"]


def test_it_subscribes_and_is_told_of_each_change(report: dict[str, Any]) -> None:
    assert report["updated"] == [URI, URI]
