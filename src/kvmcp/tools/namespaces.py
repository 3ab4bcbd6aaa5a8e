"""In whose namespace a request runs, where the request itself says so: a header, or a member of its `_meta`.

A namespace is the wall between tenants, so whoever may choose it can be anybody. A header is to be set by a proxy
that knows the client, and takes off what the client sent; `_meta` is written by the client itself, so it is for
callers that are trusted with every namespace. A request that names none, or none that can be, is refused: there is no
namespace to fall back to.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec
from msgspec import Raw, Struct

from kvmcp.backends.ops import MAX_NAMESPACE, is_namespace
from kvmcp.core.errors import INVALID_PARAMS, RpcError
from kvmcp.core.plan import Caller

NOBODY: Final = ""
"""The namespace of a caller that has not said which: no key is in it, for no namespace has this name."""

ALLOWED: Final = f"1 to {MAX_NAMESPACE} of A-Z a-z 0-9 . _ -"
MAX_SOURCE_NAME: Final = 128
"""Characters of a header's or a member's name. Real ones have below 50."""

_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
"""RFC 9110, section 5.6.2."""
_LABEL: Final = r"[A-Za-z](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_META_KEY: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*/)?[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?\Z")
"""MCP, general fields, `_meta`."""
_RESERVED_LABELS: Final = ("modelcontextprotocol", "mcp")
_TAKEN: Final = frozenset({"progressToken", "traceparent", "tracestate", "baggage"})
_TAKEN_HEADERS: Final = frozenset({
    "accept", "authorization", "connection", "content-length", "content-type", "cookie", "host",
    "last-event-id", "mcp-method", "mcp-name", "mcp-protocol-version", "mcp-session-id", "origin",
    "transfer-encoding",
})  # fmt: skip
"""Headers that say something else already."""

_decode_members = msgspec.json.Decoder(dict[str, Raw]).decode
_decode_text = msgspec.json.Decoder(str).decode


class NamespaceSource(Struct, frozen=True):
    """Where requests say their namespace. `name` of a header is in lower case."""

    kind: Literal["header", "meta"]
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"

    def of_headers(self, headers: Iterable[tuple[bytes, bytes]]) -> str | RpcError:
        """The namespace that a request's headers name; for a `header` source."""
        wanted = self.name.encode()
        values = [value for name, value in headers if name.lower() == wanted]
        if not values:
            return _refusal(f"the header {self.name}, which names the namespace, is missing")
        if len(values) > 1:  # A proxy's and the client's own: who is to be believed?
            return _refusal(f"the header {self.name}, which names the namespace, is there more than once")
        namespace = values[0].strip(b" \t").decode("latin-1")
        if not is_namespace(namespace):
            return _refusal(f"the header {self.name} names no namespace: {ALLOWED} are allowed")
        return namespace

    def of_meta(self, caller: Caller, meta: Raw) -> Caller | RpcError:
        """The caller with the namespace that a request's `_meta` (perhaps empty) names; for a `meta` source."""
        try:
            raw = _decode_members(meta).get(self.name) if len(meta) else None
            namespace = None if raw is None else _decode_text(raw)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _refusal(f"{self.name} in _meta names no namespace: a string is allowed")
        if namespace is None:
            return _refusal(f"_meta lacks {self.name}, which names the namespace of the request")
        if not is_namespace(namespace):
            return _refusal(f"{self.name} in _meta names no namespace: {ALLOWED} are allowed")
        return Caller(caller.principal, namespace, caller.scopes)

    def fault_with(self, transports: Sequence[str]) -> str | None:
        """Why it cannot be used with these transports (`NAME` or `NAME:PORT`)."""
        without = [name for name in transports if name.partition(":")[0] not in ("http", "websocket")]
        if self.kind == "meta" or not without:
            return None
        return f"namespaces from {self} need http or websocket; {without[0]} has no headers"


def _refusal(problem: str) -> RpcError:
    return RpcError(INVALID_PARAMS, problem)


def parse_source(text: str) -> NamespaceSource:
    """Reads `header:NAME` or `meta:KEY`. Raises ValueError that says what is wrong with it."""
    kind, _, name = text.strip().partition(":")
    if len(name) > MAX_SOURCE_NAME:
        raise ValueError(f"a name of {len(name)} characters, limit is {MAX_SOURCE_NAME}")
    match kind.lower():
        case "header":
            return _header(name.lower())
        case "meta":
            return _meta(name)
        case _:
            raise ValueError("neither header:NAME nor meta:KEY")


def _header(name: str) -> NamespaceSource:
    if not _TOKEN.match(name):
        raise ValueError("a text that is no header's name")
    if name in _TAKEN_HEADERS or name.startswith("mcp-param-"):
        raise ValueError(f"{name}, which says something else already")
    return NamespaceSource("header", name)


def _meta(key: str) -> NamespaceSource:
    if not _META_KEY.match(key):
        raise ValueError("a text that is no key of _meta")
    prefix, slash, _ = key.rpartition("/")
    labels = prefix.split(".")
    if key in _TAKEN or (slash and len(labels) > 1 and labels[1] in _RESERVED_LABELS):
        raise ValueError(f"{key}, which the protocol keeps for itself")
    return NamespaceSource("meta", key)
