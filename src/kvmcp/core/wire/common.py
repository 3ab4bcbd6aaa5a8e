"""Types that all revisions share: content, definitions, the results of features, capabilities.

These are the engine's own model. `kvmcp.core.legacy` and `kvmcp.core.modern` project it onto a revision: they
drop what the revision lacks and add what it demands.
"""

from typing import Literal, TypeAlias

from msgspec import UNSET, Raw, Struct, UnsetType, field

Role: TypeAlias = Literal["user", "assistant"]

LogLevel: TypeAlias = Literal["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]
LOG_LEVELS: tuple[LogLevel, ...] = (
    "debug", "info", "notice", "warning", "error", "critical", "alert", "emergency",
)  # fmt: skip
"""Least severe first (RFC 5424)."""

ProgressToken: TypeAlias = str | int


class Icon(Struct, frozen=True, omit_defaults=True, rename="camel"):
    """An image for a host to show. `src` is an https or data URL."""

    src: str
    mime_type: str | UnsetType = UNSET
    sizes: tuple[str, ...] | UnsetType = UNSET
    theme: Literal["light", "dark"] | UnsetType = UNSET


class Implementation(Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Who a client or a server is: for display and logs, never for decisions."""

    name: str
    version: str
    title: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    website_url: str | UnsetType = UNSET
    icons: tuple[Icon, ...] | UnsetType = UNSET


class Annotations(Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Hints on content: whom it is for, how much it matters (0..1), when it changed (ISO 8601)."""

    audience: tuple[Role, ...] | UnsetType = UNSET
    priority: float | UnsetType = UNSET
    last_modified: str | UnsetType = UNSET


class TextContent(Struct, frozen=True, omit_defaults=True, rename="camel", tag_field="type", tag="text"):
    text: str
    annotations: Annotations | UnsetType = UNSET
    meta: Raw | UnsetType = field(name="_meta", default=UNSET)


class ImageContent(Struct, frozen=True, omit_defaults=True, rename="camel", tag_field="type", tag="image"):
    """`data` is standard base64."""

    data: str
    mime_type: str
    annotations: Annotations | UnsetType = UNSET
    meta: Raw | UnsetType = field(name="_meta", default=UNSET)


class AudioContent(Struct, frozen=True, omit_defaults=True, rename="camel", tag_field="type", tag="audio"):
    """`data` is standard base64. Since 2025-03-26."""

    data: str
    mime_type: str
    annotations: Annotations | UnsetType = UNSET
    meta: Raw | UnsetType = field(name="_meta", default=UNSET)


class ResourceContents(Struct, frozen=True, omit_defaults=True, rename="camel"):
    """What a resource holds: exactly one of `text` and `blob` (standard base64)."""

    uri: str
    mime_type: str | UnsetType = UNSET
    text: str | UnsetType = UNSET
    blob: str | UnsetType = UNSET
    meta: Raw | UnsetType = field(name="_meta", default=UNSET)


class EmbeddedResource(
    Struct, frozen=True, omit_defaults=True, rename="camel", tag_field="type", tag="resource"
):
    resource: ResourceContents
    annotations: Annotations | UnsetType = UNSET
    meta: Raw | UnsetType = field(name="_meta", default=UNSET)


class ResourceLink(
    Struct, frozen=True, omit_defaults=True, rename="camel", tag_field="type", tag="resource_link"
):
    """A resource to read later. Since 2025-06-18."""

    uri: str
    name: str
    title: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    mime_type: str | UnsetType = UNSET
    size: int | UnsetType = UNSET
    annotations: Annotations | UnsetType = UNSET
    icons: tuple[Icon, ...] | UnsetType = UNSET
    meta: Raw | UnsetType = field(name="_meta", default=UNSET)


Content: TypeAlias = TextContent | ImageContent | AudioContent | EmbeddedResource | ResourceLink


class ToolAnnotations(Struct, frozen=True, omit_defaults=True, rename="camel"):
    """Hints for hosts. The protocol's defaults are false, true, false, true."""

    title: str | UnsetType = UNSET
    read_only_hint: bool | UnsetType = UNSET
    destructive_hint: bool | UnsetType = UNSET
    idempotent_hint: bool | UnsetType = UNSET
    open_world_hint: bool | UnsetType = UNSET


class PromptMessage(Struct, frozen=True):
    role: Role
    content: Content


class PromptArgument(Struct, frozen=True, omit_defaults=True):
    name: str
    title: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    required: bool | UnsetType = UNSET


# --- results of features ------------------------------------------------------------------------------------


class ToolResult(Struct, frozen=True, gc=False):
    """What a tool answers.

    `structured` is JSON text (UTF-8). Where `content` is empty and there is `structured`, the one text block
    is that JSON, as the specification asks ("also serialise it into a text block"). `notes` are added as text
    blocks behind the content.
    """

    content: tuple[Content, ...] = ()
    structured: bytes | None = None
    is_error: bool = False
    notes: tuple[str, ...] = ()
    meta: Raw | UnsetType = UNSET


class ReadResult(Struct, frozen=True):
    """What a resource holds. Never empty: a missing resource is `Fail`, see `plan.resource_not_found`.

    `ttl_ms` (milliseconds, ≥ 0) and `public` say how long and by whom a modern client may cache it.
    """

    contents: tuple[ResourceContents, ...]
    ttl_ms: int = 0
    public: bool = False


class PromptResult(Struct, frozen=True):
    messages: tuple[PromptMessage, ...]
    description: str | UnsetType = UNSET


class CompletionResult(Struct, frozen=True):
    """Suggestions, best first; at most 100 are sent."""

    values: tuple[str, ...]
    total: int | UnsetType = UNSET
    has_more: bool | UnsetType = UNSET


class ResourcePage(Struct, frozen=True):
    """One page of a `ResourceListing`: what its `page` function answers, never a client's own request.

    `next_cursor` is whatever the function wants to be given for the page behind; `ttl_ms` as in `ReadResult`.
    """

    resources: tuple[ResourceLink, ...]
    next_cursor: str | UnsetType = UNSET
    ttl_ms: int = 0


class Done(Struct, frozen=True):
    """Nothing to say but that it is done."""


Result: TypeAlias = ToolResult | ReadResult | PromptResult | CompletionResult | ResourcePage | Done


# --- what a server asks of a client ---------------------------------------------------------------------------


class ElicitForm(Struct, frozen=True, tag="form"):
    """Ask the person to fill in a form. `schema` is JSON text: a flat object of primitives. Never for secrets."""

    message: str
    schema: bytes


class ElicitUrl(Struct, frozen=True, tag="url"):
    """Ask the person to open a URL (since 2025-11-25)."""

    message: str
    url: str


class Sample(Struct, frozen=True, tag="sample"):
    """Ask for a completion by the client's model. `params` is the JSON text of `CreateMessageRequest.params`."""

    params: bytes
    tools: bool = False
    """Whether `params` holds `tools` or `toolChoice`: needs the client's `sampling.tools`."""


class ListRoots(Struct, frozen=True, tag="roots"):
    """Ask which folders or places the client lets the server look at."""


ClientRequest: TypeAlias = ElicitForm | ElicitUrl | Sample | ListRoots


class ElicitResult(Struct, frozen=True, omit_defaults=True):
    """`content` is there only for an accepted form."""

    action: Literal["accept", "decline", "cancel"]
    content: Raw | UnsetType = UNSET


class SampleResult(Struct, frozen=True, omit_defaults=True, rename="camel"):
    """`content` is one content block, or (since 2025-11-25) an array of them, as JSON text."""

    role: Role
    content: Raw
    model: str
    stop_reason: str | UnsetType = UNSET


class Root(Struct, frozen=True, omit_defaults=True):
    uri: str
    name: str | UnsetType = UNSET


class RootsResult(Struct, frozen=True):
    roots: tuple[Root, ...]


ClientAnswer: TypeAlias = ElicitResult | SampleResult | RootsResult


# --- capabilities ---------------------------------------------------------------------------------------------


class ElicitationCapability(Struct, frozen=True, omit_defaults=True):
    """`{}` means form only."""

    form: Raw | UnsetType = UNSET
    url: Raw | UnsetType = UNSET


class SamplingCapability(Struct, frozen=True, omit_defaults=True):
    context: Raw | UnsetType = UNSET
    tools: Raw | UnsetType = UNSET


class ClientCapabilities(Struct, frozen=True, omit_defaults=True):
    """What a client offers. Unknown members are ignored; members that only a later revision knows too."""

    roots: Raw | UnsetType = UNSET
    sampling: SamplingCapability | UnsetType = UNSET
    elicitation: ElicitationCapability | UnsetType = UNSET
    extensions: dict[str, Raw] | UnsetType = UNSET
    experimental: Raw | UnsetType = UNSET

    def offers(self, request: ClientRequest) -> bool:
        """Whether this client declared what `request` needs. A server MUST NOT ask for anything else."""
        match request:
            case ListRoots():
                return self.roots is not UNSET
            case Sample(tools=tools):
                return self.sampling is not UNSET and (not tools or self.sampling.tools is not UNSET)
            case ElicitUrl():
                return self.elicitation is not UNSET and self.elicitation.url is not UNSET
            case _:
                offered = self.elicitation
                return offered is not UNSET and (offered.form is not UNSET or offered.url is UNSET)
