"""The upgrade by plain calls: who may come in, what plain HTTP gets, what is malformed."""

from typing import Any

import pytest
from hypothesis import given, strategies as st

from kvmcp.core.http.guard import Guard, Turned
from kvmcp.core.http.messages import Request, json_response
from kvmcp.core.plan import Caller
from kvmcp.io.websocket.limits import WebSocketLimits
from kvmcp.io.websocket.upgrade import Door, Upgrade, Upgraded, values
from tests.io.support import MODERN_META, call, ping
from tests.io.websocket.support import ACCEPT, KEY, Served, make_door, text, upgrade
from tests.tools.support import without_etag

DEFLATING = WebSocketLimits(compression=True)


def response(
    sent: bytes, limits: WebSocketLimits | None = None, door: Door | None = None
) -> tuple[int, bytes]:
    """Status and the whole response."""
    served = Served(limits, door)
    served.feed(sent)
    written = bytes(served.written)
    status = int(written[9:12])
    assert served.machine.closed == (status != 101)
    assert not served.machine.wants_input or status == 101
    return status, written


def test_the_example_of_the_rfc() -> None:
    status, written = response(upgrade())
    assert status == 101
    fields = {line.partition(b": ")[0].lower(): line.partition(b": ")[2] for line in written.split(b"\r\n")}
    assert fields[b"sec-websocket-accept"] == ACCEPT
    assert fields[b"sec-websocket-protocol"] == b"mcp"
    assert fields[b"upgrade"] == b"websocket"
    assert b"sec-websocket-extensions" not in fields


@pytest.mark.parametrize(
    ("offer", "chosen"), [(b"mcp", True), (b"a, mcp ,b", True), (b"a", False), (b"MCP", False), (b"", False)]
)
def test_the_subprotocol_is_echoed_where_it_is_offered(offer: bytes, chosen: bool) -> None:
    status, written = response(upgrade(sec_websocket_protocol=offer))
    assert status == 101
    assert (b"sec-websocket-protocol: mcp" in written.lower()) is chosen


def test_a_client_without_subprotocol_is_served() -> None:
    served = Served().open(without=["sec-websocket-protocol"])
    served.say(call(1, "redis_get", MODERN_META, key="a"))
    assert served.hear()[0]["id"] == 1


def test_several_lines_of_subprotocols() -> None:
    _, written = response(upgrade(sec_websocket_protocol=b"a", more=[b"Sec-WebSocket-Protocol: mcp"]))
    assert b"mcp" in written


@pytest.mark.parametrize("path", ["/", "/mcp", "/ws", "/mcp?session=1"])
def test_paths(path: str) -> None:
    assert response(upgrade(path))[0] == 101


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (upgrade("/other"), 404),
        (upgrade(host=b"evil.example"), 421),
        (upgrade(without=["host"]), 400),
        (upgrade(more=[b"Host: 127.0.0.1"]), 400),
        (upgrade(host=b"\xff"), 421),
        (upgrade(host=b"a" * 300), 421),
        (upgrade(origin=b"https://evil.example"), 403),
        (upgrade(origin=b"null"), 403),
        (upgrade(origin=b"http://localhost:3000"), 101),
        (upgrade(connection=b"keep-alive"), 400),
        (upgrade(connection=b"keep-alive, upgrade"), 101),
        (upgrade(connection=b"\xffupgrade"), 400),
        (upgrade(upgrade=b"WebSocket"), 101),
        (upgrade(sec_websocket_version=b"8"), 426),
        (upgrade(without=["sec-websocket-version"]), 400),
        (upgrade(more=[b"Sec-WebSocket-Version: 13"]), 400),
        (upgrade(without=["sec-websocket-key"]), 400),
        (upgrade(sec_websocket_key=b"AAAA"), 400),
        (upgrade(sec_websocket_key=b"not base64 at all!!!!!!="), 400),
        (upgrade(sec_websocket_key=b"\xff" * 24), 400),
        (upgrade(more=[b"Sec-WebSocket-Key: " + KEY]), 400),
        (upgrade(method="POST"), 400),
        (upgrade(version="1.0"), 400),
        (upgrade(more=[b"Content-Length: 5"]) + b"hello", 400),
        (upgrade(more=[b"Transfer-Encoding: chunked"]), 400),
        (upgrade(sec_websocket_protocol=b"\xc3\xa9"), 400),
        (upgrade(sec_websocket_protocol=b"mcp, \xff"), 400),
        (upgrade(sec_websocket_extensions=b"\xff"), 400),
        (upgrade(sec_websocket_extensions=b"permessage-deflate; client_max_window_bits=abc"), 101),
        (upgrade(sec_websocket_extensions=b";;;,,,;=;"), 101),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 426),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40 + b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno header\r\n\r\n", 400),
        (b"x" * 20_000, 431),
    ],
)
@pytest.mark.parametrize("limits", [None, DEFLATING], ids=["plain", "deflate"])
def test_who_gets_what(sent: bytes, status: int, limits: WebSocketLimits | None) -> None:
    assert response(sent, limits)[0] == status


def test_an_older_version_is_told_ours() -> None:
    assert b"sec-websocket-version: 13" in response(upgrade(sec_websocket_version=b"8"))[1].lower()


