"""The requests of a client: from `request` to exactly one event that settles it.

        begin ─▸ sent ─┬─ answer, refusal, violation ────────────────▸ settled
                 ▴     ├─ input_required ─▸ awaiting the application
                 └─────┼──────────────────── answer (a new id) ◂─┘
                       └─ cancel, deadline, end of stream ───────────▸ settled

Knows ids, tickets and time; not what an answer means. A request has one ticket, ours, and a fresh id at each
attempt: what comes late for an earlier attempt finds its id gone.
"""

from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct

from kvmcp.core import jsonrpc
from kvmcp.core.client.profile import ClientLimits
from kvmcp.core.commands import Ticket
from kvmcp.core.deadlines import Deadlines
from kvmcp.core.errors import LocalProtocolError
from kvmcp.core.jsonrpc import Id
from kvmcp.core.wire.params import ListenFilter

_encode = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, Raw]).decode


def members(text: bytes | Raw) -> dict[str, Raw]:
    """The members of an object of the application's. Raises LocalProtocolError where it is no JSON object."""
    try:
        return _decode_object(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LocalProtocolError(f"a JSON object is needed: {error}") from error


def text(value: object) -> Raw:
    """JSON text of a value of the application's. Raises LocalProtocolError where it has none."""
    try:
        return Raw(_encode(value))
    except (TypeError, UnicodeEncodeError) as error:
        raise LocalProtocolError(f"this cannot be written as JSON: {error}") from error


class Call(Struct):
    """One request, or one listen, that is not settled."""

    ticket: Ticket
    method: str
    params: dict[str, Raw]
    """As the application gave them, without `_meta`."""
    meta: dict[str, Raw]
    wants_progress: bool
    timeout: float
    listening: ListenFilter | None = None
    """What a listen asked for; None for a request."""
    acknowledged: bool = False
    id: Id = b""
    """Of the attempt that is out."""
    sent_at: float = 0.0
    progress: float = float("-inf")
    rounds: int = 0
    """Attempts so far that asked for input."""
    corrected: bool = False
    """Whether it was sent again because the server refused its version."""
    awaited: frozenset[str] | None = None
    """Keys of the answers that the application has to give; None while the server is waited for."""
    state: Raw = Raw()
    """The `requestState` to send back, as it came; empty where none came."""


class Calls:
    """The table of requests. `out` is the session's outbox: rendered messages, in order."""

    def __init__(self, limits: ClientLimits, out: list[bytes]) -> None:
        self._limits = limits
        self._out = out
        self.open: dict[Ticket, Call] = {}
        self.by_id: dict[Id, Call] = {}
        self.deadlines: Deadlines[Ticket] = Deadlines()
        self.envelope: dict[str, Raw] = {}
        """What `_meta` of each request says; empty in the legacy era."""
        self.preferences: dict[str, Raw] = {}
        """What `_meta` says unless the application says otherwise."""
        self._tickets = 0
        self._ids = 0

    # --- names ---

    def mint(self) -> Ticket:
        self._tickets += 1
        return self._tickets

    def mint_id(self) -> Id:
        self._ids += 1
        return b"%d" % self._ids

    def was_sent(self, id: Id) -> bool:
        """Whether a request of ours ever had this id."""
        return id.isdigit() and 0 < int(id) <= self._ids

    def find(self, ticket: Ticket) -> Call | None:
        """None where it is settled. Raises LocalProtocolError for a ticket that was never given."""
        self.check(ticket)
        return self.open.get(ticket)

    def check(self, ticket: Ticket) -> None:
        if not 0 < ticket <= self._tickets:
            raise LocalProtocolError(f"ticket {ticket} was never given")

    @property
    def has_room(self) -> bool:
        return len(self.open) < self._limits.open_requests

    # --- the life of a call ---

    def begin(
        self,
        method: str,
        params: bytes | Raw,
        now: float,
        *,
        progress: bool = False,
        timeout: float | None = None,
        listening: ListenFilter | None = None,
    ) -> Ticket:
        """Raises LocalProtocolError where too many requests are open, or an argument does not fit."""
        if not self.has_room:
            raise LocalProtocolError(f"{self._limits.open_requests} requests are open, which is the limit")
        timeout = self._limits.request_timeout if timeout is None else timeout
        if not timeout > 0:
            raise LocalProtocolError(f"a timeout is a number of seconds above 0, not {timeout}")
        given = members(params)
        meta = members(given.pop("_meta", b"{}"))
        text(method)
        call = Call(self.mint(), method, given, meta, progress, timeout, listening)
        self.open[call.ticket] = call
        self.send(call, now)
        return call.ticket

    def send(self, call: Call, now: float, answers: Mapping[str, Raw] | None = None) -> None:
        """One attempt, under a new id. `answers` are what the server asked for, if it did."""
        call.id = self.mint_id()
        call.sent_at = now
        call.progress = float("-inf")
        call.awaited = None
        params = dict(call.params)
        if answers:
            params["inputResponses"] = Raw(_encode(answers))
        if len(call.state):
            params["requestState"] = call.state
        if meta := self._meta(call):
            params["_meta"] = Raw(_encode(meta))
        self.by_id[call.id] = call
        self.extend(call, now)
        self._out.append(jsonrpc.request(call.id, call.method, _encode(params)))

    def _meta(self, call: Call) -> dict[str, Raw]:
        meta = {**self.preferences, **call.meta, **self.envelope}
        if call.wants_progress:
            # "Unique among the sender's active requests": the id of the attempt is.
            meta["progressToken"] = Raw(call.id)
        return meta

    def extend(self, call: Call, now: float) -> None:
        """Give the server another full wait, within the cap."""
        self.deadlines.set(call.ticket, min(now + call.timeout, self._latest(call)))

    def may_extend(self, call: Call, now: float) -> bool:
        return now < self._latest(call)

    def _latest(self, call: Call) -> float:
        return call.sent_at + max(self._limits.request_cap, call.timeout)

    def await_answers(self, call: Call, keys: frozenset[str]) -> None:
        """The attempt is over; the application has to say something, and may take its time."""
        self._end_attempt(call)
        call.awaited = keys

    def renew(self, call: Call, now: float) -> None:
        """The attempt is over and the next one needs nothing from the application."""
        self._end_attempt(call)
        self.send(call, now)

    def settle(self, call: Call) -> None:
        """No event and no message will come for this call any more."""
        self._end_attempt(call)
        del self.open[call.ticket]

    def withdraw(self, call: Call, reason: Raw | None = None) -> None:
        """Settle, and tell the server that nobody waits any more, if it has the request."""
        if call.awaited is None:
            said = b"" if reason is None else b',"reason":%b' % bytes(reason)
            params = b'{"requestId":%b%b}' % (call.id, said)
            self._out.append(jsonrpc.notification("notifications/cancelled", params))
        self.settle(call)

    def _end_attempt(self, call: Call) -> None:
        self.by_id.pop(call.id, None)
        self.deadlines.clear(call.ticket)

    def lose(self) -> tuple[Ticket, ...]:
        """Settle all: the server is gone."""
        lost = tuple(self.open)
        for call in list(self.open.values()):
            self.settle(call)
        return lost
