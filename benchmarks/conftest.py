"""What the whole suite shares."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
from contestants import Contestant, Runner


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Show what a table is read for, unless other columns are asked for."""
    if not any(str(given).startswith("--benchmark-columns") for given in config.invocation_params.args):
        config.option.benchmark_columns = ["min", "median", "max", "rounds"]


@pytest.fixture
def runner(contestant: Contestant) -> Iterator[Runner]:
    """The contestant, with its workers up where it keeps them."""
    gc.collect()
    with contestant.open() as opened:
        if contestant.keeps_workers:
            opened.map(abs, range(100))
        yield opened
