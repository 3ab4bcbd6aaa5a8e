"""A catalog, a store and transports become a server: the public class."""

import logging
import secrets
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterable
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
from msgspec import UNSET, Struct

from kvmcp.backends.base import Backend
from kvmcp.backends.memory import MemoryBackend
from kvmcp.core.arguments import StructArguments
from kvmcp.core.catalog import Catalog, Item, ListKind, Tool
from kvmcp.core.connection import ServerConnection
from kvmcp.core.json_schema import output_schema
from kvmcp.core.limits import Limits
from kvmcp.core.plan import Caller, Context, Plan, Start
from kvmcp.core.request_state import MIN_KEY_BYTES, Sealer
from kvmcp.core.service import Service
from kvmcp.core.subscriptions import Event, ListChanged, ListName
from kvmcp.core.wire.common import Implementation, ToolAnnotations
from kvmcp.io.driver import Driver, Listener
from kvmcp.io.stdio import claim_stdio
from kvmcp.io.transport import Transport
from kvmcp.io.work import FunctionJob, Returned, Work

if TYPE_CHECKING:
    from kvmcp.io.asgi import HttpApp, HttpOptions

logger = logging.getLogger("kvmcp.server")

_LIST_OF: Final[dict[ListKind, ListName]] = {
    "tools": "tools",
    "resources": "resources",
    "templates": "resources",
    "prompts": "prompts",
}

ArgumentsT = TypeVar("ArgumentsT", bound=Struct)
ToolFunction = Callable[[ArgumentsT, Work], Awaitable[Returned]]


