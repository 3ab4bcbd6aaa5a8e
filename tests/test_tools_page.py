"""docs/tools.md has a table for each set of tools; they are written from the tools' own definitions."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kvmcp.core.arguments import StructArguments
from kvmcp.tools.definition import Row
from kvmcp.tools.surface import TOOL_SETS

PAGE = Path(__file__).parents[1] / "docs" / "tools.md"
LEFT_OUT = "dry_run"
"""An argument that the page explains once, since every write has it."""
SHORT = "detail"
"""Another one, of which the tables only say which tools have it."""
TELLING = 100_000
"""Bounds above it are there against nonsense; they are in the schema, and nobody comes near them."""
HEAD = ["| Tool | Arguments | Result | What it is for |", "| --- | --- | --- | --- |"]


def table(rows: tuple[Row, ...]) -> list[str]:
    return [*HEAD, *map(line, rows)]


def line(row: Row) -> str:
    schema = json.loads(StructArguments(row.arguments).schema)
    required = set(schema.get("required", ()))
    properties: dict[str, Any] = schema.get("properties", {})
    arguments = ", ".join(
        f"`{argument(name, members, name in required)}`"
        for name, members in properties.items()
        if name != LEFT_OUT
    )
    marks = " *r*" if row.reads_only else ""
    return f"| `{row.name}`{marks} | {arguments} | {result(row)} | {escaped(purpose(row))} |"


def argument(name: str, members: dict[str, Any], required: bool) -> str:
    if name == SHORT:
        return name
    if required:
        return f"{name}: {type_of(members)}"
    if "default" in members:
        return f"{name}: {type_of(members)} = {json.dumps(members['default'])}"
    return f"{name}?: {type_of(members)}"


def type_of(members: dict[str, Any]) -> str:
    if "enum" in members:
        return " or ".join(map(json.dumps, members["enum"]))
    kind: str = members.get("type", "any")
    if kind == "array":
        return f"{type_of(members['items'])}[]"
    low, high = members.get("minimum"), members.get("maximum")
    return kind if low is None or high is None or high > TELLING else f"{kind} {low}…{high}"


def result(row: Row) -> str:
    """The names of what a success has; `?` for what is there sometimes."""
    fields = [] if row.result is None else msgspec.structs.fields(row.result)
    names = [field.encode_name + ("" if field.required else "?") for field in fields]
    return f"`{{{', '.join(names)}}}`"


def purpose(row: Row) -> str:
    """The first sentence of what a model is told."""
    found = re.match(r".*?\.(?=\s|\Z)", row.description)
    assert found is not None, row.name
    return found[0]


def escaped(text: str) -> str:
    return text.replace("|", "\\|")


@pytest.mark.parametrize("name", TOOL_SETS)
def test_the_page_has_the_tools_of_a_set(name: str) -> None:
    """Where it fails it prints the table that is right."""
    section = PAGE.read_text(encoding="utf-8").partition(f"\n## The set `{name}`")[2].partition("\n## ")[0]
    found = re.findall(r"^\|.*$", section, flags=re.MULTILINE)
    expected = table(TOOL_SETS[name])
    assert found == expected, "\n".join(expected)


def test_the_page_has_no_other_tools() -> None:
    named = re.findall(r"^\| `([\w.]+)`", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(named) == sorted(row.name for rows in TOOL_SETS.values() for row in rows)


@pytest.mark.parametrize(
    "row", [row for rows in TOOL_SETS.values() for row in rows], ids=lambda row: row.name
)
def test_what_the_page_leaves_out_is_as_it_says(row: Row) -> None:
    arguments = {field.name: field.default for field in msgspec.structs.fields(row.arguments)}
    assert arguments.get(LEFT_OUT) is (None if row.reads_only else False)
    assert arguments.get(SHORT, "concise") == "concise"
