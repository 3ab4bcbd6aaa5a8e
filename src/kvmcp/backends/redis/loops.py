"""Which event loop runs. For the few things that anyio does not offer, or offers at a price."""

import sys


def on_trio() -> bool:
    trio = sys.modules.get("trio")
    return trio is not None and trio.lowlevel.in_trio_run()
