"""Each measurement in a program of its own: bounded, and whatever it leaves is ended.

The program is `python -m faults.probes PROBE ARGUMENT ...`. It prints an answer a line, as JSON; what it
printed before it was ended counts. All that descend from it wear a mark in their environment, by which they
are found.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: What is not there after so many seconds is said to hang.
BOUND = 5.0
_MARK = "PARALLELKIT_FAULTS_PROBE"
_numbers = itertools.count()


class Hangs(Exception):
    """Nothing came within the bound."""


class Notes:
    """Numbers that tasks tell (see `tasks.note`), as they come."""

    def __init__(self, folder: str) -> None:
        self.path: str = os.path.join(folder, "notes")
        os.mkfifo(self.path)
        self._descriptor = os.open(self.path, os.O_RDWR)

    def next(self, seconds: float = 30.0) -> float:
        """The next one; `Hangs` where none comes."""
        if not select.select([self._descriptor], [], [], seconds)[0]:
            raise Hangs
        (number,) = struct.unpack("<d", os.read(self._descriptor, 8))
        return float(number)

    def close(self) -> None:
        """Take no more."""
        os.close(self._descriptor)


@contextlib.contextmanager
def noting() -> Iterator[Notes]:
    """`Notes` in a folder of their own."""
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(Notes(folder)) as notes:
        yield notes


def answer(**fields: Any) -> None:
    """Give an answer to the program that has started this one."""
    print(json.dumps(fields), flush=True)


@contextlib.contextmanager
def program(
    *arguments: object, stdin: Any = None, stdout: Any = None, stderr: Any = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a probe; in the end kill it and all that descends from it."""
    mark = f"{os.getpid()}-{next(_numbers)}"
    environment = {**os.environ, _MARK: mark, "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-m", f"{__package__}.probes", *map(str, arguments)]
    process: subprocess.Popen[bytes] = subprocess.Popen(
        command, env=environment, start_new_session=True, stdin=stdin, stdout=stdout, stderr=stderr
    )
    try:
        yield process
    finally:
        end(f"{_MARK}={mark}".encode())
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def end(mark: bytes) -> None:
    """Kill all who wear a mark, until there is nobody left."""
    while wearers := [pid for pid in _pids() if _wears(pid, mark)]:
        for pid in wearers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def left_of(process: subprocess.Popen[bytes]) -> int:
    """How many there are of those that descend from a probe's program, besides itself."""
    environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
    mark = next(entry for entry in environment if entry.startswith(_MARK.encode()))
    return sum(_wears(pid, mark) for pid in _pids() if pid != process.pid)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _wears(pid: int, mark: bytes) -> bool:
    try:
        # Of a zombie this is empty.
        return mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def ask(*arguments: object, bound: float) -> list[dict[str, Any]]:
    """The answers that a probe gives within `bound` seconds."""
    with tempfile.TemporaryFile() as output:
        with program(*arguments, stdout=output, stderr=subprocess.DEVNULL) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(bound)
            code = process.returncode  # None where it was ended at the bound
        output.seek(0)
        # Tasks may have printed, too.
        lines = [line for line in output.read().splitlines() if line.startswith(b"{") and line.endswith(b"}")]
    answers = [json.loads(line) for line in lines]
    # By the alarm a program ends itself that has given its answer and hangs at its end.
    if not code or code == -signal.SIGALRM:
        return answers
    how = f"exit code {code}" if code > 0 else signal.Signals(-code).name
    return [*answers, {"instead": f"fails ({how})"}]