@pytest.mark.parametrize(
    ("offer", "is_taken"),
    [
        (b"permessage-deflate", True),
        (b"x-unheard-of, permessage-deflate; client_max_window_bits", True),
        (b"permessage-deflate; client_max_window_bits=abc", False),
        (b"permessage-deflate; client_max_window_bits=abc, permessage-deflate", True),
        (b"x-webkit-deflate-frame", False),
    ],
)
def test_compression_is_agreed_on_where_it_is_switched_on(offer: bytes, is_taken: bool) -> None:
    sent = upgrade(sec_websocket_extensions=offer)
    assert (b"permessage-deflate" in response(sent, DEFLATING)[1]) is is_taken
    assert b"permessage-deflate" not in response(sent)[1]


@pytest.mark.parametrize("path", ["/", "/mcp", "/anything"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
def test_plain_http_is_told_what_this_is(path: str, method: str) -> None:
    sent = f"{method} {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\n{{}}".encode()
    status, written = response(sent)
    assert status == 426
    assert b"\r\nupgrade: websocket\r\n" in written and b"\r\nconnection: upgrade, close\r\n" in written
    head, _, body = written.partition(b"\r\n\r\n")
    assert b"content-length: %d\r\n" % len(body) in head


def test_health() -> None:
    status, written = response(b"GET /healthz HTTP/1.1\r\nhost: 10.0.0.1\r\n\r\n")
    assert status == 200 and written.endswith(b'\r\n\r\n{"status":"ok"}')
    status, written = response(b"HEAD /healthz HTTP/1.0\r\n\r\n")
    assert status == 200 and written.endswith(b"\r\n\r\n")


# --- who it is ----------------------------------------------------------------------------------------------------


def only_ada(request: Request) -> Caller | Turned:
    if values(request, b"authorization") == [b"Bearer ada"]:
        return Caller("ada", "ada-space")
    return Turned(json_response(401, b"{}", (b"www-authenticate", b"Bearer")))


def test_the_caller_is_found_by_the_head_of_the_upgrade() -> None:
    door = make_door(caller_of=only_ada)
    status, written = response(upgrade(), door=door)
    assert status == 401 and b"www-authenticate: Bearer\r\n" in written
    outcome = Upgrade(door).receive(upgrade(authorization=b"Bearer ada") + b"rest")
    assert isinstance(outcome, Upgraded)
    assert (outcome.caller, outcome.trailing) == (Caller("ada", "ada-space"), b"rest")


def test_callers_do_not_see_each_other() -> None:
    door = make_door(caller_of=lambda request: Caller(namespace=values(request, b"x-space")[0].decode()))
    served = Served(door=door).open(x_space=b"one")
    served.say(call(1, "redis_set", MODERN_META, key="k", value=1))
    other = Served(door=door)
    other.store = served.store
    other.open(x_space=b"two").say(call(1, "redis_get", MODERN_META, key="k"))
    assert without_etag(served.hear()[0]["result"]["structuredContent"]) == {"ok": True}
    assert other.hear()[0]["result"]["structuredContent"] == {"found": False}


def test_nobody_is_asked_who_they_are_where_they_may_not_come_from() -> None:
    asked: list[Request] = []

    def ask(request: Request) -> Caller:
        asked.append(request)
        return Caller()

    door = Door(Guard("127.0.0.1"), ask)
    for sent in (upgrade("/other"), upgrade(host=b"evil.example"), upgrade(origin=b"https://evil.example")):
        response(sent, door=door)
    assert asked == []


def test_a_bug_in_who_asks_ends_that_connection(caplog: pytest.LogCaptureFixture) -> None:
    def fail(request: Request) -> Caller:
        raise RuntimeError("a bug")

    served = Served(door=make_door(caller_of=fail))
    served.feed(upgrade())
    assert served.machine.closed
    assert "a WebSocket connection failed" in caplog.text


# --- any head -----------------------------------------------------------------------------------------------------

HOSTILE = [
    b"permessage-deflate; client_max_window_bits=abc",
    b"permessage-deflate; client_max_window_bits=" + b"9" * 5000,
    b'permessage-deflate; client_max_window_bits="1,2"',
    b"\xff\xfe",
    b"",
    b",",
    b";",
    b"mcp;",
    b"a" * 8000,
    b"xn--\xe2\x98\x83",
    b"[::1",
    b"127.0.0.1:99999",
    b"a..b",
    b"\x80" * 100,
]


@given(st.data())
def test_a_mutated_head_is_answered_or_refused(data: st.DataObject) -> None:
    """Whatever stands in the headers: 101 with a conversation behind it, or a response and the end."""
    names = ["host", "upgrade", "connection", "sec_websocket_key", "sec_websocket_version", "origin"]
    names += ["sec_websocket_protocol", "sec_websocket_extensions", "authorization"]
    changed: dict[str, Any] = {
        name: data.draw(st.sampled_from(HOSTILE) | st.binary(max_size=20))
        for name in data.draw(st.lists(st.sampled_from(names), max_size=3, unique=True))
    }
    head = upgrade(**changed)
    flips = data.draw(st.lists(st.tuples(st.integers(0, len(head) - 1), st.integers(0, 255)), max_size=2))
    for position, byte in flips:
        head = head[:position] + bytes((byte,)) + head[position + 1 :]
    served = Served(data.draw(st.sampled_from([None, DEFLATING])), make_door())
    cuts = sorted(data.draw(st.lists(st.integers(0, len(head)), max_size=3)))
    served.feed(head + text(ping(1)), cuts)
    if served.machine.closed:
        assert served.written[:9] == b"HTTP/1.1 "
        assert bytes(served.written[9:12]) in (b"400", b"403", b"404", b"421", b"426", b"431", b"200", b"501")
    elif served.written:
        assert served.written.startswith(b"HTTP/1.1 101")
        assert served.written.endswith(b'{"jsonrpc":"2.0","id":1,"result":{}}')
