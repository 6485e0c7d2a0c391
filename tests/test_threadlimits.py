"""Numerical libraries in workers, numpy's OpenBLAS above all: how many threads they have there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import threadpoolctl

import parallelkit
from parallelkit import threadlimits

#: Prints what each worker has: PARALLELKIT_THREADS, OMP_NUM_THREADS, and the threads of OpenBLAS.
PROGRAM = """
import os, sys
import parallelkit
method, when, workers, threads = sys.argv[1:]
if when == "preloaded" and __name__ == "__main__":
    parallelkit.set_forkserver_preload(["numpy"])
if when == "before":
    import numpy
    numpy.ones((300, 300)) @ numpy.ones((300, 300))

def probe(item):
    import numpy, threadpoolctl
    matrix = numpy.arange(90000.0).reshape(300, 300)
    assert (matrix @ numpy.eye(300) == matrix).all()
    blas = [found["num_threads"] for found in threadpoolctl.threadpool_info() if found["user_api"] == "blas"]
    return os.environ.get("PARALLELKIT_THREADS"), os.environ.get("OMP_NUM_THREADS"), *blas

if __name__ == "__main__":
    before = dict(os.environ)
    options = {"max_workers": int(workers), "start_method": method}
    if threads != "-":
        options["threads_per_worker"] = int(threads) if threads.isdigit() else threads
    found = parallelkit.pool_map(probe, range(int(workers)), **options)
    assert before == dict(os.environ)
    print(*sorted(set(found)))
"""

CPUS = parallelkit.available_cpus()
if CPUS < 2:
    pytest.skip("with one CPU there is one thread anyway", allow_module_level=True)


def run(tmp_path: Path, method: str, when: str, workers: int, threads: str = "-", **environ: str) -> str:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    kept = {name: value for name, value in os.environ.items() if name not in threadlimits.VARIABLES}
    command = [sys.executable, str(program), method, when, str(workers), threads]
    done = subprocess.run(
        command, env={**kept, **environ}, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("when", ["before", "within"])
def test_workers_share_the_cpus(tmp_path: Path, start_method: str, when: str) -> None:
    assert run(tmp_path, start_method, when, CPUS) == "('1', '1', 1)"


def test_a_fork_server_that_has_loaded_numpy(tmp_path: Path) -> None:
    assert run(tmp_path, "forkserver", "preloaded", CPUS) == "('1', '1', 1)"


@pytest.mark.parametrize("when", ["before", "within"])
def test_the_number_that_the_caller_says(tmp_path: Path, start_method: str, when: str) -> None:
    assert run(tmp_path, start_method, when, 1, "1") == "('1', '1', 1)"


def test_one_worker_has_all_cpus(tmp_path: Path) -> None:
    blas = max(library["num_threads"] for library in _blas())
    assert run(tmp_path, "fork", "before", 1) == f"('{CPUS}', '{CPUS}', {blas})"


def _blas() -> list[dict[str, Any]]:
    import numpy  # noqa: F401

    return [library for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]


def test_inherit_leaves_all_as_it_is(tmp_path: Path) -> None:
    assert run(tmp_path, "fork", "before", CPUS, "inherit").startswith("(None, None, ")
    assert run(tmp_path, "spawn", "within", CPUS, "inherit", OPENBLAS_NUM_THREADS="1") == "(None, None, 1)"


def test_what_the_user_has_set_stays(tmp_path: Path, start_method: str) -> None:
    # OpenBLAS follows OMP_NUM_THREADS where its own variable is not set.
    assert run(tmp_path, start_method, "before", CPUS, OMP_NUM_THREADS="2") == "('1', '2', 2)"


def test_a_number_goes_before_what_is_set(tmp_path: Path) -> None:
    assert run(tmp_path, "fork", "before", 1, "1", OPENBLAS_NUM_THREADS="2") == "('1', '1', 1)"


def _share(item: object) -> str | None:
    return os.environ.get(threadlimits.SHARE)


def _nested(workers: int) -> list[str | None]:
    return parallelkit.pool_map(_share, range(workers), max_workers=workers)


@pytest.mark.parametrize("start_method", ["fork"])
def test_a_pool_in_a_worker_shares_what_the_worker_has(start_method: str) -> None:
    options: Any = {"max_workers": 1, "start_method": start_method, "threads_per_worker": 6}
    assert parallelkit.pool_map(_nested, [3, 8], **options) == [["2"] * 3, ["1"] * 8]


def test_pool_and_executor_take_the_option() -> None:
    with parallelkit.Pool(1, threads_per_worker=3) as pool:
        assert pool.apply(_share, (0,)) == "3"
    with parallelkit.ProcessPoolExecutor(1, threads_per_worker=4) as executor:
        assert executor.submit(_share, 0).result() == "4"
    assert threadlimits.SHARE not in os.environ


def test_a_replaced_worker_is_limited_too() -> None:
    with parallelkit.Pool(1, maxtasksperchild=1, threads_per_worker=3) as pool:
        assert pool.map(_share, range(3), 1) == ["3"] * 3


def test_libraries_of_the_user_are_told_from_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in threadlimits.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(threadlimits.SHARE, "4")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "4")
    monkeypatch.setenv("MKL_NUM_THREADS", "3")
    told = threadlimits.limits(None, 2)
    assert told is not None
    assert told.count == 2
    assert told.theirs == {"MKL_NUM_THREADS"}
    assert told.environment["OPENBLAS_NUM_THREADS"] == "2"
    assert told.environment["MKL_NUM_THREADS"] == "3"
    monkeypatch.setenv("OMP_NUM_THREADS", "8,2")
    told = threadlimits.limits(None, 2)
    assert told is not None
    assert told.environment["OMP_NUM_THREADS"] == "8,2"
    assert told.environment["BLIS_NUM_THREADS"] == "8"
    assert told.environment["NUMBA_NUM_THREADS"] == "2"


@pytest.mark.parametrize("wrong", [0, -1, 1.5, True, "all", [2]])
def test_bad_numbers_are_refused(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="threads_per_worker must be"):
        parallelkit.pool_map(abs, [1], threads_per_worker=wrong)
