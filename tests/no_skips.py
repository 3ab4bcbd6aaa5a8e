"""Skips are failures in CI: a test that did not run has shown nothing.

On a developer's machine a test may skip where something it needs is missing (a Redis server, the MCP schemas,
the environment of an SDK); the summary says which and why. Where the environment variable `CI` is set the same
skip fails, with the same reason, so that a green run means that everything ran.

A pytest plugin, loaded by conftest.py.
"""

import os
from collections.abc import Generator, Mapping

import pytest


def in_ci(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this run counts as CI: `CI` is set and does not say no."""
    return environment.get("CI", "").lower() not in ("", "0", "false", "no")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that skipped, be it by a mark, in a fixture or in its body."""
    report = yield
    # An expected failure is reported as skipped too, but it did run, and `xfail_strict` watches it.
    if in_ci() and not hasattr(report, "wasxfail"):
        _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Fail a module that skipped as a whole, as `pytest.importorskip` does."""
    report = yield
    if in_ci():
        _fail_if_skipped(report)
    return report


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: skips are failures in CI: {reason.removeprefix('Skipped: ')}"
