"""The protocol engine: bytes in, bytes and commands out. Pure, synchronous, no I/O.

The names below are the engine's public surface; docs/driving-the-core.md shows how to use them. They are
imported when they are first used, so that a program pays only for what it needs.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kvmcp.core.arguments import StructArguments
    from kvmcp.core.catalog import Catalog
    from kvmcp.core.client.connection import ClientConnection
    from kvmcp.core.client.profile import ClientLimits, ClientProfile
    from kvmcp.core.client.session import ClientSession
    from kvmcp.core.commands import (
        AnswerWork,
        Ask,
        BatchFailed,
        Close,
        HangUp,
        Log,
        Progress,
        Report,
        RunBatch,
        StartWork,
        StopWork,
        WorkDone,
        WorkFailed,
    )
    from kvmcp.core.connection import ServerConnection
    from kvmcp.core.errors import LocalProtocolError, RpcError
    from kvmcp.core.items import Prompt, Resource, ResourceListing, ResourceTemplate, Tool, Watch
    from kvmcp.core.limits import Limits
    from kvmcp.core.plan import (
        Answer,
        AskBackend,
        AskClient,
        Caller,
        Context,
        Fail,
        Plan,
        Start,
        ToolError,
        WatchUntil,
        resource_not_found,
        tool_error,
    )
    from kvmcp.core.request_state import Sealer
    from kvmcp.core.schema_arguments import SchemaArguments
    from kvmcp.core.service import Service
    from kvmcp.core.session import ServerSession
    from kvmcp.core.subscriptions import ListChanged, Lookout, ResourceUpdated, Watched
    from kvmcp.core.uritemplate import UriTemplate
    from kvmcp.core.wire.common import (
        Annotations,
        AudioContent,
        ClientAnswer,
        ClientRequest,
        CompletionResult,
        Done,
        ElicitForm,
        ElicitResult,
        ElicitUrl,
        EmbeddedResource,
        Icon,
        ImageContent,
        Implementation,
        ListRoots,
        PromptArgument,
        PromptMessage,
        PromptResult,
        ReadResult,
        ResourceContents,
        ResourceLink,
        ResourcePage,
        Root,
        RootsResult,
        Sample,
        SampleResult,
        TextContent,
        ToolAnnotations,
        ToolResult,
    )

__all__ = [
    "Annotations",
    "Answer",
    "AnswerWork",
    "Ask",
    "AskBackend",
    "AskClient",
    "AudioContent",
    "BatchFailed",
    "Caller",
    "Catalog",
    "ClientAnswer",
    "ClientConnection",
    "ClientLimits",
    "ClientProfile",
    "ClientRequest",
    "ClientSession",
    "Close",
    "CompletionResult",
    "Context",
    "Done",
    "ElicitForm",
    "ElicitResult",
    "ElicitUrl",
    "EmbeddedResource",
    "Fail",
    "HangUp",
    "Icon",
    "ImageContent",
    "Implementation",
    "Limits",
    "ListChanged",
    "ListRoots",
    "LocalProtocolError",
    "Log",
    "Lookout",
    "Plan",
    "Progress",
    "Prompt",
    "PromptArgument",
    "PromptMessage",
    "PromptResult",
    "ReadResult",
    "Report",
    "Resource",
    "ResourceContents",
    "ResourceLink",
    "ResourceListing",
    "ResourcePage",
    "ResourceTemplate",
    "ResourceUpdated",
    "Root",
    "RootsResult",
    "RpcError",
    "RunBatch",
    "Sample",
    "SampleResult",
    "SchemaArguments",
    "Sealer",
    "ServerConnection",
    "ServerSession",
    "Service",
    "Start",
    "StartWork",
    "StopWork",
    "StructArguments",
    "TextContent",
    "Tool",
    "ToolAnnotations",
    "ToolError",
    "ToolResult",
    "UriTemplate",
    "Watch",
    "WatchUntil",
    "Watched",
    "WorkDone",
    "WorkFailed",
    "resource_not_found",
    "tool_error",
]

_HOME = {
    "SchemaArguments": "schema_arguments",
    "StructArguments": "arguments",
    "Catalog": "catalog",
    **dict.fromkeys(
        ("Prompt", "Resource", "ResourceListing", "ResourceTemplate", "Tool", "Watch"), "items"
    ),
    "ClientSession": "client.session",
    "ClientConnection": "client.connection",
    **dict.fromkeys(("ClientLimits", "ClientProfile"), "client.profile"),
    "ServerConnection": "connection",
    **dict.fromkeys(("LocalProtocolError", "RpcError"), "errors"),
    "Limits": "limits",
    "Sealer": "request_state",
    "Service": "service",
    "ServerSession": "session",
    **dict.fromkeys(("ListChanged", "Lookout", "ResourceUpdated", "Watched"), "subscriptions"),
    "UriTemplate": "uritemplate",
    **dict.fromkeys(
        (
            "Annotations", "AudioContent", "ClientAnswer", "ClientRequest", "CompletionResult",
            "Done", "ElicitForm", "ElicitResult", "ElicitUrl", "EmbeddedResource", "Icon",
            "ImageContent", "Implementation", "ListRoots", "PromptArgument", "PromptMessage",
            "PromptResult", "ReadResult", "ResourceContents", "ResourceLink",
            "ResourcePage", "Root",
            "RootsResult", "Sample", "SampleResult", "TextContent", "ToolAnnotations",
            "ToolResult",
        ),
        "wire.common",
    ),
    **dict.fromkeys(
        (
            "Answer", "AskBackend", "AskClient", "Caller", "Context", "Fail", "Plan", "Start", "ToolError",
            "WatchUntil", "resource_not_found", "tool_error",
        ),
        "plan",
    ),
    **dict.fromkeys(
        (
            "AnswerWork", "Ask", "BatchFailed", "Close", "HangUp", "Log", "Progress", "Report", "RunBatch", "StartWork",
            "StopWork", "WorkDone", "WorkFailed",
        ),
        "commands",
    ),
}  # fmt: skip
"""The module of each public name."""


def __getattr__(name: str) -> object:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{home}"), name)
