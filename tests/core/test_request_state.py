"""Sealed state: what we sealed opens, for the same principal and request and in time, and nothing else does."""

import hashlib
import hmac
from base64 import urlsafe_b64encode

import pytest
from msgspec import Raw

from kvmcp.core.request_state import Sealer, State, digest
from tests.core.harness import KEY

STATE = State(Raw(b'{"type":"Greet"}'), Raw(b'{"name":{}}'), {"name": Raw(b'{"action":"accept"}')})
REQUEST = digest("tools/call", Raw(b'{"name":"x","arguments":{"a":1}}'))
req = pytest.mark.req


def sealed(sealer: Sealer, expires: float = 100.0) -> str:
    return sealer.seal(STATE, "alice", REQUEST, expires, "nonce")


def test_what_was_sealed_opens() -> None:
    sealer = Sealer(KEY)
    assert sealer.open(sealed(sealer), "alice", REQUEST, 99.9) == STATE
    empty = sealer.seal(State(), "", REQUEST, 100.0, "")
    assert sealer.open(empty, "", REQUEST, 0.0) == State()


@req("state-bound")
@pytest.mark.parametrize(
    ("principal", "request_digest", "now"),
    [
        ("bob", REQUEST, 0.0),
        ("", REQUEST, 0.0),
        ("alice", digest("tools/call", Raw(b'{"name":"y","arguments":{"a":1}}')), 0.0),
        ("alice", digest("prompts/get", Raw(b'{"name":"x","arguments":{"a":1}}')), 0.0),
        ("alice", REQUEST, 100.0),
        ("alice", REQUEST, 1e9),
    ],
)
def test_it_is_bound_to_principal_request_and_time(principal: str, request_digest: str, now: float) -> None:
    sealer = Sealer(KEY)
    assert sealer.open(sealed(sealer), principal, request_digest, now) is None


@req("state-protected")
def test_another_key_opens_nothing() -> None:
    assert Sealer(b"x" * 32).open(sealed(Sealer(KEY)), "alice", REQUEST, 0.0) is None


@req("state-protected")
def test_every_changed_character_is_noticed() -> None:
    sealer = Sealer(KEY)
    text = sealed(sealer)
    for at, character in enumerate(text):
        for other in {"A", "0", ".", "é", character.swapcase()} - {character}:
            assert sealer.open(text[:at] + other + text[at + 1 :], "alice", REQUEST, 0.0) is None
        assert sealer.open(text[:at], "alice", REQUEST, 0.0) is None


@pytest.mark.parametrize("text", ["", "v1.", "v1..", "v2.a.b", "garbage", "v1.é.é", "."])
def test_garbage_is_refused(text: str) -> None:
    assert Sealer(KEY).open(text, "alice", REQUEST, 0.0) is None


@pytest.mark.parametrize("body", [b"!", b"not base64", urlsafe_b64encode(b"[1]"), urlsafe_b64encode(b"x")])
def test_what_an_older_version_with_our_key_sealed_is_refused(body: bytes) -> None:
    mac = hmac.new(KEY, b"v1." + body, hashlib.sha256).hexdigest()
    assert Sealer(KEY).open(f"v1.{body.decode()}.{mac}", "alice", REQUEST, 0.0) is None


def test_replicas_with_different_clocks_agree_on_the_expiry() -> None:
    one, other = Sealer(KEY, wall_offset=1000.0), Sealer(KEY, wall_offset=5000.0)
    text = sealed(one, expires=100.0)  # 1100 on the wall
    assert other.open(text, "alice", REQUEST, -3901.0) == STATE
    assert other.open(text, "alice", REQUEST, -3900.0) is None


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="needs 32 bytes or more, got 31"):
        Sealer(b"x" * 31)


@req("state-bound")
def test_what_makes_two_requests_the_same() -> None:
    base = digest("m", Raw(b'{"a":1,"b":{"c":2,"d":3}}'))
    assert digest("m", Raw(b'{ "b":{"d":3,"c":2}, "a":1 }')) == base
    carried = b'{"a":1,"b":{"c":2,"d":3},"_meta":{"x":1},"inputResponses":{},"requestState":"s"}'
    assert digest("m", Raw(carried)) == base
    assert digest("n", Raw(b'{"a":1,"b":{"c":2,"d":3}}')) != base
    assert digest("m", Raw(b'{"a":"1","b":{"c":2,"d":3}}')) != base


def test_numbers_that_no_double_holds_have_a_digest() -> None:
    huge = Raw(b'{"a":1e999,"_meta":{}}')
    assert digest("m", huge) == digest("m", Raw(b'{"_meta":{"x":1},"a":1e999}'))
    assert digest("m", huge) != digest("m", Raw(b'{"a":1e998}'))
