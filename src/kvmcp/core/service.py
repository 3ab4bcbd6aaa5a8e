"""What all sessions of one server share: the catalog, who we are, the limits, and what can be prepared once."""

from collections.abc import Callable
from typing import Final, TypeAlias

from msgspec import UNSET, Raw, UnsetType

from kvmcp.core.catalog import Catalog, ListKind
from kvmcp.core.errors import RpcError
from kvmcp.core.legacy import LegacyDialect
from kvmcp.core.limits import Limits
from kvmcp.core.modern import ModernDialect
from kvmcp.core.plan import Caller
from kvmcp.core.request_state import Sealer
from kvmcp.core.subscriptions import Watched
from kvmcp.core.versions import LEGACY, LegacyVersion
from kvmcp.core.wire.common import Implementation

Dialect: TypeAlias = LegacyDialect | ModernDialect

CallerOf: TypeAlias = Callable[[Caller, Raw], Caller | RpcError]
"""`(caller as the edge found it, the request's _meta, perhaps empty) -> caller`, or why it is refused. Pure."""

_CACHED_PAGES: Final = 64
"""Rendered list pages that are kept: five revisions of four lists, and some pages more."""


class Service:
    """One server, without any connection.

    `token` gives an unguessable string (at least 128 bits) at each call; `sealer` keeps request states. `watched`
    is shared by all services of one server. With `caller_of` each request says itself on whose behalf it comes.
    """

    def __init__(
        self,
        catalog: Catalog,
        info: Implementation,
        *,
        sealer: Sealer,
        token: Callable[[], str],
        instructions: str | UnsetType = UNSET,
        limits: Limits | None = None,
        watched: Watched | None = None,
        caller_of: CallerOf | None = None,
    ) -> None:
        self.catalog = catalog
        self.info = info
        self.instructions = instructions
        self.limits = limits if limits is not None else Limits()
        self.sealer = sealer
        self.token = token
        self.watched = watched if watched is not None else Watched()
        self.caller_of = caller_of
        self.modern = ModernDialect(info)
        self._legacy = {version: LegacyDialect(version) for version in LEGACY}
        self._pages: dict[tuple[ListKind, str, str | None], tuple[int, bytes]] = {}

    def legacy(self, version: LegacyVersion) -> LegacyDialect:
        return self._legacy[version]

    def list_result(self, dialect: Dialect, kind: ListKind, cursor: str | None) -> bytes | None:
        """One page of a list in a dialect; None where the cursor is not one of ours."""
        key = (kind, dialect.version, cursor)
        revision = self.catalog.revision[kind]
        cached = self._pages.get(key)
        if cached is not None and cached[0] == revision:
            return cached[1]
        page = self.catalog.page(kind, cursor, self.limits.list_page)
        if page is None:
            return None
        if len(self._pages) >= _CACHED_PAGES:
            self._pages.clear()
        # "Same scope on all pages of one listing": what a listing adds is the caller's own.
        public = kind != "resources" or self.catalog.listing is None
        rendered = dialect.list_result(kind, *page, public=public)
        self._pages[key] = (revision, rendered)
        return rendered
