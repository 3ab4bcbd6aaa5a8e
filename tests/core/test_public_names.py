"""The engine's public names."""

import pytest

import kvmcp.core


def test_every_public_name_is_there() -> None:
    assert sorted(kvmcp.core.__all__) == list(kvmcp.core.__all__)
    for name in kvmcp.core.__all__:
        assert getattr(kvmcp.core, name).__module__.startswith(("kvmcp.core", "typing", "types"))


def test_any_other_name_is_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        kvmcp.core.nothing  # noqa: B018  # looked up to fail
