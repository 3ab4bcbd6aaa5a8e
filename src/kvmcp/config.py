"""Settings: what they are called, how they are written, where a value came from.

Everything that concerns one setting is one field of `Settings`: its type, its default and a `Row` with its
grammar and its help. Flag, environment variable, file key, `kvmcp config show` and the table of
`docs/configuration.md` derive from it. The first source that sets a value wins:

    flag  >  environment KVMCP_…  >  file (--config, KVMCP_CONFIG)  >  default

Knows no socket, no store and no logger; reads files only through the function that it is given. Only the value
that wins is read, so a flag also overrules a broken variable; an unknown key in the file is always an error.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Final, Literal, NoReturn, TypeAlias, cast, get_args

import msgspec
from msgspec import Struct

from kvmcp.backends.ops import MAX_NAMESPACE, is_namespace

PREFIX: Final = "KVMCP_"
CONFIG_FLAG: Final = "--config"
CONFIG_VARIABLE: Final = "KVMCP_CONFIG"
REDIS_SCHEMES: Final = (
    "redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster",
)  # fmt: skip
MASK: Final = "***"
"""What stands in the place of a secret wherever settings are shown."""

Transport: TypeAlias = Literal["stdio"]
Loop: TypeAlias = Literal["asyncio", "trio", "uvloop"]
ToolSet: TypeAlias = Literal["redis"]
"""The names of `kvmcp.tools.surface.TOOL_SETS`; not imported, to keep the start fast. A test compares."""
LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]
LogFormat: TypeAlias = Literal["text", "json"]

MIN_STATE_KEY_BYTES: Final = 32
"""What `kvmcp.core.request_state.MIN_KEY_BYTES` asks for; not imported, to keep the start fast."""
MAX_GRACE_SECONDS: Final = 3600
MAX_DATABASE: Final = 65535
MAX_CONNECTIONS: Final = 10_000
MAX_MEMORY_KEYS: Final = 1_000_000_000
MIN_MEMORY_BYTES: Final = 1024
MAX_MEMORY_BYTES: Final = 1024**4
"""Upper bounds catch slips of the finger: a billion keys and a tebibyte are beyond one process."""


class ConfigError(Exception):
    """The configuration cannot be used. The message is one line: what came, what is allowed, what to do.

    It never holds a secret or the password of a URL.
    """


class Unfit(ValueError):
    """A text that a setting cannot take; the message says what came, as far as it may be shown."""


ReadFile: TypeAlias = Callable[[str], bytes]
"""The content of the file at a path. Raises OSError."""


# --- how values are written -----------------------------------------------------------------------------------


class Kind(Struct, frozen=True, kw_only=True):
    """How a value is written.

    `parse` reads a text or raises `Unfit`; `show` writes a value so that `parse` reads it again, except for
    what must not be shown. `takes` is what a file may hold besides text.
    """

    parse: Callable[[str], object]
    allowed: str
    metavar: str
    show: Callable[[object], str] = str
    takes: Literal["text", "number", "list"] = "text"


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """` (did you mean {prefix}x?)` where something known is spelt like `word`, otherwise nothing."""
    from difflib import get_close_matches  # only on the way to an error

    close = get_close_matches(word, list(known), n=1)
    return f" (did you mean {prefix}{close[0]}?)" if close else ""


def redacted(text: str) -> str:
    """`text` without what a URL may hide: user, password, query."""
    without_user = re.sub(r"://.*@", f"://{MASK}@", text, flags=re.DOTALL)
    return re.sub(r"(://.*?\?).*", rf"\1{MASK}", without_user, flags=re.DOTALL)


def quoted(text: str) -> str:
    """`text` for a message: in quotes, on one line, of bounded length, without passwords."""
    shown = redacted(text) if "://" in text else text
    return repr(shown if len(shown) <= 60 else shown[:60] + "…")


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def _one_of(*words: str) -> Kind:
    def parse(text: str) -> str:
        word = text.strip().lower()
        if word not in words:
            raise Unfit(quoted(text))
        return word

    return Kind(parse=parse, allowed=_listed(words), metavar="|".join(words))


def _several(one: Kind, metavar: str) -> Kind:
    """One or more of `one`, separated by commas, each counted once."""

    def parse(text: str) -> tuple[object, ...]:
        parts = [part for part in text.split(",") if part.strip()]
        if not parts:
            raise Unfit("an empty list")
        return tuple(dict.fromkeys(one.parse(part) for part in parts))

    def show(value: object) -> str:
        return ",".join(map(one.show, cast("tuple[object, ...]", value)))  # what `parse` above gave

    allowed = one.allowed if " or " not in one.allowed else f"one or more of {one.allowed}"
    return Kind(parse=parse, allowed=allowed, metavar=metavar, show=show, takes="list")


def _whole_number(low: int, high: int) -> Kind:
    def parse(text: str) -> int:
        digits = text.strip()
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 20 and low <= int(digits) <= high):
            raise Unfit(quoted(text))
        return int(digits)

    return Kind(parse=parse, allowed=f"a whole number from {low} to {high}", metavar="N", takes="number")


def _seconds(high: int, low: float = 0) -> Kind:
    def parse(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text.strip()) or not low <= float(text) <= high:
            raise Unfit(quoted(text))
        return float(text)

    return Kind(
        parse=parse,
        allowed=f"seconds from {low:g} to {high}, such as 5 or 0.5",
        metavar="SECONDS",
        show=lambda value: f"{value:g}",
        takes="number",
    )


_UNITS: Final = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9,
    "kib": 2**10, "mib": 2**20, "gib": 2**30,
}  # fmt: skip


def _size_text(value: object) -> str:
    assert isinstance(value, int)  # only sizes are shown with it
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value % factor == 0:
            return f"{value // factor}{unit}"
    return str(value)


def _size(low: int, high: int) -> Kind:
    """Bytes, with a decimal (kB) or a binary (KiB) unit; a bare K is not taken, since it means either."""

    def parse(text: str) -> int:
        found = re.fullmatch(r"([0-9]{1,15}) ?([a-z]*)", text.strip().lower())
        factor = _UNITS.get(found[2]) if found else None
        if found is None or factor is None or not low <= int(found[1]) * factor <= high:
            raise Unfit(quoted(text))
        return int(found[1]) * factor

    allowed = f"bytes from {_size_text(low)} to {_size_text(high)}, such as 1000000, 64MiB or 1GB"
    return Kind(parse=parse, allowed=allowed, metavar="SIZE", show=_size_text, takes="number")


def _namespace(text: str) -> str:
    if not is_namespace(text):
        raise Unfit(quoted(text))
    return text


def _backend(text: str) -> str:
    """A backend's URL. What came is told by its scheme only: the rest may hold a password."""
    scheme, found, rest = text.strip().partition("://")
    if not found or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        raise Unfit("a text that is not a URL" if "@" in text or ":" in text else quoted(text))
    if scheme.lower() != "memory":
        return _redis_url(text)
    if rest:
        raise Unfit("memory:// with something behind it")
    return "memory://"


