"""What strikes: each costs the item that it strikes, and nothing else."""

from __future__ import annotations

import errno
import functools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tasks
from conftest import START_METHODS, Counting

import parallelkit
from faults import full_system, what_tasks
from faults.checks import check_failed, check_one_failed, fields, gone
from faults.faces import FACES
from parallelkit import Success, TaskTimeoutError, WorkerDiedError

#: What an exception is to be: its type, and some of its fields.
EXCEPTIONS: dict[str, tuple[type[BaseException], dict[str, Any]]] = {
    "exception": (ValueError, {"args": ("raised", 1)}),
    "base exception": (what_tasks.Beyond, {"args": ("beyond", 2)}),
    "keyboard interrupt": (KeyboardInterrupt, {}),
    "SIGINT": (KeyboardInterrupt, {}),
    "generator exit": (GeneratorExit, {}),
    "sys.exit": (SystemExit, {"code": "bye"}),
    "recursion": (RecursionError, {}),
    "memory": (MemoryError, {}),
    "full disk": (OSError, {"errno": errno.ENOSPC}),
    "file size": (OSError, {"errno": errno.EFBIG}),
    "descriptors": (OSError, {"errno": errno.EMFILE, "filename": "/dev/null"}),
}
#: How a worker is to have ended.
DEATHS: dict[str, dict[str, Any]] = {
    "os._exit 0": {"exitcode": 0, "signal": None},
    "os._exit 7": {"exitcode": 7, "signal": None},
    "libc exit": {"exitcode": 3, "signal": None},
    "abort": {"exitcode": -6, "signal": signal.SIGABRT},
    "SIGSEGV": {"exitcode": -11, "signal": signal.SIGSEGV},
    "SIGKILL": {"exitcode": -9, "signal": signal.SIGKILL},
    "SIGTERM": {"exitcode": -15, "signal": signal.SIGTERM},
}


def _between(names: Any) -> dict[int, str]:
    """Faults by the items that they strike, with sound items between them."""
    return {2 * at + 1: name for at, name in enumerate(names)}


def _strike(outcomes: Any, faults: dict[int, str], folder: Path, **options: Any) -> list[BaseException]:
    """The exceptions of the items that are struck; the others are sound, and the pool serves on."""
    folder.mkdir()
    work = functools.partial(what_tasks.work, str(folder), faults)
    got = outcomes(work, range(2 * len(faults) + 1), **options)
    errors = check_failed(got, faults, Counting(folder))
    assert outcomes(tasks.square, range(3)) == [Success(i, i * i) for i in range(3)]
    return errors


def _check_exceptions(faults: dict[int, str], errors: list[BaseException]) -> None:
    for (index, name), error in zip(faults.items(), errors, strict=True):
        kind, expected = EXCEPTIONS[name]
        assert type(error) is kind, name
        assert fields(error, *expected) == expected
        assert any(note.startswith("parallelkit: ") for note in error.__notes__), (index, name)


def test_an_exception(served: Any, tmp_path: Path) -> None:
    faults = _between(EXCEPTIONS)
    with served(max_workers=2) as outcomes:
        for chunksize in (None, 100):
            folder = tmp_path / f"chunks-{chunksize}"
            _check_exceptions(faults, _strike(outcomes, faults, folder, chunksize=chunksize))


@pytest.mark.parametrize("engine", ["threads", "serial"])
def test_an_exception_in_this_process(engine: str, tmp_path: Path) -> None:
    # Of a SIGINT, and in the serial engine of any KeyboardInterrupt, the main thread is to hear itself.
    theirs = {"SIGINT"} if engine == "threads" else {"SIGINT", "keyboard interrupt"}
    faults = _between([name for name in EXCEPTIONS if name not in theirs])
    with parallelkit.Pool(1, engine=engine) as pool:
        strike = functools.partial(pool.map, errors="return")
        _check_exceptions(faults, _strike(strike, faults, tmp_path / "ran"))


