"""kvmcp: the state plane for AI agents, an MCP server and a sans-IO MCP engine."""

TYPE_CHECKING = False  # What type checkers take for true; importing it from typing would cost every start.

if TYPE_CHECKING:
    from kvmcp.functions import Completing, start_work
    from kvmcp.io.asgi import HttpOptions
    from kvmcp.io.work import RequestFailed, ToolFailed, Work
    from kvmcp.questions import filled, form, said, sample
    from kvmcp.server import Server

__version__ = "0.1.0"

__all__ = [
    "Completing",
    "HttpOptions",
    "RequestFailed",
    "Server",
    "ToolFailed",
    "Work",
    "__version__",
    "filled",
    "form",
    "said",
    "sample",
    "start_work",
]

_HOME = {
    "Completing": "functions",
    "HttpOptions": "io.asgi",
    "RequestFailed": "io.work",
    "Server": "server",
    "ToolFailed": "io.work",
    "Work": "io.work",
    "filled": "questions",
    "form": "questions",
    "said": "questions",
    "sample": "questions",
    "start_work": "functions",
}
"""The module of each public name."""


def __getattr__(name: str) -> object:
    # Imported when they are first used: `kvmcp --version` needs no event loop.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
