"""Runs one connection: feeds the machine, does what it asks, writes what it has written.

Every input - bytes, replies, a timer, a change - ends in the same two steps (`turn`): run what the core asks,
flush what the core wrote. The reader awaits the flush, so a peer that does not read is not read from. One task
group owns every task of the connection; leaving `run` means that all are gone.
"""

import logging
import math
from collections import deque
from collections.abc import Sequence
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
from kvmcp.core.subscriptions import Event
from kvmcp.io.transport import Transport
from kvmcp.io.work import Job, RequestFailed, ToolFailed, Work

logger = logging.getLogger("kvmcp.io")

FLUSH_GRACE: Final = 0.5
"""Seconds to write the last answers, after the core has given up what did not finish in its grace."""


JOINED_OPS: Final = 256
"""Operations that go to a busy store together: bounds what their replies can weigh."""

_NOTHING: Final = memoryview(b"")


class Machine(Protocol):
    """The core's side of a byte stream; `kvmcp.core.connection.ServerConnection` is one."""

    def receive_data(self, data: bytes, now: float) -> None: ...
    def receive_eof(self, now: float) -> None: ...
    def complete(self, ticket: Ticket, outcome: object, now: float) -> None: ...
    def tell(self, ticket: Ticket, said: Said, now: float) -> None: ...
    def publish(self, event: Event, now: float) -> None: ...
    def handle_timeout(self, now: float) -> None: ...
    def begin_shutdown(self, now: float) -> None: ...
    def take_commands(self) -> list[Command]: ...
    def data_to_send(self) -> bytes: ...
    def next_deadline(self) -> float | None: ...
    @property
    def wants_turn(self) -> bool: ...
    @property
    def wants_input(self) -> bool: ...
    @property
    def closed(self) -> bool: ...


