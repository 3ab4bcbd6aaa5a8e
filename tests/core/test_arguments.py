"""`kvmcp.core.arguments`. Any bytes are read, mended or refused with a sentence; `repair` never raises.

What `decode` takes, `repair` gives back unchanged; what `repair` mends is what `decode` gives of the mended
text; no note and no message holds a value.
"""

import json
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import example as sample, given, strategies as st
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from kvmcp.core.arguments import MAX_DEPTH, StructArguments
from kvmcp.core.errors import LocalProtocolError
from kvmcp.core.items import ArgumentsType, BadArguments, Parsed
from kvmcp.core.schema_arguments import SchemaArguments

SECRET = "s3cr3t"


class Inner(Struct, frozen=True, forbid_unknown_fields=True):
    x: int
    deep: dict[str, list[int]] = {}


class Everything(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """For programmers."""

    key: Annotated[str, Meta(min_length=1, max_length=9, description="The key.")]
    value: Raw | UnsetType = UNSET
    keys: Annotated[tuple[Annotated[str, Meta(max_length=9)], ...], Meta(min_length=1)] | UnsetType = UNSET
    ttl: Annotated[int, Meta(ge=1, le=1000)] | UnsetType = UNSET
    limit: int | None = None
    ratio: float = 1.0
    force: bool = False
    inner: Inner | UnsetType = UNSET
    mode: Literal["a", "b"] = "a"


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    pass


ARGUMENTS = StructArguments(Everything)


def parsed(outcome: Parsed | BadArguments) -> Everything:
    assert isinstance(outcome, Parsed), outcome
    assert isinstance(outcome.arguments, Everything)
    return outcome.arguments


def refused(outcome: Parsed | BadArguments) -> str:
    assert isinstance(outcome, BadArguments), outcome
    return outcome.message


def repair(**members: object) -> Parsed | BadArguments:
    return ARGUMENTS.repair(json.dumps({"key": "k", **members}).encode())


# --- describing ---


def test_both_kinds_are_argument_types() -> None:
    kinds: list[ArgumentsType] = [ARGUMENTS, SchemaArguments(b'{"type":"object"}')]
    assert all(json.loads(each.schema)["type"] == "object" for each in kinds)


def test_the_schema_is_flat_and_closed() -> None:
    schema = json.loads(ARGUMENTS.schema)
    assert "description" not in schema
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["key"]
    assert schema["properties"]["ttl"] == {"type": "integer", "minimum": 1, "maximum": 1000}
    assert schema["properties"]["value"] == {}
    assert json.loads(StructArguments(Nothing).schema) == {
        "type": "object",
        "properties": {},
        "additionalProperties": False,
    }


def test_an_open_struct_is_refused() -> None:
    class Open(Struct):
        key: str

    with pytest.raises(LocalProtocolError, match="forbid_unknown_fields"):
        StructArguments(Open)


# --- decoding ---


def test_decode_reads_what_fits() -> None:
    assert ARGUMENTS.decode(b'{"key":"k","ttl":5}') == Everything(key="k", ttl=5)


def test_decode_raises_where_it_does_not_fit() -> None:
    with pytest.raises(msgspec.ValidationError):
        ARGUMENTS.decode(b'{"key":"k","ttl":"5"}')


def test_the_last_of_two_members_counts() -> None:
    assert ARGUMENTS.decode(b'{"key":"a","key":"b"}') == Everything(key="b")
    assert parsed(ARGUMENTS.repair(b'{"key":1,"key":"b","ttl":"5","ttl":"6"}')) == Everything(key="b", ttl=6)


# --- repairing ---


@pytest.mark.parametrize(
    ("name", "came", "read", "note"),
    [
        ("keys", '["a","b"]', ("a", "b"), "came as a string and was read as a JSON array; send an array"),
        ("inner", '{"x": 1}', Inner(1), "came as a string and was read as a JSON object; send an object"),
        ("ttl", "5", 5, "came as a string and was read as a JSON integer; send an integer"),
        ("ttl", " 5.0 ", 5, "came as a string and was read as a JSON integer; send an integer"),
        ("ttl", 5.0, 5, "came as a number and was read as an integer; send an integer"),
        ("limit", -0.0, 0, "came as a number and was read as an integer; send an integer"),
        ("ratio", "1.5", 1.5, "came as a string and was read as a JSON number; send a number"),
        ("ratio", "2", 2.0, "came as a string and was read as a JSON number; send a number"),
        ("force", "true", True, "came as a string and was read as a JSON boolean; send true or false"),
        ("ttl", None, UNSET, "came as null and was read as absent; leave it out"),
        ("force", None, False, "came as null and was read as absent; leave it out"),
    ],
)
def test_what_has_one_meaning_is_mended(name: str, came: object, read: object, note: str) -> None:
    outcome = repair(**{name: came})
    assert getattr(parsed(outcome), name) == read
    assert isinstance(outcome, Parsed)
    assert outcome.notes == (f"note: `{name}` {note} next time.",)


def test_several_repairs_leave_several_notes_in_the_order_of_the_schema() -> None:
    outcome = repair(force="false", ttl=None, keys='["a"]')
    assert isinstance(outcome, Parsed)
    assert [note.split("`")[1] for note in outcome.notes] == ["keys", "ttl", "force"]


@pytest.mark.parametrize("text", ["1e2", "1E+2", "100.000", "100"])
def test_integral_numbers_are_integers(text: str) -> None:
    assert parsed(ARGUMENTS.repair(b'{"key":"k","ttl":%b}' % text.encode())).ttl == 100


@pytest.mark.parametrize(
    "text", ["1.5", "1e-1", "4.99999999999999999999", "1e400", "9007199254740993.0", "1e99"]
)
def test_other_numbers_are_not(text: str) -> None:
    assert f"`ttl`: {text} came" in refused(ARGUMENTS.repair(b'{"key":"k","ttl":%b}' % text.encode()))


def test_null_stays_where_the_struct_takes_it() -> None:
    outcome = repair(limit=None, ttl="5")
    assert parsed(outcome) == Everything(key="k", ttl=5)
    assert isinstance(outcome, Parsed) and len(outcome.notes) == 1


@pytest.mark.parametrize("value", ['{"a":1}', "5", "true", "null", "text", 5.0, None])
def test_an_untyped_value_is_never_touched(value: object) -> None:
    raw = json.dumps({"key": "k", "value": value, "ttl": "5"}).encode()
    assert bytes(parsed(ARGUMENTS.repair(raw)).value or b"") == json.dumps(value).encode()


def test_all_arguments_in_a_string() -> None:
    outcome = ARGUMENTS.repair(json.dumps(json.dumps({"key": "k", "ttl": "5"})).encode())
    assert parsed(outcome) == Everything(key="k", ttl=5)
    assert isinstance(outcome, Parsed)
    assert outcome.notes == (
        "note: the arguments came as a string and were read as a JSON object; send an object next time.",
        "note: `ttl` came as a string and was read as a JSON integer; send an integer next time.",
    )


@pytest.mark.parametrize("raw", [b"", b"  ", b"{}"])
def test_absent_arguments_are_an_empty_object(raw: bytes) -> None:
    assert StructArguments(Nothing).repair(raw) == Parsed(Nothing())


def test_null_arguments_are_an_empty_object() -> None:
    outcome = StructArguments(Nothing).repair(b"null")
    assert isinstance(outcome, Parsed) and outcome.arguments == Nothing() and len(outcome.notes) == 1


# --- refusing ---


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            {"keys": SECRET},
            ("`keys`: a string came, but only an array of at least 1 items (each a string of at most 9 characters) "
            'is allowed, like ["a", "b"]'),
        ),
        (
            {"keys": f'"{SECRET}"'},
            ("`keys`: a string came, but only an array of at least 1 items (each a string of at most 9 characters) "
            'is allowed, like ["a", "b"]'),
        ),
        ({"keys": ["a", 5]}, "`keys[1]`: an integer came, but only a string of at most 9 characters is allowed"),
        ({"key": ""}, "`key`: a string of 0 characters came, but only a string of 1 to 9 characters is allowed"),
        ({"key": "ü" * 10}, "`key`: a string of 10 characters came, but only a string of 1 to 9 characters is allowed"),
        ({"keys": ["x" * 10]}, "`keys[0]`: a string of 10 characters came, but only a string of at most 9 characters is allowed"),
        ({"keys": []}, ("`keys`: an array of 0 items came, but only an array of at least 1 items "
         "(each a string of at most 9 characters) is allowed")),
        ({"ttl": 5000}, "`ttl`: 5000 came, but only an integer from 1 to 1000 is allowed"),
        ({"ttl": 10**30}, "`ttl`: an integer came, but only an integer from 1 to 1000 is allowed"),
        ({"inner": {"x": 1.5}}, "`inner.x`: 1.5 came, but only an integer is allowed"),
        ({"ttl": SECRET}, "`ttl`: a string came, but only an integer from 1 to 1000 is allowed"),
        ({"force": "True"}, "`force`: a string came, but only true or false is allowed"),
        ({"force": 1}, "`force`: an integer came, but only true or false is allowed"),
        ({"limit": []}, "`limit`: an array came, but only an integer is allowed"),
        ({"mode": SECRET}, '`mode`: a string came, but only one of "a", "b" is allowed'),
        ({"key": None}, "`key`: null came, but only a string of 1 to 9 characters is allowed"),
        (
            {"key": 5, "ratio": {}},
            ("`key`: an integer came, but only a string of 1 to 9 characters is allowed; "
            "`ratio`: an object came, but only a number is allowed"),
        ),
        ({"inner": {}}, "`inner`: object missing required field `x`; allowed are `x`, `deep`"),
        ({"inner": {"x": 1, "Y": 2}}, "`inner`: object contains unknown field `Y`; allowed are `x`, `deep`"),
        ({"inner": {"x": SECRET}}, "`inner.x`: a string came, but only an integer is allowed"),
        ({"inner": {"x": 1, "deep": {"a": [SECRET]}}},
         "`inner.deep[...][0]`: something else came, but only an integer is allowed"),
    ],
)  # fmt: skip
def test_a_refusal_says_which_what_came_and_what_is_allowed(members: dict[str, object], message: str) -> None:
    assert refused(repair(**members)) == message


