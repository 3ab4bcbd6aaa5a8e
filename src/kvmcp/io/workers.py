"""Several processes that serve the same ports: forked, watched, replaced and ended by their parent.

The parent serves nobody. It has no event loop and no thread, so it can fork at any time, and what it does is to
wait for signals:

    SIGTERM, SIGINT   each worker gets SIGTERM, and finishes what it has accepted; a second one: SIGQUIT, at once
    SIGCHLD           a worker has ended, and gets a successor
    SIGALRM           something is due: a successor, or the end of patience

Nothing else holds the two together but a pipe, the lifeline: when the parent is gone, however it went, workers read
its end and stop. A worker is stopped by SIGTERM, however often it comes: supervisors such as systemd send it to all
processes of a service, and the parent sends it once more. SIGINT is the parent's alone, as terminals send it to all.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

import anyio
from msgspec import Struct

logger = logging.getLogger("kvmcp.io")

SETTLED: Final = 10.0
"""Seconds after which a worker has shown that it can live: if it ends then, its successor starts at once."""
TRIES: Final = 5
"""Workers in one place that may end before that, one after the other. More will not help."""
FIRST_PAUSE: Final = 0.1
"""Seconds before the first successor, twice as long before each further one: 1.5 s until the last of `TRIES`."""
LATE: Final = 3.0
"""Seconds beyond the shutdown grace after which a worker is killed: it should end within one."""
AT_ONCE: Final = 1.0
"""Seconds that workers get to end at once."""

FAILED: Final = 3
"""The exit status where workers could not be kept alive, or had to be killed. As an internal failure."""
UNUSABLE: Final = 2
"""The exit status of a worker that cannot serve as the settings say: another one could not either."""

STOP: Final = (signal.SIGTERM, signal.SIGQUIT)
"""What tells a worker to end: by and by, and at once."""

_WATCHED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGALRM)

Work: TypeAlias = Callable[[int, int], int]
"""What a worker does: (its place, the descriptor of its lifeline) to its exit status. Runs in a process of its own."""


async def until_orphaned(lifeline: int) -> None:
    """In a worker: returns when the parent is gone, however it went."""
    await anyio.wait_readable(lifeline)


class _Place(Struct):
    """One of the `count` workers, and its predecessors."""

    pid: int = 0
    """0 where there is none at the moment."""
    since: float = 0.0
    """When it was started."""
    failed: int = 0
    """How many have ended, one after the other, before they had settled."""
    due: float | None = None
    """When a successor is to start."""


class Workers:
    """`count` processes that each do `work`. `grace`: seconds that they have to end once told to stop.

    `stopping` is called in the parent before it tells them, to close what it holds for successors.
    """

    def __init__(self, count: int, work: Work, grace: float, stopping: Callable[[], None]) -> None:
        self._work = work
        self._grace = grace
        self._stopping = stopping
        self._places = [_Place() for _ in range(count)]
        self._signals = 0
        self._status = 0
        self._deadline: float | None = None
        """When whoever is left is killed; None while nobody is told to end."""
        self._read = self._write = -1

    def run(self) -> int:
        """Until all have ended, because a signal came or they cannot be kept alive; the exit status."""
        signal.signal(signal.SIGCHLD, _note)  # Ignored signals need not be kept for who waits for them.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
        self._read, self._write = os.pipe()
        try:
            for place in self._places:
                self._start(place, before)
            while any(place.pid or place.due is not None for place in self._places):
                self._set_alarm()
                number = signal.sigwait(_WATCHED)
                if number in (signal.SIGTERM, signal.SIGINT):
                    self._on_signal(signal.Signals(number))
                self._reap()
                self._do_what_is_due(before)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            os.close(self._read)
            os.close(self._write)
        return self._status

    # --- the life of a worker ---

    def _start(self, place: _Place, mask: Iterable[int]) -> None:
        place.due, place.since = None, time.monotonic()
        try:
            place.pid = os.fork()
        except OSError as error:  # No memory, or no more processes allowed.
            self._ended(place, f"could not start: {error.strerror}")
            return
        if not place.pid:
            os._exit(self._be_worker(self._places.index(place), mask))

    def _be_worker(self, index: int, mask: Iterable[int]) -> int:
        """In the new process, to its end. Nothing of the parent's stack is returned to."""
        try:
            os.close(self._write)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            return self._work(index, self._read)
        except BaseException as error:  # The outermost frame of a process.
            logger.error("a worker failed", exc_info=error)
            return FAILED
        finally:
            sys.stderr.flush()

    def _reap(self) -> None:
        """Whoever has ended; also children that are none of ours, where we are process 1 of a container."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for place in self._places:
                if place.pid == pid:
                    place.pid = 0
                    self._ended(place, _described(status), os.waitstatus_to_exitcode(status))

    def _ended(self, place: _Place, how: str, code: int = FAILED) -> None:
        if self._deadline is not None:
            return
        number = self._places.index(place) + 1
        now = time.monotonic()
        place.failed = place.failed + 1 if now - place.since < SETTLED else 0
        if code == UNUSABLE:
            logger.error("worker %d cannot serve as it was told to: giving up", number)
            self._give_up()
        elif place.failed >= TRIES:
            logger.error(
                "worker %d ended %d times within %g s of its start, at last: %s; giving up",
                *(number, place.failed, SETTLED, how),
            )
            self._give_up()
        else:
            logger.warning("worker %d ended (%s): another one takes its place", number, how)
            place.due = now + (FIRST_PAUSE * 2 ** (place.failed - 1) if place.failed else 0)

    def _give_up(self) -> None:
        self._status = FAILED
        self._stop()

    # --- the end ---

    def _on_signal(self, number: signal.Signals) -> None:
        self._signals += 1
        logger.info("%s: %s", number.name, "stopping" if self._signals == 1 else "ending at once")
        if self._signals == 1:
            self._stop()
        else:
            self._tell(signal.SIGQUIT, AT_ONCE)

    def _stop(self) -> None:
        if self._deadline is None:
            self._stopping()
            self._tell(signal.SIGTERM, self._grace + LATE)

    def _tell(self, number: signal.Signals, patience: float) -> None:
        deadline = time.monotonic() + patience
        self._deadline = deadline if self._deadline is None else min(deadline, self._deadline)
        for place in self._places:
            place.due = None
            if place.pid:
                os.kill(place.pid, number)

    # --- time ---

    def _set_alarm(self) -> None:
        moments = [place.due for place in self._places if place.due is not None]
        if self._deadline is not None:
            moments.append(self._deadline)
        if moments:
            signal.setitimer(signal.ITIMER_REAL, max(0.001, min(moments) - time.monotonic()))

    def _do_what_is_due(self, mask: Iterable[int]) -> None:
        now = time.monotonic()
        for place in self._places:
            if place.due is not None and place.due <= now:
                self._start(place, mask)
        if self._deadline is not None and self._deadline <= now:
            self._kill()

    def _kill(self) -> None:
        left = [place.pid for place in self._places if place.pid]
        if left:
            logger.error("killing %d of %d workers, which did not end in time", len(left), len(self._places))
            self._status = FAILED
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        self._deadline = time.monotonic() + LATE


def _described(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"status {code}" if code >= 0 else f"signal {-code}"


def _note(number: int, frame: object) -> None:
    """A handler, so that the signal is none that is ignored."""