class Driver:
    """One connection on the running event loop."""

    def __init__(
        self, machine: Machine, transport: Transport, backend: Backend, shutdown_grace: float
    ) -> None:
        self._machine = machine
        self._transport = transport
        self._backend = backend
        self._shutdown_grace = shutdown_grace
        self._tasks: TaskGroup
        self._reading = anyio.CancelScope()
        self._alarm = anyio.CancelScope()
        self._sending = False
        self._sent: anyio.Event | None = None
        self._batches: deque[RunBatch] = deque()
        self._batch_waits = anyio.Event()
        self._turn_wanted = anyio.Event()
        self._input_wanted = anyio.Event()
        self._finished = anyio.Event()
        self._jobs: dict[Ticket, tuple[anyio.CancelScope, Work]] = {}
        self._unsent = _NOTHING
        self._peer_gone = False

    async def run(self) -> None:
        """Serve until the peer has closed its end, or `stop`; returns within the shutdown grace after that."""
        async with anyio.create_task_group() as tasks:
            self._tasks = tasks
            tasks.start_soon(self._keep_time)
            tasks.start_soon(self._turn_when_asked)
            tasks.start_soon(self._run_batches)
            with self._reading:
                await self._read()
            with anyio.move_on_after(self._shutdown_grace + FLUSH_GRACE):
                await self.turn()
                await self._finished.wait()
            tasks.cancel_scope.cancel()

    def stop(self) -> None:
        """Take no more requests, finish what was accepted; `run` then returns within the shutdown grace."""
        self._machine.begin_shutdown(anyio.current_time())
        self._reading.cancel()

    def publish(self, event: Event) -> None:
        """Something changed that this peer may want to know; it is told as soon as it reads."""
        now = anyio.current_time()
        self._machine.publish(event, now)
        self._alarm.deadline = now  # The timer's task takes the turn: a publisher never waits for a reader.

    # --- the two steps ---

    async def turn(self) -> None:
        """Run what the core asks, flush what the core wrote, until there is neither."""
        machine = self._machine
        while True:
            self._run_commands()
            await self._flush()
            if not machine.wants_turn:
                break
        if machine.closed:
            self._finished.set()
        elif machine.wants_input:
            self._input_wanted.set()

    def _run_commands(self) -> None:
        machine = self._machine
        while commands := machine.take_commands():
            for command in commands:
                self._run_command(command)
        deadline = machine.next_deadline()
        if deadline is not None and deadline < self._alarm.deadline:
            self._alarm.deadline = deadline

    async def _turn_when_asked(self) -> None:
        """Turns for the timer, which must not wait for a peer that does not read."""
        while True:
            await self._turn_wanted.wait()
            self._turn_wanted = anyio.Event()
            await self.turn()

    def _run_command(self, command: Command) -> None:
        match command:
            case RunBatch():
                self._run_batch(command)
            case StartWork(ticket=ticket, job=job):
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

    async def _flush(self) -> None:
        # Contenders wait here and find nothing left to send: the data are taken by whoever sends. An anyio.Lock
        # would do, but asks for the running task each time: 4 of 50 us at depth 1 (benchmarks/stdio.py).
        while self._sending:
            self._sent = self._sent or anyio.Event()
            await self._sent.wait()
        self._sending = True
        try:
            while self._has_unsent():
                await self._send_some()
        finally:
            self._sending = False
            if self._sent is not None:
                self._sent.set()
                self._sent = None

    async def _send_some(self) -> None:
        try:
            sent = await self._transport.send_some(self._unsent)
            # At once: whoever is cancelled in the next write must not make this one happen twice.
            self._unsent = self._unsent[sent:]
        except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
            logger.debug("the peer is gone: %s", error)
            self._lose_peer()

    def _has_unsent(self) -> bool:
        if not self._unsent:
            self._unsent = memoryview(self._machine.data_to_send())
        if self._peer_gone:
            self._unsent = _NOTHING
        return len(self._unsent) > 0

    def _lose_peer(self) -> None:
        """Nobody reads our answers any more: no more input either, and what runs is finished unheard."""
        self._peer_gone = True
        self._machine.receive_eof(anyio.current_time())
        self._reading.cancel()

    # --- input ---

    async def _read(self) -> None:
        machine, transport = self._machine, self._transport
        while True:
            if not machine.wants_input:
                self._input_wanted = anyio.Event()
                await self._input_wanted.wait()
                continue
            try:
                data = await transport.receive()
            except (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError) as error:
                logger.debug("reading failed: %s", error)
                data = b""
            if not data:
                machine.receive_eof(anyio.current_time())
                await self.turn()
                return
            machine.receive_data(data, anyio.current_time())
            await self.turn()

    # --- the backend ---

    def _run_batch(self, command: RunBatch) -> None:
        """Most batches end here, without waiting; the others go to `_run_batches`, in order."""
        if not self._batches:
            try:
                replies = self._backend.execute_now(cast(Ops, command.ops))
                if replies is not None:
                    _check_replies(command.ops, replies)
            except Exception as error:  # noqa: BLE001  # the contract forbids it; a client must not pay for it
                self._fail_batch(command, error)
                return
            if replies is not None:
                self._machine.complete(command.ticket, replies, anyio.current_time())
                return
        self._batches.append(command)
        self._batch_waits.set()

    async def _run_batches(self) -> None:
        """Batches that wait for the store, first in first out, so that one client's writes keep their order."""
        while True:
            await self._batch_waits.wait()
            while self._batches:
                await self._run_waiting_batches(self._next_batches())
            self._batch_waits = anyio.Event()

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
                self._fail_batch(command, error)
        else:
            self._complete_batches(commands, replies)
        await self.turn()

    def _complete_batches(self, commands: list[RunBatch], replies: Replies) -> None:
        now, start = anyio.current_time(), 0
        for command in commands:
            self._batches.popleft()
            end = start + len(command.ops)
            self._machine.complete(command.ticket, replies[start:end], now)
            start = end

    def _fail_batch(self, command: RunBatch, error: Exception) -> None:
        logger.error("the backend raised, which is a bug in it", exc_info=error)
        self._machine.complete(command.ticket, BatchFailed(), anyio.current_time())

    # --- jobs ---

    def _start_job(self, ticket: Ticket, job: Job) -> None:
        async def tell(said: Said) -> None:
            self._machine.tell(ticket, said, anyio.current_time())
            await self.turn()
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
        await self.turn()

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

    # --- time ---

    async def _keep_time(self) -> None:
        """The connection's one timer; `turn` moves its deadline to an earlier one when needed."""
        while True:
            deadline = self._machine.next_deadline()
            with anyio.CancelScope(deadline=math.inf if deadline is None else deadline) as self._alarm:
                await anyio.sleep_forever()
            self._machine.handle_timeout(anyio.current_time())
            self._run_commands()
            self._turn_wanted.set()


def _check_replies(ops: Sequence[object], replies: Sequence[object]) -> None:
    if len(replies) != len(ops):
        raise TypeError(f"the backend gave {len(replies)} replies to {len(ops)} operations")
