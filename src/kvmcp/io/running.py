"""Runs what a machine of the core asks for: batches on the store, coroutines in tasks of their own.

The same for a connection, for an HTTP exchange and for the HTTP server itself: each is a `Machine` to this module,
and has one `Runner`. After anything that happened outside an input, `Runner` asks its owner for a turn.
"""

import logging
import math
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, Protocol, cast

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint_if_cancelled

from kvmcp.backends.base import Backend, Ops, Replies
from kvmcp.core.commands import (
    AnswerWork,
    BatchFailed,
    Close,
    Command,
    Report,
    RunBatch,
    Said,
    StartWork,
    StopWork,
    Ticket,
    WorkDone,
    WorkFailed,
)
from kvmcp.core.exchange import INTERNAL
from kvmcp.core.plan import WatchUntil
from kvmcp.io.watching import WatchJob
from kvmcp.io.work import Job, RequestFailed, ToolFailed, Work

logger = logging.getLogger("kvmcp.io")

JOINED_OPS: Final = 256
"""Operations that go to a busy store together: bounds what their replies can weigh."""


def clock_of_loop() -> Callable[[], float]:
    """`anyio.current_time` of the running event loop, which need not be looked up at each call."""
    asyncio = sys.modules.get("asyncio")  # 12 ms to a program on trio
    if asyncio is not None and anyio.get_cancelled_exc_class() is asyncio.CancelledError:
        time: Callable[[], float] = asyncio.get_running_loop().time
        return time
    return anyio.current_time


class Asker(Protocol):
    """A machine of the core that gives commands and is told how they ended."""

    def complete(self, ticket: Ticket, outcome: object, now: float) -> None: ...
    def tell(self, ticket: Ticket, said: Said, now: float) -> None: ...


