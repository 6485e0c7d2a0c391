"""The rounds of one workload, in turn: one of each contestant, and then the next of each.

Each contestant lives in a program of its own, whose pool stays open between its rounds and is given nothing
to do while others are measured. So a minute in which the machine is slow hits all of them, threads and memory
of one are not in the way of another, and one that hangs is ended. What a pool that polls costs while it is
idle, it costs all others alike.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from .contestants import Contestant
from .workloads import Workload

_FOLDER = Path(__file__).parents[1]
#: To start the program and open the contestant, while all others do that, too, in seconds.
_OPEN_BOUND = 180.0
#: For the end of a pool.
_END_BOUND = 30.0


@dataclass
class Course:
    """What one contestant has come to: a figure a round, or what happened in their place."""

    contestant: Contestant
    seconds: list[float] = field(default_factory=list)
    extras: dict[str, list[float]] = field(default_factory=dict)
    instead: str | None = None


class _Host:
    """The program of one contestant."""

    def __init__(self, workload: Workload, contestant: Contestant) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed in `end`)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "suite.host", workload.id, contestant.id],
            cwd=_FOLDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            start_new_session=True,
        )  # fmt: skip
        self._left = b""

    def ask(self) -> None:
        """Let it measure a round."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has said why
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()

    def answer(self, bound: float) -> dict[str, Any]:
        """What it says next."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + bound
        while b"\n" not in self._left:
            if not select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return {"instead": f"hangs (> {bound:g} s)"}
            read = os.read(descriptor, 1 << 16)
            if not read:
                return {"instead": "dies"}
            self._left += read
        line, _, self._left = self._left.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def end(self, *, patiently: bool) -> tuple[str | None, str]:
        """End it and all that is left of it.

        What has happened in place of a good end, where that was waited for `patiently`; and what it has
        written to its standard error.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        left: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            left = psutil.Process(self._process.pid).children(recursive=True)
        stdin.close()
        instead: str | None = None
        if patiently:
            told = self.answer(_END_BOUND)
            instead = None if "ended" in told else f"{told['instead']}, at its end"
        try:
            self._process.wait(_END_BOUND if patiently and instead is None else 0.1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for process in left:  # workers with sessions and groups of their own
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        stdout.close()
        with self._errors:
            self._errors.seek(0)
            return instead, self._errors.read().decode(errors="replace")


def run(workload: Workload, contestants: Sequence[Contestant], *, quick: bool) -> list[Course]:
    """Measure all of them, in turn."""
    pairs = [(Course(contestant), _Host(workload, contestant)) for contestant in contestants]
    try:
        for course, host in pairs:
            _take(course, host.answer(_OPEN_BOUND), counts=False)
        rounds = max(workload.rounds_of(contestant, quick=quick) for contestant in contestants)
        for lap in range(-workload.warmups, rounds):
            # So that nobody is always behind the one that has upset the caches most.
            for course, host in random.Random(lap).sample(pairs, len(pairs)):
                if course.instead is None and lap < workload.rounds_of(course.contestant, quick=quick):
                    host.ask()
                    _take(course, host.answer(workload.bound), counts=lap >= 0)
    finally:
        for course, host in pairs:
            instead, errors = host.end(patiently=course.instead is None)
            course.instead = course.instead or instead
            if course.instead is not None and errors:
                print(f"{workload.id}, {course.contestant.id}: {course.instead}\n{errors}", file=sys.stderr)
    return [course for course, _ in pairs]


def _take(course: Course, answer: dict[str, Any], *, counts: bool) -> None:
    if "instead" in answer:
        course.instead = answer["instead"]
    elif counts:
        course.seconds.append(answer["seconds"])
        for name, value in answer["extras"].items():
            course.extras.setdefault(name, []).append(value)
