"""Errors of the core, and the error codes of the wire.

    Exception
     └─ LocalProtocolError     our own program used the core wrongly

The peer's bytes never raise: what a peer can send becomes output and state. An error *answer* is the value
`RpcError`; a tool's failure is the value `ToolError` (see `kvmcp.core.plan`), which reaches the model as a
result with `isError`.
"""

from typing import Final

from msgspec import UNSET, Raw, Struct, UnsetType


class LocalProtocolError(Exception):
    """The program that drives the core called it in a way that its state does not allow."""


PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603
RESOURCE_NOT_FOUND: Final = -32002
"""Revisions up to 2025-11-25 only; 2026-07-28 uses `INVALID_PARAMS` with `data.uri`."""
HEADER_MISMATCH: Final = -32020
MISSING_CLIENT_CAPABILITY: Final = -32021
UNSUPPORTED_VERSION: Final = -32022


_SHOWN_CHARACTERS: Final = 64


def clip(name: str) -> str:
    """A name that a peer sent, for a message: recognisable, but never repeated at length."""
    return name if len(name) <= _SHOWN_CHARACTERS else name[:_SHOWN_CHARACTERS] + "…"


class RpcError(Struct, frozen=True):
    """A JSON-RPC error object: `code`, a message for people, and optional JSON `data`."""

    code: int
    message: str
    data: Raw | UnsetType = UNSET
