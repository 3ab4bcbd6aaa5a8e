"""The walk through the pages of a list."""

import pytest
from msgspec import Raw

from kvmcp.core.client.features import Pages
from tests.core.client.pair import encoded


def page(**members: object) -> Raw:
    return Raw(encoded({"tools": [], **members}))


@pytest.mark.req("client-empty-cursor")
def test_only_a_missing_cursor_ends_a_list() -> None:
    pages = Pages(10)
    assert pages.next(page(nextCursor="a")) == "a"
    assert pages.next(page(nextCursor="")) == ""
    assert pages.next(page()) is None


def test_a_cursor_is_followed_once() -> None:
    pages = Pages(10)
    assert [pages.next(page(nextCursor=cursor)) for cursor in "aba"] == ["a", "b", None]


def test_the_pages_are_limited() -> None:
    pages = Pages(3)
    assert [pages.next(page(nextCursor=cursor)) for cursor in "abc"] == ["a", "b", None]


def test_a_page_that_is_none_ends_the_list() -> None:
    assert Pages(3).next(page(nextCursor=7)) is None
    assert Pages(3).next(Raw(b"[]")) is None
