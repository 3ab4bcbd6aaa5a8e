"""What tests of tools share: an environment that can be foretold, and the tools in it."""

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import msgspec

from kvmcp.backends.ops import etag_of
from kvmcp.core.catalog import Tool
from kvmcp.tools.definition import Environment
from kvmcp.tools.room import MAX_RESULT_CHARS
from kvmcp.tools.surface import Selection, build_tools

NOW = 1_700_000_000.0


def numbered() -> Callable[[], str]:
    """Predictable where a server has unguessable ones."""
    numbers = count(1)
    return lambda: f"token-{next(numbers)}"


def environment(
    *, max_result_chars: int = MAX_RESULT_CHARS, confirm_destructive: bool = False
) -> Environment:
    return Environment(numbered(), lambda: NOW, max_result_chars, confirm_destructive)


def redis_tools(sets: Sequence[str] = ("redis",)) -> list[Tool]:
    return build_tools(Selection(sets), environment())


def stored(value: object) -> dict[str, Any]:
    """What `redis_set` says of a value that came as compact JSON text."""
    return {"ok": True, "etag": etag_of(msgspec.json.encode(value))}


def found(value: object) -> dict[str, Any]:
    """What `redis_get` says of such a value."""
    return {"found": True, "value": value, "etag": etag_of(msgspec.json.encode(value))}


def without_etag(result: dict[str, Any]) -> dict[str, Any]:
    """A result whose etag depends on how a client writes JSON."""
    assert isinstance(result.get("etag", ""), str)
    return {name: member for name, member in result.items() if name != "etag"}
