"""The examples run, as a reader would run them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SURVEY = Path(__file__).parents[1] / "examples" / "stdlib_survey.py"


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", SURVEY, *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_survey_agrees_with_itself_and_shows_the_error() -> None:
    done = _run("--limit", "40", "--workers", "2")
    assert (done.returncode, done.stderr) == (0, "")
    table, _, error = done.stdout.partition("The two results are equal.")
    assert re.search(r"^  files +40, of which 0 cannot be parsed$", table, re.MULTILINE)
    for row in (
        "functions",
        "classes",
        "longest function",
        "most complex",
        "one after the other",
        "speed-up",
    ):
        assert re.search(rf"^  {row} +.*\d", table, re.MULTILINE), row
    assert re.search(r"^  pool_map, 2 workers +\d+\.\d\d s$", table, re.MULTILINE)
    # The worker's frame, then the exception, then the note as the very last line.
    assert re.search(
        r"stdlib_survey\.py\", line \d+, in survey\n.*\nSyntaxError: .*\n"
        r"parallelkit: item 3: \w+\('.*broken\.py'\)\n\Z",
        error,
        re.DOTALL,
    )


def test_survey_refuses_a_limit_of_nothing() -> None:
    done = _run("--limit", "0")
    assert done.returncode == 2
    assert "--limit" in done.stderr
