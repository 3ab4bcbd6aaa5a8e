"""What a server offers: tools, resources, templates, prompts. May change while it runs.

Knows names, order and handlers; not how a list is written (the dialects project it) nor who is told of a
change (the session asks `revision`).
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, Protocol, TypeAlias, TypeVar

from msgspec import UNSET, Raw, Struct, UnsetType

from kvmcp.core.errors import LocalProtocolError
from kvmcp.core.mirrors import Mirror, read_mirrors
from kvmcp.core.plan import Context, Plan
from kvmcp.core.uritemplate import UriTemplate
from kvmcp.core.wire.common import Annotations, Icon, PromptArgument, ToolAnnotations

Feature: TypeAlias = Literal["tools", "resources", "prompts", "completions", "tasks"]
ListKind: TypeAlias = Literal["tools", "resources", "templates", "prompts"]

TaskSupport: TypeAlias = Literal["forbidden", "optional", "required"]
"""`required`: clients of 2026-07-28 without the tasks extension are refused. Legacy clients always wait."""

TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}\Z")
"""What every revision's specification recommends and every host takes."""


class BadArguments(Struct, frozen=True):
    """The arguments do not fit: `message` says what came and what was allowed."""

    message: str


class Parsed(Struct, frozen=True):
    """Arguments that fit, and what had to be repaired to make them fit."""

    arguments: object
    notes: tuple[str, ...] = ()


class ArgumentsType(Protocol):
    """How a tool's arguments are described and read; see `kvmcp.core.arguments`."""

    @property
    def schema(self) -> bytes:
        """`inputSchema`, as JSON text."""
        ...

    def decode(self, raw: bytes) -> object:
        """The arguments of a JSON object. Raises msgspec.ValidationError where they do not fit as they are."""
        ...

    def repair(self, raw: bytes) -> Parsed | BadArguments:
        """Read arguments that `decode` refused, mending what is unambiguous."""
        ...


class Tool(Struct, frozen=True, kw_only=True):
    """A function that a model may call. `plan` gets what `arguments.decode` gave."""

    name: str
    arguments: ArgumentsType
    plan: Callable[[Any, Context], Plan]
    """`Any`: what `arguments.decode` gives, a type of the tool's own."""
    title: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    output_schema: bytes | None = None
    annotations: ToolAnnotations | UnsetType = UNSET
    icons: tuple[Icon, ...] | UnsetType = UNSET
    meta: Raw | UnsetType = UNSET
    continuations: tuple[type[Struct], ...] = ()
    """The types of `AskClient.then` that this tool uses."""
    task_support: TaskSupport = "forbidden"
    """Whether a job that it plans may outlive the request, as a task, where the client can do with that."""
    listed: bool = True
    """Whether lists show it. A tool that is not listed can still be called by name."""


class Resource(Struct, frozen=True, kw_only=True):
    """Something to read, at a fixed URI."""

    uri: str
    name: str
    read: Callable[[str, Context], Plan]
    title: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    mime_type: str | UnsetType = UNSET
    size: int | UnsetType = UNSET
    annotations: Annotations | UnsetType = UNSET
    icons: tuple[Icon, ...] | UnsetType = UNSET
    meta: Raw | UnsetType = UNSET
    continuations: tuple[type[Struct], ...] = ()


Completer: TypeAlias = Callable[[str, str, Mapping[str, str], Context], Plan]
"""`(argument name, value so far, arguments already chosen, context) -> Plan` with a `CompletionResult`."""


class ResourceTemplate(Struct, frozen=True, kw_only=True):
    """Resources whose URIs follow an RFC 6570 template. `read` gets the URI and the variables found in it."""

    uri_template: UriTemplate
    name: str
    read: Callable[[str, Mapping[str, str], Context], Plan]
    complete: Completer | None = None
    title: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    mime_type: str | UnsetType = UNSET
    annotations: Annotations | UnsetType = UNSET
    icons: tuple[Icon, ...] | UnsetType = UNSET
    meta: Raw | UnsetType = UNSET
    continuations: tuple[type[Struct], ...] = ()


class Prompt(Struct, frozen=True, kw_only=True):
    """Messages for a person to start from. `get` receives the arguments; required ones are there."""

    name: str
    get: Callable[[Mapping[str, str], Context], Plan]
    arguments: tuple[PromptArgument, ...] = ()
    complete: Completer | None = None
    title: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    icons: tuple[Icon, ...] | UnsetType = UNSET
    meta: Raw | UnsetType = UNSET
    continuations: tuple[type[Struct], ...] = ()


Item: TypeAlias = Tool | Resource | ResourceTemplate | Prompt
ItemT = TypeVar("ItemT", Tool, Resource, ResourceTemplate, Prompt)


class _Shelf(dict[str, tuple[int, ItemT]]):
    """Items of one kind by key, each with its number: cursors name numbers, so pages survive changes."""


