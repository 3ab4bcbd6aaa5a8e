"""The benchmarks run and report: a smoke test of both, without peers. No time is asserted."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(script: str, *words: str) -> tuple[list[dict[str, object]], list[str]]:
    """What a benchmark prints with `--quick`: its results, and the lines of its table."""
    command = [sys.executable, str(ROOT / "benchmarks" / script), "--quick", *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    results: list[dict[str, object]] = [json.loads(line) for line in lines if line.startswith("{")]
    assert lines[: len(results)] == [line for line in lines if line.startswith("{")], (
        "the table is printed last"
    )
    return results, lines[len(results) :]


def assert_positive(result: dict[str, object], *names: str) -> None:
    for name in names:
        value = result[name]
        assert isinstance(value, int | float) and value > 0, f"{name} is {value!r} in {result}"


def test_core_reports_each_case() -> None:
    results, table = run("core.py")
    assert {result["benchmark"] for result in results} == {"core"}
    cases = {(result["case"], result["era"], result["sides"], result["depth"]) for result in results}
    assert len(cases) == len(results)
    assert {
        ("get", "legacy", "server", 1),
        ("get", "modern", "server", 64),
        ("get", "legacy", "both", 64),
    } < cases
    for result in results:
        assert_positive(result, "calls_per_s", "us_per_call", "chunk_p50_us", "chunk_p99_us")
    assert len(table) == len(results) + 1


def test_stdio_reports_each_measure_of_kvmcp_on_both_loops() -> None:
    results, table = run("stdio.py", "--only", "kvmcp-asyncio", "--only", "kvmcp-trio")
    settings, *measured = results
    assert (settings["measure"], settings["era"], settings["quick"]) == ("settings", "legacy", True)
    assert settings["store"] == "dict"
    by_measure = {(result["contender"], result["measure"]): result for result in measured}
    for contender in ("kvmcp-asyncio", "kvmcp-trio"):
        for depth in (1, 64):
            result = by_measure.pop((contender, f"depth {depth}"))
            assert_positive(result, "calls_per_s", "p50_us", "p99_us")
        assert_positive(by_measure.pop((contender, "first answer")), "initialize_ms", "tools_call_ms")
        assert_positive(by_measure.pop((contender, "RSS")), "kib")
    assert not by_measure
    assert [line.split()[0] for line in table] == ["contender", "kvmcp-asyncio", "kvmcp-trio"]


def test_stdio_speaks_the_modern_era() -> None:
    results, _ = run("stdio.py", "--only", "kvmcp-asyncio", "--era", "modern")
    assert results[0]["era"] == "modern"
    assert {result["measure"] for result in results[1:]} == {"depth 1", "depth 64", "first answer", "RSS"}


def test_stdio_brings_a_redis_of_its_own() -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("NO redis-server ON THIS MACHINE: install Debian's redis-server")
    results, _ = run("stdio.py", "--only", "kvmcp-asyncio", "--store", "redis")
    assert results[0]["store"] == "redis"
    assert {result["measure"] for result in results[1:]} == {"depth 1", "depth 64", "first answer", "RSS"}


def test_stdio_says_that_redis_is_missing() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "stdio.py"), "--quick", "--store", "redis"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env={"PATH": ""})
    assert done.returncode == 1
    assert done.stderr == (
        "--store redis needs redis-server on the PATH (on Debian: apt install redis-server)\n"
    )


def test_websocket_reports_each_measure_and_the_lines_beside_it() -> None:
    results, table = run("websocket.py", "--only", "kvmcp-asyncio", "--only", "kvmcp-lines")
    settings, *measured = results
    assert (settings["measure"], settings["store"], settings["quick"]) == ("settings", "dict", True)
    by_measure = {(result["contender"], result["measure"]) for result in measured}
    measures = ("1 x depth 1", "1 x depth 64", "64 x depth 1")
    assert by_measure == {(name, m) for name in ("kvmcp-asyncio", "kvmcp-lines") for m in measures}
    for result in measured:
        assert_positive(result, "calls_per_s", "p50_us", "p99_us")
    assert [line.split()[0] for line in table] == ["contender", "kvmcp-asyncio", "kvmcp-lines"]


def test_http_reports_each_measure_under_each_server() -> None:
    names = ("kvmcp-asyncio", "kvmcp-trio", "kvmcp-uvicorn")
    results, table = run("http.py", "--store", "dict", *(word for name in names for word in ("--only", name)))
    settings, *measured = results
    assert (settings["measure"], settings["era"], settings["store"]) == ("settings", "legacy", "dict")
    by_measure = {(result["contender"], result["measure"]): result for result in measured}
    assert len(by_measure) == len(measured)
    for name in names:
        for measure in ("1 connection", "16 connections", "64 connections"):
            assert_positive(by_measure.pop((name, measure)), "calls_per_s", "p50_us", "p99_us")
        assert_positive(by_measure.pop((name, "RSS")), "calls", "before_kib", "after_kib")
    assert not by_measure
    assert [line.split()[0] for line in table] == ["contender", *names]


def test_http_speaks_the_modern_era_with_a_redis_of_its_own() -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("NO redis-server ON THIS MACHINE: install Debian's redis-server")
    results, _ = run("http.py", "--only", "kvmcp-asyncio", "--era", "modern", "--calls", "0")
    assert (results[0]["era"], results[0]["store"]) == ("modern", "redis")
    measures = {"1 connection", "16 connections", "64 connections"}
    assert {result["measure"] for result in results[1:]} == measures
