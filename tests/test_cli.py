"""`kvmcp.cli`: words, environment and files in; output, diagnosis and an exit code out.

Most tests call `main` with streams of their own and a stand-in for `kvmcp.server`; those at the end run
`python -m kvmcp` as users do, with the real one.
"""

import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec import Struct

from kvmcp import __version__
from kvmcp.cli import main
from kvmcp.cli.commands import COMMANDS
from kvmcp.cli.console import BROKEN_PIPE, EXIT_CODES, INTERNAL, INTERRUPTED, OK, TOOL_ERROR, USAGE
from kvmcp.config import SETTINGS, Settings
from kvmcp.core.wire.common import ImageContent, TextContent, ToolResult

if TYPE_CHECKING:
    from kvmcp.cli.console import Server

ROOT = Path(__file__).parent.parent
HEX_KEY = "00ff" * 16
COMMAND_NAMES = "allowed: serve, call, tools, schema export, config show; see kvmcp --help"
SETTING_NAMES = ", ".join(setting.name for setting in SETTINGS)


class NoSuchTool(Exception):
    pass


class StandIn:
    """A server that remembers what it was asked and answers `result`."""

    class Refused(Exception):
        """The server's refusal of a request."""

    UnknownTool: type[Exception] = NoSuchTool

    def __init__(self, result: ToolResult | None = None, failure: BaseException | None = None) -> None:
        self.result = result
        self.failure = failure
        self.asked: list[object] = []

    def serve(self, settings: Settings) -> int:
        self.asked.append(settings)
        if self.failure is not None:
            raise self.failure
        return 7

    def call_tool(self, settings: Settings, name: str, arguments: bytes) -> ToolResult:
        self.asked += [settings, name, arguments]
        if self.failure is not None:
            raise self.failure
        if self.result is None:
            raise NoSuchTool(name)
        return self.result

    def exported_schemas(self, settings: Settings) -> list[tuple[str, str]]:
        self.asked.append(settings)
        return [("redis_get.input.schema.json", '{"type":"object"}'), ("redis_get.output.schema.json", "{}")]

    def tool_definitions(self, settings: Settings) -> list[bytes]:
        self.asked.append(settings)
        return [
            (
                b'{"name":"redis_get","title":"Read","inputSchema":{"type":"object","properties":{"key":{}},'
                b'"required":["key"]}}'
            ),
            b'{"name":"redis_keys","inputSchema":{"type":"object","properties":{"pattern":{},"count":{}}}}',
            b'{"name":"ping","inputSchema":{"type":"object"}}',
        ]


class Ran(Struct):
    """What a command left behind."""

    code: int
    out: str
    err: str


def run(
    *argv: str,
    environ: Mapping[str, str] | None = None,
    stdin: bytes = b"",
    server: "Server | None" = None,
) -> Ran:
    out, err = io.BytesIO(), io.BytesIO()
    code = main(argv, environ or {}, io.BytesIO(stdin), out, err, server)
    return Ran(code, out.getvalue().decode(), err.getvalue().decode())


def usage_error(message: str) -> Ran:
    return Ran(USAGE, "", f"kvmcp: {message}\n")


# --- from words to a command ----------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--version"], ["-V"]])
def test_version(words: Sequence[str]) -> None:
    assert run(*words) == Ran(OK, f"kvmcp {__version__}\n", "")


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"]])
def test_help_lists_commands_and_exit_codes(words: Sequence[str]) -> None:
    ran = run(*words)
    assert (ran.code, ran.err) == (OK, "")
    assert all(f"  {name} " in ran.out for name in COMMANDS)
    assert EXIT_CODES in ran.out


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_with_examples(name: str) -> None:
    ran = run(*name.split(), "--help", "--no-such-option")
    assert (ran.code, ran.err) == (OK, "")
    assert ran.out.startswith(f"usage: kvmcp {name} [-h]")
    assert all(f"  {example}\n" in ran.out for example in COMMANDS[name].examples)
    assert EXIT_CODES in ran.out


def test_help_names_every_setting() -> None:
    words = run("serve", "--help").out.split()
    for setting in SETTINGS:
        assert (setting.flag or setting.name) in words
        assert any(setting.variable in word for word in words)


def test_help_of_other_commands_leaves_out_what_only_serves() -> None:
    text = run("call", "--help").out
    assert "--namespace" in text
    assert "--transport" not in text
    assert "state_key" not in text


@pytest.mark.parametrize("example", [text for command in COMMANDS.values() for text in command.examples])
def test_examples_are_commands(example: str) -> None:
    assert any(f"kvmcp {name}" in example for name in COMMANDS)


