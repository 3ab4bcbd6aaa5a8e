"""What sessions share: list pages are rendered once per dialect and revision of the catalog."""

from kvmcp.core.catalog import Catalog
from kvmcp.core.items import Tool
from kvmcp.core.limits import Limits
from kvmcp.core.service import Dialect, Service
from kvmcp.core.versions import LEGACY
from tests.core.fixture_catalog import ADD, Nothing, arguments
from tests.core.harness import Server, a_service, ids


def tools(count: int) -> Catalog:
    return Catalog(
        *(Tool(name=f"t{n}", arguments=arguments(Nothing), plan=ADD.plan) for n in range(count)),
    )


def pages(service: Service) -> list[bytes | None]:
    dialects: list[Dialect] = [service.modern, *(service.legacy(version) for version in LEGACY)]
    return [service.list_result(dialect, "tools", None) for dialect in dialects]


def test_a_page_is_rendered_once_and_again_when_the_list_has_changed() -> None:
    service = a_service(tools(2))
    first = service.list_result(service.modern, "tools", None)
    assert service.list_result(service.modern, "tools", None) is first
    service.catalog.add(ADD)
    changed = service.list_result(service.modern, "tools", None)
    assert changed != first and b'"add"' in (changed or b"")


def test_each_dialect_has_its_own_page() -> None:
    service = a_service(Catalog(ADD))
    assert len(set(pages(service))) == 5


def test_many_pages_do_not_stay_in_memory() -> None:
    service = a_service(tools(100), limits=Limits(list_page=1))
    for number in range(1, 100):
        assert service.list_result(service.modern, "tools", str(number)) is not None
    assert len(service._pages) <= 64


def test_an_unknown_cursor_has_no_page() -> None:
    service = a_service(tools(2))
    assert service.list_result(service.modern, "tools", "9") is None
    assert service._pages == {}


def test_limits_have_defaults() -> None:
    assert a_service().limits == Limits()
    assert a_service(limits=Limits(list_page=3)).limits.list_page == 3


def test_two_peers_with_the_same_ids_get_their_own_answers() -> None:
    service = a_service()
    one = Server("2025-11-25", service=service, store={"a": "of one"}, held=True)
    other = Server("2026-07-28", service=service, store={"a": "of the other"}, held=True)
    for peer in (one, other):
        peer.say(peer.request("tools/call", {"name": "get", "arguments": {"key": "a"}}, id=1))
    other.answer_batch()
    one.answer_batch()
    for peer, value in ((one, "of one"), (other, "of the other")):
        [reply] = peer.replies()
        assert ids([reply]) == [1] and reply["result"]["content"][0]["text"] == value
