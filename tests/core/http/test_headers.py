"""Looking headers up, and what they say."""

import pytest

from kvmcp.core.http.headers import Headers
from kvmcp.core.http.messages import EVENTS, JSON


def test_names_have_no_case_and_values_no_white_space_around_them() -> None:
    headers = Headers([(b"MCP-Method", b" \ttools/list "), (b"mcp-name", b""), (b"X", b"caf\xe9")])
    assert headers.get(b"mcp-method") == "tools/list"
    assert headers.get(b"mcp-name") == ""
    assert headers.get(b"x") == "café"
    assert headers.get(b"y") is None


def test_a_header_that_stands_twice_is_seen() -> None:
    headers = Headers([(b"a", b"1"), (b"A", b"2"), (b"b", b"1")])
    assert headers.is_repeated(b"a") and not headers.is_repeated(b"b") and not headers.is_repeated(b"c")
    assert headers.get(b"a") == "1"


@pytest.mark.parametrize(
    ("text", "length"),
    [(b"12", 12), (b"", None), (b"-1", None), (b"1" * 19, None), (b"\xb2", None), (b"x", None)],
)
def test_the_length_of_the_body(text: bytes, length: int | None) -> None:
    assert Headers([(b"content-length", text)]).content_length() == length


def test_no_length_is_none() -> None:
    assert Headers([]).content_length() is None


@pytest.mark.parametrize(
    ("accept", "json", "events"),
    [
        (b"application/json, text/event-stream", True, True),
        (b"application/json;q=0.5,TEXT/Event-Stream", True, True),
        (b"*/*", True, True),
        (b"application/*", True, False),
        (b"text/*", False, True),
        (b"application/json", True, False),
        (b"text/event-stream", False, True),
        (b"text/html", False, False),
        (b"", False, False),
        (b"application/json;q=0, text/event-stream;q=0.000", False, False),
        (b"application/json;q=0.001", True, False),
    ],
)
def test_what_the_client_accepts(accept: bytes, json: bool, events: bool) -> None:
    headers = Headers([(b"accept", accept)])
    assert (headers.accepts(JSON), headers.accepts(EVENTS)) == (json, events)
    assert headers.accepts_both() == (json and events)


def test_several_lines_are_one_list_and_none_accepts_all() -> None:
    assert Headers([(b"Accept", b"application/json"), (b"accept", b"text/event-stream")]).accepts_both()
    assert Headers([]).accepts_both()


@pytest.mark.parametrize(
    ("text", "is_json"),
    [
        (b"application/json", True),
        (b"Application/JSON; charset=utf-8", True),
        (b"text/plain", False),
        (b"application/jsonp", False),
        (b"", False),
    ],
)
def test_the_type_of_the_body(text: bytes, is_json: bool) -> None:
    assert Headers([(b"content-type", text)]).has_json_body() == is_json
    assert not Headers([]).has_json_body()
