"""What a server asks of the client: whether it may, and its legacy requests until they are answered.

In the modern era the same three methods come as entries of `input_required`; see `answers`.
"""

from collections.abc import Callable, Mapping
from typing import Final

from msgspec import UNSET, Raw, Struct

from kvmcp.core import jsonrpc
from kvmcp.core.client.calls import Calls
from kvmcp.core.client.events import Event, ProtocolViolated, ServerAsked, ServerAskEnded
from kvmcp.core.commands import Ticket
from kvmcp.core.errors import INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND, RpcError
from kvmcp.core.jsonrpc import Id, Request
from kvmcp.core.wire.common import (
    ClientCapabilities,
    ClientRequest,
    ElicitForm,
    ElicitUrl,
    ListRoots,
    Sample,
)
from kvmcp.core.wire.results import read

# --- may it ask? --------------------------------------------------------------------------------------------


class _ElicitHead(Struct):
    mode: str = "form"
    """"Absent = form"."""


class _SampleHead(Struct, rename="camel"):
    tools: Raw = Raw()
    tool_choice: Raw = Raw()


def _roots(params: Raw) -> ClientRequest | None:
    return ListRoots()


def _sample(params: Raw) -> ClientRequest | None:
    head = read(params, _SampleHead)
    return None if head is None else Sample(b"", tools=len(head.tools) + len(head.tool_choice) > 0)


def _elicit(params: Raw) -> ClientRequest | None:
    head = read(params, _ElicitHead)
    if head is None or head.mode not in ("form", "url"):
        return None
    return ElicitUrl("", "") if head.mode == "url" else ElicitForm("", b"")


_ASKABLE: Final[Mapping[str, tuple[str, Callable[[Raw], ClientRequest | None]]]] = {
    "roots/list": ("roots", _roots),
    "sampling/createMessage": ("sampling", _sample),
    "elicitation/create": ("elicitation", _elicit),
}
"""Method to the capability it needs, and to what kind of question its params make it."""


def refusal(declared: ClientCapabilities, method: str, params: Raw) -> RpcError | None:
    """Why the server may not ask this of us; None where it may."""
    if method not in _ASKABLE:
        return RpcError(METHOD_NOT_FOUND, f"unknown method: {method}")
    capability, kind = _ASKABLE[method]
    if getattr(declared, capability) is UNSET:
        return RpcError(
            METHOD_NOT_FOUND, f"{method} needs the capability {capability}, which was not declared"
        )
    question = kind(params)
    if question is None:
        return RpcError(INVALID_PARAMS, f"params of {method} do not fit")
    if not declared.offers(question):
        return RpcError(INVALID_PARAMS, f"{method} in this form was not declared in {capability}")
    return None


# --- requests of a legacy server ------------------------------------------------------------------------------


class ServerAsks:
    """The requests of a legacy server that the application has not answered."""

    def __init__(self, limit: int, calls: Calls, out: list[bytes], events: list[Event]) -> None:
        self._limit = limit
        self._calls = calls
        self._out = out
        self._events = events
        self._ids: dict[Ticket, Id] = {}
        self._tickets: dict[Id, Ticket] = {}
        self.declared = ClientCapabilities()
        """What the server was told that it may ask; nothing before the connection is made."""

    @property
    def waiting(self) -> bool:
        """Whether the server waits for us."""
        return len(self._ids) > 0

    def receive(self, request: Request) -> None:
        """Answer what we can, hand on what the application has declared, refuse the rest."""
        if request.id in self._tickets:
            self._events.append(ProtocolViolated("the server used the id of a request that is still open"))
        elif request.method == "ping":
            self._out.append(jsonrpc.response(request.id, b"{}"))
        elif (problem := self._refusal(request)) is not None:
            self._out.append(jsonrpc.error_response(request.id, problem))
        else:
            self._hand_on(request)

    def _refusal(self, request: Request) -> RpcError | None:
        if len(self._ids) >= self._limit:
            return RpcError(INTERNAL_ERROR, f"{self._limit} requests wait already, which is the limit")
        return refusal(self.declared, request.method, request.params)

    def _hand_on(self, request: Request) -> None:
        ticket = self._calls.mint()
        self._ids[ticket] = request.id
        self._tickets[request.id] = ticket
        self._events.append(ServerAsked(ticket, request.method, request.params))

    def take(self, ticket: Ticket) -> Id | None:
        """The id of a request that is about to be answered; None where nobody waits for it any more."""
        self._calls.check(ticket)
        id = self._ids.pop(ticket, None)
        if id is not None:
            del self._tickets[id]
        return id

    def cancel(self, id: Id) -> None:
        """The server wants no answer any more. Ids of no open request are ignored."""
        ticket = self._tickets.pop(id, None)
        if ticket is not None:
            del self._ids[ticket]
            self._events.append(ServerAskEnded(ticket))

    def forget(self) -> None:
        """The server is gone."""
        self._ids.clear()
        self._tickets.clear()
