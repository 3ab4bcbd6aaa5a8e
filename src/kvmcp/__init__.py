"""kvmcp: the state plane for AI agents, an MCP server and a sans-IO MCP engine."""

TYPE_CHECKING = False  # What type checkers take for true; importing it from typing would cost every start.

if TYPE_CHECKING:
    from kvmcp.io.work import RequestFailed, ToolFailed, Work
    from kvmcp.server import Server

__version__ = "0.1.0"

__all__ = ["RequestFailed", "Server", "ToolFailed", "Work", "__version__"]


def __getattr__(name: str) -> object:
    # Imported when they are first used: `kvmcp --version` needs no event loop.
    if name == "Server":
        from kvmcp.server import Server

        return Server
    if name in ("RequestFailed", "ToolFailed", "Work"):
        from kvmcp.io import work

        return getattr(work, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
