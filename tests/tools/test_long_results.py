"""Results stay within their limit, hold whole values only, and say how to go on; nothing is lost on the way."""

import json
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from kvmcp.core.wire.common import ResourceLink, TextContent
from kvmcp.tools.room import MAX_RESULT_CHARS, MIN_RESULT_CHARS, chars, how_many_fit, members_that_fit, named
from tests.tools.support import DirectCaller, caller

LIMITS = st.sampled_from([MIN_RESULT_CHARS, MAX_RESULT_CHARS])
"""The smallest limit that can be set cuts most often."""
texts = st.builds(
    lambda character, length: character * length, st.sampled_from('aä\n\\"\x01😀'), st.integers(0, 9000)
)
names = st.builds(
    lambda character, length: character * length, st.sampled_from("aä\n\x01😀"), st.integers(1, 128)
)
"""Up to 512 bytes, and six times as many characters once they are escaped."""


def said(me: DirectCaller, tool: str, **arguments: Any) -> Any:
    """The structured result of a call; text and structured content together are within the limit."""
    result = me.calls(tool, arguments)
    assert result.structured is not None and not result.is_error, result
    texts = [block.text for block in result.content if isinstance(block, TextContent)] or [
        result.structured.decode()
    ]
    assert sum(map(len, texts)) + chars(result.structured) <= me.limit
    found = json.loads(result.structured)
    assert json.loads(texts[0]) == found
    if "truncated" in found and tool not in ("redis_exists", "redis_lpop"):
        assert [block for block in result.content if isinstance(block, ResourceLink)]
    return found


@given(LIMITS, names, texts)
def test_a_value_is_whole_or_linked(limit: int, key: str, value: str) -> None:
    me = caller(limit)
    me.calls("redis_set", {"key": key, "value": value})
    found = said(me, "redis_get", key=key)
    assert found["found"] is True and found["etag"]
    assert found.get("value", value) == value and ("value" in found) is ("truncated" not in found)
    assert said(me, "redis_get", key=key, detail="detailed")["etag"] == found["etag"]
    kv = said(me, "community.database.simple_kv.get", key=key)
    assert kv.get("value", value) == value and ("value" in kv) is ("truncated" not in kv)


@given(LIMITS, st.dictionaries(names, texts, max_size=12))
def test_fields_are_whole_or_named(limit: int, fields: dict[str, str]) -> None:
    me = caller(limit)
    for field, value in fields.items():
        me.calls("redis_hset", {"key": "h", "field": field, "value": value})
        found = said(me, "redis_hget", key="h", field=field)
        assert found.get("value", value) == value
    found = said(me, "redis_hgetall", key="h")
    assert found["fields"].items() <= fields.items()
    assert ("truncated" in found) is (len(found["fields"]) < len(fields))
    detailed = said(me, "redis_hgetall", key="h", detail="detailed")
    assert not fields or detailed["size"] == len(fields)


@given(LIMITS, names, st.dictionaries(names.map(lambda name: name[:127]), texts, max_size=12))
def test_a_sessions_fields_are_whole_or_named(limit: int, session_id: str, data: dict[str, str]) -> None:
    me = caller(limit)
    assert said(me, "redis_session_create", session_id=session_id, data=data)["session_id"] == session_id
    for found in (
        said(me, "redis_session_get", session_id=session_id, detail="detailed"),
        said(me, "redis_session_update", session_id=session_id, data={}),
    ):
        assert found["data"].items() <= data.items()
        assert ("truncated" in found) is (len(found["data"]) < len(data))


@settings(max_examples=20)
@given(LIMITS, st.sets(names, min_size=1, max_size=120), st.integers(1, 1000), st.booleans())
def test_all_keys_are_found_page_by_page(limit: int, keys: set[str], count: int, detailed: bool) -> None:
    me = caller(limit)
    for key in keys:
        me.calls("redis_set", {"key": key, "value": 1})
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = said(me, "redis_keys", count=count, detail="detailed" if detailed else "concise", **cursor)
        assert len(page["keys"]) <= count and set(page.get("details", {})) <= set(page["keys"])
        found += page["keys"]
        if "cursor" not in page:
            break
        assert page["keys"] or cursor != {"cursor": page["cursor"]}
        cursor = {"cursor": page["cursor"]}
    assert sorted(found) == sorted(keys)


@given(LIMITS, st.lists(names, min_size=1, max_size=60))
def test_existence_is_told_of_as_many_as_fit(limit: int, keys: list[str]) -> None:
    me = caller(limit)
    me.calls("redis_set", {"key": keys[0], "value": 1})
    found = said(me, "redis_exists", keys=keys)
    assert found["count"] == 1
    assert ("truncated" in found) is (len(found["exists"]) < len(set(keys)))