def _redis_url(text: str) -> str:
    """A Redis URL, checked by the rules of the backend itself."""
    url = text.strip()
    scheme = url.partition("://")[0][:40].lower()
    if scheme not in REDIS_SCHEMES:
        raise Unfit(f"a {scheme}:// URL" if "://" in url else "a text that is not a URL")
    from kvmcp.backends.redis.address import parse_url  # only where there is one to check

    try:
        parse_url(url)
    except ValueError as error:
        raise Unfit(
            f"a {scheme}:// URL that cannot be used ({str(error).removeprefix('Redis URL: ')})"
        ) from None
    return url


def _state_key(text: str) -> bytes:
    """Hex digits where they give enough bytes, otherwise the text itself."""
    try:
        key = text.encode("utf-8", "surrogateescape")  # what the environment held, byte for byte
    except UnicodeEncodeError:
        raise Unfit("text with a lone surrogate") from None
    if len(key) >= 2 * MIN_STATE_KEY_BYTES and re.fullmatch(r"([0-9A-Fa-f]{2})+", text):
        return bytes.fromhex(text)
    if len(key) < MIN_STATE_KEY_BYTES:
        raise Unfit(f"{len(key)} bytes")
    return key


# --- the settings ---------------------------------------------------------------------------------------------


class Row(Struct, frozen=True):
    """What there is to know about a setting besides its name, type and default.

    `unset` is shown where the value is None. `flag` is false where process lists must not show the value.
    `serving` marks what matters to `kvmcp serve` alone. `also` is a variable of another program that counts
    where ours is not set.
    """

    kind: Kind
    help: str
    unset: str = ""
    flag: bool = True
    secret: bool = False
    serving: bool = False
    also: str = ""