class Server:
    """An MCP server: what it offers, the store behind it, and the ways to run it.

    server = Server("shop", backend=MemoryBackend(clock=time.monotonic))

    @server.tool(description="Adds two numbers.")
    async def add(numbers: Numbers, work: Work) -> dict[str, object]: ...

    anyio.run(server.serve_stdio)

    `tools` are catalog items to begin with; `state_key` (at least 32 bytes) seals what clients carry between
    rounds and is shared by replicas, else it is random.
    """

    def __init__(
        self,
        name: str = "kvmcp",
        *,
        version: str = "0",
        title: str | None = None,
        instructions: str | None = None,
        backend: Backend | None = None,
        items: Iterable[Item] = (),
        namespace: str = "default",
        limits: Limits | None = None,
        state_key: bytes | None = None,
    ) -> None:
        self.catalog = Catalog(*items)
        self.backend: Backend = backend if backend is not None else MemoryBackend(clock=time.monotonic)
        self._info = Implementation(name, version, title=UNSET if title is None else title)
        self._instructions = instructions
        self._caller = Caller(namespace=namespace)
        self._limits = limits if limits is not None else Limits()
        self._state_key = state_key if state_key is not None else secrets.token_bytes(MIN_KEY_BYTES)
        self._listeners: set[Listener] = set()
        self._runs = 0

    # --- what it offers ---

    def add(self, item: Item) -> None:
        """Offer a tool, resource, template or prompt; connected clients are told."""
        self.publish(ListChanged(_LIST_OF[self.catalog.add(item)]))

    def remove(self, item: Item) -> None:
        """Stop offering something; connected clients are told."""
        self.publish(ListChanged(_LIST_OF[self.catalog.remove(item)]))

    def tool(
        self,
        *,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        annotations: ToolAnnotations | None = None,
        result: type[Struct] | None = None,
    ) -> Callable[[ToolFunction[ArgumentsT]], ToolFunction[ArgumentsT]]:
        """Offer a coroutine function `(arguments, work) -> result` as a tool.

        The annotation of its first parameter is a msgspec Struct: it is the input schema. `result` is a Struct
        that describes the data it returns. Name and description are the function's unless given.
        """

        def offer(function: ToolFunction[ArgumentsT]) -> ToolFunction[ArgumentsT]:
            self.add(
                function_tool(
                    function,
                    name=name if name is not None else function.__name__,
                    title=title,
                    description=description if description is not None else function.__doc__,
                    annotations=annotations,
                    result=result,
                )
            )
            return function

        return offer

    def publish(self, event: Event) -> None:
        """Tell connected clients of a change. Call it on the server's event loop."""
        for listener in list(self._listeners):
            listener.publish(event)

    # --- running it ---

    async def serve(self, transport: Transport) -> None:
        """Serve one client on a stream of lines until it closes its end."""
        service = self.service()
        machine = ServerConnection(service, self._caller)
        driver = Driver(machine, transport, self.backend, self._limits.shutdown_grace)
        with self.listening(driver):
            await driver.run()

    async def serve_stdio(self, at_end: Callable[[], None] | None = None) -> None:
        """Serve the client at standard input and output; returns at end of input, SIGTERM or SIGINT.

        `at_end` is called when all is done, while those signals are still taken.
        """
        # Signals first: one that came between would end the process in the middle of something.
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals, claim_stdio() as transport:
            async with self.running(), anyio.create_task_group() as tasks:
                tasks.start_soon(self._stop_on, signals)
                await self.serve(transport)
                tasks.cancel_scope.cancel()
            if at_end is not None:
                at_end()

    def stop(self) -> None:
        """Take no more requests, finish what was accepted. Call it on the server's event loop."""
        for listener in list(self._listeners):
            listener.stop()

    async def _stop_on(self, signals: AsyncIterator[signal.Signals]) -> None:
        async for number in signals:
            logger.info("%s: stopping", number.name)
            self.stop()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """The store is up inside this context; clients may then be served, over any number of transports.

        Contexts may overlap: the store ends with the last one.
        """
        self._runs += 1
        if self._runs == 1:
            await self.backend.start()
        try:
            yield
        finally:
            self._runs -= 1
            if not self._runs:
                with anyio.CancelScope(shield=True):
                    await self.backend.aclose()

    def http_app(self, options: "HttpOptions | None" = None) -> "HttpApp":
        """This server as an ASGI application, to be run by any ASGI server or mounted in another application.

        Where the ASGI server runs no lifespan for it (mounted in Starlette or FastAPI), hold `app.running()` in
        the lifespan of the application around it. Raises ValueError for options that cannot be used.
        """
        from kvmcp.io.asgi import HttpApp  # Whoever serves standard input only has no use for HTTP.

        return HttpApp(self, options)

    # --- for transports ---

    @contextmanager
    def listening(self, listener: Listener) -> Generator[None]:
        """Inside this context it is told of changes, and when to stop."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    def caller(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller:
        """Who sends a request with these headers."""
        return self._caller

    def service(self) -> Service:
        """What all sessions on the running event loop share."""
        return Service(
            self.catalog,
            self._info,
            sealer=Sealer(self._state_key, wall_offset=time.time() - anyio.current_time()),
            token=secrets.token_hex,
            instructions=UNSET if self._instructions is None else self._instructions,
            limits=self._limits,
        )


def function_tool(
    function: ToolFunction[ArgumentsT],
    *,
    name: str,
    title: str | None = None,
    description: str | None = None,
    annotations: ToolAnnotations | None = None,
    result: type[Struct] | None = None,
) -> Tool:
    """A catalog item that runs a coroutine function; see `Server.tool`."""
    arguments = _first_annotation(function)
    if not isinstance(arguments, type) or not issubclass(arguments, Struct):
        raise TypeError(f"tool {name}: the first parameter needs a msgspec Struct as its annotation")

    def plan(arguments: object, context: Context) -> Plan:
        return Start(FunctionJob(function, arguments, context))  # type: ignore[arg-type]  # decoded as that Struct

    return Tool(
        name=name,
        arguments=StructArguments(arguments),
        plan=plan,
        title=UNSET if title is None else title,
        description=UNSET if description is None else description,
        annotations=UNSET if annotations is None else annotations,
        output_schema=None if result is None else output_schema(result),
    )


def _first_annotation(function: Callable[..., object]) -> object:
    """What the first parameter is annotated with; a name is looked up where the function was defined."""
    from inspect import get_annotations, signature  # Only for servers with tools of their own.

    first = next(iter(signature(function).parameters), "")
    annotation = function.__annotations__.get(first)
    return get_annotations(function, eval_str=True)[first] if isinstance(annotation, str) else annotation