@given(LIMITS, st.lists(st.sampled_from([1, 50, 700, 3000]), min_size=1, max_size=60), st.integers(1, 60))
def test_what_is_taken_from_a_list_is_told(limit: int, sizes: list[int], count: int) -> None:
    me = caller(limit)
    elements = [f"{index}:".ljust(size, "x") for index, size in enumerate(sizes)]
    me.calls("redis_rpush", {"key": "l", "values": elements})
    taken: list[str] = []
    while True:
        rehearsed = said(me, "redis_lpop", key="l", count=count, dry_run=True)
        popped = said(me, "redis_lpop", key="l", count=count)
        assert rehearsed["values"] == popped["values"]
        if not popped["values"]:
            break
        taken += popped["values"]
    assert taken == elements


def test_an_element_that_is_too_long_stays_in_the_list() -> None:
    me = caller(MIN_RESULT_CHARS)
    me.calls("redis_rpush", {"key": "l", "values": ["x" * MIN_RESULT_CHARS]})
    refused = me.calls("redis_lpop", {"key": "l"})
    assert refused.is_error and b'"TOO_LARGE"' in (refused.structured or b"")
    assert said(me, "redis_lpop", key="l", dry_run=True)["values"] == []


@given(
    LIMITS,
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from([1, 300, 2500, 20_000])), min_size=1, max_size=50
    ),
    st.integers(1, 30),
)
def test_messages_are_read_on_and_none_is_missed(limit: int, sent: list[tuple[str, int]], count: int) -> None:
    me = caller(limit)
    for index, (channel, size) in enumerate(sent):
        me.calls("redis_publish", {"channel": channel, "message": f"{index}:".ljust(size, "x")})
    read: list[tuple[str, str | None]] = []
    cursor, order = "0", ["c", "a", "b", "a"]
    while True:
        page = said(me, "redis_subscribe", channels=order, cursor=cursor, max_messages=count)
        assert "gap" not in page and len(page["messages"]) <= count
        if not page["messages"]:
            assert page["cursor"] == cursor
            break
        read += [(message["channel"], message.get("message")) for message in page["messages"]]
        cursor, order = page["cursor"], order[::-1]
    for name in "abc":
        wanted = [
            f"{index}:".ljust(size, "x") for index, (channel, size) in enumerate(sent) if channel == name
        ]
        got = [message for channel, message in read if channel == name]
        assert [message if len(message) < 3000 else None for message in wanted] == [
            message if message is None or len(message) < 3000 else None for message in got
        ]
        assert all(message is None or message == want for message, want in zip(got, wanted, strict=True))


@given(LIMITS, st.lists(texts, min_size=1, max_size=49))
def test_several_results_share_the_room(limit: int, values: list[str]) -> None:
    me = caller(limit)
    for index, value in enumerate(values):
        me.calls("redis_set", {"key": str(index), "value": value})
    operations: list[Any] = [
        {"tool": "redis_get", "arguments": {"key": str(index)}} for index in range(len(values))
    ]
    operations.append({"tool": "redis_set", "arguments": {"key": "last", "value": 1}})
    result = me.calls("redis_multi", {"operations": operations})
    assert result.structured is not None and not result.is_error
    assert 2 * chars(result.structured) <= limit
    results = json.loads(result.structured)["results"]
    assert len(results) == len(operations) and results[-1]["ok"] is True
    for found, value in zip(results, values, strict=False):
        assert found.get("value", value) == value
        assert ("value" in found) is ("truncated" not in found)
    total = sum(len(json.dumps(value, ensure_ascii=False)) + 80 for value in values)
    assert total > limit // 2 - 2000 or not any("truncated" in found for found in results)


# --- the parts ---


@given(st.lists(texts.map(lambda text: json.dumps(text).encode()), max_size=8), st.integers(0, 20_000))
def test_the_first_that_fit(items: list[bytes], room: int) -> None:
    fit = how_many_fit(items, room)
    assert sum(chars(item) + 1 for item in items[:fit]) <= room
    assert fit == len(items) or sum(chars(item) + 1 for item in items[: fit + 1]) > room


@given(
    st.dictionaries(names, texts.map(lambda text: json.dumps(text).encode()), max_size=8),
    st.integers(0, 9000),
)
def test_members_are_kept_or_missing(members: dict[str, bytes], room: int) -> None:
    kept, missing = members_that_fit(list(members.items()), room)
    assert {*kept, *missing} == set(members) and len(kept) + len(missing) == len(members)
    assert all(members[name] == value for name, value in kept.items())
    assert (
        sum(
            chars(json.dumps(name, ensure_ascii=False).encode()) + chars(value)
            for name, value in kept.items()
        )
        <= room
    )


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], ""),
        (["a", "b"], '"a", "b"'),
        (["a" * 200, "b" * 200], f'"{"a" * 200}" and 1 more'),
        (["a" * 400, "b"], "2 with long names"),
    ],
)
def test_names_in_a_sentence(names: list[str], said: str) -> None:
    assert named(names) == said
