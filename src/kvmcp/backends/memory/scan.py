"""Scans of the memory store: each key once, in order of creation, in pages of bounded work."""

import re
from typing import Final

from kvmcp.backends.faults import wrong
from kvmcp.backends.glob import Glob, compile_glob
from kvmcp.backends.memory.keys import Keys
from kvmcp.backends.memory.keyspace import Space
from kvmcp.backends.ops import MAX_SCAN_COUNT, Code, Failure, Page, Reply, Scan

SCAN_STEPS: Final = 4096
"""Work of one page: a step is a name looked at, and every `COMPARISONS_PER_STEP` that its match may cost.
4,096 steps are 1-2 ms, whatever the pattern and the names; a page that used them up ends with a cursor."""
COMPARISONS_PER_STEP: Final = 128
"""Byte comparisons of the matcher in the time that the rest of a step takes (0.7-2.7 ns each)."""

_NO_SUCH_CURSOR: Final = Failure(
    Code.INVALID_PARAMS,
    "the cursor is not one that a scan gave; scan again without a cursor",
    retryable=False,
)
_CURSOR: Final = re.compile(r"([0-9]{1,18})-([0-9]{1,18})")


def scan(keys: Keys, op: Scan, now: float) -> Reply:
    glob = compile_glob(op.pattern)
    if isinstance(glob, Failure):
        return glob
    if not 1 <= op.count <= MAX_SCAN_COUNT:
        return wrong(f"count of {op.count}, must be from 1 to {MAX_SCAN_COUNT}")
    space = keys.spaces.get(op.space)
    bounds = _bounds(op.cursor, space)
    if bounds is None:
        return _NO_SUCH_CURSOR
    return Page(()) if space is None else _page(keys, space, glob, op.count, *bounds, now)


def _page(keys: Keys, space: Space, glob: Glob, limit: int, first: int, end: int, now: float) -> Page:
    """The next names of a scan that gives what was created before `end`.

    A key keeps its place for as long as it exists and comes up once; a key that is created later comes
    after `end`, so a scan ends however fast others write.
    """
    names: list[str] = []
    steps = SCAN_STEPS
    for entry in space.between(first, end):
        if steps <= 0 or len(names) == limit:
            return Page(tuple(names), f"{entry.seq}-{end}")
        steps -= 1
        if entry.deadline <= now:
            keys.meet_expired(entry)
        elif glob.regex is None:
            names.append(entry.name)
        else:
            encoded = entry.name.encode("utf-8", "surrogatepass")
            steps -= glob.weight * len(encoded) // COMPARISONS_PER_STEP
            if glob.regex.fullmatch(encoded):
                names.append(entry.name)
    return Page(tuple(names))


def _bounds(cursor: str, space: Space | None) -> tuple[int, int] | None:
    """The first place that a page looks at and the end of its scan, or None where no page gave the cursor.

    A cursor older than its space (which ends with its last key, and counts from 0 when it begins again) still
    is one: whatever its scan gives is right, for no key existed throughout. Counting on would not be better:
    the places would then tell how much happened in other namespaces.
    """
    if not cursor:
        return 0, 0 if space is None else space.created
    if match := _CURSOR.fullmatch(cursor):
        first, end = int(match[1]), int(match[2])
        if first < end:
            return first, end
    return None
