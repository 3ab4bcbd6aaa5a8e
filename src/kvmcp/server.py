"""A catalog, a store and transports become a server: the public class."""

import logging
import os
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterable, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import anyio
import msgspec
from anyio.abc import TaskStatus
from msgspec import UNSET, Struct

from kvmcp.backends.base import Backend
from kvmcp.backends.memory import MemoryBackend
from kvmcp.core.catalog import Catalog, ListKind
from kvmcp.core.connection import ServerConnection
from kvmcp.core.errors import RpcError
from kvmcp.core.items import Item, TaskSupport
from kvmcp.core.limits import Limits
from kvmcp.core.plan import Caller
from kvmcp.core.request_state import MIN_KEY_BYTES, Sealer
from kvmcp.core.service import Service
from kvmcp.core.subscriptions import Event, ListChanged, ListName, Watched
from kvmcp.core.wire.common import Implementation, ToolAnnotations
from kvmcp.io.driver import Driver, Listener
from kvmcp.io.lookout import StoreLookout, beside
from kvmcp.io.stdio import claim_stdio
from kvmcp.io.transport import Transport
from kvmcp.io.work import Returned, Work

if TYPE_CHECKING:
    import ssl

    from kvmcp.core.http.guard import Turned
    from kvmcp.functions import CompleteFunction, Contents, Messages
    from kvmcp.io.asgi import HttpApp, HttpOptions
    from kvmcp.tools.namespaces import NamespaceSource

logger = logging.getLogger("kvmcp.server")

_LIST_OF: Final[dict[ListKind, ListName]] = {
    "tools": "tools",
    "resources": "resources",
    "templates": "resources",
    "prompts": "prompts",
}

# `Any`: the type of its own that the first parameter is annotated with.
ToolFunctionT = TypeVar(
    "ToolFunctionT", bound=Callable[[Any, Work], Awaitable[Returned]] | Callable[[Work], Awaitable[Returned]]
)
ResourceFunctionT = TypeVar("ResourceFunctionT", bound="Callable[[Work], Awaitable[Contents]]")
TemplateFunctionT = TypeVar("TemplateFunctionT", bound="Callable[[Any, Work], Awaitable[Contents]]")
PromptFunctionT = TypeVar(
    "PromptFunctionT",
    bound="Callable[[Any, Work], Awaitable[Messages]] | Callable[[Work], Awaitable[Messages]]",
)


def unguessable() -> str:
    """64 hexadecimal digits of the system's randomness: `secrets.token_hex`, without what else that module imports."""
    return os.urandom(32).hex()


