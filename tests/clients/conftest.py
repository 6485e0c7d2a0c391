"""The clients: real packages that are given our pool or our executor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import versions
from clienttasks import Witness


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write", action="store_true", help="write the versions into docs/clients.md, where all is well"
    )


def pytest_configure(config: pytest.Config) -> None:
    # nevergrad's own book-keeping, where not all jobs of a batch are done at the same time.
    config.addinivalue_line(
        "filterwarnings", "ignore:Ignoring since timer was stopped before starting:UserWarning:nevergrad"
    )


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if session.config.getoption("--write") and exitstatus == 0:
        run = {item.path.name for item in session.items}
        if run == {path.name for path in Path(__file__).parent.glob("test_*.py")}:
            versions.write()


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[Witness]:
    """Knows who has worked; in the end it must have been others, and nobody else."""
    folder = tmp_path / "workers"
    folder.mkdir()
    found = Witness(folder)
    yield found
    assert found.pids, "nothing has run"
    assert found.parent_works_too or found.parent not in found.pids, "something has run in the parent"
    assert found.pids != {found.parent}, "all of it has run in the parent"
