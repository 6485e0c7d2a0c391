"""What the whole suite shares."""

from __future__ import annotations

import os
from typing import Any

import pytest
from suite import machine, race
from suite.contestants import FORKSERVER, SPAWN, Contestant
from suite.workloads import Workload

# Without byte code each fresh interpreter would compile what is not installed as a wheel: parallelkit alone.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

#: Parameters of the primitives' tests that the report reads.
_NAMED = ("kit", "library")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick", action="store_true", help="fewer workloads and rounds, and no start method but fork"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Show what a table is read for, unless other columns are asked for."""
    if not any(str(given).startswith("--benchmark-columns") for given in config.invocation_params.args):
        config.option.benchmark_columns = ["min", "median", "max", "rounds"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In a quick run, leave out what only a full one has."""
    if not config.getoption("--quick"):
        return
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        workload, contestant = _race_of(item)
        slow = workload is not None and not workload.quick
        slow = slow or (contestant is not None and contestant.method in (FORKSERVER, SPAWN))
        (left_out if slow else kept).append(item)
    config.hook.pytest_deselected(items=left_out)
    items[:] = kept


def _race_of(item: pytest.Item) -> tuple[Workload | None, Contestant | None]:
    parameters = getattr(item, "callspec", None)
    if parameters is None:
        return None, None
    return parameters.params.get("workload"), parameters.params.get("contestant")


class Races:
    """The courses of all workloads, each run when it is first asked for."""

    def __init__(self, session: pytest.Session) -> None:
        self._session = session
        self._courses: dict[str, dict[str, race.Course]] = {}

    def course(self, workload: Workload, contestant: Contestant) -> race.Course:
        """That of one contestant; those of all who are collected for the workload are run together."""
        if workload.id not in self._courses:
            pairs = [_race_of(item) for item in self._session.items]
            together = [other for of, other in pairs if of is workload and other is not None]
            quick = bool(self._session.config.getoption("--quick"))
            try:
                courses = race.run(workload, together, quick=quick)
            except Exception as error:  # said of all of them, and not tried again for each
                courses = [race.Course(other, instead=f"not run ({error!r})") for other in together]
            self._courses[workload.id] = {course.contestant.id: course for course in courses}
        return self._courses[workload.id][contestant.id]


@pytest.fixture(scope="session")
def races(request: pytest.FixtureRequest) -> Races:
    return Races(request.session)


@pytest.fixture
def failures(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """What happened to those that have no figures; it goes into the JSON."""
    return _failures_of(request.config)


_FAILURES = pytest.StashKey[list[dict[str, Any]]]()


def _failures_of(config: pytest.Config) -> list[dict[str, Any]]:
    return config.stash.setdefault(_FAILURES, [])


# The JSON: what the report needs, and neither the name of the machine nor a path


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    return machine.describe()


def pytest_benchmark_update_commit_info(config: pytest.Config, commit_info: dict[str, Any]) -> None:
    for private in ("project", "branch", "author_time"):
        commit_info.pop(private, None)


def pytest_benchmark_update_json(config: pytest.Config, benchmarks: Any, output_json: dict[str, Any]) -> None:
    output_json["quick"] = bool(config.getoption("--quick"))
    output_json["failures"] = _failures_of(config)
    for entry in output_json["benchmarks"]:
        # Objects of this suite, shown as they are in memory.
        entry["params"] = {
            name: str(value) for name, value in (entry["params"] or {}).items() if name in _NAMED
        }
