"""A program that owns pools, seen from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from faults import who_tasks
from faults.checks import gone

TESTS = Path(__file__).parents[1]


class Owner:
    """Runs `owner_program.py`, as leader of a session, as a shell in a terminal does."""

    def __init__(self, what: str, start_method: str, folder: Path) -> None:
        path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._folder = folder
        self._seen: set[int] = set()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "faults.owner_program", what, start_method, folder],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def families(self, *names: str) -> set[int]:
        """The processes of these tasks, once they are there; see `who_tasks.leave_family`."""
        found = {pid for name in names for pid in who_tasks.family(self._folder, name)}
        self._seen |= found
        return found

    def is_ending(self, name: str) -> bool:
        """Whether the worker of this task has got the SIGTERM that it has blocked, or is gone already."""
        worker = self._folder.joinpath(f"family-{name}").read_text().split()[0]
        try:
            status = Path(f"/proc/{worker}/status").read_text()
        except OSError:
            return True
        pending = next(line for line in status.splitlines() if line.startswith("ShdPnd:"))
        return bool(int(pending.split()[1], 16) >> (signal.SIGTERM - 1) & 1)

    def tree(self) -> set[int]:
        """All descendants that it has now."""
        found = {child.pid for child in psutil.Process(self.process.pid).children(recursive=True)}
        self._seen |= found
        return found

    def line(self) -> str:
        """The next line of its output."""
        assert self.process.stdout
        return self.process.stdout.readline().rstrip()

    def rest(self) -> tuple[str, str]:
        """What is left of its output and its errors; it has to end by itself."""
        return self.process.communicate(timeout=20)

    def close(self) -> None:
        """End it; what it leaves behind is an error."""
        self.process.kill()
        self.process.communicate(timeout=20)
        gone(self._seen)
