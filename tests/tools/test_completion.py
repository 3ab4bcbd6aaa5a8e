"""Suggestions: names that begin so, of the caller's own, few and sorted."""

from collections.abc import Mapping

import pytest
from hypothesis import given, strategies as st
from msgspec import UNSET

from kvmcp.backends.glob import Glob, compile_glob
from kvmcp.backends.ops import (
    KIND_CHANNEL,
    KIND_LEASE,
    KIND_SESSION,
    Code,
    Failure,
    HashSet,
    Namespace,
    Page,
    Publish,
    Push,
    Set,
)
from kvmcp.core.plan import Answer, AskBackend, Fail
from kvmcp.core.wire.common import CompletionResult
from kvmcp.tools import completion
from kvmcp.tools.completion import SUGGESTION_SCANS, beginning_with
from tests.tools.store import CONTEXT, SPACE, Store


def suggestions(
    store: Store, name: str, value: str, chosen: Mapping[str, str] | None = None
) -> CompletionResult:
    answer = store.run(completion.complete_resource(name, value, chosen or {}, CONTEXT))
    assert isinstance(answer, Answer) and isinstance(answer.result, CompletionResult)
    return answer.result


def filled() -> Store:
    store = Store()
    for name in ("user:1", "user:2", "use*", "us", "other"):
        store.do(Set(SPACE.key(name), b"1"), Set(Namespace("foreign").key("user:9"), b"1"))
    store.do(
        HashSet(SPACE.key("h"), (("alpha", b"1"), ("alps", b"1"), ("beta", b"1"))),
        HashSet(SPACE.key("s-1", KIND_SESSION), (("ttl", b"1"),)),
        Publish(SPACE.key("news", KIND_CHANNEL), b"1"),
        Set(SPACE.key("lock", KIND_LEASE), b"1"),
    )
    return store


@pytest.mark.parametrize(
    ("name", "value", "chosen", "expected"),
    [
        ("key", "user:", {}, ["user:1", "user:2"]),
        ("key", "use*", {}, ["use*"]),
        ("key", "", {}, ["h", "other", "us", "use*", "user:1", "user:2"]),
        ("key", "none", {}, []),
        ("key", "us", {"namespace": "acme"}, ["us", "use*", "user:1", "user:2"]),
        ("key", "us", {"namespace": "foreign"}, []),
        ("id", "s", {}, ["s-1"]),
        ("name", "n", {}, ["news"]),
        ("namespace", "", {}, ["acme"]),
        ("namespace", "ac", {}, ["acme"]),
        ("namespace", "for", {}, []),
        ("field", "al", {"key": "h"}, ["alpha", "alps"]),
        ("field", "", {"key": "us"}, []),
        ("field", "", {"key": "none"}, []),
        ("field", "", {}, []),
        ("field", "", {"key": ""}, []),
        ("field", "", {"key": "\ud800"}, []),
        ("field", "", {"key": "h", "namespace": "foreign"}, []),
        ("key", "x" * 256, {}, []),
        ("key", "\ud800", {}, []),
    ],
)
def test_suggestions(name: str, value: str, chosen: dict[str, str], expected: list[str]) -> None:
    found = suggestions(filled(), name, value, chosen)
    assert list(found.values) == expected
    assert found.total in (len(expected), UNSET) and found.has_more is not True


def test_leases_are_suggested_to_prompts() -> None:
    answer = filled().run(completion.leases("l", CONTEXT))
    assert answer == Answer(CompletionResult(("lock",), 1, False))


def test_there_are_a_hundred_at_most() -> None:
    store = Store()
    store.do(*(Set(SPACE.key(f"k{number:03}"), b"1") for number in range(150)))
    store.do(HashSet(SPACE.key("h"), tuple((f"f{number}", b"1") for number in range(150))))
    for found in (suggestions(store, "key", "k"), suggestions(store, "field", "f", {"key": "h"})):
        assert len(found.values) == 100 and found.has_more is True and found.total is UNSET
        assert list(found.values) == sorted(found.values)


def test_somebody_who_types_does_not_wait_for_a_search_of_everything() -> None:
    plan = completion.keys("rare", CONTEXT)
    for _ in range(SUGGESTION_SCANS):
        assert isinstance(plan, AskBackend)
        plan = plan.then.resume((Page(("rare",), "more"),), CONTEXT)
    assert plan == Answer(CompletionResult(("rare",), UNSET, True))


def test_a_store_that_fails_says_so() -> None:
    plan = completion.keys("a", CONTEXT)
    assert isinstance(plan, AskBackend)
    failed = plan.then.resume((Failure(Code.TIMEOUT, "too slow", retryable=True),), CONTEXT)
    assert isinstance(failed, Fail) and failed.error.message == "TIMEOUT: too slow"


def test_a_list_has_no_fields() -> None:
    store = Store()
    store.do(Push(SPACE.key("l"), (b"1",)))
    assert suggestions(store, "field", "", {"key": "l"}).values == ()


@given(st.text(st.characters(codec="utf-8"), max_size=40), st.text(st.characters(codec="utf-8"), max_size=40))
def test_the_pattern_of_a_beginning_matches_what_begins_so_and_nothing_else(prefix: str, name: str) -> None:
    pattern = beginning_with(prefix)
    assert pattern is not None
    glob = compile_glob(pattern)
    assert isinstance(glob, Glob), "stars of the prefix are no wildcards"
    assert glob.matches((prefix + name).encode())
    assert glob.matches(name.encode()) == name.startswith(prefix)