_TRANSPORTS: Final = _several(_one_of(*get_args(Transport)), "TRANSPORT")
_TOOL_SETS: Final = _several(_one_of(*get_args(ToolSet)), "SET,…")
_BACKEND: Final = Kind(
    parse=_backend,
    allowed="memory://, or a URL of Redis: " + _listed(f"{scheme}://" for scheme in REDIS_SCHEMES),
    metavar="URL",
    show=lambda value: redacted(str(value)),
)
_REDIS_URL: Final = Kind(
    parse=_redis_url,
    allowed=_listed(f"{scheme}://" for scheme in REDIS_SCHEMES),
    metavar="URL",
    show=lambda value: redacted(str(value)),
)
_TEXT: Final = Kind(parse=str, allowed="any text", metavar="TEXT")
_PATH: Final = Kind(parse=str, allowed="the path of a file", metavar="FILE")
_SECRET: Final = Kind(parse=str, allowed="any text", metavar="TEXT", show=lambda _value: MASK)
_NAMESPACE: Final = Kind(
    parse=_namespace, allowed=f"1 to {MAX_NAMESPACE} of A-Z a-z 0-9 . _ -", metavar="NAME"
)
_STATE_KEY: Final = Kind(
    parse=_state_key,
    allowed=f"{MIN_STATE_KEY_BYTES} bytes or more, as hex or any text (make one: openssl rand -hex 32)",
    metavar="KEY",
    show=lambda _value: MASK,
)


