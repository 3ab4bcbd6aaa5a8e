"""Plain calls straight from uvicorn's parser: no scope, no task, no ASGI message, and one write for the response.

All that is most of what a request costs under uvicorn (benchmarks/http.py). A POST that is whole when it has been
read is offered to `HttpApp.post`; what that does not take goes the way that uvicorn gave it, from its start. This
relies on insides of uvicorn's httptools protocol that are the same since 0.34: `is_known` looks whether they are there.
"""

import asyncio
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from kvmcp.core.http.messages import Field, Part, ResponseStart
from kvmcp.io.endpoint import Message, Receive, Send
from kvmcp.io.short_calls import Peer, Serve

Post: TypeAlias = Callable[[str, Sequence[Field], bytes, Peer], bool]
"""`HttpApp.post`."""

_STATUS_LINES: Final = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus
}
_OF_CONNECTION: Final = frozenset(
    [
        "access_log",
        "access_logger",
        "connections",
        "cycle",
        "expect_100_continue",
        "flow",
        "headers",
        "limit_concurrency",
        "logger",
        "parser",
        "pipeline",
        "server_state",
        "transport",
    ]
)
"""What a connection of uvicorn has."""
_OF_CYCLE: Final = frozenset(
    [
        "scope",
        "transport",
        "flow",
        "logger",
        "access_logger",
        "access_log",
        "default_headers",
        "message_event",
        "expect_100_continue",
        "keep_alive",
        "on_response",
    ]
)
"""What a request and its response in uvicorn are made of."""
_SCOPE: Final = {"type": "http", "http_version": "1.1", "method": "POST"}
"""As much as uvicorn asks for to write a response."""


def is_known() -> bool:
    """Whether this uvicorn is one whose insides we know."""
    return (
        _OF_CONNECTION <= set(HttpToolsProtocol.__init__.__code__.co_names)
        and set(_OF_CYCLE) == set(inspect.signature(RequestResponseCycle).parameters)
        and hasattr(HttpToolsProtocol, "_start_asgi_task")
    )


def protocol_for(post: Post) -> type[asyncio.Protocol]:
    """What speaks HTTP on uvicorn's connections, and knows `post`."""
    return cast(type[asyncio.Protocol], partial(Connection, post))


class Connection(HttpToolsProtocol):
    """A connection of uvicorn that holds a request back while it may be a plain call."""

    def __init__(self, post: Post, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._post = post
        self._held: list[bytes] | None = None
        """The body, as far as it has come, of the request that is held back: never longer than one read."""
        self._is_idle = False
        """Whether nothing has come since the last response."""
        self._idle_since = 0.0

    def data_received(self, data: bytes) -> None:
        self._is_idle = False
        super().data_received(data)
        held, self._held = self._held, None
        if held is not None and not self.transport.is_closing():
            self._pass_on(held)  # The rest is still to come: an application may wait for it.

    def on_message_begin(self) -> None:
        """The scope is made when it is needed."""
        self.url, self.headers, self.expect_100_continue = b"", [], False

    def on_headers_complete(self) -> None:
        if self._may_be_plain():
            self._held = []
        else:
            self._pass_on([])

    def on_body(self, body: bytes) -> None:
        if self._held is None:
            super().on_body(body)
        else:
            self._held.append(body)

    def on_message_complete(self) -> None:
        held, self._held = self._held, None
        if held is not None:
            call, before = _Call(self), self.cycle
            self.cycle = cast(RequestResponseCycle, call)
            if self._post(self.url.decode("latin-1"), self.headers, b"".join(held), call):
                return
            self.cycle = before
            self._pass_on(held)
        super().on_message_complete()

    def _may_be_plain(self) -> bool:
        """Whether a request that is all here by the end of this read may be answered without a task."""
        parser: Any = self.parser  # None between connections, whatever its type says; so is `cycle` at first.
        cycle: Any = self.cycle
        limit = self.limit_concurrency
        return (
            (cycle is None or cycle.response_complete)
            and parser.get_method() == b"POST"
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
            and not parser.should_upgrade()
            and not self.expect_100_continue
            and not self.flow.write_paused
            and b"%" not in self.url  # An application sees the path decoded.
            and (limit is None or len(self.connections) < limit)
        )

    def _pass_on(self, held: Sequence[bytes]) -> None:
        """What uvicorn does with a request's head, and with the body that came since."""
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expect
        self.headers += headers  # The scope has this list.
        super().on_headers_complete()
        for body in held:
            super().on_body(body)

    # --- keep-alive: one timer that is late, where uvicorn sets and cancels one for each request ---

    def on_response_complete(self) -> None:
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        self.flow.resume_reading()
        self._is_idle, self._idle_since = True, self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_again_in(self.timeout_keep_alive)

    def _look_again_in(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if not self._is_idle:
            return  # The next response sets it again.
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._look_again_in(left)
        else:
            super().timeout_keep_alive_handler()

    def _unset_keepalive_if_required(self) -> None:
        """It looks by itself whether something has come."""

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        super()._unset_keepalive_if_required()

    # --- in a task ---

    def go_on(self, call: "_Call", serve: Serve) -> None:
        """Serve a call in a task, as uvicorn serves its requests."""
        cycle = RequestResponseCycle(
            scope=cast(Any, _SCOPE),
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=call.keep_alive,
            on_response=self.on_response_complete,
        )
        cycle.more_body, cycle.disconnected = False, call.disconnected
        if cast(object, self.cycle) is call:  # Otherwise another request waits behind it.
            self.cycle = cycle

        async def app(scope: Message, receive: Receive, send: Send) -> None:
            await serve(receive, send)

        self._start_asgi_task(cycle, cast(Any, app))


class _Nobody:
    """Waits for no message."""

    def set(self) -> None:
        """Nobody is woken."""


class _Call:
    """A plain call on a connection, in the place of uvicorn's own `RequestResponseCycle`; the call's `Peer`."""

    __slots__ = ("_connection", "disconnected", "keep_alive", "response_complete")

    message_event: Final = _Nobody()

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.keep_alive = True
        self.response_complete = False
        self.disconnected = False

    def answer(self, parts: Sequence[Part]) -> None:
        connection = self._connection
        self.response_complete = True
        if self.disconnected:
            return
        connection.transport.write(render(parts, connection.server_state.default_headers, self.keep_alive))
        if not self.keep_alive:
            connection.transport.close()
        connection.on_response_complete()

    def go_on(self, serve: Serve) -> None:
        self._connection.go_on(self, serve)


if TYPE_CHECKING:
    _: type[Peer] = _Call


def render(parts: Sequence[Part], fields: Sequence[Field], keep_alive: bool) -> bytes:
    """A whole response, with `fields` besides its own; its parts are ours, and need no check."""
    pieces: list[bytes] = []
    for part in parts:
        if isinstance(part, ResponseStart):
            pieces.append(_STATUS_LINES[part.status])
            for name, value in (*fields, *part.headers):
                pieces += (name, b": ", value, b"\r\n")
            pieces.append(b"\r\n" if keep_alive else b"connection: close\r\n\r\n")
        else:
            pieces.append(part.data)
    return b"".join(pieces)
