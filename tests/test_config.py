"""`kvmcp.config`: what each source says, which one wins, what is refused, and what the documentation claims."""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, get_args

import pytest
import yaml
from hypothesis import given, strategies as st

from kvmcp import config
from kvmcp.backends.memory import backend as memory
from kvmcp.config import SETTINGS, ConfigError, Loaded, Origin, Setting, Settings, load, quoted, redacted
from kvmcp.config.settings import ToolSet
from kvmcp.core.limits import Limits
from kvmcp.core.request_state import MIN_KEY_BYTES
from kvmcp.tools.surface import TOOL_SETS, Selection

HEX_KEY = "00ff" * 16
Source = Literal["flag", "environment", "file"]


def files(contents: Mapping[str, str | bytes]) -> Callable[[str], bytes]:
    """A `read_file` that knows these files only."""

    def read_file(path: str) -> bytes:
        if path not in contents:
            raise FileNotFoundError(2, "No such file or directory", path)
        content = contents[path]
        return content if isinstance(content, bytes) else content.encode()

    return read_file


def from_flags(**flags: str) -> Loaded:
    return load(flags, {}, files({}))


def from_environment(**environ: str) -> Loaded:
    return load({}, environ, files({}))


def from_file(content: str | bytes, name: str = "kvmcp.toml") -> Loaded:
    return load({"config": name}, {}, files({name: content}))


def refusal(do: Callable[[], object]) -> str:
    with pytest.raises(ConfigError) as caught:
        do()
    return str(caught.value)


# --- defaults -------------------------------------------------------------------------------------------------


def test_nothing_set_gives_the_defaults() -> None:
    loaded = load({}, {}, files({}))
    assert loaded == Loaded(Settings(), {setting.name: Origin("default") for setting in SETTINGS})
    assert Settings().transport == ("stdio",)
    assert Settings().backend == "memory://"
    assert Settings().state_key is None


def test_defaults_are_those_of_the_rooms() -> None:
    assert Settings().memory_max_keys == memory.MAX_KEYS
    assert Settings().memory_max_bytes == memory.MAX_BYTES
    assert Settings().shutdown_grace == Limits().shutdown_grace
    assert Settings().tools == Selection().sets
    assert get_args(ToolSet) == tuple(TOOL_SETS)
    assert config.MIN_STATE_KEY_BYTES == MIN_KEY_BYTES


@pytest.mark.parametrize("setting", [s for s in SETTINGS if s.default is not None], ids=lambda s: s.name)
def test_a_default_is_read_back_as_it_is_shown(setting: Setting) -> None:
    assert setting.row.kind.parse(setting.shown(setting.default)) == setting.default


# --- sources --------------------------------------------------------------------------------------------------


def test_each_source_and_its_origin() -> None:
    loaded = load(
        {"namespace": "acme", "config": "k.toml"},
        {"KVMCP_LOOP": "trio"},
        files({"k.toml": 'log_level = "debug"\n'}),
    )
    assert loaded.settings == Settings(namespace="acme", loop="trio", log_level="debug")
    assert loaded.origins["namespace"] == Origin("flag", "--namespace")
    assert loaded.origins["loop"] == Origin("environment", "KVMCP_LOOP")
    assert loaded.origins["log_level"] == Origin("file", "k.toml:log_level")
    assert str(loaded.origins["log_level"]) == "file k.toml:log_level"
    assert str(loaded.origins["backend"]) == "default"


def test_what_is_set_to_the_default_is_set() -> None:
    assert from_flags(loop="asyncio").origins["loop"] == Origin("flag", "--loop")


def test_the_file_is_named_by_the_environment_unless_a_flag_names_one() -> None:
    read_file = files({"a.toml": 'namespace = "a"', "b.toml": 'namespace = "b"'})
    environ = {"KVMCP_CONFIG": "a.toml"}
    assert load({}, environ, read_file).settings.namespace == "a"
    assert load({"config": "b.toml"}, environ, read_file).settings.namespace == "b"


def test_an_empty_variable_is_not_set() -> None:
    loaded = from_environment(KVMCP_NAMESPACE="", KVMCP_CONFIG="")
    assert loaded == load({}, {}, files({}))


def test_only_the_value_that_wins_is_read() -> None:
    assert load({"loop": "trio"}, {"KVMCP_LOOP": "broken"}, files({})).settings.loop == "trio"


