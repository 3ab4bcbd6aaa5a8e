"""kvmcp: the state plane for AI agents, an MCP server and a sans-IO MCP engine."""

__version__ = "0.1.0"
