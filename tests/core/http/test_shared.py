"""Records and relays as they leave a process: sealed, bound to their keys, read by nobody else; never an exception."""

import json

import pytest
from hypothesis import given, strategies as st

from kvmcp.core.commands import BatchFailed
from kvmcp.core.errors import LocalProtocolError
from kvmcp.core.http.relays import Follow, Relay, TaskAsked, TaskTold, Told, Written, decode, encode
from kvmcp.core.http.shared import FIRST_TICKET, DropRecords, KeepRecord, Loaded, LoadRecords, Shared
from kvmcp.core.request_state import Sealer
from tests.core.harness import KEY

SEALER = Sealer(KEY)
OTHERS = Sealer(b"o" * 32)
NAMES = st.text(st.characters(codec="utf-8"), max_size=20)
RELAYS: st.SearchStrategy[Relay] = st.one_of(
    st.builds(Told, NAMES, st.binary()),
    st.builds(Follow, NAMES, NAMES, st.integers(0, 10**18), st.booleans()),
    st.builds(Written, NAMES, NAMES, st.lists(st.tuples(st.integers(0, 99), st.binary())), st.integers(0, 99), st.booleans()),
    st.builds(TaskAsked, NAMES, st.none() | st.dictionaries(NAMES, st.binary())),
    st.builds(TaskTold, NAMES, st.binary()),
)  # fmt: skip


@given(NAMES, RELAYS)
def test_a_relay_is_read_as_it_was_written_by_who_has_the_key(sender: str, relay: Relay) -> None:
    data = encode(SEALER, sender, relay)
    assert isinstance(json.loads(data), str) and decode(SEALER, data) == (sender, relay)
    assert decode(OTHERS, data) is None


@given(RELAYS, st.integers(0, 10_000), st.integers(0, 255))
def test_a_relay_that_was_changed_is_none(relay: Relay, at: int, byte: int) -> None:
    data = encode(SEALER, "x", relay)
    at %= len(data)
    changed = data[:at] + bytes([byte]) + data[at + 1 :]
    assert changed == data or decode(SEALER, changed) is None
    assert decode(SEALER, data[:at]) is None


@given(st.binary())
def test_anything_else_is_none(data: bytes) -> None:
    assert decode(SEALER, data) is None
    assert decode(SEALER, b'"' + data + b'"') is None


@pytest.mark.parametrize(
    "payload", [b"", b"\xff", b"\x90", b"\x92\xa1x\x92\xa4new-\x01", b"\x92\xa1\xff\xc0"]
)
def test_a_relay_of_another_version_is_none(payload: bytes) -> None:
    assert decode(SEALER, b'"%b"' % SEALER.sign("r1.", payload).encode()) is None
    assert decode(SEALER, b'"%b"' % SEALER.sign("r2.", payload).encode()) is None


# --- records ---


class Loads:
    """What came of loads."""

    def __init__(self) -> None:
        self.found: list[Loaded] = []

    def __call__(self, loaded: Loaded, now: float) -> None:
        self.found.append(loaded)


def kept(key: str, payload: bytes, sealer: Sealer = SEALER) -> bytes:
    shared = Shared(sealer, "x")
    shared.keep(key, payload, 1.0)
    [command] = shared.take_commands()
    assert isinstance(command, KeepRecord) and command.key == key
    return command.value


@given(NAMES, st.binary())
def test_a_record_is_found_as_it_was_kept(key: str, payload: bytes) -> None:
    loads, shared = Loads(), Shared(SEALER, "y")
    key = f"e.{key.encode().hex()}"
    value = kept(key, payload)
    assert isinstance(json.loads(value), str)
    ticket = shared.load((key, "e.none"), loads)
    assert shared.take_commands() == [LoadRecords(ticket, (key, "e.none"))]
    shared.complete(ticket, [value, None], 0.0)
    assert loads.found == [[payload, None]]


@given(st.binary())
def test_a_value_that_nobody_of_us_kept_there_is_none(junk: bytes) -> None:
    loads, shared = Loads(), Shared(SEALER, "y")
    values = [junk, b'"' + junk + b'"', kept("k", junk, OTHERS), kept("another", junk), kept("k.", junk)]
    shared.complete(shared.load(("k",) * len(values), loads), values, 0.0)
    assert loads.found == [[None] * len(values)]


@pytest.mark.parametrize("payload", [b"", b"\xff", b"\x92\xa1k\xa1x", b"\x92\xa1\xff\xc4\x00", b"\x91\xa1k"])
def test_a_record_of_another_version_is_none(payload: bytes) -> None:
    loads, shared = Loads(), Shared(SEALER, "y")
    value = b'"%b"' % SEALER.sign("k1.", payload).encode()
    shared.complete(shared.load(("k",), loads), [value], 0.0)
    assert loads.found == [[None]]


def test_the_last_of_a_turn_is_what_is_done_and_in_the_order_of_the_last_change() -> None:
    shared = Shared(SEALER, "x")
    for key, payload in (("head", b"1"), ("one", b""), ("head", b"2")):
        shared.keep(key, payload, 5.0)
    shared.keep("gone", b"", 5.0)
    shared.drop("gone", "old", "back")
    shared.keep("back", b"", 5.0)
    *records, dropped = shared.take_commands()
    assert [record.key for record in records if isinstance(record, KeepRecord)] == ["one", "head", "back"]
    assert dropped == DropRecords(("gone", "old")) and shared.take_commands() == []


def test_a_load_ends_once_and_as_it_was_agreed() -> None:
    loads, shared = Loads(), Shared(SEALER, "x")
    first, second = shared.load(("a",), loads), shared.load(("b",), loads)
    assert first > FIRST_TICKET
    for outcome in ([], [None, None], None, 5):
        with pytest.raises(LocalProtocolError):
            shared.complete(first, outcome, 0.0)
    shared.complete(first, BatchFailed(), 0.0)
    assert loads.found == [None]
    shared.forget(second)
    shared.complete(second, [None], 0.0)
    assert loads.found == [None]
    with pytest.raises(LocalProtocolError):
        shared.complete(first, [None], 0.0)


def test_what_a_process_told_itself_it_knows() -> None:
    shared, other = Shared(SEALER, "x"), Shared(SEALER, "y")
    shared.tell(Told("s", b""))
    [relay] = shared.take_relays()
    assert (shared.read(relay), other.read(relay)) == (None, Told("s", b"")) and shared.take_relays() == []