VALUES: dict[str, tuple[str, str, str]] = {
    "namespace": ("one", "two", "three"),
    "loop": ("trio", "uvloop", "asyncio"),
    "log_level": ("debug", "error", "warning"),
    "memory_max_keys": ("1", "22", "333"),
    "memory_max_bytes": ("64MiB", "1GB", "2048"),
    "shutdown_grace": ("0", "2.5", "3600"),
}
"""Three values for each of some settings: for the flag, the environment, the file."""


@given(
    st.dictionaries(
        st.sampled_from(sorted(VALUES)), st.sets(st.sampled_from(["flag", "environment", "file"]))
    )
)
def test_flag_over_environment_over_file_over_default(plan: dict[str, set[Source]]) -> None:
    flags = {name: VALUES[name][0] for name, sources in plan.items() if "flag" in sources}
    environ = {f"KVMCP_{n.upper()}": VALUES[n][1] for n, sources in plan.items() if "environment" in sources}
    lines = [f'{n} = "{VALUES[n][2]}"\n' for n, sources in plan.items() if "file" in sources]
    loaded = load({**flags, "config": "k.toml"}, environ, files({"k.toml": "".join(lines)}))
    for setting in SETTINGS:
        source = winner(plan.get(setting.name, set()))
        assert loaded.origins[setting.name].source == source
        expected = setting.default if source == "default" else parsed(setting, source)
        assert getattr(loaded.settings, setting.name) == expected


def winner(sources: set[Source]) -> str:
    order: tuple[Source, ...] = ("flag", "environment", "file")
    return next((source for source in order if source in sources), "default")


def parsed(setting: Setting, source: str) -> object:
    text = VALUES[setting.name][("flag", "environment", "file").index(source)]
    return setting.row.kind.parse(text)


# --- grammar --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("transport", "stdio,stdio", ("stdio",)),
        ("transport", " STDIO ,", ("stdio",)),
        ("backend", "memory://", "memory://"),
        ("backend", "MEMORY://", "memory://"),
        ("namespace", "A-b_c.9", "A-b_c.9"),
        ("namespace", "x" * 64, "x" * 64),
        ("loop", "Trio", "trio"),
        ("log_level", "WARNING", "warning"),
        ("shutdown_grace", "0", 0.0),
        ("shutdown_grace", " 0.25 ", 0.25),
        ("shutdown_grace", "3600", 3600.0),
        ("memory_max_keys", "1", 1),
        ("memory_max_keys", "1000000000", 10**9),
        ("memory_max_bytes", "1024", 1024),
        ("memory_max_bytes", "1024 B", 1024),
        ("memory_max_bytes", "5kB", 5000),
        ("memory_max_bytes", "5 KiB", 5120),
        ("memory_max_bytes", "3mb", 3 * 10**6),
        ("memory_max_bytes", "64MiB", 64 * 2**20),
        ("memory_max_bytes", "2GB", 2 * 10**9),
        ("memory_max_bytes", "1024gib", 2**40),
    ],
)
def test_values_are_read(name: str, text: str, value: object) -> None:
    assert getattr(from_flags(**{name: text}).settings, name) == value
    assert getattr(from_environment(**{f"KVMCP_{name.upper()}": text}).settings, name) == value


@given(st.integers(1024, 2**40))
def test_sizes_are_read_back_as_they_are_shown(size: int) -> None:
    kind = next(setting for setting in SETTINGS if setting.name == "memory_max_bytes").row.kind
    assert kind.parse(kind.show(size)) == size


@given(st.sampled_from(SETTINGS), st.text())
def test_any_text_is_read_or_refused_in_one_line(setting: Setting, text: str) -> None:
    try:
        from_environment(**{setting.variable: text})
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.binary()


@given(st.sampled_from(SETTINGS), SCALARS | st.lists(SCALARS) | st.dictionaries(st.text(), SCALARS))
def test_any_value_of_a_file_is_read_or_refused_in_one_line(setting: Setting, value: object) -> None:
    try:
        from_file(yaml.safe_dump({setting.name: value}), "k.yaml")
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1


@given(st.binary(), st.sampled_from(["k.toml", "k.yaml"]))
def test_any_file_is_read_or_refused_in_one_line(content: bytes, name: str) -> None:
    try:
        from_file(content, name)
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1


# --- files ----------------------------------------------------------------------------------------------------


def test_toml() -> None:
    content = """
        transport = ["stdio"]
        shutdown_grace = 2.5
        memory_max_keys = 1_000
        memory_max_bytes = 0x10000
        log_format = "json"
    """
    assert from_file(content).settings == Settings(
        shutdown_grace=2.5, memory_max_keys=1000, memory_max_bytes=65536, log_format="json"
    )


