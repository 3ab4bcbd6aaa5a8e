"""The embedded store: keys in this process's memory, bounded, with expiry and watches.

Knows the vocabulary of operations and the clock it was given; starts no task. Everything happens inside a call,
on one thread, without waiting; hence a batch and an `Atomic` are indivisible by construction.
Used from one event loop (or none); not safe to call from several threads.

    backend            the contract of `base.Backend`: batches, conditions, all or nothing; `Get` and `Set`
     ├─ values lists hashes sets sorted_sets streams logs queues scan     one module per type: what it holds, its operations
     ├─ keys           all keys: room, expiry, changes, and taking back what an `Atomic` did (`journal`)
     ├─ keyspace       one space, by name and in order of creation (what a scan walks); which key expires next
     └─ watchers       who watches what

An expired key is gone for every operation at once. Its memory is freed when an operation meets it, and a
few at a time at the start of each batch. A store that nobody calls frees only what somebody watches; who needs
more calls `execute_now(())` at `next_expiry()`. Seconds of the store's clock are slept as seconds of the loop's.
"""

from kvmcp.backends.memory.backend import MemoryBackend, Usage

__all__ = ["MemoryBackend", "Usage"]
