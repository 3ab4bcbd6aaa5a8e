"""`kvmcp.Server`: the assembly as a class."""

import pytest
from msgspec import Struct

import kvmcp
from kvmcp.core.errors import LocalProtocolError
from kvmcp.core.items import Tool
from kvmcp.core.wire.common import TextContent, ToolAnnotations, ToolResult
from kvmcp.io.work import Work, as_result
from kvmcp.server import Server


class Numbers(Struct, forbid_unknown_fields=True):
    a: int
    b: int = 0


class Sum(Struct):
    sum: int


def test_a_function_becomes_a_tool() -> None:
    server = Server("calculator")

    @server.tool(title="Add", annotations=ToolAnnotations(read_only_hint=True), result=Sum)
    async def add(numbers: Numbers, work: Work) -> Sum:
        """Adds two numbers."""
        return Sum(numbers.a + numbers.b)

    tool = server.catalog.tool("add")
    assert tool is not None
    assert (tool.title, tool.description) == ("Add", "Adds two numbers.")
    assert b'"required":["a"]' in tool.arguments.schema
    assert tool.output_schema is not None
    server.remove(tool)
    assert server.catalog.tool("add") is None


def test_a_tool_needs_a_struct() -> None:
    server = Server()
    with pytest.raises(TypeError, match="tool bad: the first parameter needs a msgspec Struct"):

        @server.tool()
        async def bad(number: int, work: Work) -> None: ...


def test_a_name_is_taken_once() -> None:
    server = Server()

    async def add(numbers: Numbers, work: Work) -> None: ...

    server.tool()(add)
    with pytest.raises(LocalProtocolError, match="'add' is there already"):
        server.tool()(add)


def test_annotations_may_be_text() -> None:
    """As they are under `from __future__ import annotations`."""
    server = Server()

    async def add(numbers: "Numbers", work: "Work") -> "None": ...

    server.tool()(add)
    assert isinstance(server.catalog.tool("add"), Tool)


def test_what_a_coroutine_may_return() -> None:
    assert as_result("text") == ToolResult((TextContent("text"),))
    assert as_result(None) == ToolResult()
    assert as_result({"a": 1}) == ToolResult(structured=b'{"a":1}')
    assert as_result(Sum(3)) == ToolResult(structured=b'{"sum":3}')
    as_it_is = ToolResult((TextContent("x"),), is_error=True)
    assert as_result(as_it_is) is as_it_is


def test_the_package_exports_what_it_promises() -> None:
    for name in kvmcp.__all__:
        assert getattr(kvmcp, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Sever'"):
        getattr(kvmcp, "Sever")  # noqa: B009  # the type checkers know better than to let it pass
