"""Runs what a machine of the core asks for: batches on the store, coroutines in tasks of their own.

The same for a connection, for an HTTP exchange and for the HTTP server itself: each is a `Machine` to this module,
and has one `Runner`. After anything that happened outside an input, `Runner` asks its owner for a turn.
"""

import logging
import math
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


class Asker(Protocol):
    """A machine of the core that gives commands and is told how they ended."""

    def complete(self, ticket: Ticket, outcome: object, now: float) -> None: ...
    def tell(self, ticket: Ticket, said: Said, now: float) -> None: ...


class Runner:
    """Runs the commands of one machine, and asks its owner to go on: to run new commands, to write what there is.

    `turn` goes on before it returns; `wake` neither waits nor raises, and is called in whichever task of the store
    has replies.
    """

    def __init__(
        self,
        machine: Asker,
        backend: Backend,
        tasks: TaskGroup,
        turn: Callable[[], Awaitable[None]],
        wake: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._machine = machine
        self._backend = backend
        self._tasks = tasks
        self._turn = turn
        self._wake = wake
        self._clock = clock
        self._batches: deque[RunBatch] = deque()
        self._under_way: list[RunBatch] = []
        self._for_task: list[RunBatch] = []
        self._executes: anyio.Event | None = None
        self._is_beginning = False
        self._jobs: dict[Ticket, tuple[anyio.CancelScope, Work]] = {}
        self._ended = False
        self._closed = False

    def end(self) -> None:
        """No more commands come: what runs is finished, and then no task is left."""
        self._ended = True
        if self._executes is not None:
            self._executes.set()

    def close(self) -> None:
        """The task group is over: what waits is not begun any more, and nobody is woken."""
        self._closed = True
        self._batches.clear()

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
        """Most batches end here, without waiting; others wait in line, so that one client's writes keep their order."""
        self._batches.append(command)
        if not self._is_beginning:
            self._begin_batches()

    def _begin_batches(self) -> None:
        """What waits goes to the store, which has one batch at a time."""
        self._is_beginning = True
        while self._batches and not self._under_way:
            self._begin(self._next_batches())
        self._is_beginning = False

    def _next_batches(self) -> list[RunBatch]:
        """The oldest that wait, at least one, joined up to `JOINED_OPS`."""
        joined = [self._batches.popleft()]
        size = len(joined[0].ops)
        while self._batches and (size := size + len(self._batches[0].ops)) <= JOINED_OPS:
            joined.append(self._batches.popleft())
        return joined

    def _begin(self, commands: list[RunBatch]) -> None:
        self._under_way = commands
        try:
            if self._backend.execute_soon(_joined(commands), self._receive):
                return
        except Exception as error:  # noqa: BLE001  # the contract forbids it; a client must not pay for it
            self._under_way = []
            self._fail(commands, error)
            return
        self._for_task = commands
        if self._executes is None:
            self._executes = anyio.Event()
            self._tasks.start_soon(self._execute)
        else:
            self._executes.set()

    async def _execute(self) -> None:
        """Batches that the store wants a task for. Started by the first of them: most machines have none."""
        while True:
            while commands := self._for_task:
                self._for_task = []
                try:
                    replies = await self._backend.execute(_joined(commands))
                except Exception as error:  # noqa: BLE001  # as in _begin
                    self._under_way = []
                    self._fail(commands, error)
                    self._go_on()
                else:
                    self._receive(replies)
            if self._ended:
                return
            self._executes = anyio.Event()
            await self._executes.wait()

    def _receive(self, replies: Replies) -> None:
        """The replies to what was under way."""
        commands, self._under_way = self._under_way, []
        try:
            self._complete(commands, replies)
            if not self._is_beginning:
                self._go_on()
        except Exception:  # The task of the store is not to pay for a fault of ours.
            logger.exception("a batch could not be completed")

    def _complete(self, commands: list[RunBatch], replies: Replies) -> None:
        if fault := count_fault(replies, sum([len(command.ops) for command in commands])):
            self._fail(commands, fault)
            return
        now = self._clock()
        if len(commands) == 1:
            self._machine.complete(commands[0].ticket, replies, now)
            return
        start = 0
        for command in commands:
            end = start + len(command.ops)
            self._machine.complete(command.ticket, replies[start:end], now)
            start = end

    def _fail(self, commands: list[RunBatch], error: Exception) -> None:
        for command in commands:
            fail_batch(self._machine, command, error, anyio.current_time())

    def _go_on(self) -> None:
        if not self._closed:
            self._begin_batches()
            self._wake()

    # --- jobs ---

    def _start_job(self, ticket: Ticket, job: Job) -> None:
        async def tell(said: Said) -> None:
            self._machine.tell(ticket, said, self._clock())
            await self._turn()
            await checkpoint_if_cancelled()  # A job that only reports must notice that it was stopped.

        work = Work(job.context, tell)
        self._jobs[ticket] = (anyio.CancelScope(), work)
        self._tasks.start_soon(self._run_job, ticket, job, work)

    async def _run_job(self, ticket: Ticket, job: Job, work: Work) -> None:
        try:
            with self._jobs[ticket][0]:
                outcome = await self._outcome(job, work)
                self._machine.complete(ticket, outcome, self._clock())
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
    try:
        replies = await backend.execute(cast(Ops, command.ops))
        if fault := count_fault(replies, len(command.ops)):
            raise fault
    except Exception as error:  # noqa: BLE001  # as in `Runner._begin`
        fail_batch(machine, command, error, anyio.current_time())
    except anyio.get_cancelled_exc_class():
        # Nobody knows what became of it; and who goes on with the machine must not wait for it.
        machine.complete(command.ticket, BatchFailed(), anyio.current_time())
        raise
    else:
        machine.complete(command.ticket, replies, clock())


def _joined(commands: Sequence[RunBatch]) -> Ops:
    if len(commands) == 1:
        return cast(Ops, commands[0].ops)
    return cast(Ops, [op for command in commands for op in command.ops])


def count_fault(replies: Sequence[object], ops: int) -> TypeError | None:
    """What is wrong where a backend gave more or fewer replies than it was asked for."""
    if len(replies) == ops:
        return None
    return TypeError(f"the backend gave {len(replies)} replies to {ops} operations")


def fail_batch(machine: Asker, command: RunBatch, error: Exception, now: float) -> None:
    """A backend has broken its contract: a client must not pay for it."""
    logger.error("the backend raised, which is a bug in it", exc_info=error)
    machine.complete(command.ticket, BatchFailed(), now)
