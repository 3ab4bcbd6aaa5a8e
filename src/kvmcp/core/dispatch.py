"""A request's way to the function of its method: its era, its params, whether it is offered, on whose behalf it comes."""

import msgspec

from kvmcp.core import jsonrpc
from kvmcp.core.admission import Admission, Admitted
from kvmcp.core.errors import INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, RpcError, clip
from kvmcp.core.jsonrpc import Id, Request
from kvmcp.core.methods import METHODS, Conversation, Method
from kvmcp.core.wire.params import Params

_decode_head = msgspec.json.Decoder(Params).decode


class Dispatch:
    """Hands the requests of one session to `methods`, or refuses them."""

    def __init__(self, session: Conversation, admission: Admission) -> None:
        self._session = session
        self._service = session.service
        self._catalog = session.service.catalog
        self._exchanges = session.exchanges
        self._admission = admission

    def request(self, request: Request) -> None:
        """A request arrived on the connection."""
        if request.id in self._exchanges.open:
            self._refuse(request.id, INVALID_REQUEST, "a request with this id is still in flight")
            return
        method = METHODS.get(request.method)
        if method is None:
            self._unreadable(request, None)
            return
        try:
            params = method.decode(request.params)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._unreadable(request, error)
            return
        # A legacy request without `_meta`, the common one, leaves nothing to decide (benchmarks/core.py).
        admission = self._admission
        admitted = admission.legacy
        if admitted is None or params.meta:
            admitted = admission.admit(request, params.meta)
        if admitted is None:
            return
        if not method.offered(self._catalog, admitted.dialect):
            self._refuse(request.id, METHOD_NOT_FOUND, f"method not offered: {clip(request.method)}")
            return
        self._handle(method, request, params, admitted)

    def admitted(self, request: Request, admitted: Admitted) -> None:
        """A request arrived whose era and context the transport has read already."""
        method = METHODS.get(request.method)
        if method is None or not method.offered(self._catalog, admitted.dialect):
            self._session.refuse(
                request.id, RpcError(METHOD_NOT_FOUND, f"method not offered: {clip(request.method)}")
            )
            return
        try:
            params = method.decode(request.params)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._session.refuse(request.id, RpcError(INVALID_PARAMS, f"params: {error}"))
            return
        self._handle(method, request, params, admitted)

    def _handle(self, method: Method, request: Request, params: Params, admitted: Admitted) -> None:
        """Carry a request out, on behalf of whom it says itself where that is the rule (`Service.caller_of`)."""
        caller_of = self._service.caller_of
        if caller_of is not None and method.for_caller:
            caller = caller_of(admitted.context.caller, params.meta)
            if isinstance(caller, RpcError):
                self._session.refuse(request.id, caller)
                return
            context = msgspec.structs.replace(admitted.context, caller=caller)
            admitted = Admitted(admitted.dialect, context)
        method.handle(self._session, request, params, admitted)

    def _unreadable(self, request: Request, error: Exception | None) -> None:
        """An unknown method, or params that do not fit: what is wrong with the era is said first."""
        try:
            meta = _decode_head(request.params).meta
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._refuse(request.id, INVALID_PARAMS, "params must be an object")
            return
        if self._admission.admit(request, meta) is None:
            return
        if error is None:
            self._refuse(request.id, METHOD_NOT_FOUND, f"unknown method: {clip(request.method)}")
        else:
            self._refuse(request.id, INVALID_PARAMS, f"params: {error}")

    def _refuse(self, id: Id, code: int, problem: str) -> None:
        self._session.send(jsonrpc.error_response(id, RpcError(code, problem)))
