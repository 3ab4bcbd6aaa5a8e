"""The official Python SDK, version 1: reads, subscribes, asks for prompts and suggestions. See `test_sdk_resources.py`."""

import json
import sys
from typing import Any

import anyio
from mcp import ClientSession, StdioServerParameters, types
from mcp.client.stdio import stdio_client


def dump(model: Any) -> Any:
    return model.model_dump(by_alias=True, mode="json", exclude_none=True)


async def converse(job: dict[str, Any]) -> dict[str, Any]:
    updated, heard = anyio.create_memory_object_stream[str](100)

    async def on_message(message: Any) -> None:
        told = message.root if isinstance(message, types.ServerNotification) else None
        if isinstance(told, types.ResourceUpdatedNotification):
            await updated.send(str(told.params.uri))

    server = StdioServerParameters(command=job["command"][0], args=job["command"][1:])
    async with (
        updated,
        heard,
        stdio_client(server) as streams,
        ClientSession(*streams, message_handler=on_message) as session,
    ):
        await session.initialize()
        for name, arguments in job["writes"]:
            await session.call_tool(name, arguments)
        listed = await session.list_resources()
        report: dict[str, Any] = {
            "resources": dump(listed)["resources"],
            "templates": dump(await session.list_resource_templates())["resourceTemplates"],
            "prompts": dump(await session.list_prompts())["prompts"],
            "read": dump(await session.read_resource(types.AnyUrl(job["uri"])))["contents"],
            "prompt": dump(await session.get_prompt("coordinate", job["prompt"]))["messages"],
        }
        reference = types.ResourceTemplateReference(type="ref/resource", uri=job["template"])
        completed = await session.complete(reference, job["argument"])
        report["values"] = completed.completion.values
        await session.subscribe_resource(types.AnyUrl(job["uri"]))
        report["updated"] = []
        for name, arguments in job["changes"]:
            await session.call_tool(name, arguments)
            with anyio.fail_after(20):
                report["updated"].append(await heard.receive())
        await session.unsubscribe_resource(types.AnyUrl(job["uri"]))
    return report


if __name__ == "__main__":
    print(json.dumps(anyio.run(converse, json.load(sys.stdin))))
