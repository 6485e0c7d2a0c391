"""joblib on the backend "parallelkit". Needs joblib; numpy and threadpoolctl for the last ones."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import psutil
import pytest
from joblib import Parallel, delayed

import parallelkit
import parallelkit.integrations.joblib as integration
from parallelkit import threadlimits


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    integration.register()
    yield
    integration.shutdown()


@pytest.fixture
def backend() -> Iterator[None]:
    with joblib.parallel_config(backend="parallelkit", n_jobs=2):
        yield


class OwnError(Exception):
    def __init__(self, number: int, missing: str) -> None:
        super().__init__(number)
        self.missing = missing


def square(x: int) -> tuple[int, int]:
    return x * x, os.getpid()


def fail(x: int) -> int:
    if x == 3:
        raise OwnError(x, missing="all")
    return x


def die(x: int) -> int:
    if x == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def write_pid_and_sleep(folder: str, x: int) -> None:
    if x == 0:
        deadline = time.monotonic() + 30
        while not list(Path(folder).iterdir()) and time.monotonic() < deadline:
            time.sleep(0.01)
        raise OwnError(x, missing="")
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(3600)


def ended(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)
                continue
        return True
    return False


def pids(results: Any) -> set[int]:
    return {pid for _, pid in results}


@pytest.mark.usefixtures("backend")
def test_right_answers_in_other_processes() -> None:
    results = Parallel()(delayed(square)(x) for x in range(20))
    assert [value for value, _ in results] == [x * x for x in range(20)]
    assert os.getpid() not in pids(results)
    assert 1 <= len(pids(results)) <= 2


def test_all_ways_to_name_the_backend() -> None:
    calls = [delayed(square)(x) for x in range(3)]
    assert os.getpid() not in pids(Parallel(n_jobs=2, backend="parallelkit")(calls))
    with joblib.parallel_backend("parallelkit", n_jobs=2):
        assert os.getpid() not in pids(Parallel()(calls))
    default = joblib.parallel.DEFAULT_BACKEND
    integration.register(make_default=True)
    try:
        assert joblib.parallel.DEFAULT_BACKEND == "parallelkit"
        assert os.getpid() not in pids(Parallel(n_jobs=2)(calls))
    finally:
        joblib.parallel.DEFAULT_BACKEND = default


def test_how_many_jobs() -> None:
    cpus = parallelkit.available_cpus()
    with joblib.parallel_config(backend="parallelkit"):
        assert joblib.effective_n_jobs(-1) == cpus
        assert joblib.effective_n_jobs(-2) == max(1, cpus - 1)
        assert joblib.effective_n_jobs(3) == 3
        with pytest.raises(ValueError, match="n_jobs == 0"):
            Parallel(n_jobs=0)([delayed(abs)(1)])
        assert pids(Parallel(n_jobs=1)([delayed(square)(1)])) == {os.getpid()}
        # Where nobody says a number, joblib's default is 1.
        assert pids(Parallel()([delayed(square)(1)])) == {os.getpid()}


@pytest.mark.usefixtures("backend")
def test_workers_stay_warm() -> None:
    first = Parallel(batch_size=1)(delayed(square)(x) for x in range(8))
    known = pids(first)
    for _ in range(3):
        known |= pids(Parallel(batch_size=1)(delayed(square)(x) for x in range(8)))
    with Parallel(n_jobs=2) as parallel:
        for _ in range(3):
            known |= pids(parallel(delayed(square)(x) for x in range(8)))
    known |= pids(Parallel(n_jobs=2, backend="parallelkit")(delayed(square)(x) for x in range(8)))
    assert len(known) == 2


def test_idle_workers_end() -> None:
    with joblib.parallel_config(backend="parallelkit", n_jobs=2, idle_worker_timeout=0.05):
        known = pids(Parallel()(delayed(square)(x) for x in range(4)))
        assert all(ended(pid) for pid in known)
        assert pids(Parallel()(delayed(square)(x) for x in range(4))).isdisjoint(known)


@pytest.mark.usefixtures("backend")
def test_lambdas_and_closures() -> None:
    base = 10
    assert Parallel()(delayed(lambda x: x + base)(x) for x in range(4)) == [10, 11, 12, 13]
    made = Parallel()([delayed(lambda x: lambda: x + base)(x) for x in range(2)])
    assert [function() for function in made] == [10, 11]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("how", ["generator", "generator_unordered"])
def test_generators(how: str) -> None:
    results = Parallel(return_as=how, batch_size=1)(delayed(square)(x) for x in range(30))
    values = [value for value, _ in results]
    assert sorted(values) == [x * x for x in range(30)]
    assert how != "generator" or values == sorted(values)


@pytest.mark.usefixtures("backend")
def test_a_call_within_the_generator_of_another() -> None:
    # The two share one backend, which loky's is not made for.
    results = Parallel(return_as="generator", batch_size=1, pre_dispatch=2)(
        delayed(square)(x) for x in range(6)
    )
    found = []
    for value, _ in results:
        with pytest.raises(OwnError):
            Parallel()(delayed(fail)(x) for x in [3])
        found += [value, Parallel()([delayed(abs)(-value)])[0]]
    assert found == [0, 0, 1, 1, 4, 4, 9, 9, 16, 16, 25, 25]


@pytest.mark.usefixtures("backend")
def test_a_dropped_generator_ends_its_work(tmp_path: Path) -> None:
    results = Parallel(return_as="generator", batch_size=1)(
        delayed(write_pid_and_sleep)(str(tmp_path), x) for x in [1, 2]
    )
    deadline = time.monotonic() + 30
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.warns(UserWarning, match="cancelled"):
        results.close()
    assert all(ended(int(path.name)) for path in tmp_path.iterdir())


@pytest.mark.usefixtures("backend")
def test_an_error_arrives_as_it_was() -> None:
    with pytest.raises(OwnError) as caught:
        Parallel()(delayed(fail)(x) for x in range(6))
    assert caught.value.args == (3,)
    assert caught.value.missing == "all"
    # joblib takes the traceback off: the worker's frames are that of the cause.
    cause = caught.value.__cause__
    assert cause is not None
    assert [frame.name for frame in traceback.extract_tb(cause.__traceback__)][-1] == "fail"
    assert Parallel()(delayed(fail)(x) for x in range(3)) == [0, 1, 2]


@pytest.mark.usefixtures("backend")
def test_an_error_names_its_batch() -> None:
    with pytest.raises(OwnError) as caught:
        Parallel(batch_size=2)(delayed(fail)(3) for _ in range(8))
    assert caught.value.__notes__ == ["parallelkit: in the call of fail and 1 more"]
    with pytest.raises(
        parallelkit.SerializationError, match=r"at args\[0\]\.items\[0\]\[1\]\[0\]"
    ) as refused:
        Parallel()([delayed(abs)(threading.Lock())])
    assert refused.value.__notes__ == ["parallelkit: in the call of abs"]


@pytest.mark.usefixtures("backend")
def test_verbose_names_the_backend(capsys: pytest.CaptureFixture[str]) -> None:
    Parallel(verbose=1)(delayed(abs)(x) for x in range(2))
    told = capsys.readouterr()
    assert "Using backend ParallelKitBackend" in told.out + told.err


@pytest.mark.parametrize(
    ("option", "value", "error"),
    [
        ("idle_worker_timeout", "300", TypeError),
        ("idle_worker_timeout", -1, ValueError),
        ("initializer", 3, TypeError),
        ("start_method", "thread", ValueError),
    ],
)
def test_wrong_options_are_refused(option: str, value: Any, error: type[Exception]) -> None:
    options = {option: value}
    with (
        joblib.parallel_config(backend="parallelkit", n_jobs=2, **options),
        pytest.raises(error, match=option),
    ):
        Parallel()([delayed(abs)(1)])
    assert not integration._kept


@pytest.mark.parametrize("seconds", [None, float("inf")])
def test_workers_that_are_to_stay_for_ever(seconds: float | None) -> None:
    with joblib.parallel_config(backend="parallelkit", n_jobs=2, idle_worker_timeout=seconds):
        assert Parallel()([delayed(abs)(-1)]) == [1]
        # No timer is there to be started, and to fail.
        assert not [thread for thread in threading.enumerate() if thread.name == "parallelkit-idle"]


@pytest.mark.usefixtures("backend")
def test_the_first_error_ends_what_runs(tmp_path: Path) -> None:
    with pytest.raises(OwnError):
        Parallel(batch_size=1)(delayed(write_pid_and_sleep)(str(tmp_path), x) for x in [1, 0])
    (path,) = tmp_path.iterdir()
    assert ended(int(path.name))


@pytest.mark.usefixtures("backend")
def test_a_death_is_an_error_and_the_next_call_works() -> None:
    with pytest.raises(parallelkit.WorkerDiedError, match="SIGKILL"):
        Parallel(batch_size=1)(delayed(die)(x) for x in range(6))
    assert Parallel()(delayed(die)(x) for x in range(3)) == [0, 1, 2]


@pytest.mark.usefixtures("backend")
def test_timeout_ends_what_runs(tmp_path: Path) -> None:
    calls = [delayed(write_pid_and_sleep)(str(tmp_path), x) for x in (1, 2)]
    Parallel()(delayed(abs)(x) for x in range(4))  # the workers are up
    with pytest.raises(multiprocessing.TimeoutError):
        Parallel(timeout=1.0, batch_size=1)(calls)
    assert all(ended(int(path.name)) for path in tmp_path.iterdir())


def test_options_of_ours() -> None:
    with (
        joblib.parallel_config(backend="parallelkit", n_jobs=2, task_timeout=0.5),
        pytest.raises(parallelkit.TaskTimeoutError),
    ):
        Parallel()(delayed(time.sleep)(60) for _ in range(2))
    with joblib.parallel_config(
        backend="parallelkit", n_jobs=2, initializer=os.putenv, initargs=("A", "1"), start_method="fork"
    ):
        assert pids(Parallel()([delayed(square)(1)])) != {os.getpid()}
    with pytest.raises(TypeError, match="no option 'max_worker'"):
        joblib.parallel_config(backend="parallelkit", max_worker=2)


def _boom() -> None:
    raise OwnError(1, missing="")


def test_an_initializer_that_fails_hangs_nobody() -> None:
    with (
        joblib.parallel_config(backend="parallelkit", n_jobs=2, initializer=_boom),
        pytest.raises(parallelkit.WorkerInitError),
    ):
        Parallel(batch_size=1)(delayed(abs)(x) for x in range(100))


@pytest.mark.usefixtures("backend")
def test_from_several_threads() -> None:
    results: dict[int, Any] = {}

    def call(number: int) -> None:
        with joblib.parallel_config(backend="parallelkit", n_jobs=2):
            results[number] = Parallel()(delayed(abs)(-x) for x in range(number, number + 20))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {number: list(range(number, number + 20)) for number in range(4)}


def nested(n_jobs: int, backend: str | None = None) -> tuple[list[tuple[int, int]], int]:
    results = Parallel(n_jobs=n_jobs, backend=backend)(delayed(where)(x) for x in range(4))
    return results, os.getpid()


def where(x: int) -> tuple[int, int]:
    time.sleep(0.05)  # so that all threads there are take part
    return os.getpid(), threading.get_ident()


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("name", [None, "parallelkit"])
def test_nested_calls_stay_within_the_workers_share(
    monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    monkeypatch.setenv(threadlimits.SHARE, "2")  # two workers on two CPUs: one each
    for results, pid in Parallel()(delayed(nested)(4, name) for _ in range(2)):
        assert len(set(results)) == 1
        assert results[0][0] == pid


@pytest.mark.usefixtures("backend")
def test_nested_calls_use_the_workers_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(threadlimits.SHARE, "4")
    for results, pid in Parallel()(delayed(nested)(4) for _ in range(2)):
        assert {where for where, _ in results} == {pid}
        assert len(set(results)) == 2  # threads


@pytest.mark.parametrize(("threads", "jobs"), [(1, 1), (3, 3)])
def test_nested_calls_use_the_inner_threads_that_were_asked_for(
    monkeypatch: pytest.MonkeyPatch, threads: int, jobs: int
) -> None:
    monkeypatch.setenv(threadlimits.SHARE, "4")  # two for each worker, if nobody said so
    with joblib.parallel_config(backend="parallelkit", n_jobs=2, inner_max_num_threads=threads):
        assert Parallel()([delayed(nested_jobs)(8)]) == [jobs]


def nested_jobs(n_jobs: int) -> int:
    return int(joblib.effective_n_jobs(n_jobs))


def blas_threads(_: int) -> list[int]:
    import numpy  # noqa: F401
    import threadpoolctl

    return [found["num_threads"] for found in threadpoolctl.threadpool_info() if found["user_api"] == "blas"]


def nested_blas_threads(_: int) -> list[list[int]]:
    import numpy  # noqa: F401
    import threadpoolctl  # noqa: F401

    found: list[list[int]] = Parallel(n_jobs=2)(delayed(blas_threads)(x) for x in range(2))
    return found


def test_numerical_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("threadpoolctl")
    cpus = parallelkit.available_cpus()
    with joblib.parallel_config(backend="parallelkit", n_jobs=cpus + 1):
        assert Parallel()(delayed(blas_threads)(x) for x in range(2)) == [[1], [1]]
    with joblib.parallel_config(backend="parallelkit", n_jobs=2, inner_max_num_threads=2):
        found = Parallel()(delayed(blas_threads)(x) for x in range(2))
        assert found == [[min(2, cpus)]] * 2
    monkeypatch.setenv(threadlimits.SHARE, "4")
    with joblib.parallel_config(backend="parallelkit", n_jobs=2):
        assert Parallel()(delayed(nested_blas_threads)(x) for x in range(2)) == [[[1], [1]]] * 2


@pytest.mark.usefixtures("backend")
def test_a_forked_child_has_workers_of_its_own() -> None:
    known = pids(Parallel()(delayed(square)(x) for x in range(4)))

    def in_child() -> set[int]:
        return pids(Parallel()(delayed(square)(x) for x in range(4)))

    process = parallelkit.get_context("fork").Process(target=in_child)
    process.start()
    found = process.result(timeout=40)
    assert found
    assert found.isdisjoint(known)
    assert process.pid not in found


def test_workers_that_are_not_wanted_any_more_end() -> None:
    for number in range(3):
        with joblib.parallel_config(backend="parallelkit", n_jobs=2, initializer=abs, initargs=[number]):
            Parallel()(delayed(abs)(x) for x in range(4))
        assert len(integration._kept) == len(integration._open) == 1


@pytest.mark.usefixtures("backend")
def test_large_arrays() -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(1_000_000.0)
    assert Parallel()(delayed(numpy.sum)(array + x) for x in range(4)) == [
        float((array + x).sum()) for x in range(4)
    ]
    back = Parallel()(delayed(numpy.negative)(array) for _ in range(2))
    assert all((result == -array).all() for result in back)


SCRIPT = """
import os
import joblib
import parallelkit.integrations.joblib
parallelkit.integrations.joblib.register()

class Mine(Exception):
    pass

class Pair:
    def __init__(self, x):
        self.x = x

def work(pair):
    if pair.x == 5:
        raise Mine(pair.x)
    return Pair(pair.x + 1), os.getpid()

with joblib.parallel_config(backend="parallelkit", n_jobs=2):
    results = joblib.Parallel()(joblib.delayed(work)(Pair(x)) for x in range(4))
    print([type(pair) is Pair and pair.x for pair, _ in results], os.getpid() in {pid for _, pid in results})
    try:
        joblib.Parallel()([joblib.delayed(work)(Pair(5))] * 2)
    except Mine as error:
        print(repr(error))
"""


def test_a_script_without_a_guard(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(SCRIPT)
    for command in ([sys.executable, str(program)], [sys.executable, "-c", SCRIPT]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
        assert done.stdout == "[1, 2, 3, 4] False\nMine(5)\n", done.stderr
        assert done.stderr == ""
