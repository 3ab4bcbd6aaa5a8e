"""Session ids that say what a session is."""

import re

import pytest
from hypothesis import given, strategies as st
from msgspec import UNSET, Raw

from kvmcp.core.http.session_ids import open_sealed, seal
from kvmcp.core.limits import Limits
from kvmcp.core.plan import Caller, Context
from kvmcp.core.wire.common import (
    ClientCapabilities,
    ElicitationCapability,
    Implementation,
    SamplingCapability,
)
from tests.core.harness import LEGACY, a_service

SERVICE = a_service()
HERE = Raw(b"{}")
ALICE = Caller("alice")


def context(capabilities: ClientCapabilities | None = None, info: Implementation | None = None) -> Context:
    return Context(ALICE, LEGACY[-1], capabilities or ClientCapabilities(), info)


def sealed(capabilities: ClientCapabilities | None = None, info: Implementation | None = None) -> str:
    return seal(SERVICE, SERVICE.legacy("2025-11-25"), context(capabilities, info), 0.0)


def test_an_id_is_visible_ascii_and_no_two_are_the_same() -> None:
    first, second = sealed(), sealed()
    assert first != second
    assert re.fullmatch(r"[!-~]{1,400}", first)


@pytest.mark.parametrize(
    "capabilities",
    [
        ClientCapabilities(),
        ClientCapabilities(roots=HERE),
        ClientCapabilities(sampling=SamplingCapability(), elicitation=ElicitationCapability()),
        ClientCapabilities(
            sampling=SamplingCapability(context=HERE), elicitation=ElicitationCapability(form=HERE)
        ),
        ClientCapabilities(
            sampling=SamplingCapability(tools=HERE), elicitation=ElicitationCapability(url=HERE)
        ),
    ],
)
def test_what_decides_is_in_it(capabilities: ClientCapabilities) -> None:
    opened = open_sealed(SERVICE, sealed(capabilities, Implementation("c", "1")), ALICE, 0.0)
    assert opened is not None
    assert (opened.version, opened.capabilities, opened.info) == (
        "2025-11-25", capabilities, Implementation("c", "1"),
    )  # fmt: skip
    assert opened.expires == pytest.approx(Limits().session_lifetime)
    admitted = opened.admitted(SERVICE, ALICE)
    assert admitted.context.client_capabilities == capabilities


def test_experiments_and_long_names_are_not_kept() -> None:
    declared = ClientCapabilities(experimental=Raw(b'{"x":1}'))
    opened = open_sealed(SERVICE, sealed(declared, Implementation("n" * 500, "v" * 500)), ALICE, 0.0)
    assert opened is not None and opened.capabilities.experimental is UNSET
    assert opened.info == Implementation("n" * 32, "v" * 32)


def test_an_id_is_its_owners_and_has_its_time() -> None:
    id = sealed()
    assert open_sealed(SERVICE, id, Caller("bob"), 0.0) is None
    assert open_sealed(SERVICE, id, ALICE, Limits().session_lifetime - 1) is not None
    assert open_sealed(SERVICE, id, ALICE, Limits().session_lifetime) is None
    assert open_sealed(a_service(key=b"another key of thirty-two bytes!"), id, ALICE, 0.0) is None


@pytest.mark.parametrize("payload", [b"", b"[]", b'["n","2031-01-01",[],"o",1,"",""]', b"{"])
def test_an_id_of_another_version_of_the_server_is_none(payload: bytes) -> None:
    assert open_sealed(SERVICE, SERVICE.sealer.sign("s2.", payload), ALICE, 0.0) is None


def test_a_request_state_is_no_session_id() -> None:
    assert open_sealed(SERVICE, SERVICE.sealer.sign("v1.", b"[]"), ALICE, 0.0) is None
    body = sealed().removeprefix("s2.")
    assert SERVICE.sealer.verify("v1.", "v1." + body) is None


@given(st.text(max_size=50), st.integers(0, 300))
def test_a_changed_id_is_none(text: str, place: int) -> None:
    id = sealed()
    changed = id[:place] + text + id[place + len(text) :]
    opened = open_sealed(SERVICE, changed, ALICE, 0.0)
    assert (opened is None) == (changed != id)
