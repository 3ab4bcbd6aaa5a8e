"""Long reads of the set `data`: within the limit, whole values only, and read to the end by what each result says."""

from typing import Any

from hypothesis import given, settings, strategies as st

from kvmcp.backends.ops import MAX_MEMBER_BYTES
from kvmcp.tools.room import MIN_RESULT_CHARS
from tests.tools.more_support import FullCaller, caller_of_all, said
from tests.tools.test_long_results import LIMITS, names, texts

SEVERAL = st.lists(texts, min_size=1, max_size=14)


@settings(max_examples=30)
@given(LIMITS, SEVERAL, st.integers(-16, 15))
def test_a_list_is_read_to_its_end(limit: int, values: list[str], start: int) -> None:
    me = caller_of_all(limit)
    said(me, "redis_rpush", key="l", values=values)
    wanted = values[start:] if start >= 0 else values[max(0, len(values) + start) :]
    read: list[str] = []
    left_out, at = 0, start
    while True:
        found = said(me, "redis_lrange", key="l", start=at)
        read += found["values"]
        left_out += "is left out" in found.get("truncated", "")
        if "next_start" not in found:
            break
        at = found["next_start"]
    assert len(read) + left_out == len(wanted)
    assert left_out or read == wanted


@settings(max_examples=30)
@given(LIMITS, SEVERAL)
def test_what_is_taken_from_the_right_is_told(limit: int, values: list[str]) -> None:
    me = caller_of_all(limit)
    said(me, "redis_rpush", key="l", values=values)
    taken: list[str] = []
    while len(taken) < len(values):
        rehearsed = said(me, "redis_rpop", key="l", count=1000, dry_run=True)
        found = said(me, "redis_rpop", key="l", count=1000)
        if "error" in found:
            assert found["error"]["code"] == rehearsed["error"]["code"] == "TOO_LARGE"
            assert said(me, "redis_ltrim", key="l", start=0, stop=-2)["length"] < len(values)
            taken.append(values[-len(taken) - 1])
            continue
        assert found["values"] == rehearsed["values"] and found["values"]
        taken += found["values"]
    assert taken == values[::-1]


@settings(max_examples=20)
@given(
    LIMITS, st.dictionaries(names, texts, min_size=1, max_size=12), st.sets(names, max_size=30), st.booleans()
)
def test_several_values_are_whole_or_named(
    limit: int, values: dict[str, str], others: set[str], detailed: bool
) -> None:
    me = caller_of_all(limit)
    said(me, "redis_mset", values=values)
    keys = [*values, *others]
    found = said(me, "redis_mget", keys=keys, detail="detailed" if detailed else "concise")
    assert found["values"].items() <= values.items()
    assert set(found["missing"]) <= others - set(values)
    whole = len(found["values"]) == len(values) and len(found["missing"]) == len(others - set(values))
    assert ("truncated" in found) is not whole
    assert not detailed or found["etags"].keys() == found["values"].keys()
    fields = {name: values[name] for name in values}
    said(me, "redis_hmset", key="h", fields=fields)
    some = said(me, "redis_hmget", key="h", fields=keys)
    assert some["fields"].items() <= fields.items()
    assert ("truncated" in some) is (len(some["fields"]) + len(some["missing"]) < len(set(keys)))


