"""Which revisions are spoken."""

import pytest

from kvmcp.core.versions import LATEST_LEGACY, LATEST_MODERN, LEGACY, MODERN, negotiate


@pytest.mark.req("legacy-version-echo")
@pytest.mark.parametrize("version", LEGACY)
def test_a_version_that_is_served_is_negotiated(version: str) -> None:
    assert negotiate(version) == version


@pytest.mark.req("legacy-version-other")
@pytest.mark.parametrize("version", [*MODERN, "2023-01-01", "2031-01-01", "", "v1", "2025-11-25 "])
def test_any_other_gives_our_latest_legacy_one(version: str) -> None:
    assert negotiate(version) == LATEST_LEGACY


def test_versions_are_listed_oldest_first() -> None:
    assert list(LEGACY) == sorted(LEGACY) and LATEST_LEGACY == LEGACY[-1]
    assert list(MODERN) == sorted(MODERN) and LATEST_MODERN == MODERN[-1]
    assert LATEST_LEGACY < LATEST_MODERN
