"""The requests of the protocol by name, for both eras, and the walk through the pages of a list."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Final

from msgspec import UNSET, Raw

from kvmcp.core.catalog import ListKind
from kvmcp.core.client.calls import text
from kvmcp.core.commands import Ticket
from kvmcp.core.wire.params import PromptReference, ResourceReference
from kvmcp.core.wire.results import Page, read

LIST_METHOD: Final[Mapping[ListKind, str]] = {
    "tools": "tools/list",
    "resources": "resources/list",
    "templates": "resources/templates/list",
    "prompts": "prompts/list",
}


class Features(ABC):
    """Requests by name. All raise what `request` raises."""

    @abstractmethod
    def request(
        self, method: str, params: bytes, now: float, *, progress: bool = False, timeout: float | None = None
    ) -> Ticket:
        """Send a request; see `ClientSession.request`."""

    def call_tool(
        self,
        name: str,
        arguments: bytes,
        now: float,
        *,
        progress: bool = False,
        timeout: float | None = None,
    ) -> Ticket:
        """`arguments` is the JSON text of an object."""
        params = text({"name": name, "arguments": Raw(arguments)})
        return self.request("tools/call", params, now, progress=progress, timeout=timeout)

    def list_items(self, kind: ListKind, now: float, cursor: str | None = None) -> Ticket:
        """One page of a list: the first one, or that of a cursor (see `Pages`)."""
        return self.request(LIST_METHOD[kind], text({} if cursor is None else {"cursor": cursor}), now)

    def list_tools(self, now: float, cursor: str | None = None) -> Ticket:
        return self.list_items("tools", now, cursor)

    def list_resources(self, now: float, cursor: str | None = None) -> Ticket:
        return self.list_items("resources", now, cursor)

    def list_templates(self, now: float, cursor: str | None = None) -> Ticket:
        return self.list_items("templates", now, cursor)

    def list_prompts(self, now: float, cursor: str | None = None) -> Ticket:
        return self.list_items("prompts", now, cursor)

    def read_resource(self, uri: str, now: float) -> Ticket:
        return self.request("resources/read", text({"uri": uri}), now)

    def get_prompt(self, name: str, arguments: Mapping[str, str], now: float) -> Ticket:
        return self.request("prompts/get", text({"name": name, "arguments": arguments}), now)

    def complete(
        self,
        reference: PromptReference | ResourceReference,
        argument: str,
        value: str,
        now: float,
        chosen: Mapping[str, str] | None = None,
    ) -> Ticket:
        """Suggestions for an argument; `chosen` are the arguments that are known (since 2025-06-18)."""
        params: dict[str, object] = {"ref": reference, "argument": {"name": argument, "value": value}}
        if chosen:
            params["context"] = {"arguments": chosen}
        return self.request("completion/complete", text(params), now)

    def ping(self, now: float) -> Ticket:
        """Legacy only: the modern era has no ping."""
        return self.request("ping", b"{}", now)

    def subscribe(self, uri: str, now: float) -> Ticket:
        """Legacy only: the modern era has `listen`."""
        return self.request("resources/subscribe", text({"uri": uri}), now)

    def unsubscribe(self, uri: str, now: float) -> Ticket:
        """Legacy only."""
        return self.request("resources/unsubscribe", text({"uri": uri}), now)


class Pages:
    """Finds the way through a list: where to go on after each page, and when to stop."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: set[str] = set()

    def next(self, page: Raw) -> str | None:
        """The cursor of the next page. None where there is none, it came before, or the limit is reached."""
        read_page = read(page, Page)
        cursor = UNSET if read_page is None else read_page.next_cursor
        if cursor is UNSET or cursor in self._seen or len(self._seen) + 1 >= self._limit:
            return None
        self._seen.add(cursor)
        return cursor
