"""`--namespace-from`: how it is written, with which transports it goes, and what it means for each command."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kvmcp.assembly import from_settings
from kvmcp.config import ConfigError, Settings, load
from kvmcp.core.plan import Caller

SRC = Path(__file__).parents[1] / "src"


def settings(text: str) -> Settings:
    def no_file(path: str) -> bytes:
        raise FileNotFoundError(path)

    return load({"namespace_from": text}, {}, no_file).settings


@pytest.mark.parametrize(
    ("text", "value"),
    [("header:X-App-Id", "header:x-app-id"), ("meta:com.example/tenant", "meta:com.example/tenant")],
)
def test_a_source_is_read(text: str, value: str) -> None:
    assert settings(text).namespace_from == value


@pytest.mark.parametrize("text", ["x-app-id", "header:", "header:a b", "meta:progressToken", "claim:x\ny"])
def test_a_text_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="header:NAME or meta:KEY") as refused:
        settings(text)
    assert len(str(refused.value).splitlines()) == 1


def test_the_fixed_namespace_is_nobodys_then() -> None:
    assert from_settings(Settings(namespace="acme")).caller([]) == Caller(namespace="acme")
    by_meta = from_settings(Settings(namespace="acme", namespace_from="meta:tenant"))
    assert by_meta.caller([(b"tenant", b"x")]) == Caller(namespace="")
    by_header = from_settings(Settings(namespace="acme", namespace_from="header:x-app-id"))
    assert by_header.caller([(b"X-App-Id", b"other")]) == Caller(namespace="other")


def kvmcp(*arguments: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "kvmcp", *arguments],
        env={**os.environ, "PYTHONPATH": str(SRC), **environ},
        input=b"",
        capture_output=True,
        timeout=60,
        check=False,
    )


def test_headers_are_not_looked_for_where_there_are_none() -> None:
    run = kvmcp("serve", "--namespace-from", "header:X-App-Id")
    assert run.returncode != 0 and b"stdio has no headers" in run.stderr and b"Traceback" not in run.stderr
    assert kvmcp("serve", "--namespace-from", "meta:tenant").returncode == 0


def conversation(*messages: dict[str, object]) -> list[dict[str, Any]]:
    """What `kvmcp serve --namespace-from meta:tenant` answers on stdio to messages that come in one piece."""
    lines = [json.dumps({"jsonrpc": "2.0", **message}, separators=(",", ":")) for message in messages]
    command = [sys.executable, "-m", "kvmcp", "serve", "--namespace-from", "meta:tenant"]
    run = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": str(SRC)},
        input="".join(f"{line}\n" for line in lines).encode(),
        capture_output=True,
        timeout=60,
        check=True,
    )
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    return sorted(answers, key=lambda answer: int(answer["id"]))


def tool_call(id: int, name: str, arguments: dict[str, object], meta: dict[str, object]) -> dict[str, object]:
    params: dict[str, object] = {"name": name, "arguments": arguments}
    return {"id": id, "method": "tools/call", "params": {**params, "_meta": meta} if meta else params}


INITIALIZE: dict[str, object] = {
    "id": 0,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "x", "version": "1"},
    },
}
ENVELOPE = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_each_call_on_stdio_is_about_the_namespace_that_it_names(era: str) -> None:
    """Also calls whose `_meta` is exactly that of the call before."""
    own: dict[str, object] = dict(ENVELOPE) if era == "modern" else {}
    a, b = {**own, "tenant": "a"}, {**own, "tenant": "b"}
    key: dict[str, object] = {"key": "k"}
    answers = conversation(
        *([INITIALIZE] if era == "legacy" else []),
        tool_call(1, "redis_set", {**key, "value": 1}, a),
        tool_call(2, "redis_set", {**key, "value": 2}, b),
        tool_call(3, "redis_get", key, a),
        tool_call(4, "redis_get", key, a),
        tool_call(5, "redis_get", key, b),
        tool_call(6, "redis_get", key, b),
        tool_call(7, "redis_get", key, own),
        tool_call(8, "redis_get", key, own),
    )
    found = [answer["result"]["structuredContent"]["value"] for answer in answers if 3 <= answer["id"] <= 6]
    assert found == [1, 1, 2, 2]
    assert [answer["error"]["code"] for answer in answers if answer["id"] > 6] == [-32602, -32602]


def test_an_operators_own_call_is_about_the_fixed_namespace() -> None:
    run = kvmcp("call", "redis_get", '{"key":"a"}', KVMCP_NAMESPACE_FROM="header:x-app-id")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {"found": False}