class Runner:
    """Runs the commands of one machine. `turn` is its owner's: run new commands, write what there is to write."""

    def __init__(
        self, machine: Asker, backend: Backend, tasks: TaskGroup, turn: Callable[[], Awaitable[None]]
    ) -> None:
        self._machine = machine
        self._backend = backend
        self._tasks = tasks
        self._turn = turn
        self._batches: deque[RunBatch] = deque()
        self._batch_waits: anyio.Event | None = None
        self._jobs: dict[Ticket, tuple[anyio.CancelScope, Work]] = {}
        self._ended = False

    def end(self) -> None:
        """No more commands come: what runs is finished, and then no task is left."""
        self._ended = True
        if self._batch_waits is not None:
            self._batch_waits.set()

    def run(self, commands: Iterable[Command]) -> None:
        """Begin each of them; what can be done without waiting is done and completed on return."""
        for command in commands:
            match command:
                case RunBatch():
                    self._run_batch(command)
                case StartWork(ticket=ticket, job=job):
                    if isinstance(job, WatchUntil):
                        job = WatchJob(job, self._backend)
                    self._start_job(ticket, cast(Job, job))
                case StopWork(ticket=ticket):
                    if ticket in self._jobs:
                        self._jobs[ticket][0].cancel()
                case AnswerWork(ticket=ticket, answers=answers):
                    if ticket in self._jobs:
                        self._jobs[ticket][1].answer(answers)
                case Report(method=method, error=error):
                    logger.error("handler of %s failed", method, exc_info=error)
                case Close(reason=reason):
                    logger.debug("closing: %s", reason)

    # --- the backend ---

    def _run_batch(self, command: RunBatch) -> None:
        """Most batches end here, without waiting; the others go to `_run_batches`, in order."""
        if not self._batches:
            try:
                replies = self._backend.execute_now(cast(Ops, command.ops))
                if replies is not None:
                    _check_replies(command.ops, replies)
            except Exception as error:  # noqa: BLE001  # the contract forbids it; a client must not pay for it
                _fail_batch(self._machine, command, error)
                return
            if replies is not None:
                self._machine.complete(command.ticket, replies, anyio.current_time())
                return
        self._batches.append(command)
        if self._batch_waits is None:
            self._batch_waits = anyio.Event()
            self._tasks.start_soon(self._run_batches)
        else:
            self._batch_waits.set()

    async def _run_batches(self) -> None:
        """Batches that wait for the store, first in first out, so that one client's writes keep their order.

        Started by the first that waits: most HTTP exchanges have none, most connections have many.
        """
        while True:
            while self._batches:
                await self._run_waiting_batches(self._next_batches())
            if self._ended:
                return
            self._batch_waits = anyio.Event()
            await self._batch_waits.wait()

    def _next_batches(self) -> list[RunBatch]:
        """The oldest that wait, at least one, joined up to `JOINED_OPS`."""
        joined: list[RunBatch] = []
        size = 0
        for command in self._batches:
            size += len(command.ops)
            if joined and size > JOINED_OPS:
                break
            joined.append(command)
        return joined

    async def _run_waiting_batches(self, commands: list[RunBatch]) -> None:
        """All that waited while the store was busy goes as one batch. It leaves the queue when it is done."""
        ops = [op for command in commands for op in command.ops]
        try:
            replies = await self._backend.execute(cast(Ops, ops))
            _check_replies(ops, replies)
        except Exception as error:  # noqa: BLE001  # as in _run_batch
            for command in commands:
                self._batches.popleft()
                _fail_batch(self._machine, command, error)
        else:
            self._complete_batches(commands, replies)
        await self._turn()

    def _complete_batches(self, commands: list[RunBatch], replies: Replies) -> None:
        now, start = anyio.current_time(), 0
        for command in commands:
            self._batches.popleft()
            end = start + len(command.ops)
            self._machine.complete(command.ticket, replies[start:end], now)
            start = end

    # --- jobs ---

    def _start_job(self, ticket: Ticket, job: Job) -> None:
        async def tell(said: Said) -> None:
            self._machine.tell(ticket, said, anyio.current_time())
            await self._turn()
            await checkpoint_if_cancelled()  # A job that only reports must notice that it was stopped.

        work = Work(job.context, tell)
        self._jobs[ticket] = (anyio.CancelScope(), work)
        self._tasks.start_soon(self._run_job, ticket, job, work)

    async def _run_job(self, ticket: Ticket, job: Job, work: Work) -> None:
        try:
            with self._jobs[ticket][0]:
                outcome = await self._outcome(job, work)
                self._machine.complete(ticket, outcome, anyio.current_time())
        finally:
            del self._jobs[ticket]
        # Also for a job that was stopped: it may have stopped itself by a question, whose flush was cancelled.
        await self._turn()

    async def _outcome(self, job: Job, work: Work) -> WorkDone | WorkFailed:
        """The one boundary where a coroutine's exception becomes an answer."""
        try:
            return WorkDone(await job.run(work))
        except (ToolFailed, RequestFailed) as failure:
            return WorkFailed(failure.error)
        except anyio.get_cancelled_exc_class() as error:
            # On asyncio any cancelled future raises this; ours is to be obeyed, a stray one fails this job alone.
            if anyio.current_effective_deadline() == -math.inf:
                raise
            logger.error("a tool's coroutine leaked a cancellation of something else", exc_info=error)
            return WorkFailed(INTERNAL)
        except Exception as error:
            logger.error("a tool's coroutine failed", exc_info=error)
            return WorkFailed(INTERNAL)


async def run_alone(
    machine: Asker, backend: Backend, command: RunBatch, clock: Callable[[], float] = anyio.current_time
) -> None:
    """Run a batch in the caller's own task, for a machine that has nothing else to do meanwhile."""
    ops = command.ops
    try:
        replies = backend.execute_now(ops)
        if replies is None:
            replies = await backend.execute(ops)
        if len(replies) != len(ops):
            _check_replies(ops, replies)
    except Exception as error:  # noqa: BLE001  # as in `Runner._run_batch`
        _fail_batch(machine, command, error)
    except anyio.get_cancelled_exc_class():
        # Nobody knows what became of it; and who goes on with the machine must not wait for it.
        machine.complete(command.ticket, BatchFailed(), anyio.current_time())
        raise
    else:
        machine.complete(command.ticket, replies, clock())


def _fail_batch(machine: Asker, command: RunBatch, error: Exception) -> None:
    logger.error("the backend raised, which is a bug in it", exc_info=error)
    machine.complete(command.ticket, BatchFailed(), anyio.current_time())


def _check_replies(ops: Sequence[object], replies: Sequence[object]) -> None:
    if len(replies) != len(ops):
        raise TypeError(f"the backend gave {len(replies)} replies to {len(ops)} operations")
