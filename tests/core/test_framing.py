"""Lines out of chunks."""

import pytest

from kvmcp.core.framing import HEAD_BYTES, LineFramer, Oversized, join_lines

LIMIT = 5000
req = pytest.mark.req


def framed(*chunks: bytes, limit: int = LIMIT) -> list[bytes | Oversized]:
    framer = LineFramer(limit)
    return [line for chunk in chunks for line in framer.receive(chunk)] + framer.end()


def buffered(framer: LineFramer) -> int:
    """Bytes that the framer keeps."""
    return len(framer._tail)


@req("stdio-line-per-message")
@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"one\n", [b"one"]),
        (b"one\ntwo\n", [b"one", b"two"]),
        (b"one\r\ntwo\r\n", [b"one", b"two"]),
        (b"\n\n \n\t\r\n\r\none\n\n", [b"one"]),
        (b"one\ntwo", [b"one", b"two"]),
        (b"one\r", [b"one"]),
        (b"a\rb\n", [b"a\rb"]),
        (b" one \n", [b" one "]),
        ("naïve\n".encode(), ["naïve".encode()]),
    ],
)
def test_lines_however_the_bytes_are_cut(data: bytes, lines: list[bytes]) -> None:
    assert framed(data) == lines
    assert framed(*(data[i : i + 1] for i in range(len(data)))) == lines
    for cut in range(len(data)):
        assert framed(data[:cut], data[cut:]) == lines


def test_a_line_of_exactly_the_limit_passes_and_one_more_byte_does_not() -> None:
    assert framed(b"x" * LIMIT + b"\n") == [b"x" * LIMIT]
    assert framed(b"x" * LIMIT) == [b"x" * LIMIT]
    assert framed(b"x" * (LIMIT + 1) + b"\nnext\n") == [Oversized(b"x" * HEAD_BYTES, LIMIT + 1), b"next"]


@pytest.mark.parametrize("cut", [1, LIMIT - 1, LIMIT, LIMIT + 1, LIMIT + 2])
def test_the_limit_does_not_count_the_line_ending_wherever_the_cut_is(cut: int) -> None:
    data = b"x" * LIMIT + b"\r\n"
    assert framed(data[:cut], data[cut:]) == [b"x" * LIMIT]


def test_a_long_line_is_refused_once_and_thrown_away_as_it_arrives() -> None:
    framer = LineFramer(LIMIT)
    assert framer.receive(b"y" * LIMIT) == []
    assert framer.receive(b"yy") == [Oversized(b"y" * HEAD_BYTES, LIMIT + 2)]
    assert buffered(framer) == 0
    assert framer.receive(b"y" * LIMIT) == []
    assert buffered(framer) == 0
    assert framer.receive(b"end of it\nnext\nhalf") == [b"next"]
    assert framer.end() == [b"half"]


def test_a_long_line_that_ends_in_its_second_chunk_is_refused() -> None:
    assert framed(b"x" * LIMIT, b"x\nnext\n") == [Oversized(b"x" * HEAD_BYTES, LIMIT + 1), b"next"]


def test_the_end_within_a_long_line_gives_nothing_more() -> None:
    framer = LineFramer(LIMIT)
    framer.receive(b"z" * (LIMIT + 1))
    assert framer.end() == []


def test_128_mib_without_a_newline_keep_memory_at_the_limit() -> None:
    limit, chunk = 4 * 1024 * 1024, b"x" * 65536
    framer = LineFramer(limit)
    refused = []
    for _ in range(128 * 16):
        refused += framer.receive(chunk)
        assert buffered(framer) <= limit
    assert refused == [Oversized(b"x" * HEAD_BYTES, limit + len(chunk))]
    assert framer.receive(b"\nnext\n") == [b"next"]


@req("stdio-line-per-message")
def test_messages_become_lines_without_newlines_inside() -> None:
    assert join_lines([]) == b""
    assert join_lines([b"{}", b"[1]"]) == b"{}\n[1]\n"
    assert join_lines([b'{"a":\n1}', b"{}"]) == b'{"a": 1}\n{}\n'