@settings(max_examples=20)
@given(LIMITS, st.sets(st.text(min_size=1, max_size=40).map(lambda text: text * 20), min_size=1, max_size=60))
def test_sets_are_read_page_by_page(limit: int, members: set[str]) -> None:
    me = caller_of_all(limit)
    small = sorted(member for member in members if len(repr(member.encode())) < 1300)
    if not small:
        return
    said(me, "redis_sadd", key="s", members=small)
    assert set(pages(me, "redis_smembers", "members", "offset", key="s")) == set(small)
    scored = [{"member": member, "score": number // 2} for number, member in enumerate(small)]
    said(me, "redis_zadd", key="z", members=scored)
    by_rank = pages(me, "redis_zrange", "members", "start", key="z", limit=7)
    assert by_rank == sorted(by_rank, key=lambda found: found["score"]) and len(by_rank) == len(small)
    by_score = pages(me, "redis_zrange", "members", "offset", key="z", min_score=0, limit=7)
    assert by_score == by_rank
    downwards = pages(me, "redis_zrange", "members", "start", key="z", reverse=True)
    assert downwards == by_rank[::-1]


def pages(me: FullCaller, tool: str, member: str, go_on: str, **arguments: Any) -> list[Any]:
    """All that there is, page by page."""
    read: list[Any] = []
    while True:
        found = said(me, tool, **arguments)
        read += found[member]
        if (on := found.get(f"next_{go_on}")) is None:
            return read
        arguments[go_on] = on


@settings(max_examples=20)
@given(LIMITS, SEVERAL, st.integers(1, 20), st.booleans())
def test_a_stream_is_read_page_by_page(limit: int, values: list[str], count: int, reverse: bool) -> None:
    me = caller_of_all(limit)
    ids = [said(me, "redis_xadd", key="x", fields={"v": value})["id"] for value in values]
    more: dict[str, Any] = {}
    read: list[Any] = []
    while True:
        found = said(me, "redis_xrange", key="x", count=count, reverse=reverse, **more)
        read += found["entries"]
        if "cursor" not in found:
            break
        more = {"cursor": found["cursor"]}
    assert [entry["id"] for entry in read] == (ids[::-1] if reverse else ids)
    told = {entry["id"]: entry["fields"]["v"] for entry in read if "fields" in entry}
    assert told.items() <= dict(zip(ids, values, strict=True)).items()
    assert all("truncated" in entry for entry in read if "fields" not in entry)


def test_the_end_of_a_list_is_found_where_the_store_cuts_its_answer() -> None:
    me = caller_of_all()
    for number in range(10):
        said(me, "redis_rpush", key="l", values=[f"{number}" + "x" * 1_000_000])
    said(me, "redis_rpush", key="l", values=["last"])
    assert said(me, "redis_rpop", key="l", count=1000, dry_run=True)["values"] == ["last"]
    found = said(me, "redis_rpop", key="l", count=1000)
    assert found["values"] == ["last"] and found["truncated"].startswith("10 more")
    assert said(me, "redis_rpop", key="l")["error"]["code"] == "TOO_LARGE"


def test_a_dry_run_says_where_a_list_is_too_long_for_it() -> None:
    me = caller_of_all()
    for _ in range(11):
        said(me, "redis_rpush", key="l", values=[1] * 1000)
    assert said(me, "redis_lrem", key="l", value=1, dry_run=True)["error"]["code"] == "TOO_LARGE"
    assert said(me, "redis_lrem", key="l", value=1) == {"removed": 11_000}


def test_the_longest_members_and_small_shares_are_read_to_the_end() -> None:
    me = caller_of_all(MIN_RESULT_CHARS)
    longest = [letter * (MAX_MEMBER_BYTES - 2) for letter in "abc"]
    said(me, "redis_sadd", key="s", members=longest)
    assert pages(me, "redis_smembers", "members", "offset", key="s") == longest
    scored = [{"member": member, "score": 1.7976931348623157e308} for member in longest]
    for each in scored:
        said(me, "redis_zadd", key="z", members=[each])
    assert pages(me, "redis_zrange", "members", "start", key="z") == scored
    assert pages(me, "redis_zrange", "members", "offset", key="z", min_score=1) == scored


def test_reads_inside_of_several_operations_share_the_room() -> None:
    me = caller_of_all(MIN_RESULT_CHARS)
    said(me, "redis_xadd", key="x", fields={"v": "y" * 3000})
    said(me, "redis_sadd", key="s", members=["y" * 3000])
    said(me, "redis_rpush", key="l", values=["y" * 3000])
    reads = [
        {"tool": tool, "arguments": {"key": key}}
        for tool, key in (("redis_xrange", "x"), ("redis_smembers", "s"), ("redis_lrange", "l"))
    ]
    results = said(me, "redis_multi", operations=reads * 10)["results"]
    assert len(results) == 30 and all("cursor" not in result for result in results)
