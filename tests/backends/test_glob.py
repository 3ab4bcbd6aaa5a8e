"""Globs: decided cases, a second implementation, and patterns that are made to be slow.

The invariant: for any pattern and any name, the matcher says what Redis 7's `stringmatchlen` says. `DECIDED`
was decided by a Redis 7.0.15 server (`KEYS k:<pattern>` with the names behind `k:`); the same comparison ran
on 6 million random pairs, of 120,000 patterns, without a difference. `redis_matches` follows Redis's C source
step by step, so that hypothesis has something to compare with where there is no server.
"""

import pytest
from hypothesis import example, given, strategies as st

from kvmcp.backends.glob import Glob, compile_glob
from kvmcp.backends.ops import MAX_PATTERN_BYTES, MAX_PATTERN_STARS, Code, Failure

DECIDED: list[tuple[str, list[bytes], list[bytes]]] = [
    # pattern, names that match, names that do not
    ("", [b""], []),
    ("*", [b"", b"a", b"abc"], []),
    ("**", [b"", b"a"], []),
    ("?", [b"a"], [b"", b"ab"]),
    ("??", [b"ab", b"\xc3\xa9"], [b"a", b"abc"]),
    ("a*", [b"a", b"ab"], [b"ba", b""]),
    ("*a", [b"a", b"ba"], [b"ab"]),
    ("*a*", [b"a", b"bab"], [b"bbb"]),
    ("a*b*c", [b"abc", b"aXbYc", b"abcabc", b"abcc"], [b"acb", b"ab", b"abcb"]),
    ("a**b", [b"ab", b"aXb"], [b"a"]),
    ("a*?", [b"ab", b"abc"], [b"a"]),
    ("*?", [b"a"], [b""]),
    ("?*a", [b"ba", b"bba"], [b"a"]),
    ("*ab", [b"aab", b"ab", b"abab"], [b"aba"]),
    ("*aab*", [b"aaab", b"aab"], [b"abab"]),
    ("*a?c", [b"abc", b"aabc", b"abcaXc"], [b"abcabd"]),
    ("a*a", [b"aa", b"aba"], [b"a", b"ab"]),
    ("h[^e]llo", [b"hallo"], [b"hello", b"hllo"]),
    ("h[ae]llo", [b"hallo", b"hello"], [b"hillo"]),
    ("h[a-b]llo", [b"hallo", b"hbllo"], [b"hcllo"]),
    ("h[b-a]llo", [b"hallo", b"hbllo"], [b"hcllo"]),
    ("[a-a]", [b"a"], [b"b"]),
    ("[]", [], [b"", b"a", b"]", b"[]"]),
    ("[]a]", [], [b"a", b"]", b"a]", b"]a]"]),
    ("[^]", [b"a", b"]"], [b"", b"ab"]),
    ("[^]a]", [b"Xa]", b"]a]"], [b"a", b"a]"]),
    ("[", [], [b"", b"[", b"a"]),
    ("[^", [b"^", b"a"], [b"", b"ab"]),
    ("[a", [b"a"], [b"b", b"[a", b""]),
    ("[abc", [b"a", b"c"], [b"d", b"abc"]),
    ("[^abc", [b"d"], [b"a", b""]),
    ("x[a", [b"xa"], [b"x", b"xb", b"x[a"]),
    ("[a-", [b"a", b"-"], [b"b"]),
    ("[a-]", [b"a", b"]", b"^", b"_"], [b"-", b"b", b"\\"]),
    ("[a-]x]", [b"a", b"x", b"]"], [b"b", b"ax]"]),
    ("[a-]*", [b"a", b"]", b"*"], [b"ab", b"b"]),
    ("[-a]", [b"-", b"a"], [b"b"]),
    ("[a-c-e]", [b"a", b"c", b"-", b"e"], [b"d"]),
    ("[--a]", [b"-", b"a", b"A"], [b",", b"b"]),
    ("[!-a]", [b"!", b"0", b"a"], [b"b"]),
    ("[!a]", [b"!", b"a"], [b"b"]),
    ("[^^]", [b"a"], [b"^"]),
    ("[a^]", [b"a", b"^"], [b"b"]),
    ("[*]", [b"*"], [b"a"]),
    ("[?]", [b"?"], [b"a"]),
    ("[[]", [b"["], [b"a"]),
    ("[[]]", [b"[]"], [b"[", b"]"]),
    ("[a]]", [b"a]"], [b"a", b"]"]),
    ("[\\]]", [b"]"], [b"\\", b"a"]),
    ("[\\]a]", [b"]", b"a"], [b"\\"]),
    ("[\\^a]", [b"^", b"a"], [b"b"]),
    ("[\\\\]", [b"\\"], [b"a"]),
    ("[\\", [b"\\"], [b"a", b"["]),
    ("[a\\", [b"a", b"\\"], [b"b"]),
    ("[\\a-c]", [b"a", b"c", b"-"], [b"b", b"\\"]),
    ("[a-\\]", [b"a", b"^", b"]", b"\\"], [b"b", b"["]),
    ("[a-\\z]", [b"a", b"z", b"\\", b"_"], [b"y"]),
    ("[a\\-c]", [b"a", b"-", b"c"], [b"b"]),
    ("[^\\]]", [b"a", b"\\"], [b"]"]),
    ("[+--]", [b"+", b",", b"-"], [b"."]),
    ("\\", [b"\\"], [b"a", b""]),
    ("a\\", [b"a\\"], [b"a"]),
    ("\\\\", [b"\\"], [b"\\\\"]),
    ("\\*", [b"*"], [b"a", b"\\*"]),
    ("\\?", [b"?"], [b"a"]),
    ("\\[a]", [b"[a]"], [b"a"]),
    ("\\a", [b"a"], [b"\\a"]),
    ("*\\", [b"\\", b"a\\"], [b"a"]),
    ("*\\*", [b"*", b"a*"], [b"a"]),
    ("*\\**", [b"*", b"a*b"], [b"ab"]),
    ("]", [b"]"], [b"a"]),
    ("^a", [b"^a"], [b"a"]),
    ("a-c", [b"a-c"], [b"b"]),
    ("a.c", [b"a.c"], [b"abc"]),
    ("a$", [b"a$"], [b"a"]),
    ("(a|b)", [b"(a|b)"], [b"a"]),
    ("a+", [b"a+"], [b"aa"]),
    ("{a}", [b"{a}"], [b"a"]),
    ("é", [b"\xc3\xa9"], [b"e", b"\xc3"]),
    ("[é]", [b"\xc3", b"\xa9"], [b"\xc3\xa9"]),
    ("[é][é]", [b"\xc3\xa9", b"\xa9\xc3"], [b"\xc3", b"ee"]),
    ("[^é]", [b"e", b"\xc4"], [b"\xc3", b"\xa9", b"\xc3\xa9"]),
    ("[a-é]", [b"a", b"A", b"\x00", b"\xc3", b"\xa9", b"\xff"], [b"z", b"\x7f", b"\x80", b"\xc2"]),
    ("[é-a]", [b"a", b"\x00", b"\xa9", b"\xc3", b"\xff"], [b"b", b"\x80", b"\xa8"]),
    ("[è-ê]", [b"\xa8", b"\xc3", b"\xa9", b"\xb0", b"\xc0"], [b"a"]),
    ("*©", [b"\xc2\xa9"], [b"\xc3\xa9", b"\xa9"]),
    ("a\nb", [b"a\nb"], [b"ab"]),
    ("a*b", [b"a\nb", b"a\x00b", b"a\r\nb"], []),
    ("a?b", [b"a\nb", b"a\x00b"], [b"ab"]),
    ("*\n", [b"\n", b"a\n"], [b"a"]),
    ("a", [b"a"], [b"a\n", b"A", b""]),
    ("\x00*", [b"\x00", b"\x00a"], [b"a"]),
    ("A", [b"A"], [b"a"]),
]


