"""MCP over WebSocket where an ASGI server speaks the protocol (ASGI 3.0, WebSocket connection scope).

Upgrade, frames, pings and the size of frames are the ASGI server's; who may come in, what a message is and how it
ends are as in `server`. A connection is driven like lines: each message is one line of input, each line of output
one message, so nothing else is needed to run it.
"""

import logging
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, Protocol, cast

import anyio
from wsproto.frame_protocol import CloseReason

from kvmcp.backends.base import Backend
from kvmcp.core.connection import ServerConnection
from kvmcp.core.http.messages import BodyPart, Field, Part, Request, ResponseStart
from kvmcp.core.plan import Caller
from kvmcp.core.service import Service
from kvmcp.io.driver import Driver, Listener
from kvmcp.io.endpoint import Receive, Send
from kvmcp.io.sockets import STALL
from kvmcp.io.websocket.limits import SUBPROTOCOL
from kvmcp.io.websocket.upgrade import Door

logger = logging.getLogger("kvmcp.io")

_WINDOW: Final = 4096
"""Bytes in which the end of a line is looked for first: most messages are shorter."""


class Host(Protocol):
    """The server that connections belong to; `kvmcp.Server` is one."""

    @property
    def backend(self) -> Backend: ...
    def listening(self, listener: Listener) -> AbstractContextManager[None]: ...


class AsgiWebSocket:
    """Serves connections: `await app(scope, receive, send)` for scopes of type `websocket`, whatever their path."""

    def __init__(self, host: Host, service: Service, door: Door) -> None:
        self._host = host
        self._service = service
        self._door = door

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if (await receive())["type"] != "websocket.connect":
            return
        headers = [(bytes(name), bytes(value)) for name, value in cast(Iterable[Field], scope["headers"])]
        admitted = self._door.check(Request("GET", headers))
        if not isinstance(admitted, Caller):
            await _refuse(scope, send, admitted)
            return
        ours = SUBPROTOCOL in cast(Iterable[str], scope.get("subprotocols", ()))
        await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL if ours else None})
        await self._converse(admitted, receive, send)

    async def _converse(self, caller: Caller, receive: Receive, send: Send) -> None:
        transport = _Messages(receive, send, self._service.limits.message_bytes)
        machine = _Conversation(self._service, caller)
        driver = Driver(machine, transport, self._host.backend, self._service.limits.shutdown_grace)
        try:
            with self._host.listening(driver):
                await driver.run()
        except Exception as error:
            logger.error("a WebSocket connection failed", exc_info=error)
            transport.ending = (CloseReason.INTERNAL_ERROR, "internal error")
        await transport.close()


class _Conversation(ServerConnection):
    """As on stdio, but that a client that goes takes with it what it asked for."""

    def receive_eof(self, now: float) -> None:
        self._session.abandon(now)
        super().receive_eof(now)


class _Messages:
    """ASGI events as a transport of lines."""

    def __init__(self, receive: Receive, send: Send, limit: int) -> None:
        self._receive = receive
        self._send = send
        self._limit = limit
        self._is_gone = False
        self.ending = (CloseReason.GOING_AWAY, "the server is stopping")

    async def receive(self) -> bytes:
        """The next message as a line."""
        event = await self._receive()
        if event["type"] != "websocket.receive":
            self._is_gone = True
            return b""
        text: str | None = event.get("text")
        if text is None:
            return self._end(CloseReason.UNSUPPORTED_DATA, "messages are text")
        try:
            message = text.encode()
        except UnicodeEncodeError:
            return self._end(CloseReason.INVALID_FRAME_PAYLOAD_DATA, "a text message that is not UTF-8")
        if len(message) > self._limit:
            return self._end(CloseReason.MESSAGE_TOO_BIG, f"a message has at most {self._limit} bytes")
        # Between the parts of JSON the one is as good as the other, and inside a string neither may be.
        return message.replace(b"\n", b"\r") + b"\n"

    def _end(self, code: CloseReason, reason: str) -> bytes:
        self.ending = (code, reason)
        return b""

    async def send_some(self, data: bytes | memoryview) -> int:
        """The first message of several lines. Raises OSError where the client is gone, or takes nothing."""
        line = _first_line(memoryview(data))
        # ASGI does not say what becomes of an event whose sending is cancelled, so none is.
        with anyio.move_on_after(STALL, shield=True) as scope:
            try:
                await self._send({"type": "websocket.send", "text": line.decode()})
            except Exception as error:  # each server has its own for a client that is gone
                self._is_gone = True
                raise ConnectionResetError(str(error)) from error
        if scope.cancelled_caught:
            raise TimeoutError("the peer takes nothing")
        return len(line) + 1

    async def close(self) -> None:
        """Say why, if anybody hears it."""
        if self._is_gone:
            return
        code, reason = self.ending
        try:
            await self._send({"type": "websocket.close", "code": int(code), "reason": reason})
        except Exception as error:  # noqa: BLE001  # as above
            logger.debug("nobody heard our Close: %s", error)


def _first_line(data: memoryview) -> bytes:
    size = _WINDOW
    while True:
        line, newline, _ = bytes(data[:size]).partition(b"\n")
        if newline or size >= len(data):
            return line
        size *= 4


async def _refuse(scope: Mapping[str, Any], send: Send, parts: list[Part]) -> None:
    """The HTTP response, where the server can send one; otherwise it makes a 403 of a Close."""
    if "websocket.http.response" not in cast(Mapping[str, Any], scope.get("extensions") or {}):
        await send({"type": "websocket.close", "code": int(CloseReason.POLICY_VIOLATION), "reason": ""})
        return
    for part in parts:
        match part:
            case ResponseStart(status=status, headers=headers):
                start = {"status": status, "headers": headers}
                await send({"type": "websocket.http.response.start", **start})
            case BodyPart(data=data, more=more):
                await send({"type": "websocket.http.response.body", "body": data, "more_body": more})
