"""The order of a batch while a cluster sends some of its operations elsewhere. Pure.

What is redirected did not run, but what stood behind it in the pipeline may have. Then one of three things keeps
"operations of one batch run in order" true for everybody who can see the difference (the same key, and a write):

    a later write has run    the redirected operation is refused after all: running it now would be out of turn
    a later read was done    it is asked again, after the write before it
    neither has run yet      one after the other, for they may go to different nodes
"""

from collections.abc import Iterable, Sequence
from typing import cast

from msgspec import Struct

from kvmcp.backends.ops import Failure, NsKey, is_read
from kvmcp.backends.redis.job import Job


def next_round(jobs: Sequence[Job]) -> list[Job]:
    """The jobs of a batch to send now, after a round of it; none where all are done."""
    if all(job.done for job in jobs):
        return []
    keys = [frozenset(_keys(job.op)) for job in jobs]
    _refuse_what_is_too_late(jobs, keys)
    _repeat_what_was_too_early(jobs, keys)
    return _first_of_each_key(jobs, keys)


def _refuse_what_is_too_late(jobs: Sequence[Job], keys: Sequence[frozenset[NsKey]]) -> None:
    written: set[NsKey] = set()
    frozen: set[NsKey] = set()
    """What was read before a write that has run, so that it cannot be read again."""
    for job, own in zip(reversed(jobs), reversed(keys), strict=True):
        reads = is_read(job.op)
        late = not own.isdisjoint(written) or not (reads or own.isdisjoint(frozen))
        if not job.done and job.redirects and late:
            job.stay_refused()
        elif job.done and reads and late:
            frozen |= own
        elif job.done and not reads and not _was_not_applied(job):
            written |= own


def _repeat_what_was_too_early(jobs: Sequence[Job], keys: Sequence[frozenset[NsKey]]) -> None:
    to_write: set[NsKey] = set()
    for job, own in zip(jobs, keys, strict=True):
        if not job.done:
            to_write |= frozenset() if is_read(job.op) else own
        elif is_read(job.op) and not own.isdisjoint(to_write):
            job.ask_again()


def _first_of_each_key(jobs: Sequence[Job], keys: Sequence[frozenset[NsKey]]) -> list[Job]:
    ready: list[Job] = []
    to_write: set[NsKey] = set()
    to_read: set[NsKey] = set()
    for job, own in zip(jobs, keys, strict=True):
        if job.done:
            continue
        reads = is_read(job.op)
        if own.isdisjoint(to_write) and (reads or own.isdisjoint(to_read)):
            ready.append(job)
        if reads:
            to_read |= own
        else:
            to_write |= own
    return ready


def _was_not_applied(job: Job) -> bool:
    return isinstance(job.reply, Failure) and job.reply.outcome == "not_applied"


def _keys(value: object) -> Iterable[NsKey]:
    """Every key in an operation, in whichever of its fields."""
    if isinstance(value, NsKey):
        yield value
    elif isinstance(value, tuple):
        for item in cast(tuple[object, ...], value):
            yield from _keys(item)
    elif isinstance(value, Struct):
        for field in value.__struct_fields__:
            yield from _keys(getattr(value, field))
