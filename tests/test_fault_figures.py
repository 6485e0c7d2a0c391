"""The programs by which `make faults` measures run, and find what there is to find."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_FOLDER = Path(__file__).parents[1] / "benchmarks"


def _ask(*arguments: object) -> list[Any]:
    done = subprocess.run(
        [sys.executable, "-m", "faults.probes", *map(str, arguments)],
        cwd=_FOLDER,
        capture_output=True,
        timeout=50,
        check=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("figure", ["SIGKILL", "os._exit", "replacement", "timeout"])
def test_a_figure_is_taken_as_often_as_asked(figure: str) -> None:
    answers = _ask("figure", "parallelkit", "fork", figure, 2)
    assert [list(answer) for answer in answers] == [["value"], ["value"]]
    assert all(answer["value"] > 0 for answer in answers)


def test_a_fault_is_judged() -> None:
    good = [{"ends": True}, {"neighbour": True}, {"serves": True}]
    assert _ask("fault", "parallelkit", "fork", 12) == good  # os._exit(0)
    # It is broken as a whole.
    bad = [{"ends": True}, {"neighbour": False}, {"serves": False}]
    assert _ask("fault", "ProcessPoolExecutor", "fork", 12) == bad
