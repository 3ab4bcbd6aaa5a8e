"""The rooms stay apart: who may import whom, as `docs/development.md` has it, walked by AST.

Nothing is imported here and nothing runs; what counts is what the files say, also inside functions and under
`TYPE_CHECKING`. `src/kvmcp/{core,tools}/ruff.toml` say the same in the editor, for the modules that are most
tempting; the tests below hold them to this file.
"""

import ast
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"


def names(text: str) -> frozenset[str]:
    return frozenset(text.split())


PURE = names(
    "__future__ abc base64 binascii bisect collections dataclasses difflib enum functools graphlib hashlib heapq hmac"
    " itertools json keyword math numbers operator re reprlib string struct textwrap types typing unicodedata"
    " urllib.parse weakref zlib"
)
"""The part of the standard library that has no clock, loop, socket, file, thread, randomness or logger."""

TEMPTING = names(
    "asyncio concurrent contextvars datetime http logging multiprocessing os pathlib queue random sched secrets"
    " select selectors signal socket ssl subprocess sys tempfile threading time uuid"
    " anyio trio sniffio hypercorn wsproto h11 redis hiredis"
)
"""What the nested ruff configurations ban by name."""

IMPURE_CALLS = frozenset({"__import__", "breakpoint", "eval", "exec", "input", "open", "print"})

FOR_TOOLS = names(
    "kvmcp.core.arguments kvmcp.core.errors kvmcp.core.items kvmcp.core.json_schema kvmcp.core.json_text"
    " kvmcp.core.limits kvmcp.core.plan kvmcp.core.uritemplate kvmcp.core.wire.common"
)
"""The part of the core that knows neither bytes nor eras: plans, what can be offered, types."""

LAZY = frozenset({"kvmcp.core"})
"""Packages whose `__init__` loads its names when they are first used, and needs importlib for that."""

STANDARD = frozenset(sys.stdlib_module_names)
TOP = frozenset(
    {
        "kvmcp.assembly",
        "kvmcp.binding",
        "kvmcp.network",
        "kvmcp.cli",
        "kvmcp.config",
        "kvmcp.functions",
        "kvmcp.logs",
        "kvmcp.questions",
        "kvmcp.server",
        "kvmcp.__main__",
    }
)
STORES = frozenset({"kvmcp.backends.memory", "kvmcp.backends.redis"})


@dataclass(frozen=True)
class Room:
    """What the modules under some names may import. A name stands for itself and all below it."""

    names: frozenset[str]
    ours: frozenset[str]
    others: frozenset[str]
    never: frozenset[str] = field(default=frozenset())
    """Exceptions to `ours`."""
    pure: bool = False
    """No `async`, no impure builtin; of the standard library only `PURE`."""


ROOMS = (  # the first that a module belongs to
    Room(names("kvmcp.core"), names("kvmcp.core"), names("msgspec"), pure=True),
    Room(
        names("kvmcp.tools"),
        FOR_TOOLS | {"kvmcp.tools", "kvmcp.backends.ops"},
        names("msgspec"),
        pure=True,
    ),
    Room(names("kvmcp.backends.ops"), names("kvmcp.backends.ops"), names("msgspec")),
    Room(names("kvmcp.backends.base"), names("kvmcp.backends.ops"), names("msgspec")),
    Room(
        names("kvmcp.backends.redis"),
        names("kvmcp.backends"),
        names("msgspec anyio redis hiredis trio"),  # trio: to begin a task that belongs to no caller
        never=STORES - {"kvmcp.backends.redis"},
    ),
    Room(
        names("kvmcp.backends.memory"),
        names("kvmcp.backends"),
        names("msgspec anyio"),
        never=STORES - {"kvmcp.backends.memory"},
    ),
    Room(names("kvmcp.backends"), names("kvmcp.backends"), names("msgspec anyio"), never=STORES),
    Room(
        names("kvmcp.io"),
        names("kvmcp.io kvmcp.core kvmcp.backends.base kvmcp.backends.ops"),
        names("msgspec anyio trio sniffio uvloop wsproto hypercorn uvicorn h11"),
    ),
    Room(names("kvmcp"), names("kvmcp"), names("msgspec anyio trio uvloop uvicorn yaml")),
)


