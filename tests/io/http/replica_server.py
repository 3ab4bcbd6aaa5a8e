"""`kvmcp serve` with tools that ask, report and announce: what replicas have to agree about.

    python -m tests.io.http.replica_server --transport http:0 --backend redis://… --loop asyncio|trio [--workers N]

The same assembly and the same settings as the command's, the environment included; only the tools are added.
"""

import os
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
from msgspec import Struct

from kvmcp import Server, Work, filled, form
from kvmcp.assembly import open_backend, run_loop
from kvmcp.backends.ops import Failure, Get, Message, Namespace, Publish, Set
from kvmcp.config import load
from kvmcp.core import ListChanged
from kvmcp.logs import configure
from kvmcp.network import serve_network
from tests.tools.support import redis_tools

SPACE: Final = Namespace("fixture")
CHANNEL: Final = SPACE.key("announcements", "c")


class Colour(Struct):
    colour: str


class Steps(Struct, forbid_unknown_fields=True):
    count: int
    gate: str
    """The key without which the last step is not taken."""


class Gate(Struct, forbid_unknown_fields=True):
    gate: str


class Replica(Server):
    """Announces to its own clients whatever any replica was told to announce."""

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        async with super().running(), anyio.create_task_group() as tasks:
            tasks.start_soon(self._announce)
            yield
            tasks.cancel_scope.cancel()

    async def _announce(self) -> None:
        async with self.backend.watch(channels=[CHANNEL]) as events:
            async for event in events:
                if isinstance(event, Message):
                    self.publish(ListChanged("tools"))


def add_tools(server: Server) -> None:
    """The tools beside those of `kvmcp serve`."""

    @server.tool()
    async def ask(work: Work) -> str:
        """Asks for a colour."""
        answers = await work.ask({"colour": form("Which colour?", Colour)})
        answer = filled(answers["colour"], Colour)
        return answer.colour if answer is not None else "none"

    @server.tool()
    async def steps(arguments: Steps, work: Work) -> str:
        """Reports progress, then waits until the gate is opened."""
        for number in range(arguments.count):
            await work.report_progress(number + 1, arguments.count)
        key = SPACE.key(arguments.gate, "g")
        while arguments.gate:
            (reply,) = await server.backend.execute([Get(key)])
            if reply is not None and not isinstance(reply, Failure):
                break
            await anyio.sleep(0.02)
        return "done"

    @server.tool()
    async def open_gate(arguments: Gate, work: Work) -> str:
        """Lets `steps` go on."""
        await server.backend.execute([Set(SPACE.key(arguments.gate, "g"), b"1")])
        return "open"

    @server.tool()
    async def announce(work: Work) -> str:
        """All clients of all replicas are told that the list of tools has changed."""
        await server.backend.execute([Publish(CHANNEL, b'"changed"')])
        return "announced"


def main() -> int:
    words = sys.argv[1:]
    flags: dict[str, str] = {}
    for name, value in zip(words[::2], words[1::2], strict=True):
        flags[name.removeprefix("--").replace("-", "_")] = value
    settings = load(flags, os.environ, lambda path: Path(path).read_bytes()).settings
    configure(settings.log_level, settings.log_format)
    server = Replica(
        "replica",
        backend=open_backend(settings),
        items=redis_tools(),
        namespace=settings.namespace,
        state_key=settings.state_key,
    )
    add_tools(server)
    return serve_network(server, settings, run_loop)


if __name__ == "__main__":
    sys.exit(main())
