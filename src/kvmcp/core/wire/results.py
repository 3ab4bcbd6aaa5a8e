"""Results as a client reads them: what a server answers, in every revision.

Unknown members are ignored. Content blocks stay JSON text: a later revision may bring kinds that we do not
know, and one of them must not make a whole result unreadable.
"""

from typing import TypeVar

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType, field

from kvmcp.core.wire.common import Implementation, ResourceContents, Role
from kvmcp.core.wire.definitions import (
    PromptDefinition,
    ResourceDefinition,
    TemplateDefinition,
    ToolDefinition,
)
from kvmcp.core.wire.params import SERVER_INFO


class ResultHead(Struct, frozen=True, gc=False):
    """What decides how a modern result is read."""

    result_type: str = field(name="resultType", default="complete")


class ListCapability(Struct, frozen=True, omit_defaults=True, rename="camel"):
    list_changed: bool = False
    subscribe: bool = False


class ServerCapabilities(Struct, frozen=True, omit_defaults=True):
    """What a server offers."""

    tools: ListCapability | UnsetType = UNSET
    resources: ListCapability | UnsetType = UNSET
    prompts: ListCapability | UnsetType = UNSET
    logging: Raw | UnsetType = UNSET
    completions: Raw | UnsetType = UNSET
    extensions: dict[str, Raw] | UnsetType = UNSET
    experimental: Raw | UnsetType = UNSET


class InitializeResult(Struct, frozen=True, rename="camel"):
    protocol_version: str
    capabilities: ServerCapabilities
    server_info: Raw = Raw()
    """See `read_implementation`."""
    instructions: str | UnsetType = UNSET


class ServerMeta(Struct, frozen=True):
    """`_meta` of a modern result."""

    server_info: Raw = field(name=SERVER_INFO, default=Raw())


class DiscoverResult(Struct, frozen=True, rename="camel"):
    supported_versions: tuple[str, ...]
    capabilities: ServerCapabilities
    meta: ServerMeta = field(name="_meta", default=ServerMeta())
    instructions: str | UnsetType = UNSET


class InputRequest(Struct, frozen=True):
    """Something that a server wants to know from the client. `params` is the JSON text of an object."""

    method: str
    params: Raw = Raw(b"{}")


class InputRequiredResult(Struct, frozen=True, rename="camel"):
    """`request_state` is the JSON text of a string, to be sent back byte for byte."""

    input_requests: dict[str, InputRequest] | UnsetType = UNSET
    request_state: Raw = Raw()


class SupportedVersions(Struct, frozen=True):
    """`data` of the error -32022, and of legacy refusals of `initialize`."""

    supported: tuple[str, ...]


# --- results of features ------------------------------------------------------------------------------------


class CallResult(Struct, frozen=True, rename="camel"):
    """What a tool answered: blocks of content; `structured_content` is empty where there is none."""

    content: tuple[Raw, ...] = ()
    structured_content: Raw = Raw()
    is_error: bool = False
    meta: Raw = field(name="_meta", default=Raw())


class Page(Struct, frozen=True, rename="camel"):
    """What all pages of lists have. An empty cursor is a cursor: only a missing one ends the list."""

    next_cursor: str | UnsetType = UNSET


class ToolsPage(Page, frozen=True, kw_only=True):
    tools: tuple[ToolDefinition, ...]


class ResourcesPage(Page, frozen=True, kw_only=True):
    resources: tuple[ResourceDefinition, ...]


class TemplatesPage(Page, frozen=True, kw_only=True, rename="camel"):
    resource_templates: tuple[TemplateDefinition, ...]


class PromptsPage(Page, frozen=True, kw_only=True):
    prompts: tuple[PromptDefinition, ...]


class ResourceResult(Struct, frozen=True):
    contents: tuple[ResourceContents, ...]


class Message(Struct, frozen=True):
    """One message of a prompt; `content` is one block."""

    role: Role
    content: Raw


class MessagesResult(Struct, frozen=True):
    messages: tuple[Message, ...]
    description: str | UnsetType = UNSET


class Suggestions(Struct, frozen=True, rename="camel"):
    values: tuple[str, ...]
    total: int | UnsetType = UNSET
    has_more: bool | UnsetType = UNSET


class SuggestionsResult(Struct, frozen=True):
    completion: Suggestions


ResultT = TypeVar("ResultT", bound=Struct)


def read(result: Raw, kind: type[ResultT]) -> ResultT | None:
    """`result` as a `kind`; None where it has not that form."""
    try:
        return msgspec.json.decode(result, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def read_implementation(raw: Raw) -> Implementation | None:
    """Who a server says it is. For display only, so one that is missing or malformed is no fault."""
    return read(raw, Implementation) if len(raw) else None
