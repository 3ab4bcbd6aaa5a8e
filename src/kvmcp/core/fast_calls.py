"""The fast lane: what agents send in numbers, `tools/call` in a shape that leaves nothing to decide.

A call is begun here in one turn of a loop if its message is a compact request with a number for its id, its era is
known from what came before, its tool neither asks the client nor may become a task, and its arguments fit as they
are. Whatever differs is left untouched to the general machine (`session`, `methods`), so every refusal is worded
there, once. It would have done the same with these calls, but then a `redis_get` costs the core 51,000 instructions
instead of 36,000 (counted with cachegrind at depth 64).
"""

from collections.abc import Sequence
from itertools import islice
from typing import Final

import msgspec
from msgspec import Raw, Struct, field

from kvmcp.core.exchange import WAITING_FOR_BACKEND, Exchange, Exchanges
from kvmcp.core.json_text import too_deep
from kvmcp.core.jsonrpc import REQUEST_BYTES, decode_envelope
from kvmcp.core.methods import Admitted
from kvmcp.core.plan import AskBackend
from kvmcp.core.service import Service


class _Params(Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """Params without a client's answers and what else asks for more than the call."""

    name: str
    arguments: Raw = Raw(b"{}")
    meta: Raw = field(name="_meta", default=Raw())


_decode_params = msgspec.json.Decoder(_Params).decode

_METHOD: Final = "tools/call"
_CALL_BYTES: Final = REQUEST_BYTES + len(_METHOD)
"""A compact call without its id and params: with these it has no other member, and no member twice."""
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class FastCalls:
    """Begins the calls of one session that leave nothing to decide."""

    def __init__(self, service: Service, exchanges: Exchanges) -> None:
        self._catalog = service.catalog
        self._limits = service.limits
        self._exchanges = exchanges

    def begin(
        self,
        lines: Sequence[object],
        start: int,
        legacy: Admitted | None,
        remembered: tuple[Raw, Admitted] | None,
    ) -> int:
        """Begin calls from `lines[start]` on, up to the first line that is none for here; its place.

        `legacy` is what `initialize` settled, `remembered` the last modern `_meta` and what it says.
        """
        exchanges, find_tool = self._exchanges, self._catalog.tool
        due = exchanges.due
        waiting, counts, due_ops = due.exchanges, due.counts, due.ops
        open, id_bytes, depth = exchanges.open, self._limits.id_bytes, self._limits.nesting_depth
        for place, line in enumerate(islice(lines, start, None), start):
            if type(line) is not bytes:
                return place
            try:
                envelope = decode_envelope(line)
                id, params, length = bytes(envelope.id), envelope.params, len(line)
                if length != _CALL_BYTES + len(id) + len(params) or envelope.method != _METHOD:
                    return place
                if not id.isdigit() or len(id) > id_bytes or id in open or not line.isascii():
                    return place
                if length > 2 * depth and too_deep(line, depth):
                    return place
                call = _decode_params(params)
                tool = find_tool(call.name)
                if tool is None or tool.task_support != "forbidden":
                    return place
                arguments = tool.arguments.decode(call.arguments)
            except _UNREADABLE:
                return place
            admitted = legacy
            if call.meta:
                admitted = remembered[1] if remembered is not None and remembered[0] == call.meta else None
            if admitted is None:
                return place
            context = admitted.context
            exchange = Exchange(id, _METHOD, params, admitted.dialect, context, tool.continuations)
            try:
                plan = tool.plan(arguments, context)
            except Exception as error:  # noqa: BLE001  # whatever a handler raises becomes an answer and a report
                plan = exchanges.failed(exchange, error)
            if type(plan) is AskBackend:  # As `Exchanges.ask_backend`, without its call.
                ops = plan.ops
                exchange.phase = WAITING_FOR_BACKEND
                exchange.backend_then = plan.then
                if plan.writes:
                    exchange.writes = True
                open[id] = exchange
                waiting.append(exchange)
                counts.append(len(ops))
                due_ops += ops
            else:
                exchanges.carry_out(exchange, plan)
        return len(lines)
