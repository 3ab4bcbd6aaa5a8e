"""In whose namespace a request runs: what names one, what is refused; and that nothing leads out of it.

The invariant, over more than a million hostile (namespace, key, pattern): whatever a caller sends, every operation
that is made of it stays in the caller's own namespace, and what the store gives and tells is from there.
"""

import re
import time
from collections.abc import Iterator
from itertools import product

import msgspec
import pytest
from hypothesis import given, strategies as st
from msgspec import Raw

from kvmcp.backends.memory import MemoryBackend
from kvmcp.backends.ops import (
    KIND_CHANNEL,
    KIND_LEASE,
    KIND_SESSION,
    KIND_VALUE,
    Exists,
    Failure,
    Get,
    Namespace,
    NsKey,
    Op,
    Page,
    Scan,
    Set,
    is_namespace,
)
from kvmcp.backends.redis.commands import Commands
from kvmcp.core.catalog import Catalog
from kvmcp.core.errors import INVALID_PARAMS, RpcError
from kvmcp.core.plan import AskBackend, Caller, Context, Plan
from kvmcp.core.wire.common import ClientCapabilities
from kvmcp.tools import completion
from kvmcp.tools.listing import list_page
from kvmcp.tools.namespaces import NamespaceSource, parse_source
from kvmcp.tools.prompts import PROMPTS
from kvmcp.tools.resources import RESOURCES

CATALOG = Catalog(*RESOURCES, *PROMPTS)
ALICE = Caller("alice", "", frozenset({"read"}))


def context(namespace: str) -> Context:
    return Context(Caller(namespace=namespace), "2026-07-28", ClientCapabilities())


