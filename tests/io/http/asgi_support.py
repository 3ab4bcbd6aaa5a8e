"""Requests to an ASGI application without a socket: what a server would call it with, and what it sent."""

import json
from collections.abc import Mapping
from typing import Any, Final

import anyio
import anyio.lowlevel

from kvmcp.io.endpoint import BODY_NOW, App, Message
from tests.io.http.support import Json, modern_headers
from tests.patience import PATIENCE

LOCAL: Final = {"host": "localhost"}


class Asked:
    """One HTTP request. `await asked.run(app)`; `leave` is the client's end of the connection."""

    def __init__(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = b"",
        *,
        root_path: str = "",
        query: bytes = b"",
        whole: bool = False,
    ) -> None:
        """Without a `body` it never arrives; a `whole` one is here before the application is called, which is told."""
        given = LOCAL if headers is None else headers
        self.scope: Message = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(errors="replace"),
            "query_string": query,
            "root_path": root_path,
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
        }
        if whole:
            self.scope["extensions"] = {BODY_NOW: self._body_now}
        self._body = body
        self._gone = anyio.Event()
        self._changed = anyio.Event()
        self.started = anyio.Event()
        """Whether the head of the response was written."""
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.complete = False
        self.fault: Exception | None = None
        """What writing raises from now on."""

    async def run(self, app: App) -> "Asked":
        with anyio.fail_after(PATIENCE):
            await app(self.scope, self._receive, self._send)
        return self

    def leave(self) -> None:
        self._gone.set()

    async def holds(self, text: bytes) -> None:
        """Until the body holds `text`."""
        with anyio.fail_after(PATIENCE):
            while text not in self.body:
                self._changed = anyio.Event()
                await self._changed.wait()

    def json(self) -> Json:
        return json.loads(self.body)

    def _body_now(self) -> bytes | None:
        body, self._body = self._body, None
        return body

    async def _receive(self) -> Message:
        await anyio.lowlevel.checkpoint()
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await anyio.lowlevel.checkpoint()
        if self.fault is not None:
            raise self.fault
        if message["type"] == "http.response.start":
            assert not self.status, "two heads"
            self.status = message["status"]
            self.headers = {name.decode(): value.decode("latin-1") for name, value in message["headers"]}
            self.started.set()
        else:
            assert self.status, "a body without a head"
            assert not self.complete, "more than the whole"
            self.body += message.get("body", b"")
            self.complete = not message.get("more_body", False)
        self._changed.set()


async def get(app: App, path: str, headers: Mapping[str, str] | None = None, **options: Any) -> Asked:
    return await Asked("GET", path, headers, **options).run(app)


def posted(
    message: Json, headers: Mapping[str, str] | None = None, path: str = "/mcp", *, whole: bool = False
) -> Asked:
    """A POST of a message, by default with the headers of the modern era."""
    given = modern_headers(message) if headers is None else headers
    return Asked("POST", path, {**LOCAL, **given}, json.dumps(message).encode(), whole=whole)
