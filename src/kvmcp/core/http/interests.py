"""Who wants to hear of what: telling of a change costs as many steps as there are peers that asked for it."""

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

Topic = TypeVar("Topic", bound=Hashable)
Member = TypeVar("Member", bound=Hashable)


class Interests(Generic[Topic, Member]):
    """Members by topic. Both grow and shrink with what is asked for, never with what happens."""

    def __init__(self) -> None:
        self._members: dict[Topic, dict[Member, None]] = {}
        self._topics: dict[Member, frozenset[Topic]] = {}
        self.size = 0
        """Pairs of a member and a topic."""

    def set(self, member: Member, topics: Iterable[Topic]) -> None:
        """`member` wants to hear of `topics`, and of nothing else any more."""
        wanted, before = frozenset(topics), self._topics.get(member, frozenset())
        self.size += len(wanted) - len(before)
        for topic in before - wanted:
            members = self._members[topic]
            del members[member]
            if not members:
                del self._members[topic]
        for topic in wanted - before:
            self._members.setdefault(topic, {})[member] = None
        if wanted:
            self._topics[member] = wanted
        else:
            self._topics.pop(member, None)

    def drop(self, member: Member) -> None:
        """`member` wants to hear of nothing."""
        self.set(member, ())

    def of(self, topic: Topic) -> list[Member]:
        """Who wants to hear of `topic`, those who asked first before the others."""
        return list(self._members.get(topic, ()))
