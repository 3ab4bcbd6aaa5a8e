"""`python -m kvmcp`: the same as the command `kvmcp`."""

import sys

from kvmcp.cli import main

if __name__ == "__main__":
    sys.exit(main())
