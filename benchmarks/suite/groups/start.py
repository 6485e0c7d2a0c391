"""How long it takes to begin: with the import, with two workers, with 64."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from .. import tasks
from ..contestants import (
    FORK,
    FORKSERVER,
    JOBLIB,
    LOKY,
    OUR_EXECUTOR,
    OUR_POOL,
    PEERS,
    POOL_MAP,
    SPAWN,
    Contestant,
    each,
    limit,
    slow,
)  # fmt: skip
from ..workloads import Figure, Round, Seat, Workload, mapping

_OURS = (POOL_MAP, OUR_POOL, OUR_EXECUTOR)
_MANY_WORKERS = 64
#: Each of the many has this to do, so that one of them does not do it all.
_TASK_SECONDS = 0.05
_IMPORT = "import sys, time; begin = time.perf_counter(); import {}; print(time.perf_counter() - begin)"


def _importing(name: str, kind: str, modules: str) -> Contestant:
    """A contestant that is only imported; its `open` is never called."""

    def unused(*_: object) -> Any:
        raise NotImplementedError(modules)

    return Contestant(name, kind, unused, ("",), keeps_workers=False)


_MODULES = {
    "multiprocessing and futures": "multiprocessing.pool, concurrent.futures.process",
    "parallelkit, unused": "parallelkit",
    # With the engine, which the first pool imports when it is opened.
    "parallelkit, used": "parallelkit, parallelkit.engines.processes.crew; parallelkit.Pool, "
    "parallelkit.ProcessPoolExecutor",
    "joblib": "joblib",
    "loky": "loky",
    "mpire": "mpire",
    "Pebble": "pebble",
}


@contextlib.contextmanager
def _import(seat: Seat) -> Iterator[Round]:
    def once() -> Figure:
        code = _IMPORT.format(_MODULES[seat.contestant.name])
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        return Figure(float(done.stdout))

    yield once


@contextlib.contextmanager
def _many(seat: Seat) -> Iterator[Round]:
    def life() -> list[int]:
        with seat.open(_MANY_WORKERS) as runner:
            return runner.map(tasks.pid, [_TASK_SECONDS] * _MANY_WORKERS, 1)

    def once() -> Figure:
        seen: list[int] = []

        def check(pids: list[int]) -> bool:
            seen[:] = pids
            return len(pids) == _MANY_WORKERS

        figure = seat.timed(life, check)
        return replace(figure, extras={"workers that worked": len(set(seen))})

    yield once


@contextlib.contextmanager
def _two_lives(seat: Seat) -> Iterator[Round]:
    """As a limit, two processes that end at once; all others have two items worked on."""
    if seat.contestant.kind != "limit":
        working = mapping(abs, lambda _: [-1, -2], lambda _, values: values == [1, 2], fresh=True)
        with working(seat) as once:
            yield once
        return

    def fork_both() -> None:
        children = []
        for _ in range(2):
            child = os.fork()
            if not child:
                os._exit(0)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)

    yield lambda: seat.timed(fork_both, lambda _: True)


def _two_items(method: str, **options: Any) -> Workload:
    limits = (limit("two bare forks"),) if method == FORK else ()
    return Workload(
        "start", f"two items, {method}", f"start, two items, stop ({method})",
        (*each((*PEERS, *_OURS), method), *limits), _two_lives, **options,
    )  # fmt: skip


def _many_workers(method: str, rounds: int, **options: Any) -> Workload:
    return Workload(
        "start", f"64 workers, {method}", f"{_MANY_WORKERS} workers, one task each, stop ({method})",
        slow(each((*PEERS, *_OURS), method), 1, JOBLIB.name, LOKY.name, rounds=1), _many,
        rounds=rounds, warmups=0,
        note=f"A task sleeps {1000 * _TASK_SECONDS:g} ms; who starts slowly needs fewer workers for all.",
        **options,
    )  # fmt: skip


WORKLOADS = (
    _two_items(FORK, rounds=15, quick_rounds=7),
    _two_items(FORKSERVER, rounds=9, note="The fork server itself is up.", quick=False),
    _two_items(SPAWN, rounds=5, quick=False),
    Workload(
        "start", "import", "import of the library, in a fresh interpreter",
        tuple(
            _importing(name, "ours" if name.startswith("parallelkit") else "peer", modules)
            for name, modules in _MODULES.items()
        ),
        _import, rounds=9, quick_rounds=5,
        note="What the `import` statement takes; the interpreter is up. The standard library's is "
        "`import multiprocessing.pool, concurrent.futures.process`. parallelkit imports a module when "
        "something of it is used first; *used* is with `Pool` and `ProcessPoolExecutor`.",
    ),
    _many_workers(FORK, 3, quick=False),
    _many_workers(FORKSERVER, 2, quick=False),
    _many_workers(SPAWN, 1, quick=False),
)  # fmt: skip
