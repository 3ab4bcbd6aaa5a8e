"""What is in the store, as resources: every kind of thing is read as the document that it is, and is on the list."""

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st
from msgspec import UNSET

from kvmcp.backends.ops import (
    KIND_CHANNEL,
    KIND_SESSION,
    MAX_KEY_BYTES,
    Code,
    Expire,
    Failure,
    HashSet,
    LogPage,
    Namespace,
    Op,
    Page,
    Publish,
    Push,
    Set,
    SetAdd,
    SortedAdd,
    StreamAdd,
    TtlReply,
)
from kvmcp.core.catalog import Catalog
from kvmcp.core.errors import INVALID_PARAMS, RESOURCE_NOT_FOUND
from kvmcp.core.items import Watch
from kvmcp.core.plan import Answer, AskBackend, Caller, Context, Fail, Plan
from kvmcp.core.wire.common import ReadResult, ResourceLink, ResourcePage
from kvmcp.tools import uris
from kvmcp.tools.documents import LAST_MESSAGES, contents
from kvmcp.tools.listing import list_page
from kvmcp.tools.resources import RESOURCES
from tests.tools.store import CONTEXT, SPACE, Store

CATALOG = Catalog(*RESOURCES)
DOWN = Failure(Code.REDIS_NOT_CONNECTED, "no connection", retryable=True)


def plan_of(uri: str, context: Context = CONTEXT) -> Plan:
    found = CATALOG.serving(uri, context)
    assert found is not None, uri
    return found[0].read(uri, found[1], context)


def read(store: Store, uri: str) -> ReadResult:
    answer = store.run(plan_of(uri))
    assert isinstance(answer, Answer) and isinstance(answer.result, ReadResult), answer
    assert not answer.result.public
    return answer.result


def document(store: Store, uri: str) -> Any:
    [part] = read(store, uri).contents
    assert (part.uri, part.mime_type) == (uri, "application/json")
    assert isinstance(part.text, str)
    return json.loads(part.text)


def pages(store: Store, size: int) -> list[ResourcePage]:
    """All pages of the list."""
    found: list[ResourcePage] = []
    cursor = ""
    while True:
        answer = store.run(list_page(cursor, size, CONTEXT))
        assert isinstance(answer, Answer) and isinstance(answer.result, ResourcePage), answer
        found.append(answer.result)
        if answer.result.next_cursor is UNSET:
            return found
        assert len(found) < 200
        cursor = answer.result.next_cursor


# --- URIs ---

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=130).filter(
    lambda name: len(name.encode()) <= MAX_KEY_BYTES
)


@given(names, names)
def test_every_name_is_read_back_from_its_uri(name: str, field: str) -> None:
    for template, variable in ((uris.KEY, "key"), (uris.SESSION, "id"), (uris.CHANNEL, "name")):
        uri = uris.uri_of(template, CONTEXT, **{variable: name})
        assert uri is not None and uri.isascii() and not set(uri) & set(' "<>\\^`{|}')
        found = CATALOG.serving(uri, CONTEXT)
        assert found is not None and found[0].uri_template == template
        assert found[1] == {"namespace": "acme", variable: name}
    uri = uris.uri_of(uris.FIELD, CONTEXT, key=name, field=field)
    found = CATALOG.serving(uri or "", CONTEXT)
    assert found is not None and found[1] == {"namespace": "acme", "key": name, "field": field}
    assert CATALOG.watch_of(uri or "") == Watch(keys=(SPACE.key(name),))


def test_what_cannot_be_a_name_has_no_uri_and_no_uri_names_it() -> None:
    assert uris.uri_of(uris.KEY, CONTEXT, key="") is None
    longest = "x" * MAX_KEY_BYTES
    assert CATALOG.serving(f"kv://acme/keys/{longest}", CONTEXT) is not None
    assert CATALOG.serving(f"kv://acme/keys/{longest}y", CONTEXT) is None
    assert CATALOG.serving("kv://acme/keys/" + "%C3%A4" * 257, CONTEXT) is None
    for uri in (
        "kv://acme/keys/",
        "kv://acme/keys/a/b",
        "kv://acme/keys/%ff",
        "kv://acme/things/a",
        "kv://acme",
    ):
        assert CATALOG.serving(uri, CONTEXT) is None
    assert [uris.is_name(text) for text in ("", "a", longest, longest + "y", "\ud800")] == [
        False, True, True, False, False,
    ]  # fmt: skip