def test_unknown_and_missing_names() -> None:
    allowed = "allowed arguments: `key` (required), `value`, `keys`, `ttl`, `limit`, `ratio`, `force`, `inner`, `mode`"
    assert refused(ARGUMENTS.repair(b'{"Kez":"a"}')) == (
        f"unknown argument `Kez` (did you mean `key`?); `key` is missing; {allowed}"
    )
    assert refused(ARGUMENTS.repair(b"")) == f"`key` is missing; {allowed}"
    assert refused(StructArguments(Nothing).repair(b'{"zzz":1}')) == (
        "unknown argument `zzz`; no arguments are allowed"
    )


def test_unknown_names_are_bounded() -> None:
    message = refused(repair(**{f"{n}" + "x" * 9999: n for n in range(9)}))
    assert "4 more unknown arguments" in message
    assert len(message) < 1000


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"{", "the arguments are not JSON"),
        (b'{"key":NaN}', "the arguments are not JSON"),
        (b'{"key":"\\ud800"}', "the arguments are not JSON"),
        (b"[" * 100_000, "the arguments are not JSON"),
        (b'{"key":"\xff"}', "the arguments hold text that is not UTF-8"),
        (b'{"\xff":"a"}', "the arguments hold text that is not UTF-8"),
        (b"[]", 'the arguments: an array came, but only an object is allowed, like {"name": …}'),
        (b'"s3cr3t"', 'the arguments: a string came, but only an object is allowed, like {"name": …}'),
        (b'"[1]"', 'the arguments: a string came, but only an object is allowed, like {"name": …}'),
        (b'{"key":"k","ratio":1e400}', "`ratio`: 1e400 came, and it does not fit"),
    ],
)
def test_what_is_no_object_is_refused(raw: bytes, message: str) -> None:
    assert refused(ARGUMENTS.repair(raw)) == message