@pytest.mark.parametrize("name", ["kvmcp.yaml", "kvmcp.yml", "KVMCP.YAML"])
def test_yaml(name: str) -> None:
    content = "transport: [stdio]\nshutdown_grace: 2\nnamespace: '007'\ntools: redis\n"
    loaded = from_file(content, name)
    assert loaded.settings == Settings(shutdown_grace=2.0, namespace="007")
    assert loaded.origins["namespace"] == Origin("file", f"{name}:namespace")


@pytest.mark.parametrize(("content", "name"), [("", "k.toml"), ("", "k.yaml"), ("# nothing\n", "k.yml")])
def test_an_empty_file_sets_nothing(content: str, name: str) -> None:
    assert from_file(content, name).settings == Settings()


def test_a_byte_order_mark_is_skipped() -> None:
    assert from_file(b'\xef\xbb\xbfnamespace = "a"\r\n').settings.namespace == "a"


def test_yaml_without_pyyaml_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert refusal(lambda: from_file("loop: trio", "k.yaml")) == (
        "k.yaml: YAML needs PyYAML: run pip install 'kvmcp[yaml]', or write the file as TOML"
    )


@pytest.mark.parametrize("value", [f"{HEX_KEY}: x", f"*{HEX_KEY}", f"!{HEX_KEY} x", f"'{HEX_KEY}"])
def test_errors_of_yaml_do_not_quote_the_file(value: str) -> None:
    message = refusal(lambda: from_file(f"state_key: {value}", "k.yaml"))
    assert message.startswith("k.yaml: not valid YAML: ")
    assert HEX_KEY not in message


# --- secrets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (HEX_KEY, bytes.fromhex(HEX_KEY)),
        (HEX_KEY.upper(), bytes.fromhex(HEX_KEY)),
        ("a" * 32, b"a" * 32),  # hex digits, but too few to be 32 bytes: taken as text
        ("a" * 65, b"a" * 65),  # an odd number of digits is no hex
        ("correct horse battery staple, again", b"correct horse battery staple, again"),
        ("ü" * 16, "ü".encode() * 16),
        ("\udcff" * 32, b"\xff" * 32),  # what an environment that is not UTF-8 looks like
    ],
)
def test_state_keys(text: str, key: bytes) -> None:
    loaded = from_environment(KVMCP_STATE_KEY=text)
    assert loaded.settings.state_key == key
    assert loaded.origins["state_key"] == Origin("environment", "KVMCP_STATE_KEY")


def test_a_secret_from_a_file_of_its_own() -> None:
    read_file = files({"/run/key": f"{HEX_KEY}\r\n"})
    loaded = load({}, {"KVMCP_STATE_KEY_FILE": "/run/key"}, read_file)
    assert loaded.settings.state_key == bytes.fromhex(HEX_KEY)
    assert str(loaded.origins["state_key"]) == "environment KVMCP_STATE_KEY_FILE (/run/key)"


def test_a_secret_from_the_file_with_settings() -> None:
    assert from_file(f'state_key = "{HEX_KEY}"').settings.state_key == bytes.fromhex(HEX_KEY)


def test_a_secret_is_not_taken_from_a_flag() -> None:
    assert from_flags(state_key=HEX_KEY).settings.state_key is None


def test_secrets_are_never_shown() -> None:
    settings = Settings(state_key=b"k" * 32)
    secrets = {setting.name: setting for setting in SETTINGS if setting.row.secret}
    assert list(secrets) == ["redis_password", "sentinel_password", "state_key"]
    state_key = secrets["state_key"]
    assert secrets["redis_password"].shown("hunter2") == "***"
    assert "kkk" not in f"{settings} {settings!r} {[settings]}"
    assert state_key.shown(settings.state_key) == state_key.public(settings.state_key) == "***"
    assert state_key.shown(None) == "(random per process)"
    assert state_key.public(None) is None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h/0", "redis://h/0"),
        ("redis://u:p@h/0", "redis://***@h/0"),
        ("redis://u:p@ss/w@h/0?password=x&y=z", "redis://***@h/0?***"),
        ("redis://h/0?password=a@b", "redis://***@b"),
        ("redis://u:a\nb@h", "redis://***@h"),
        ("what?", "what?"),
    ],
)
def test_urls_are_redacted(url: str, shown: str) -> None:
    assert redacted(url) == shown


def test_what_came_is_quoted_on_one_short_line() -> None:
    assert quoted("a\nb") == r"'a\nb'"
    assert quoted("x" * 1000) == f"'{'x' * 60}…'"
    assert quoted("redis://u:p@h") == "'redis://***@h'"


