"""`kvmcp.core.json_text`: what can be said of JSON text without building the value."""

import json
import math

import pytest
from hypothesis import given, strategies as st

from kvmcp.core.json_text import kind, number_fault, too_deep


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"{}", "object"),
        (b" [1]", "array"),
        (b'"1"', "string"),
        (b"true", "boolean"),
        (b"false", "boolean"),
        (b"null", "null"),
        (b"-12 ", "integer"),
        (b"1.0", "number"),
        (b"1e3", "number"),
    ],
)
def test_kind(raw: bytes, expected: str) -> None:
    assert kind(raw) == expected


@pytest.mark.parametrize(
    "raw",
    [
        b"0",
        b"1e308",
        b"-1.7976931348623157e308",
        b"1e-999",
        b"9" * 308,
        b"0." + b"1" * 5000,
        b'"1e999"',
        b'"' + b"9" * 1000 + b'"',
        b'{"1e999":"\\"1e999"}',
        b"1" * 199 + b"e99",
        b'"x' + b"e123" * 100 + b'"',
    ],
)
def test_numbers_that_a_double_holds(raw: bytes) -> None:
    assert number_fault(raw) is None


@pytest.mark.parametrize(
    "raw",
    [
        b"1e309",
        b"-1E+400",
        b"1e0000000000999",
        b"9" * 400,
        b"-" + b"9" * 310,
        b"1" * 215 + b"e99",
        b'{"a":["1e999",{"b":1e999}]}',
        b'["' + b'\\"' * 10 + b'",2e308]',
    ],
)
def test_numbers_that_no_double_holds(raw: bytes) -> None:
    fault = number_fault(raw)
    assert fault is not None
    assert "double" in fault and "999" not in fault


def test_text_that_is_not_json_has_no_number_fault() -> None:
    assert number_fault(b"1e1000e5 1-2") is None


@given(st.integers(0, 400), st.integers(0, 420), st.integers(-420, 420), st.integers(0, 30))
def test_number_fault_agrees_with_python(whole: int, fraction: int, exponent: int, before: int) -> None:
    text = "7" * whole + "1" + ("." + "3" * fraction if fraction else "") + f"e{exponent}"
    raw = b'["' + b"x" * before + b'",' + text.encode() + b"]"
    assert (number_fault(raw) is None) == math.isfinite(float(text))


@given(st.recursive(st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.text(), st.lists))
def test_what_json_writes_has_no_fault(value: object) -> None:
    assert number_fault(json.dumps(value, ensure_ascii=False).encode()) is None


@given(st.binary())
def test_any_bytes_are_answered(raw: bytes) -> None:
    number_fault(raw)
    too_deep(raw, 3)
    kind(raw)


@pytest.mark.parametrize(
    ("raw", "limit", "expected"),
    [
        (b"[[[]]]", 3, False),
        (b"[[[]]]", 2, True),
        (b'[{"a":[]}]', 2, True),
        (b"[[],[],[]]", 2, False),
        (b'["[[[[[[", "\\"[[["]', 1, False),
        (b"[" * 100_000, 128, True),
    ],
)
def test_too_deep(raw: bytes, limit: int, expected: bool) -> None:
    assert too_deep(raw, limit) is expected
