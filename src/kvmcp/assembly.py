"""What the command line does: settings become a server, and the server is run."""

import gc
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import anyio
import msgspec
from msgspec import Raw, Struct

from kvmcp import __version__
from kvmcp.backends.base import Backend
from kvmcp.backends.memory import MemoryBackend
from kvmcp.config import ConfigError, Settings
from kvmcp.core.items import Item, Tool
from kvmcp.core.limits import Limits
from kvmcp.core.projection import definition
from kvmcp.core.versions import LATEST_MODERN
from kvmcp.core.wire.common import Content, TextContent, ToolResult
from kvmcp.core.wire.params import CLIENT_CAPABILITIES, CLIENT_INFO, PROTOCOL_VERSION
from kvmcp.io.stdio import fill_standard_descriptors
from kvmcp.logs import configure
from kvmcp.server import Server, unguessable
from kvmcp.tools import surface
from kvmcp.tools.definition import Environment
from kvmcp.tools.instructions import instructions
from kvmcp.tools.surface import Selection, UnknownName, build_tools

if TYPE_CHECKING:
    from kvmcp.tools.namespaces import NamespaceSource

logger = logging.getLogger("kvmcp.server")


class StartError(ConfigError):
    """It cannot be served as the settings say. The message is one line for the user."""


class UnknownTool(Exception):
    """There is no tool of this name."""


class Refused(Exception):
    """The server answered a call with a protocol error; the message is the error's."""


def from_settings(settings: Settings) -> Server:
    """The server that the settings describe."""
    tools = _tools(settings)
    shared = not settings.backend.startswith("memory:")
    server = Server(
        version=__version__,
        title="Key-value state for agents",
        instructions=instructions({tool.name for tool in tools}, shared=shared),
        backend=open_backend(settings),
        items=tools,
        namespace=settings.namespace,
        namespace_from=_namespace_source(settings),
        limits=Limits(shutdown_grace=settings.shutdown_grace),
        state_key=settings.state_key,
    )
    server.catalog.defer(frozenset({"resources", "prompts", "completions"}), _resources_and_prompts)
    return server


def _resources_and_prompts() -> tuple[Item, ...]:
    from kvmcp.tools.prompts import PROMPTS
    from kvmcp.tools.resources import RESOURCES

    return *RESOURCES, *PROMPTS


def _namespace_source(settings: Settings) -> "NamespaceSource | None":
    if settings.namespace_from is None:
        return None
    from kvmcp.tools.namespaces import parse_source  # Most servers have one namespace.

    return parse_source(settings.namespace_from)


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
    """`kvmcp serve`: runs until the client has gone or a signal comes; the exit status. Raises StartError."""
    fill_standard_descriptors()
    configure(settings.log_level, settings.log_format)
    source = _namespace_source(settings)
    if source is not None and (fault := source.fault_with(settings.transport)) is not None:
        raise StartError(fault)
    server = from_settings(settings)
    if settings.transport != ("stdio",):
        from kvmcp.network import serve_network  # HTTP is heavy, and most servers have one client, at a pipe.

        return serve_network(server, settings, run_loop)
    if os.isatty(0):
        logger.warning(
            "waiting for an MCP client on standard input; Ctrl-D ends, `kvmcp serve --help` explains"
        )
    # What is there when the loop runs stays, so it is never looked at again: 15 ms of the exit.

    async def main() -> None:
        gc.freeze()
        await server.serve_stdio(at_end=_hold_signals)

    run_loop(settings, main)
    return 0


def _hold_signals() -> None:
    """The end has begun: there is nothing left to stop, and a signal must not change the exit status."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))


ResultT = TypeVar("ResultT")


def run_loop(settings: Settings, main: Callable[[], Awaitable[ResultT]]) -> ResultT:
    if settings.loop == "uvloop":
        return anyio.run(main, backend="asyncio", backend_options={"use_uvloop": True})
    return anyio.run(main, backend=settings.loop)


def tool_definitions(settings: Settings) -> list[bytes]:
    """What `tools/list` shows in the newest revision, each as JSON text."""
    encode = msgspec.json.Encoder().encode
    return [encode(definition(tool, LATEST_MODERN)) for tool in _tools(settings) if tool.listed]


def _tools(settings: Settings) -> list[Tool]:
    environment = Environment(
        unguessable,
        time.time,
        max_result_chars=settings.max_result_chars,
        confirm_destructive=settings.confirm_destructive,
    )
    selection = Selection(
        settings.tools, settings.allow_tool or (), settings.deny_tool or (), settings.read_only
    )
    try:
        return build_tools(selection, environment)
    except UnknownName as error:
        raise StartError(f"{error}; see kvmcp tools") from None


def exported_schemas(settings: Settings) -> list[tuple[str, str]]:
    """File name and JSON text of every offered tool's input and output schema."""
    return surface.exported_schemas(_tools(settings))


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

    It is the operator's call, so it is about `namespace` whatever clients would have to name. Raises UnknownTool, and
    Refused where the server answered with a protocol error.
    """
    server = from_settings(msgspec.structs.replace(settings, namespace_from=None))
    if server.catalog.tool(name) is None:
        raise UnknownTool(name)
    transport = _OneCall(_call_message(name, arguments))

    async def main() -> None:
        async with server.running():
            await server.serve(transport)

    run_loop(settings, main)
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
