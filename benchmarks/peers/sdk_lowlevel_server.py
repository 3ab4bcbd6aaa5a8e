"""The official Python SDK's server (2.x) on its low-level API, for `benchmarks/stdio.py`.

Handlers get parsed params and build results, without the schemas and conversions that the decorators of the
high-level API (`sdk_server.py`) add to each call.
"""

import json
from importlib.metadata import version
from typing import Any

import anyio
from mcp.server import Server
from mcp.server.stdio import stdio_server
from mcp.types import CallToolRequestParams, CallToolResult, ListToolsResult, TextContent, Tool

from benchmarks.peers.store import open_store

store = open_store()

TOOLS = [
    Tool(
        name="redis_get",
        description="Read the JSON value of one key.",
        input_schema={
            "type": "object",
            "properties": {"key": {"type": "string"}},
            "required": ["key"],
            "additionalProperties": False,
        },
    ),
    Tool(
        name="redis_set",
        description="Store any JSON value under a key.",
        input_schema={
            "type": "object",
            "properties": {"key": {"type": "string"}, "value": {}, "ttl": {"type": "integer"}},
            "required": ["key", "value"],
            "additionalProperties": False,
        },
    ),
]


async def get(arguments: dict[str, Any]) -> dict[str, object]:
    return await store.get(arguments["key"])


async def put(arguments: dict[str, Any]) -> dict[str, object]:
    await store.set(arguments["key"], arguments["value"], arguments.get("ttl"))
    return {"ok": True}


CALLS = {"redis_get": get, "redis_set": put}


async def list_tools(context: object, params: object) -> ListToolsResult:
    return ListToolsResult(tools=TOOLS)


async def call_tool(context: object, params: CallToolRequestParams) -> CallToolResult:
    data = await CALLS[params.name](params.arguments or {})
    return CallToolResult(content=[TextContent(text=json.dumps(data))], structured_content=data)


async def main() -> None:
    server = Server("sdk-lowlevel", version=version("mcp"), on_list_tools=list_tools, on_call_tool=call_tool)
    async with stdio_server() as (reader, writer):
        await server.run(reader, writer, server.create_initialization_options())


if __name__ == "__main__":
    anyio.run(main)
