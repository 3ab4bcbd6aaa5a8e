"""Task ids: whose a task is and since when, and nothing that a client could make."""

from hypothesis import given, strategies as st

from kvmcp.core import task_ids
from kvmcp.core.limits import Limits
from kvmcp.core.plan import Caller
from kvmcp.core.request_state import Sealer
from tests.core.harness import KEY, WALL, a_service

ALICE, BOB = Caller("alice"), Caller("bob")


def test_an_id_says_whose_and_since_when() -> None:
    service = a_service(limits=Limits(task_lifetime=100.0))
    id = task_ids.seal(service, ALICE, 50.0)
    assert id.isascii() and id.isprintable() and id.startswith("tk_") and len(id) < 256
    assert task_ids.age(service, id, ALICE, 60.0) == 10.0
    assert task_ids.age(service, id, BOB, 60.0) is None
    assert task_ids.age(service, id, ALICE, 150.0) is None
    assert task_ids.age(a_service(key=b"x" * 32), id, ALICE, 60.0) is None


@given(st.one_of(st.text(max_size=80), st.just("tk_" + "x" * 600), st.just("s1.x.y")))
def test_what_is_none_of_ours_says_nothing(text: str) -> None:
    assert task_ids.age(a_service(), text, ALICE, 0.0) is None


@given(st.integers(0, 10_000), st.characters(min_codepoint=33, max_codepoint=126))
def test_an_id_that_was_changed_says_nothing(at: int, character: str) -> None:
    service = a_service()
    id = task_ids.seal(service, ALICE, 0.0)
    at %= len(id)
    changed = id[:at] + character + id[at + 1 :]
    assert changed == id or task_ids.age(service, changed, ALICE, 0.0) is None


def test_an_id_of_another_version_says_nothing() -> None:
    assert task_ids.age(a_service(), Sealer(KEY, WALL).sign("tk_", b"{}"), ALICE, 0.0) is None
