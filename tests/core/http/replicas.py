"""Several processes that serve the same clients, with one store, common records, and a channel between them."""

import json
from collections.abc import Callable
from itertools import count

from kvmcp.core.catalog import Catalog
from kvmcp.core.limits import Limits
from tests.core.harness import a_service
from tests.core.http.harness import Reply, Web


class Replicas:
    """Processes with one store and common records; what one relays reaches all others at once."""

    def __init__(
        self, number: int = 2, limits: Limits | None = None, catalog: Callable[[], Catalog] | None = None
    ) -> None:
        self.store = {"a": "1", "b": "2"}
        self.records: dict[str, bytes] = {}
        self.webs = [self._web(index, limits, catalog) for index in range(number)]
        self.lossy = False
        """Whether relays are lost."""

    def _web(self, index: int, limits: Limits | None, catalog: Callable[[], Catalog] | None) -> Web:
        service = a_service(None if catalog is None else catalog(), limits=limits)
        drawn = count()
        service.token = lambda: f"process{index}token{next(drawn)}"  # No two processes draw the same.
        return Web(service=service, replicated=True, store=self.store, records=self.records)

    def settle(self) -> None:
        """Pass on what there is, to the sender, too, until there is no more."""
        for web in self.webs:
            web.settle()
        while relays := [relay for web in self.webs for relay in web.server.take_relays()]:
            for relay in relays:
                json.loads(relay)  # Any channel of JSON texts can carry it.
                for web in self.webs:
                    if not self.lossy:
                        web.server.receive_relay(relay, web.now)
                        web.settle()

    def pass_time(self, seconds: float) -> None:
        for web in self.webs:
            web.pass_time(seconds)
        self.settle()

    def at(self, index: int, act: Callable[[Web], Reply]) -> Reply:
        reply = act(self.webs[index])
        self.settle()
        return reply