class Settings(Struct, frozen=True, kw_only=True):
    """What a user can choose, read and checked. To add a setting, add a field."""

    transport: Annotated[
        tuple[Transport, ...],
        Row(_TRANSPORTS, "how clients connect; may be repeated", serving=True),
    ] = ("stdio",)
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
        Row(_whole_number(0, MAX_DATABASE), "the Redis database, where the URL names none", unset="1"),
    ] = None
    max_connections: Annotated[
        int,
        Row(_whole_number(2, MAX_CONNECTIONS), "sockets to Redis at most; calls share one, watches another"),
    ] = 32
    namespace: Annotated[
        str,
        Row(_NAMESPACE, "the part of the store that keys live in"),
    ] = "default"
    key_prefix: Annotated[
        str,
        Row(_NAMESPACE, "the first part of every key in Redis, before the namespace"),
    ] = "kvmcp"
    redis_timeout: Annotated[
        float,
        Row(_seconds(MAX_GRACE_SECONDS, 0.001), "how long one call waits for Redis"),
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
        Row(_one_of("yes", "no"), "whether the certificate of Redis is checked; no is for tests alone"),
    ] = "yes"
    loop: Annotated[
        Loop,
        Row(_one_of(*get_args(Loop)), "the event loop; trio and uvloop must be installed"),
    ] = "asyncio"
    tools: Annotated[
        tuple[ToolSet, ...],
        Row(_TOOL_SETS, "the sets of tools to offer"),
    ] = get_args(ToolSet)
    log_level: Annotated[
        LogLevel,
        Row(_one_of(*get_args(LogLevel)), "the least severe messages to log on stderr"),
    ] = "info"
    log_format: Annotated[
        LogFormat,
        Row(_one_of(*get_args(LogFormat)), "lines for people, or one JSON object per line"),
    ] = "text"
    shutdown_grace: Annotated[
        float,
        Row(
            _seconds(MAX_GRACE_SECONDS),
            "how long accepted requests may take to finish once told to stop",
            serving=True,
        ),
    ] = 4.0
    memory_max_keys: Annotated[
        int,
        Row(_whole_number(1, MAX_MEMORY_KEYS), "keys that the memory backend holds at most"),
    ] = 1_000_000
    memory_max_bytes: Annotated[
        int,
        Row(
            _size(MIN_MEMORY_BYTES, MAX_MEMORY_BYTES),
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


# --- where values come from -----------------------------------------------------------------------------------


class Origin(Struct, frozen=True):
    """Where a value came from. `where` is the flag, the variable or `path:key`; empty for a default."""

    source: Literal["flag", "environment", "file", "default"]
    where: str = ""

    def __str__(self) -> str:
        return f"{self.source} {self.where}".rstrip()


class Loaded(Struct, frozen=True):
    """Settings, the origin of each by name, and what the user should be warned of (one line each)."""

    settings: Settings
    origins: Mapping[str, Origin]
    warnings: tuple[str, ...] = ()


class _Given(Struct, frozen=True):
    """What one source says: text, or from a file any value of TOML or YAML."""

    value: object
    origin: Origin


_Source: TypeAlias = Callable[[Setting], _Given | None]


def load(flags: Mapping[str, str], environ: Mapping[str, str], read_file: ReadFile) -> Loaded:
    """Read all settings. `flags` are by setting name (and `config`), lists comma-separated; unset ones are absent.

    Raises ConfigError.
    """
    sources: tuple[_Source, ...] = (
        _flag_source(flags),
        _environment_source(environ, read_file),
        _file_source(flags, environ, read_file),
    )
    found = {setting.name: _first(setting, sources) for setting in SETTINGS}
    url_wins = _comes_first(found["redis_url"], found["backend"])
    if url_wins:
        found["backend"] = None  # Not looked at: only the value that wins is read.
    values = {setting.name: _read(setting, given) for setting in SETTINGS if (given := found[setting.name])}
    if url_wins:
        values["backend"], found["backend"] = values["redis_url"], found["redis_url"]
    origins = {name: given.origin if given else Origin("default") for name, given in found.items()}
    return Loaded(msgspec.convert(values, Settings), origins, tuple(_unknown_variables(environ)))


def _first(setting: Setting, sources: Iterable[_Source]) -> _Given | None:
    return next((given for source in sources if (given := source(setting)) is not None), None)


def _comes_first(one: _Given | None, other: _Given | None) -> bool:
    """Whether `one` is from a source that wins over that of `other`."""
    if one is None or other is None:
        return one is not None
    return _RANK.index(one.origin.source) < _RANK.index(other.origin.source)


_RANK: Final = ("flag", "environment", "file", "default")


def _flag_source(flags: Mapping[str, str]) -> _Source:
    def find(setting: Setting) -> _Given | None:
        if setting.flag is None or setting.name not in flags:
            return None
        return _Given(flags[setting.name], Origin("flag", setting.flag))

    return find


def _environment_source(environ: Mapping[str, str], read_file: ReadFile) -> _Source:
    def find(setting: Setting) -> _Given | None:
        if setting.file_variable is not None:
            return _secret(setting.variable, setting.file_variable, environ, read_file)
        # Hosts that fill in templates leave the variables of unanswered questions empty: not set.
        for variable in filter(None, (setting.variable, setting.row.also)):
            if text := environ.get(variable, ""):
                return _Given(text, Origin("environment", variable))
        return None

    return find


def _secret(
    variable: str, file_variable: str, environ: Mapping[str, str], read_file: ReadFile
) -> _Given | None:
    """A secret from its variable or from the file that another one names. An empty secret is no default."""
    found = [name for name in (variable, file_variable) if name in environ]
    if not found:
        return None
    if len(found) == 2:
        raise ConfigError(f"{variable} and {file_variable} are both set: unset one of them")
    (name,) = found
    if not environ[name]:
        raise ConfigError(f"{name} is empty: give it a value, or unset it")
    if name == variable:
        return _Given(environ[name], Origin("environment", name))
    text = _file_text(environ[name], name, read_file).rstrip("\r\n")
    return _Given(text, Origin("environment", f"{name} ({environ[name]})"))


def _file_source(flags: Mapping[str, str], environ: Mapping[str, str], read_file: ReadFile) -> _Source:
    members: Mapping[str, object] = {}
    path = flags.get("config", environ.get(CONFIG_VARIABLE, ""))
    if path or "config" in flags:
        named_by = CONFIG_FLAG if "config" in flags else CONFIG_VARIABLE
        members = _file_members(path, named_by, read_file)

    def find(setting: Setting) -> _Given | None:
        if setting.name not in members:
            return None
        return _Given(members[setting.name], Origin("file", f"{path}:{setting.name}"))

    return find


def _read(setting: Setting, given: _Given) -> object:
    kind = setting.row.kind
    try:
        return kind.parse(_text(given.value, kind.takes))
    except Unfit as unfit:
        raise ConfigError(
            f"{given.origin.where}: got {unfit}; allowed: {kind.allowed}; {_REMEDY[given.origin.source]}"
        ) from None


_REMEDY: Final = {
    "flag": "see --help",
    "environment": "correct or unset the variable",
    "file": "correct the file",
}


def _text(value: object, takes: Literal["text", "number", "list"]) -> str:
    """A value of a file as the text that a flag would have. Raises Unfit.

    Numbers are not taken for text: YAML has made 7 of 007, and a key of digits has lost its zeros.
    """
    match value:
        case str():
            return value
        case bool():
            raise Unfit(f"the boolean {str(value).lower()} (text that reads so needs quotes)")
        case int() if abs(value) >= 10**18:
            raise Unfit("a number of more than 18 digits")  # Python will not write any number as text
        case int() | float():
            if takes == "number":
                return str(value)
            raise Unfit("a number (text that reads so needs quotes)")
        case list():
            items = cast("list[object]", value)  # of TOML or YAML: anything
            if takes == "list" and all(isinstance(item, str) for item in items):
                return ",".join(map(str, items))
            raise Unfit("a list" if takes != "list" else "a list with something else than text in it")
        case _:
            raise Unfit(_NAMES.get(type(value), "a date, a time or binary data"))


_NAMES: Final[dict[type, str]] = {dict: "a table", type(None): "nothing"}


def _unknown_variables(environ: Mapping[str, str]) -> Iterator[str]:
    known = {CONFIG_VARIABLE, *(setting.variable for setting in SETTINGS)}
    known |= {setting.file_variable for setting in SETTINGS if setting.file_variable}
    for name in sorted(environ):
        if name.startswith(PREFIX) and name not in known:
            yield f"unknown environment variable {name} is ignored{_hint(name, known)}"


def _hint(name: str, known: Iterable[str]) -> str:
    if name.removesuffix("_FILE") in known:
        return f": only secrets are read from files, set {name.removesuffix('_FILE')}"
    # The prefix alone would make any two names similar.
    words = [variable.removeprefix(PREFIX) for variable in known]
    return did_you_mean(name.removeprefix(PREFIX), words, PREFIX)


# --- the file -------------------------------------------------------------------------------------------------


def _file_text(path: str, named_by: str, read_file: ReadFile) -> str:
    try:
        return read_file(path).decode("utf-8-sig")  # Windows editors begin with a byte order mark
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(
            f"{named_by}: cannot read {quoted(path)}: {reason}; name a file that can be read"
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{named_by}: {quoted(path)} is not UTF-8 text; save it as UTF-8") from None


def _file_members(path: str, named_by: str, read_file: ReadFile) -> Mapping[str, object]:
    """The keys of a file and their values, all of them known."""
    parse = _FORMATS.get(path.rpartition(".")[2].lower())
    if parse is None:
        raise ConfigError(f"{named_by}: got {quoted(path)}; allowed: a file named .toml, .yaml or .yml")
    text = _file_text(path, named_by, read_file)
    try:
        members = parse(text, path)
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply; it holds one value per setting") from None
    names = [setting.name for setting in SETTINGS]
    for key in members:
        if key not in names:
            raise ConfigError(f"{path}: unknown key {quoted(key)}{_key_hint(key, names)}")
    return members


def _key_hint(key: str, names: list[str]) -> str:
    return did_you_mean(key, names) or f"; allowed: {', '.join(names)}"


def _parse_toml(text: str, path: str) -> Mapping[str, object]:
    import tomllib  # only where there is a file: about 5 ms

    try:
        return tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, and what int() and date() say
        _refuse(path, "TOML", str(error))


def _parse_yaml(text: str, path: str) -> Mapping[str, object]:
    try:
        import yaml  # optional, and slow to import
    except ImportError:
        raise ConfigError(
            f"{path}: YAML needs PyYAML: run pip install 'kvmcp[yaml]', or write the file as TOML"
        ) from None
    try:
        document: object = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        # Not str(error): it quotes the line, which may hold a secret. Neither aliases (*x) and tags (!x).
        problem = re.sub(r"'.{5,}'", f"'{MASK}'", error.problem or "", flags=re.DOTALL)
        line = f" (at line {error.problem_mark.line + 1})" if error.problem_mark else ""
        _refuse(path, "YAML", problem + line)
    except (yaml.YAMLError, ValueError):  # ValueError: dates such as 2026-99-99
        _refuse(path, "YAML", "a character or a value that YAML does not allow")
    if document is None:
        return {}
    if not isinstance(document, dict):
        _refuse(path, "YAML", "the file is not a mapping of keys to values")
    return {str(key): value for key, value in cast("dict[object, object]", document).items()}


def _refuse(path: str, language: str, reason: str) -> NoReturn:
    raise ConfigError(f"{path}: not valid {language}: {' '.join(reason.split())}; correct the file") from None


_FORMATS: Final[dict[str, Callable[[str, str], Mapping[str, object]]]] = {
    "toml": _parse_toml,
    "yaml": _parse_yaml,
    "yml": _parse_yaml,
}