def glob(pattern: str) -> Glob:
    compiled = compile_glob(pattern)
    assert isinstance(compiled, Glob), compiled
    return compiled


def redis_matches(pattern: bytes, string: bytes) -> bool:
    """`stringmatchlen_impl` of Redis's util.c, without its shortcut for failed stars.

    One difference: there a pattern of stars does not match an empty string that stands alone. Names never
    stand alone in Redis, they follow a prefix, and then it does.
    """
    while pattern and string:
        if pattern[:1] == b"*":
            rest = pattern.lstrip(b"*")
            return not rest or any(redis_matches(rest, string[at:]) for at in range(len(string)))
        if pattern[:1] == b"[":
            matched, pattern = _redis_class(pattern[1:], string[0])
        else:
            if pattern[:1] == b"\\" and len(pattern) >= 2:
                pattern = b"=" + pattern[1:2] + pattern[2:]  # "=": compare, whatever the byte means
                matched, pattern = pattern[1] == string[0], pattern[1:]
            else:
                matched = pattern[:1] == b"?" or pattern[0] == string[0]
        if not matched:
            return False
        string, pattern = string[1:], pattern[1:]
    return not string and not pattern.lstrip(b"*")


def _redis_class(pattern: bytes, byte: int) -> tuple[bool, bytes]:
    """Whether the class takes the byte, and the pattern from the class's last byte on."""
    negated = pattern[:1] == b"^"
    pattern = pattern[negated:]
    matched = False
    while pattern and pattern[:1] != b"]":
        if pattern[:1] == b"\\" and len(pattern) >= 2:
            pattern = pattern[1:]
            matched |= pattern[0] == byte
        elif len(pattern) >= 3 and pattern[1:2] == b"-":
            low, high = sorted(_as_char(end) for end in (pattern[0], pattern[2]))
            matched |= low <= _as_char(byte) <= high
            pattern = pattern[2:]
        else:
            matched |= pattern[0] == byte
        pattern = pattern[1:]
    return matched != negated, pattern


