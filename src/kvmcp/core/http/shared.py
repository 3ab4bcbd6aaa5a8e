"""What processes that serve the same clients keep in one place: small records, by commands to the driver.

Only a driver can ask a store, so a record is loaded by a command and comes back as its outcome. A record is
sealed, and bound to its key: what somebody else wrote there is as good as nothing. It is JSON text, as every
value of a store is.
"""

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias, cast

import msgspec
from msgspec import Struct

from kvmcp.core.commands import BatchFailed, Ticket
from kvmcp.core.errors import LocalProtocolError
from kvmcp.core.http.relays import Relay, decode, encode
from kvmcp.core.request_state import Sealer

FIRST_TICKET: Final[Ticket] = 1 << 41
"""Tickets of loads are above it, and those of tasks below."""

_PREFIX: Final = "k1."
"""With the version of the form, as in `relays`."""


class _Record(Struct, frozen=True, array_like=True):
    key: str
    payload: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Record).decode


class KeepRecord(Struct, frozen=True, gc=False):
    """Store JSON text under a key for some seconds, in place of what is there. Nobody waits for it."""

    key: str
    value: bytes
    seconds: float


class DropRecords(Struct, frozen=True, gc=False):
    """Remove records; those that are not there are no fault. Nobody waits for it."""

    keys: tuple[str, ...]


class LoadRecords(Struct, frozen=True, gc=False):
    """Read records. Complete with one value for each key, in order: as stored, or None; else `BatchFailed`."""

    ticket: Ticket
    keys: tuple[str, ...]


SharedCommand: TypeAlias = KeepRecord | DropRecords | LoadRecords

Loaded: TypeAlias = list[bytes | None] | None
"""What was found, by key, opened; None where the store did not answer."""

Then: TypeAlias = Callable[[Loaded, float], None]


class Shared:
    """What one process wants done with the common records, and what it wants all others to know.

    `name` is that of the process: what comes back to it of its own is not taken for somebody else's.
    """

    def __init__(self, sealer: Sealer, name: str) -> None:
        self._sealer = sealer
        self._name = name
        self._kept: dict[str, KeepRecord] = {}
        self._dropped: dict[str, None] = {}
        self._loads: list[LoadRecords] = []
        self._waiting: dict[Ticket, Then] = {}
        self._given: dict[Ticket, tuple[str, ...]] = {}
        self._tickets = FIRST_TICKET
        self._relays: list[bytes] = []

    # --- records ---

    def keep(self, key: str, payload: bytes, seconds: float) -> None:
        """Remember `payload` for all processes. Of several in one turn only the last is written."""
        text = self._sealer.sign(_PREFIX, _encode(_Record(key, payload)))
        self._dropped.pop(key, None)
        self._kept.pop(key, None)  # To the end: records are written in the order of their last change.
        self._kept[key] = KeepRecord(key, b'"%b"' % text.encode(), seconds)

    def drop(self, *keys: str) -> None:
        """Forget what was remembered."""
        for key in keys:
            self._kept.pop(key, None)
            self._dropped[key] = None

    def load(self, keys: tuple[str, ...], then: Then) -> Ticket:
        """Look records up; `then` is called once with what there is, unless `forget` was called before."""
        self._tickets += 1
        self._loads.append(LoadRecords(self._tickets, keys))
        self._given[self._tickets] = keys
        self._waiting[self._tickets] = then
        return self._tickets

    def forget(self, ticket: Ticket) -> None:
        """Nobody waits for a load any more."""
        self._waiting.pop(ticket, None)

    def complete(self, ticket: Ticket, outcome: object, now: float) -> None:
        """A load finished. Raises LocalProtocolError for a ticket that is not open, or an outcome that does not fit."""
        keys = self._given.get(ticket)
        if keys is None:
            raise LocalProtocolError(f"ticket {ticket} is none of an open load")
        if not isinstance(outcome, BatchFailed) and not _fits(outcome, len(keys)):
            raise LocalProtocolError(f"load {ticket} needs {len(keys)} values")
        del self._given[ticket]
        then = self._waiting.pop(ticket, None)
        if then is not None:
            then(self._opened(keys, outcome), now)

    def _opened(self, keys: tuple[str, ...], outcome: object) -> Loaded:
        if isinstance(outcome, BatchFailed):
            return None
        values = cast(Sequence[bytes | None], outcome)
        return [self._open(key, value) for key, value in zip(keys, values, strict=True)]

    def _open(self, key: str, value: bytes | None) -> bytes | None:
        """The payload; None where there is no record, or none of ours."""
        if value is None or not (value.isascii() and value.startswith(b'"') and value.endswith(b'"')):
            return None
        payload = self._sealer.verify(_PREFIX, value[1:-1].decode())
        if payload is None:
            return None
        try:
            record = _decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None  # Of another version of this server.
        return record.payload if record.key == key else None

    # --- relays ---

    def tell(self, relay: Relay) -> None:
        """All other processes are to know it."""
        self._relays.append(encode(self._sealer, self._name, relay))

    def read(self, data: bytes) -> Relay | None:
        """What another process told; None for what we told ourselves, and for what none of us told."""
        read = decode(self._sealer, data)
        return None if read is None or read[0] == self._name else read[1]

    # --- output ---

    def take_commands(self) -> list[SharedCommand]:
        """What the driver is to do, in this order."""
        commands: list[SharedCommand] = list(self._kept.values())
        if self._dropped:
            commands.append(DropRecords(tuple(self._dropped)))
        commands += self._loads
        self._kept.clear()
        self._dropped.clear()
        self._loads = []
        return commands

    def take_relays(self) -> list[bytes]:
        relays, self._relays = self._relays, []
        return relays


def _fits(outcome: object, count: int) -> bool:
    return isinstance(outcome, Sequence) and len(cast(Sequence[object], outcome)) == count
