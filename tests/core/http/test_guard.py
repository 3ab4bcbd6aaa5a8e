"""Hosts, origins and preflights: what passes, and what is turned away with which status."""

import pytest
from hypothesis import given, strategies as st

from kvmcp.core.errors import INVALID_PARAMS, RpcError
from kvmcp.core.http.guard import Guard, Passed, Turned, is_loopback, refuse_caller
from kvmcp.core.http.messages import BodyPart, Request, ResponseStart


def status(guard: Guard, method: str = "POST", **headers: str) -> int:
    """The status that the guard gives; 0 where the request passes."""
    fields = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
    verdict = guard.check(Request(method, fields))
    if isinstance(verdict, Passed):
        return 0
    start, body = verdict.parts
    assert isinstance(start, ResponseStart) and isinstance(body, BodyPart) and not body.more
    return start.status


LOCAL = Guard("127.0.0.1")
PUBLIC = Guard("0.0.0.0", hosts=["kv.example", "only.example:8443"], origins=["https://app.example"])


@pytest.mark.parametrize("host", ["localhost", "LocalHost:8765", "127.0.0.1:9000", "[::1]:1", " localhost "])
def test_a_local_server_is_called_by_loopback_names_on_any_port(host: str) -> None:
    assert status(LOCAL, Host=host) == 0


@pytest.mark.parametrize(
    "host",
    ["evil.example.com", "localhost.evil.com", "127.0.0.1.evil.com", "192.168.0.7", "[fe80::1]", "", "localhost:",
     "localhost:999999", "a b", "user@localhost", "localhost.", "caf\u00e9", "*", "localhost/"],
)  # fmt: skip
def test_a_local_server_has_no_other_name(host: str) -> None:
    assert status(LOCAL, Host=host) == 421


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("kv.example", 0), ("kv.example:1", 0), ("KV.Example", 0), ("only.example:8443", 0), ("localhost", 0),
        ("10.0.0.5:8765", 0), ("[2001:db8::1]:8765", 0),
        ("only.example", 421), ("only.example:1", 421), ("sub.kv.example", 421), ("evil.example", 421),
        ("10.0.0.5.evil.com", 421),
    ],
)  # fmt: skip
def test_a_public_server_has_its_addresses_and_the_names_that_it_was_given(host: str, expected: int) -> None:
    assert status(PUBLIC, Host=host) == expected


def test_a_request_has_exactly_one_host() -> None:
    assert status(LOCAL) == 400
    verdict = LOCAL.check(Request("GET", [(b"host", b"localhost"), (b"Host", b"localhost")]))
    assert isinstance(verdict, Turned)


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://localhost:6274", 0), ("https://127.0.0.1", 0), ("HTTP://LOCALHOST", 0), ("http://[::1]:3", 0),
        ("http://evil.example.com", 403), ("http://localhost.evil.com", 403), ("null", 403), ("", 403),
        ("file://localhost", 403), ("http://localhost:*", 403), ("http://localhost:1/path", 403), ("http://", 403),
    ],
)  # fmt: skip
def test_pages_of_this_machine_may_use_a_local_server(origin: str, expected: int) -> None:
    assert status(LOCAL, Host="localhost", Origin=origin) == expected


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("https://app.example", 0), ("https://app.example:443", 0), ("https://app.example:8443", 403),
        ("http://app.example", 403), ("http://localhost", 403), ("https://kv.example", 403),
    ],
)  # fmt: skip
def test_only_named_pages_may_use_a_public_server(origin: str, expected: int) -> None:
    assert status(PUBLIC, Host="kv.example", Origin=origin) == expected


def test_origins_with_any_port_and_everything() -> None:
    ports = Guard("0.0.0.0", origins=["http://app.example:*", "myapp://x/"])
    assert status(ports, Host="10.0.0.1", Origin="http://app.example:81") == 0
    assert status(ports, Host="10.0.0.1", Origin="http://app.example") == 0
    assert status(ports, Host="10.0.0.1", Origin="myapp://x") == 0
    everything = Guard("0.0.0.0", hosts=["*"], origins=["*"])
    assert status(everything, Host="any.example", Origin="null") == 0


def test_an_origin_that_stands_twice_is_refused() -> None:
    fields = [(b"host", b"localhost"), (b"origin", b"http://localhost"), (b"origin", b"http://localhost")]
    assert isinstance(LOCAL.check(Request("POST", fields)), Turned)


@pytest.mark.parametrize("entry", ["", "a b", "http://x", "x:y", "x/y"])
def test_an_entry_that_is_no_host_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="not a host"):
        Guard("::", hosts=[entry])


@pytest.mark.parametrize("entry", ["app.example", "https://", "https://x/path", "null"])
def test_an_entry_that_is_no_origin_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="not a host or origin"):
        Guard("::", origins=[entry])


def test_what_is_loopback() -> None:
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.8.8.8", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "kv.example")))


# --- CORS ---


def headers_of(verdict: Passed | Turned) -> dict[bytes, bytes]:
    if isinstance(verdict, Passed):
        return dict(verdict.headers)
    start = verdict.parts[0]
    assert isinstance(start, ResponseStart)
    return dict(start.headers)


def test_without_an_origin_there_is_nothing_to_say() -> None:
    assert LOCAL.check(Request("POST", [(b"host", b"localhost")])) == Passed([])


def test_an_allowed_page_may_read_the_answer_and_the_headers_of_mcp() -> None:
    fields = [(b"host", b"localhost"), (b"origin", b"http://localhost:1")]
    said = headers_of(LOCAL.check(Request("POST", fields)))
    assert said[b"access-control-allow-origin"] == b"http://localhost:1"
    assert said[b"vary"] == b"Origin" and b"Mcp-Session-Id" in said[b"access-control-expose-headers"]
    assert b"access-control-allow-credentials" not in said


def preflight(*asked: bytes) -> dict[bytes, bytes]:
    fields = [(b"host", b"localhost"), (b"origin", b"http://localhost:1")]
    fields += [(b"access-control-request-headers", names) for names in asked]
    verdict = LOCAL.check(Request("OPTIONS", fields))
    assert isinstance(verdict, Turned)
    return headers_of(verdict)


def test_a_preflight_is_answered() -> None:
    said = preflight(b"content-type,mcp-param-region, authorization")
    assert said[b"access-control-allow-headers"] == b"content-type,mcp-param-region, authorization"
    assert said[b"access-control-allow-methods"] == b"GET, POST, DELETE"


@pytest.mark.parametrize("asked", [b"", b"a\r\nx: y", b"a;b", b"a" * 5000])
def test_a_preflight_echoes_nothing_but_names(asked: bytes) -> None:
    assert b"access-control-allow-headers" not in preflight(asked)


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_only_known_hosts_and_origins_pass(host: bytes, origin: bytes) -> None:
    verdict = LOCAL.check(Request("POST", [(b"host", host), (b"origin", origin)]))
    if isinstance(verdict, Passed):
        assert host.strip().split(b":")[0].lower() in (b"localhost", b"127.0.0.1", b"[")
        assert origin.strip().lower().startswith((b"http://", b"https://"))


def test_a_request_on_nobodys_behalf_is_refused_as_a_whole_response() -> None:
    turned = refuse_caller(RpcError(INVALID_PARAMS, "the header is missing"))
    start, body = turned.parts
    assert isinstance(start, ResponseStart) and start.status == 400
    assert isinstance(body, BodyPart) and not body.more
    assert body.data == b'{"jsonrpc":"2.0","error":{"code":-32602,"message":"the header is missing"}}'
