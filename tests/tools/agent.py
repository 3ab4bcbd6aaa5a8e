"""A client that calls the real tools through the real core, on any store, in either era; nothing in between waits.

Batches of the core go to the store one after the other; jobs of `WatchUntil` stay in `jobs` until a test looks.
"""

import json
import time
from collections.abc import Mapping
from functools import cache
from typing import Any

import jsonschema

from kvmcp.backends.base import Backend
from kvmcp.backends.memory import MemoryBackend
from kvmcp.backends.ops import (
    KIND_CHANNEL,
    KIND_SESSION,
    KIND_VALUE,
    Get,
    HashGetAll,
    Namespace,
    Op,
    Page,
    Range,
    ReadLog,
    Scan,
    Ttl,
    TypeOf,
)
from kvmcp.core.catalog import Catalog
from kvmcp.core.commands import WorkDone
from kvmcp.core.items import Tool
from kvmcp.core.plan import Caller, WatchUntil
from kvmcp.tools.definition import Environment
from kvmcp.tools.surface import Selection, build_tools
from tests.core.harness import Server, call
from tests.tools.support import environment

EVERY_SET = ("redis", "simple_kv")
READS: Mapping[object, Any] = {"value": Get, "list": Range, "hash": HashGetAll}


@cache
def fits(schema: bytes) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(schema))


class Agent(Server):
    """One connection. `said` is the structured result of the last call."""

    def __init__(
        self,
        revision: str,
        backend: Backend | None = None,
        *,
        namespace: str = "acme",
        selection: Selection | None = None,
        environment_: Environment | None = None,
        capabilities: Any = None,
        tools: list[Tool] | None = None,
    ) -> None:
        """`tools`: those of another agent, for a test that needs very many agents; building them is slow."""
        self.tools = tools or build_tools(selection or Selection(EVERY_SET), environment_ or environment())
        self.backend: Backend = backend if backend is not None else MemoryBackend(clock=time.monotonic)
        self.namespace = Namespace(namespace)
        super().__init__(
            revision,
            catalog=Catalog(*self.tools),
            caller=Caller(namespace=namespace),
            capabilities={} if capabilities is None else capabilities,
            held=True,
        )
        self._fits = {tool.name: fits(tool.output_schema or b"{}") for tool in self.tools}

    async def does(self, tool: str, arguments: Any = None, **more: Any) -> Any:
        """The structured result of a call, failures included; it fits the tool's schema and its text."""
        reply = await self.hears(self.request("tools/call", call(tool, {**(arguments or {}), **more})))
        return self.checked(tool, reply)

    async def hears(self, message: Any) -> Any:
        """The answer to a message, once the store has run what it needs."""
        self.say(message)
        await self.run_batches()
        [reply] = self.replies()
        return reply

    async def run_batches(self) -> None:
        while self.batches:
            batch = self.batches.pop(0)
            self.connection.complete(batch.ticket, await self.backend.execute(batch.ops), self.now)
            self.run()

    def checked(self, tool: str, reply: Any) -> Any:
        assert not self.reports, self.reports
        result = reply["result"]
        found = result["structuredContent"]
        self._fits[tool].validate(found)
        text = result["content"][0]["text"]
        if result.get("isError"):
            assert text == f"{found['error']['code']}: {found['error']['message']}"
        else:
            assert json.loads(text) == found
        return found

    async def look(self, *, late: bool = False) -> Any:
        """Let the one job look at the store; its result, or None where it goes on waiting."""
        [(ticket, job)] = self.jobs.items()
        assert isinstance(job, WatchUntil)
        answer = job.then.resume(await self.backend.execute(job.ops), job.context, late)  # type: ignore[arg-type]  # opaque
        if answer is None:
            return None
        self.complete(ticket, WorkDone(answer.result))
        [reply] = self.replies()
        return reply["result"]["structuredContent"]

    async def dump(self) -> dict[str, Any]:
        """Everything that tools can have written in this namespace."""
        found: dict[str, Any] = {}
        for kind in (KIND_VALUE, KIND_SESSION):
            for name in await self._names(self.namespace.space(kind)):
                key = self.namespace.key(name, kind)
                (held,) = await self._ask(TypeOf(key))
                value, ttl = await self._ask(READS[held](key), Ttl(key))
                found[f"{kind}:{name}"] = (value, ttl.milliseconds is None)
        for name in ("c", "d"):
            (page,) = await self._ask(ReadLog(self.namespace.key(name, KIND_CHANNEL), 0))
            found[f"log:{name}"] = page.messages
        return found

    async def _names(self, space: str) -> list[str]:
        names: list[str] = []
        cursor = ""
        while True:
            (page,) = await self._ask(Scan(space, cursor=cursor))
            assert isinstance(page, Page)
            names += page.names
            if not (cursor := page.cursor):
                return names

    async def _ask(self, *ops: Op) -> Any:
        return await self.backend.execute(ops)