def test_another_spelling_is_the_same_key() -> None:
    store = Store()
    store.do(Set(SPACE.key("user:1"), b"7"))
    for uri in ("kv://acme/keys/user:1", "kv://acme/keys/user%3A1", "kv://acme/keys/%75ser%3a1"):
        assert document(store, uri) == 7
        assert CATALOG.watch_of(uri) == Watch(keys=(SPACE.key("user:1"),))


def test_sessions_and_channels_are_watched_where_they_are() -> None:
    assert CATALOG.watch_of("kv://acme/sessions/a") == Watch(keys=(SPACE.key("a", KIND_SESSION),))
    assert CATALOG.watch_of("kv://acme/channels/a") == Watch(channels=(SPACE.key("a", KIND_CHANNEL),))
    assert not CATALOG.can_watch("kv://acme/stats", CONTEXT)


# --- reading ---


@pytest.mark.parametrize(
    ("op", "expected"),
    [
        (Push(SPACE.key("x"), (b"1", b'"two"')), {"type": "list", "length": 2, "values": [1, "two"]}),
        (HashSet(SPACE.key("x"), (("f", b"1"), ("", b"{}"))), {"type": "hash", "fields": {"f": 1, "": {}}}),
        (SetAdd(SPACE.key("x"), (b"1", b'"a"')), {"type": "set", "members": ["a", 1]}),
        (
            SortedAdd(SPACE.key("x"), ((b'"a"', 2.5), (b'"b"', 1.0))),
            {
                "type": "sorted_set",
                "size": 2,
                "members": [{"member": "b", "score": 1}, {"member": "a", "score": 2.5}],
            },
        ),
        (Set(SPACE.key("x"), b'{"$text":1}'), {"$text": 1}),
        (Set(SPACE.key("x"), b'{"$text":"a","b":1}'), {"$text": "a", "b": 1}),
        (Set(SPACE.key("x"), b"null"), None),
    ],
)
def test_a_key_is_read_as_what_it_holds(op: Op, expected: Any) -> None:
    store = Store()
    store.do(op)
    assert document(store, "kv://acme/keys/x") == expected
    assert read(store, "kv://acme/keys/x").ttl_ms == 0, "it may change at any time"


def test_a_stream_is_read_as_entries() -> None:
    store = Store()
    store.do(StreamAdd(SPACE.key("x"), (("f", b"1"),)))
    shown = document(store, "kv://acme/keys/x")
    assert shown["type"] == "stream" and shown["more"] is False
    assert [entry["fields"] for entry in shown["entries"]] == [{"f": 1}]


@pytest.mark.parametrize(
    ("value", "mime_type", "text", "blob"),
    [
        (b'{"a":1}', "application/json", '{"a":1}', UNSET),
        (b'"plain"', "application/json", '"plain"', UNSET),
        (b'{"$text":"not\\njson"}', "text/plain", "not\njson", UNSET),
        (b'{"$base64":"AP8="}', "application/octet-stream", UNSET, "AP8="),
        (b'{"$base64":7}', "application/json", '{"$base64":7}', UNSET),
    ],
)
def test_mime_types(value: bytes, mime_type: str, text: object, blob: object) -> None:
    shown = contents("kv://acme/keys/a", value)
    assert (shown.mime_type, shown.text, shown.blob) == (mime_type, text, blob)


def test_a_reader_may_keep_a_document_as_long_as_its_key_lives() -> None:
    store = Store()
    store.do(
        Set(SPACE.key("a"), b"1", 60_000),
        HashSet(SPACE.key("s", KIND_SESSION), ((".x", b"1"), ("ttl", b"9"))),
    )
    store.do(Expire(SPACE.key("s", KIND_SESSION), 9000))
    assert read(store, "kv://acme/keys/a").ttl_ms == 60_000
    store.now += 1.5
    assert read(store, "kv://acme/keys/a").ttl_ms == 58_500
    assert document(store, "kv://acme/sessions/s") == {"session_id": "s", "data": {"x": 1}, "ttl": 8}
    store.now += 60
    for uri in ("kv://acme/keys/a", "kv://acme/sessions/s"):
        gone = store.run(plan_of(uri))
        assert isinstance(gone, Fail) and gone.error.code == RESOURCE_NOT_FOUND


