"""The params of every request and notification that a server takes, and the `_meta` of both eras."""

from typing import Literal, TypeAlias

from msgspec import UNSET, Raw, Struct, UnsetType, field

from kvmcp.core.wire.common import ClientCapabilities, Implementation, LogLevel, ProgressToken


class Params(Struct, frozen=True, gc=False):
    """What all params may have. `_meta` is empty where there is none; it decides the era."""

    meta: Raw = field(name="_meta", default=Raw())


class InitializeParams(Params, frozen=True, gc=False, kw_only=True, rename="camel"):
    protocol_version: str
    capabilities: ClientCapabilities
    client_info: Implementation


class ListParams(Params, frozen=True, gc=False, kw_only=True):
    """An empty cursor is a cursor: presence counts."""

    cursor: str | UnsetType = UNSET


class MultiRoundParams(Params, frozen=True, gc=False, kw_only=True, rename="camel"):
    """Params of the three methods that may ask the client for input (2026-07-28)."""

    input_responses: Raw = Raw()
    request_state: str | UnsetType = UNSET


class CallParams(MultiRoundParams, frozen=True, gc=False, kw_only=True):
    name: str
    arguments: Raw = Raw()


class ReadParams(MultiRoundParams, frozen=True, gc=False, kw_only=True):
    uri: str


class GetPromptParams(MultiRoundParams, frozen=True, gc=False, kw_only=True):
    name: str
    arguments: dict[str, str] = {}


class PromptReference(Struct, frozen=True, tag_field="type", tag="ref/prompt"):
    name: str


class ResourceReference(Struct, frozen=True, tag_field="type", tag="ref/resource"):
    """`uri` is a URI or a URI template."""

    uri: str


class CompletionArgument(Struct, frozen=True):
    name: str
    value: str


class CompletionContext(Struct, frozen=True):
    arguments: dict[str, str] = {}


class CompleteParams(Params, frozen=True, gc=False, kw_only=True):
    ref: PromptReference | ResourceReference
    argument: CompletionArgument
    context: CompletionContext = CompletionContext()


class SetLevelParams(Params, frozen=True, gc=False, kw_only=True):
    level: LogLevel


class SubscribeParams(Params, frozen=True, gc=False, kw_only=True):
    uri: str


class ListenFilter(Struct, frozen=True, omit_defaults=True, rename="camel"):
    """What a `subscriptions/listen` asks for, and what its acknowledgement grants."""

    tools_list_changed: bool = False
    prompts_list_changed: bool = False
    resources_list_changed: bool = False
    resource_subscriptions: tuple[str, ...] = ()
    task_ids: tuple[str, ...] = ()
    """Of the tasks extension."""


class ListenParams(Params, frozen=True, gc=False, kw_only=True):
    notifications: ListenFilter


class TaskParams(Params, frozen=True, gc=False, kw_only=True, rename="camel"):
    task_id: str


class UpdateTaskParams(TaskParams, frozen=True, gc=False, kw_only=True, rename="camel"):
    input_responses: dict[str, Raw]


class CancelledParams(Params, frozen=True, gc=False, kw_only=True, rename="camel"):
    request_id: Raw
    reason: str | UnsetType = UNSET


class LegacyMeta(Struct, frozen=True, rename="camel"):
    progress_token: ProgressToken | UnsetType = UNSET


PROTOCOL_VERSION = "io.modelcontextprotocol/protocolVersion"
CLIENT_CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
CLIENT_INFO = "io.modelcontextprotocol/clientInfo"
LOG_LEVEL = "io.modelcontextprotocol/logLevel"
SERVER_INFO = "io.modelcontextprotocol/serverInfo"
TASKS = "io.modelcontextprotocol/tasks"
"""The extension, as capabilities name it."""
SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"


class EnvelopeMark(Struct, frozen=True):
    """What makes a `_meta` the envelope of a modern request: the key is reserved, whatever it holds."""

    protocol_version: Raw = field(name=PROTOCOL_VERSION, default=Raw())


class Envelope(Struct, frozen=True):
    """`_meta` of a modern request (2026-07-28). Version and capabilities are required on every one."""

    protocol_version: str = field(name=PROTOCOL_VERSION)
    client_capabilities: ClientCapabilities = field(name=CLIENT_CAPABILITIES)
    client_info: Implementation | UnsetType = field(name=CLIENT_INFO, default=UNSET)
    log_level: LogLevel | UnsetType = field(name=LOG_LEVEL, default=UNSET)
    progress_token: ProgressToken | UnsetType = field(name="progressToken", default=UNSET)
    traceparent: str | UnsetType = UNSET
    tracestate: str | UnsetType = UNSET
    baggage: str | UnsetType = UNSET


Era: TypeAlias = Literal["legacy", "modern"]
