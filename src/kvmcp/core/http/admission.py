"""Of which era a POST is, or why it is refused: a ladder, first failure wins (reference: MCP, Streamable HTTP).

The body decides the era, the headers must agree. For a request, H is `MCP-Protocol-Version` and V the version in
the envelope:

    H               V           verdict
    none, legacy    none        legacy
    modern          none        -32602: a modern request without its envelope
    unknown         none        -32022
    any             any, ≠ H    -32020, also where H is missing; said before "unsupported version"
    any             = H         modern, or -32022 where V is none of ours (a legacy one is none in an envelope)
"""

from collections.abc import Mapping
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct

from kvmcp.core.admission import Admitted
from kvmcp.core.errors import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    MISSING_CLIENT_CAPABILITY,
    PARSE_ERROR,
    RESOURCE_NOT_FOUND,
    UNSUPPORTED_VERSION,
    RpcError,
)
from kvmcp.core.http import agreement
from kvmcp.core.http.headers import Headers
from kvmcp.core.jsonrpc import Batch, Id, Malformed, Message, Notification, Request
from kvmcp.core.modern import envelope_version, read_envelope, unsupported_version
from kvmcp.core.plan import Caller, Context
from kvmcp.core.service import Service
from kvmcp.core.versions import LEGACY, MODERN
from kvmcp.core.wire.params import CallParams, Params

STATUS: Final[Mapping[int, int]] = {
    METHOD_NOT_FOUND: 404,
    PARSE_ERROR: 400,
    INVALID_REQUEST: 400,
    INVALID_PARAMS: 400,
    RESOURCE_NOT_FOUND: 400,
    HEADER_MISMATCH: 400,
    MISSING_CLIENT_CAPABILITY: 400,
    UNSUPPORTED_VERSION: 400,
}
"""The HTTP status of a modern error; 200 for all others, which are the outcome of a request that was served."""


class Refused(Struct, frozen=True):
    """The answer is an error, under a status that says so."""

    error: RpcError
    id: Id | None = None
    status: int = 400


class Accepted(Struct, frozen=True):
    """Nothing is to be done: 202."""


class ModernRequest(Struct, frozen=True):
    """A request of 2026-07-28, whose headers agree with its body."""

    request: Request
    admitted: Admitted


class LegacyMessage(Struct, frozen=True):
    """A message of an earlier revision; its session is still to be found."""

    message: Message


Verdict: TypeAlias = Refused | Accepted | ModernRequest | LegacyMessage

_decode_head = msgspec.json.Decoder(Params).decode
_decode_call = msgspec.json.Decoder(CallParams).decode


def admit(service: Service, headers: Headers, message: Message, caller: Caller) -> Verdict:
    """What a POST is."""
    if headers.is_repeated(agreement.VERSION):
        id = message.id if isinstance(message, Request) else None
        return Refused(RpcError(HEADER_MISMATCH, "MCP-Protocol-Version stands more than once"), id)
    if isinstance(message, Request):
        return _admit_request(service, headers, message, caller)
    if isinstance(message, Malformed):
        # An answer's id is one of ours: echoed, it could settle an unrelated request of the peer.
        return Refused(message.error, None if message.is_answer else message.id)
    version = headers.get(agreement.VERSION)
    if version is None or version in LEGACY:
        return LegacyMessage(message)
    if version not in MODERN:
        return Refused(unsupported_version(version))
    if isinstance(message, Notification):
        return (
            Accepted()
        )  # None of them asks anything of a stateless server; closing the stream is the cancel.
    what = "batches exist" if isinstance(message, Batch) else "clients send responses"
    problem = f"{what} in earlier revisions only; a body is one request or one notification"
    return Refused(RpcError(INVALID_REQUEST, problem))


def _admit_request(service: Service, headers: Headers, request: Request, caller: Caller) -> Verdict:
    try:
        meta = _decode_head(request.params).meta
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Refused(RpcError(INVALID_PARAMS, "params must be an object"), request.id)
    try:
        version = envelope_version(meta)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Refused(RpcError(INVALID_PARAMS, "_meta must be an object"), request.id)
    if version is None:
        return _without_envelope(headers, request)
    refusal = _envelope_fault(headers, request, version, context := read_envelope(meta, caller))
    if refusal is not None:
        return Refused(refusal, request.id)
    assert isinstance(context, Context), "whatever else it is was refused"
    refusal = _arguments_fault(service, headers, request)
    if refusal is not None:
        return Refused(refusal, request.id)
    return ModernRequest(request, Admitted(service.modern, context))


def _without_envelope(headers: Headers, request: Request) -> Verdict:
    version = headers.get(agreement.VERSION)
    if version is None or version in LEGACY:
        return LegacyMessage(request)
    if version in MODERN:
        problem = "_meta lacks io.modelcontextprotocol/protocolVersion"
        return Refused(RpcError(INVALID_PARAMS, problem), request.id)
    return Refused(unsupported_version(version), request.id)


def _envelope_fault(
    headers: Headers, request: Request, version: str, read: Context | RpcError
) -> RpcError | None:
    """An incomplete envelope first, then disagreement, then a version that is not served."""
    if isinstance(read, RpcError) and read.code == INVALID_PARAMS:
        return read
    fault = agreement.fault(headers, version, request.method, request.params)
    if fault is not None:
        return RpcError(HEADER_MISMATCH, fault)
    return read if isinstance(read, RpcError) else None


def _arguments_fault(service: Service, headers: Headers, request: Request) -> RpcError | None:
    """ "The server MUST reject" a call whose `Mcp-Param-…` headers disagree, before the tool runs."""
    if request.method != "tools/call" or not service.catalog.has_mirrors:
        return None
    try:
        params = _decode_call(request.params)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None  # Said when the call is read.
    fault = agreement.params_fault(headers, service.catalog.mirrors(params.name), params.arguments)
    return None if fault is None else RpcError(HEADER_MISMATCH, fault)


class _Failed(Struct):
    error: RpcError


_decode_failed = msgspec.json.Decoder(_Failed).decode


def status_of(message: bytes, id: Id) -> int:
    """The status under which the answer to request `id` goes out."""
    if not message.startswith(b'{"jsonrpc":"2.0","id":%b,"error":' % id):
        return 200
    return STATUS.get(_decode_failed(message).error.code, 200)
