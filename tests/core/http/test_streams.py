"""Events with ids, and how many of them are kept."""

import pytest

from kvmcp.core.http import sse
from kvmcp.core.http.streams import Kept, MemoryEventStore, Stream, read_event_id
from kvmcp.core.limits import Limits


def numbers(kept: Kept | None) -> list[int]:
    assert kept is not None
    return [number for number, _ in kept.events]


def test_events_are_kept_in_order() -> None:
    store = MemoryEventStore(Limits())
    for number in (1, 2, 3):
        store.keep("s", "a", number, b"x", 0.0)
    assert store.after("s", "a", 1, 0.0) == Kept([(2, b"x"), (3, b"x")], ended=False)
    assert store.after("s", "b", 0, 0.0) is None and store.after("t", "a", 0, 0.0) is None
    store.end("s", "a")
    store.end("s", "unknown")
    assert store.after("s", "a", 3, 0.0) == Kept([], ended=True)


def test_the_newest_events_of_a_stream_are_kept() -> None:
    store = MemoryEventStore(Limits(stored_events=3))
    for number in range(1, 11):
        store.keep("s", "a", number, b"xx", 0.0)
    assert numbers(store.after("s", "a", 0, 0.0)) == [8, 9, 10] and store.size == 6


def test_the_streams_that_were_used_last_are_kept() -> None:
    store = MemoryEventStore(Limits(stored_streams=2))
    for name in ("a", "b", "a", "c"):
        store.keep("s", name, 1, b"x", 0.0)
    assert store.after("s", "b", 0, 0.0) is None
    assert numbers(store.after("s", "a", 0, 0.0)) == [1, 1] and numbers(store.after("s", "c", 0, 0.0)) == [1]


def test_only_so_many_bytes_are_kept() -> None:
    store = MemoryEventStore(Limits(stored_bytes=10))
    store.keep("s", "a", 1, b"x" * 6, 0.0)
    store.keep("s", "b", 1, b"x" * 6, 0.0)
    assert store.after("s", "a", 0, 0.0) is None and store.size == 6
    store.keep("s", "b", 2, b"x" * 6, 0.0)
    assert store.size == 0


def test_old_streams_and_those_of_an_ended_session_are_dropped() -> None:
    store = MemoryEventStore(Limits(stored_seconds=10.0))
    for session in ("s", "t"):
        store.keep(session, "a", 1, b"x", 0.0)
    store.forget("s")
    assert store.after("s", "a", 0, 9.0) is None and store.after("t", "a", 0, 9.0) is not None
    assert store.after("t", "a", 0, 10.0) is None and store.size == 0


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("ptoken-1-7", ("ptoken-1", 7)),
        ("a-0", ("a", 0)),
        ("a", None),
        ("-1", None),
        ("a-", None),
        ("a-x", None),
    ],
)
def test_event_ids(text: str, read: tuple[str, int] | None) -> None:
    assert read_event_id(text) == read


def test_a_stream_numbers_its_events() -> None:
    stream = Stream("s", "name", MemoryEventStore(Limits()))
    assert stream.write([b"{}", b"{\n}"], 0.0) == b"id: name-1\ndata: {}\n\nid: name-2\ndata: { }\n\n"
    assert stream.write([], 0.0) == b"" and stream.written == 2


def test_how_events_are_written() -> None:
    assert sse.event(b'{"a":"\\n"}') == b'data: {"a":"\\n"}\n\n'
    assert sse.event(b"{\r}") == b"data: { }\n\n"
    assert sse.priming(b"p-0", 300) == b"id: p-0\nretry: 300\ndata: \n\n"
