"""The embedded store: keys in this process's memory, bounded, with expiry and watches.

Knows the vocabulary of operations and the clock it was given; starts no task. Everything happens inside a call,
on one thread, without waiting; hence a batch and an `Atomic` are indivisible by construction.
Used from one event loop (or none); not safe to call from several threads.

    MemoryBackend      the contract of `base.Backend`: limits, operations, atomicity
     ├─ Space          the keys of one space, by name and in order of creation (what a scan walks)
     ├─ Deadlines      which key expires next
     ├─ EventQueue     what one watcher has not read yet
     └─ UntilExpiry    its wait for more, no longer than until one of its keys ends

An expired key is gone for every operation at once. Its memory is freed when an operation meets it, and a
few at a time at the start of each batch. A store that nobody calls frees only what somebody watches; who needs
more calls `execute_now(())` at `next_expiry()`. Seconds of the store's clock are slept as seconds of the loop's.
"""

from kvmcp.backends.memory.backend import MemoryBackend, Usage

__all__ = ["MemoryBackend", "Usage"]
