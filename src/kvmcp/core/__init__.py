"""The protocol engine: bytes in, bytes and commands out. Pure, synchronous, no I/O."""
