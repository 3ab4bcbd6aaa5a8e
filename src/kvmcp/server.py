"""Assembly: a catalog, a store and a transport become a server. `Server` is the public class, `serve` the command."""

import gc
import logging
import os
import secrets
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterable
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import anyio
import msgspec
from msgspec import UNSET, Raw, Struct

from kvmcp import __version__
from kvmcp.backends.base import Backend
from kvmcp.backends.memory import MemoryBackend
from kvmcp.config import Settings
from kvmcp.core.arguments import StructArguments
from kvmcp.core.catalog import Catalog, Item, ListKind, Tool
from kvmcp.core.connection import ServerConnection
from kvmcp.core.errors import RpcError
from kvmcp.core.json_schema import output_schema
from kvmcp.core.limits import Limits
from kvmcp.core.plan import Caller, Context, Plan, Start
from kvmcp.core.projection import definition
from kvmcp.core.request_state import MIN_KEY_BYTES, Sealer
from kvmcp.core.service import Service
from kvmcp.core.subscriptions import Event, ListChanged, ListName, Watched
from kvmcp.core.versions import LATEST_MODERN
from kvmcp.core.wire.common import Content, Implementation, TextContent, ToolAnnotations, ToolResult
from kvmcp.core.wire.params import CLIENT_CAPABILITIES, CLIENT_INFO, PROTOCOL_VERSION
from kvmcp.io.driver import Driver, Listener
from kvmcp.io.lookout import StoreLookout, beside
from kvmcp.io.stdio import claim_stdio, fill_standard_descriptors
from kvmcp.io.transport import Transport
from kvmcp.io.work import FunctionJob, Returned, Work
from kvmcp.logs import configure
from kvmcp.tools.namespaces import NOBODY, NamespaceSource, parse_source
from kvmcp.tools.prompts import PROMPTS
from kvmcp.tools.resources import RESOURCES
from kvmcp.tools.surface import TOOL_SETS

if TYPE_CHECKING:
    from kvmcp.core.http.guard import Turned

logger = logging.getLogger("kvmcp.server")

SHARED: Final = "A key-value store that is shared with other agents and outlives this conversation."
PRIVATE: Final = (
    "A key-value store of this server process: nobody else sees it, and it ends with the process."
)
INSTRUCTIONS: Final = (
    "Keys are UTF-8 strings, values are any JSON. A missing key is an answer (found: false), not an error. "
    "Errors carry a code and say whether trying again can help; after UNKNOWN_OUTCOME read first."
)

_LIST_OF: Final[dict[ListKind, ListName]] = {
    "tools": "tools",
    "resources": "resources",
    "templates": "resources",
    "prompts": "prompts",
}

ArgumentsT = TypeVar("ArgumentsT", bound=Struct)
ToolFunction = Callable[[ArgumentsT, Work], Awaitable[Returned]]


class UnknownTool(Exception):
    """There is no tool of this name."""


class Refused(Exception):
    """The server answered a call with a protocol error; the message is the error's."""


class Server:
    """An MCP server: what it offers, the store behind it, and the ways to run it.

    server = Server("shop", backend=MemoryBackend(clock=time.monotonic))

    @server.tool(description="Adds two numbers.")
    async def add(numbers: Numbers, work: Work) -> dict[str, object]: ...

    anyio.run(server.serve_stdio)

    `tools` are catalog items to begin with; `state_key` (at least 32 bytes) seals what clients carry between
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
        namespace_from: NamespaceSource | None = None,
        limits: Limits | None = None,
        state_key: bytes | None = None,
    ) -> None:
        self.catalog = Catalog(*items)
        self.backend: Backend = backend if backend is not None else MemoryBackend(clock=time.monotonic)
        self._info = Implementation(name, version, title=UNSET if title is None else title)
        self._instructions = instructions
        self._caller = Caller(namespace=namespace if namespace_from is None else NOBODY)
        self._namespace_from = namespace_from
        self._limits = limits if limits is not None else Limits()
        self._state_key = state_key if state_key is not None else secrets.token_bytes(MIN_KEY_BYTES)
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
        """Serve one client on a stream of lines until it closes its end.

        Raises ValueError where headers name the namespace: a stream has none.
        """
        if self._namespace_from is not None and self._namespace_from.kind == "header":
            raise ValueError(f"namespaces come from {self._namespace_from}, and a stream has no headers")
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
            async with beside(self._lookout.run):
                yield
        finally:
            self._runs -= 1
            if not self._runs:
                with anyio.CancelScope(shield=True):
                    await self.backend.aclose()

    # --- for transports ---

    @contextmanager
    def listening(self, listener: Listener) -> Generator[None]:
        """Inside this context it is told of changes, and when to stop."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

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
            token=secrets.token_hex,
            instructions=UNSET if self._instructions is None else self._instructions,
            limits=self._limits,
            watched=self._watched,
            caller_of=source.of_meta if source is not None and source.kind == "meta" else None,
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


# --- the commands of the command line ---


def from_settings(settings: Settings) -> Server:
    """The server that the settings describe."""
    shared = PRIVATE if settings.backend.startswith("memory:") else SHARED
    return Server(
        version=__version__,
        title="Key-value state for agents",
        instructions=f"{shared} {INSTRUCTIONS}",
        backend=open_backend(settings),
        items=[*(tool for name in settings.tools for tool in TOOL_SETS[name]), *RESOURCES, *PROMPTS],
        namespace=settings.namespace,
        namespace_from=None if settings.namespace_from is None else parse_source(settings.namespace_from),
        limits=Limits(shutdown_grace=settings.shutdown_grace),
        state_key=settings.state_key,
    )


