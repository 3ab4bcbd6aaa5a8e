"""The official Python SDK, version 2, in the era that the job names. See `test_sdk_resources.py`."""

import json
import sys
from typing import Any

import anyio
from mcp import Client, StdioServerParameters, types


def dump(model: Any) -> Any:
    return model.model_dump(by_alias=True, mode="json", exclude_none=True)


async def change_and_hear(client: Client, job: dict[str, Any], hear: Any) -> list[str]:
    """Each change, and the resource that the server then says has changed."""
    updated: list[str] = []
    for name, arguments in job["changes"]:
        await client.call_tool(name, arguments)
        with anyio.fail_after(20):
            updated.append(await hear())
    return updated


async def converse(job: dict[str, Any]) -> dict[str, Any]:
    updated, heard = anyio.create_memory_object_stream[str](100)

    async def on_message(message: Any) -> None:
        if isinstance(message, types.ResourceUpdatedNotification):
            await updated.send(str(message.params.uri))

    server = StdioServerParameters(command=job["command"][0], args=job["command"][1:])
    async with updated, heard, Client(server, mode=job["mode"], message_handler=on_message) as client:
        for name, arguments in job["writes"]:
            await client.call_tool(name, arguments)
        report: dict[str, Any] = {
            "resources": dump(await client.list_resources())["resources"],
            "templates": dump(await client.list_resource_templates())["resourceTemplates"],
            "prompts": dump(await client.list_prompts())["prompts"],
            "read": dump(await client.read_resource(job["uri"]))["contents"],
            "prompt": dump(await client.get_prompt("coordinate", job["prompt"]))["messages"],
        }
        reference = types.ResourceTemplateReference(type="ref/resource", uri=job["template"])
        completed = await client.complete(reference, job["argument"])
        report["values"] = completed.completion.values
        if job["mode"] == "legacy":
            await client.subscribe_resource(job["uri"])
            report["updated"] = await change_and_hear(client, job, heard.receive)
            await client.unsubscribe_resource(job["uri"])
        else:
            async with client.listen(resource_subscriptions=[job["uri"]]) as subscription:
                events = aiter(subscription)

                async def hear() -> str:
                    return str((await anext(events)).uri)

                report["updated"] = await change_and_hear(client, job, hear)
    return report


if __name__ == "__main__":
    print(json.dumps(anyio.run(converse, json.load(sys.stdin))))