class Catalog:
    """Tools, resources, templates and prompts, in the order in which they were added.

    One catalog may serve many sessions. A feature is offered from its first item on, or from the start when
    named in `features`, so that an empty list that will be filled later is announced.
    """

    def __init__(self, *items: Item, features: frozenset[Feature] = frozenset()) -> None:
        self._tools: _Shelf[Tool] = _Shelf()
        self._resources: _Shelf[Resource] = _Shelf()
        self._templates: _Shelf[ResourceTemplate] = _Shelf()
        self._prompts: _Shelf[Prompt] = _Shelf()
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
        match item:
            case Tool():
                if not TOOL_NAME.match(item.name):
                    raise LocalProtocolError(
                        f"tool name {item.name!r}: 1 to 128 of A-Z a-z 0-9 _ . - are allowed"
                    )
                mirrors = read_mirrors(item.arguments.schema)
                kind = self._put("tools", "tools", self._tools, item.name, item)
                if item.task_support != "forbidden":
                    self._features.add("tasks")
                if mirrors:
                    self._mirrors[item.name] = mirrors
                return kind
            case Resource():
                return self._put("resources", "resources", self._resources, item.uri, item)
            case ResourceTemplate():
                return self._put("templates", "resources", self._templates, item.uri_template.text, item)
            case _:
                return self._put("prompts", "prompts", self._prompts, item.name, item)

    def remove(self, item: Item) -> ListKind:
        """Stop offering something. Returns the list that changed. Raises LocalProtocolError if it is not there."""
        match item:
            case Tool(name=key):
                self._mirrors.pop(key, None)
                return self._drop("tools", self._tools, key)
            case Resource(uri=key):
                return self._drop("resources", self._resources, key)
            case ResourceTemplate(uri_template=template):
                return self._drop("templates", self._templates, template.text)
            case _:
                return self._drop("prompts", self._prompts, item.name)

    def _put(self, kind: ListKind, feature: Feature, shelf: _Shelf[ItemT], key: str, item: ItemT) -> ListKind:
        if key in shelf:
            raise LocalProtocolError(f"{kind}: {key!r} is there already")
        self._numbers += 1
        shelf[key] = (self._numbers, item)
        self._features.add(feature)
        if isinstance(item, Prompt | ResourceTemplate) and item.complete is not None:
            self._features.add("completions")
        self.revision[kind] += 1
        return kind

    def _drop(self, kind: ListKind, shelf: _Shelf[ItemT], key: str) -> ListKind:
        if shelf.pop(key, None) is None:
            raise LocalProtocolError(f"{kind}: {key!r} is not there")
        self.revision[kind] += 1
        return kind

    # --- looking at it ---

    def offers(self, feature: Feature) -> bool:
        return feature in self._features

    def tool(self, name: str) -> Tool | None:
        entry = self._tools.get(name)
        return entry[1] if entry is not None else None

    @property
    def has_mirrors(self) -> bool:
        """Whether any tool's arguments are repeated in headers."""
        return bool(self._mirrors)

    def mirrors(self, name: str) -> tuple[Mirror, ...]:
        """The arguments of a tool that HTTP clients repeat in headers."""
        return self._mirrors.get(name, ())

    def prompt(self, name: str) -> Prompt | None:
        entry = self._prompts.get(name)
        return entry[1] if entry is not None else None

    def resource(self, uri: str) -> Resource | None:
        entry = self._resources.get(uri)
        return entry[1] if entry is not None else None

    def template(self, text: str) -> ResourceTemplate | None:
        """The template that is written exactly so."""
        entry = self._templates.get(text)
        return entry[1] if entry is not None else None

    def match(self, uri: str) -> tuple[ResourceTemplate, Mapping[str, str]] | None:
        """The first template that `uri` fits, with the values of its variables."""
        for _, template in self._templates.values():
            if (variables := template.uri_template.match(uri)) is not None:
                return template, variables
        return None

    def count(self, kind: ListKind) -> int:
        """How many there are, listed or not."""
        return len(self._shelf(kind))

    def _shelf(self, kind: ListKind) -> Mapping[str, tuple[int, Item]]:
        shelves: Mapping[ListKind, Mapping[str, tuple[int, Item]]] = {
            "tools": self._tools,
            "resources": self._resources,
            "templates": self._templates,
            "prompts": self._prompts,
        }
        return shelves[kind]

    def page(self, kind: ListKind, cursor: str | None, size: int) -> tuple[list[Item], str | None] | None:
        """At most `size` items behind `cursor` (None: from the start) and the next cursor, None on the last page.

        None where the cursor is not one that we gave.
        """
        after = 0
        if cursor is not None:
            if not (cursor.isascii() and cursor.isdecimal() and len(cursor) <= 18):
                return None
            after = int(cursor)
            if not 0 < after <= self._numbers:
                return None
        entries = [
            (number, item)
            for number, item in self._shelf(kind).values()
            if number > after and (not isinstance(item, Tool) or item.listed)
        ]
        chosen = entries[:size]
        following = str(chosen[-1][0]) if len(entries) > size else None
        return [item for _, item in chosen], following