def open_backend(settings: Settings) -> Backend:
    """The store that `settings.backend`, a URL, names. Nothing is connected yet."""
    if not settings.backend.startswith("memory:"):
        return _open_redis(settings)
    return MemoryBackend(
        clock=time.monotonic, max_keys=settings.memory_max_keys, max_bytes=settings.memory_max_bytes
    )


def _open_redis(settings: Settings) -> Backend:
    from kvmcp.backends.redis import RedisOptions, open_backend  # Imported where it is configured only.

    options = RedisOptions(
        key_prefix=settings.key_prefix,
        username=settings.redis_username,
        password=settings.redis_password or "",
        sentinel_username=settings.sentinel_username,
        sentinel_password=settings.sentinel_password or "",
        max_connections=settings.max_connections,
        op_timeout=settings.redis_timeout,
        tls_ca=settings.redis_ca,
        tls_cert=settings.redis_cert,
        tls_key=settings.redis_key,
        tls_verify=settings.redis_verify == "yes",
    )
    if settings.db is not None:
        options = msgspec.structs.replace(options, db=settings.db)
    return open_backend(settings.backend, options)


def serve(settings: Settings) -> int:
    """`kvmcp serve`: runs until the client has gone or a signal comes; the exit status."""
    fill_standard_descriptors()
    configure(settings.log_level, settings.log_format)
    if os.isatty(0):
        logger.warning(
            "waiting for an MCP client on standard input; Ctrl-D ends, `kvmcp serve --help` explains"
        )
    source = None if settings.namespace_from is None else parse_source(settings.namespace_from)
    if source is not None and (fault := source.fault_with(settings.transport)) is not None:
        logger.error("%s", fault)
        return 2
    server = from_settings(settings)
    # Importing the event loop makes no garbage, so nothing is looked for until all is there; and what is there
    # then stays, so it is never looked at again: 4% of the first answer (benchmarks/stdio.py), 15 ms of the exit.
    gc.disable()

    async def main() -> None:
        gc.freeze()
        gc.enable()
        await server.serve_stdio(at_end=_hold_signals)

    _run(settings, main)
    return 0


def _hold_signals() -> None:
    """The end has begun: there is nothing left to stop, and a signal must not change the exit status."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))


ResultT = TypeVar("ResultT")


def _run(settings: Settings, main: Callable[[], Awaitable[ResultT]]) -> ResultT:
    if settings.loop == "uvloop":
        return anyio.run(main, backend="asyncio", backend_options={"use_uvloop": True})
    return anyio.run(main, backend=settings.loop)


def tool_definitions(settings: Settings) -> list[bytes]:
    """What `tools/list` shows in the newest revision, each as JSON text."""
    encode = msgspec.json.Encoder().encode
    tools = [tool for name in settings.tools for tool in TOOL_SETS[name]]
    return [encode(definition(tool, LATEST_MODERN)) for tool in tools if tool.listed]


class _CallResult(Struct, rename="camel"):
    content: tuple[Content, ...]
    structured_content: Raw = Raw()
    is_error: bool = False


class _CallError(Struct):
    message: str


class _CallResponse(Struct):
    result: _CallResult | None = None
    error: _CallError | None = None


class _OneCall:
    """A transport whose client sends one message and closes its end."""

    def __init__(self, message: bytes) -> None:
        self._waiting = [message]
        self.written = bytearray()

    async def receive(self) -> bytes:
        return self._waiting.pop() if self._waiting else b""

    async def send_some(self, data: bytes | memoryview) -> int:
        self.written += data
        return len(data)


def call_tool(settings: Settings, name: str, arguments: bytes) -> ToolResult:
    """Call a tool as a client would, in this process. `arguments` is the JSON text of an object.

    Raises UnknownTool, and Refused where the server answered with a protocol error.
    """
    server = from_settings(settings)
    if server.catalog.tool(name) is None:
        raise UnknownTool(name)
    transport = _OneCall(_call_message(name, arguments))

    async def main() -> None:
        async with server.running():
            await server.serve(transport)

    _run(settings, main)
    response = msgspec.json.decode(transport.written, type=_CallResponse)
    if response.result is None:
        raise Refused("no answer" if response.error is None else response.error.message)
    result = response.result
    structured = bytes(result.structured_content) or None
    if structured is None or result.is_error:
        return ToolResult(result.content, structured, result.is_error)
    # The first block of a structured result is its data as text; notes follow.
    notes = tuple(block.text for block in result.content[1:] if isinstance(block, TextContent))
    return ToolResult(result.content[:1], structured, notes=notes)


def _call_message(name: str, arguments: bytes) -> bytes:
    meta = {
        PROTOCOL_VERSION: LATEST_MODERN,
        CLIENT_CAPABILITIES: {},
        CLIENT_INFO: {"name": "kvmcp call", "version": __version__},
    }
    # A line break in JSON is white space; in a line it would end the message.
    params = {"name": name, "arguments": Raw(arguments.replace(b"\n", b" ")), "_meta": meta}
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return msgspec.json.encode(request) + b"\n"
