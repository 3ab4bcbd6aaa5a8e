"""The settings themselves: what each is called, what it may be, what it is for."""

from collections.abc import Iterator
from typing import Annotated, Final, Literal, TypeAlias, get_args

import msgspec
from msgspec import Struct

from kvmcp.backends.ops import MAX_NAMESPACE
from kvmcp.config.kinds import (
    MASK,
    MIN_STATE_KEY_BYTES,
    REDIS_SCHEMES,
    Kind,
    address,
    allowed_name,
    backend,
    listed,
    namespace,
    namespace_source,
    one_of,
    redacted,
    redis_url,
    seconds,
    several,
    size,
    state_key,
    switch,
    tool_name,
    transport,
    whole_number,
)

PREFIX: Final = "KVMCP_"
Loop: TypeAlias = Literal["asyncio", "trio", "uvloop"]
ToolSet: TypeAlias = Literal["redis", "simple_kv", "data", "coordination"]
"""The names of `kvmcp.tools.surface.TOOL_SETS`; not imported, to keep the start fast. A test compares."""
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]
LogFormat: TypeAlias = Literal["text", "json"]

MAX_GRACE_SECONDS: Final = 3600
MAX_DATABASE: Final = 65535
MAX_CONNECTIONS: Final = 10_000
MAX_WORKERS: Final = 256
MAX_PER_ADDRESS: Final = 4096
"""All that one process takes: `kvmcp.io.listening.ListenLimits.connections`."""
MIN_RESULT_CHARS: Final = 10_000
"""What `kvmcp.tools.room` asks for; not imported, to keep the start fast."""
MAX_RESULT_CHARS: Final = 2_000_000
"""Twice the largest value: hosts cut much earlier."""
MAX_MEMORY_KEYS: Final = 1_000_000_000
MIN_MEMORY_BYTES: Final = 1024
MAX_MEMORY_BYTES: Final = 1024**4
"""Upper bounds catch slips of the finger: a billion keys and a tebibyte are beyond one process."""


class Row(Struct, frozen=True):
    """What there is to know about a setting besides its name, type and default.

    `unset` is shown where the value is None. `flag` is false where process lists must not show the value.
    `serving` marks what matters to `kvmcp serve` alone, and `transports` are those that it matters to (empty: to
    all). `also` is a variable of another program that counts where ours is not set.
    """

    kind: Kind
    help: str
    unset: str = ""
    flag: bool = True
    secret: bool = False
    serving: bool = False
    transports: tuple[str, ...] = ()
    also: str = ""


_WEB: Final = ("http", "websocket")
_TCP: Final = ("http", "websocket", "tcp")


_TRANSPORTS: Final = several(
    Kind(
        parse=transport,
        allowed="stdio, http, websocket, tcp or unix; the network ones with a port, such as http:8765",
        metavar="TRANSPORT",
    ),
    "TRANSPORT",
)
_TOOLS: Final = several(
    Kind(parse=tool_name, allowed="the name of a tool, as kvmcp tools lists them", metavar="TOOL"), "TOOL,…"
)
_ADDRESS: Final = Kind(parse=address, allowed="HOST:PORT, such as 127.0.0.1:9090", metavar="HOST:PORT")
_NAMES: Final = several(
    Kind(
        parse=allowed_name,
        allowed="a host or an origin, such as example.com or https://example.com",
        metavar="NAME",
    ),
    "NAME,…",
)
_TOOL_SETS: Final = several(one_of(*get_args(ToolSet)), "SET,…")
_BACKEND: Final = Kind(
    parse=backend,
    allowed="memory://, or a URL of Redis: " + listed(f"{scheme}://" for scheme in REDIS_SCHEMES),
    metavar="URL",
    show=lambda value: redacted(str(value)),
)
_REDIS_URL: Final = Kind(
    parse=redis_url,
    allowed=listed(f"{scheme}://" for scheme in REDIS_SCHEMES),
    metavar="URL",
    show=lambda value: redacted(str(value)),
)
_TEXT: Final = Kind(parse=str, allowed="any text", metavar="TEXT")
_PATH: Final = Kind(parse=str, allowed="the path of a file", metavar="FILE")
_SECRET: Final = Kind(parse=str, allowed="any text", metavar="TEXT", show=lambda _value: MASK)
_NAMESPACE: Final = Kind(
    parse=namespace, allowed=f"1 to {MAX_NAMESPACE} of A-Z a-z 0-9 . _ -", metavar="NAME"
)
_NAMESPACE_SOURCE: Final = Kind(
    parse=namespace_source,
    allowed="header:NAME or meta:KEY, such as header:X-App-Id",
    metavar="SOURCE",
)
_STATE_KEY: Final = Kind(
    parse=state_key,
    allowed=f"{MIN_STATE_KEY_BYTES} bytes or more, as hex or any text (make one: openssl rand -hex 32)",
    metavar="KEY",
    show=lambda _value: MASK,
)


