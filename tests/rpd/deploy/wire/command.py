"""`rpd deploy` at a terminal: a pty, at which the start is confirmed."""

import os
import pty
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.rpd.deploy.wire.process import ROOT


class Command:
    """The process; a thread reads its terminal, and types the robot's name when asked.

    Attributes:
        pid: its process id.
    """

    def __init__(self, *words, cwd, python=sys.executable):
        ours, theirs = pty.openpty()
        env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200", "TERM": "dumb"}
        self._process = subprocess.Popen(
            [python, "-m", "rpd", *words], cwd=cwd, env=env, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
        )
        os.close(theirs)
        self.pid, self._terminal, self._shown = self._process.pid, ours, b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        confirmed = False
        while True:
            try:
                data = os.read(self._terminal, 4096)
            except OSError:  # the process has ended
                return
            self._shown += data
            asked = re.search(rb"Type (\S+) to begin", self._shown)
            if asked and not confirmed:
                confirmed = True
                os.write(self._terminal, asked[1] + b"\n")

    @property
    def shown(self):
        """Text on the terminal, in one line."""
        return " ".join(self._shown.decode(errors="replace").split())

    def wait(self, timeout=120):
        """Exit code."""
        code = self._process.wait(timeout)
        self._reader.join(5)
        return code

    def until(self, reached, timeout=120):
        """Wait until `reached()`."""
        end = time.monotonic() + timeout
        while not reached():
            assert self._process.poll() is None, self.shown
            assert time.monotonic() < end, self.shown
            time.sleep(0.02)

    def child(self, module):
        """Process id of the child that runs a module."""
        for name in Path(f"/proc/{self.pid}/task").glob("*/children"):
            for pid in map(int, name.read_text().split()):
                if module in Path(f"/proc/{pid}/cmdline").read_text():
                    return pid
        raise AssertionError(f"no child runs {module}")

    def kill(self):
        """Kill -9, without a warning."""
        self._process.kill()
        self._process.wait()

    def close(self):
        if self._process.poll() is None:
            self.kill()
        os.close(self._terminal)
