"""Drives the HTTP machine of the core over ASGI: one exchange per request, and what belongs to no request.

An exchange lives in its request's task for as long as its connection does. What has to go on without it (a legacy
call whose client will come back, a task) goes on in the endpoint's own task group.
"""

import logging
import math
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Final, Protocol, TypeAlias

import anyio
from anyio.abc import TaskGroup

from kvmcp.backends.base import Backend
from kvmcp.core.commands import Command, RunBatch
from kvmcp.core.http.exchange import HttpExchange
from kvmcp.core.http.messages import Field, Part, ResponseStart
from kvmcp.core.http.old_sse import OldSseServer
from kvmcp.core.http.server import HttpServer
from kvmcp.core.subscriptions import Event
from kvmcp.io.loops import clock_of_loop
from kvmcp.io.replicas import Replicas
from kvmcp.io.running import Runner, run_alone

logger = logging.getLogger("kvmcp.io")

Message: TypeAlias = MutableMapping[str, Any]
"""What ASGI passes around; its specification says what is in it."""
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]
BodyNow: TypeAlias = Callable[[], bytes | None]

BODY_NOW: Final = "kvmcp.body_now"
"""An ASGI extension of the servers that we run: a `BodyNow`, which gives the whole body if it is here already, for
then there is nothing to wait for, and no deadline to set for it. Asked once, before anything is received."""


class Response:
    """Writes the parts of one response; remembers whether there is anybody left to write to."""

    def __init__(self, send: Send, method: str = "GET") -> None:
        self._send = send
        self._has_body = method != "HEAD"
        self.headers: Sequence[Field] = ()
        """Besides those that its parts have."""
        self.status = 0
        """0 until the head was written."""
        self.over = False
        """Whether it is complete, or its reader is gone."""

    async def write(self, parts: Sequence[Part]) -> None:
        for part in parts:
            if self.over:
                return
            try:
                await self._send(self._message(part))
            except OSError as error:
                logger.debug("the client is gone: %s", error)
                self.over = True

    def _message(self, part: Part) -> Message:
        if isinstance(part, ResponseStart):
            self.status = part.status
            headers = [*part.headers, *self.headers] if self.headers else part.headers
            return {"type": "http.response.start", "status": part.status, "headers": headers}
        self.over = not part.more
        data = part.data if self._has_body else b""
        return {"type": "http.response.body", "body": data, "more_body": part.more}


class Movable(Protocol):
    """A call that no task knows of (`short_calls`)."""

    def move_to_task(self) -> None: ...