BAD_WORDS: dict[str, tuple[str, str]] = {
    "nothing": ("", f"no command came; {COMMAND_NAMES}"),
    "misspelt command": ("srve", f"unknown command 'srve' (did you mean serve?); {COMMAND_NAMES}"),
    "unknown command": ("frobnicate", f"unknown command 'frobnicate'; {COMMAND_NAMES}"),
    "half a command": ("config", f"unknown command 'config' (did you mean config show?); {COMMAND_NAMES}"),
    "wrong second half": (
        "config shw",
        f"unknown command 'config shw' (did you mean config show?); {COMMAND_NAMES}",
    ),
    "option first": ("--loop=trio serve", f"--loop came before a command; {COMMAND_NAMES}"),
    "unknown option": ("serve --frobnicate", "unknown option --frobnicate; see kvmcp serve --help"),
    "misspelt option": (
        "serve --namspace=a",
        "unknown option --namspace (did you mean --namespace?); see kvmcp serve --help",
    ),
    "abbreviated option": (
        "serve --name a",
        "unknown option --name (did you mean --namespace?); see kvmcp serve --help",
    ),
    "short option": ("tools -x", "unknown option -x; see kvmcp tools --help"),
    "option of later versions": (
        "serve --zzz redis://u:hunter2@h/0",
        "unknown option --zzz; see kvmcp serve --help",
    ),
    "option of later versions with =": (
        "serve --zzz=redis://u:hunter2@h/0",
        "unknown option --zzz; see kvmcp serve --help",
    ),
    "option of another command": (
        "tools --transport stdio",
        "unknown option --transport; see kvmcp tools --help",
    ),
    "secret as an option": (
        "serve --state-key hunter2",
        (
            "--state-key: a secret has no flag, since process lists show flags; "
            "set KVMCP_STATE_KEY, or KVMCP_STATE_KEY_FILE to a file's path"
        ),
    ),
    "stray word": ("serve stdio", "unexpected argument 'stdio'; see kvmcp serve --help"),
    "stray URL": (
        "serve redis://u:hunter2@h/0",
        "unexpected argument 'redis://***@h/0'; see kvmcp serve --help",
    ),
    "option without value": (
        "serve --backend",
        "argument --backend: expected one argument; see kvmcp serve --help",
    ),
    "value for a switch": (
        "tools --json=redis://u:hunter2@h",
        "argument --json: ignored explicit argument 'redis://***@h'; see kvmcp tools --help",
    ),
    "no tool": ("call", "the following arguments are required: TOOL; see kvmcp call --help"),
    "two arguments": ("call a {} b", "unexpected argument 'b'; see kvmcp call --help"),
}


@pytest.mark.parametrize(("words", "message"), BAD_WORDS.values(), ids=BAD_WORDS)
def test_bad_words(words: str, message: str) -> None:
    assert run(*words.split()) == usage_error(message)


# --- schema export --------------------------------------------------------------------------------------------


def test_schemas_are_written_as_files(tmp_path: Path) -> None:
    folder = tmp_path / "some" / "where"
    ran = run("schema", "export", str(folder), server=StandIn())
    assert ran == Ran(OK, f"2 schemas written to {folder}\n", "")
    assert {file.name: file.read_text() for file in folder.iterdir()} == {
        "redis_get.input.schema.json": '{"type":"object"}\n',
        "redis_get.output.schema.json": "{}\n",
    }