def test_a_text_in_a_string_may_be_no_deeper_than_a_message() -> None:
    def nested(levels: int) -> bytes:
        return json.dumps('{"key":"k","value":' + "[" * levels + "]" * levels + "}").encode()

    assert parsed(ARGUMENTS.repair(nested(MAX_DEPTH - 1)))
    assert "a string came" in refused(ARGUMENTS.repair(nested(MAX_DEPTH)))


class Dotted(Struct, forbid_unknown_fields=True):
    by_name: dict[str, int] = msgspec.field(name="a.b")
    a: str = ""


def test_a_place_that_cannot_be_followed() -> None:
    message = refused(StructArguments(Dotted).repair(b'{"a.b":{"x":"y"},"a":"z"}'))
    assert message == "`a.b[...]`: something else came, and it does not fit"


class Patterned(Struct, forbid_unknown_fields=True):
    at: Annotated[str, Meta(pattern="^[a-z]+$")] = "x"
    anything: Annotated[bytes, Meta(extra_json_schema={"type": "string"})] = b""


def test_constraints_that_words_do_not_tell() -> None:
    arguments = StructArguments(Patterned)
    assert refused(arguments.repair(b'{"at":"1"}')) == (
        "`at`: a string came, but only a string that matches ^[a-z]+$ is allowed"
    )
    assert refused(arguments.repair(b'{"anything":"%"}')) == "`anything`: a string came, and it does not fit"


