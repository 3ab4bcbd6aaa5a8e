"""The legacy dialect: revisions 2024-11-05 to 2025-11-25, a conversation opened by `initialize`.

Same names as `kvmcp.core.modern`: how results, lists and refusals are written, and which requests exist.
"""

from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from kvmcp.core import jsonrpc, projection
from kvmcp.core.catalog import Catalog, ListKind
from kvmcp.core.errors import INVALID_PARAMS, RpcError
from kvmcp.core.items import Listed
from kvmcp.core.jsonrpc import Id
from kvmcp.core.plan import ToolError, error_result
from kvmcp.core.subscriptions import Event, ListChanged
from kvmcp.core.versions import LegacyVersion
from kvmcp.core.wire.common import (
    ClientRequest,
    Done,
    Implementation,
    LogLevel,
    Result,
    ToolResult,
)

_encode = msgspec.json.Encoder().encode
_join = b"".join

_HEAD: Final = b'{"jsonrpc":"2.0","id":'
_TEXT: Final = b',"result":{"content":[{"type":"text","text":'
_DATA: Final = b'}],"structuredContent":'
_END: Final = b"}}"
_NO_DATA: Final = b"}]}}"
"""A tool's result that is data only, between these: id, the data as a JSON string, the data."""

_STRUCTURED: Final = "2025-06-18"
_ARGUMENT_ERRORS: Final = "2025-11-25"
"""Since then arguments that do not fit are a tool's result, before that a protocol error (SEP-1303)."""

DEFAULT_LOG_LEVEL: Final[LogLevel] = "warning"
"""Until the client sets a level the server may choose; below warning is noise nobody asked for."""


class _InitializeResult(Struct, omit_defaults=True, rename="camel"):
    protocol_version: str
    capabilities: Struct
    server_info: Implementation
    instructions: str | UnsetType = UNSET


class LegacyDialect:
    """How one negotiated legacy revision is written."""

    def __init__(self, version: LegacyVersion) -> None:
        self.version: LegacyVersion = version
        self._structured = version >= _STRUCTURED

    # --- results ---

    def initialize_result(
        self, catalog: Catalog, info: Implementation, instructions: str | UnsetType
    ) -> bytes:
        return _encode(
            _InitializeResult(
                self.version,
                projection.capabilities(catalog, self.version),
                projection.trim(info, self.version),
                instructions,
            )
        )

    def render(self, id: Id, result: Result) -> bytes:
        if not isinstance(result, ToolResult):
            if isinstance(result, Done):
                return jsonrpc.response(id, b"{}")
            return jsonrpc.response(id, projection.result_body(result, self.version))
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
        text = _encode(structured.decode())
        if self._structured and structured[:1] == b"{":
            return _join((_HEAD, id, _TEXT, text, _DATA, structured, _END))
        return _join((_HEAD, id, _TEXT, text, _NO_DATA))

    def list_result(
        self, kind: ListKind, items: list[Listed], next_cursor: str | None, *, public: bool = True
    ) -> bytes:
        """`public` is for the era that says how a result may be kept."""
        listed = projection.definitions(items, self.version)
        cursor = b"" if next_cursor is None else b',"nextCursor":%b' % _encode(next_cursor)
        return b"{%b:%b%b}" % (projection.LIST_MEMBER[kind], listed, cursor)

    def _tool_result(self, id: Id, result: ToolResult) -> bytes:
        structured = result.structured
        data = b""
        if structured is not None and self._structured and structured[:1] == b"{":
            data = b',"structuredContent":%b' % structured
        blocks = _encode(projection.result_content(result, self.version))
        error = b',"isError":true' if result.is_error else b""
        meta = b"" if isinstance(result.meta, UnsetType) else b',"_meta":%b' % bytes(result.meta)
        return b'{"jsonrpc":"2.0","id":%b,"result":{"content":%b%b%b%b}}' % (id, blocks, data, error, meta)

    # --- refusals ---

    def error(self, id: Id | None, error: RpcError) -> bytes:
        return jsonrpc.error_response(id, error)

    def bad_arguments(self, id: Id, problem: ToolError) -> bytes:
        if self.version >= _ARGUMENT_ERRORS:
            return self.render(id, error_result(problem))
        return self.error(id, RpcError(INVALID_PARAMS, problem.message, Raw(_encode(problem))))

    # --- notifications and requests to the client ---

    def changed(self, event: Event) -> bytes:
        if isinstance(event, ListChanged):
            return jsonrpc.notification(f"notifications/{event.name}/list_changed")
        return jsonrpc.notification("notifications/resources/updated", _encode({"uri": event.uri}))

    def ask(self, request: ClientRequest, token: str) -> tuple[str, bytes]:
        """Method and params of a request to the client. `token` names a URL elicitation, unguessably."""
        return projection.client_request(request, elicitation_id=token)