def test_schemas_need_a_folder_that_can_be_written(tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    ran = run("schema", "export", str(taken), server=StandIn())
    assert (ran.code, ran.out) == (USAGE, "")
    assert f"cannot write to {taken}" in ran.err


# --- bad configurations ---------------------------------------------------------------------------------------

LEVELS = "debug, info, warning or error"
SECONDS = "seconds from 0 to 3600, such as 5 or 0.5"
SIZES = "bytes from 1KiB to 1024GiB, such as 1000000, 64MiB or 1GB"
KEYS = "a whole number from 1 to 1000000000"
NAMES = "1 to 64 of A-Z a-z 0-9 . _ -"
REDIS = "redis://, rediss://, unix://, redis+sentinel://, rediss+sentinel://, redis+cluster:// or rediss+cluster://"
BACKENDS = f"memory://, or a URL of Redis: {REDIS}"
SETS = next(setting.row.kind.allowed for setting in SETTINGS if setting.name == "tools")
TRANSPORTS = (
    "one or more of stdio, http, websocket, tcp or unix; the network ones with a port, such as http:8765"
)
STATE_KEYS = "32 bytes or more, as hex or any text (make one: openssl rand -hex 32)"
AS_TEXT = "(text that reads so needs quotes)"

BAD_FLAGS: list[tuple[str, str, str, str]] = [
    ("--transport", "sse", "'sse'", TRANSPORTS),
    ("--transport", "stdio,quic", "'quic'", TRANSPORTS),
    ("--transport", "http:65536", "'http:65536'", TRANSPORTS),
    ("--transport", "stdio:1", "'stdio:1'", TRANSPORTS),
    ("--transport", ",", "an empty list", TRANSPORTS),
    ("--port", "65536", "'65536'", "a whole number from 0 to 65535"),
    ("--port", "tcp", "'tcp'", "a whole number from 0 to 65535"),
    ("--http-server", "apache", "'apache'", "hypercorn or uvicorn"),
    ("--workers", "0", "'0'", "a whole number from 1 to 256"),
    ("--admin-bind", "9090", "'9090'", "HOST:PORT, such as 127.0.0.1:9090"),
    ("--admin-bind", "::1:9090", "'::1:9090'", "HOST:PORT, such as 127.0.0.1:9090"),
    (
        "--allow-tool",
        "redis get",
        "'redis get'",
        "the name of a tool, as kvmcp tools lists them",
    ),
    ("--backend", "mysql://u:hunter2@h/0", "a mysql:// URL", BACKENDS),
    (
        "--backend",
        "redis://u:hunter2@h/zero",
        "a redis:// URL that cannot be used (the database is not a number (a password's / ? # @ need %-codes))",
        BACKENDS,
    ),
    (
        "--backend",
        "rediss://h?password=hunter2",
        "a rediss:// URL that cannot be used (the only parameter is ?db=N; TLS files and timeouts are options)",
        BACKENDS,
    ),
    (
        "--backend",
        "redis+cluster://h/3",
        "a redis+cluster:// URL that cannot be used (a cluster has database 0 only)",
        BACKENDS,
    ),
    ("--redis-url", "memory://", "a memory:// URL", REDIS),
    ("--redis-url", "u:hunter2@h", "a text that is not a URL", REDIS),
    ("--db", "-1", "'-1'", "a whole number from 0 to 65535"),
    ("--max-connections", "1", "'1'", "a whole number from 2 to 10000"),
    ("--key-prefix", "a:b", "'a:b'", "1 to 64 of A-Z a-z 0-9 . _ -"),
    ("--redis-timeout", "0", "'0'", "seconds from 0.001 to 3600, such as 5 or 0.5"),
    ("--redis-verify", "maybe", "'maybe'", "yes or no"),
    ("--backend", "u:hunter2@h", "a text that is not a URL", BACKENDS),
    ("--backend", "u:hunter2@h://", "a text that is not a URL", BACKENDS),
    ("--backend", "memory", "'memory'", BACKENDS),
    ("--backend", "", "''", BACKENDS),
    ("--backend", "memory://u:hunter2@h", "memory:// with something behind it", BACKENDS),
    ("--namespace", "", "''", NAMES),
    ("--namespace", "a:b", "'a:b'", NAMES),
    ("--namespace", "a b", "'a b'", NAMES),
    ("--namespace", "ünï", "'ünï'", NAMES),
    ("--namespace", "a\nb", r"'a\nb'", NAMES),
    ("--namespace", "x" * 65, f"'{'x' * 60}…'", NAMES),
    ("--loop", "twisted", "'twisted'", "asyncio, trio or uvloop"),
    ("--tools", "redis,kubernetes", "'kubernetes'", SETS),
    ("--log-level", "verbose", "'verbose'", LEVELS),
    ("--log-format", "xml", "'xml'", "text or json"),
    ("--shutdown-grace", "-1", "'-1'", SECONDS),
    ("--shutdown-grace", "3600.1", "'3600.1'", SECONDS),
    ("--shutdown-grace", "nan", "'nan'", SECONDS),
    ("--shutdown-grace", "5s", "'5s'", SECONDS),
    ("--memory-max-keys", "0", "'0'", KEYS),
    ("--memory-max-keys", "1e6", "'1e6'", KEYS),
    ("--memory-max-keys", "٣", "'٣'", KEYS),
    ("--memory-max-keys", "9" * 30, f"'{'9' * 30}'", KEYS),
    ("--memory-max-bytes", "64K", "'64K'", SIZES),
    ("--memory-max-bytes", "1.5GiB", "'1.5GiB'", SIZES),
    ("--memory-max-bytes", "1023", "'1023'", SIZES),
    ("--memory-max-bytes", "2000GB", "'2000GB'", SIZES),
]


@pytest.mark.parametrize(("flag", "text", "got", "allowed"), BAD_FLAGS)
def test_bad_flags(flag: str, text: str, got: str, allowed: str) -> None:
    expected = usage_error(f"{flag}: got {got}; allowed: {allowed}; see --help")
    assert run("config", "show", f"{flag}={text}") == expected


@pytest.mark.parametrize(("flag", "text", "got", "allowed"), [row for row in BAD_FLAGS if row[1]])
def test_bad_variables(flag: str, text: str, got: str, allowed: str) -> None:
    variable = f"KVMCP_{flag.removeprefix('--').replace('-', '_').upper()}"
    expected = usage_error(f"{variable}: got {got}; allowed: {allowed}; correct or unset the variable")
    assert run("serve", environ={variable: text}, server=StandIn()) == expected


BAD_FILES: dict[str, tuple[str, str | bytes | None, str]] = {
    "missing": (
        "k.toml",
        None,
        "--config: cannot read 'k.toml': No such file or directory; name a file that can be read",
    ),
    "unknown ending": (
        "k.json",
        "{}",
        "--config: got 'k.json'; allowed: a file named .toml, .yaml or .yml",
    ),
    "no ending": ("kvmcp", "", "--config: got 'kvmcp'; allowed: a file named .toml, .yaml or .yml"),
    "not UTF-8": (
        "k.toml",
        b'namespace = "\xff"',
        "--config: 'k.toml' is not UTF-8 text; save it as UTF-8",
    ),
    "not TOML": (
        "k.toml",
        "namespace: a",
        (
            "k.toml: not valid TOML: Expected '=' after a key in a key/value pair (at line 1, column 10); "
            "correct the file"
        ),
    ),
    "same key twice": (
        "k.toml",
        'loop = "trio"\nloop = "trio"\n',
        "k.toml: not valid TOML: Cannot overwrite a value (at line 2, column 14); correct the file",
    ),
    "not YAML": (
        "k.yaml",
        "a: [",
        "k.yaml: not valid YAML: expected the node content, but found '***' (at line 1); correct the file",
    ),
    "tab in YAML": (
        "k.yaml",
        "loop:\n\ttrio",
        (
            "k.yaml: not valid YAML: found character '\\t' that cannot start any token (at line 2); "
            "correct the file"
        ),
    ),
    "control character in YAML": (
        "k.yaml",
        "a: \x01",
        "k.yaml: not valid YAML: a character or a value that YAML does not allow; correct the file",
    ),
    "list in YAML": (
        "k.yml",
        "- trio",
        "k.yml: not valid YAML: the file is not a mapping of keys to values; correct the file",
    ),
    "too deep": (
        "k.yaml",
        "loop: " + "[" * 5000,
        "k.yaml: nested too deeply; it holds one value per setting",
    ),
    "misspelt key": ("k.toml", "namspace = 1", "k.toml: unknown key 'namspace' (did you mean namespace?)"),
    "unknown key": ("k.toml", "[zzz]", f"k.toml: unknown key 'zzz'; allowed: {SETTING_NAMES}"),
    "key that is no text": ("k.yaml", "1: 2", f"k.yaml: unknown key '1'; allowed: {SETTING_NAMES}"),
    "wrong value": (
        "k.toml",
        'loop = "curio"',
        "k.toml:loop: got 'curio'; allowed: asyncio, trio or uvloop; correct the file",
    ),
    "number for text": (
        "k.yaml",
        "namespace: 007",
        f"k.yaml:namespace: got a number {AS_TEXT}; allowed: {NAMES}; correct the file",
    ),
    "boolean for text": (
        "k.yaml",
        "namespace: no",
        f"k.yaml:namespace: got the boolean false {AS_TEXT}; allowed: {NAMES}; correct the file",
    ),
    "fraction for a whole number": (
        "k.toml",
        "memory_max_keys = 1.5",
        f"k.toml:memory_max_keys: got '1.5'; allowed: {KEYS}; correct the file",
    ),
    "huge number": (
        "k.toml",
        f"memory_max_keys = 0x{'f' * 5000}",
        f"k.toml:memory_max_keys: got a number of more than 18 digits; allowed: {KEYS}; correct the file",
    ),
    "infinity": (
        "k.toml",
        "shutdown_grace = inf",
        f"k.toml:shutdown_grace: got 'inf'; allowed: {SECONDS}; correct the file",
    ),
    "list for text": (
        "k.toml",
        'loop = ["trio"]',
        "k.toml:loop: got a list; allowed: asyncio, trio or uvloop; correct the file",
    ),
    "list of numbers": (
        "k.toml",
        "tools = [1]",
        f"k.toml:tools: got a list with something else than text in it; allowed: {SETS}; correct the file",
    ),
    "table for text": (
        "k.toml",
        "[loop]\na = 1",
        "k.toml:loop: got a table; allowed: asyncio, trio or uvloop; correct the file",
    ),
    "nothing": (
        "k.yaml",
        "loop:",
        "k.yaml:loop: got nothing; allowed: asyncio, trio or uvloop; correct the file",
    ),
    "date": (
        "k.toml",
        "namespace = 2026-11-20",
        f"k.toml:namespace: got a date, a time or binary data; allowed: {NAMES}; correct the file",
    ),
    "password in a URL": (
        "k.toml",
        'backend = "mysql://u:hunter2@h/0"',
        f"k.toml:backend: got a mysql:// URL; allowed: {BACKENDS}; correct the file",
    ),
    "short secret": (
        "k.toml",
        'state_key = "hunter2"',
        f"k.toml:state_key: got 7 bytes; allowed: {STATE_KEYS}; correct the file",
    ),
    "secret that is not Unicode": (
        "k.yaml",
        'state_key: "' + r"\ud800" * 20 + '"',
        f"k.yaml:state_key: got text with a lone surrogate; allowed: {STATE_KEYS}; correct the file",
    ),
    "secret of digits": (
        "k.yaml",
        f"state_key: {'12' * 40}",
        f"k.yaml:state_key: got a number of more than 18 digits; allowed: {STATE_KEYS}; correct the file",
    ),
}


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files(
    name: str, content: str | bytes | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert run("config", "show", "--config", name) == usage_error(message)
    if message.startswith("--config"):
        message = message.replace("--config", "KVMCP_CONFIG", 1)
    assert run("config", "show", environ={"KVMCP_CONFIG": name}) == usage_error(message)


BAD_SECRETS: dict[str, tuple[dict[str, str], str]] = {
    "short": (
        {"KVMCP_STATE_KEY": "hunter2"},
        f"KVMCP_STATE_KEY: got 7 bytes; allowed: {STATE_KEYS}; correct or unset the variable",
    ),
    "empty": ({"KVMCP_STATE_KEY": ""}, "KVMCP_STATE_KEY is empty: give it a value, or unset it"),
    "empty path": (
        {"KVMCP_STATE_KEY_FILE": ""},
        "KVMCP_STATE_KEY_FILE is empty: give it a value, or unset it",
    ),
    "both": (
        {"KVMCP_STATE_KEY": HEX_KEY, "KVMCP_STATE_KEY_FILE": "short"},
        "KVMCP_STATE_KEY and KVMCP_STATE_KEY_FILE are both set: unset one of them",
    ),
    "no file": (
        {"KVMCP_STATE_KEY_FILE": "none"},
        "KVMCP_STATE_KEY_FILE: cannot read 'none': No such file or directory; name a file that can be read",
    ),
    "a folder": (
        {"KVMCP_STATE_KEY_FILE": "."},
        "KVMCP_STATE_KEY_FILE: cannot read '.': Is a directory; name a file that can be read",
    ),
    "file too short": (
        {"KVMCP_STATE_KEY_FILE": "short"},
        f"KVMCP_STATE_KEY_FILE (short): got 7 bytes; allowed: {STATE_KEYS}; correct or unset the variable",
    ),
    "file with bytes": (
        {"KVMCP_STATE_KEY_FILE": "binary"},
        "KVMCP_STATE_KEY_FILE: 'binary' is not UTF-8 text; save it as UTF-8",
    ),
}


@pytest.mark.parametrize(("environ", "message"), BAD_SECRETS.values(), ids=BAD_SECRETS)
def test_bad_secrets(
    environ: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short").write_text("hunter2\n")
    Path("binary").write_bytes(b"\xff" * 32)
    assert run("serve", environ=environ, server=StandIn()) == usage_error(message)


def test_no_message_holds_a_password() -> None:
    messages = [message for _, message in BAD_WORDS.values()]
    messages += [message for _, _, message in BAD_FILES.values()]
    messages += [got for _, _, got, _ in BAD_FLAGS]
    messages += [message for _, message in BAD_SECRETS.values()]
    assert "hunter2" not in "".join(messages)


# --- serve ----------------------------------------------------------------------------------------------------


def test_serve_hands_over_the_settings() -> None:
    server = StandIn()
    ran = run("serve", "--namespace", "acme", environ={"KVMCP_LOG_LEVEL": "debug"}, server=server)
    assert ran == Ran(7, "", "")
    assert server.asked == [Settings(namespace="acme", log_level="debug")]


def test_flags_of_lists_may_be_repeated() -> None:
    server = StandIn()
    run("serve", "--transport", "stdio", "--transport", "stdio", "--tools=redis,redis", server=server)
    assert server.asked == [Settings()]


def test_unknown_variables_are_warned_of() -> None:
    ran = run("serve", environ={"KVMCP_LOPO": "trio"}, server=StandIn())
    warning = "unknown environment variable KVMCP_LOPO is ignored (did you mean KVMCP_LOOP?)"
    assert ran == Ran(7, "", f"kvmcp: warning: {warning}\n")


@pytest.mark.parametrize(
    ("loop", "package"), [("trio", "'kvmcp[trio]'"), ("uvloop", "uvloop")], ids=["trio", "uvloop"]
)
def test_a_loop_that_is_not_installed(loop: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert run("serve", "--loop", loop, server=StandIn()) == usage_error(
        f"the loop {loop} is not installed: run pip install {package}, or use the loop asyncio"
    )


def test_a_bug_is_reported_with_its_traceback() -> None:
    ran = run("serve", server=StandIn(failure=LookupError("oh")))
    assert (ran.code, ran.out) == (INTERNAL, "")
    assert ran.err.startswith("Traceback (most recent call last):\n")
    assert ran.err.splitlines()[-2:] == [
        "LookupError: oh",
        f"kvmcp: internal failure, kvmcp {__version__}: please report it with the lines above",
    ]


def test_an_interrupt_is_no_bug() -> None:
    assert run("serve", server=StandIn(failure=KeyboardInterrupt())) == Ran(INTERRUPTED, "", "")


# Words, and what they ask for in vain: flag and setting, the transports that are served, those that it is for.
IN_VAIN: dict[str, tuple[str, str, str, str]] = {
    "--host 0.0.0.0": ("host", "0.0.0.0", "stdio", "http or websocket or tcp"),
    "--port 9000": ("port", "9000", "stdio", "http or websocket or tcp without a port of its own"),
    "--port 9001": ("port", "9001", "http:1,tcp:2", "http or websocket or tcp without a port of its own"),
    "--path s.sock": ("path", "s.sock", "http", "unix"),
    "--http-server uvicorn": ("http_server", "uvicorn", "websocket", "http"),
    "--workers 2": ("workers", "2", "stdio", "http or websocket or tcp"),
    "--workers 3": ("workers", "3", "stdio,unix", "http or websocket or tcp"),
    "--allowed-host a.example": ("allowed_host", "a.example", "stdio", "http or websocket"),
    "--allowed-origin https://a.example": (
        "allowed_origin", "https://a.example", "tcp", "http or websocket",
    ),
    "--legacy-sse": ("legacy_sse", "yes", "stdio", "http"),
    "--resumable": ("resumable", "yes", "unix", "http"),
    "--max-per-address 2": ("max_per_address", "2", "stdio", "http or websocket or tcp"),
    "--ws-compression": ("ws_compression", "yes", "http:0", "websocket"),
    "--admin-bind 127.0.0.1:0": ("admin_bind", "127.0.0.1:0", "stdio", "http"),
    "--tls-cert c.pem": ("tls_cert", "c.pem", "stdio", "http or websocket or tcp"),
    "--tls-key k.pem": ("tls_key", "k.pem", "unix", "http or websocket or tcp"),
}  # fmt: skip


def test_each_setting_of_some_transports_only_is_asked_for_in_vain() -> None:
    assert {name for name, *_ in IN_VAIN.values()} == {s.name for s in SETTINGS if s.row.transports}


@pytest.mark.parametrize("words", IN_VAIN)
def test_a_flag_that_can_have_no_effect_is_an_error(words: str) -> None:
    _, _, transports, needed = IN_VAIN[words]
    server = StandIn()
    assert run("serve", "--transport", transports, *words.split(), server=server) == usage_error(
        f"{words.split()[0]} has no effect with --transport {transports}: it is for {needed};"
        f" add --transport {needed.split()[0]}, or leave it out"
    )
    assert server.asked == []


@pytest.mark.parametrize("words", IN_VAIN)
def test_a_variable_without_effect_is_a_warning_and_not_handed_over(words: str) -> None:
    name, value, transports, needed = IN_VAIN[words]
    server, variable = StandIn(), f"KVMCP_{name.upper()}"
    ran = run("serve", "--transport", transports, environ={variable: value}, server=server)
    assert (ran.code, ran.out) == (7, "")
    assert ran.err == (
        f"kvmcp: warning: {variable} has no effect with --transport {transports}: it is for {needed}\n"
    )
    assert server.asked == [Settings(transport=tuple(transports.split(",")))]


def test_a_file_s_value_without_effect_is_a_warning(tmp_path: Path) -> None:
    file, server = tmp_path / "kvmcp.toml", StandIn()
    file.write_text("workers = 4\nlegacy_sse = true\n")
    ran = run("serve", "--config", str(file), server=server)
    assert ran.err.splitlines() == [
        f"kvmcp: warning: {file}:workers has no effect with --transport stdio: it is for http or websocket or tcp",
        f"kvmcp: warning: {file}:legacy_sse has no effect with --transport stdio: it is for http",
    ]
    assert server.asked == [Settings()]


@pytest.mark.parametrize(
    "words",
    [
        "--no-legacy-sse --workers 1 --host 127.0.0.1",
        "--transport stdio --transport http --admin-bind 127.0.0.1:0 --legacy-sse --port 0 --workers 2",
        "--transport http:0 --transport websocket --port 9000 --ws-compression",
        "--transport tcp --tls-cert c.pem --tls-key k.pem",
        "--transport unix --path s.sock",
    ],
)
def test_what_has_an_effect_or_asks_for_the_default_is_taken(words: str) -> None:
    server = StandIn()
    assert run("serve", *words.split(), server=server) == Ran(7, "", "")
    assert len(server.asked) == 1


def test_other_commands_show_what_has_no_effect() -> None:
    ran = run("config", "show", "--json", "--workers", "2")
    assert (ran.code, ran.err) == (OK, "")
    assert json.loads(ran.out)["workers"]["value"] == 2


# --- call -----------------------------------------------------------------------------------------------------


def test_call_prints_the_structured_result() -> None:
    server = StandIn(ToolResult(structured='{"value":"ü"}'.encode(), notes=("repaired",)))
    ran = run("call", "redis_get", '{"key": "a"}', "--namespace=acme", server=server)
    assert ran == Ran(OK, '{"value":"ü"}\n', "kvmcp: repaired\n")
    assert server.asked == [Settings(namespace="acme"), "redis_get", b'{"key": "a"}']


def test_call_prints_content_where_there_is_nothing_structured() -> None:
    ran = run("call", "show", server=StandIn(ToolResult((TextContent("hi"),))))
    assert ran == Ran(OK, '[{"type":"text","text":"hi"}]\n', "")


def test_call_without_arguments_and_from_standard_input() -> None:
    server = StandIn(ToolResult(structured=b"{}"))
    run("call", "ping", server=server)
    run("call", "ping", "-", stdin=b'{"a":\n1}', server=server)
    assert [server.asked[2], server.asked[5]] == [b"{}", b'{"a":\n1}']


@pytest.mark.parametrize("words", ["call --json ping {}", "call ping --json {}", "call ping {} --json"])
def test_options_may_stand_anywhere(words: str) -> None:
    server = StandIn(ToolResult(structured=b"{}"))
    assert run(*words.split(), server=server).code == OK
    assert server.asked[1:] == ["ping", b"{}"]


@pytest.mark.parametrize(
    ("result", "text", "as_json"),
    [
        (
            ToolResult((TextContent("a\nb"),), b'{"error":1}', is_error=True, notes=("c",)),
            "kvmcp: ping: a b\nkvmcp: ping: c\n",
            '"content":[{"type":"text","text":"a\\nb"},{"type":"text","text":"c"}],"structuredContent":{"error":1}',
        ),
        (
            ToolResult(structured=b'{"error":1}', is_error=True),
            'kvmcp: ping: {"error":1}\n',
            '"content":[{"type":"text","text":"{\\"error\\":1}"}],"structuredContent":{"error":1}',
        ),
        (
            ToolResult((ImageContent("aGk=", "image/png"),), is_error=True),
            "kvmcp: ping: failed without a message\n",
            '"content":[{"type":"image","data":"aGk=","mimeType":"image/png"}]',
        ),
    ],
    ids=["text", "structured", "image"],
)
def test_an_error_of_a_tool(result: ToolResult, text: str, as_json: str) -> None:
    assert run("call", "ping", server=StandIn(result)) == Ran(TOOL_ERROR, "", text)
    expected = Ran(TOOL_ERROR, "", f'{{"isError":true,{as_json}}}\n')
    assert run("call", "ping", "--json", server=StandIn(result)) == expected


def test_an_unknown_tool() -> None:
    assert run("call", "redis_gte", server=StandIn()) == usage_error(
        "unknown tool 'redis_gte' (did you mean redis_get?); kvmcp tools lists all"
    )


def test_a_call_that_is_refused() -> None:
    server = StandIn(failure=StandIn.Refused("nested deeper than 128 levels"))
    assert run("call", "ping", server=server) == usage_error(
        "the call of ping was refused: nested deeper than 128 levels"
    )


ALLOWED = """allowed: an object such as '{"key": "a"}', or - to read it from standard input"""


@pytest.mark.parametrize("text", ["[1]", "1", "null", '"a"'])
def test_arguments_that_are_no_object(text: str) -> None:
    expected = usage_error(f"the arguments are no JSON object; {ALLOWED}")
    assert run("call", "ping", text, server=StandIn()) == expected


@pytest.mark.parametrize(
    "text", [b"", b"{", b"{}{}", b"{'a': 1}", b'{"a": "\xff"}', b"\xff", b"\xef\xbb\xbf{}"]
)
def test_arguments_that_are_no_json(text: bytes) -> None:
    ran = run("call", "ping", "-", stdin=text, server=StandIn())
    assert (ran.code, ran.out) == (USAGE, "")
    assert ran.err.startswith("kvmcp: the arguments are not valid JSON (")
    assert ran.err.endswith(f"); {ALLOWED}\n")


def test_arguments_that_are_nested_too_deeply() -> None:
    deep = b'{"a": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    assert run("call", "ping", "-", stdin=deep, server=StandIn()) == usage_error(
        "the arguments are nested too deeply"
    )


# --- tools, config show ---------------------------------------------------------------------------------------


def test_tools_for_people() -> None:
    server = StandIn()
    assert run("tools", "--tools", "redis", server=server) == Ran(
        OK,
        "NAME        TITLE  ARGUMENTS\nredis_get   Read   key\nredis_keys         [pattern] [count]\nping\n",
        "",
    )
    assert server.asked == [Settings(tools=("redis",))]


def test_tools_for_programs() -> None:
    server = StandIn()
    ran = run("tools", "--json", server=server)
    assert json.loads(ran.out) == [json.loads(text) for text in server.tool_definitions(Settings())]


def test_config_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("k.toml").write_text('log_level = "debug"\n')
    environ = {"KVMCP_STATE_KEY": HEX_KEY, "KVMCP_CONFIG": "k.toml"}
    ran = run("config", "show", "--loop", "trio", environ=environ)
    assert (ran.code, ran.err) == (OK, "")
    lines = {line.split()[0]: line.split()[1:] for line in ran.out.splitlines()}
    assert list(lines) == ["SETTING", *(setting.name for setting in SETTINGS)]
    assert lines["loop"] == ["trio", "flag", "--loop"]
    assert lines["log_level"] == ["debug", "file", "k.toml:log_level"]
    assert lines["state_key"] == ["***", "environment", "KVMCP_STATE_KEY"]
    assert lines["memory_max_bytes"] == ["256MiB", "default"]


def test_config_show_for_programs() -> None:
    ran = run("config", "show", "--json", "--memory-max-bytes=1MiB", environ={"KVMCP_STATE_KEY": HEX_KEY})
    shown = json.loads(ran.out)
    assert list(shown) == [setting.name for setting in SETTINGS]
    assert shown["memory_max_bytes"] == {"value": 2**20, "source": "flag", "where": "--memory-max-bytes"}
    assert shown["transport"] == {"value": ["stdio"], "source": "default", "where": None}
    assert shown["state_key"] == {"value": "***", "source": "environment", "where": "KVMCP_STATE_KEY"}
    assert HEX_KEY not in ran.out


def test_text_that_is_not_unicode_is_printed_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "k\udcff.toml"
    path.write_text('loop = "trio"')
    ran = run("config", "show", environ={"KVMCP_CONFIG": str(path)})
    assert ran.code == OK
    assert "k\\udcff.toml:loop" in ran.out


# --- as users run it ------------------------------------------------------------------------------------------


def kvmcp(
    *argv: str,
    environ: Mapping[str, str] | None = None,
    stdin: str = "",
    python: Sequence[str] = (),
    stdout: int = subprocess.PIPE,
) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KVMCP_")}
    return subprocess.run(
        [sys.executable, *python, "-m", "kvmcp", *argv],
        cwd=ROOT,
        env={**clean, **(environ or {})},
        input=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        timeout=30,
        check=False,
    )


def finished(process: subprocess.CompletedProcess[str]) -> Ran:
    return Ran(process.returncode, process.stdout or "", process.stderr)


def test_process_version_and_help() -> None:
    assert finished(kvmcp("--version")) == Ran(OK, f"kvmcp {__version__}\n", "")
    assert finished(kvmcp("--help")) == run("--help")


def test_process_wrong_option() -> None:
    expected = usage_error("unknown option --lop (did you mean --loop?); see kvmcp serve --help")
    assert finished(kvmcp("serve", "--lop", "trio")) == expected


def test_process_environment_and_file(tmp_path: Path) -> None:
    path = tmp_path / "k.yaml"
    path.write_text("namespace: acme\nloop: trio\n")
    shown = json.loads(kvmcp("config", "show", "--json", environ={"KVMCP_CONFIG": str(path)}).stdout)
    assert shown["namespace"] == {"value": "acme", "source": "file", "where": f"{path}:namespace"}
    ran = finished(kvmcp("config", "show", environ={"KVMCP_NAMESPACE": "a b"}))
    assert ran == usage_error(f"KVMCP_NAMESPACE: got 'a b'; allowed: {NAMES}; correct or unset the variable")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_process_output_that_cannot_be_written() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        ran = finished(kvmcp("--help", stdout=full))
    finally:
        os.close(full)
    assert ran == Ran(INTERNAL, "", "kvmcp: cannot write the output: No space left on device\n")


def test_process_output_that_nobody_reads() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ran = finished(kvmcp("--help", stdout=writing))
    finally:
        os.close(writing)
    assert ran == Ran(BROKEN_PIPE, "", "")


def imported(*argv: str) -> set[str]:
    """The modules that a command imports, beyond what Python needs to start a module."""
    lines = kvmcp(*argv, python=["-X", "importtime"]).stderr.splitlines()
    return {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}


def test_the_version_needs_next_to_nothing() -> None:
    bare = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import __future__, runpy"],
        stderr=subprocess.PIPE,
        encoding="utf-8",
        check=True,
    )
    known = {line.rpartition("|")[2].strip() for line in bare.stderr.splitlines()}
    assert imported("--version") - known <= {"kvmcp", "kvmcp.cli", "kvmcp.cli.console"}


def test_settings_import_nothing_slow() -> None:
    slow = {"tomllib", "yaml", "asyncio", "trio", "anyio", "logging", "difflib", "shutil", "subprocess"}
    slow |= {"importlib.metadata", "kvmcp.server", "kvmcp.core"}
    modules = imported("config", "show")
    assert "kvmcp.config" in modules
    assert not modules & slow


# --- with the real server -------------------------------------------------------------------------------------


def test_process_call() -> None:
    assert finished(kvmcp("call", "redis_set", '{"key":"a","value":1}')) == Ran(
        OK, '{"ok":true,"etag":"356a192b7913b04c"}\n', ""
    )
    ran = finished(kvmcp("call", "redis_get", "-", stdin='{"key": "ü"}', environ={"KVMCP_LOOP": "trio"}))
    assert ran == Ran(OK, '{"found":false}\n', "")


def test_process_call_tells_what_was_repaired() -> None:
    ran = finished(kvmcp("call", "redis_del", '{"keys": "[\\"a\\"]"}'))
    assert (ran.code, ran.out) == (OK, '{"deleted":0}\n')
    assert "`keys` came as a string and was read as a JSON array" in ran.err


def test_process_call_that_fails() -> None:
    ran = finished(kvmcp("call", "redis_get", "{}"))
    assert (ran.code, ran.out) == (TOOL_ERROR, "")
    assert ran.err.startswith("kvmcp: redis_get: ")
    failure = json.loads(kvmcp("call", "redis_get", "{}", "--json").stderr)
    assert failure["isError"] is True
    assert "key" in failure["structuredContent"]["error"]["message"]


def test_process_call_of_an_unknown_tool() -> None:
    assert finished(kvmcp("call", "redis_gte")) == usage_error(
        "unknown tool 'redis_gte' (did you mean redis_get?); kvmcp tools lists all"
    )


def test_process_call_that_is_too_deep() -> None:
    deep = f'{{"key": "a", "value": {"[" * 200}{"]" * 200}}}'
    ran = finished(kvmcp("call", "redis_set", "-", stdin=deep))
    assert (ran.code, ran.out) == (USAGE, "")
    assert ran.err.startswith("kvmcp: the call of redis_set was refused: ")


def test_process_tools() -> None:
    definitions = json.loads(kvmcp("tools", "--json").stdout)
    names = [definition["name"] for definition in definitions]
    assert {"redis_get", "redis_set", "redis_del"} <= set(names)
    assert all(definition["inputSchema"]["type"] == "object" for definition in definitions)
    ran = kvmcp("tools")
    assert [line.split()[0] for line in ran.stdout.splitlines()] == ["NAME", *names]


def test_process_serve_ends_with_its_input() -> None:
    assert finished(kvmcp("serve")) == Ran(OK, "", "")


def test_process_serve_answers() -> None:
    request = '{"jsonrpc":"2.0","id":1,"method":"ping"}\n'
    ran = finished(kvmcp("serve", "--log-level", "error", stdin=request))
    assert ran.code == OK
    assert [json.loads(line)["id"] for line in ran.out.splitlines()] == [1]
