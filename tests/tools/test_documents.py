"""Paths and merge patches: the examples of the RFCs, naive models, and documents that agents change at once."""

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from kvmcp.tools.json_paths import MAX_PATH_CHARS, MAX_STEPS, NoPath, follow, parse_path, pointer_of
from kvmcp.tools.merge_patch import merge_patch
from tests.tools.more_support import caller_of_all, said
from tests.tools.races import Task, trips
from tests.tools.test_races import interleaved

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
names = st.sampled_from(
    ["a", "b", "0", "1", "", "~", "/", "a/b", "~1", "'", '"', "\\", "ü", "x y"]
) | st.text(max_size=4)
documents = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4), max_leaves=12
)  # fmt: skip


def text(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode()


def places(value: Any, trail: tuple[Any, ...] = ()) -> list[tuple[tuple[Any, ...], Any]]:
    """Every place of a document, by brute force."""
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    return [(trail, value), *(found for name, child in children for found in places(child, (*trail, name)))]


def jsonpath(trail: tuple[Any, ...], quote: str) -> str:
    """The canonical way to write a path, with either quotation mark."""
    steps: list[str] = []
    for step in trail:
        if isinstance(step, int):
            steps.append(f"[{step}]")
            continue
        escaped = json.dumps(step)[1:-1]
        if quote == "'":
            escaped = escaped.replace('\\"', '"').replace("'", "\\'")
        steps.append(f"[{quote}{escaped}{quote}]")
    return "$" + "".join(steps)


RFC_6901 = {
    "foo": ["bar", "baz"],
    "": 0,
    "a/b": 1,
    "c%d": 2,
    "e^f": 3,
    "g|h": 4,
    "i\\j": 5,
    'k"l': 6,
    " ": 7,
    "m~n": 8,
}


@pytest.mark.parametrize(
    ("pointer", "value"),
    [
        ("", RFC_6901), ("/foo", ["bar", "baz"]), ("/foo/0", "bar"), ("/", 0), ("/a~1b", 1), ("/c%d", 2), ("/e^f", 3),
        ("/g|h", 4), ("/i\\j", 5), ('/k"l', 6), ("/ ", 7), ("/m~0n", 8),
    ],
)  # fmt: skip
def test_the_pointers_of_rfc_6901(pointer: str, value: object) -> None:
    steps = parse_path(pointer)
    assert not isinstance(steps, NoPath)
    place = follow(text(RFC_6901), steps)
    assert place.arrived and json.loads(place.value) == value


@pytest.mark.parametrize(
    ("path", "steps"),
    [
        ("$", ()), ("$.a", ("a",)), ("$.a[0].b", ("a", 0, "b")), ("$['a']", ("a",)), ('$["a\\u0062"]', ("ab",)),
        ("$['it\\'s \"it\"']", ('it\'s "it"',)), ("$[-1]", (-1,)), ("$[ 3 ]", (3,)), ("$.with-dash", ("with-dash",)), ("$.ü", ("ü",)),
        ("/a~01", ("a~1",)),
    ],
)  # fmt: skip
def test_paths_are_read(path: str, steps: tuple[Any, ...]) -> None:
    assert parse_path(path) == steps


@pytest.mark.parametrize(
    "path",
    [
        "a", "a.b", "$a", "$.", "$..a", "$.*", "$[*]", "$[1:2]", "$[?(@.a)]", "$['a'", "$['a\"]", "$[01]", "$[-]", "$[a]", "$.a b", "/~", "/~2", "/a~",
        "$['\\ud800']", "$['\\x']", "/" * (MAX_STEPS + 1), "/" + "a" * MAX_PATH_CHARS, "$[99999999999999]", "$['a'][", "\ud800",
    ],
)  # fmt: skip
def test_what_is_no_path_is_refused(path: str) -> None:
    assert isinstance(parse_path(path), NoPath)


@given(st.text(max_size=40) | st.text(alphabet="$.[]'\"\\/~a0-", max_size=30), documents)
def test_any_text_is_a_path_or_none_and_leads_somewhere(path: str, document: object) -> None:
    steps = parse_path(path)
    if not isinstance(steps, NoPath):
        place = follow(text(document), steps)
        again = parse_path(pointer_of(place.taken))
        assert not isinstance(again, NoPath)
        assert follow(text(document), again).value == place.value


@given(documents, st.data())
def test_every_place_is_found_by_its_path(document: object, data: st.DataObject) -> None:
    trail, value = data.draw(st.sampled_from(places(document)))
    for path in (pointer_of(trail), jsonpath(trail, "'"), jsonpath(trail, '"')):
        steps = parse_path(path)
        assert not isinstance(steps, NoPath), path
        place = follow(text(document), steps)
        assert place.arrived and json.loads(place.value) == value and place.taken == trail


@given(documents, st.lists(names | st.integers(-3, 3), max_size=4))
def test_a_path_ends_where_a_naive_walk_ends(document: Any, trail: list[Any]) -> None:
    value, taken = document, 0
    for step in trail:
        try:
            if isinstance(value, list):
                if isinstance(step, str) and (str(int(step)) != step or int(step) < 0):
                    break
                value = value[int(step)]
            elif isinstance(value, dict) and isinstance(step, str):
                value = value[step]
            else:
                break
        except (KeyError, IndexError, ValueError):
            break
        taken += 1
    place = follow(text(document), trail)
    assert (len(place.taken), place.arrived) == (taken, taken == len(trail))
    assert json.loads(place.value) == value


# --- merge patch ---

RFC_7386 = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    (["a", "b"], ["c", "d"], ["c", "d"]),
    ({"a": "b"}, ["c"], ["c"]),
    ({"a": "foo"}, None, None),
    ({"a": "foo"}, "bar", "bar"),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]  # fmt: skip
