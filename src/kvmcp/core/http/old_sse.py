"""HTTP+SSE, the transport of 2024-11-05: a GET opens a stream, POSTs go to the address that it names.

Deprecated since 2025-03-26, and there for clients that know nothing else. All that a session writes goes out on
its one stream; the session ends with it. (Reference: MCP 2024-11-05, HTTP with SSE.)
"""

from msgspec import Struct

from kvmcp.core import jsonrpc
from kvmcp.core.http import sse
from kvmcp.core.http.answers import Answer, Fixed, SessionAnswer, earliest, refuse
from kvmcp.core.http.exchange import BodyRoom, HttpExchange
from kvmcp.core.http.headers import Headers
from kvmcp.core.http.messages import EVENTS, BodyPart, Part, Request, empty_response, events_start
from kvmcp.core.limits import Limits
from kvmcp.core.plan import Caller
from kvmcp.core.service import Service
from kvmcp.core.session import ServerSession
from kvmcp.core.subscriptions import Event


class OldStream(SessionAnswer):
    """The response to the GET, and the session that lives as long as it."""

    def __init__(self, session: ServerSession, caller: Caller, endpoint: str, limits: Limits, now: float):
        super().__init__(session, limits, now)
        self.caller = caller
        self.streams = True
        self._limits = limits
        self._greeting: bytes = b"event: endpoint\ndata: %b\n\n" % endpoint.encode()
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._closed = False

    def receive(self, body: bytes, now: float) -> bool:
        """A message that was POSTed; False where it is not taken, because what came of others is not read."""
        if not self._session.wants_input or self._unsent_bytes > self._limits.output_bytes:
            return False
        self._session.receive(jsonrpc.decode(body, self._limits), now)
        self._render()
        self.wake()
        return True

    def _render(self) -> None:
        for message in self._session.take_messages():
            self._unsent.append(sse.event(message))
            self._unsent_bytes += len(message)

    def take_parts(self) -> list[Part]:
        if self._closed:
            return []
        self._render()
        data = b"".join(self._unsent) + self._silence.take()
        self._unsent, self._unsent_bytes = [], 0
        self._closed = self._session.closed
        greeting, self._greeting = self._greeting, b""
        body = BodyPart(greeting + data, more=not self._closed)
        if greeting:
            return [events_start(), body]
        return [body] if data or self._closed else []

    def disconnected(self, now: float) -> None:
        self._session.abandon(now)
        self._closed = True

    def next_deadline(self) -> float | None:
        return None if self._closed else earliest(self._session.next_deadline(), self._silence.due_at)

    @property
    def closed(self) -> bool:
        return self._closed


class _Head(Struct):
    token: str
    caller: Caller


class OldSseServer:
    """The two endpoints. `endpoint` is the address for POSTs, to which `?session=` and a token are added.

    Driven as `HttpServer` is; run what `take_woken` names after each input.
    """

    def __init__(self, service: Service, endpoint: str) -> None:
        self._service = service
        self._limits = service.limits
        self._endpoint = endpoint
        self._streams: dict[str, OldStream] = {}
        self._open: dict[HttpExchange, _Head] = {}
        self._woken: dict[HttpExchange, None] = {}
        self._listening: dict[HttpExchange, None] = {}
        self._ending = False
        self.body_room = BodyRoom(self._limits.arriving_bytes)

    def open_stream(self, request: Request, caller: Caller, now: float, root: str = "") -> HttpExchange:
        """A GET of the stream's address arrived. `root` goes before the address for POSTs: a path, percent-encoded."""
        exchange = HttpExchange(self, self._limits, now)
        token = self._service.token()
        self._open[exchange] = _Head(token, caller)
        answer = self._stream(request, f"{root}{self._endpoint}?session={token}", token, caller, now)
        exchange.answer(answer)
        if answer.streams:
            self._listening[exchange] = None
        return exchange

    def _stream(self, request: Request, address: str, token: str, caller: Caller, now: float) -> Answer:
        if request.method != "GET":
            return refuse(405, "the stream is opened by GET", (b"allow", b"GET"))
        if not Headers(request.headers).accepts(EVENTS):
            return refuse(406, "the client must accept text/event-stream")
        if self._ending or len(self._streams) >= self._limits.open_streams:
            return refuse(503, "no more streams are opened now", (b"retry-after", b"60"))
        session = ServerSession(self._service, caller)
        stream = OldStream(session, caller, address, self._limits, now)
        self._streams[token] = stream
        return stream

    def open_post(self, request: Request, token: str, caller: Caller, now: float) -> HttpExchange:
        """A POST arrived. `token` is what its address has for `session`."""
        exchange = HttpExchange(self, self._limits, now)
        self._open[exchange] = _Head("", caller)
        stream = self._streams.get(token)
        if self._ending or len(self._open) > self._limits.open_requests:
            exchange.answer(refuse(503, "no more messages are taken now", (b"retry-after", b"1")))
        elif request.method != "POST":
            exchange.answer(refuse(405, "messages are sent by POST", (b"allow", b"POST")))
        elif not Headers(request.headers).has_json_body():
            exchange.answer(refuse(415, "the body must be application/json"))
        elif stream is None or stream.caller.identity != caller.identity:
            exchange.answer(refuse(404, "no such session; open a stream"))
        else:
            self._open[exchange] = _Head(token, caller)
        return exchange

    def publish(self, event: Event, now: float) -> None:
        """Something changed."""
        for exchange in self._listening:
            exchange.publish(event, now)

    def begin_shutdown(self, now: float) -> None:
        """Take no new streams, finish what was accepted, give up after `Limits.shutdown_grace`."""
        self._ending = True
        for exchange in list(self._open):
            exchange.begin_shutdown(now)
            self._woken[exchange] = None

    def take_woken(self) -> list[HttpExchange]:
        """The exchanges that were given something to do from elsewhere."""
        woken = list(self._woken)
        self._woken.clear()
        return woken

    @property
    def requests(self) -> int:
        """Requests that are not answered yet, streams included."""
        return len(self._open)

    # --- for exchanges ---

    def answer_body(self, exchange: HttpExchange, body: bytes, now: float) -> Answer:
        """The response to a POST: whatever there is to say is said on the stream."""
        stream = self._streams.get(self._open[exchange].token)
        if stream is None:
            return refuse(404, "the session ended while its message was arriving")
        if not stream.receive(body, now):
            return refuse(503, "read the stream first; too much waits on it", (b"retry-after", b"1"))
        return Fixed(empty_response(202))

    def woke(self, exchange: HttpExchange) -> None:
        """A message arrived for a stream."""
        self._woken[exchange] = None

    def left(self, exchange: HttpExchange) -> None:
        """An exchange is over; with a stream's, its session."""
        head = self._open.pop(exchange)
        self._woken.pop(exchange, None)
        self._listening.pop(exchange, None)
        stream = self._streams.get(head.token)
        if stream is not None and stream.closed:
            del self._streams[head.token]
