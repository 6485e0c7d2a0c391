"""Workers that are processes: the default engine. README.md in this folder has the diagram and rules."""

from __future__ import annotations

from ..base import Crew, Setup
from .crew import ProcessCrew


class ProcessesEngine:
    """Runs tasks in processes; a fault of one task costs that task and nothing else.

    >>> import parallelkit
    >>> parallelkit.pool_map(abs, [-1, 2], engine=ProcessesEngine())
    [1, 2]
    """

    name = "processes"
    most_workers: int | None = None

    def open(self, setup: Setup) -> Crew:
        """Make a crew that has no worker yet."""
        return ProcessCrew(setup)

    def __repr__(self) -> str:
        return "ProcessesEngine()"