@pytest.mark.parametrize(
    "uri",
    [
        "kv://acme/keys/none",
        "kv://acme/keys/none/fields/f",
        "kv://acme/keys/h/fields/none",
        "kv://acme/sessions/none",
    ],
)
def test_what_is_missing_is_said_to_be(uri: str) -> None:
    store = Store()
    store.do(HashSet(SPACE.key("h"), (("f", b"1"),)))
    answer = store.run(plan_of(uri))
    assert isinstance(answer, Fail) and answer.error.code == RESOURCE_NOT_FOUND
    assert document(store, "kv://acme/keys/h/fields/f") == 1


def test_a_channel_is_its_last_messages() -> None:
    store = Store()
    empty = document(store, "kv://acme/channels/news")
    assert (empty["channel"], empty["messages"]) == ("news", [])
    channel = SPACE.key("news", KIND_CHANNEL)
    store.do(*(Publish(channel, str(number).encode()) for number in range(LAST_MESSAGES + 7)))
    shown = document(store, "kv://acme/channels/news")
    assert [message["message"] for message in shown["messages"]] == list(range(7, LAST_MESSAGES + 7))
    assert shown["cursor"] == shown["messages"][-1]["id"]


def test_stats_count_what_there_is_in_the_namespace() -> None:
    store = Store()
    store.do(*(Set(SPACE.key(f"k{number}"), b"1") for number in range(1500)))
    store.do(Set(Namespace("other").key("k"), b"1"), Publish(SPACE.key("c", KIND_CHANNEL), b"1"))
    store.do(*(HashSet(SPACE.key(f"s{number}", KIND_SESSION), (("ttl", b"1"),)) for number in range(3)))
    assert document(store, "kv://acme/stats") == {
        "namespace": "acme",
        "keys": {"count": 1500, "complete": True},
        "sessions": {"count": 3, "complete": True},
        "channels": {"count": 1, "complete": True},
    }


def test_many_names_are_counted_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvmcp.tools.documents.STATS_NAMES", 10)
    store = Store()
    store.do(*(Set(SPACE.key(f"k{number}"), b"1") for number in range(300)))
    assert document(store, "kv://acme/stats")["keys"] == {"count": 100, "complete": False}
    assert store.trips == 10


@pytest.mark.parametrize(
    ("uri", "replies"),
    [
        ("kv://acme/keys/a", [(DOWN, DOWN, DOWN)]),
        ("kv://acme/keys/a", [("value", b"1", DOWN)]),
        ("kv://acme/keys/a", [("list", DOWN, TtlReply(True)), (DOWN,)]),
        ("kv://acme/keys/a", [("other", DOWN, TtlReply(True))]),
        ("kv://acme/keys/a/fields/f", [(DOWN, TtlReply(True))]),
        ("kv://acme/sessions/a", [((), DOWN)]),
        ("kv://acme/channels/a", [(DOWN,)]),
        ("kv://acme/channels/a", [(LogPage((), "0", 0),), (DOWN,)]),
        ("kv://acme/stats", [(Page(()), DOWN, Page(()))]),
    ],
)
def test_a_store_that_fails_says_so(uri: str, replies: list[tuple[object, ...]]) -> None:
    plan = plan_of(uri)
    for reply in replies:
        assert isinstance(plan, AskBackend)
        plan = plan.then.resume(reply, CONTEXT)
    assert isinstance(plan, Fail) and plan.error.code == -32603
    assert plan.error.message == "REDIS_NOT_CONNECTED: no connection"


def test_a_value_that_vanishes_meanwhile_is_missing() -> None:
    plan = plan_of("kv://acme/keys/a")
    assert isinstance(plan, AskBackend)
    for replies in (("value", None, TtlReply(False)), ("value", b"1", TtlReply(False))):
        gone = plan.then.resume(replies, CONTEXT)
        assert isinstance(gone, Fail) and gone.error.code == RESOURCE_NOT_FOUND


