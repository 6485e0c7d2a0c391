"""How many threads numerical libraries may use in a worker: its share of the CPUs.

Each of these libraries starts a thread for each CPU. With n workers on c CPUs that is n times too many, so a
worker of such a pool gets c // n of them, and at least one.

1. The libraries read an environment variable when they are loaded. A worker's environment is set before
   `__main__` is imported there (spawn, forkserver) or right after the fork; its children inherit it. The
   parent's own is never changed.
2. A library that was loaded before (by the parent of a forked worker, or in a fork server) does not read it
   again. threadpoolctl can tell it, where that is installed.
3. What the user has set himself stays. OpenBLAS, MKL, BLIS and numexpr follow OMP_NUM_THREADS where their own
   variable is not set, so that counts for them, too.
4. In a worker, PARALLELKIT_THREADS is the share that it was given. A pool within a worker shares out that and
   not all CPUs, and tells by it which variables are not the user's.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from .resources import available_cpus

#: A number of threads; None: a share of the CPUs; "inherit": workers have what a child process has by itself.
Threads: TypeAlias = int | Literal["inherit"] | None

#: In a worker: how many threads it was given.
SHARE = "PARALLELKIT_THREADS"
_OPENMP = "OMP_NUM_THREADS"
#: What each variable is called among threadpoolctl's libraries, where that knows it.
_APIS = {
    _OPENMP: "openmp",
    "OPENBLAS_NUM_THREADS": "openblas",
    "MKL_NUM_THREADS": "mkl",
    "BLIS_NUM_THREADS": "blis",
    "NUMEXPR_NUM_THREADS": "",
    "NUMBA_NUM_THREADS": "",
    "VECLIB_MAXIMUM_THREADS": "",
}
_KMP = "KMP_DUPLICATE_LIB_OK"
#: All that a worker's environment says of threads.
VARIABLES = (SHARE, *_APIS)
#: Whose libraries look at OMP_NUM_THREADS where their own is not set.
_FOLLOWERS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
#: Without one of these no numerical library is loaded.
_CARRIERS = ("numpy", "torch", "mkl")


@dataclass(frozen=True, slots=True)
class ThreadLimits:
    """What a worker is told of threads.

    count: how many. environment: all variables. theirs: those of them that the user has set. exact: whether
    `count` also counts where a library has fewer threads already.
    """

    count: int
    environment: Mapping[str, str]
    theirs: frozenset[str] = frozenset()
    exact: bool = False


def limits(threads: Threads, workers: int) -> ThreadLimits | None:
    """What each of so many workers is told; None for nothing.

    >>> limits(2, workers=8).environment["OPENBLAS_NUM_THREADS"]
    '2'
    """
    if threads == "inherit":
        return None
    if threads is not None:
        return ThreadLimits(threads, dict.fromkeys(VARIABLES, str(threads)), exact=True)
    count = share(workers)
    theirs = _set_by_user()
    environment = dict.fromkeys(VARIABLES, str(count)) | theirs
    return ThreadLimits(count, environment, frozenset(theirs))


def share(workers: int) -> int:
    """How many threads each of so many workers may use: its part of the CPUs, and at least one.

    >>> share(workers=10_000)
    1
    """
    given = _given()
    if given is None:
        # Mostly there are as many workers as CPUs; to read the quota costs more than all the rest here.
        if hasattr(os, "sched_getaffinity") and workers >= len(os.sched_getaffinity(0)):
            return 1
        given = available_cpus()
    return max(1, given // workers)


def budget() -> int:
    """How many threads this process may use: in a worker its share, elsewhere the CPUs."""
    return _given() or available_cpus()


def _given() -> int | None:
    text = os.environ.get(SHARE, "")
    return int(text) if text.isdecimal() and int(text) else None


def _set_by_user() -> dict[str, str]:
    ours = os.environ.get(SHARE)
    found = {name: value for name in _APIS if (value := os.environ.get(name)) not in (None, "", ours)}
    if _OPENMP in found:
        first = found[_OPENMP].partition(",")[0]  # "4,2": what follows is for nested parallel regions
        found = dict.fromkeys(_FOLLOWERS, first) | found
    return found


def enforce(told: ThreadLimits, *, loaded: bool) -> None:
    """In a worker: keep to it. `loaded`: libraries may have been loaded with other limits."""
    parallel = sys.modules.get("numba.np.ufunc.parallel")
    environment = dict(told.environment)
    if getattr(parallel, "_is_initialized", False):
        # numba's threads are there: it refuses to compile where this has changed.
        environment.pop("NUMBA_NUM_THREADS")
        _limit_running_numba(told)
    os.environ.update(environment)
    if loaded:
        if "NUMBA_NUM_THREADS" in environment and "numba" in sys.modules:
            _limit_numba(parallel)
        _limit_libraries(told)


def _limit_running_numba(told: ThreadLimits) -> None:
    if "NUMBA_NUM_THREADS" not in told.theirs:
        numba: Any = sys.modules["numba"]
        numba.set_num_threads(min(told.count, numba.config.NUMBA_NUM_THREADS))


def _limit_numba(parallel: Any) -> None:
    config: Any = sys.modules["numba.core.config"]
    config.reload_config()
    if hasattr(parallel, "NUM_THREADS"):
        parallel.NUM_THREADS = config.NUMBA_NUM_THREADS


def _limit_libraries(told: ThreadLimits) -> None:
    spinning = False
    for library in _loaded_libraries():
        has = library.num_threads or told.count
        count = told.count if told.exact else min(told.count, has)
        if count == has or any(library.internal_api == _APIS[name] for name in told.theirs):
            continue
        library.set_num_threads(count)
        if library.internal_api == "openblas":
            # It has started threads for all CPUs now, whatever the number, and each spins for some 25 ms of
            # CPU time. By this it ends them before each fork, and it starts them anew when it needs them.
            end = getattr(library.dynlib, "blas_thread_shutdown_", None)
            if end is not None:
                end()
            spinning = spinning or end is None
    if spinning and os.path.isdir("/proc/self/task") and len(os.listdir("/proc/self/task")) > 1:
        _fork_in_vain()


def _fork_in_vain() -> None:
    """Have OpenBLAS do what it does before each fork, where it does not export that (since 0.3.34)."""
    import ctypes

    pid = ctypes.CDLL(None).fork()  # not Python's, which has more to see to
    if pid == 0:
        os._exit(0)
    if pid > 0:
        with contextlib.suppress(ChildProcessError):  # SIGCHLD is ignored
            os.waitpid(pid, 0)


_libraries: list[Any] = []
_seen = -1


def look() -> None:
    """Before a fork: what each child would have to do by itself."""
    _loaded_libraries()


def _loaded_libraries() -> list[Any]:
    """The numerical libraries that are loaded and can be told: threadpoolctl's controllers of them."""
    global _libraries, _seen
    if not any(name in sys.modules for name in _CARRIERS):
        return []
    try:
        controller = _controller()
    except ImportError:
        return []
    if _seen != len(sys.modules):  # libraries come with modules
        _libraries = controller().lib_controllers
        _seen = len(sys.modules)
    return _libraries


def _controller() -> Any:
    """The class of threadpoolctl's. Its import sets a variable of Intel's OpenMP, which is taken back."""
    unset = _KMP not in os.environ
    from threadpoolctl import ThreadpoolController

    if unset:
        os.environ.pop(_KMP, None)
    return ThreadpoolController
