"""Names to choose from while somebody types: keys, fields, sessions and channels that begin so."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias, cast

from msgspec import UNSET, Struct

from kvmcp.backends.ops import (
    KIND_CHANNEL,
    KIND_LEASE,
    KIND_SESSION,
    KIND_VALUE,
    MAX_PATTERN_BYTES,
    SUFFIX_LOG,
    Failure,
    HashGetAll,
    Page,
    Scan,
)
from kvmcp.core.errors import INTERNAL_ERROR, RpcError
from kvmcp.core.plan import Answer, AskBackend, Context, Fail, Plan
from kvmcp.core.wire.common import CompletionResult
from kvmcp.tools.uris import is_name, namespace_of

SUGGESTIONS: Final = 100
"""What the protocol allows at most."""
SUGGESTION_SCANS: Final = 8
"""Trips to the store for one suggestion: somebody is typing, and waits."""

NONE: Final = Answer(CompletionResult(()))

_SPECIAL: Final = re.compile(r"[*?\[\]\\]")


def beginning_with(prefix: str) -> str | None:
    """The pattern of names that begin so; None where no pattern can say it: it is too long, or no text."""
    pattern = _SPECIAL.sub(r"\\\g<0>", prefix) + "*"
    try:
        return pattern if len(pattern.encode()) <= MAX_PATTERN_BYTES else None
    except UnicodeEncodeError:  # a lone surrogate, which no name has
        return None


class CollectSuggestions(Struct, frozen=True):
    """Looks on until there are enough names, or enough was looked at."""

    space: str
    pattern: str
    names: tuple[str, ...] = ()
    scans: int = SUGGESTION_SCANS

    def ask(self, cursor: str = "") -> AskBackend:
        count = SUGGESTIONS - len(self.names)
        return AskBackend((Scan(self.space, self.pattern, count, cursor),), self)

    def resume(self, replies: Sequence[object], context: Context) -> Plan:
        (page,) = cast("Sequence[Page | Failure]", replies)
        if isinstance(page, Failure):
            return Fail(RpcError(INTERNAL_ERROR, f"{page.code.value}: {page.message}"))
        names = tuple(dict.fromkeys((*self.names, *page.names)))
        if page.cursor and len(names) < SUGGESTIONS and self.scans > 1:
            return CollectSuggestions(self.space, self.pattern, names, self.scans - 1).ask(page.cursor)
        return _suggest(names, more=bool(page.cursor))


def _suggest(names: Sequence[str], *, more: bool = False) -> Answer:
    more = more or len(names) > SUGGESTIONS
    total = UNSET if more else len(names)
    return Answer(CompletionResult(tuple(sorted(names)[:SUGGESTIONS]), total, more))


def _names(space: str, prefix: str) -> Plan:
    pattern = beginning_with(prefix)
    return NONE if pattern is None else CollectSuggestions(space, pattern).ask()


def keys(prefix: str, context: Context) -> Plan:
    return _names(namespace_of(context).space(KIND_VALUE), prefix)


def sessions(prefix: str, context: Context) -> Plan:
    return _names(namespace_of(context).space(KIND_SESSION), prefix)


def leases(prefix: str, context: Context) -> Plan:
    return _names(namespace_of(context).space(KIND_LEASE), prefix)


def channels(prefix: str, context: Context) -> Plan:
    """Those on which something was published and is kept."""
    return _names(namespace_of(context).space(KIND_CHANNEL) + SUFFIX_LOG, prefix)


class SuggestFields(Struct, frozen=True):
    prefix: str

    def resume(self, replies: Sequence[object], context: Context) -> Plan:
        (fields,) = cast("Sequence[tuple[tuple[str, bytes], ...] | Failure]", replies)
        if isinstance(fields, Failure):  # No hash, or a very large one: there is nothing to suggest.
            return NONE
        return _suggest([name for name, _ in fields if name.startswith(self.prefix)])


def fields(key: str | None, prefix: str, context: Context) -> Plan:
    """Of the hash that was chosen before; nothing while none was."""
    if key is None or not is_name(key):
        return NONE
    return AskBackend((HashGetAll(namespace_of(context).key(key)),), SuggestFields(prefix))


_Suggest: TypeAlias = Callable[[str, Context], Plan]

_BY_VARIABLE: Final[Mapping[str, _Suggest]] = {"key": keys, "id": sessions, "name": channels}


def complete_resource(name: str, value: str, chosen: Mapping[str, str], context: Context) -> Plan:
    """A variable of a URI template. Whoever has chosen another namespace than its own is shown nothing."""
    own = context.caller.namespace
    if name == "namespace":
        return _suggest([own] if own.startswith(value) else [])
    if chosen.get("namespace", own) != own:
        return NONE
    if name == "field":
        return fields(chosen.get("key"), value, context)
    return _BY_VARIABLE[name](value, context)
