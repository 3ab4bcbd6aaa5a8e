"""What can be offered: tools, resources, templates, prompts; names, handlers, and how a list describes them.

Whoever offers something makes these; `catalog` keeps them in order.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from msgspec import UNSET, Raw, Struct, UnsetType

from kvmcp.core.plan import Context, Plan
from kvmcp.core.wire.common import Annotations, Icon, PromptArgument, ToolAnnotations

if TYPE_CHECKING:
    from kvmcp.core.uritemplate import UriTemplate  # loaded by whoever has templates

TaskSupport: TypeAlias = Literal["forbidden", "optional", "required"]
"""`required`: clients of 2026-07-28 without the tasks extension are refused. Legacy clients always wait."""


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


class Watch(Struct, frozen=True):
    """What of the store a resource is made of: keys and channels, opaque to the engine as operations are."""

    keys: tuple[object, ...] = ()
    channels: tuple[object, ...] = ()


class ResourceTemplate(Struct, frozen=True, kw_only=True):
    """Resources whose URIs follow an RFC 6570 template. `read` gets the URI and the variables found in it.

    `serves` says whether a caller may name a resource at all: to others it does not exist. `watch` says where
    changes of a resource show; None where they do not, so that it cannot be subscribed to. Without the function
    whoever changes a resource publishes that (`Server.publish`). Neither may raise.
    """

    uri_template: "UriTemplate"
    name: str
    read: Callable[[str, Mapping[str, str], Context], Plan]
    serves: Callable[[Mapping[str, str], Context], bool] | None = None
    watch: Callable[[Mapping[str, str]], Watch | None] | None = None
    complete: Completer | None = None
    title: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    mime_type: str | UnsetType = UNSET
    annotations: Annotations | UnsetType = UNSET
    icons: tuple[Icon, ...] | UnsetType = UNSET
    meta: Raw | UnsetType = UNSET
    continuations: tuple[type[Struct], ...] = ()


class ResourceListing(Struct, frozen=True):
    """Resources that are in a store rather than in the catalog: `resources/list` shows them behind all others.

    `page` gets the cursor of the page before ("" for the first), how many it may give, and the context; its plan
    ends in a `ResourcePage`, or in a `Fail` for a cursor that is none of its own.
    """

    page: Callable[[str, int, Context], Plan]


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


Listed: TypeAlias = Tool | Resource | ResourceTemplate | Prompt
Item: TypeAlias = Listed | ResourceListing
