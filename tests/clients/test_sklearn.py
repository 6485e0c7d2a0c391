"""scikit-learn on the backend "parallelkit". Needs joblib, scikit-learn and threadpoolctl."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from process_tasks import wait_until_gone
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_iris
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.svm import SVC

import parallelkit
import parallelkit.integrations.joblib as integration
from parallelkit import threadlimits

X, Y = load_iris(return_X_y=True)
GRID: dict[str, list[Any]] = {"C": [0.1, 1.0, 10.0], "kernel": ["linear", "rbf"]}


@pytest.fixture(autouse=True)
def on_parallelkit() -> Iterator[None]:
    integration.register()
    with joblib.parallel_config(backend="parallelkit", n_jobs=2):
        yield
    integration.shutdown()


class Witness(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Notes the processes in which it is fitted, and can be made to fail there."""

    def __init__(self, folder: str = "", mood: str = "good") -> None:
        self.folder = folder
        self.mood = mood

    def fit(self, x: Any, y: Any) -> Witness:
        self.classes_ = np.unique(y)
        (Path(self.folder) / str(os.getpid())).touch()
        if self.mood == "bad":
            raise ArithmeticError("no fit")
        if self.mood == "deadly":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.mood == "stuck":
            time.sleep(3600)
        return self

    def predict(self, x: Any) -> Any:
        return np.zeros(len(x), dtype=int)


def noted(folder: Path) -> set[int]:
    return {int(path.name) for path in folder.iterdir()}


def test_grid_search_gives_the_same_answers() -> None:
    with joblib.parallel_config(backend="threading", n_jobs=1):
        expected = GridSearchCV(SVC(), GRID, cv=3).fit(X, Y)
    found = GridSearchCV(SVC(), GRID, cv=3).fit(X, Y)
    assert found.best_params_ == expected.best_params_
    np.testing.assert_array_equal(
        found.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"]
    )
    np.testing.assert_array_equal(found.predict(X), expected.predict(X))


def test_cross_val_score_gives_the_same_answers() -> None:
    model = LogisticRegression(max_iter=1000)
    with joblib.parallel_config(backend="threading", n_jobs=1):
        expected = cross_val_score(model, X, Y, cv=5)
    np.testing.assert_allclose(cross_val_score(model, X, Y, cv=5), expected)


def test_the_work_is_done_in_workers(tmp_path: Path) -> None:
    cross_val_score(Witness(str(tmp_path)), X, Y, cv=6)
    found = noted(tmp_path)
    assert found
    assert os.getpid() not in found


def test_an_estimators_error_is_raised(tmp_path: Path) -> None:
    with pytest.raises(ArithmeticError, match="no fit"):
        cross_val_score(Witness(str(tmp_path), "bad"), X, Y, cv=4, error_score="raise")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning")
@pytest.mark.filterwarnings("ignore:One or more of the test scores are non-finite")
def test_an_error_score_stands_in_for_a_failure(tmp_path: Path) -> None:
    grid = {"mood": ["good", "bad"]}
    search = GridSearchCV(Witness(str(tmp_path)), grid, cv=2, error_score=np.nan).fit(X, Y)
    assert np.isnan(search.cv_results_["mean_test_score"]).tolist() == [False, True]
    assert search.best_params_ == {"mood": "good"}


def test_a_workers_death_is_an_error_and_no_hang(tmp_path: Path) -> None:
    with pytest.raises(parallelkit.WorkerDiedError, match="SIGKILL"):
        cross_val_score(Witness(str(tmp_path), "deadly"), X, Y, cv=4)
    assert len(cross_val_score(Witness(str(tmp_path)), X, Y, cv=4)) == 4


def test_a_fit_that_is_stuck_is_ended(tmp_path: Path) -> None:
    with (
        joblib.parallel_config(backend="parallelkit", n_jobs=2, task_timeout=3.0),
        pytest.raises(parallelkit.TaskTimeoutError),
    ):
        cross_val_score(Witness(str(tmp_path), "stuck"), X, Y, cv=2)
    # The error is that of one fit; the other, which was begun beside it, may be on its way out still.
    for pid in noted(tmp_path):
        wait_until_gone(pid)


def test_joblibs_timeout() -> None:
    with pytest.raises(multiprocessing.TimeoutError):
        joblib.Parallel(timeout=0.5)(joblib.delayed(time.sleep)(3600) for _ in range(2))


def test_an_estimator_with_jobs_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    forest = RandomForestClassifier(n_estimators=8, n_jobs=4, random_state=0)
    expected = cross_val_score(forest, X, Y, cv=3, n_jobs=1)
    for share in ("2", "4"):  # for two workers: without threads, and with two
        monkeypatch.setenv(threadlimits.SHARE, share)
        np.testing.assert_array_equal(cross_val_score(forest, X, Y, cv=3), expected)


class CountingForest(RandomForestClassifier):  # type: ignore[misc]
    def fit(self, x: Any, y: Any, sample_weight: Any = None) -> CountingForest:
        super().fit(x, y, sample_weight)
        self.jobs_ = joblib.effective_n_jobs(self.n_jobs)
        return self

    def score(self, x: Any, y: Any, sample_weight: Any = None) -> float:
        return float(self.jobs_)


@pytest.mark.parametrize(("share", "jobs"), [("2", 1), ("4", 2)])
def test_nested_jobs_are_no_more_than_the_share(
    monkeypatch: pytest.MonkeyPatch, share: str, jobs: int
) -> None:
    monkeypatch.setenv(threadlimits.SHARE, share)
    forest = CountingForest(n_estimators=4, n_jobs=8)
    assert cross_val_score(forest, X, Y, cv=2).tolist() == [jobs, jobs]


def test_a_search_within_a_search() -> None:
    inner = GridSearchCV(SVC(), {"C": [0.1, 1.0]}, cv=2, n_jobs=2)
    assert len(cross_val_score(inner, X, Y, cv=3, n_jobs=2)) == 3


def test_openmp_in_the_parent_before(tmp_path: Path) -> None:
    # GNU's OpenMP hangs in a process that was forked after its use; these workers are not.
    model = HistGradientBoostingClassifier(max_iter=5)
    model.fit(X, Y)
    assert len(cross_val_score(model, X, Y, cv=3)) == 3


README = Path(__file__).parents[2] / "README.md"
SCRIPT = """
import os
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.svm import SVC

class Mine(SVC):
    def score(self, x, y):
        assert "PARALLELKIT_THREADS" in os.environ
        return super().score(x, y)

search = GridSearchCV(Mine(), {"C": [0.1, 1, 10]}, n_jobs=2).fit(*load_iris(return_X_y=True))
print(search.best_params_)
"""


def test_the_two_lines_of_the_readme(tmp_path: Path) -> None:
    lines = [line.strip() for line in README.read_text().splitlines() if "integrations.joblib" in line]
    assert len(lines) == 2
    program = tmp_path / "program.py"
    program.write_text("\n".join(lines) + SCRIPT)
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.stdout == "{'C': 10}\n", done.stderr
    assert done.stderr == ""
