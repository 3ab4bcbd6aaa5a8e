"""The official Python SDK, version 2, as a client of a server on stdio or HTTP. Runs in the SDK's own environment.

Takes a job on stdin and prints a report on stdout, both JSON; `test_sdk_clients.py` says what they hold. It judges
nothing by itself, but the SDK does: it refuses results that do not fit its types or a tool's output schema.

The job's `mode` is the SDK's: `legacy` shakes hands, a version goes there at once, `auto` asks first.
"""

import json
import sys
from typing import Any

import anyio
from mcp import Client, MCPError, StdioServerParameters, types

PATIENCE = 20.0


def dump(model: Any) -> Any:
    return model.model_dump(by_alias=True, mode="json", exclude_none=True)


async def call(client: Client, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The result of a call, or the error that answered it."""
    try:
        return {"result": dump(await client.call_tool(tool, arguments))}
    except MCPError as error:
        return {"error": dump(error.error)}


async def call_together(client: Client, calls: list[Any]) -> list[Any]:
    """Every call at once; the answers in the order of the calls."""
    answers: list[Any] = [None] * len(calls)

    async def one(place: int) -> None:
        answers[place] = await call(client, *calls[place])

    async with anyio.create_task_group() as tasks:
        for place in range(len(calls)):
            tasks.start_soon(one, place)
    return answers


async def list_tools(client: Client) -> list[Any]:
    page = await client.list_tools()
    tools = page.tools
    while page.next_cursor is not None:
        page = await client.list_tools(cursor=page.next_cursor)
        tools += page.tools
    return [dump(tool) for tool in tools]


async def cancel_a_call(client: Client, tool: str, arguments: dict[str, Any]) -> None:
    """Give a request up while it is on its way: the SDK then sends the cancellation."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call, client, tool, arguments)
        for _ in range(5):  # turns of the loop: enough to write the request, too few to read an answer
            await anyio.lowlevel.checkpoint()
        tasks.cancel_scope.cancel()
    await anyio.sleep(0.2)


async def listen(client: Client) -> dict[str, Any]:
    """What a subscription to changes of the tool list is granted; it is ended at once."""
    try:
        async with client.listen(tools_list_changed=True) as subscription:
            return {"honored": dump(subscription.honored)}
    except MCPError as error:
        return {"error": dump(error.error)}


async def give_and_take(job: dict[str, Any]) -> dict[str, Any]:
    """What the server says of its own accord: progress, a question, a change."""
    changed = anyio.Event()
    progress: list[Any] = []

    async def on_progress(*told: Any) -> None:
        progress.append(told)

    async def on_message(message: Any) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            changed.set()

    async def answer(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content=job["filled_in"])

    async with Client(
        job["url"],
        mode=job["mode"],
        read_timeout_seconds=PATIENCE,
        elicitation_callback=answer,
        message_handler=on_message,
    ) as client:
        await client.call_tool("test_tool_with_progress", progress_callback=on_progress)
        elicited = await client.call_tool("test_elicitation", {"message": "Who are you?"})
        with anyio.fail_after(PATIENCE):
            if job["mode"] == "legacy":
                await client.call_tool("test_trigger_tool_change")
                await changed.wait()
            else:
                async with client.listen(tools_list_changed=True) as subscription:
                    await client.call_tool("test_trigger_tool_change")
                    await anext(subscription)
    return {"progress": progress, "elicited": dump(elicited), "changed": True}


async def converse(job: dict[str, Any]) -> dict[str, Any]:
    server = job.get("url") or StdioServerParameters(command=job["command"][0], args=job["command"][1:])
    async with Client(server, mode=job["mode"], read_timeout_seconds=PATIENCE) as client:
        report = {
            "version": client.protocol_version,
            "server": dump(client.server_info) if client.server_info else None,
            "capabilities": dump(client.server_capabilities),
            "tools": await list_tools(client),
            "calls": [await call(client, *step) for step in job["calls"]],
            "together": [await call_together(client, calls) for calls in job["together"]],
        }
        if job["mode"] == "legacy":
            report["ping"] = dump(await client.session.send_ping())
        else:
            report["listen"] = await listen(client)
        await cancel_a_call(client, *job["cancel"])
        report["after_cancel"] = await call(client, *job["cancel"])
    return report


if __name__ == "__main__":
    job = json.load(sys.stdin)
    kind = {"converse": converse, "give_and_take": give_and_take}[job["kind"]]
    print(json.dumps(anyio.run(kind, job, backend=job["loop"])))
