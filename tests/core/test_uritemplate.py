"""`kvmcp.core.uritemplate`: templates in both directions. What `expand` writes, `match` reads back."""

import time

import pytest
from hypothesis import given, strategies as st

from kvmcp.core.errors import LocalProtocolError
from kvmcp.core.uritemplate import MAX_TEMPLATE, MAX_URI, MAX_VARIABLES, UriTemplate


@pytest.mark.parametrize(
    ("template", "uri", "expected"),
    [
        ("kv://all", "kv://all", {}),
        ("kv://all", "kv://al", None),
        ("kv://{ns}/k/{key}", "kv://acme/k/user%3A1", {"ns": "acme", "key": "user:1"}),
        ("kv://{ns}/k/{key}", "kv://acme/k/user:1", {"ns": "acme", "key": "user:1"}),
        ("kv://{ns}/k/{key}", "kv://acme/k/a/b", None),
        ("kv://{ns}/k/{key}", "kv://acme/k/", None),
        ("kv://{ns}/k/{key}", "kv:///k/a", None),
        ("kv://{ns}/k/{key}", "kv://acme/x/a", None),
        ("kv://{key}", "kv://a?b", None),
        ("kv://{key}", "kv://a#b", None),
        ("kv://{key}", "kv:/a", None),
        ("{a}-{b}", "1-2-3", {"a": "1", "b": "2-3"}),
        ("{a}-{b}", "-2", None),
        ("{a}-{b}", "--2", {"a": "-", "b": "2"}),
        ("{a}.json", "x.json.json", {"a": "x.json"}),
        ("ab{a}bc", "abc", None),
        ("ab{+a}bc", "abc", None),
        ("{a,b}", "1,2", {"a": "1", "b": "2"}),
        ("f:///{+path}", "f:///a/b?c#d", {"path": "a/b?c#d"}),
        ("f:///{+path}", "f:///a%2Fb", {"path": "a/b"}),
        ("f:///{+path}/{name}", "f:///a/b/c", {"path": "a/b", "name": "c"}),
        ("f:///{+path}/{name}", "f:///c", None),
        ("f:///{+path}/{name}", "f:////c", None),
        ("f:///{+path}/{name}", "f:///", None),
        ("{a}x{+b}y{c}", "1x2y3", {"a": "1", "b": "2", "c": "3"}),
        ("{a}x{+b}y{c}", "1x2x3y4y5", {"a": "1", "b": "2x3y4", "c": "5"}),
        ("{a}x{+b}y{c}", "1xy3", None),
        ("{a}x{+b}y{c}", "1y3", None),
        ("x{#part}", "x#a/b", {"part": "a/b"}),
        ("x{#part}", "x", None),
        ("x{/a,b}", "x/1/2", {"a": "1", "b": "2"}),
        ("x{/a}", "x", None),
        ("x{?a,b}", "x", {}),
        ("x{?a,b}", "x?", {}),
        ("x{?a,b}", "x?b=2&a=1%26", {"a": "1&", "b": "2"}),
        ("x{?a,b}", "x?a=", {"a": ""}),
        ("x{?a}{&b}", "x?b=2", {"b": "2"}),
        ("x{?a}", "x?c=1", None),
        ("x{?a}", "x?a=1&a=2", None),
        ("x{?a}", "x?a", None),
        ("x{?a}", "x?a=1#f", None),
        ("x/{k}{?a}", "x/1?a=2", {"k": "1", "a": "2"}),
        ("{key}", "%zz", None),
        ("{key}", "%4", None),
        ("{key}", "%ff", None),
        ("{key}", "100%25", {"key": "100%"}),
        ("{key}", "\ud800%41", None),
        ("{key}", "ä", {"key": "ä"}),
    ],
)  # fmt: skip
def test_match(template: str, uri: str, expected: dict[str, str] | None) -> None:
    assert UriTemplate(template).match(uri) == expected