def _as_char(byte: int) -> int:
    return int.from_bytes([byte], signed=True)


@pytest.mark.parametrize(("pattern", "matching", "others"), DECIDED, ids=[ascii(case[0]) for case in DECIDED])
def test_decided_by_redis(pattern: str, matching: list[bytes], others: list[bytes]) -> None:
    matcher = glob(pattern)
    names = matching + others
    assert [name for name in names if matcher.matches(name)] == matching
    assert [name for name in names if redis_matches(pattern.encode(), name)] == matching


ALPHABET = "ab-]^[\\*?\u00e9\0z"
patterns = st.text(ALPHABET, max_size=12).filter(
    lambda pattern: not isinstance(compile_glob(pattern), Failure)
)
names = st.one_of(
    st.text("ab-]^[\\*?\u00e9\0z", max_size=8).map(str.encode),
    st.lists(st.sampled_from([b"a", b"b", b"]", b"-", b"\xc3", b"\xa9", b"\x80", b"\xff"]), max_size=8).map(
        b"".join
    ),
)


@given(patterns, names)
@example("*a*b", b"aab")
@example("[^", b"\n")
def test_agrees_with_the_second_implementation(pattern: str, name: bytes) -> None:
    assert glob(pattern).matches(name) == redis_matches(pattern.encode(), name)


@given(st.text(max_size=40), st.binary(max_size=40))
def test_any_text_is_a_pattern_or_refused(pattern: str, name: bytes) -> None:
    compiled = compile_glob(pattern)
    if isinstance(compiled, Failure):
        assert compiled.code is Code.TOO_LARGE
    else:
        compiled.matches(name)


@given(st.text(max_size=60))
def test_an_escaped_name_matches_itself_only(name: str) -> None:
    matcher = glob("".join("\\" + character for character in name))
    encoded = name.encode()
    assert matcher.matches(encoded)
    assert not matcher.matches(encoded + b"x")
    assert not matcher.matches(b"x" + encoded)


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_star_takes_anything(before: str, after: str) -> None:
    assert glob("*").matches((before + after).encode())
    escaped = ["".join("\\" + character for character in part) for part in (before, after)]
    assert glob("*".join(escaped)).matches((before + "any\nthing\0" + after).encode())


@given(st.text("ab*", min_size=1, max_size=12), st.text("ab", max_size=12))
def test_stars_in_a_row_are_one(pattern: str, name: str) -> None:
    once = glob(pattern) if pattern.count("*") <= MAX_PATTERN_STARS else None
    many = compile_glob(pattern.replace("*", "***"))
    assert once is None or (
        isinstance(many, Glob) and many.matches(name.encode()) == once.matches(name.encode())
    )


@pytest.mark.parametrize(
    "pattern",
    [
        "*a" * MAX_PATTERN_STARS + "b",
        "*" + "a?" * 126 + "b*",
        "*" + "[a-b]" * 50 + "c*",
        "*" + "[^c]" * 62 + "c*",
        "*" + "a" * 254,
        ("*" + "a" * 30) * MAX_PATTERN_STARS + "b",
    ],
)
def test_patterns_made_to_be_slow(pattern: str) -> None:
    """With exponential or even cubic backtracking this would not end; with the bound it takes moments."""
    matcher = glob(pattern)
    for name in (b"a" * 512, b"ab" * 256, b"a" * 511 + b"b"):
        matcher.matches(name)
    assert not matcher.matches(b"d" * 512)


@pytest.mark.parametrize(
    ("pattern", "weight"),
    [("*", 0), ("user:*", 0), ("h?llo", 0), ("*foo", 3), ("a*foo*b?[xy]z*", 4), ("*[a-z]*", 1)],
)
def test_weight_is_the_longest_part_that_is_searched_for(pattern: str, weight: int) -> None:
    assert glob(pattern).weight == weight


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("a" * 257, f"pattern of 257 bytes, limit is {MAX_PATTERN_BYTES}"),
        ("\u00e9" * 129, f"pattern of 258 bytes, limit is {MAX_PATTERN_BYTES}"),
        ("*a" * 9, f"pattern with 9 stars, limit is {MAX_PATTERN_STARS}"),
    ],
)
def test_what_is_refused(pattern: str, message: str) -> None:
    assert compile_glob(pattern) == Failure(Code.TOO_LARGE, message, retryable=False)


@pytest.mark.parametrize(
    "pattern", ["a" * MAX_PATTERN_BYTES, "*a" * MAX_PATTERN_STARS, "**a" * 8, "\\*" * 20, "[*]" * 20]
)
def test_what_is_just_taken(pattern: str) -> None:
    assert isinstance(compile_glob(pattern), Glob)
