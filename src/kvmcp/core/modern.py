"""The modern dialect: revision 2026-07-28, stateless; each request carries its envelope in `_meta`.

Same names as `kvmcp.core.legacy`: how results, lists and refusals are written, and which requests exist.
"""

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from kvmcp.core import jsonrpc, projection
from kvmcp.core.catalog import Catalog, ListKind
from kvmcp.core.errors import INVALID_PARAMS, RESOURCE_NOT_FOUND, UNSUPPORTED_VERSION, RpcError
from kvmcp.core.items import Listed
from kvmcp.core.jsonrpc import Id
from kvmcp.core.plan import Caller, Context, ToolError, error_result
from kvmcp.core.projection import Plain
from kvmcp.core.subscriptions import Event, ListChanged
from kvmcp.core.versions import LATEST_MODERN, MODERN
from kvmcp.core.wire.common import (
    ClientRequest,
    Done,
    Implementation,
    ReadResult,
    ResourcePage,
    Result,
    ToolResult,
)
from kvmcp.core.wire.params import (
    SERVER_INFO,
    SUBSCRIPTION_ID,
    Envelope,
    EnvelopeMark,
    ListenFilter,
)

_encode = msgspec.json.Encoder().encode
_join = b"".join
_decode_mark = msgspec.json.Decoder(EnvelopeMark).decode
_decode_envelope = msgspec.json.Decoder(Envelope).decode

LIST_TTL_MS: Final = 60_000
"""How long a client may keep a list: a minute, because it is told of changes only if it listens."""


def is_envelope(meta: Raw) -> bool:
    """Whether a `_meta` marks a modern request. Raises msgspec.ValidationError where it is no object."""
    return len(_decode_mark(meta).protocol_version) > 0


def envelope_version(meta: Raw) -> str | None:
    """The version that an envelope names, as text whatever it is; None where `meta` is no envelope.

    Raises msgspec.DecodeError where it is no object.
    """
    raw = _decode_mark(meta).protocol_version if len(meta) else Raw()
    if not len(raw):
        return None
    version = msgspec.json.decode(raw)
    return version if isinstance(version, str) else bytes(raw).decode()


def read_envelope(meta: Raw, caller: Caller) -> Context | RpcError:
    """The context of a modern request: -32602 where the envelope does not fit, -32022 for a foreign version."""
    try:
        envelope = _decode_envelope(meta)
    except msgspec.ValidationError as error:
        return RpcError(INVALID_PARAMS, f"_meta: {error}")
    if envelope.protocol_version not in MODERN:
        return unsupported_version(envelope.protocol_version)
    trace = {
        name: value
        for name in ("traceparent", "tracestate", "baggage")
        if (value := getattr(envelope, name)) is not UNSET
    }
    return Context(
        caller=caller,
        protocol_version=envelope.protocol_version,
        client_capabilities=envelope.client_capabilities,
        client_info=None if envelope.client_info is UNSET else envelope.client_info,
        progress_token=None if envelope.progress_token is UNSET else envelope.progress_token,
        log_level=None if envelope.log_level is UNSET else envelope.log_level,
        trace=trace,
    )


def unsupported_version(requested: str) -> RpcError:
    """-32022 names what is served in an envelope: the modern revisions only."""
    data = Raw(_encode({"supported": MODERN, "requested": requested}))
    return RpcError(UNSUPPORTED_VERSION, "protocol version not served here", data)


_HEAD: Final = b'{"jsonrpc":"2.0","id":'
_TEXT: Final = b',"result":{"resultType":"complete","content":[{"type":"text","text":'
_DATA: Final = b'}],"structuredContent":'
"""A tool's result that is data only, between these: id, the data as a JSON string, the data, the server's `_meta`."""


class _Cached(Struct, rename="camel"):
    ttl_ms: int
    cache_scope: str


def asked_of_client(request: ClientRequest) -> dict[str, object]:
    """An entry of `inputRequests`."""
    method, params = projection.client_request(request, elicitation_id=None)
    return {"method": method, "params": Raw(params)}