def test_a_death(served: Any, start_method: str, tmp_path: Path) -> None:
    # Large chunks have neighbours before and behind; small ones are what one gets unasked.
    chunksizes = [100, None] if start_method == "fork" else [100]
    faults = _between(DEATHS)
    with served(max_workers=2) as outcomes:
        for chunksize in chunksizes:
            folder = tmp_path / f"chunks-{chunksize}"
            errors = _strike(outcomes, faults, folder, chunksize=chunksize)
            for (index, name), error in zip(faults.items(), errors, strict=True):
                assert isinstance(error, WorkerDiedError), name
                assert (error.index, error.started) == (index, True)
                assert fields(error, *DEATHS[name]) == DEATHS[name]
                assert error.pid
                gone([error.pid])


# A worker that is stopped for ever. It takes the time-out, so each face has its turn under one start method.
STOPS = [("Pool.map", method) for method in START_METHODS]
STOPS += [(face, "fork") for face in FACES if face != "Pool.map" and "fork" in START_METHODS]


@pytest.mark.parametrize(("name", "method"), STOPS)
def test_a_stopped_worker(name: str, method: str, tmp_path: Path) -> None:
    faults = {1: "SIGSTOP"}
    with FACES[name](method, max_workers=2) as outcomes:
        (error,) = _strike(outcomes, faults, tmp_path / "ran", task_timeout=0.7, chunksize=100)
    assert isinstance(error, TaskTimeoutError)
    assert fields(error, "index", "timeout") == {"index": 1, "timeout": 0.7}
    assert error.pid
    gone([error.pid])


def test_closed_descriptors_lose_no_result(served: Any, counting: Counting) -> None:
    """The worker cannot speak any more and ends; what it has done is in its page."""
    work = functools.partial(what_tasks.work, str(counting.folder), {2: "closed descriptors"})
    with served(max_workers=1) as outcomes:
        assert outcomes(work, range(6), chunksize=100) == [Success(i, i) for i in range(6)]
        assert counting.runs() == {str(index): 1 for index in range(6)}
        # But for what is too large for the page.
        got = outcomes(what_tasks.close_and_return, [0, 1 << 20, 0], chunksize=100)
        error = check_one_failed(got, 1, value=lambda _: b"")
        assert isinstance(error, WorkerDiedError)
        assert (error.started, error.signal) == (True, None)
        assert outcomes(tasks.square, range(3)) == [Success(i, i * i) for i in range(3)]


def _run_short(arguments: Sequence[str], folder: Path, prefix: Sequence[str] = ()) -> None:
    """Run the program that runs short. A fork server may say on standard error what it thinks of that."""
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tests), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "faults.scarce_program", *arguments],
        env={**os.environ, "PYTHONPATH": path, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.parametrize(
    "error_name",
    [
        "EMFILE",
        pytest.param(
            "ENFILE", marks=pytest.mark.skipif(not full_system.AVAILABLE, reason="no filter for it")
        ),
    ],
)
@pytest.mark.parametrize(
    "what",
    ["descriptors", "last_descriptors", "kills", "ends", "processes", "stubborn_processes", "new_pool"],
)
def test_no_descriptor_is_left(what: str, error_name: str, start_method: str, tmp_path: Path) -> None:
    """The parent can open nothing: its own table of open files is full, or the system's."""
    _run_short([what, start_method, error_name], tmp_path)
    if (tmp_path / "started").exists():
        gone([int((tmp_path / "started").read_text())])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs RLIMIT_AS")
@pytest.mark.parametrize("what", ["result", "item"])
def test_what_does_not_fit_into_memory(what: str, start_method: str, tmp_path: Path) -> None:
    """A result has no room in the parent, an item none in a worker."""
    _run_short([what, start_method], tmp_path)


@pytest.mark.skipif("forkserver" not in START_METHODS, reason="there is none")
def test_a_fork_server_that_is_killed(tmp_path: Path) -> None:
    _run_short(["server", "forkserver"], tmp_path)


#: A small disk of its own, which needs no privileges where users may have name spaces.
_SMALL_DISK = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=64k none "$0" && exec "$@"']


def test_a_full_disk(start_method: str, tmp_path: Path) -> None:
    small = [*_SMALL_DISK, str(tmp_path)]
    if (
        not shutil.which("unshare")
        or subprocess.run([*small, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("no small disk can be mounted here")
    _run_short(["disk", start_method], tmp_path, small)
