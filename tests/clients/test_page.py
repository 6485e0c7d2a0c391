"""The programs of docs/clients.md print what it says, and its table of versions is kept as it should be."""

from __future__ import annotations

from pathlib import Path

import pytest
import versions
from snippets import check, snippets

_EXAMPLES = snippets("docs/clients.md")


@pytest.mark.parametrize(("source", "output"), _EXAMPLES, ids=[source.split()[1] for source, _ in _EXAMPLES])
def test_example(source: str, output: str, tmp_path: Path) -> None:
    assert output
    check(source, output, tmp_path)


def test_the_column_of_one_python_is_made_anew() -> None:
    empty = f"above\n{versions._BEGIN}{versions._END}\nbelow\n"
    once = versions.updated(empty, "Python 3.13", {"scipy": "1.2", "gone": "1"})
    twice = versions.updated(once, "Python 3.9", {"scipy": "1.1", "new": "2"})
    table = "|  | Python 3.9 | Python 3.13 |\n| --- | --- | --- |\n| scipy | 1.1 | 1.2 |\n| new | 2 |  |\n"
    assert twice == f"above\n{versions._BEGIN}{table}{versions._END}\nbelow\n"


def test_the_versions_are_of_what_is_installed_for_this() -> None:
    assert {"dask", "emcee", "scipy", "adaptive"} <= set(versions.packages())
    assert not [name for name in versions.packages() if "pytest" in name]