class Endpoint:
    """One `HttpServer` on the running event loop, and beside it the older transport where that is offered.

    `tasks` is the task group that it lives in; leaving that ends it. `patience` is how long, in seconds, a client
    may be left without a sign of life. `replicated`: other processes serve the same clients, over the same store.
    """

    def __init__(
        self,
        server: HttpServer,
        old_sse: OldSseServer | None,
        backend: Backend,
        tasks: TaskGroup,
        patience: float,
        *,
        replicated: bool = False,
    ) -> None:
        self._server = server
        self._old_sse = old_sse
        self._backend = backend
        self._tasks = tasks
        # Whoever waits for the store in the request's own task cannot write a sign of life meanwhile.
        self.store_is_prompt = backend.time_limit < patience
        self._drives: dict[HttpExchange, _Drive] = {}
        self._prompt: dict[HttpExchange, anyio.CancelScope] = {}
        """Requests whose body arrives, or that wait for the store in their own task, and the end of that wait."""
        self._at_store: dict[HttpExchange, Response] = {}
        """Requests that wait for the store in their own task, and whose wait nothing ends but the store."""
        self.short_calls: dict[Movable, None] = {}
        """Those that wait for the store in no task."""
        self.clock = clock_of_loop()
        self._finished: anyio.Event | None = None
        self.closed = False
        """Whether nothing can be run any more."""
        self._runner = Runner(server, backend, tasks, self._turn, self.settle, self.clock)
        self._alarm = anyio.CancelScope()
        self._replicas = Replicas(server, backend, self.settle) if replicated else None

    def start(self) -> None:
        """Begin what goes on as long as the endpoint, in its task group."""
        self._tasks.start_soon(self._keep_time)
        if self._replicas is not None:
            self._tasks.start_soon(self._replicas.run)

    async def problem(self) -> str | None:
        """Why it is not in step with the other processes that serve the same clients; None where it is."""
        return None if self._replicas is None else await self._replicas.problem()

    async def _keep_time(self) -> None:
        """The timer of what belongs to no request."""
        while True:
            deadline = self._server.next_deadline()
            with anyio.CancelScope(deadline=math.inf if deadline is None else deadline) as self._alarm:
                await anyio.sleep_forever()
            self._server.handle_timeout(anyio.current_time())
            self.settle()

    def publish(self, event: Event) -> None:
        """Something changed that clients may want to know."""
        now = anyio.current_time()
        self._server.publish(event, now)
        if self._old_sse is not None:
            self._old_sse.publish(event, now)
        self.settle()

    def stop(self) -> None:
        """Take no new requests, finish what was accepted, within the shutdown grace."""
        now = anyio.current_time()
        self._server.begin_shutdown(now)
        if self._old_sse is not None:
            self._old_sse.begin_shutdown(now)
        for exchange, scope in self._prompt.items():
            deadline = exchange.next_deadline()
            scope.deadline = now if deadline is None else min(deadline, scope.deadline)
        short_calls = list(self.short_calls)
        self.short_calls.clear()
        for call in short_calls:
            call.move_to_task()
        if self._at_store or short_calls:  # These tasks run first.
            self._tasks.start_soon(self._answer_for_store)
        self.settle()

    async def _answer_for_store(self) -> None:
        """Requests that still wait for the store when their grace is over are answered from here."""
        while waiting := [exchange for exchange in self._at_store if not exchange.closed]:
            await anyio.sleep_until(min(map(_deadline, waiting)))
            for exchange in waiting:
                response = self._at_store.get(exchange)
                if response is not None:
                    exchange.handle_timeout(self.clock())
                    self._tasks.start_soon(response.write, exchange.take_parts())
            self.settle()
            self.note_end()

    async def finish(self) -> None:
        """After `stop`: until every request is over, and the other processes were told of that. Bound it."""
        while self.requests:
            self._finished = anyio.Event()
            await self._finished.wait()
        if self._replicas is not None:
            await self._replicas.drain()

    def close(self) -> None:
        """The task group is about to end: whoever is still here must go."""
        self.closed = True
        self._runner.close()
        for drive in self._drives.values():
            drive.close()

    @property
    def requests(self) -> int:
        """Those that are not over."""
        return self._server.requests + (0 if self._old_sse is None else self._old_sse.requests)

    def settle(self) -> None:
        """What an input to one exchange gave others to do."""
        server = self._server
        while commands := server.take_commands():
            self._runner.run(commands)
        if self._replicas is not None:
            self._replicas.add(server.take_records(), server.take_relays())
        for exchange in server.take_woken():
            self._wake(exchange)
        if self._old_sse is not None:
            for exchange in self._old_sse.take_woken():
                self._wake(exchange)
        deadline = server.next_deadline()
        if deadline is not None and deadline < self._alarm.deadline:
            self._alarm.deadline = deadline

    def _wake(self, exchange: HttpExchange) -> None:
        drive = self._drives.get(exchange)
        if drive is not None:  # Otherwise its own task is about to look at it anyway.
            drive.wake()

    async def _turn(self) -> None:
        self.settle()

    # --- one request ---

    async def serve(
        self, exchange: HttpExchange, receive: Receive, response: Response, body_now: BodyNow | None = None
    ) -> None:
        """Read the request's body and write its response; returns when that is over, or its client gone."""
        body = body_now() if body_now is not None and self.store_is_prompt else None
        try:
            if body is None:
                commands = await self._begin(exchange, receive)
            else:
                exchange.receive_all(body, self.clock())
                commands = await self._run_at_store(exchange, response, exchange.take_commands())
            await self._respond(exchange, commands, receive, response)
        finally:
            self._leave(exchange)

    async def resume(
        self,
        exchange: HttpExchange,
        commands: list[Command],
        receive: Receive,
        response: Response,
        wait: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """As `serve`, for a request that was begun elsewhere; first `wait` for what the store has of it."""
        try:
            if wait is not None:
                self._at_store[exchange] = response
                try:
                    await wait()
                finally:
                    del self._at_store[exchange]
            commands = await self._run_at_store(exchange, response, commands or exchange.take_commands())
            await self._respond(exchange, commands, receive, response)
        finally:
            self._leave(exchange)

    async def _respond(
        self, exchange: HttpExchange, commands: list[Command], receive: Receive, response: Response
    ) -> None:
        if not commands:
            parts = exchange.take_parts()
            if not exchange.is_alone:
                self.settle()
            await response.write(parts)
        if not exchange.closed:
            await self._serve_long(exchange, commands, receive, response)

    def _leave(self, exchange: HttpExchange) -> None:
        if not exchange.closed:
            exchange.disconnected(anyio.current_time())
            # The requests of other servers, such as uvicorn's, are no tasks of ours: they may outlive us.
            if not self.closed:
                self._tasks.start_soon(self._go_on, exchange)
        self.note_end()

    def note_end(self) -> None:
        """A request may have been the last one."""
        if self._finished is not None and not self.requests:
            self._finished.set()

    async def _begin(self, exchange: HttpExchange, receive: Receive) -> list[Command]:
        """What can be done in the request's own task; returns the commands that need more."""
        commands: list[Command] = []
        with anyio.CancelScope(deadline=_deadline(exchange)) as self._prompt[exchange]:
            try:
                await self._receive_body(exchange, receive)
                commands = await self._run_prompt(exchange)
            finally:
                del self._prompt[exchange]
        exchange.handle_timeout(anyio.current_time())
        return commands

    async def _run_at_store(
        self, exchange: HttpExchange, response: Response, commands: list[Command]
    ) -> list[Command]:
        """As `_run_prompt`, for a request of which no part is to be waited for: without a scope for that."""
        while len(commands) == 1 and isinstance(commands[0], RunBatch):
            self._at_store[exchange] = response
            try:
                await run_alone(exchange, self._backend, commands[0], self.clock)
            finally:
                del self._at_store[exchange]
            commands = exchange.take_commands()
        return commands

    async def _receive_body(self, exchange: HttpExchange, receive: Receive) -> None:
        while exchange.wants_input:
            message = await receive()
            now = anyio.current_time()
            if message["type"] == "http.disconnect":
                exchange.disconnected(now)
                return
            exchange.receive_body(message.get("body", b""), now)
            if not message.get("more_body", False):
                exchange.end_of_body(now)

    async def _run_prompt(self, exchange: HttpExchange) -> list[Command]:
        """Most requests are a batch for the store and nothing else: no task and no timer for them.

        Returns the commands that need more.
        """
        self._prompt[exchange].deadline = math.inf  # The store has deadlines of its own.
        while commands := exchange.take_commands():
            if not self.store_is_prompt or len(commands) > 1 or not isinstance(commands[0], RunBatch):
                break
            await run_alone(exchange, self._backend, commands[0])
        return commands

    async def _serve_long(
        self, exchange: HttpExchange, commands: list[Command], receive: Receive, response: Response
    ) -> None:
        """A response that has to wait, while its client may go."""
        drive = self._drive(exchange)
        drive.run_commands(commands)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch_connection, receive, drive, response)
            await drive.run(response)
            tasks.cancel_scope.cancel()

    async def _watch_connection(self, receive: Receive, drive: "_Drive", response: Response) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        response.over = True
        drive.wake()

    async def _go_on(self, exchange: HttpExchange) -> None:
        """The client is gone, or was sent away to come back: what it started may have to be finished."""
        try:
            await self._drive(exchange).run(None)
        except Exception:  # Whatever it is, it must not reach other requests.
            logger.exception("a request whose client had left failed")
        finally:
            self.note_end()

    def _drive(self, exchange: HttpExchange) -> "_Drive":
        drive = self._drives.get(exchange)
        if drive is None:
            drive = self._drives[exchange] = _Drive(self, exchange, self._backend, self._tasks)
        return drive

    def forget(self, exchange: HttpExchange) -> None:
        """It is closed."""
        self._drives.pop(exchange, None)


