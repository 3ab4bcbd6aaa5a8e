"""Servers for HTTP in processes of their own, their ports read from what they log."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.patience import PATIENCE

SERVE: Final = ("kvmcp", "serve")

_SERVES: Final = re.compile(r"MCP over HTTP: https?://127\.0\.0\.1:(\d+)/mcp")
_ADMIN: Final = re.compile(r"health and metrics: http://127\.0\.0\.1:(\d+)/")


class HttpProcess:
    """A running `python -m …` that serves HTTP on a free port of 127.0.0.1."""

    def __init__(
        self,
        *options: str,
        module: Sequence[str] = SERVE,
        transports: Sequence[str] = ("http:0",),
        environment: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        ours = {name: value for name, value in os.environ.items() if not name.startswith("KVMCP_")}
        chosen = [word for transport in transports for word in ("--transport", transport)]
        self.child = subprocess.Popen(
            [sys.executable, "-m", *module, *chosen, *options],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**ours, **(environment or {})},
        )
        self.log = ""
        self._ended = False
        self._grew = threading.Condition()
        self._reader = threading.Thread(target=self._keep_log, daemon=True)
        self._reader.start()
        try:
            self.port = int(self.logged(_SERVES)[1])
        except BaseException:
            self.kill()
            raise

    def _keep_log(self) -> None:
        assert self.child.stderr is not None
        for line in self.child.stderr:
            with self._grew:
                self.log += line.decode()
                self._grew.notify_all()
        with self._grew:
            self._ended = True
            self._grew.notify_all()

    def logged(self, pattern: re.Pattern[str] | str) -> re.Match[str]:
        """Waits until the log has it; fails where the process ends before."""
        with self._grew:
            self._grew.wait_for(lambda: self._ended or re.search(pattern, self.log), PATIENCE)
            found = re.search(pattern, self.log)
        assert found, f"{pattern} is not in: {self.log}"
        return found

    @property
    def admin_port(self) -> int:
        return int(self.logged(_ADMIN)[1])

    def children(self) -> list[int]:
        """The pids of its children now."""
        pid = self.child.pid
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal; the exit status."""
        self.child.send_signal(number)
        status = self.child.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return status

    def kill(self) -> None:
        """SIGKILL, whatever it does, and wait for the end."""
        self.child.kill()
        self.child.wait()
        for stream in (self.child.stdin, self.child.stdout):
            if stream is not None:
                stream.close()
        self._reader.join(PATIENCE)
        assert self.child.stderr is not None
        self.child.stderr.close()
