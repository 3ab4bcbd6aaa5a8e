"""Shows what the conformance suite counted, also where all is well."""

import pytest

from tests.conformance.suite import SUMMARY


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(SUMMARY, [])
    if lines:
        terminalreporter.section("conformance")
        terminalreporter.write_line("\n".join(lines))
