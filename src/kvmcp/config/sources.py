"""Where values come from: flags, the environment, a file; the first that sets one wins."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, Literal, NoReturn, TypeAlias, cast

import msgspec
from msgspec import Struct

from kvmcp.config.kinds import MASK, Takes, Unfit, did_you_mean, quoted
from kvmcp.config.settings import PREFIX, SETTINGS, Setting, Settings

CONFIG_FLAG: Final = "--config"
CONFIG_VARIABLE: Final = "KVMCP_CONFIG"

ReadFile: TypeAlias = Callable[[str], bytes]
"""The content of the file at a path. Raises OSError."""


class ConfigError(Exception):
    """The configuration cannot be used. The message is one line: what came, what is allowed, what to do.

    It never holds a secret or the password of a URL.
    """


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
            text = environ.get(variable, "")
            if text and not text.startswith(_SERVICE_LINK):
                return _Given(text, Origin("environment", variable))
        return None

    return find


_SERVICE_LINK: Final = ("tcp://", "udp://", "sctp://")
"""What Kubernetes writes into `KVMCP_PORT` of every pod beside a service named kvmcp: not meant for us."""


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


def _text(value: object, takes: Takes) -> str:
    """A value of a file as the text that a flag would have. Raises Unfit.

    Numbers are not taken for text: YAML has made 7 of 007, and a key of digits has lost its zeros.
    """
    match value:
        case str():
            return value
        case bool() if takes == "switch":
            return "yes" if value else "no"
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
