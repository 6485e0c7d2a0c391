"""The examples of the README run as they stand there, and print what it says."""

from __future__ import annotations

from pathlib import Path

import pytest
from snippets import check, snippets

_EXAMPLES = snippets("README.md")


@pytest.mark.parametrize(("source", "output"), _EXAMPLES)
def test_example(source: str, output: str, tmp_path: Path) -> None:
    check(source, output, tmp_path)


def test_there_are_examples() -> None:
    assert len(_EXAMPLES) == 7
    assert all(output for _, output in _EXAMPLES)
