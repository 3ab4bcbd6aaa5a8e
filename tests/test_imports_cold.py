"""What is imported, and when: a server on stdio starts without what it does not use, the core needs no loop.

Only names of modules are looked at, never times: `benchmarks/stdio.py` measures those.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]

NOT_FOR_STDIO = {
    "HTTP": ["hypercorn", "wsproto", "h11", "h2", "httpx", "http", "email", "ssl", "urllib.request", "xml"],
    "another store": ["redis", "hiredis", "coredis", "kvmcp.backends.redis"],
    "another loop": ["trio", "uvloop"],
    "a configuration file": ["yaml", "tomllib", "tomlkit", "configparser"],
    "metadata": ["importlib.metadata", "pkg_resources", "setuptools"],
    "what no client has asked for": [
        *("kvmcp.tools.prompts", "kvmcp.tools.resources", "kvmcp.tools.documents", "kvmcp.tools.listing"),
        *("kvmcp.tools.completion", "kvmcp.tools.uris", "kvmcp.tools.namespaces", "kvmcp.core.uritemplate"),
    ],
    "mistakes": ["kvmcp.core.mending", "kvmcp.core.salvage", "difflib"],
    "sets of tools that nobody chose": [
        *("kvmcp.tools.sets", "kvmcp.tools.sorted_sets", "kvmcp.tools.streams", "kvmcp.tools.json_documents"),
        *("kvmcp.tools.leases", "kvmcp.tools.queues", "kvmcp.tools.waiting"),
    ],
    "functions of somebody's own": ["kvmcp.functions", "kvmcp.questions", "kvmcp.core.schema_arguments"],
    "another side": ["kvmcp.core.client", "kvmcp.core.http", "kvmcp.io.client", "kvmcp.network"],
    "small functions of large modules": ["urllib", "secrets", "random"],
    "tools of developers": ["unittest", "pdb", "pydoc", "pydantic", "jsonschema", "multiprocessing"],
}

MODERN = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
CALL = {"name": "redis_set", "arguments": {"key": "k", "value": [1]}}
CONVERSATIONS = {
    "nothing at all": [],
    "legacy": [
        {
            "id": 0,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": {"name": "t", "version": "1"},
            },
        },
        {"method": "notifications/initialized"},
        {"id": 1, "method": "tools/list"},
        {"id": 2, "method": "tools/call", "params": CALL},
    ],
    "modern": [
        {"id": 0, "method": "server/discover", "params": {"_meta": MODERN}},
        {"id": 1, "method": "tools/list", "params": {"_meta": MODERN}},
        {"id": 2, "method": "tools/call", "params": CALL | {"_meta": MODERN}},
    ],
}

WITHOUT_LOOPS = """
import sys

class NoLoops:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("anyio", "asyncio", "sniffio", "trio"):
            raise ModuleNotFoundError(f"{name} is not for the core", name=name)

loaded = {"anyio", "asyncio", "sniffio", "trio"} & set(sys.modules)
assert not loaded, f"loaded before the blocker: {loaded}"
sys.meta_path.insert(0, NoLoops())

import hypothesis, pytest
hypothesis.settings.register_profile("brief", max_examples=5, deadline=None)
sys.exit(pytest.main(["-p", "no:cacheprovider", "--quiet", "--no-header", "tests/core"]))
"""


def imported(arguments: list[str], stdin: str = "") -> set[str]:
    """The modules that `python arguments…` imports until it ends."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        input=stdin, capture_output=True, text=True, timeout=60, check=True, cwd=CHECKOUT,
    )  # fmt: skip
    lines = [line for line in run.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


def is_one_of(module: str, names: list[str]) -> bool:
    return any(module == name or module.startswith(name + ".") for name in names)


def spoken(conversation: list[dict[str, object]]) -> str:
    return "".join(json.dumps({"jsonrpc": "2.0", **message}) + "\n" for message in conversation)


ASKED_FOR = [
    ("resources/list", {}, "kvmcp.tools.listing"),
    ("resources/templates/list", {}, "kvmcp.tools.resources"),
    ("resources/read", {"uri": "kv://default/stats"}, "kvmcp.tools.documents"),
    ("prompts/list", {}, "kvmcp.tools.prompts"),
    ("tools/call", {"name": "redis_get", "arguments": {"key": 1}}, "kvmcp.core.mending"),
]


@pytest.mark.parametrize("conversation", CONVERSATIONS.values(), ids=CONVERSATIONS)
def test_a_server_on_stdio_imports_only_what_it_uses(conversation: list[dict[str, object]]) -> None:
    modules = imported(["-m", "kvmcp", "serve"], spoken(conversation))
    assert {"kvmcp.io.stdio", "kvmcp.backends.memory", "asyncio"} <= modules
    inevitable = imported(["-c", "import asyncio"])  # it imports ssl, whoever asks
    for reason, names in NOT_FOR_STDIO.items():
        assert {module for module in modules - inevitable if is_one_of(module, names)} == set(), reason


@pytest.mark.parametrize(("method", "params", "module"), ASKED_FOR)
def test_what_a_client_asks_for_is_imported_then(method: str, params: dict[str, object], module: str) -> None:
    request: dict[str, object] = {"id": 3, "method": method, "params": params | {"_meta": MODERN}}
    assert module in imported(["-m", "kvmcp", "serve"], spoken([request]))


def test_the_tests_of_the_core_pass_where_there_is_no_event_loop() -> None:
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_LOOPS],
        env={
            **os.environ,
            "HYPOTHESIS_PROFILE": "brief",
            "HYPOTHESIS_NO_PLUGINS": "1",
            "PYTEST_ADDOPTS": "",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # those of anyio and trio import what is blocked
        },
        capture_output=True, text=True, timeout=300, check=False, cwd=CHECKOUT,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
