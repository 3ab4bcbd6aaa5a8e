"""The official Python SDK's WebSocket server (1.x, the last that has one), for `benchmarks/websocket.py`.

Its transport is an ASGI application, so it runs as its documentation says: under uvicorn, in Starlette. Arguments:
the port, and the URL of the Redis that is to hold the values, if it is not a dict.
"""

import json
import sys
import warnings
from importlib.metadata import version
from typing import Any

import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.websocket import websocket_server
from mcp.types import TextContent, Tool
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

from benchmarks.peers.store import open_store

warnings.simplefilter("ignore", DeprecationWarning)
port = int(sys.argv.pop(1))
store = open_store()
server: Any = Server("sdk1", version=version("mcp"))

KEYED = {"type": "object", "properties": {"key": {"type": "string"}}, "required": ["key"]}


@server.list_tools()  # type: ignore[untyped-decorator]  # the SDK lives in an environment of its own
async def list_tools() -> list[Tool]:
    store_it = {"type": "object", "properties": {"key": {"type": "string"}, "value": {}}, "required": ["key"]}
    return [
        Tool(name="redis_get", description="Read the JSON value of one key.", inputSchema=KEYED),
        Tool(name="redis_set", description="Store any JSON value under a key.", inputSchema=store_it),
    ]


@server.call_tool()  # type: ignore[untyped-decorator]  # as above
async def call_tool(name: str, arguments: dict[str, Any]) -> tuple[list[TextContent], dict[str, Any]]:
    if name == "redis_get":
        data = await store.get(arguments["key"])
    else:
        await store.set(arguments["key"], arguments["value"], arguments.get("ttl"))
        data = {"ok": True}
    return [TextContent(type="text", text=json.dumps(data))], data


class Endpoint:
    """One connection after the other, each with a session of its own."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async with websocket_server(scope, receive, send) as (reader, writer):
            await server.run(reader, writer, server.create_initialization_options())


if __name__ == "__main__":
    app = Starlette(routes=[WebSocketRoute("/mcp", Endpoint())])
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", ws_ping_interval=None)
