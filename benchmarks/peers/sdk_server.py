"""The official Python SDK's server (2.x) with the same two tools, for `benchmarks/stdio.py`.

Written as its documentation shows: `MCPServer` and typed functions. `sdk_lowlevel_server.py` is the same on
the SDK's low-level API.
"""

from importlib.metadata import version
from typing import Any

from mcp.server import MCPServer

from benchmarks.peers.store import open_store

store = open_store()


async def redis_get(key: str) -> dict[str, Any]:
    """Read the JSON value of one key."""
    return await store.get(key)


async def redis_set(key: str, value: Any, ttl: int | None = None) -> dict[str, Any]:
    """Store any JSON value under a key."""
    await store.set(key, value, ttl)
    return {"ok": True}


def new_server() -> MCPServer:
    server = MCPServer("sdk", version=version("mcp"), log_level="WARNING")
    server.add_tool(redis_get)
    server.add_tool(redis_set)
    return server


if __name__ == "__main__":
    new_server().run(transport="stdio")
