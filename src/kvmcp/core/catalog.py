"""What a server offers: tools, resources, templates, prompts. May change while it runs.

Knows names and order of `items`; not how a list is written (the dialects project it) nor who is told of a
change (the session asks `revision`).
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Literal, TypeAlias, TypeVar

from kvmcp.core.errors import LocalProtocolError
from kvmcp.core.items import Item, Listed, Prompt, Resource, ResourceListing, ResourceTemplate, Tool, Watch
from kvmcp.core.mirrors import Mirror, read_mirrors
from kvmcp.core.plan import Context

Feature: TypeAlias = Literal["tools", "resources", "prompts", "completions", "tasks"]
ListKind: TypeAlias = Literal["tools", "resources", "templates", "prompts"]

TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}\Z")
"""What every revision's specification recommends and every host takes."""

ItemT = TypeVar("ItemT", Tool, Resource, ResourceTemplate, Prompt)

LISTING: Final = "."
"""What cursors of a `ResourceListing` begin with, as clients see them; no other cursor does."""


class Shelf(dict[str, tuple[int, ItemT]]):
    """Items of one kind by key, each with its number: cursors name numbers, so pages survive changes."""


class _Others:
    """What is offered besides tools."""

    def __init__(self) -> None:
        self.resources: Shelf[Resource] = Shelf()
        self.templates: Shelf[ResourceTemplate] = Shelf()
        self.prompts: Shelf[Prompt] = Shelf()
        self.listing: ResourceListing | None = None