class ModernDialect:
    """How revision 2026-07-28 is written."""

    version = LATEST_MODERN

    def __init__(self, info: Implementation) -> None:
        self._meta = b'"_meta":{"%b":%b}' % (SERVER_INFO.encode(), _encode(info))
        self._end = b",%b}}" % self._meta

    # --- results ---

    def discover_result(self, catalog: Catalog, instructions: str | UnsetType) -> bytes:
        members: dict[str, object] = {
            "supportedVersions": MODERN,
            "capabilities": projection.capabilities(catalog, self.version),
        }
        if instructions is not UNSET:
            members["instructions"] = instructions
        return self._complete(_encode(members), LIST_TTL_MS, public=True)

    def render(self, id: Id, result: Result) -> bytes:
        if not isinstance(result, ToolResult):
            return self.done(id) if isinstance(result, Done) else jsonrpc.response(id, self._result(result))
        structured = result.structured
        # The hot path: data only. Joined by hand, because the data are JSON already (see benchmarks/core.py).
        if (
            structured is None
            or result.content
            or result.notes
            or result.is_error
            or result.meta is not UNSET
        ):
            return self._tool_result(id, result)
        return _join((_HEAD, id, _TEXT, _encode(structured.decode()), _DATA, structured, self._end))

    def list_result(
        self, kind: ListKind, items: list[Listed], next_cursor: str | None, *, public: bool = True
    ) -> bytes:
        listed = projection.definitions(items, self.version)
        cursor = b"" if next_cursor is None else b',"nextCursor":%b' % _encode(next_cursor)
        body = b"{%b:%b%b}" % (projection.LIST_MEMBER[kind], listed, cursor)
        return self._complete(body, LIST_TTL_MS, public)

    def input_required(self, id: Id, requests: Mapping[str, ClientRequest], state: str) -> bytes:
        asked = {key: asked_of_client(request) for key, request in requests.items()}
        body = b'{"resultType":"input_required","inputRequests":%b,"requestState":%b,%b}'
        return jsonrpc.response(id, body % (_encode(asked), _encode(state), self._meta))

    def _tool_result(self, id: Id, result: ToolResult) -> bytes:
        structured = result.structured
        blocks = _encode(projection.result_content(result, self.version))
        meta = self._meta if isinstance(result.meta, UnsetType) else self._merged(result.meta)
        data = b"" if structured is None else b'"structuredContent":%b,' % structured
        error = b'"isError":true,' if result.is_error else b""
        return b'{"jsonrpc":"2.0","id":%b,"result":{"resultType":"complete","content":%b,%b%b%b}}' % (
            id, blocks, data, error, meta,
        )  # fmt: skip

    def _merged(self, meta: Raw) -> bytes:
        """A result's own `_meta` beside the server's."""
        own = bytes(meta)[1:-1].strip()
        return self._meta[:-1] + b"," + own + b"}" if own else self._meta

    def _result(self, result: Plain) -> bytes:
        body = projection.result_body(result, self.version)
        match result:
            case ReadResult():
                return self._complete(body, result.ttl_ms, result.public)
            case ResourcePage():
                return self._complete(body, result.ttl_ms)
            case _:
                return self._complete(body)

    def _complete(self, body: bytes, ttl_ms: int | None = None, public: bool = False) -> bytes:
        """`body`, a JSON object that is not empty, with what every modern result says besides."""
        cached = b""
        if ttl_ms is not None:
            cached = _encode(_Cached(ttl_ms, "public" if public else "private"))[1:-1] + b","
        return b'{"resultType":"complete",%b,%b%b}' % (body[1:-1], cached, self._meta)

    # --- refusals ---

    def error(self, id: Id | None, error: RpcError) -> bytes:
        # "MUST NOT emit -32002": a missing resource is a bad parameter in this era.
        if error.code == RESOURCE_NOT_FOUND:
            error = RpcError(INVALID_PARAMS, error.message, error.data)
        return jsonrpc.error_response(id, error)

    def bad_arguments(self, id: Id, problem: ToolError) -> bytes:
        return self.render(id, error_result(problem))

    # --- subscriptions and requests to the client ---

    def acknowledged(self, id: Id, granted: ListenFilter) -> bytes:
        params = b'{"_meta":{"%b":%b},"notifications":%b}'
        body = params % (SUBSCRIPTION_ID.encode(), id, _encode(granted))
        return jsonrpc.notification("notifications/subscriptions/acknowledged", body)

    def changed(self, event: Event, subscription: Id) -> bytes:
        meta = b'"_meta":{"%b":%b}' % (SUBSCRIPTION_ID.encode(), subscription)
        if isinstance(event, ListChanged):
            return jsonrpc.notification(f"notifications/{event.name}/list_changed", b"{%b}" % meta)
        params = b'{%b,"uri":%b}' % (meta, _encode(event.uri))
        return jsonrpc.notification("notifications/resources/updated", params)

    def listen_ended(self, id: Id) -> bytes:
        """The result of a listen, when the server ends it: names the subscription, says who we are."""
        meta = b'%b,"%b":%b}' % (self._meta[:-1], SUBSCRIPTION_ID.encode(), id)
        return jsonrpc.response(id, b'{"resultType":"complete",%b}' % meta)

    # --- tasks ---

    def task_created(self, id: Id, task: bytes) -> bytes:
        """The answer to a call that has become a task. `task` is a JSON object."""
        return jsonrpc.response(id, b'{"resultType":"task",%b,%b}' % (task[1:-1], self._meta))

    def task_state(self, id: Id, task: bytes) -> bytes:
        return jsonrpc.response(id, self._complete(task))

    def done(self, id: Id) -> bytes:
        """A result that says nothing."""
        return jsonrpc.response(id, b'{"resultType":"complete",%b}' % self._meta)

    def task_changed(self, task: bytes, subscription: Id) -> bytes:
        params = b'{"_meta":{"%b":%b},%b}' % (SUBSCRIPTION_ID.encode(), subscription, task[1:-1])
        return jsonrpc.notification("notifications/tasks", params)