# --- unknown things -------------------------------------------------------------------------------------------


def test_unknown_variables_are_warned_of() -> None:
    loaded = from_environment(
        KVMCP_NAMSPACE="a", KVMCP_BACKEND_FILE="b", KVMCP_X="c", KVMCP_CONFIG="", PATH="d"
    )
    assert loaded.settings == Settings()
    assert loaded.warnings == (
        (
            "unknown environment variable KVMCP_BACKEND_FILE is ignored: only secrets are read from files, "
            "set KVMCP_BACKEND"
        ),
        "unknown environment variable KVMCP_NAMSPACE is ignored (did you mean KVMCP_NAMESPACE?)",
        "unknown environment variable KVMCP_X is ignored",
    )


def test_unknown_keys_are_refused() -> None:
    assert refusal(lambda: from_file('log-level = "info"')) == (
        "kvmcp.toml: unknown key 'log-level' (did you mean log_level?)"
    )
    names = ", ".join(setting.name for setting in SETTINGS)
    assert refusal(lambda: from_file("[zzz]\nurl = 1")) == f"kvmcp.toml: unknown key 'zzz'; allowed: {names}"


# --- the store ------------------------------------------------------------------------------------------------

HERE, THERE = "redis://here", "redis://there/3"


@pytest.mark.parametrize(
    ("flags", "environ", "backend", "origin"),
    [
        ({"redis_url": HERE}, {}, HERE, "flag --redis-url"),
        ({}, {"REDIS_URL": HERE}, HERE, "environment REDIS_URL"),
        ({}, {"KVMCP_REDIS_URL": HERE, "REDIS_URL": THERE}, HERE, "environment KVMCP_REDIS_URL"),
        ({"backend": "memory://"}, {"REDIS_URL": HERE}, "memory://", "flag --backend"),
        ({}, {"KVMCP_BACKEND": "memory://", "REDIS_URL": HERE}, "memory://", "environment KVMCP_BACKEND"),
        ({"redis_url": HERE}, {"KVMCP_BACKEND": "memory://"}, HERE, "flag --redis-url"),
        ({"redis_url": HERE, "backend": THERE}, {}, THERE, "flag --backend"),
    ],
)
def test_a_redis_url_is_the_backend_unless_one_is_named(
    flags: dict[str, str], environ: dict[str, str], backend: str, origin: str
) -> None:
    loaded = load(flags, environ, files({}))
    assert loaded.settings.backend == backend
    assert str(loaded.origins["backend"]) == origin


def test_redis_schemes_are_those_of_the_backend() -> None:
    for scheme in config.REDIS_SCHEMES:
        rest = {"unix": "/run/redis.sock"}.get(scheme, "host/service" if "sentinel" in scheme else "host")
        assert load({"backend": f"{scheme}://{rest}"}, {}, files({})).settings.backend == f"{scheme}://{rest}"


# --- the table ------------------------------------------------------------------------------------------------


def test_names_follow_from_the_setting() -> None:
    by_name = {setting.name: setting for setting in SETTINGS}
    assert tuple(by_name) == Settings.__struct_fields__
    assert by_name["log_level"].flag == "--log-level"
    assert by_name["log_level"].variable == "KVMCP_LOG_LEVEL"
    assert by_name["log_level"].file_variable is None
    assert by_name["state_key"].flag is None
    assert by_name["state_key"].file_variable == "KVMCP_STATE_KEY_FILE"


def table() -> list[str]:
    return [
        f"| `{s.name}` | {code(s.flag)} | {code(s.variable)} | {default(s)} | {s.row.kind.allowed} | {meaning(s)} |"
        for s in SETTINGS
    ]


def code(text: str | None) -> str:
    return f"`{text}`" if text else "none"


def default(setting: Setting) -> str:
    return setting.row.unset if setting.default is None else code(setting.shown(setting.default))


def meaning(setting: Setting) -> str:
    secret = f"; secret, also in a file named by `{setting.file_variable}`" if setting.row.secret else ""
    if not setting.row.serving:
        return setting.row.help + secret
    return f"{setting.row.help}{secret} ({': '.join(filter(None, ('serve', ', '.join(setting.row.transports))))})"


def test_the_documentation_has_the_table() -> None:
    text = (Path(__file__).parent.parent / "docs" / "configuration.md").read_text(encoding="utf-8")
    found = re.findall(r"^\| `\w+` \|(?: `--| none).*$", text, flags=re.MULTILINE)
    assert found == table(), "\n".join(table())
