"""The official Python SDK, version 2: watches at one replica what is changed at another, in the era that the job names.
See `test_sdk_replicas.py`."""

import json
import sys
from typing import Any

import anyio
from mcp import Client, types


async def converse(job: dict[str, Any]) -> list[str]:
    told, heard = anyio.create_memory_object_stream[str](100)
    updated: list[str] = []

    async def on_message(message: Any) -> None:
        if isinstance(message, types.ResourceUpdatedNotification):
            await told.send(str(message.params.uri))

    async def change_and_hear(other: Client, hear: Any) -> None:
        for name, arguments in job["changes"]:
            await other.call_tool(name, arguments)
            with anyio.fail_after(20):
                updated.append(await hear())

    async with (
        told,
        heard,
        Client(job["watched_at"], mode=job["mode"], message_handler=on_message) as watcher,
        Client(job["changed_at"], mode=job["mode"]) as other,
    ):
        if job["mode"] == "legacy":
            await watcher.subscribe_resource(job["uri"])
            await change_and_hear(other, heard.receive)
            await watcher.unsubscribe_resource(job["uri"])
        else:
            async with watcher.listen(resource_subscriptions=[job["uri"]]) as subscription:
                events = aiter(subscription)

                async def hear() -> str:
                    return str((await anext(events)).uri)

                await change_and_hear(other, hear)
    return updated


if __name__ == "__main__":
    print(json.dumps(anyio.run(converse, json.load(sys.stdin))))
