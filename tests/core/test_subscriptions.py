"""Who hears of which change."""

import pytest

from kvmcp.core.subscriptions import LIST_NAMES, Event, ListChanged, ListName, ResourceUpdated, Subscription
from kvmcp.core.wire.params import ListenFilter

LISTS = {name: ListChanged(name) for name in LIST_NAMES}


@pytest.mark.req("listen-only-asked")
@pytest.mark.parametrize(
    ("wanted", "heard"),
    [
        (ListenFilter(), []),
        (ListenFilter(tools_list_changed=True), [LISTS["tools"]]),
        (ListenFilter(prompts_list_changed=True), [LISTS["prompts"]]),
        (ListenFilter(resources_list_changed=True), [LISTS["resources"]]),
        (ListenFilter(resource_subscriptions=("kv://a",)), [ResourceUpdated("kv://a")]),
    ],
)
def test_only_what_was_asked_for_is_heard(wanted: ListenFilter, heard: list[Event]) -> None:
    subscription = Subscription.of(wanted)
    events: list[Event] = [*LISTS.values(), ResourceUpdated("kv://a"), ResourceUpdated("kv://b")]
    assert [event for event in events if subscription.note(event)] == heard
    assert subscription.take() == heard
    assert subscription.take() == []


def test_a_change_is_heard_once_however_often_it_happened_in_the_order_of_the_first() -> None:
    subscription = Subscription.of(ListenFilter(tools_list_changed=True, resource_subscriptions=("kv://a",)))
    for _ in range(1000):
        subscription.note(ResourceUpdated("kv://a"))
        subscription.note(ListChanged("tools"))
    assert subscription.take() == [ResourceUpdated("kv://a"), ListChanged("tools")]


def test_what_is_forgotten_is_not_told_any_more() -> None:
    subscription = Subscription.of(ListenFilter(resource_subscriptions=("kv://a", "kv://b")))
    subscription.note(ResourceUpdated("kv://a"))
    subscription.note(ResourceUpdated("kv://b"))
    subscription.forget("kv://a")
    subscription.forget("kv://a")
    assert subscription.take() == [ResourceUpdated("kv://b")]
    assert not subscription.note(ResourceUpdated("kv://a"))


def test_every_list_has_its_event() -> None:
    lists: set[ListName] = {"tools", "resources", "prompts"}
    assert set(LIST_NAMES) == lists


def test_only_tasks_that_are_listened_to_are_noted() -> None:
    subscription = Subscription.of(ListenFilter(task_ids=("a",)))
    assert (subscription.note_task("b"), subscription.note_task("a")) == (False, True)
    assert subscription.take_tasks() == ["a"] and subscription.topics() == {"a"}
