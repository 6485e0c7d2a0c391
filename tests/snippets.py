"""The Python blocks of a Markdown file, and whether they print what stands below them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def snippets(path: str) -> list[tuple[str, str]]:
    """Each ```python block of a file, and the ```text block that follows it: "" where none does."""
    text = (ROOT / path).read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?", text, re.DOTALL | re.MULTILINE)


def check(source: str, output: str, folder: Path) -> None:
    """Run `source` as a program, with warnings as errors; it prints `output` and nothing else."""
    script = folder / "example.py"
    script.write_text(source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", script],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        cwd=folder,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, output, "")