class Settings(Struct, frozen=True, kw_only=True):
    """What a user can choose, read and checked. To add a setting, add a field."""

    transport: Annotated[
        tuple[str, ...],
        Row(_TRANSPORTS, "how clients connect, NAME or NAME:PORT; may be repeated", serving=True),
    ] = ("stdio",)
    host: Annotated[
        str,
        Row(
            _TEXT,
            "the address to listen on; 0.0.0.0 for all of this machine's",
            serving=True,
            transports=_TCP,
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int | None,
        Row(
            whole_number(0, 65535),
            "the port, where the transport names none; 0 for any that is free",
            unset="http 8765, websocket 8920, tcp 8921",
            serving=True,
            transports=_TCP,
        ),
    ] = None
    path: Annotated[
        str,
        Row(_PATH, "the socket's path for --transport unix", serving=True, transports=("unix",)),
    ] = ""
    http_server: Annotated[
        Literal["hypercorn", "uvicorn"],
        Row(
            one_of("hypercorn", "uvicorn"),
            "what speaks HTTP; uvicorn must be installed (kvmcp[fast])",
            serving=True,
            transports=("http",),
        ),
    ] = "hypercorn"
    workers: Annotated[
        int,
        Row(
            whole_number(1, MAX_WORKERS),
            "processes that serve one HTTP port; needs Redis as the backend",
            serving=True,
            transports=_TCP,
        ),
    ] = 1
    allowed_host: Annotated[
        tuple[str, ...] | None,
        Row(
            _NAMES,
            "names that clients may call this server by, besides its own addresses; * for any",
            unset="none",
            serving=True,
            transports=_WEB,
        ),
    ] = None
    allowed_origin: Annotated[
        tuple[str, ...] | None,
        Row(
            _NAMES,
            "web pages that may call this server, such as https://example.com; * for any",
            unset="none",
            serving=True,
            transports=_WEB,
        ),
    ] = None
    legacy_sse: Annotated[
        bool,
        Row(switch(), "also serve HTTP+SSE of 2024-11-05, at /sse", serving=True, transports=("http",)),
    ] = False
    resumable: Annotated[
        bool,
        Row(
            switch(),
            "let clients of legacy revisions come back for any answer when a connection breaks",
            serving=True,
            transports=("http",),
        ),
    ] = False
    ws_compression: Annotated[
        bool,
        Row(switch(), "let WebSocket clients compress messages", serving=True, transports=("websocket",)),
    ] = False
    admin_bind: Annotated[
        str | None,
        Row(
            _ADDRESS,
            "where health and metrics are served",
            unset="beside MCP",
            serving=True,
            transports=("http",),
        ),
    ] = None
    max_per_address: Annotated[
        int,
        Row(
            whole_number(1, MAX_PER_ADDRESS),
            "connections from one address at most; behind a proxy all clients have the proxy's",
            serving=True,
            transports=_TCP,
        ),
    ] = 1024
    tls_cert: Annotated[
        str,
        Row(
            _PATH,
            "PEM file of the server's certificate chain: clients then use https and wss",
            serving=True,
            transports=_TCP,
        ),
    ] = ""
    tls_key: Annotated[
        str,
        Row(_PATH, "PEM file of the certificate's key", serving=True, transports=_TCP),
    ] = ""
    backend: Annotated[
        str,
        Row(_BACKEND, "where values are kept; memory:// lasts as long as the process"),
    ] = "memory://"
    redis_url: Annotated[
        str | None,
        Row(_REDIS_URL, "the Redis to use where backend is not set", unset="none", also="REDIS_URL"),
    ] = None
    db: Annotated[
        int | None,
        Row(whole_number(0, MAX_DATABASE), "the Redis database, where the URL names none", unset="1"),
    ] = None
    max_connections: Annotated[
        int,
        Row(whole_number(2, MAX_CONNECTIONS), "sockets to Redis at most; calls share one, watches another"),
    ] = 32
    namespace: Annotated[
        str,
        Row(_NAMESPACE, "the part of the store that keys live in"),
    ] = "default"
    namespace_from: Annotated[
        str | None,
        Row(
            _NAMESPACE_SOURCE,
            "let each request name its namespace; meta:KEY is written by clients, so for trusted ones only",
            unset="namespace",
            serving=True,
        ),
    ] = None
    key_prefix: Annotated[
        str,
        Row(_NAMESPACE, "the first part of every key in Redis, before the namespace"),
    ] = "kvmcp"
    redis_timeout: Annotated[
        float,
        Row(seconds(MAX_GRACE_SECONDS, 0.001), "how long one call waits for Redis"),
    ] = 5.0
    redis_username: Annotated[
        str,
        Row(_TEXT, "the Redis user, where the URL names none"),
    ] = ""
    redis_password: Annotated[
        str | None,
        Row(_SECRET, "the Redis password, where the URL has none", unset="none", flag=False, secret=True),
    ] = None
    sentinel_username: Annotated[
        str,
        Row(_TEXT, "the user at the Sentinels themselves"),
    ] = ""
    sentinel_password: Annotated[
        str | None,
        Row(_SECRET, "the password at the Sentinels themselves", unset="none", flag=False, secret=True),
    ] = None
    redis_ca: Annotated[
        str,
        Row(_PATH, "PEM file of the authorities to trust over TLS; the system's where empty"),
    ] = ""
    redis_cert: Annotated[
        str,
        Row(_PATH, "PEM file of the client's certificate"),
    ] = ""
    redis_key: Annotated[
        str,
        Row(_PATH, "PEM file of the client certificate's key"),
    ] = ""
    redis_verify: Annotated[
        Literal["yes", "no"],
        Row(one_of("yes", "no"), "whether the certificate of Redis is checked; no is for tests alone"),
    ] = "yes"
    loop: Annotated[
        Loop,
        Row(one_of(*get_args(Loop)), "the event loop; trio and uvloop must be installed"),
    ] = "asyncio"
    tools: Annotated[
        tuple[ToolSet, ...],
        Row(_TOOL_SETS, "the sets of tools to offer"),
    ] = ("redis",)
    allow_tool: Annotated[
        tuple[str, ...] | None,
        Row(_TOOLS, "the only tools to offer, of whatever set", unset="all of the sets"),
    ] = None
    deny_tool: Annotated[
        tuple[str, ...] | None,
        Row(_TOOLS, "tools not to offer", unset="none"),
    ] = None
    read_only: Annotated[
        bool,
        Row(switch(), "offer no tool that can change something"),
    ] = False
    max_result_chars: Annotated[
        int,
        Row(
            whole_number(MIN_RESULT_CHARS, MAX_RESULT_CHARS),
            "characters of one tool's result at most; what is longer is cut between values",
        ),
    ] = 25_000
    confirm_destructive: Annotated[
        bool,
        Row(switch(), "ask before a call removes several keys"),
    ] = False
    log_level: Annotated[
        LogLevel,
        Row(one_of(*get_args(LogLevel)), "the least severe messages to log on stderr"),
    ] = "info"
    log_format: Annotated[
        LogFormat,
        Row(one_of(*get_args(LogFormat)), "lines for people, or one JSON object per line"),
    ] = "text"
    shutdown_grace: Annotated[
        float,
        Row(
            seconds(MAX_GRACE_SECONDS),
            "how long accepted requests may take to finish once told to stop",
            serving=True,
        ),
    ] = 4.0
    memory_max_keys: Annotated[
        int,
        Row(whole_number(1, MAX_MEMORY_KEYS), "keys that the memory backend holds at most"),
    ] = 1_000_000
    memory_max_bytes: Annotated[
        int,
        Row(
            size(MIN_MEMORY_BYTES, MAX_MEMORY_BYTES),
            "bytes that the memory backend holds at most: keys, values and some 384 for each key",
        ),
    ] = 256 * 1024 * 1024
    state_key: Annotated[
        bytes | None,
        Row(
            _STATE_KEY,
            "seals what clients carry between two rounds of a request; replicas of one service share it",
            unset="random per process",
            flag=False,
            secret=True,
            serving=True,
        ),
    ] = None

    def __repr__(self) -> str:
        """Secrets and passwords masked: settings end up in logs and tracebacks."""
        return f"Settings({', '.join(f'{s.name}={s.shown(getattr(self, s.name))}' for s in SETTINGS)})"


class Setting(Struct, frozen=True):
    """A field of `Settings`, with the names that follow from its own. In the file, `name` is the key."""

    name: str
    default: object
    row: Row

    @property
    def flag(self) -> str | None:
        return f"--{self.name.replace('_', '-')}" if self.row.flag else None

    @property
    def variable(self) -> str:
        return f"{PREFIX}{self.name.upper()}"

    @property
    def file_variable(self) -> str | None:
        """The variable that names a file with the value: secrets only."""
        return f"{self.variable}_FILE" if self.row.secret else None

    def shown(self, value: object) -> str:
        """`value` as text, without secrets."""
        return f"({self.row.unset})" if value is None else self.row.kind.show(value)

    def public(self, value: object) -> object:
        """`value` as JSON can hold it, without secrets."""
        return self.shown(value) if isinstance(value, str | bytes) else value


def _table() -> Iterator[Setting]:
    for field in msgspec.structs.fields(Settings):
        (row,) = field.type.__metadata__
        assert isinstance(row, Row)  # each field of `Settings` has one
        yield Setting(field.name, field.default, row)


SETTINGS: Final = tuple(_table())
"""All settings, in the order in which they are shown."""
