"""What the type checkers make of programs that use the library: `typing/accepts` and `typing/rejects`.

Both folders are checked alike: errors are to be on the lines marked `# error`, and on no other.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).with_name("typing")
PROGRAMS = sorted(FOLDER.glob("*/*.py"))
_MARK = re.compile(r"# error$")
#: As mypy writes a complaint: file, line, what.
_COMPLAINT = re.compile(r"^(?P<file>.+?):(?P<line>\d+): error: (?P<text>.*)$")

Lines = dict[tuple[str, int], str]


def _name(file: str | Path) -> str:
    path = Path(file)
    return f"{path.parent.name}/{path.name}"


def _marked() -> set[tuple[str, int]]:
    return {
        (_name(path), number)
        for path in PROGRAMS
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if _MARK.search(line)
    }


def _mypy(folder: Path) -> Lines:
    command = [
        sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--show-error-codes", "--no-pretty",
        "--hide-error-context", "--config-file", "", "--cache-dir", str(folder),
        # Files of one name in two folders are scripts, not modules.
        "--scripts-are-modules", "--namespace-packages", "--explicit-package-bases",
    ]  # fmt: skip
    run = subprocess.run([*command, *map(str, PROGRAMS)], cwd=FOLDER, capture_output=True, text=True)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    found = [match for line in run.stdout.splitlines() if (match := _COMPLAINT.match(line))]
    return {(_name(match["file"]), int(match["line"])): match["text"] for match in found}


def _pyright(_: Path) -> Lines:
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson"]
    run = subprocess.run([*command, "--project", str(FOLDER)], capture_output=True, text=True)
    assert run.returncode in (0, 1), run.stdout + run.stderr
    report = json.loads(run.stdout)
    assert report["summary"]["filesAnalyzed"] == len(PROGRAMS)
    return {
        (_name(each["file"]), each["range"]["start"]["line"] + 1): each["message"]
        for each in report["generalDiagnostics"]
        if each["severity"] == "error"
    }


@pytest.mark.timeout(180)
@pytest.mark.parametrize("check", [_mypy, _pyright], ids=["mypy", "pyright"])
def test_errors_are_on_the_marked_lines_and_on_no_other(
    check: Callable[[Path], Lines], tmp_path: Path
) -> None:
    marked, found = _marked(), check(tmp_path)
    unexpected = {place: text for place, text in found.items() if place not in marked}
    assert unexpected == {}
    assert marked - found.keys() == set()


def test_there_is_something_to_be_found() -> None:
    marked = {name for name, _ in _marked()}
    assert marked == {_name(path) for path in PROGRAMS if path.parent.name == "rejects"}
    assert len(marked) < len(PROGRAMS)