# --- how a source is written ---


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("header:X-App-Id", "header:x-app-id"),
        (" Header:x_tenant ", "header:x_tenant"),
        ("meta:tenant", "meta:tenant"),
        ("META:com.example/tenant.id", "meta:com.example/tenant.id"),
        ("meta:Tenant", "meta:Tenant"),
    ],
)
def test_a_source_is_read_and_shown(text: str, shown: str) -> None:
    assert str(parse_source(text)) == shown
    assert parse_source(shown) == parse_source(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "neither"), ("X-App-Id", "neither"), ("cookie:x", "neither"),
        ("header:", "no header's name"), ("header:a b", "no header's name"), ("header:a:b", "no header's name"),
        ("header:Authorization", "something else"), ("header:Mcp-Session-Id", "something else"),
        ("header:mcp-param-x", "something else"), ("header:" + "x" * 129, "129 characters"),
        ("meta:", "no key"), ("meta:-x", "no key"), ("meta:1a.b/c", "no key"), ("meta:a/b/c", "no key"),
        ("meta:progressToken", "keeps for itself"), ("meta:traceparent", "keeps for itself"),
        ("meta:io.modelcontextprotocol/x", "keeps for itself"), ("meta:dev.mcp/x", "keeps for itself"),
    ],
)  # fmt: skip
def test_what_is_no_source(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_source(text)


def test_headers_need_a_transport_that_has_them() -> None:
    header, meta = parse_source("header:x-app-id"), parse_source("meta:tenant")
    assert header.fault_with(("http:8765", "websocket")) is None
    assert meta.fault_with(("stdio",)) is None
    assert "stdio has no headers" in (header.fault_with(("http", "stdio")) or "")


# --- what a request says ---

HEADER = parse_source("header:X-App-Id")
META = parse_source("meta:com.example/tenant")


@pytest.mark.parametrize(
    ("headers", "namespace"),
    [
        ([(b"x-app-id", b"acme")], "acme"),
        ([(b"accept", b"x"), (b"X-App-ID", b" acme\t")], "acme"),
        ([], None),
        ([(b"x-app-id", b"")], None),
        ([(b"x-app-id", b"acme"), (b"x-app-id", b"acme")], None),
        ([(b"x-app-id", b"acme"), (b"X-App-Id", b"other")], None),
        ([(b"x-app-id", b"acme, other")], None),
        ([(b"x-app-id", b"acme}:k")], None),
        ([(b"x-app-id", "ácme".encode())], None),
        ([(b"x-app-id", b"x" * 65)], None),
    ],
)
def test_the_namespace_of_a_header(headers: list[tuple[bytes, bytes]], namespace: str | None) -> None:
    found = HEADER.of_headers(headers)
    if namespace is not None:
        assert found == namespace
    else:
        assert isinstance(found, RpcError) and "x-app-id" in found.message
        assert "acme" not in found.message, "what came is nobody's business"


@pytest.mark.parametrize(
    ("meta", "namespace"),
    [
        (b'{"com.example/tenant":"acme"}', "acme"),
        (b'{"progressToken":1,"com.example/tenant":"a.b-c_1"}', "a.b-c_1"),
        (b"", None),
        (b"{}", None),
        (b'{"com.example/tenant":null}', None),
        (b'{"com.example/tenant":7}', None),
        (b'{"com.example/tenant":["acme"]}', None),
        (b'{"com.example/tenant":""}', None),
        (b'{"com.example/tenant":"acme/keys"}', None),
        (b'{"com.example/tenant":"acm\\u00e9"}', None),
        (b'{"com.example/Tenant":"acme"}', None),
        (b'["com.example/tenant"]', None),
        (b'{"com.example/tenant":"\xff"}', None),
    ],
)
def test_the_namespace_of_meta(meta: bytes, namespace: str | None) -> None:
    found = META.of_meta(ALICE, Raw(meta))
    if namespace is not None:
        assert found == Caller("alice", namespace, frozenset({"read"}))
    else:
        assert isinstance(found, RpcError) and found.code == INVALID_PARAMS
        assert "com.example/tenant" in found.message


@given(st.text(), st.binary())
def test_any_text_names_a_namespace_or_is_refused(text: str, octets: bytes) -> None:
    meta = Raw(msgspec.json.encode({META.name: text}))
    found = META.of_meta(ALICE, meta)
    assert isinstance(found, Caller) == bool(re.fullmatch(r"[A-Za-z0-9._-]{1,64}", text))
    of_header = HEADER.of_headers([(b"x-app-id", octets)])
    assert isinstance(of_header, str) == bool(re.fullmatch(rb"[ \t]*[A-Za-z0-9._-]{1,64}[ \t]*", octets))
    assert not isinstance(META.of_meta(ALICE, Raw(octets)), Caller) or META.name.encode() in octets


# --- nothing leads out of a namespace ---

NAMESPACES = (
    "acme", "ACME", "acme.", "acme-", "acme_", ".acme", "acm", "acmee", "a", ".", "..", "-", "_", "k", "s",
    "acme.k", "default", "kvmcp", "0", "a" * 64,
)  # fmt: skip
"""Valid ones that look like each other, or like something else."""
HOSTILE_NAMESPACES = (
    "", "*", "{acme}", "acme}", "{acme", "acme}:k", "acme:k", "acme:k:x", "acme/keys", "../acme", "acme\0", "acme ",
    " acme", "acme\n", "açme", "acme?", "[a]cme", "acm\\e", "a" * 65, "\ud800", "acme%2F", "acme#",
)  # fmt: skip
PIECES = (
    "", "a", "*", "?", "[", "]", "\\", "^", "-", "{", "}", ":", "/", "%2F", "\0", "\r\n", "ä", "\U0001d11e", "..", "k",
    "{acme}", "kvmcp:{acme}:k:", "acme", "mark", "[^a]", "[a-z]*", "\\*", "**", "x" * 40, ".log",
)  # fmt: skip
KINDS = (KIND_VALUE, KIND_SESSION, KIND_CHANNEL, KIND_LEASE, "k.log", "c.log")


def hostile_texts() -> Iterator[str]:
    """Two and three pieces; 900 and some."""
    yield from ("".join(pieces) for pieces in product(PIECES, PIECES))
    yield from ("".join(pieces) for pieces in product(PIECES[20:24], PIECES[2:10], ("a", "*", "k:")))


def test_a_key_in_redis_is_read_in_one_way_only() -> None:
    """Namespace, kind and name can be read back from the bytes, so no two things share a key."""
    key_of = Commands("kvmcp").key
    read = re.compile(rb"kvmcp:\{([A-Za-z0-9._-]{1,64})\}:([a-z.]+):(.*)\Z", re.DOTALL)
    names = [text.encode() for text in hostile_texts()]
    tried = 0
    for namespace, kind in product(NAMESPACES, KINDS):
        space, wanted = Namespace(namespace).space(kind), (namespace.encode(), kind.encode())
        for name in names:
            found = read.match(key_of(NsKey(space, name.decode())))
            assert found is not None and found.groups() == (*wanted, name)
            tried += 1
    assert tried > 100_000


def test_what_could_break_out_is_no_namespace() -> None:
    for namespace in (*HOSTILE_NAMESPACES, *(text for text in hostile_texts() if not text.isalnum())):
        if re.fullmatch(r"[A-Za-z0-9._-]{1,64}", namespace):
            continue
        assert not is_namespace(namespace)
    for namespace in NAMESPACES:
        assert is_namespace(namespace)


def _filled() -> MemoryBackend:
    """Every namespace has the same names in every kind, with its own name as the value, and a mark of its own."""
    store = MemoryBackend(clock=time.monotonic)
    for namespace in map(Namespace, NAMESPACES):
        value = msgspec.json.encode(namespace.name)
        for kind in KINDS:
            names = ("a", "*", "{acme}", "k:", f"mark:{namespace.name}")
            assert store.execute_now([Set(namespace.key(name, kind), value) for name in names]) == [True] * 5
    return store


def test_a_million_hostile_tuples_read_and_list_nothing_of_others() -> None:
    store = _filled()
    texts = list(hostile_texts())
    own = {name: msgspec.json.encode(name) for name in NAMESPACES}
    marks = {name: f"mark:{name}" for name in NAMESPACES}
    spaces = [Namespace(name) for name in NAMESPACES]
    keys = texts[:: len(texts) // 55]
    tried = 0
    for pattern in texts:
        for namespace in spaces:
            scans = store.execute_now(
                [Scan(namespace.space(kind), pattern) for kind in (KIND_VALUE, KIND_SESSION)]
            )
            for page in scans:
                if isinstance(page, Page):
                    assert all(
                        not name.startswith("mark:") or name == marks[namespace.name] for name in page.names
                    )
                else:
                    assert isinstance(page, Failure)
            replies = store.execute_now([Get(namespace.key(key)) for key in keys])
            value = own[namespace.name]
            for reply in replies:
                assert reply is None or reply == value
            tried += len(keys)
    assert tried >= 1_000_000


def operations(plan: Plan) -> tuple[Op, ...]:
    return plan.ops if isinstance(plan, AskBackend) else ()  # type: ignore[return-value]  # what the tools ask for


def _spaces(op: Op) -> set[str]:
    """Every space that an operation names, wherever."""
    return set(re.findall(r"\{([^{}]*)\}:[a-z]", repr(_without_names(op))))


def _without_names(op: Op) -> list[str]:
    if isinstance(op, Scan):
        return [op.space]
    if isinstance(op, Exists):
        return [key.space for key in op.keys]
    places = [getattr(op, field) for field in op.__struct_fields__]
    return [place.space for place in places if isinstance(place, NsKey)]


URIS = [
    f"kv://{namespace}/{rest}"
    for namespace in (*NAMESPACES, *HOSTILE_NAMESPACES, "acme%2Fkeys", "%61cme", "acme%00", "..%2Facme", "a%63me")
    for rest in (
        "keys/a", "keys/%2A", "keys/..%2F..%2Facme%2Fkeys%2Fa", "keys/%7Bacme%7D%3Ak%3Aa", "keys/a/fields/f",
        "sessions/a", "channels/a", "stats", "keys/", "keys/a?x=y", "keys/../../acme/keys/a",
    )
]  # fmt: skip


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_no_uri_leads_out_of_a_namespace(namespace: str) -> None:
    """Reading asks for what is the caller's own, or the URI is as if it did not exist; watching likewise."""
    ours, served = context(namespace), 0
    for uri in URIS:
        found = CATALOG.serving(uri, ours)
        assert CATALOG.can_watch(uri, ours) <= (found is not None)
        if found is None:
            continue
        template, variables = found
        served += 1
        assert variables["namespace"] == namespace
        asked = operations(template.read(uri, variables, ours))
        assert asked and all(_spaces(op) == {namespace} for op in asked)
        watch = CATALOG.watch_of(uri)
        for key in () if watch is None else (*watch.keys, *watch.channels):
            assert isinstance(key, NsKey) and key.space.startswith(f"{{{namespace}}}:")
    assert served >= 8
    assert all(CATALOG.serving(uri, context("")) is None for uri in URIS), "who has none has nothing"


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_no_list_prompt_or_suggestion_leads_out_of_a_namespace(namespace: str) -> None:
    ours = context(namespace)
    texts = [*hostile_texts()][::7]
    plans = [list_page(cursor, 10, ours) for cursor in ("", "k", "s", "c", *(f"k{text}" for text in texts))]
    for text in texts:
        plans += [
            completion.complete_resource(name, text, chosen, ours)
            for name in ("key", "id", "name", "field", "namespace")
            for chosen in ({}, {"namespace": namespace, "key": text}, {"namespace": text})
        ]
        for prompt in PROMPTS:
            plans.append(prompt.get({"session_id": text, "task": text, "queue": text, "channel": text}, ours))
            assert prompt.complete is not None
            plans.append(prompt.complete("session_id", text, {}, ours))
    asked = [op for plan in plans for op in operations(plan)]
    assert len(asked) > 1000
    assert {space for op in asked for space in _spaces(op)} == {namespace}


def test_sources_are_values() -> None:
    assert NamespaceSource("header", "x") == parse_source("header:X")
