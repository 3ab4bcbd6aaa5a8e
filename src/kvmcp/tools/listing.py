"""The list of what is in the store: how much there is, sessions, channels and keys, page by page.

Knows no more than names, types and sizes; how each is read: `documents`.
"""

from collections.abc import Sequence
from typing import Final, cast

from msgspec import UNSET, Struct, UnsetType

from kvmcp.backends.ops import (
    KIND_CHANNEL,
    KIND_SESSION,
    KIND_VALUE,
    MAX_SCAN_COUNT,
    Failure,
    KeyType,
    Page,
    Scan,
    SizeOf,
    TypeOf,
)
from kvmcp.core.errors import INVALID_PARAMS, RpcError
from kvmcp.core.plan import Answer, AskBackend, Context, Fail, Plan
from kvmcp.core.uritemplate import UriTemplate
from kvmcp.core.wire.common import ResourceLink, ResourcePage
from kvmcp.tools import uris
from kvmcp.tools.documents import JSON, first_failure, space_of, store_fault

LIST_SCANS: Final = 8
"""Trips to the store for one page of the list, besides one for what is on it. A page may have few entries, or none,
although others follow."""


class _Kind(Struct, frozen=True):
    kind: str
    template: UriTemplate
    variable: str
    says: str


_KINDS: Final = (
    _Kind(KIND_SESSION, uris.SESSION, "id", "session"),
    _Kind(KIND_CHANNEL, uris.CHANNEL, "name", "channel"),
    _Kind(KIND_VALUE, uris.KEY, "key", "key"),
)
"""In the order of the list: of keys there may be many."""


class ListPage(Struct, frozen=True):
    """Collects one page: kind by kind, until it is full or enough was looked at; then what is to be said of each key.

    Within a kind names come in the store's order, which stays the same while nothing is written, sorted on a page.
    """

    size: int
    at: int
    """Which kind is being looked at."""
    links: tuple[ResourceLink, ...] = ()
    keys: tuple[str, ...] = ()
    scans: int = LIST_SCANS

    def ask(self, context: Context, cursor: str = "") -> Plan:
        left = self.size - len(self.links) - len(self.keys)
        return AskBackend(
            (Scan(space_of(_KINDS[self.at].kind, context), count=min(left, MAX_SCAN_COUNT), cursor=cursor),),
            self,
        )

    def resume(self, replies: Sequence[object], context: Context) -> Plan:
        if (failure := first_failure(replies)) is not None:
            return _bad_cursor_or_fault(failure)
        (page,) = cast("tuple[Page]", tuple(replies))
        found = self._with(page.names, context)
        at = self.at if page.cursor else self.at + 1
        is_last = at == len(_KINDS)
        is_full = self.size <= len(found.links) + len(found.keys)
        if is_last or is_full or self.scans <= 1:
            following = UNSET if is_last else f"{_KINDS[at].kind}{page.cursor}"
            return DescribeKeys(found.links, tuple(sorted(set(found.keys))), following).ask(context)
        return ListPage(self.size, at, found.links, found.keys, self.scans - 1).ask(context, page.cursor)

    def _with(self, names: Sequence[str], context: Context) -> "ListPage":
        kind = _KINDS[self.at]
        if kind.kind == KIND_VALUE:
            return ListPage(self.size, self.at, self.links, self.keys + tuple(names))
        links = [
            ResourceLink(uri, name, title=f"The {kind.says} {name}", mime_type=JSON)
            for name in sorted(names)
            if (uri := uris.uri_of(kind.template, context, **{kind.variable: name})) is not None
        ]
        return ListPage(self.size, self.at, (*self.links, *links), self.keys)


class DescribeKeys(Struct, frozen=True):
    """Sizes of plain values are their bytes; documents that are made of elements have none that is known."""

    links: tuple[ResourceLink, ...]
    keys: tuple[str, ...]
    following: str | UnsetType

    def ask(self, context: Context) -> Plan:
        if not self.keys:
            return self._answer(self.links)
        keys = list(map(uris.namespace_of(context).key, self.keys))
        return AskBackend((*map(TypeOf, keys), *map(SizeOf, keys)), self)

    def resume(self, replies: Sequence[object], context: Context) -> Plan:
        if (failure := first_failure(replies)) is not None:
            return store_fault(failure)
        count = len(self.keys)
        kinds = cast("Sequence[KeyType | None]", replies[:count])
        sizes = cast("Sequence[int | None]", replies[count:])
        links = list(self.links)
        for name, kind, size in zip(self.keys, kinds, sizes, strict=True):
            uri = uris.uri_of(uris.KEY, context, key=name)
            if uri is None or kind is None or kind == "other":  # Gone meanwhile, or of another program.
                continue
            known = UNSET if kind != "value" or size is None else size
            links.append(ResourceLink(uri, name, mime_type=JSON, size=known))
        return self._answer(tuple(links))

    def _answer(self, links: tuple[ResourceLink, ...]) -> Answer:
        return Answer(ResourcePage(links, self.following))


def list_page(cursor: str, size: int, context: Context) -> Plan:
    """A page of what there is: how much there is, then sessions, channels and keys."""
    if not cursor:
        uri = uris.uri_of(uris.STATS, context)
        assert uri is not None, "it has no name that could be empty"
        stats = ResourceLink(uri, "stats", title="How much there is", mime_type=JSON)
        return ListPage(max(2, size), 0, (stats,)).ask(context)
    kinds = [kind.kind for kind in _KINDS]
    if cursor[0] not in kinds:
        return _BAD_CURSOR
    return ListPage(size, kinds.index(cursor[0])).ask(context, cursor[1:])


_BAD_CURSOR: Final = Fail(
    RpcError(INVALID_PARAMS, "cursor is not a nextCursor of this list; leave it out to start again")
)


def _bad_cursor_or_fault(failure: Failure) -> Fail:
    """A store that refuses a cursor says so in words for the same reader."""
    return _BAD_CURSOR if "cursor" in failure.message else store_fault(failure)
