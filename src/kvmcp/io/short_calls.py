"""Calls that are answered without a task: begun where their request was read, answered where the store's replies are.

For servers of ours that can do without ASGI (`uvicorn`). A call that needs more than the store once, or that is still
at the store when the endpoint stops, goes on in a task, as all others do.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol, TypeAlias, cast

import anyio

from kvmcp.backends.base import Backend, Ops, Replies
from kvmcp.core.commands import BatchFailed, Command, RunBatch
from kvmcp.core.http.exchange import HttpExchange
from kvmcp.core.http.messages import Part
from kvmcp.io.endpoint import Endpoint, Receive, Response, Send
from kvmcp.io.running import count_fault, fail_batch

logger = logging.getLogger("kvmcp.io")

Serve: TypeAlias = Callable[[Receive, Send], Awaitable[None]]
"""What is left of an ASGI application that knows its scope already."""
Counted: TypeAlias = Callable[[Response, Awaitable[None]], Awaitable[None]]
"""Awaits what writes a response, and counts how it ends."""


class Peer(Protocol):
    """Who waits for an answer, on a connection. One of these is called, once; neither waits nor raises."""

    def answer(self, parts: Sequence[Part]) -> None:
        """Write a whole response."""
        ...

    def go_on(self, serve: Serve) -> None:
        """Run `serve` in a task of its own: it writes the response."""
        ...


class ShortCall:
    """A plain call of which no task knows, from `begin` on."""

    __slots__ = ("_backend", "_command", "_counted", "_endpoint", "_exchange", "_peer", "_replied")

    def __init__(
        self, exchange: HttpExchange, endpoint: Endpoint, backend: Backend, peer: Peer, counted: Counted
    ) -> None:
        self._exchange = exchange
        self._endpoint = endpoint
        self._backend = backend
        self._peer = peer
        self._counted = counted
        self._command: RunBatch | None = None
        """What the store has."""
        self._replied: anyio.Event | None = None
        """Tells the task, where there is one, that the store has replied."""

    def begin(self) -> None:
        """Ask the store; the peer may have its answer on return. Called in no task: nothing of anyio works here."""
        commands = self._exchange.take_commands()
        if len(commands) > 1 or not commands or not isinstance(commands[0], RunBatch):
            self._go_on(commands)
            return
        command = self._command = commands[0]
        self._endpoint.short_calls[self] = None
        try:
            if self._backend.execute_soon(cast(Ops, command.ops), self._receive):
                return
        except Exception as error:  # noqa: BLE001  # the contract forbids it; a client must not pay for it
            fail_batch(self._exchange, command, error, self._endpoint.clock())
            commands = self._exchange.take_commands()
        self._command = None
        del self._endpoint.short_calls[self]
        self._go_on(commands)

    def _receive(self, replies: Replies) -> None:
        """In whichever task has them, which is not to pay for a fault of ours."""
        command, self._command = self._command, None
        if command is None:
            return
        self._endpoint.short_calls.pop(self, None)
        try:
            self._complete(command, replies)
        except Exception:
            logger.exception("a batch could not be completed")
            self._go_on([])

    def _complete(self, command: RunBatch, replies: Replies) -> None:
        exchange, now = self._exchange, self._endpoint.clock()
        if fault := count_fault(replies, len(command.ops)):
            fail_batch(exchange, command, fault, now)
        else:
            exchange.complete(command.ticket, replies, now)
        if not exchange.is_alone or self._replied is not None:
            self._go_on([])
            return
        self._peer.answer(exchange.take_parts())
        self._endpoint.note_end()

    # --- in a task ---

    def _go_on(self, commands: list[Command]) -> None:
        if self._replied is not None:
            self._replied.set()
        else:
            self._peer.go_on(partial(self._serve, commands))

    async def _serve(self, commands: list[Command], receive: Receive, send: Send) -> None:
        response = Response(send, "POST")
        await self._counted(response, self._endpoint.resume(self._exchange, commands, receive, response))

    def move_to_task(self) -> None:
        """Wait for the store there, as the endpoint is about to stop."""
        self._replied = anyio.Event()
        self._peer.go_on(self._serve_at_store)

    async def _serve_at_store(self, receive: Receive, send: Send) -> None:
        response = Response(send, "POST")
        await self._counted(
            response, self._endpoint.resume(self._exchange, [], receive, response, self._wait_for_store)
        )

    async def _wait_for_store(self) -> None:
        assert self._replied is not None, "it was moved to a task"
        try:
            await self._replied.wait()
        finally:
            command, self._command = self._command, None
            if command is not None:  # As in `run_alone`: who goes on must not wait for it.
                self._exchange.complete(command.ticket, BatchFailed(), self._endpoint.clock())