# --- reading a module ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Module:
    """One file: its dotted name, its syntax, and which names there are at all."""

    name: str
    tree: ast.Module
    known: frozenset[str]

    def imports(self) -> Iterator[tuple[int, str]]:
        """Line and dotted name of every module imported; `from package import module` names the module."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                for alias in node.names:
                    full = f"{node.module}.{alias.name}"
                    is_module = full in self.known or full == "urllib.parse"
                    yield node.lineno, full if is_module else node.module


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(SRC.rglob("*.py"))}


def read(name: str) -> Module:
    return Module(name, ast.parse(FILES[name].read_bytes(), str(FILES[name])), frozenset(FILES))


def parse(name: str, source: str) -> Module:
    """A module that exists only in a test."""
    return Module(name, ast.parse(source), frozenset(FILES) | {name})


# --- the rules -------------------------------------------------------------------------------------------------


def under(name: str, roots: Iterable[str]) -> bool:
    """Whether `name` is one of `roots` or below one."""
    return any(name == root or name.startswith(root + ".") for root in roots)


def room_of(name: str) -> Room:
    return next(room for room in ROOMS if under(name, room.names))


def faults(module: Module) -> list[str]:
    """Every broken rule, with its line."""
    room = room_of(module.name)
    found = [*relative_imports(module), *forbidden_imports(module, room), *made_keys(module)]
    if room.pure:
        found += impure_syntax(module)
    return [f"{module.name}:{line}: {problem}" for line, problem in sorted(found)]


def forbidden_imports(module: Module, room: Room) -> Iterator[tuple[int, str]]:
    for line, imported in module.imports():
        if reason := why_not(module.name, room, imported):
            yield line, f"imports {imported}: {reason}"


def why_not(importer: str, room: Room, imported: str) -> str | None:
    """The reason why a module of `room` may not import `imported`, or None where it may."""
    place = min(room.names)
    if under(imported, {"kvmcp"}):
        if under(imported, TOP) and importer != "kvmcp" and not under(importer, TOP):
            return "what is on top is imported by nothing below"
        allowed = under(imported, room.ours) and not under(imported, room.never)
        return None if allowed else f"not a room that {place} knows"
    if imported == "importlib" and importer in LAZY:
        return None
    if under(imported, STANDARD):
        return "not pure" if room.pure and not under(imported, PURE) else None
    return None if under(imported, room.others) else f"not a library that {place} uses"


def relative_imports(module: Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield node.lineno, "relative import"


def impure_syntax(module: Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(module.tree):
        match node:
            case ast.AsyncFunctionDef() | ast.AsyncFor() | ast.AsyncWith() | ast.Await():
                yield node.lineno, "async in a pure room"
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                if any(generator.is_async for generator in node.generators):
                    yield node.lineno, "async in a pure room"
            case ast.Call(func=ast.Name(id=called)) if called in IMPURE_CALLS:
                yield node.lineno, f"calls {called} in a pure room"


def made_keys(module: Module) -> Iterator[tuple[int, str]]:
    """Only `Namespace.key` makes an `NsKey`: that is how an operation cannot leave its namespace."""
    if module.name == "kvmcp.backends.ops.names":
        return
    for node in ast.walk(module.tree):
        match node:
            case ast.Call(func=ast.Name(id="NsKey") | ast.Attribute(attr="NsKey")):
                yield node.lineno, "makes an NsKey; only Namespace.key does"


def chain(modules: Iterable[Module]) -> list[str]:
    """The modules of the core, each after those that it imports. Raises `CycleError`."""
    graph = {
        module.name: {imported for _, imported in module.imports() if under(imported, {"kvmcp.core"})}
        for module in modules
    }
    return list(TopologicalSorter(graph).static_order())


# --- kvmcp keeps them ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_module_keeps_the_rules(name: str) -> None:
    assert faults(read(name)) == []


def test_the_core_is_a_chain() -> None:
    core = [read(name) for name in FILES if under(name, {"kvmcp.core"})]
    assert len(core) > 10
    assert chain(core)


# --- and the rules see ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "source", "fault"),
    [
        ("kvmcp.core.x", "import asyncio", "imports asyncio: not pure"),
        ("kvmcp.core.x", "def f():\n    import time", "imports time: not pure"),
        ("kvmcp.core.x", "import os.path", "imports os.path: not pure"),
        ("kvmcp.core.x", "import urllib.request", "imports urllib.request: not pure"),
        ("kvmcp.core.x", "from importlib import import_module", "imports importlib: not pure"),
        ("kvmcp.core.x", "import anyio", "imports anyio: not a library that kvmcp.core uses"),
        ("kvmcp.core.x", "from kvmcp.backends.ops import Get", "kvmcp.backends.ops: not a room"),
        ("kvmcp.core.x", "from kvmcp.backends import ops", "kvmcp.backends.ops: not a room"),
        ("kvmcp.core.x", "from kvmcp import cli", "kvmcp.cli: what is on top"),
        ("kvmcp.core.x", "from . import plan", "relative import"),
        ("kvmcp.core.x", "async def f(): pass", "async in a pure room"),
        ("kvmcp.core.x", "print()", "calls print"),
        ("kvmcp.tools.x", "from kvmcp.core.session import ServerSession", "kvmcp.core.session: not a room"),
        ("kvmcp.tools.x", "from kvmcp.backends.memory import Memory", "kvmcp.backends.memory: not a room"),
        ("kvmcp.tools.x", "async def f(): pass", "async in a pure room"),
        ("kvmcp.tools.x", "from kvmcp.backends import ops\nops.NsKey('', '')", "makes an NsKey"),
        ("kvmcp.backends.ops", "import anyio", "imports anyio"),
        ("kvmcp.backends.base", "from kvmcp.backends.memory import M", "kvmcp.backends.memory: not a room"),
        ("kvmcp.backends.memory", "from kvmcp.core.plan import Plan", "kvmcp.core.plan: not a room"),
        ("kvmcp.backends.memory", "import redis", "imports redis"),
        (
            "kvmcp.backends.batcher",
            "from kvmcp.backends.memory import M",
            "kvmcp.backends.memory: not a room",
        ),
        ("kvmcp.backends.redis.link", "from kvmcp.io import driver", "kvmcp.io"),
        ("kvmcp.backends.redis.link", "from kvmcp.backends.memory import M", "kvmcp.backends.memory: not"),
        ("kvmcp.io.x", "from kvmcp.backends.memory import M", "kvmcp.backends.memory: not a room"),
        ("kvmcp.io.x", "from kvmcp.tools import strings", "kvmcp.tools"),
        ("kvmcp.io.x", "from kvmcp.config import Settings", "kvmcp.config: what is on top"),
    ],
)
def test_a_broken_rule_is_seen(name: str, source: str, fault: str) -> None:
    (found,) = faults(parse(name, source))
    assert fault in found


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("kvmcp.core.x", "import re, hmac\nfrom urllib.parse import quote\nfrom urllib import parse\nimport msgspec"),
        ("kvmcp.core.x", "from kvmcp.core import plan\nfrom kvmcp.core.wire.common import Result"),
        ("kvmcp.tools.x", "from kvmcp.core.plan import Plan\nfrom kvmcp.backends.ops import NsKey"),
        ("kvmcp.backends.redis.link", "import anyio, hiredis, ssl\nfrom kvmcp.backends.redis import resp"),
        ("kvmcp.io.x", "import anyio, os\nfrom kvmcp.core.connection import Connection"),
        ("kvmcp.server", "from kvmcp.backends.memory import M\nfrom kvmcp.config import Settings"),
    ],
)  # fmt: skip
def test_what_is_allowed_passes(name: str, source: str) -> None:
    assert faults(parse(name, source)) == []


def test_a_cycle_is_seen_also_under_type_checking() -> None:
    first = parse("kvmcp.core.plan", "from kvmcp.core import catalog")
    second = parse("kvmcp.core.catalog", "if TYPE_CHECKING:\n    from kvmcp.core.plan import Plan")
    with pytest.raises(CycleError):
        chain([first, second])


# --- the editor says the same -----------------------------------------------------------------------------------


@pytest.mark.parametrize("room", ["core", "tools"])
def test_the_nested_ruff_configuration_bans_what_is_tempting(room: str) -> None:
    configuration = tomllib.loads((SRC / "kvmcp" / room / "ruff.toml").read_text())
    banned = set(configuration["lint"]["flake8-tidy-imports"]["banned-api"])
    assert "TID251" in configuration["lint"]["extend-select"]
    assert TEMPTING <= banned
    for name in banned:
        assert why_not(f"kvmcp.{room}.x", room_of(f"kvmcp.{room}.x"), name), (
            f"{name} is banned, but allowed here"
        )
