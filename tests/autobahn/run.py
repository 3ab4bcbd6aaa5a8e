"""Autobahn's fuzzing client against our frames: `python -m tests.autobahn.run PYTHON2.7 FOLDER_OF_THE_SUITE [CASES…]`.

The suite (autobahntestsuite 0.8.2) needs Python 2.7 and is optional: `make autobahn` installs and runs it where
there is one. Status 0 if no case of either loop failed. Cases with binary messages are left out: we refuse those.
What became of a group is printed behind it; groups 12 and 13 (a thousand messages of up to 128 KiB a case) take an
hour or more on a slow machine, the others some minutes: name groups, such as `"9.*"`, to run those alone.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = ["1.2.*", "9.2.*", "9.4.*", "9.6.*", "9.8.*", "12.2.*", "12.3.*", "12.5.*"]
GROUPS = [f"{number}.*" for number in (1, 2, 3, 4, 5, 6, 7, 9, 10, 12, 13)]
GOOD = {"OK", "NON-STRICT", "INFORMATIONAL"}
"""NON-STRICT: a mistake is seen when its frame is whole, not at its first wrong byte."""
MAIN = "import site, sys; site.addsitedir(sys.argv.pop(1)); from autobahntestsuite.wstest import run; run()"
"""A folder that `pip install --target` has filled is more than a path: it has namespace packages."""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def wait_for(port: int) -> None:
    for _ in range(300):
        try:
            return socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise SystemExit("the echo server did not come up")


def fuzz(loop: str, python2: str, suite: str, folder: Path, cases: list[str]) -> dict[str, str]:
    """What became of each case."""
    port = free_port()
    server = subprocess.Popen([sys.executable, "-m", "tests.autobahn.echo", str(port), loop], cwd=ROOT)
    try:
        wait_for(port)
        spec = {
            "outdir": str(folder),
            "servers": [{"agent": loop, "url": f"ws://127.0.0.1:{port}"}],
            "cases": cases,
            "exclude-cases": BINARY,
        }
        (folder / "spec.json").write_text(json.dumps(spec))
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        command = [python2, "-c", MAIN, suite, "--mode", "fuzzingclient", "--spec", str(folder / "spec.json")]
        subprocess.run(command, check=True, cwd=folder, env=environ)
    finally:
        server.terminate()
        server.wait()
    report = json.loads((folder / "index.json").read_text())[loop]
    return {case: str(result["behavior"]) for case, result in report.items()} | {
        f"{case} closing": str(result["behaviorClose"]) for case, result in report.items()
    }


def main() -> int:
    python2, suite, *groups = sys.argv[1:]
    bad = 0
    for loop in ("asyncio", "trio"):
        for group in groups or GROUPS:
            with tempfile.TemporaryDirectory() as folder:
                results = fuzz(loop, python2, suite, Path(folder), [group])
            failed = {case: result for case, result in results.items() if result not in GOOD}
            counts = {kind: list(results.values()).count(kind) for kind in sorted(set(results.values()))}
            print(loop, group, counts, failed, flush=True)
            bad += len(failed)
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
