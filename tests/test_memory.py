"""A long stream needs no more memory than a short one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
import parallelkit
from parallelkit.resources import resident_set
import os

if __name__ == "__main__":
    method, count = sys.argv[1], int(sys.argv[2])
    parallelkit.pool_map(abs, [1], start_method=method)
    before = most = resident_set(os.getpid())
    total = 0
    for number, result in enumerate(parallelkit.pool_imap(abs, iter(range(count)), start_method=method)):
        total += result
        if number % 10_000 == 0:
            most = max(most, resident_set(os.getpid()))
    print(json.dumps([total, most - before]))
"""


@pytest.mark.parametrize(
    ("method", "count"), [("fork", 1_000_000), ("forkserver", 200_000), ("spawn", 200_000)]
)
def test_a_stream_of_small_items_stays_within_30_megabytes(method: str, count: int, tmp_path: Path) -> None:
    script = tmp_path / "stream.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script, method, str(count)], capture_output=True, text=True, timeout=55, check=True
    )
    total, grown = json.loads(done.stdout)
    assert total == count * (count - 1) // 2
    assert grown < 30_000_000
