"""What a driver needs of a transport."""

from typing import Protocol


class Transport(Protocol):
    """A duplex stream of bytes."""

    async def receive(self) -> bytes:
        """The next chunk, cut anywhere; empty at the end of input. Yields to other tasks on every call."""
        ...

    async def send(self, data: bytes) -> None:
        """Write all of `data`; waits while the peer does not read. Raises OSError where it is gone."""
        ...
