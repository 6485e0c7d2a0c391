"""The examples of the README run as they stand there, and print what it says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
_EXAMPLES = re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", README.read_text(), re.DOTALL)


@pytest.mark.parametrize(("source", "output"), _EXAMPLES)
def test_example(source: str, output: str, tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(source)
    done = subprocess.run(
        [sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, output, "")


def test_there_are_examples() -> None:
    assert len(_EXAMPLES) == 6
    assert all(output for _, output in _EXAMPLES)
