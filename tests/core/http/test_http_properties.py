"""Whatever a client sends, it gets one well-formed response with a status that is documented, and the server goes on."""

import json
from itertools import pairwise
from typing import Final

from hypothesis import given, strategies as st

from kvmcp.core.http.messages import Request
from tests.core.harness import Json, envelope
from tests.core.http.harness import JSON_HEADERS, Reply, Session, Web, modern_headers

STATUSES: Final = {200, 202, 204, 400, 404, 405, 406, 409, 413, 415}

NAMES: Final = st.sampled_from(
    [
        b"Accept", b"Content-Type", b"Content-Length", b"MCP-Protocol-Version", b"Mcp-Method", b"Mcp-Name",
        b"Mcp-Session-Id", b"Last-Event-ID", b"Mcp-Param-X", b"Host",
    ]
)  # fmt: skip
VALUES: Final = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [
            b"*/*",
            b"application/json",
            b"text/event-stream",
            b"2026-07-28",
            b"2025-11-25",
            b"tools/list",
            b"get",
            b"p-1",
        ]
    ),
)
HEADERS: Final = st.lists(st.tuples(NAMES, VALUES), max_size=8)
METHODS: Final = st.sampled_from(
    ["tools/list", "tools/call", "initialize", "ping", "resources/read", "notifications/cancelled", "no/such"]
)
PARAMS: Final = st.one_of(
    st.none(),
    st.sampled_from(
        [{}, {"name": "get", "arguments": {"key": "a"}}, {"_meta": envelope()}, {"_meta": envelope("v1")},
         {"name": "get", "_meta": envelope()}, {"_meta": 5}, {"_meta": {}}, [], 5]
    ),
)  # fmt: skip
MESSAGES: Final = st.fixed_dictionaries(
    {"jsonrpc": st.just("2.0"), "method": METHODS}, optional={"id": st.integers(0, 3), "params": PARAMS}
).map(lambda message: json.dumps(message).encode())
BODIES: Final = st.one_of(st.binary(max_size=60), MESSAGES)


@given(st.sampled_from(["POST", "GET", "DELETE", "PUT"]), HEADERS, BODIES, st.booleans())
def test_any_request_has_one_documented_outcome(
    verb: str, headers: list[tuple[bytes, bytes]], body: bytes, in_session: bool
) -> None:
    web = Web()
    session = Session(web, "2025-11-25")
    given = [(name.encode(), value.encode()) for name, value in session.headers.items()] if in_session else []
    reply = web.request(verb, given + headers, body, revision="2026-07-28")
    assert reply.status in STATUSES
    assert reply.ended or reply.is_stream
    if reply.ended:
        assert reply.exchange.closed
    assert web.call("get", {"key": "a"}).code() == (200, None)
    assert session.ask("ping").code() == (200, None) or verb == "DELETE"


@given(
    st.sampled_from(["tools/list", "tools/call", "server/discover", "no/such"]),
    st.lists(st.integers(0, 400), max_size=6),
)
def test_how_a_body_is_cut_does_not_matter(method: str, cuts: list[int]) -> None:
    params: Json = {"name": "get", "arguments": {"key": "a"}, "_meta": envelope()}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
    whole = Web().request("POST", modern_headers(method, params), body)
    web = Web()
    first = web.request("POST", JSON_HEADERS | modern_headers(method, params), b"")
    assert first.status == 400
    fields = [(name.encode(), value.encode()) for name, value in modern_headers(method, params).items()]
    exchange = web.server.open(Request("POST", fields), web.caller, web.now)
    reply = Reply(web, exchange, "2026-07-28", {})
    places = [0, *sorted(cuts), len(body)]
    for start, end in pairwise(places):
        exchange.receive_body(body[start:end], web.now)
    exchange.end_of_body(web.now)
    reply.drive()
    assert (reply.status, reply.body) == (whole.status, whole.body)
