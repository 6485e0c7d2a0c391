"""What the clients have worked out in other processes, and how a test sees that it was there."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np


class Witness:
    """Knows which processes have worked: each leaves a file with its number in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parent = os.getpid()
        self.parent_works_too = False  # a test says so where the client is made like that

    def note(self) -> None:
        (self.folder / str(os.getpid())).touch()

    @property
    def pids(self) -> set[int]:
        return {int(path.name) for path in self.folder.iterdir() if path.name.isdigit()}

    def first(self, name: str) -> bool:
        """Whether nobody has asked this before, in whichever process."""
        try:
            (self.folder / name).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class Task:
    """A function for workers: it says where it runs, and `what` befalls the first worker that runs it."""

    def __init__(self, witness: Witness, what: str = "") -> None:
        self.witness = witness
        self.what = what

    def begin(self) -> None:
        self.witness.note()
        if self.what and os.getpid() != self.witness.parent and self.witness.first("befallen"):
            befall(self.what)


def befall(what: str) -> None:
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "stuck":
        time.sleep(3600)
    elif what == "raise":
        raise ZeroDivisionError("the model has no value here")


class Sphere(Task):
    """The squares of the coordinates, added up: the least value is 0, at 0."""

    def __call__(self, x: Any, *args: Any) -> float:
        self.begin()
        return sphere(x, *args)


def sphere(x: Any, *args: Any) -> float:
    return float(np.sum(np.square(np.asarray(x, dtype=float))))


class Gauss(Task):
    """The logarithm of the density of a normal distribution around 0, up to a constant."""

    def __call__(self, x: Any) -> float:
        self.begin()
        return -0.5 * float(np.sum(np.square(x)))


def unit_to_box(unit: Any) -> Any:
    """The prior transform of dynesty: from the unit cube into a box from -5 to 5."""
    return 10.0 * unit - 5.0
