from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

pytest.register_assert_rewrite("faults.checks")

from faults.faces import FACES, Face, Outcomes  # noqa: E402 - behind what is to be done first


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> Face:
    return FACES[request.param]


@pytest.fixture
def served(face: Face, start_method: str) -> Callable[..., AbstractContextManager[Outcomes]]:
    """Each face with each start method: `with served(max_workers=2) as outcomes: ...`."""
    return functools.partial(face, start_method)
