"""What other programs wrote, and the pages of a scan: pure parts, as calls."""

import base64
import json

import msgspec
import pytest
from hypothesis import given, strategies as st

from kvmcp.backends.ops import Failure, Namespace, NsKey, Page, Scan, Set
from kvmcp.backends.redis.commands import Commands
from kvmcp.backends.redis.resp import Value, pack
from kvmcp.backends.redis.scan import MAX_ROUNDS, NO_SUCH_CURSOR, ScanPage
from kvmcp.backends.redis.values import present


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        (b"1", b"1"),
        (b'{"a" :  1.10}', b'{"a" :  1.10}'),
        (b"1e400", b"1e400"),
        (b'{\n  "a": [1,\r\n 2.50]\n}', b'{"a":[1,2.50]}'),
        (b"", b'{"$text":""}'),
        (b"hello", b'{"$text":"hello"}'),
        (b'say "hi"\n', b'{"$text":"say \\"hi\\"\\n"}'),
        (b"NaN", b'{"$text":"NaN"}'),
        (b"01", b'{"$text":"01"}'),
        (b'"\\ud800"', b'{"$text":"\\"\\\\ud800\\""}'),
        (b'"\xff"', b'{"$base64":"Iv8i"}'),
        (b"\x80\x04pickle", b'{"$base64":"' + base64.b64encode(b"\x80\x04pickle") + b'"}'),
        (b"[" * 128 + b"]" * 128, b"[" * 128 + b"]" * 128),
        (b"[" * 129 + b"]" * 129, b'{"$text":"' + b"[" * 129 + b"]" * 129 + b'"}'),
        (b'["' + b"[" * 500 + b'\\"]"]', b'["' + b"[" * 500 + b'\\"]"]'),
    ],
)
def test_how_a_value_is_presented(stored: bytes, shown: bytes) -> None:
    assert present(stored) == shown


def test_nesting_without_end_is_text() -> None:
    assert present(b"[" * 100_000).startswith(b'{"$text":')


@given(st.one_of(st.binary(), st.text().map(lambda text: text.encode("utf-8", "surrogatepass"))))
def test_whatever_is_stored_comes_back_as_one_line_of_json(stored: bytes) -> None:
    shown = present(stored)
    assert b"\n" not in shown and b"\r" not in shown
    msgspec.json.decode(shown, type=msgspec.Raw)
    value = json.loads(shown)
    if shown != stored and isinstance(value, dict) and "$base64" in value:
        assert base64.b64decode(value["$base64"]) == stored
    elif shown != stored and isinstance(value, dict) and "$text" in value:
        assert value["$text"].encode() == stored


@given(st.text(), st.binary(), st.integers(1, 10**12))
def test_arguments_cannot_become_commands(name: str, value: bytes, ttl_ms: int) -> None:
    """The bytes on the wire are RESP with exactly these arguments, whatever is in them."""
    key = NsKey("{n}:k", name[:100])
    encoded = Commands("kvmcp").encode(Set(key, value, ttl_ms))
    if isinstance(encoded, Failure):
        return
    stored = f"kvmcp:{{n}}:k:{name[:100]}".encode("utf-8", "surrogatepass")
    parts = [b"SET", stored, value, b"PX", b"%d" % ttl_ms]
    assert encoded == (b"*5\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts),)


# --- pages

SPACE = Namespace("n").space()


def page_of(op: Scan) -> ScanPage:
    page = ScanPage(op, "kvmcp")
    assert page.fault is None
    return page


def keys(*names: str) -> list[Value]:
    return [f"kvmcp:{SPACE}:{name}".encode() for name in names]


def test_a_page_in_one_step() -> None:
    page = page_of(Scan(SPACE, "a*", 10))
    assert page.next_command("s") == pack(b"SCAN", 0, b"MATCH", b"kvmcp:{n}:k:a*", b"COUNT", 10)
    assert page.receive([b"0", keys("a", "ab")], True) == Page(("a", "ab"))


def test_the_prefix_is_escaped_and_the_pattern_is_not() -> None:
    page = ScanPage(Scan("{a-b}:k", "[x]?"), "p-1")
    assert b"p\\-1:{a\\-b}:k:[x]?" in (page.next_command("s") or b"")


def test_what_is_too_much_travels_in_the_cursor() -> None:
    page = page_of(Scan(SPACE, count=2))
    page.next_command("s")
    first = page.receive([b"0", keys("a", "b", "c", "d", "e")], True)
    assert isinstance(first, Page) and first.names == ("a", "b") and first.cursor
    again = page_of(Scan(SPACE, count=2, cursor=first.cursor))
    assert again.next_command("s") is None
    second = again.page()
    assert second.names == ("c", "d")
    last = page_of(Scan(SPACE, count=2, cursor=second.cursor))
    assert last.next_command("s") is None
    assert last.page() == Page(("e",))


def test_little_found_asks_for_more() -> None:
    page = page_of(Scan(SPACE, count=100))
    efforts: list[bytes] = []
    for round in range(MAX_ROUNDS):
        command = page.next_command("s")
        assert command is not None
        efforts.append(command.split(b"\r\n")[-2])
        result = page.receive([b"%d" % (round + 1), []], True)
        if result is not None:
            break
    assert efforts[:5] == [b"100", b"200", b"400", b"800", b"1000"]
    assert len(efforts) == MAX_ROUNDS
    assert isinstance(result, Page) and result.names == () and result.cursor


def test_a_page_before_a_write_of_its_batch_takes_one_step() -> None:
    page = page_of(Scan(SPACE, count=100))
    page.next_command("s")
    result = page.receive([b"7", []], False)
    assert isinstance(result, Page) and result.cursor


def test_another_process_begins_anew() -> None:
    page = page_of(Scan(SPACE, count=1))
    page.next_command("one")
    first = page.receive([b"7", keys("a")], True)
    assert isinstance(first, Page)
    for server, position in (("one", b"7"), ("two", b"0")):
        again = page_of(Scan(SPACE, count=1, cursor=first.cursor))
        assert (again.next_command(server) or b"").split(b"\r\n")[4] == position


@given(st.text(max_size=60))
def test_any_cursor_is_a_cursor_or_refused(cursor: str) -> None:
    page = ScanPage(Scan(SPACE, cursor=cursor), "kvmcp")
    assert page.fault in (None, NO_SUCH_CURSOR)


def test_names_that_are_not_utf8_are_left_out() -> None:
    page = page_of(Scan(SPACE))
    page.next_command("s")
    assert page.receive([b"0", [b"kvmcp:{n}:k:\xff", *keys("a")]], True) == Page(("a",))


@pytest.mark.parametrize("reply", [None, b"0", [], [b"0"], [b"x", []], [b"0", b"no"], [1, []]])
def test_an_odd_reply_is_a_failure(reply: object) -> None:
    page = page_of(Scan(SPACE))
    page.next_command("s")
    assert isinstance(page.receive(reply, True), Failure)  # type: ignore[arg-type]  # what no server sends
