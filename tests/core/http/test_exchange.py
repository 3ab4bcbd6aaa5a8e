"""Bodies as they arrive: limits, deadlines, disconnects, and the driver's own mistakes."""

import pytest

from kvmcp.core.errors import LocalProtocolError
from kvmcp.core.http.exchange import HttpExchange
from kvmcp.core.http.messages import BodyPart, Request, ResponseStart
from kvmcp.core.limits import Limits
from kvmcp.core.subscriptions import ListChanged
from tests.core.http.harness import JSON_HEADERS, Web, modern_headers


def an_exchange(web: Web, **headers: str) -> HttpExchange:
    fields = [(name.encode(), value.encode()) for name, value in (JSON_HEADERS | headers).items()]
    return web.server.open(Request("POST", fields), web.caller, web.now)


def status(exchange: HttpExchange) -> int:
    start, body = exchange.take_parts()
    assert isinstance(start, ResponseStart) and isinstance(body, BodyPart) and not body.more
    return start.status


def test_nothing_is_written_before_the_body_is_complete() -> None:
    web = Web()
    exchange = an_exchange(web)
    exchange.receive_body(b"{", web.now)
    assert exchange.wants_input and not exchange.closed
    assert exchange.take_commands() == [] and exchange.take_parts() == []


def test_a_body_that_grows_too_large_is_refused_at_once() -> None:
    web = Web(limits=Limits(message_bytes=10))
    exchange = an_exchange(web)
    exchange.receive_body(b" " * 10, web.now)
    assert exchange.take_parts() == []
    exchange.receive_body(b" ", web.now)
    assert (exchange.wants_input, status(exchange)) == (False, 413)
    exchange.receive_body(b" ", web.now)
    exchange.end_of_body(web.now)
    assert exchange.take_parts() == [] and exchange.closed


def test_a_body_that_is_announced_as_too_large_is_not_read() -> None:
    web = Web(limits=Limits(message_bytes=10))
    exchange = an_exchange(web, **{"Content-Length": "11"})
    assert not exchange.wants_input and status(exchange) == 413


def test_a_body_that_does_not_come_is_408() -> None:
    web = Web(limits=Limits(body_timeout=5.0))
    exchange = an_exchange(web)
    assert exchange.next_deadline() == web.now + 5.0
    exchange.handle_timeout(web.now + 4.9)
    assert exchange.wants_input
    exchange.handle_timeout(web.now + 5.0)
    assert status(exchange) == 408 and exchange.next_deadline() is None
    exchange.handle_timeout(web.now + 6.0)


def test_before_an_answer_there_are_no_tickets() -> None:
    web = Web()
    exchange = an_exchange(web)
    with pytest.raises(LocalProtocolError):
        exchange.complete(1, [], web.now)


def test_a_fixed_answer_takes_every_input_and_does_nothing() -> None:
    web = Web()
    reply = web.ask("tools/list")
    fixed = an_exchange(web, Accept="text/html")
    fixed.complete(1, [], web.now)
    fixed.tell(1, None, web.now)  # type: ignore[arg-type]  # it does not even look
    fixed.publish(ListChanged("tools"), web.now)
    fixed.note_task("tk")
    assert not fixed.wants_turn
    assert web.server.take_woken() == []
    fixed.begin_shutdown(web.now)
    assert fixed.take_commands() == [] and fixed.next_deadline() is None
    fixed.disconnected(web.now)
    assert fixed.take_parts() == [] and fixed.closed and reply.exchange.closed


@pytest.mark.parametrize("piece", [1, 7, 65536])
def test_bodies_may_be_cut_anywhere(piece: int) -> None:
    assert Web(piece=piece).call("get", {"key": "a"}).code() == (200, None)


def test_a_response_that_is_over_is_not_woken() -> None:
    web = Web()
    listen = web.ask("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
    web.server.publish(ListChanged("tools"), web.now)
    listen.exchange.disconnected(web.now)
    listen.drive()
    assert web.server.take_woken() == []


def test_a_head_of_the_modern_era_is_the_same_in_every_case() -> None:
    headers = {name.upper(): value for name, value in modern_headers("tools/list", {}).items()}
    assert Web().request("GET", headers).status == 405