class Server:
    """An MCP server: what it offers, the store behind it, and the ways to run it.

    server = Server("shop", backend=MemoryBackend(clock=time.monotonic))

    @server.tool(description="Adds two numbers.")
    async def add(numbers: Numbers, work: Work) -> dict[str, object]: ...

    anyio.run(server.serve_stdio)      # or server.serve_http, server.http_app()

    `items` are catalog items to begin with; `state_key` (at least 32 bytes) seals what clients carry between
    rounds and is shared by replicas, else it is random. With `namespace_from` each request names its namespace, and
    `namespace` counts for none; what a client can write itself is for trusted clients only.
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
        namespace_from: "NamespaceSource | None" = None,
        limits: Limits | None = None,
        state_key: bytes | None = None,
    ) -> None:
        self.catalog = Catalog(*items)
        self.backend: Backend = backend if backend is not None else MemoryBackend(clock=time.monotonic)
        self._info = Implementation(name, version, title=UNSET if title is None else title)
        self._instructions = instructions
        # Without a name of its own a request has no namespace at all: there is none that is called "".
        self._caller = Caller(namespace=namespace if namespace_from is None else "")
        self._namespace_from = namespace_from
        self._limits = limits if limits is not None else Limits()
        self._state_key = state_key if state_key is not None else os.urandom(MIN_KEY_BYTES)
        self._listeners: set[Listener] = set()
        self._lookout = StoreLookout(self.catalog.watch_of, self.backend, self.publish)
        self._watched = Watched(self._lookout)
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
        schema: bytes | Mapping[str, object] | None = None,
        result: type[Struct] | None = None,
        task_support: TaskSupport = "forbidden",
    ) -> "Callable[[ToolFunctionT], ToolFunctionT]":
        """Offer a coroutine function `(arguments, work) -> result` as a tool; without arguments, `(work) -> result`.

        The annotation of `arguments` is a msgspec Struct: it is the input schema. With a JSON Schema of your own
        (`schema`, passed on as it is) they come as a dict. `result` is a Struct that describes the data returned.
        Name and description are the function's unless given. `task_support` lets calls outlive their request, for
        clients that know tasks; `required` refuses the others.
        """
        from kvmcp.functions import function_tool

        def offer(function: ToolFunctionT) -> ToolFunctionT:
            self.add(
                function_tool(
                    function,
                    name=name,
                    title=title,
                    description=description,
                    annotations=annotations,
                    schema=schema,
                    result=result,
                    task_support=task_support,
                )
            )
            return function

        return offer

    def resource(
        self,
        uri: str,
        *,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        mime_type: str | None = None,
    ) -> "Callable[[ResourceFunctionT], ResourceFunctionT]":
        """Offer a coroutine function `(work) -> contents` as the resource at `uri`.

        Contents are a text, bytes, or data that is written as JSON; None means that there is no such resource.
        """
        from kvmcp.functions import function_resource

        def offer(function: ResourceFunctionT) -> ResourceFunctionT:
            self.add(
                function_resource(
                    function, uri, name=name, title=title, description=description, mime_type=mime_type
                )
            )
            return function

        return offer

    def template(
        self,
        uri_template: str,
        *,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        mime_type: str | None = None,
        complete: "CompleteFunction | None" = None,
    ) -> "Callable[[TemplateFunctionT], TemplateFunctionT]":
        """Offer a coroutine function `(variables, work) -> contents` for all resources of an RFC 6570 template.

        The annotation of `variables` is a msgspec Struct with the template's variables; a URI whose values do not
        fit it names no resource. `complete` suggests values; see `kvmcp.Completing`.
        """
        from kvmcp.functions import function_template

        def offer(function: TemplateFunctionT) -> TemplateFunctionT:
            self.add(
                function_template(
                    function,
                    uri_template,
                    name=name,
                    title=title,
                    description=description,
                    mime_type=mime_type,
                    complete=complete,
                )
            )
            return function

        return offer

    def prompt(
        self,
        *,
        name: str | None = None,
        title: str | None = None,
        description: str | None = None,
        complete: "CompleteFunction | None" = None,
    ) -> "Callable[[PromptFunctionT], PromptFunctionT]":
        """Offer a coroutine function `(arguments, work) -> messages` as a prompt; without arguments, `(work)`.

        The annotation of `arguments` is a msgspec Struct, which clients are told of; they send texts, which are read
        as its types. Messages are a text, or a sequence of `PromptMessage`. `complete` suggests values.
        """
        from kvmcp.functions import function_prompt

        def offer(function: PromptFunctionT) -> PromptFunctionT:
            self.add(
                function_prompt(function, name=name, title=title, description=description, complete=complete)
            )
            return function

        return offer

    def publish(self, event: Event) -> None:
        """Tell connected clients of a change. Call it on the server's event loop."""
        for listener in list(self._listeners):
            listener.publish(event)

    # --- running it ---

    async def serve(self, transport: Transport) -> None:
        """Serve one client on a stream of lines until it closes its end. Raises ValueError as `stream_caller` does."""
        service, caller = self.service(), self.stream_caller()
        machine = ServerConnection(service, caller)
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
                tasks.start_soon(self._stop_on, signals, self.stop)
                await self.serve(transport)
                tasks.cancel_scope.cancel()
            if at_end is not None:
                at_end()

    def stop(self) -> None:
        """Take no more requests, finish what was accepted. Call it on the server's event loop."""
        for listener in list(self._listeners):
            listener.stop()

    async def serve_http(
        self,
        host: str = "127.0.0.1",
        port: int = 8765,
        options: "HttpOptions | None" = None,
        *,
        tls: "ssl.SSLContext | None" = None,
        task_status: TaskStatus[int] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve HTTP clients at `http://host:port/mcp`; returns some seconds after SIGTERM or SIGINT.

        Port 0 takes a free one; `await tasks.start(server.serve_http, "127.0.0.1", 0)` gives its number once clients
        may come. `options.bound` is set to `host`. Raises OSError where the address cannot be listened on.
        """
        from kvmcp.io.asgi import HttpOptions
        from kvmcp.io.hypercorn import HypercornServer
        from kvmcp.io.listening import ListenLimits, listen_tcp

        options = msgspec.structs.replace(options if options is not None else HttpOptions(), bound=host)
        app = self.http_app(options)
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            listeners = await listen_tcp(host, port)
            http = HypercornServer(
                app, listeners, ListenLimits(shutdown_grace=self._limits.shutdown_grace), tls
            )

            def stop() -> None:
                self.stop()
                http.stop()

            async with app.running(), anyio.create_task_group() as tasks:
                tasks.start_soon(self._stop_on, signals, stop)
                logger.info(
                    "MCP over HTTP: %s://%s%s", "https" if tls else "http", listeners[0].name, options.path
                )
                task_status.started(listeners[0].port)
                await http.run()
                tasks.cancel_scope.cancel()

    async def _stop_on(self, signals: AsyncIterator[signal.Signals], stop: Callable[[], None]) -> None:
        async for number in signals:
            logger.info("%s: stopping", number.name)
            stop()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """The store is up inside this context; clients may then be served, over any number of transports.

        Contexts may overlap: the store ends with the last one.
        """
        self._runs += 1
        try:
            if self._runs == 1:
                await self.backend.start()
            async with beside(self._lookout.run):
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

    def stream_caller(self) -> Caller:
        """Who is at the other end of a stream. Raises ValueError where headers name the namespace: it has none."""
        if self._namespace_from is not None and self._namespace_from.kind == "header":
            raise ValueError(f"namespaces come from {self._namespace_from}, and a stream has no headers")
        return self._caller

    def caller(self, headers: Iterable[tuple[bytes, bytes]]) -> "Caller | Turned":
        """Who sends a request with these headers; the response where that cannot be said."""
        source = self._namespace_from
        if source is None or source.kind != "header":
            return self._caller
        namespace = source.of_headers(headers)
        if isinstance(namespace, RpcError):
            from kvmcp.core.http.guard import refuse_caller  # loaded by whoever has headers

            return refuse_caller(namespace)
        return Caller(namespace=namespace)

    def service(self) -> Service:
        """What all sessions on the running event loop share."""
        source = self._namespace_from
        return Service(
            self.catalog,
            self._info,
            sealer=Sealer(self._state_key, wall_offset=time.time() - anyio.current_time()),
            token=unguessable,
            instructions=UNSET if self._instructions is None else self._instructions,
            limits=self._limits,
            watched=self._watched,
            caller_of=source.of_meta if source is not None and source.kind == "meta" else None,
        )
