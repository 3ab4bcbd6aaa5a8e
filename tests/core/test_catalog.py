"""What a server offers, and pages of it."""

import pytest

from kvmcp.core.catalog import Catalog, Feature, ListKind
from kvmcp.core.errors import LocalProtocolError
from kvmcp.core.items import Item, ResourceListing, Tool
from kvmcp.core.plan import Answer
from kvmcp.core.wire.common import ResourcePage
from tests.core.fixture_catalog import ADD, CONFIG, GREET, HIDDEN, KEYS, LONG, PLAIN_KEYS, Nothing, arguments


def a_tool(name: str) -> Tool:
    return Tool(name=name, arguments=arguments(Nothing), plan=ADD.plan)


def names(catalog: Catalog, cursor: str | None = None, size: int = 3) -> tuple[list[str], str | None]:
    page = catalog.page("tools", cursor, size)
    assert page is not None
    items, following = page
    return [item.name for item in items], following


FEATURES: tuple[Feature, ...] = ("tools", "resources", "prompts", "completions")
ITEMS: tuple[tuple[Item, ListKind], ...] = (
    (ADD, "tools"),
    (CONFIG, "resources"),
    (KEYS, "templates"),
    (GREET, "prompts"),
)


@pytest.mark.parametrize(("item", "kind"), ITEMS)
def test_items_come_and_go_and_the_list_counts_its_changes(item: Item, kind: ListKind) -> None:
    catalog = Catalog()
    assert catalog.add(item) == kind
    assert catalog.revision[kind] == 1
    with pytest.raises(LocalProtocolError, match="is there already"):
        catalog.add(item)
    assert (catalog.page(kind, None, 10), catalog.count(kind)) == (([item], None), 1)
    assert catalog.remove(item) == kind
    assert catalog.revision[kind] == 2
    assert catalog.page(kind, None, 10) == ([], None)
    with pytest.raises(LocalProtocolError, match="is not there"):
        catalog.remove(item)
    assert sum(catalog.revision.values()) == 2


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ü", "x" * 129, "a\n"])
def test_a_tool_needs_a_name_that_every_host_takes(name: str) -> None:
    with pytest.raises(LocalProtocolError, match="1 to 128"):
        Catalog(a_tool(name))


@pytest.mark.parametrize("name", ["a", "x" * 128, "A-b_c.9"])
def test_names_of_tools(name: str) -> None:
    tool = a_tool(name)
    assert Catalog(tool).tool(name) is tool


def test_looking_things_up() -> None:
    catalog = Catalog(ADD, CONFIG, KEYS, PLAIN_KEYS, GREET)
    assert catalog.tool("add") is ADD and catalog.tool("nothing") is None
    assert catalog.resource("kv://config") is CONFIG and catalog.resource("kv://nothing") is None
    assert catalog.prompt("greet") is GREET and catalog.prompt("nothing") is None
    assert catalog.template("kv://keys/{key}") is KEYS and catalog.template("kv://nothing/{key}") is None
    assert catalog.match("kv://plain/a%20b") == (PLAIN_KEYS, {"key": "a b"})
    assert catalog.match("kv://nothing/a") is None


def test_a_feature_is_offered_from_its_first_item_on_or_when_named() -> None:
    catalog = Catalog()
    assert not any(catalog.offers(feature) for feature in FEATURES)
    catalog.add(ADD)
    catalog.add(PLAIN_KEYS)
    catalog.add(LONG)
    assert [catalog.offers(feature) for feature in FEATURES] == [True, True, True, False]
    catalog.add(KEYS)
    assert catalog.offers("completions")
    assert Catalog(GREET).offers("completions")
    assert Catalog(features=frozenset({"tools"})).offers("tools")


def test_what_is_deferred_is_announced_and_made_when_somebody_looks() -> None:
    catalog, made = Catalog(CONFIG), 0

    def make() -> tuple[Item, ...]:
        nonlocal made
        made += 1
        return KEYS, GREET

    catalog.defer(frozenset({"prompts", "completions"}), make)
    assert [catalog.offers(feature) for feature in FEATURES] == [False, True, True, True]
    catalog.add(ADD)
    assert (names(catalog), catalog.count("tools"), catalog.tool("add"), made) == ((["add"], None), 1, ADD, 0)
    before = dict(catalog.revision)
    assert catalog.prompt("greet") is GREET
    assert catalog.template("kv://keys/{key}") is KEYS
    assert (catalog.count("prompts"), made, catalog.revision) == (1, 1, before)


def test_what_is_deferred_comes_before_what_is_added_later() -> None:
    catalog = Catalog()
    catalog.defer(frozenset({"resources"}), lambda: (CONFIG,))
    catalog.defer(frozenset({"resources"}), lambda: (KEYS,))
    catalog.add(PLAIN_KEYS)
    assert catalog.page("resources", None, 3) == ([CONFIG], None)
    assert catalog.page("templates", None, 3) == ([KEYS, PLAIN_KEYS], None)


@pytest.mark.parametrize("item", [CONFIG, KEYS, GREET, LONG])
def test_what_is_deferred_can_be_removed(item: Item) -> None:
    catalog = Catalog()
    catalog.defer(frozenset({"resources", "prompts"}), lambda: (item,))
    kind = catalog.remove(item)
    with pytest.raises(LocalProtocolError, match="is not there"):
        catalog.remove(item)
    assert catalog.revision[kind] == 1


def test_a_deferred_listing_counts() -> None:
    listing = ResourceListing(lambda cursor, size, context: Answer(ResourcePage(())))
    catalog = Catalog()
    catalog.defer(frozenset({"resources"}), lambda: (listing,))
    assert catalog.listing_cursor(None) == ""
    assert catalog.listing is listing


def test_pages_in_the_order_of_adding() -> None:
    catalog = Catalog(*(a_tool(f"tool-{n}") for n in range(7)))
    assert names(catalog) == (["tool-0", "tool-1", "tool-2"], "3")
    assert names(catalog, "3") == (["tool-3", "tool-4", "tool-5"], "6")
    assert names(catalog, "6") == (["tool-6"], None)
    assert names(catalog, "7") == ([], None)
    assert names(catalog, size=7)[1] is None


def test_pages_survive_changes() -> None:
    catalog = Catalog(*(a_tool(f"tool-{n}") for n in range(5)))
    catalog.remove(catalog.tool("tool-2") or ADD)
    catalog.add(a_tool("new"))
    assert names(catalog, "3") == (["tool-3", "tool-4", "new"], None)


def test_a_tool_that_is_not_listed_can_be_looked_up() -> None:
    catalog = Catalog(ADD, HIDDEN)
    assert names(catalog) == (["add"], None)
    assert catalog.tool("hidden") is HIDDEN


@pytest.mark.req("pagination-cursor")
@pytest.mark.parametrize("cursor", ["", "0", "8", "-1", "x", "1.0", "٣", "9" * 19])
def test_a_cursor_that_is_not_ours_is_refused(cursor: str) -> None:
    catalog = Catalog(*(a_tool(f"tool-{n}") for n in range(7)))
    assert catalog.page("tools", cursor, 3) is None
