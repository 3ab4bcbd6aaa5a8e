"""kvmcp passes the official conformance suite: every server scenario of both requirement sets, on both loops.

Those that the suite does not score (pending ones, the tasks extension) are held to the same: no failure, no warning,
nothing expected to fail.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conformance.suite import (
    SUITE,
    SUMMARY,
    VERSION,
    Check,
    Run,
    fixture_server,
    required_scenarios,
    run_suite,
)
from tests.node import require_node

LOOPS = ("asyncio", "trio")
EXPECTED = {
    # revision: scenarios, checks that pass
    "2025-11-25": (33, 84),
    "2026-07-28": (50, 196),
}
SKIPPED = {"tasks-status-notifications"}
"""The suite itself skips it always: it listens where this revision does not tell of tasks."""
UNSEEN = {("2026-07-28", "server-sse-streams-functional")}
"""Looks into streams; of the three `tools/list` that it sends, this server answers none with a stream."""


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], Run]:
    """Every set on every loop; the loops side by side, as much of the suite is waiting."""
    require_node()
    folder = tmp_path_factory.mktemp("conformance")

    def run_loop(loop: str) -> list[Run]:
        with fixture_server(loop, folder / f"{loop}.log") as url:
            return [run_suite(url, revision, folder / f"{loop}-{revision}") for revision in EXPECTED]

    with ThreadPoolExecutor(len(LOOPS)) as pool:
        found = dict(zip(LOOPS, pool.map(run_loop, LOOPS), strict=True))
    results = {(loop, run.revision): run for loop, of_loop in found.items() for run in of_loop}
    request.config.stash[SUMMARY] = [
        f"{loop:8} {revision}: {len(run.scenarios)} scenarios, {dict(run.counts)}"
        for (loop, revision), run in results.items()
    ]
    return results


@pytest.fixture(params=[(loop, revision) for loop in LOOPS for revision in EXPECTED], ids="-".join)
def run(request: pytest.FixtureRequest, runs: dict[tuple[str, str], Run]) -> Iterator[Run]:
    found = runs[request.param]
    yield found


def test_the_suite_is_the_one_that_was_named() -> None:
    require_node()
    assert json.loads((SUITE / "package.json").read_text())["version"] == VERSION


def test_nothing_fails_and_nothing_is_warned_of(run: Run) -> None:
    assert run.with_status("FAILURE", "WARNING") == []
    assert run.exit_status == 0, run.output


def test_every_scenario_of_the_set_was_run(run: Run) -> None:
    assert run.scenarios == required_scenarios(run.revision)
    assert len(run.scenarios) == EXPECTED[run.revision][0]


def test_as_many_checks_pass_as_there_are(run: Run) -> None:
    assert run.counts["SUCCESS"] == EXPECTED[run.revision][1]
    assert {check.status for check in run.checks} <= {"SUCCESS", "INFO", "SKIPPED"}
    assert {check.scenario for check in run.with_status("SKIPPED")} <= SKIPPED


def test_what_is_told_without_a_verdict_is_known(run: Run) -> None:
    told = [check for check in run.with_status("INFO") if not _is_log(check)]
    assert {(run.revision, check.id) for check in told} <= UNSEEN


def _is_log(check: Check) -> bool:
    """Whether it is a line of `server-sse-polling`'s log of the wire, which has verdicts besides."""
    return check.scenario == "server-sse-polling"
