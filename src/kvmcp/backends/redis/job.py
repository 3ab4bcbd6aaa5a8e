"""One operation on its way to a reply: what to send next, and what the answer means for it. Pure."""

from collections.abc import Sequence
from typing import Final

import hiredis

from kvmcp.backends.ops import Failure, Op, Reply, Scan, is_read
from kvmcp.backends.redis.address import Endpoint
from kvmcp.backends.redis.commands import Commands, decode, error_in
from kvmcp.backends.redis.errors import GARBAGE, REDIRECTIONS, class_of, lost_write
from kvmcp.backends.redis.resp import Lost, Slot, pack
from kvmcp.backends.redis.scan import ScanPage

MAX_REDIRECTS: Final = 8
"""MOVED, ASK and TRYAGAIN that one operation follows; a cluster at rest needs one."""

_ASKING: Final = pack("ASKING")
_MULTI: Final = pack("MULTI")


class Job:
    """An operation of a batch, until `done`; then `reply` is what the caller gets."""

    __slots__ = ("asked", "commands", "done", "error", "op", "page", "redirects", "reply", "strikes")

    def __init__(self, op: Op, commands: Commands) -> None:
        self.op = op
        self.done = False
        self.reply: Reply = None
        self.page: ScanPage | None = None
        self.error: hiredis.ReplyError | None = None
        """What Redis said last, where it concerns the whole server or the key's place."""
        self.asked: Endpoint | None = None
        """Where an ASK sent it, this once."""
        self.redirects = 0
        self.strikes = 0
        self.commands: Sequence[bytes] = ()
        if isinstance(op, Scan):
            self.page = ScanPage(op, commands.prefix)
            if self.page.fault is not None:
                self.settle(self.page.fault)
            return
        encoded = commands.encode(op)
        if isinstance(encoded, Failure):
            self.settle(encoded)
        elif not encoded:
            self.settle(decode(op, ()))
        else:
            self.commands = encoded

    def settle(self, reply: Reply) -> None:
        self.reply = reply
        self.done = True

    def to_send(self, node: str) -> Sequence[bytes]:
        """The commands for `node`; none where there is nothing more to ask (a page that is complete)."""
        if self.page is not None:
            command = self.page.next_command(node)
            if command is None:
                self.settle(self.page.page())
                return ()
            self.commands = (command,)
        return _asking(self.commands) if self.asked else self.commands

    def receive(self, slots: Sequence[Slot], may_continue: bool) -> None:
        """The answers to the last `to_send`, none of them lost."""
        if self.asked:
            slots = slots[1:] if self.commands[0] == _MULTI else slots[1::2]
            self.asked = None
        if self.page is not None:
            page = self.page.receive(slots[0], may_continue)
            if page is not None:
                self.settle(page)
            if not isinstance(page, Failure):
                return
        else:
            self.settle(decode(self.op, slots))
        if isinstance(self.reply, Failure):
            self._look_for_news(slots)

    def _look_for_news(self, slots: Sequence[Slot]) -> None:
        """Whether the refusal says that the command belongs elsewhere, or wants the script's text."""
        self.error = error_in(slots)

    def follow(self, asked: Endpoint | None = None) -> None:
        """Ask again, elsewhere: the command did not run."""
        self.redirects += 1
        if self.redirects <= MAX_REDIRECTS:
            self.done, self.error, self.asked = False, None, asked

    def stay_refused(self) -> None:
        """Not to be followed after all: the refusal is the reply."""
        self.done, self.asked = True, None

    def ask_again(self) -> None:
        """A read whose answer is not the right one."""
        self.done, self.asked = False, None

    @property
    def redirected(self) -> bool:
        return self.error is not None and class_of(self.error) in REDIRECTIONS

    def send_script(self, commands: Commands) -> None:
        """Ask again with the script's text: Redis has forgotten it, so nothing ran."""
        self.commands = (commands.evaluate(self.op, by_hash=False),)
        self.done, self.error = False, None

    @property
    def wants_script(self) -> bool:
        return self.error is not None and class_of(self.error) == "NOSCRIPT"

    def lose(self, fate: Lost, cause: Failure, may_retry: bool) -> bool:
        """The answers will not come. Settles, or returns True where asking again changes nothing.

        A write is never sent again; a read is, once only where the protocol broke.
        """
        self.asked = None
        if is_read(self.op):
            self.strikes += cause is GARBAGE
            if may_retry and self.strikes < 2:
                return True
            self.settle(cause)
        else:
            self.settle(cause if fate is Lost.UNSENT else lost_write(cause))
        return False


def _asking(commands: Sequence[bytes]) -> Sequence[bytes]:
    """ASKING holds for one command, or for one transaction."""
    if commands[0] == _MULTI:
        return (_ASKING, *commands)
    return [part for command in commands for part in (_ASKING, command)]
