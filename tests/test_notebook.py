"""Functions and classes of a notebook, in a real Jupyter kernel."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import START_METHODS
from test_main_functions import CHANGES, PROGRAM

#: Runs the cells that it is given, and prints what they print. In a process of its own, as the client leaves
#: sockets and threads behind.
CLIENT = """
import json, sys
import nbclient, nbformat

cells = [nbformat.v4.new_code_cell(cell) for cell in json.load(sys.stdin)]
notebook = nbformat.v4.new_notebook(cells=cells)
nbclient.NotebookClient(notebook, timeout=50, iopub_timeout=50, kernel_name="python3").execute()
for cell in cells:
    print("".join(each.get("text", "") for each in cell.outputs if each.get("name") == "stdout"), end="")
"""


def _cells(program: str) -> Iterator[str]:
    """The program in cells: a new one begins where a function or class is defined anew."""
    lines = program.splitlines()
    first = 0
    defined: set[str] = set()
    for node in ast.parse(program).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            begin = min([node.lineno, *(each.lineno for each in node.decorator_list)]) - 1
            if node.name in defined:
                yield "\n".join(lines[first:begin])
                first = begin
            defined.add(node.name)
    yield "\n".join(lines[first:])


def test_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All in one test, as a kernel takes more than a second to start."""
    for module in ("nbclient", "ipykernel", "cloudpickle"):
        pytest.importorskip(module)
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    definitions, _ = PROGRAM.split("\nif __name__")
    # With the start method that is chosen beside the kernel's threads, and with each that can be asked for.
    cells = [definitions, "print(parallelkit.pool_map(decorated, [1, 2]))"]
    cells += [f"check_all({method!r})" for method in START_METHODS]
    # Cells that are changed and run again.
    cells_of_changes = list(_cells(CHANGES))
    assert len(cells_of_changes) > 3
    for method in START_METHODS:
        cells += [f"import sys; sys.argv = ['', {method!r}]", *cells_of_changes]
    done = subprocess.run(
        [sys.executable, "-c", CLIENT],
        input=json.dumps(cells),
        capture_output=True,
        text=True,
        timeout=55,
    )
    assert done.returncode == 0, done.stderr
    right = [f"{method} is right" for method in START_METHODS]
    assert done.stdout.splitlines() == ["[4, 7]", *right, *["all changes were seen"] * len(START_METHODS)]
