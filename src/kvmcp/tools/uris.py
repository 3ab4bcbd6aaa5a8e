"""The URIs of what is in the store, in both directions, and what of the store each stands for.

    kv://{namespace}/keys/{key}                  what a key holds
    kv://{namespace}/keys/{key}/fields/{field}   one field of a hash
    kv://{namespace}/sessions/{id}               a session
    kv://{namespace}/channels/{name}             a channel and its last messages
    kv://{namespace}/stats                       how much there is

Names are percent-encoded but for `A-Z a-z 0-9 . _ ~ -`; read back, every spelling of a name counts. A caller can name
its own namespace only: everybody else's is as if it did not exist.
"""

from collections.abc import Mapping
from typing import Final

from msgspec.structs import replace

from kvmcp.backends.ops import (
    KIND_CHANNEL,
    KIND_SESSION,
    KIND_VALUE,
    MAX_FIELD_BYTES,
    MAX_KEY_BYTES,
    Namespace,
    is_namespace,
)
from kvmcp.core.items import Watch
from kvmcp.core.plan import Context
from kvmcp.core.uritemplate import UriTemplate
from kvmcp.core.wire.common import ResourceLink
from kvmcp.tools.room import LinkKind

KEY: Final = UriTemplate("kv://{namespace}/keys/{key}")
FIELD: Final = UriTemplate("kv://{namespace}/keys/{key}/fields/{field}")
SESSION: Final = UriTemplate("kv://{namespace}/sessions/{id}")
CHANNEL: Final = UriTemplate("kv://{namespace}/channels/{name}")
STATS: Final = UriTemplate("kv://{namespace}/stats")

_LIMITS: Final[Mapping[str, int]] = {
    "key": MAX_KEY_BYTES,
    "field": MAX_FIELD_BYTES,
    "id": MAX_KEY_BYTES,
    "name": MAX_KEY_BYTES,
}
"""Bytes of UTF-8 by variable."""

_LINKED: Final[Mapping[LinkKind, tuple[UriTemplate, str]]] = {
    "key": (KEY, "key"),
    "session": (SESSION, "id"),
    "channel": (CHANNEL, "name"),
}


def namespace_of(context: Context) -> Namespace:
    """Where a request runs: whatever a URI says, nothing else is ever asked for."""
    return Namespace(context.caller.namespace)


def uri_of(template: UriTemplate, context: Context, **names: str) -> str | None:
    """The URI of something of the caller's; None where no URI can name it (an empty name)."""
    if not all(names.values()):
        return None
    return template.expand({"namespace": context.caller.namespace, **names})


def link(kind: LinkKind, context: Context, name: str, size: int | None = None) -> ResourceLink:
    """Where something of the caller's is to be read that is too long for a result."""
    template, variable = _LINKED[kind]
    uri = uri_of(template, context, **{variable: name})
    assert uri is not None, "nothing that was found has an empty name"
    found = ResourceLink(uri, name, mime_type="application/json")
    return found if size is None else replace(found, size=size)


def serves(variables: Mapping[str, str], context: Context) -> bool:
    """Whether a caller may name this at all: it is in its own namespace, and can be there."""
    return (
        is_namespace(context.caller.namespace)
        and variables["namespace"] == context.caller.namespace
        and all(
            len(value.encode()) <= _LIMITS[name] for name, value in variables.items() if name != "namespace"
        )
    )


def is_name(text: str) -> bool:
    """Whether something in the store can be called so."""
    try:
        return 0 < len(text.encode()) <= MAX_KEY_BYTES
    except UnicodeEncodeError:  # a lone surrogate
        return False


def watch_key(variables: Mapping[str, str]) -> Watch:
    """A key, and a field with the hash that it is in: stores tell of keys only."""
    return Watch(keys=(Namespace(variables["namespace"]).key(variables["key"], KIND_VALUE),))


def watch_session(variables: Mapping[str, str]) -> Watch:
    return Watch(keys=(Namespace(variables["namespace"]).key(variables["id"], KIND_SESSION),))


def watch_channel(variables: Mapping[str, str]) -> Watch:
    return Watch(channels=(Namespace(variables["namespace"]).key(variables["name"], KIND_CHANNEL),))


def watch_nothing(variables: Mapping[str, str]) -> None:
    """No store tells how much there is: this cannot be subscribed to."""
