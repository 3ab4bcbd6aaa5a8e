"""Runs one connection: feeds the machine, does what it asks, writes what it has written.

Every input - bytes, replies, a timer, a change - ends in the same two steps (`turn`): run what the core asks,
flush what the core wrote. The reader awaits the flush, so a peer that does not read is not read from. One task
group owns every task of the connection; leaving `run` means that all are gone.
"""

import logging
import math
from typing import Final, Protocol

import anyio

from kvmcp.backends.base import Backend
from kvmcp.core.commands import Command
from kvmcp.core.subscriptions import Event
from kvmcp.io.loops import clock_of_loop
from kvmcp.io.patience import hear_first
from kvmcp.io.running import Asker, Runner
from kvmcp.io.transport import PromptTransport, Transport

logger = logging.getLogger("kvmcp.io")

FLUSH_GRACE: Final = 0.5
"""Seconds to write the last answers, after the core has given up what did not finish in its grace."""

_NOTHING: Final = memoryview(b"")
_GONE: Final = (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError)
"""What transports raise where the peer is gone."""


class Listener(Protocol):
    """Somebody who serves clients, and wants to know of changes and of the end."""

    def publish(self, event: Event) -> None: ...
    def stop(self) -> None: ...


class Machine(Asker, Protocol):
    """The core's side of a byte stream; `kvmcp.core.connection.ServerConnection` is one."""

    def receive_data(self, data: bytes, now: float) -> None: ...
    def receive_eof(self, now: float) -> None: ...
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
        self._prompt = transport if isinstance(transport, PromptTransport) else None
        self._backend = backend
        self._shutdown_grace = shutdown_grace
        self._runner: Runner
        self._reading = anyio.CancelScope()
        self._alarm = anyio.CancelScope()
        self._clock = anyio.current_time
        self._sending = False
        self._sent: anyio.Event | None = None
        self._turn_wanted = anyio.Event()
        self._input_wanted = anyio.Event()
        self._finished = anyio.Event()
        self._unsent = _NOTHING
        self._peer_gone = False

    async def run(self) -> None:
        """Serve until the peer has closed its end, or `stop`; returns within the shutdown grace after that."""
        self._clock = clock_of_loop()
        try:
            async with anyio.create_task_group() as tasks:
                self._runner = Runner(self._machine, self._backend, tasks, self.turn, self.wake, self._clock)
                tasks.start_soon(self._keep_time)
                tasks.start_soon(self._turn_when_asked)
                with self._reading:
                    await self._read()
                with anyio.move_on_after(self._shutdown_grace + FLUSH_GRACE):
                    await self.turn()
                    await self._finished.wait()
                tasks.cancel_scope.cancel()
        finally:
            self._runner.close()
            # Also where this was cancelled: what nobody hears of any more is not to be looked after for ever.
            if not self._machine.closed:
                self._machine.begin_shutdown(self._clock())

    def stop(self) -> None:
        """Take no more requests, finish what was accepted; `run` then returns within the shutdown grace."""
        self._machine.begin_shutdown(self._clock())
        self._reading.cancel()

    def publish(self, event: Event) -> None:
        """Something changed that this peer may want to know; it is told as soon as it reads."""
        now = self._clock()
        self._machine.publish(event, now)
        if self._machine.wants_turn:  # Most changes concern few of the connections.
            # The timer's task takes the turn: a publisher never waits for a reader.
            self._alarm.deadline = now

    # --- the two steps ---

    async def turn(self) -> None:
        """Run what the core asks, flush what the core wrote, until there is neither."""
        machine = self._machine
        while True:
            self._run_commands()
            await self._flush()
            if not machine.wants_turn:
                break
        self._look_around()

    def wake(self) -> None:
        """The two steps for who must not wait; what would have to is left to `_turn_when_asked`."""
        self._run_commands()
        if not self._sending:
            self._flush_now()
        if self._unsent or self._machine.wants_turn:
            self._turn_wanted.set()
        else:
            self._look_around()

    def _look_around(self) -> None:
        """After a turn: whether the machine has ended, or wants to hear more."""
        machine = self._machine
        if machine.closed:
            self._finished.set()
            self._reading.cancel()  # The machine may have ended it, however much the peer has to say.
        elif machine.wants_input:
            self._input_wanted.set()

    def _run_commands(self) -> None:
        machine = self._machine
        while commands := machine.take_commands():
            self._runner.run(commands)
        deadline = machine.next_deadline()
        if deadline is not None and deadline < self._alarm.deadline:
            self._alarm.deadline = deadline

    async def _turn_when_asked(self) -> None:
        """Turns for the timer, which must not wait for a peer that does not read."""
        while True:
            await self._turn_wanted.wait()
            self._turn_wanted = anyio.Event()
            await self.turn()

    async def _flush(self) -> None:
        # Contenders wait here and find nothing left to send: the data are taken by whoever sends. An anyio.Lock
        # would do, but asks for the running task each time: 4 of 50 us at depth 1 (benchmarks/stdio.py).
        while self._sending:
            self._sent = self._sent or anyio.Event()
            await self._sent.wait()
        self._sending = True
        try:
            self._take_unsent()
            while self._unsent:
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
        except _GONE as error:
            self._lose_peer(error)

    def _flush_now(self) -> None:
        if self._prompt is None:
            return
        self._take_unsent()
        while self._unsent:
            try:
                sent = self._prompt.send_now(self._unsent)
            except _GONE as error:
                self._lose_peer(error)
                return
            if not sent:
                return
            self._unsent = self._unsent[sent:]

    def _take_unsent(self) -> None:
        if not self._unsent:
            self._unsent = memoryview(self._machine.data_to_send())
        if self._peer_gone:
            self._unsent = _NOTHING

    def _lose_peer(self, error: Exception) -> None:
        """Nobody reads our answers any more: no more input either, and what runs is finished unheard."""
        logger.debug("the peer is gone: %s", error)
        self._peer_gone = True
        self._unsent = _NOTHING
        self._machine.receive_eof(self._clock())
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
            except _GONE as error:
                logger.debug("reading failed: %s", error)
                data = b""
            if not data:
                machine.receive_eof(self._clock())
                await self.turn()
                return
            machine.receive_data(data, self._clock())
            await self.turn()

    # --- time ---

    async def _keep_time(self) -> None:
        """The connection's one timer; `turn` moves its deadline to an earlier one when needed."""
        while True:
            deadline = self._machine.next_deadline()
            with anyio.CancelScope(deadline=math.inf if deadline is None else deadline) as self._alarm:
                await anyio.sleep_forever()
            await hear_first(self._alarm.deadline)
            self._machine.handle_timeout(self._clock())
            self._run_commands()
            self._turn_wanted.set()
