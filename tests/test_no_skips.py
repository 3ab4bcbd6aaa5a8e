"""Skips are failures in CI, and only there: shown by runs of pytest on a small module."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.no_skips import in_ci

CHECKOUT = Path(__file__).parents[1]

SKIPS = {
    "mark": "@pytest.mark.skip(reason='no server')\ndef test_it(): pass",
    "condition": "@pytest.mark.skipif(True, reason='no server')\ndef test_it(): pass",
    "body": "def test_it(): pytest.skip('no server')",
    "fixture": "@pytest.fixture\ndef server(): pytest.skip('no server')\ndef test_it(server): pass",
    "module": "pytest.skip('no server', allow_module_level=True)",
    "import": "pytest.importorskip('no_server', reason='no server')",
}


def run_pytest(folder: Path, module: str, ci: str) -> subprocess.CompletedProcess[str]:
    """A run on one module that knows nothing of this project's settings but the plugin."""
    (folder / "test_module.py").write_text(f"import pytest\n\n{module}\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.no_skips", "-p", "no:cacheprovider", "-c", os.devnull,
         "--rootdir", str(folder), str(folder)],
        env={**os.environ, "CI": ci, "PYTHONPATH": str(CHECKOUT), "PYTEST_ADDOPTS": ""},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("module", SKIPS.values(), ids=SKIPS)
def test_a_skip_fails_in_ci_and_gives_its_reason(tmp_path: Path, module: str) -> None:
    run = run_pytest(tmp_path, module, ci="true")
    assert run.returncode in (1, 2), run.stdout + run.stderr
    assert "skips are failures in CI: no server" in run.stdout


def test_a_skip_is_only_a_skip_elsewhere(tmp_path: Path) -> None:
    run = run_pytest(tmp_path, SKIPS["mark"] + "\ndef test_more(): pass", ci="")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 passed, 1 skipped" in run.stdout


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    run = run_pytest(tmp_path, "@pytest.mark.xfail\ndef test_it(): assert False", ci="true")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "1 xfailed" in run.stdout


@pytest.mark.parametrize(
    ("value", "expected"), [("true", True), ("1", True), ("", False), ("0", False), ("false", False)]
)
def test_what_counts_as_ci(value: str, expected: bool) -> None:
    assert in_ci({"CI": value}) is expected
    assert not in_ci({})