# --- properties ---

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)
names = st.sampled_from(["key", "value", "keys", "ttl", "limit", "ratio", "force", "inner", "mode", "nope"])
members = st.dictionaries(names, json_values | json_values.map(json.dumps), max_size=6)
valid = st.fixed_dictionaries(
    {"key": st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9)},
    optional={
        "value": json_values,
        "keys": st.lists(st.text(max_size=9), min_size=1, max_size=3),
        "ttl": st.integers(1, 1000),
        "limit": st.none() | st.integers(),
        "ratio": st.floats(allow_nan=False, allow_infinity=False),
        "force": st.booleans(),
        "inner": st.builds(dict, x=st.integers()),
        "mode": st.sampled_from("ab"),
    },
)
stringable = ("keys", "ttl", "ratio", "force", "inner")


def same(left: object, right: object) -> bool:
    return msgspec.json.encode(left) == msgspec.json.encode(right)


@given(json_values | members)
def test_any_json_is_read_or_refused(value: object) -> None:
    outcome = ARGUMENTS.repair(json.dumps(value).encode())
    assert isinstance(outcome, Parsed | BadArguments)


@given(st.binary() | st.text('{}[]",:\\ key1e.', max_size=20).map(str.encode))
@sample(b'{"key":"k","ttl":"\\ud800"}')
@sample(b'"{\\"key\\":\\"\\\\ud800\\"}"')
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    assert isinstance(ARGUMENTS.repair(raw), Parsed | BadArguments)


@given(valid)
def test_a_valid_input_is_never_changed(value: dict[str, Any]) -> None:
    raw = json.dumps(value).encode()
    outcome = ARGUMENTS.repair(raw)
    assert isinstance(outcome, Parsed) and outcome.notes == ()
    assert same(outcome.arguments, ARGUMENTS.decode(raw))


@given(valid, st.sets(st.sampled_from(stringable)), st.booleans())
def test_a_repair_reads_what_the_mended_text_says(
    value: dict[str, Any], strings: set[str], whole: bool
) -> None:
    spoiled = {name: json.dumps(part) if name in strings else part for name, part in value.items()}
    raw = json.dumps(json.dumps(spoiled) if whole else spoiled).encode()
    outcome = ARGUMENTS.repair(raw)
    assert isinstance(outcome, Parsed)
    assert same(outcome.arguments, ARGUMENTS.decode(json.dumps(value).encode()))
    assert len(outcome.notes) == len(strings & value.keys()) + whole


