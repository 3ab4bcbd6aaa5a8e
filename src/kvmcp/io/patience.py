"""Peers are judged by what they did, not by how late we came to see it."""

from typing import Final

import anyio
import anyio.lowlevel

LATE: Final = 0.05
"""Seconds by which only a timer is late whose event loop stood still: a running one wakes it within a few."""
TURNS_TO_READ: Final = 64
"""Turns of the event loop for readers after such a stall. A read takes one to three of them, so this is 1 MiB and
more of one connection; in a loop that runs again it is some milliseconds."""


async def hear_first(deadline: float) -> None:
    """Before a timer judges: where it is late, let readers take what came meanwhile, perhaps in time."""
    if anyio.current_time() - deadline > LATE:
        for _ in range(TURNS_TO_READ):
            await anyio.lowlevel.checkpoint()
