from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from conftest import START_METHODS

pytest.register_assert_rewrite("faults.checks")

from faults.faces import FACES, Face, Outcomes  # noqa: E402 - behind what is to be done first
from faults.owners import Owner  # noqa: E402


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> Face:
    return FACES[request.param]


@pytest.fixture
def served(face: Face, start_method: str) -> Callable[..., AbstractContextManager[Outcomes]]:
    """Each face with each start method: `with served(max_workers=2) as outcomes: ...`."""
    return functools.partial(face, start_method)


#: The start method does not matter to a face, nor a face to it.
ONCE = [(face, START_METHODS[0]) for face in FACES] + [("Pool.map", method) for method in START_METHODS[1:]]


@pytest.fixture(params=ONCE, ids="-".join)
def once(request: pytest.FixtureRequest) -> Callable[..., AbstractContextManager[Outcomes]]:
    """Like `served`, but not each with each: for what takes long."""
    face, start_method = request.param
    return functools.partial(FACES[face], start_method)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Callable[..., Owner]]:
    owners: list[Owner] = []

    def own(what: str, start_method: str) -> Owner:
        owners.append(Owner(what, start_method, tmp_path))
        return owners[-1]

    yield own
    for owner in owners:
        owner.close()