# --- the list ---


def fill(store: Store, count: int) -> set[str]:
    """Keys, sessions and channels; their URIs."""
    for number in range(count):
        store.do(
            Set(SPACE.key(f"k/{number}"), b"12"),
            HashSet(SPACE.key(f"s{number}", KIND_SESSION), (("ttl", b"1"),)),
            Publish(SPACE.key(f"c{number}", KIND_CHANNEL), b"1"),
            Set(Namespace("other").key(f"foreign{number}"), b"1"),
        )
    return {"kv://acme/stats"} | {
        f"kv://acme/{kind}{number}"
        for number in range(count)
        for kind in ("keys/k%2F", "sessions/s", "channels/c")
    }


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10, 250])
@pytest.mark.parametrize("count", [0, 1, 12])
def test_the_list_has_everything_once_in_bounded_pages(size: int, count: int) -> None:
    store = Store()
    wanted = fill(store, count)
    listed = pages(store, size)
    found = [link.uri for page in listed for link in page.resources]
    assert len(found) == len(set(found)) and set(found) == wanted
    assert all(len(page.resources) <= max(2, size) for page in listed)
    assert [page.resources for page in pages(store, size)] == [page.resources for page in listed]


def test_what_a_list_says_of_each() -> None:
    store = Store()
    store.do(
        Set(SPACE.key("value"), b'"abc"'),
        Push(SPACE.key("list"), (b"1",)),
        HashSet(SPACE.key("s", KIND_SESSION), (("ttl", b"1"),)),
    )
    [page] = pages(store, 100)
    assert page.resources == (
        ResourceLink("kv://acme/stats", "stats", title="How much there is", mime_type="application/json"),
        ResourceLink("kv://acme/sessions/s", "s", title="The session s", mime_type="application/json"),
        ResourceLink("kv://acme/keys/list", "list", mime_type="application/json"),
        ResourceLink("kv://acme/keys/value", "value", mime_type="application/json", size=5),
    )


def test_a_list_of_very_many_looks_at_few_at_a_time() -> None:
    store = Store()
    plan: Any = list_page("", 100, CONTEXT)
    for _ in range(8):
        assert isinstance(plan, AskBackend)
        plan = plan.then.resume((Page((), "more"),), CONTEXT)
    assert plan == Answer(ResourcePage(plan.result.resources, "smore"))
    assert store.trips == 0


@pytest.mark.parametrize("cursor", ["x", "kx", "k7", "s-", "kéé"])
def test_a_cursor_of_no_list_is_refused(cursor: str) -> None:
    store = Store()
    fill(store, 3)
    answer = store.run(list_page(cursor, 10, CONTEXT))
    assert isinstance(answer, Fail) and answer.error.code == INVALID_PARAMS


def test_a_list_says_that_the_store_failed() -> None:
    def resumed(plan: Plan, *replies: object) -> Plan:
        assert isinstance(plan, AskBackend)
        return plan.then.resume(replies, CONTEXT)

    first = list_page("", 10, CONTEXT)
    failed = resumed(first, DOWN)
    assert isinstance(failed, Fail) and failed.error.code == -32603
    describing = resumed(list_page("k", 10, CONTEXT), Page(("a", "", "gone", "foreign")))
    assert isinstance(resumed(describing, *[DOWN] * 8), Fail)
    kinds_and_sizes = ("value", "value", "other", None, None, 5, None, None)
    answer = resumed(describing, *kinds_and_sizes)
    assert isinstance(answer, Answer) and isinstance(answer.result, ResourcePage)
    assert [link.name for link in answer.result.resources] == ["a"]


def test_a_list_is_the_callers_own() -> None:
    store = Store()
    fill(store, 2)
    other = Context(Caller(namespace="other"), "2026-07-28", CONTEXT.client_capabilities)
    answer = store.run(list_page("", 100, other), other)
    assert isinstance(answer, Answer) and isinstance(answer.result, ResourcePage)
    assert [link.uri for link in answer.result.resources] == [
        "kv://other/stats", "kv://other/keys/foreign0", "kv://other/keys/foreign1",
    ]  # fmt: skip
