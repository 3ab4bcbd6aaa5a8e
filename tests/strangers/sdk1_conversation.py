"""The official Python SDK, version 1, as a client of a server on stdio or HTTP. Runs in the SDK's own environment.

Takes a job on stdin and prints a report on stdout, both JSON; `test_sdk_clients.py` says what they hold. It judges
nothing by itself, but the SDK does: it refuses results that do not fit its types or a tool's output schema.
"""

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import anyio
from mcp import ClientSession, McpError, StdioServerParameters, types
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

PATIENCE = timedelta(seconds=20)


def dump(model: Any) -> Any:
    return model.model_dump(by_alias=True, mode="json", exclude_none=True)


async def call(session: ClientSession, tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The result of a call, or the error that answered it."""
    try:
        return {"result": dump(await session.call_tool(tool, arguments))}
    except McpError as error:
        return {"error": dump(error.error)}


async def call_together(session: ClientSession, calls: list[Any]) -> list[Any]:
    """Every call at once; the answers in the order of the calls."""
    answers: list[Any] = [None] * len(calls)

    async def one(place: int) -> None:
        answers[place] = await call(session, *calls[place])

    async with anyio.create_task_group() as tasks:
        for place in range(len(calls)):
            tasks.start_soon(one, place)
    return answers


async def list_tools(session: ClientSession) -> list[Any]:
    page = await session.list_tools()
    tools = page.tools
    while page.nextCursor is not None:
        page = await session.list_tools(params=types.PaginatedRequestParams(cursor=page.nextCursor))
        tools += page.tools
    return [dump(tool) for tool in tools]


async def cancel_a_call(session: ClientSession, tool: str, arguments: dict[str, Any]) -> None:
    """Send a request and its cancellation right behind; an answer may still come, or not."""
    request_id = session._request_id  # the next one; this version has no public way to cancel
    reason = types.CancelledNotificationParams(requestId=request_id, reason="no longer needed")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call, session, tool, arguments)
        await anyio.lowlevel.checkpoint()
        await session.send_notification(types.ClientNotification(types.CancelledNotification(params=reason)))
        await anyio.sleep(0.2)
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def connected(job: dict[str, Any]) -> AsyncIterator[tuple[Any, Any]]:
    """The streams to the server that the job names."""
    if "url" in job:
        async with streamable_http_client(job["url"]) as (read, write, _):
            yield read, write
    else:
        server = StdioServerParameters(command=job["command"][0], args=job["command"][1:])
        async with stdio_client(server) as streams:
            yield streams


async def give_and_take(job: dict[str, Any]) -> dict[str, Any]:
    """What the server says of its own accord: progress, a question, a change."""
    changed = anyio.Event()
    progress: list[Any] = []

    async def on_progress(*told: Any) -> None:
        progress.append(told)

    async def on_message(message: Any) -> None:
        if isinstance(getattr(message, "root", None), types.ToolListChangedNotification):
            changed.set()

    async def answer(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        return types.ElicitResult(action="accept", content=job["filled_in"])

    async with (
        connected(job) as streams,
        ClientSession(*streams, PATIENCE, elicitation_callback=answer, message_handler=on_message) as session,
    ):
        await session.initialize()
        await session.call_tool("test_tool_with_progress", {}, progress_callback=on_progress)
        elicited = await session.call_tool("test_elicitation", {"message": "Who are you?"})
        await session.call_tool("test_trigger_tool_change", {})
        with anyio.fail_after(PATIENCE.total_seconds()):
            await changed.wait()
    return {"progress": progress, "elicited": dump(elicited), "changed": True}


async def converse(job: dict[str, Any]) -> dict[str, Any]:
    async with (
        connected(job) as streams,
        ClientSession(*streams, read_timeout_seconds=PATIENCE) as session,
    ):
        opened = await session.initialize()
        report = {
            "version": opened.protocolVersion,
            "server": dump(opened.serverInfo),
            "capabilities": dump(opened.capabilities),
            "tools": await list_tools(session),
            "calls": [await call(session, *step) for step in job["calls"]],
            "together": [await call_together(session, calls) for calls in job["together"]],
            "ping": dump(await session.send_ping()),
        }
        await cancel_a_call(session, *job["cancel"])
        report["after_cancel"] = await call(session, *job["cancel"])
    return report


if __name__ == "__main__":
    job = json.load(sys.stdin)
    kind = {"converse": converse, "give_and_take": give_and_take}[job["kind"]]
    print(json.dumps(anyio.run(kind, job, backend=job["loop"])))