def test_a_uri_above_the_limit_fits_nothing() -> None:
    assert UriTemplate("{a}").match("x" * MAX_URI) is not None
    assert UriTemplate("{a}").match("x" * (MAX_URI + 1)) is None


@pytest.mark.parametrize(
    "template",
    [
        "{", "}", "a}b", "{a", "{{a}}", "{}", "{a b}", "{a*}", "{a:3}", "{;a}", "{.a}", "{|a}", "{a,}", "{ä}",
        "{a}{b}", "{a}{+b}", "{+a,b}", "{+a}/{+b}", "{+a}{#b}", "{a}/{a}", "{a}{?a}",
        "x{&a}", "x?y=1{&a}", "x{?a}y", "x{?a}{b}", "x{?a}{?b}",
        "a b", "ä", "a<b", "%zz", "x" * (MAX_TEMPLATE + 1),
        "/".join(f"{{v{n}}}" for n in range(MAX_VARIABLES + 1)),
    ],
)  # fmt: skip
def test_templates_that_are_refused(template: str) -> None:
    with pytest.raises(LocalProtocolError):
        UriTemplate(template)


def test_it_is_a_value() -> None:
    template = UriTemplate("kv://{ns}/{key}{?page}")
    assert template == UriTemplate("kv://{ns}/{key}{?page}") != UriTemplate("kv://{ns}")
    assert hash(template) == hash(UriTemplate(template.text))
    assert template != template.text
    assert template.variables == ("ns", "key", "page")
    assert repr(template) == "UriTemplate('kv://{ns}/{key}{?page}')"


@pytest.mark.parametrize(
    ("template", "values", "expected"),
    [
        ("kv://all", {}, "kv://all"),
        ("kv://{ns}/{key}", {"ns": "a", "key": "b/ä:", "more": "x"}, "kv://a/b%2F%C3%A4%3A"),
        ("f:///{+path}", {"path": "a/b c%41%"}, "f:///a/b%20c%41%25"),
        ("x{#part}", {"part": "p"}, "x#p"),
        ("x{/a,b}", {"a": "1", "b": "2"}, "x/1/2"),
        ("x{?a,b}{&c}", {"a": "", "c": "&"}, "x?a=&c=%26"),
        ("x{?a}", {}, "x"),
    ],
)
def test_expand(template: str, values: dict[str, str], expected: str) -> None:
    assert UriTemplate(template).expand(values) == expected


@pytest.mark.parametrize("values", [{}, {"a": ""}, {"a": "\ud800"}])
def test_expand_needs_usable_values(values: dict[str, str]) -> None:
    with pytest.raises(LocalProtocolError):
        UriTemplate("x/{a}").expand(values)


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


@given(text, text, text)
def test_match_reads_what_expand_wrote(a: str, b: str, c: str) -> None:
    template = UriTemplate("kv://{a}/k/{b}{?c}")
    assert template.match(template.expand({"a": a, "b": b, "c": c})) == {"a": a, "b": b, "c": c}


@given(text.filter(lambda value: "%" not in value), text)
def test_a_reserved_variable_is_read_back_too(a: str, b: str) -> None:
    template = UriTemplate("kv://{+a}/{b}")
    assert template.match(template.expand({"a": a, "b": b})) == {"a": a, "b": b}


@given(st.text("{}+#/?&a,b=%*", max_size=12), st.text("a/?#&=%4", max_size=12))
def test_any_template_is_refused_or_matches_any_uri(template: str, uri: str) -> None:
    try:
        parsed = UriTemplate(template)
    except LocalProtocolError:
        return
    found = parsed.match(uri)
    assert found is None or found.keys() <= set(parsed.variables)


def test_matching_is_linear() -> None:
    template = UriTemplate("/".join(f"{{v{n}}}aaaaaaaa" for n in range(MAX_VARIABLES - 1)) + "{+rest}b")
    began = time.perf_counter()
    assert template.match("a" * MAX_URI) is None
    assert time.perf_counter() - began < 0.5  # A backtracking matcher would take hours.
