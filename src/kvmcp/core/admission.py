"""Which era a request belongs to, decided by the message and by what came before it on the connection.

Knows envelopes and `initialize`, not methods: who asks, in which dialect, or why the request is refused. Over
HTTP the transport admits requests, see `kvmcp.core.http.admission`.
"""

import msgspec
from msgspec import UNSET, Raw, Struct

from kvmcp.core import jsonrpc
from kvmcp.core.errors import INVALID_PARAMS, INVALID_REQUEST, RpcError
from kvmcp.core.jsonrpc import Id, Request
from kvmcp.core.legacy import LegacyDialect
from kvmcp.core.modern import is_envelope, read_envelope, unsupported_version
from kvmcp.core.plan import Caller, Context
from kvmcp.core.projection import known_capabilities
from kvmcp.core.service import Dialect, Service
from kvmcp.core.versions import LATEST_LEGACY, LegacyVersion, negotiate
from kvmcp.core.wire.common import ClientCapabilities
from kvmcp.core.wire.params import InitializeParams, LegacyMeta

_decode_legacy_meta = msgspec.json.Decoder(LegacyMeta).decode
_decode_initialize = msgspec.json.Decoder(InitializeParams).decode


class Admitted(Struct, frozen=True, gc=False):
    """A request's era and context."""

    dialect: Dialect
    context: Context


class Admission:
    """Admits the requests of one connection, or refuses them into `out`, the session's outbox.

    `caller` is who the peer was found to be, `legacy` what an `initialize` elsewhere settled.
    """

    def __init__(
        self, service: Service, caller: Caller, out: list[bytes], legacy: Admitted | None = None
    ) -> None:
        self._service = service
        self._caller = caller
        self._out = out
        self._modern_only = False
        self.legacy = legacy
        """What `initialize` settled, None where there was none."""
        self.remembered: tuple[Raw, Admitted] | None = None
        """The last modern `_meta` and what it says."""

    def open_legacy(self, params: InitializeParams) -> LegacyDialect:
        """Begin the legacy conversation, in the dialect given back."""
        dialect = self._service.legacy(negotiate(params.protocol_version))
        self.legacy = Admitted(dialect, open_context(params, dialect.version, self._caller))
        return dialect

    def admit(self, request: Request, meta: Raw) -> Admitted | None:
        """The era of a request, decided by the message; None where it was refused."""
        if not len(meta):
            return self._admit_legacy(request, None)
        # Clients repeat one envelope: what it says is read once. Nothing is derived from earlier requests.
        if self.remembered is not None and self.remembered[0] == meta:
            return self.remembered[1]
        try:
            if not is_envelope(meta):
                return self._admit_legacy(request, meta)
        except msgspec.DecodeError:
            self._refuse(request.id, INVALID_PARAMS, "_meta must be an object")
            return None
        return self._admit_modern(request, meta)

    def _admit_modern(self, request: Request, meta: Raw) -> Admitted | None:
        if self.legacy is not None:
            problem = f"this connection was initialized at {self.legacy.dialect.version}; open another one"
            self._refuse(request.id, INVALID_REQUEST, problem)
            return None
        context = read_envelope(meta, self._caller)
        if isinstance(context, RpcError):
            self._out.append(self._service.modern.error(request.id, context))
            return None
        admitted = Admitted(self._service.modern, context)
        # A dual-era client may probe, give up, and initialize: discovery alone decides nothing.
        if request.method != "server/discover":
            self._modern_only = True
            self.remembered = (meta.copy(), admitted)
        return admitted

    def _admit_legacy(self, request: Request, meta: Raw | None) -> Admitted | None:
        admitted = self.legacy
        if admitted is None:
            return self._admit_before_initialize(request)
        if meta is None:
            return admitted
        try:
            token = _decode_legacy_meta(meta).progress_token
        except msgspec.DecodeError as error:
            self._refuse(request.id, INVALID_PARAMS, f"_meta: {error}")
            return None
        if token is UNSET:
            return admitted
        return Admitted(admitted.dialect, msgspec.structs.replace(admitted.context, progress_token=token))

    def _admit_before_initialize(self, request: Request) -> Admitted | None:
        if self._modern_only:
            if request.method == "initialize":
                refusal = unsupported_version(_requested_version(request))
            else:
                refusal = RpcError(INVALID_PARAMS, "_meta lacks io.modelcontextprotocol/protocolVersion")
            self._out.append(self._service.modern.error(request.id, refusal))
            return None
        if request.method in ("initialize", "ping"):
            return self._newcomer()
        problem = "send initialize first, or a request with the envelope of 2026-07-28 in params._meta"
        self._refuse(request.id, INVALID_REQUEST, problem)
        return None

    def _newcomer(self) -> Admitted:
        """A legacy peer that has not said who it is."""
        context = Context(self._caller, LATEST_LEGACY, ClientCapabilities())
        return Admitted(self._service.legacy(LATEST_LEGACY), context)

    def _refuse(self, id: Id, code: int, problem: str) -> None:
        self._out.append(jsonrpc.error_response(id, RpcError(code, problem)))


def open_context(params: InitializeParams, version: LegacyVersion, caller: Caller) -> Context:
    """What an `initialize` settles: the revision, and what of the client's capabilities that knows."""
    return Context(caller, version, known_capabilities(params.capabilities, version), params.client_info)


def _requested_version(request: Request) -> str:
    try:
        return _decode_initialize(request.params).protocol_version
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
