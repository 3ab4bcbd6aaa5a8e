"""Who wants to hear of which change, and what has changed since they last heard.

Level-triggered: a subscription keeps the *set* of things that changed, and its notifications are written when
the transport can take them. A peer that reads slowly hears of each change once and costs bounded memory.
"""

from typing import Final, Literal, TypeAlias

from msgspec import Struct

from kvmcp.core.wire.params import ListenFilter

ListName: TypeAlias = Literal["tools", "resources", "prompts"]
LIST_NAMES: Final[tuple[ListName, ...]] = ("tools", "resources", "prompts")


class ListChanged(Struct, frozen=True, gc=False):
    """A list of the catalog is not what it was."""

    name: ListName


class ResourceUpdated(Struct, frozen=True, gc=False):
    """What a resource holds is not what it was."""

    uri: str


Event: TypeAlias = ListChanged | ResourceUpdated


class Subscription:
    """One stream of changes: a modern listen, or all that a legacy session is told."""

    def __init__(self) -> None:
        self.lists: set[ListName] = set()
        self.uris: set[str] = set()
        # A dict is an ordered set: notifications leave in the order of the first change.
        self._dirty: dict[Event, None] = {}
        self.tasks: set[str] = set()
        self._dirty_tasks: dict[str, None] = {}

    @classmethod
    def of(cls, wanted: ListenFilter) -> "Subscription":
        subscription = cls()
        if wanted.tools_list_changed:
            subscription.lists.add("tools")
        if wanted.prompts_list_changed:
            subscription.lists.add("prompts")
        if wanted.resources_list_changed:
            subscription.lists.add("resources")
        subscription.uris.update(wanted.resource_subscriptions)
        subscription.tasks.update(wanted.task_ids)
        return subscription

    def topics(self) -> "set[Event | str]":
        """All that it wants to hear of: changes, and tasks by their ids."""
        return {*map(ListChanged, self.lists), *map(ResourceUpdated, self.uris), *self.tasks}

    def note_all(self) -> None:
        """Anything may have changed: nobody knows any more."""
        for name in LIST_NAMES:
            self.note(ListChanged(name))
        for uri in self.uris:
            self.note(ResourceUpdated(uri))

    def note(self, event: Event) -> bool:
        """Remember a change if it is wanted; whether it was."""
        wanted = event.name in self.lists if isinstance(event, ListChanged) else event.uri in self.uris
        if wanted:
            self._dirty[event] = None
        return wanted

    def note_task(self, id: str) -> bool:
        """Remember that a task changed if it is wanted; whether it was."""
        wanted = id in self.tasks
        if wanted:
            self._dirty_tasks[id] = None
        return wanted

    def take_tasks(self) -> list[str]:
        """The tasks that changed since the last take."""
        changed = list(self._dirty_tasks)
        self._dirty_tasks.clear()
        return changed

    def forget(self, uri: str) -> None:
        """Stop watching a resource; a change not yet told is not told any more."""
        self.uris.discard(uri)
        self._dirty.pop(ResourceUpdated(uri), None)

    @property
    def is_dirty(self) -> bool:
        """Whether something has changed since the last take."""
        return bool(self._dirty or self._dirty_tasks)

    def take(self) -> list[Event]:
        """What has changed since the last take."""
        if not self._dirty:
            return []
        changed = list(self._dirty)
        self._dirty.clear()
        return changed
