"""Serves an ASGI application with uvicorn: faster than Hypercorn, on asyncio and uvloop only (`kvmcp[fast]`).

uvicorn has no deadline for the head of a request and none for writing: put a proxy in front of it where strangers
connect.
"""

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Final, Literal

import uvicorn
from uvicorn.config import Config

from kvmcp.io.asgi import HttpApp
from kvmcp.io.endpoint import BODY_NOW, App, Message, Receive, Send
from kvmcp.io.listening import BACKLOG, Listener

IDLE_TIMEOUT: Final = 75
"""Seconds that a connection is kept for another request, as under Hypercorn."""
CONNECTIONS: Final = 4096
"""Connections at once; further requests are answered 503."""


class UvicornServer:
    """Serves on listeners until `stop`; `grace` are the seconds that requests may then take to finish."""

    def __init__(
        self, app: App, listeners: Sequence[Listener], grace: float, tls: ssl.SSLContext | None = None
    ) -> None:
        self._listeners = listeners
        config = Config(
            _with_bodies(app),
            interface="asgi3",
            http=_protocol_for(app),
            lifespan="off",  # whoever runs us holds `HttpApp.running`
            loop="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            backlog=BACKLOG,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=IDLE_TIMEOUT,
            timeout_graceful_shutdown=max(1, round(grace)),
        )
        config.load()
        config.ssl = tls
        self._server = _Server(config)
        log = logging.getLogger("uvicorn.error")
        log.setLevel(logging.WARNING)  # It tells of every start and stop.
        log.addFilter(_is_news)

    async def run(self) -> None:
        """Serve until `stop`."""
        try:
            await self._server.serve([listener.socket for listener in self._listeners])
        finally:
            for listener in self._listeners:
                listener.close()

    def stop(self) -> None:
        self._server.should_exit = True


def _protocol_for(app: App) -> type[asyncio.Protocol] | Literal["auto"]:
    """What speaks HTTP: with a short way to the calls of an application of ours, where this uvicorn lets us."""
    if not isinstance(app, HttpApp):
        return "auto"
    try:
        from kvmcp.io import uvicorn_calls
    except ImportError:  # without httptools, or long after what we know
        return "auto"
    return uvicorn_calls.protocol_for(app.post) if uvicorn_calls.is_known() else "auto"


def _with_bodies(app: App) -> App:
    """`app`, told what uvicorn has read of a request's body when it calls: mostly all of it (`BODY_NOW`)."""

    def call(scope: Message, receive: Receive, send: Send) -> Awaitable[None]:
        scope["extensions"] = {BODY_NOW: partial(_body_now, receive)}
        return app(scope, receive, send)

    return call


def _body_now(receive: Receive) -> bytes | None:
    """The body if it is complete. Reads what uvicorn does not promise: without it the body is received as usual."""
    request = getattr(receive, "__self__", None)
    body = getattr(request, "body", None)
    if getattr(request, "more_body", True) or getattr(request, "disconnected", True):
        return None
    return bytes(body) if isinstance(body, bytes | bytearray) else None


def _is_news(record: logging.LogRecord) -> bool:
    """Whether it is none of the requests that a sudden end has cancelled."""
    return record.exc_info is None or not isinstance(record.exc_info[1], asyncio.CancelledError)


class _Server(uvicorn.Server):
    """Signals are taken by whoever runs us."""

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield
