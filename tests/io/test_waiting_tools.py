"""The tools that wait, under the driver, on both loops: one client waits, another one ends its wait."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from kvmcp.backends.memory import MemoryBackend
from kvmcp.backends.ops import Event, NsKey
from kvmcp.server import Server
from kvmcp.tools.surface import TOOL_SETS
from tests.io.support import MemoryTransport, call, initialize, serving
from tests.patience import PATIENCE
from tests.tools.support import redis_tools

pytestmark = pytest.mark.anyio


class Watched(MemoryBackend):
    """A memory store that says when somebody watches."""

    def __init__(self) -> None:
        super().__init__(clock=time.monotonic)
        self.watching = anyio.Event()

    @asynccontextmanager
    async def watch(
        self, keys: Sequence[NsKey] = (), channels: Sequence[NsKey] = ()
    ) -> AsyncIterator[AsyncIterator[Event]]:
        async with super().watch(keys, channels) as events:
            self.watching.set()
            yield events


async def said(client: MemoryTransport) -> Any:
    return (await client.hear())["result"]["structuredContent"]


QUEUE: dict[str, Any] = {"queue": "q", "owner": "a", "timeout": 15}
BARRIER: dict[str, Any] = {"name": "b", "parties": 2, "timeout": 15}
LEASE = {"name": "l", "timeout": 15}
CASES: list[tuple[str, Any, Any, tuple[str, Any], Any]] = [
    ("queue_claim", None, QUEUE, ("redis_rpush", {"key": "q", "values": ["work"]}), {"waiting": 0, "claimed": 1}),
    ("barrier_wait", None, {**BARRIER, "party": "a"}, ("barrier_wait", {**BARRIER, "party": "b"}), {"complete": True, "arrived": 2}),
    (
        "lease_acquire", ("lease_acquire", {"name": "l", "owner": "b"}), {**LEASE, "owner": "a"},
        ("lease_release", {"name": "l", "owner": "b", "fencing_token": 1}), {"acquired": True, "fencing_token": 2},
    ),
    ("kv_wait", None, {"key": "k", "since": "absent", "timeout": 15}, ("redis_set", {"key": "k", "value": 7}), {"changed": True, "value": 7}),
    ("kv_wait", None, {"channel": "c", "timeout": 15}, ("redis_publish", {"channel": "c", "message": 7}), {"changed": True}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("tool", "before", "waits", "ends", "expected"), CASES, ids=lambda case: str(case)[:40]
)
async def test_a_wait_ends_when_somebody_else_acts(
    tool: str, before: Any, waits: Any, ends: tuple[str, Any], expected: Any
) -> None:
    backend = Watched()
    server = Server("kvmcp-test", backend=backend, items=redis_tools(tuple(TOOL_SETS)))
    async with (
        serving(server, MemoryTransport(piece=65536)) as one,
        serving(server, MemoryTransport(piece=65536)) as other,
    ):
        for client in (one, other):
            client.say(*initialize())
            await client.hear()
        if before is not None:
            other.say(call(1, before[0], **before[1]))
            await other.hear()
        one.say(call(2, tool, **waits))
        with anyio.fail_after(PATIENCE):
            await backend.watching.wait()
        other.say(call(3, ends[0], **ends[1]))
        await other.hear()
        found = await said(one)
        assert {name: found[name] for name in expected} == expected


async def test_a_cancelled_wait_for_work_claims_nothing_later() -> None:
    backend = Watched()
    server = Server("kvmcp-test", backend=backend, items=redis_tools(tuple(TOOL_SETS)))
    async with serving(server, MemoryTransport(piece=65536)) as client:
        client.say(*initialize())
        await client.hear()
        client.say(call(1, "queue_claim", **QUEUE))
        with anyio.fail_after(PATIENCE):
            await backend.watching.wait()
        client.say({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
        client.say(call(2, "redis_rpush", key="q", values=["work"]))
        assert (await said(client))["length"] == 1
        client.say(call(3, "queue_claim", queue="q", owner="b"))
        assert (await said(client))["items"][0]["deliveries"] == 1
