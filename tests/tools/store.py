"""Runs plans on a store in memory, as the engine does: operations, replies, the next plan, until there is an answer."""

import time
from typing import cast

from kvmcp.backends.memory import MemoryBackend
from kvmcp.backends.ops import Namespace, Op, Reply
from kvmcp.core.plan import Answer, AskBackend, Caller, Context, Fail, Plan
from kvmcp.core.wire.common import ClientCapabilities

SPACE = Namespace("acme")
CONTEXT = Context(Caller(namespace="acme"), "2026-07-28", ClientCapabilities())


class Store:
    """A store with a clock of its own."""

    def __init__(self) -> None:
        self.now = time.monotonic()
        self.backend = MemoryBackend(clock=lambda: self.now)
        self.trips = 0

    def do(self, *ops: Op) -> list[Reply]:
        replies = self.backend.execute_now(ops)
        return replies

    def run(self, plan: Plan, context: Context = CONTEXT) -> Answer | Fail:
        while isinstance(plan, AskBackend):
            assert not plan.writes
            self.trips += 1
            plan = plan.then.resume(self.do(*cast("tuple[Op, ...]", plan.ops)), context)
        assert isinstance(plan, Answer | Fail)
        return plan
