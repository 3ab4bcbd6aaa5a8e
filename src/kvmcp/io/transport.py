"""What a driver needs of a transport."""

from typing import Protocol, runtime_checkable


class Transport(Protocol):
    """A duplex stream of bytes."""

    async def receive(self) -> bytes:
        """The next chunk, cut anywhere; empty at the end of input. Yields to other tasks on every call."""
        ...

    async def send_some(self, data: bytes | memoryview) -> int:
        """Write a beginning of `data`, at least a byte; how many bytes that were.

        Waits while the peer does not read; if it is cancelled, nothing was written. So whoever is cancelled in
        a write leaves no half of a message behind. Raises OSError where the peer is gone.
        """
        ...


@runtime_checkable
class PromptTransport(Transport, Protocol):
    """A transport that can be written to without waiting, as pipes and sockets can."""

    def send_now(self, data: bytes | memoryview) -> int:
        """Write a beginning of `data`, 0 bytes where the peer takes none now. Raises OSError where it is gone."""
        ...
