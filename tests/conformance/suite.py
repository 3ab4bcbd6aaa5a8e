"""Runs the official conformance suite against the fixture server, and reads what it found."""

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.node import HERE as NODE_TOOLS, NODE, environment

CHECKOUT: Final = Path(__file__).parents[2]
SUITE: Final = NODE_TOOLS / "node_modules" / "@modelcontextprotocol" / "conformance"
VERSION: Final = "0.2.0-alpha.12"

SUMMARY: Final = pytest.StashKey[list[str]]()
"""Lines for the end of the test run."""

_FOLDER: Final = re.compile(r"server-(.+)-\d{4}-\d\d-\d\dT[\dZ-]+\Z")
"""Where the suite leaves what it found in a scenario: the name, and when that was."""

PATIENCE: Final = 240.0
"""Seconds until a run is given up: a bound, never an expectation."""


@dataclass(frozen=True)
class Check:
    """One thing that a scenario looked at."""

    scenario: str
    id: str
    status: str
    message: str


@dataclass(frozen=True)
class Run:
    """What the suite found with one requirement set."""

    revision: str
    exit_status: int
    output: str
    scenarios: frozenset[str]
    checks: tuple[Check, ...]

    @property
    def counts(self) -> Mapping[str, int]:
        return Counter(check.status for check in self.checks)

    def with_status(self, *statuses: str) -> list[Check]:
        return [check for check in self.checks if check.status in statuses]


@contextmanager
def fixture_server(loop: str, log: Path) -> Iterator[str]:
    """The URL of a fixture server in a process of its own."""
    command = [sys.executable, "-m", "tests.conformance.server", "--port", "0", "--loop", loop]
    with subprocess.Popen(command, cwd=CHECKOUT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            first = process.stderr.readline()
            found = re.search(r"http://\S+", first)
            assert found is not None, first + process.stderr.read()
            yield found[0]
        finally:
            process.terminate()
            log.write_text(process.stderr.read())
    assert process.returncode == 0, log.read_text()


def run_suite(url: str, revision: str, folder: Path) -> Run:
    """Run a whole requirement set; nothing is expected to fail."""
    program = SUITE / "dist" / "index.js"
    done = subprocess.run(
        [NODE, program, "server", "--url", url, "--requirements", revision, "--output-dir", folder],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    checks = [check for found in sorted(folder.glob("*/checks.json")) for check in _read(found)]
    scenarios = frozenset(_scenario(path) for path in folder.iterdir())
    return Run(revision, done.returncode, done.stdout + done.stderr, scenarios, tuple(checks))


def _scenario(folder: Path) -> str:
    match = _FOLDER.match(folder.name)
    assert match is not None, folder.name
    return match[1]


def _read(path: Path) -> Iterator[Check]:
    found: list[dict[str, Any]] = json.loads(path.read_text())
    for check in found:
        yield Check(_scenario(path.parent), check["id"], check["status"], check.get("errorMessage", ""))


def required_scenarios(revision: str) -> frozenset[str]:
    """The server scenarios that the suite's own list has for a revision; those that it does not score, too."""
    required = yaml.safe_load((SUITE / "requirements" / f"{revision}.yaml").read_text())
    unscored = [entry["scenario"] for entry in required["not_scored"] if entry["leg"] == "server"]
    return frozenset([*required["server"], *unscored])
