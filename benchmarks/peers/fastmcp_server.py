"""FastMCP with the same two tools, for `benchmarks/stdio.py`: written as its users write them."""

from importlib.metadata import version
from typing import Any

from fastmcp import FastMCP

from benchmarks.peers.store import open_store

store = open_store()


async def redis_get(key: str) -> dict[str, Any]:
    """Read the JSON value of one key."""
    return await store.get(key)


async def redis_set(key: str, value: Any, ttl: int | None = None) -> dict[str, Any]:
    """Store any JSON value under a key."""
    await store.set(key, value, ttl)
    return {"ok": True}


def new_server() -> FastMCP:
    server = FastMCP("fastmcp", version=version("fastmcp"))
    server.tool(redis_get)
    server.tool(redis_set)
    return server


if __name__ == "__main__":
    new_server().run(transport="stdio", show_banner=False, log_level="WARNING")
