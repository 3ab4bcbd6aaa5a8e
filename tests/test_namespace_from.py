"""`--namespace-from`: how it is written, with which transports it goes, and what it means for each command."""

import json
import os
import subprocess
import sys
from pathlib import Path

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


def test_an_operators_own_call_is_about_the_fixed_namespace() -> None:
    run = kvmcp("call", "redis_get", '{"key":"a"}', KVMCP_NAMESPACE_FROM="header:x-app-id")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {"found": False}