@given(
    st.dictionaries(
        names.filter(lambda name: name != "mode"), st.sampled_from([SECRET, f'"{SECRET}"', [SECRET]])
    )
)
def test_no_message_holds_a_value(value: dict[str, Any]) -> None:
    for arguments in (ARGUMENTS, SchemaArguments(ARGUMENTS.schema)):
        outcome = arguments.repair(json.dumps(value).encode())
        said = outcome.message if isinstance(outcome, BadArguments) else "".join(outcome.notes)
        assert SECRET not in said


# --- a schema of the tool's own ---

OWN: dict[str, object] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {"n": {"$anchor": "n", "type": "string"}},
    "properties": {
        "list": {"type": "array", "items": {"type": "integer"}},
        "count": {"type": "integer"},
        "free": {"type": ["integer", "null"]},
        "ref": {"$ref": "#/$defs/n"},
        "yes": True,
        "nothing": {"type": "null"},
    },
    "required": ["list", 5],
}


def test_a_schema_is_passed_on_untouched_on_one_line() -> None:
    pretty = json.dumps(OWN, indent=2).encode()
    arguments = SchemaArguments(pretty)
    assert json.loads(arguments.schema) == OWN == json.loads(SchemaArguments(OWN).schema)
    assert b"\n" not in arguments.schema
    assert b'"big":1.50' in SchemaArguments(b'{"type" : "object", "big" : 1.50}').schema


@pytest.mark.parametrize(
    "schema", [b"", b"[]", b"{}", b'{"type":["object"]}', b"\xff", {"type": "array"}, {"a": {1j}}]
)
def test_a_schema_must_describe_an_object(schema: bytes | dict[str, object]) -> None:
    with pytest.raises(LocalProtocolError):
        SchemaArguments(schema)


def test_own_arguments_come_as_json_text() -> None:
    raw = b'{"list": [1, "not checked"], "ref": 5, "free": "5", "other": null}'
    assert bytes(SchemaArguments(OWN).decode(raw)) == raw
    assert bytes(SchemaArguments(b'{"type":"object"}').decode(b"{}")) == b"{}"


@pytest.mark.parametrize("raw", [b"{}", b'{"list":"[1]"}', b'{"list":[],"count":1.0}', b"[]"])
def test_own_arguments_that_do_not_fit_raise(raw: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        SchemaArguments(OWN).decode(raw)


def test_own_arguments_are_mended_by_their_plain_types() -> None:
    outcome = SchemaArguments(OWN).repair(
        b'{"list":"[1]","count":"2","free":"3","yes":"4","ref":null,"nothing":null}'
    )
    assert isinstance(outcome, Parsed) and isinstance(outcome.arguments, Raw)
    assert json.loads(bytes(outcome.arguments)) == {
        "list": [1],
        "count": 2,
        "free": "3",
        "yes": "4",
        "ref": None,
        "nothing": None,
    }
    assert len(outcome.notes) == 2


def test_own_arguments_may_be_absent() -> None:
    outcome = SchemaArguments({"type": "object", "properties": 5, "required": "x"}).repair(b"")
    assert isinstance(outcome, Parsed) and isinstance(outcome.arguments, Raw)
    assert bytes(outcome.arguments) == b"{}"


def test_own_names_are_checked_only_where_the_schema_is_closed() -> None:
    closed = SchemaArguments({"type": "object", "properties": {}, "additionalProperties": False})
    assert "unknown argument `x`" in refused(closed.repair(b'{"x":1}'))
    patterned = SchemaArguments(
        {"type": "object", "patternProperties": {"^x": {}}, "additionalProperties": False}
    )
    assert isinstance(patterned.repair(b'{"x":1}'), Parsed)


def test_own_refusals_name_what_is_allowed() -> None:
    assert refused(SchemaArguments(OWN).repair(b'{"list":5}')) == (
        "`list`: an integer came, but only an array (each an integer) is allowed, like [1, 2]"
    )


@given(json_values | members)
def test_any_json_is_read_or_refused_by_a_schema(value: object) -> None:
    assert isinstance(SchemaArguments(OWN).repair(json.dumps(value).encode()), Parsed | BadArguments)
