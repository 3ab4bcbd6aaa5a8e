"""Values in headers and back."""

import pytest
from hypothesis import given, strategies as st

from kvmcp.core.http.header_values import decode, encode


@pytest.mark.parametrize(
    ("value", "header"),
    [
        ("", ""),
        ("us-west1", "us-west1"),
        ("two words", "two words"),
        ("naïve", "=?base64?bmHDr3Zl?="),
        (" x", "=?base64?IHg=?="),
        ("a\tb", "=?base64?YQli?="),
        ("a\r\nb", "=?base64?YQ0KYg==?="),
        ("=?base64?SGVsbG8=?=", "=?base64?PT9iYXNlNjQ/U0dWc2JHOD0/PQ==?="),
        ("=?base64?SGVsbG8=", "=?base64?SGVsbG8="),
        ("SGVsbG8=", "SGVsbG8="),
        ("=?base64?=", "=?base64?="),
        ("=?BASE64?eA==?=", "=?BASE64?eA==?="),
    ],
)
def test_a_value_and_its_header(value: str, header: str) -> None:
    assert encode(value) == header
    assert decode(header) == value


@pytest.mark.parametrize(
    "header",
    [
        "=?base64?SGVsbG8?=",
        "=?base64?SGVs!!!bG8=?=",
        "=?base64?SGVsbG9=?=",
        "=?base64?/w==?=",
        "=?base64?é?=",
        "naïve",
        "a\tb",
        "a\x7f",
        "a\n",
    ],
)
def test_what_is_no_value(header: str) -> None:
    assert decode(header) is None


def test_an_empty_value_may_be_encoded() -> None:
    assert decode("=?base64??=") == ""


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_every_value_makes_the_round_trip_as_visible_ascii(value: str) -> None:
    header = encode(value)
    assert decode(header) == value
    assert header.isascii() and (header.isprintable() or not header) and header == header.strip()


@given(st.text())
def test_every_header_is_a_value_or_none(header: str) -> None:
    value = decode(header)
    if value is not None and not header.startswith("=?base64?"):
        assert encode(value) == header
