"""docs/server.md's program, run as its reader would: on standard input and output, and over HTTP; and its snippets."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.io.http.support import modern_headers
from tests.io.support import MODERN_META
from tests.schema import validate_server_message

ROOT = Path(__file__).parents[1]
META = {**MODERN_META, "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}}}


class Library:
    """The running program, however it is reached."""

    def __init__(self, port: int | None, program: subprocess.Popen[str]) -> None:
        self._port = port
        self._program = program
        self._id = 0

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of one request."""
        self._id += 1
        message = {"jsonrpc": "2.0", "id": self._id, "method": method, "params": {**params, "_meta": META}}
        answer = self._on_stdio(message) if self._port is None else self._over_http(message)
        validate_server_message("2026-07-28", answer.encode(), method)
        result: dict[str, Any] = json.loads(answer)["result"]
        return result

    def _on_stdio(self, message: dict[str, Any]) -> str:
        assert self._program.stdin is not None and self._program.stdout is not None
        self._program.stdin.write(json.dumps(message) + "\n")
        self._program.stdin.flush()
        return self._program.stdout.readline()

    def _over_http(self, message: dict[str, Any]) -> str:
        url = f"http://127.0.0.1:{self._port}/mcp"
        return httpx.post(
            url, json=message, headers=modern_headers(message), trust_env=False, timeout=30
        ).text


@pytest.fixture(params=["stdio", "http"])
def library(request: pytest.FixtureRequest) -> Iterator[Library]:
    arguments = ["0"] if request.param == "http" else []
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-m", "examples.library", *arguments],
        cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True,
    ) as program:  # fmt: skip
        assert program.stderr is not None
        port = int(program.stderr.readline().rpartition(":")[2].partition("/")[0]) if arguments else None
        try:
            yield Library(port, program)
        finally:
            program.terminate()
    assert program.returncode == 0


def test_the_example_serves_what_the_page_says(library: Library) -> None:
    tools = {tool["name"]: tool for tool in library.ask("tools/list")["tools"]}
    assert tools["title"]["inputSchema"]["properties"]["number"]["description"] == "The number of the book"
    found = library.ask("tools/call", name="title", arguments={"number": 2})
    assert found["structuredContent"] == {"title": "Emma"}
    missing = library.ask("tools/call", name="title", arguments={"number": 9})
    assert missing["isError"] is True and "there are 1, 2, 3" in missing["content"][0]["text"]
    page = library.ask("resources/read", uri="library://books/1")
    assert page["contents"][0]["text"] == "Persuasion"
    prompt = library.ask("prompts/get", name="recommend", arguments={"mood": "gloomy", "count": "2"})
    assert "2 books to somebody who feels gloomy" in prompt["messages"][0]["content"]["text"]
    reference = {"type": "ref/resource", "uri": "library://books/{number}"}
    suggested = library.ask("completion/complete", ref=reference, argument={"name": "number", "value": "3"})
    assert suggested["completion"]["values"] == ["3"]


def test_the_example_asks_and_does_long_work(library: Library) -> None:
    asked = library.ask("tools/call", name="borrow", arguments={"number": 2})
    assert asked["inputRequests"]["reader"]["params"]["message"] == "Who borrows Emma?"
    lent = library.ask(
        "tools/call",
        name="borrow",
        arguments={"number": 2},
        requestState=asked["requestState"],
        inputResponses={"reader": {"action": "accept", "content": {"name": "Ada"}}},
    )
    assert lent["content"][0]["text"] == "lent to Ada"
    assert library.ask("tools/call", name="take_stock")["content"][0]["text"] == "3 books"


def test_the_page_names_only_what_there_is() -> None:
    import kvmcp
    import kvmcp.core
    from kvmcp.io.asgi import HttpOptions

    page = (ROOT / "docs" / "server.md").read_text()
    for name in re.findall(r"`server\.(\w+)", page):
        assert hasattr(kvmcp.Server, name), name
    for name in re.findall(r"^\| `(\w+)[(`]", page, re.MULTILINE):
        assert hasattr(kvmcp.Work, name) or name == "context", name
    for name in (
        "form",
        "sample",
        "filled",
        "said",
        "start_work",
        "Completing",
        "ToolFailed",
        "RequestFailed",
    ):
        assert f"{name}" in page and hasattr(kvmcp, name)
    for name in ("ListRoots", "ToolResult", "ReadResult", "PromptMessage", "PromptResult", "ResourceUpdated"):
        assert f"{name}" in page and name in kvmcp.core.__all__
    assert {"resumable", "legacy_sse"} <= set(HttpOptions.__struct_fields__)