class _Drive:
    """An exchange that takes longer: its jobs, its timer, and what wakes it."""

    def __init__(
        self, endpoint: Endpoint, exchange: HttpExchange, backend: Backend, tasks: TaskGroup
    ) -> None:
        self._endpoint = endpoint
        self._exchange = exchange
        self._runner = Runner(exchange, backend, tasks, self._turn, self.wake, endpoint.clock)
        self._woken = anyio.Event()

    def wake(self) -> None:
        self._woken.set()

    def close(self) -> None:
        """The task group is about to end."""
        self._runner.close()
        self.wake()

    async def _turn(self) -> None:
        self._woken.set()

    def run_commands(self, commands: list[Command]) -> None:
        while commands:
            self._runner.run(commands)
            commands = self._exchange.take_commands()

    async def run(self, response: Response | None) -> None:
        """Turns until the exchange is closed, or the response over. Without one nobody reads any more."""
        exchange = self._exchange
        while True:
            self.run_commands(exchange.take_commands())
            parts = exchange.take_parts()
            self._endpoint.settle()
            if response is not None:
                await response.write(parts)
            if exchange.closed:
                self._runner.end()
                self._endpoint.forget(exchange)
                return
            if self._endpoint.closed or (response is not None and response.over):
                return
            if not parts and not exchange.wants_turn:
                await self._wait()

    async def _wait(self) -> None:
        with anyio.CancelScope(deadline=_deadline(self._exchange)):
            await self._woken.wait()
        self._woken = anyio.Event()
        self._exchange.handle_timeout(anyio.current_time())


def _deadline(exchange: HttpExchange) -> float:
    deadline = exchange.next_deadline()
    return math.inf if deadline is None else deadline
