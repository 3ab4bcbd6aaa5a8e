"""Who wants to hear of which change, and what has changed since they last heard.

Level-triggered: a subscription keeps the *set* of things that changed, and its notifications are written when
the transport can take them. A peer that reads slowly hears of each change once and costs bounded memory.
"""

from collections.abc import Iterable, Iterator
from typing import Final, Literal, Protocol, TypeAlias

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


class Lookout(Protocol):
    """Finds out when watched resources change, and publishes it. `kvmcp.io.lookout` is one over a store."""

    def begin(self, uri: str) -> None:
        """Somebody watches `uri` now."""
        ...

    def end(self, uri: str) -> None:
        """Nobody watches `uri` any more."""
        ...

    def job(self, uris: Iterable[str]) -> object | None:
        """A job that ends, as `Done`, once changes of all these are noticed; None where they are already."""
        ...


class Watched:
    """The resources that somebody watches, over all sessions of one server: how many watch each."""

    def __init__(self, lookout: Lookout | None = None) -> None:
        """`lookout` is told what is watched; without one whoever changes a resource publishes that."""
        self._counts: dict[str, int] = {}
        self._lookout = lookout

    def __iter__(self) -> Iterator[str]:
        return iter(self._counts)

    def __len__(self) -> int:
        return len(self._counts)

    def __contains__(self, uri: object) -> bool:
        return uri in self._counts

    def add(self, uri: str) -> None:
        count = self._counts.get(uri, 0)
        self._counts[uri] = count + 1
        if not count and self._lookout is not None:
            self._lookout.begin(uri)

    def drop(self, uri: str) -> None:
        """As often as it was added."""
        self._counts[uri] -= 1
        if not self._counts[uri]:
            del self._counts[uri]
            if self._lookout is not None:
                self._lookout.end(uri)

    def job(self, uris: Iterable[str]) -> object | None:
        """What to wait for before a client is told that it will hear of these; see `Lookout.job`."""
        return None if self._lookout is None else self._lookout.job(uris)


class Subscription:
    """One stream of changes: a modern listen, or all that a legacy session is told.

    What it watches counts in `watched` until it is forgotten, or the subscription closed.
    """

    def __init__(self, watched: Watched | None = None) -> None:
        self._watched = watched if watched is not None else Watched()
        self._closed = False
        self.granted = ListenFilter()
        """Modern: what the client is told that it will hear of."""
        self.is_held = False
        """Whether changes are kept back, because the client was not told yet that it will hear of them."""
        self.lists: set[ListName] = set()
        self.uris: set[str] = set()
        """To be read only: see `watch` and `forget`."""
        # A dict is an ordered set: notifications leave in the order of the first change.
        self._dirty: dict[Event, None] = {}
        self.tasks: set[str] = set()
        self._dirty_tasks: dict[str, None] = {}

    @classmethod
    def of(cls, wanted: ListenFilter, watched: Watched | None = None) -> "Subscription":
        subscription = cls(watched)
        subscription.granted = wanted
        if wanted.tools_list_changed:
            subscription.lists.add("tools")
        if wanted.prompts_list_changed:
            subscription.lists.add("prompts")
        if wanted.resources_list_changed:
            subscription.lists.add("resources")
        for uri in wanted.resource_subscriptions:
            subscription.watch(uri)
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
        if self.is_held:
            return []
        changed = list(self._dirty_tasks)
        self._dirty_tasks.clear()
        return changed

    def watch(self, uri: str) -> None:
        """Want to hear of a resource. Nothing once it is closed."""
        if uri not in self.uris and not self._closed:
            self.uris.add(uri)
            self._watched.add(uri)

    def forget(self, uri: str) -> None:
        """Stop watching a resource; a change not yet told is not told any more."""
        if uri in self.uris:
            self.uris.remove(uri)
            self._watched.drop(uri)
        self._dirty.pop(ResourceUpdated(uri), None)

    def close(self) -> None:
        """Nobody will be told any more."""
        self._closed = True
        for uri in list(self.uris):
            self.forget(uri)

    @property
    def is_dirty(self) -> bool:
        """Whether something has changed since the last take, and may be told."""
        return bool(self._dirty or self._dirty_tasks) and not self.is_held

    def take(self) -> list[Event]:
        """What has changed since the last take."""
        if not self._dirty or self.is_held:
            return []
        changed = list(self._dirty)
        self._dirty.clear()
        return changed