class Catalog:
    """Tools, resources, templates and prompts, in the order in which they were added.

    One catalog may serve many sessions. A feature is offered from its first item on, or from the start when
    named in `features`, so that an empty list that will be filled later is announced. What is not a tool can be
    deferred: a server then starts without what many of its clients never look at.
    """

    def __init__(self, *items: Item, features: frozenset[Feature] = frozenset()) -> None:
        self.tools: Shelf[Tool] = Shelf()
        """By name. Only `add` and `remove` change it."""
        self._others = _Others()
        self._deferred: list[Callable[[], Iterable[Item]]] = []
        self._features: set[Feature] = set(features)
        self._mirrors: dict[str, tuple[Mirror, ...]] = {}
        self._numbers = 0
        self.revision: dict[ListKind, int] = {"tools": 0, "resources": 0, "templates": 0, "prompts": 0}
        """How often each list has changed."""
        for item in items:
            self.add(item)

    # --- changing it ---

    def add(self, item: Item) -> ListKind:
        """Offer one more thing. Returns the list that changed, to be published.

        Raises LocalProtocolError where the name or URI is taken or cannot be used, and where a tool's schema
        has an `x-mcp-header` that clients would refuse it for.
        """
        if not isinstance(item, Tool):
            self._make()
        kind = self._put(item)
        self.revision[kind] += 1
        return kind

    def defer(self, features: frozenset[Feature], make: Callable[[], Iterable[Item]]) -> None:
        """Offer resources, templates or prompts that `make` gives once, when somebody first looks at any of them.

        `features` are theirs, announced from now on. They are in lists where they would be had they been added now,
        and must be such as `add` takes.
        """
        self._features |= features
        self._deferred.append(make)

    def remove(self, item: Item) -> ListKind:
        """Stop offering something. Returns the list that changed. Raises LocalProtocolError if it is not there."""
        match item:
            case Tool(name=key):
                self._mirrors.pop(key, None)
                return self._drop("tools", self.tools, key)
            case Resource(uri=key):
                return self._drop("resources", self._made.resources, key)
            case ResourceTemplate(uri_template=template):
                return self._drop("templates", self._made.templates, template.text)
            case ResourceListing():
                return self._unset_listing(item)
            case _:
                return self._drop("prompts", self._made.prompts, item.name)

    def _make(self) -> None:
        """Put what was deferred. Nobody has seen a list without it, so no list has changed."""
        while self._deferred:
            for item in self._deferred.pop(0)():
                self._put(item)

    def _put(self, item: Item) -> ListKind:
        others = self._others
        match item:
            case Tool():
                return self._put_tool(item)
            case Resource():
                return self._shelve("resources", "resources", others.resources, item.uri, item)
            case ResourceTemplate():
                return self._shelve("templates", "resources", others.templates, item.uri_template.text, item)
            case ResourceListing():
                return self._set_listing(item)
            case _:
                return self._shelve("prompts", "prompts", others.prompts, item.name, item)

    def _put_tool(self, tool: Tool) -> ListKind:
        if not TOOL_NAME.match(tool.name):
            raise LocalProtocolError(f"tool name {tool.name!r}: 1 to 128 of A-Z a-z 0-9 _ . - are allowed")
        mirrors = read_mirrors(tool.arguments.schema)
        kind = self._shelve("tools", "tools", self.tools, tool.name, tool)
        if tool.task_support != "forbidden":
            self._features.add("tasks")
        if mirrors:
            self._mirrors[tool.name] = mirrors
        return kind

    def _shelve(
        self, kind: ListKind, feature: Feature, shelf: Shelf[ItemT], key: str, item: ItemT
    ) -> ListKind:
        if key in shelf:
            raise LocalProtocolError(f"{kind}: {key!r} is there already")
        self._numbers += 1
        shelf[key] = (self._numbers, item)
        self._features.add(feature)
        if isinstance(item, Prompt | ResourceTemplate) and item.complete is not None:
            self._features.add("completions")
        return kind

    def _drop(self, kind: ListKind, shelf: Shelf[ItemT], key: str) -> ListKind:
        if shelf.pop(key, None) is None:
            raise LocalProtocolError(f"{kind}: {key!r} is not there")
        self.revision[kind] += 1
        return kind

    def _set_listing(self, listing: ResourceListing) -> ListKind:
        if self._others.listing is not None:
            raise LocalProtocolError("resources: there is a listing already")
        self._others.listing = listing
        self._features.add("resources")
        return "resources"

    def _unset_listing(self, listing: ResourceListing) -> ListKind:
        if self._made.listing != listing:
            raise LocalProtocolError("resources: this listing is not there")
        self._made.listing = None
        self.revision["resources"] += 1
        return "resources"

    # --- looking at it ---

    @property
    def _made(self) -> _Others:
        """What is offered besides tools, with all that was deferred."""
        self._make()
        return self._others

    @property
    def listing(self) -> ResourceListing | None:
        """At most one; put several together in its function."""
        return self._made.listing

    def offers(self, feature: Feature) -> bool:
        return feature in self._features

    def tool(self, name: str) -> Tool | None:
        entry = self.tools.get(name)
        return entry[1] if entry is not None else None

    @property
    def has_mirrors(self) -> bool:
        """Whether any tool's arguments are repeated in headers."""
        return bool(self._mirrors)

    def mirrors(self, name: str) -> tuple[Mirror, ...]:
        """The arguments of a tool that HTTP clients repeat in headers."""
        return self._mirrors.get(name, ())

    def prompt(self, name: str) -> Prompt | None:
        entry = self._made.prompts.get(name)
        return entry[1] if entry is not None else None

    def resource(self, uri: str) -> Resource | None:
        entry = self._made.resources.get(uri)
        return entry[1] if entry is not None else None

    def template(self, text: str) -> ResourceTemplate | None:
        """The template that is written exactly so."""
        entry = self._made.templates.get(text)
        return entry[1] if entry is not None else None

    def match(self, uri: str) -> tuple[ResourceTemplate, Mapping[str, str]] | None:
        """The first template that `uri` fits, with the values of its variables."""
        for _, template in self._made.templates.values():
            if (variables := template.uri_template.match(uri)) is not None:
                return template, variables
        return None

    def serving(self, uri: str, context: Context) -> tuple[ResourceTemplate, Mapping[str, str]] | None:
        """As `match`, among the templates that serve this caller."""
        for _, template in self._made.templates.values():
            variables = template.uri_template.match(uri)
            if variables is not None and (template.serves is None or template.serves(variables, context)):
                return template, variables
        return None

    def can_watch(self, uri: str, context: Context) -> bool:
        """Whether a caller can be told of changes of a resource."""
        if uri in self._made.resources:
            return True
        if (found := self.serving(uri, context)) is None:
            return False
        template, variables = found
        return template.watch is None or template.watch(variables) is not None

    def watch_of(self, uri: str) -> Watch | None:
        """Where changes of a resource show, for one that somebody may watch; None where they are published."""
        found = None if uri in self._made.resources else self.match(uri)
        return None if found is None or found[0].watch is None else found[0].watch(found[1])

    def count(self, kind: ListKind) -> int:
        """How many there are, listed or not."""
        return len(self._shelf(kind))

    def _shelf(self, kind: ListKind) -> Mapping[str, tuple[int, Listed]]:
        if kind == "tools":
            return self.tools
        made = self._made
        shelves: Mapping[ListKind, Mapping[str, tuple[int, Listed]]] = {
            "resources": made.resources,
            "templates": made.templates,
            "prompts": made.prompts,
        }
        return shelves[kind]

    def listing_cursor(self, cursor: str | None) -> str | None:
        """The listing's own cursor where a page of resources is one of its pages; None where it is not."""
        if self.listing is None:
            return None
        if cursor is None:
            return None if self._made.resources else ""
        return cursor.removeprefix(LISTING) if cursor.startswith(LISTING) else None

    def page(self, kind: ListKind, cursor: str | None, size: int) -> tuple[list[Listed], str | None] | None:
        """At most `size` items behind `cursor` (None: from the start) and the next cursor, None on the last page.

        None where the cursor is not one that we gave. What a listing has comes behind, see `listing_cursor`.
        """
        shelf = self._shelf(kind)
        after = 0
        if cursor is not None:
            if not (cursor.isascii() and cursor.isdecimal() and len(cursor) <= 18):
                return None
            after = int(cursor)
            if not 0 < after <= self._numbers:
                return None
        entries = [
            (number, item)
            for number, item in shelf.values()
            if number > after and (not isinstance(item, Tool) or item.listed)
        ]
        chosen = entries[:size]
        following = str(chosen[-1][0]) if len(entries) > size else None
        if following is None and kind == "resources" and self.listing is not None:
            following = LISTING
        return [item for _, item in chosen], following
