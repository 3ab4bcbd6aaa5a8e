"""What a watcher is told."""

from typing import TypeAlias

from msgspec import Struct

from kvmcp.backends.ops.names import NsKey


class Change(Struct, frozen=True, gc=False, tag=True):
    """A key was written, removed or expired. What it holds now has to be asked for."""

    key: NsKey


class Message(Struct, frozen=True, gc=False, tag=True):
    """What `Publish` sent. `id` is that of `Published`; empty where another program sent it, which is in no log."""

    channel: NsKey
    message: bytes
    id: str = ""


class Gap(Struct, frozen=True, gc=False, tag=True):
    """`lost` events (0: unknown how many) never reached this watcher: look at everything again."""

    lost: int = 0


Event: TypeAlias = Change | Message | Gap
