"""Workers that are processes: the default engine. README.md in this folder has the diagram and rules."""

from __future__ import annotations

from ..base import Crew, Setup


class ProcessesEngine:
    """Runs tasks in processes; a fault of one task costs that task and nothing else.

    import_main: whether spawn and forkserver import the program's `__main__` in a worker, as
    multiprocessing does. Without it a script needs no `if __name__ == "__main__":`, and what tasks use of it
    is sent along, as from a notebook: cloudpickle has to be installed.

    >>> import parallelkit
    >>> parallelkit.pool_map(abs, [-1, 2], engine=ProcessesEngine())
    [1, 2]
    """

    name = "processes"
    most_workers: int | None = None

    def __init__(self, *, import_main: bool = True) -> None:
        self._import_main = import_main

    def open(self, setup: Setup) -> Crew:
        """Make a crew that has no worker yet."""
        from .crew import ProcessCrew  # which a worker does without

        return ProcessCrew(setup, import_main=self._import_main)

    def __repr__(self) -> str:
        return "ProcessesEngine()"
