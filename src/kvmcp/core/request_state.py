"""`requestState`: what a stateless server must remember between two rounds, sealed and carried by the client.

The client is not trusted with it ("treat requestState as attacker input"): it is bound by HMAC-SHA256 to the
caller (`Caller.identity`), the request (method and params) and an expiry. It is signed, not encrypted: the client can read it.
"""

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from typing import Final

import msgspec
from msgspec import Raw, Struct

MIN_KEY_BYTES: Final = 32
"""HMAC-SHA256 is as strong as its key up to the digest's 32 bytes (RFC 2104, section 3)."""

_PREFIX: Final = "v1."


class State(Struct, frozen=True, omit_defaults=True):
    """What is remembered: a continuation by its tag, what it asked for, and the answers so far."""

    then: Raw = Raw(b"null")
    """The tagged continuation; null where a coroutine runs again from its start."""
    requests: Raw = Raw(b"null")
    answers: dict[str, Raw] = {}


class _Sealed(Struct, frozen=True, array_like=True):
    caller: str
    digest: str
    expires: float
    nonce: str
    state: State


_encode = msgspec.json.Encoder(order="sorted").encode
_decode_sealed = msgspec.json.Decoder(_Sealed).decode


def digest(method: str, params: Raw) -> str:
    """Identifies a request up to its member order and white space; envelope and answers do not count."""
    try:
        members = msgspec.json.decode(params)
    except msgspec.ValidationError:  # A number that no double holds: compared as written.
        members = msgspec.json.decode(params, type=dict[str, Raw])
    for name in ("_meta", "inputResponses", "requestState"):
        members.pop(name, None)
    return hashlib.sha256(_encode([method, members])).hexdigest()


class Sealer:
    """Makes and opens request states.

    `key`: at least `MIN_KEY_BYTES`; replicas that serve the same clients share it. `wall_offset`: seconds to
    add to the driver's clock to get Unix time, which replicas agree on.
    """

    def __init__(self, key: bytes, wall_offset: float = 0.0) -> None:
        if len(key) < MIN_KEY_BYTES:
            raise ValueError(f"a sealing key needs {MIN_KEY_BYTES} bytes or more, got {len(key)}")
        self._key = key
        self._wall_offset = wall_offset

    def seal(self, state: State, caller: str, request: str, expires: float, nonce: str) -> str:
        """`request` is the request's `digest`, `expires` a moment of the driver's clock."""
        return self.sign(_PREFIX, _encode(_Sealed(caller, request, self.wall(expires), nonce, state)))

    def open(self, sealed: str, caller: str, request: str, now: float) -> State | None:
        """The state, or None where it was not made by us, for this caller and request, or is too old."""
        payload = self.verify(_PREFIX, sealed)
        if payload is None:
            return None
        try:
            body = _decode_sealed(payload)
        except msgspec.DecodeError:
            return None
        if body.caller != caller or body.digest != request:
            return None
        return body.state if self.wall(now) < body.expires else None

    def wall(self, moment: float) -> float:
        """A moment of the driver's clock as Unix time."""
        return moment + self._wall_offset

    def sign(self, prefix: str, payload: bytes) -> str:
        """`payload` as visible ASCII that only we can have written. `prefix` says what it is for."""
        body = prefix + urlsafe_b64encode(payload).decode()
        return f"{body}.{self._mac(body)}"

    def verify(self, prefix: str, signed: str) -> bytes | None:
        """The payload, or None where `signed` was not made by us for what `prefix` says."""
        body, _, mac = signed.rpartition(".")
        if not signed.startswith(prefix) or not signed.isascii():
            return None
        # The MAC before anything else: nothing that we did not write is ever parsed.
        if not hmac.compare_digest(mac, self._mac(body)):
            return None
        try:
            return urlsafe_b64decode(body.removeprefix(prefix))
        except Base64Error:
            return None

    def _mac(self, body: str) -> str:
        return hmac.new(self._key, body.encode(), hashlib.sha256).hexdigest()
