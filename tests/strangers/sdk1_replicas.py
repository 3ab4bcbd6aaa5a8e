"""The official Python SDK, version 1: watches at one replica what is changed at another. See `test_sdk_replicas.py`."""

import json
import sys
from contextlib import AsyncExitStack
from typing import Any

import anyio
from mcp import ClientSession, types
from mcp.client.streamable_http import streamable_http_client


async def converse(job: dict[str, Any]) -> list[str]:
    told, heard = anyio.create_memory_object_stream[str](100)

    async def on_message(message: Any) -> None:
        notice = message.root if isinstance(message, types.ServerNotification) else None
        if isinstance(notice, types.ResourceUpdatedNotification):
            await told.send(str(notice.params.uri))

    async with AsyncExitStack() as stack:
        stack.enter_context(told)
        stack.enter_context(heard)

        async def connect(url: str, **options: Any) -> ClientSession:
            read, write, _ = await stack.enter_async_context(streamable_http_client(url))
            session = await stack.enter_async_context(ClientSession(read, write, **options))
            await session.initialize()
            return session

        watcher = await connect(job["watched_at"], message_handler=on_message)
        other = await connect(job["changed_at"])
        await watcher.subscribe_resource(types.AnyUrl(job["uri"]))
        updated: list[str] = []
        for name, arguments in job["changes"]:
            await other.call_tool(name, arguments)
            with anyio.fail_after(20):
                updated.append(await heard.receive())
        await watcher.unsubscribe_resource(types.AnyUrl(job["uri"]))
    return updated


if __name__ == "__main__":
    print(json.dumps(anyio.run(converse, json.load(sys.stdin))))