"""The table of appendix A."""


@pytest.mark.parametrize(("target", "patch", "merged"), RFC_7386)
def test_the_patches_of_rfc_7386(target: object, patch: object, merged: object) -> None:
    assert json.loads(merge_patch(text(target), text(patch))) == merged


def naive(target: Any, patch: Any) -> Any:
    """The algorithm of section 2, on values."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = naive(merged.get(name), value)
    return merged


@given(documents, documents)
def test_a_patch_does_what_the_algorithm_says(target: object, patch: object) -> None:
    merged = merge_patch(text(target), text(patch))
    assert json.loads(merged) == naive(target, patch)
    assert json.loads(merge_patch(None, text(patch))) == naive(None, patch)
    assert json.loads(merge_patch(merged, text(patch))) == naive(target, patch)


def test_what_a_patch_does_not_name_stays_as_it_was_written() -> None:
    merged = merge_patch(b'{"n": 1.50, "big": 123456789012345678901234567890, "s": "\\u00e9"}', b'{"x": 1e2}')
    assert merged == b'{"n":1.50,"big":123456789012345678901234567890,"s":"\\u00e9","x":1e2}'


# --- the tools ---


def test_patches_at_the_same_time_lose_nothing_and_keep_the_time_to_live() -> None:
    me, agents, rounds = caller_of_all(), 4, 500
    said(me, "redis_set", key="d", value={}, ttl=100)
    busy: list[int] = []

    def patch(number: int) -> Task:
        for round in range(rounds):
            found: list[Any] = [{}]
            while "ok" not in found[-1]:
                arguments = {"key": "d", "patch": {f"f{number}": {str(round % 20): round}}}
                yield from trips(me, "redis_json_merge", arguments, found)
                busy.append("error" in found[-1])

    interleaved([patch(number) for number in range(agents)])
    last = {str(round % 20): round for round in range(rounds)}
    assert said(me, "redis_json_get", key="d")["value"] == {f"f{number}": last for number in range(agents)}
    assert said(me, "redis_ttl", key="d")["ttl"] == 100


def test_a_document_that_others_change_all_the_time_is_left_to_the_caller() -> None:
    me = caller_of_all()
    found: list[Any] = []
    merging = trips(me, "redis_json_merge", {"key": "d", "patch": {"a": 1}}, found)
    for number, _ in enumerate(merging):
        said(me, "redis_set", key="d", value={"n": number})
    assert found[0]["error"]["code"] == "CONFLICT" and found[0]["error"]["retryable"] is True
    given: list[Any] = []
    etag = said(me, "redis_get", key="d")["etag"]
    merging = trips(me, "redis_json_merge", {"key": "d", "patch": {"a": 1}, "if_match": etag}, given)
    next(merging)
    next(merging)
    said(me, "redis_set", key="d", value={"other": True})
    assert list(merging) == [] and given[0]["error"]["code"] == "CONFLICT"
    assert given[0]["error"]["etag"] == said(me, "redis_get", key="d")["etag"]


def test_a_part_that_is_too_long_is_told_by_its_members() -> None:
    me = caller_of_all()
    said(me, "redis_set", key="d", value={"long": {"x": "y" * 20_000, "z": 1}})
    found = said(me, "redis_json_get", key="d", path="$.long")
    assert found["found"] and "value" not in found and '"x", "z"' in found["truncated"]
    assert said(me, "redis_json_get", key="d", path="/long/z")["value"] == 1
