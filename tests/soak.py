"""Random work with random faults on one long-lived pool, and a model of what has to come out.

    python tests/soak.py --seconds 600 --seed 1 --method fork

Several threads use the pool through its different calls. Their items die, fail, get stuck, and give back what
cannot be sent; workers are killed from outside, too; calls run out of time, are cancelled, or are left
half way. For each item it is known what may come out. Now and then all is quiet, and the parent has to have
the descriptors, threads, children and memory that it had before. The seed determines what is done, but not
when: two runs are alike, and not the same.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import ctypes
import faulthandler
import gc
import itertools
import os
import random
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import psutil
from soak_plans import DEATHS, NUMBERED, RAISED, STUCK, TASK_TIMEOUT, Notes, Plan, judge, work, work_on

import parallelkit
from parallelkit import CallTimeoutError, ClosedError, Failure, Success, TaskTimeoutError, WorkerDiedError

_WORKERS, _THREADS = 4, 4
#: It is a hang, or a leak, when nothing has happened for so long; in seconds.
_PATIENCE = 60.0
#: Who reports, and looks whether something is leaking, does so every so many seconds.
_REPORT_SECONDS = 30.0
#: With so many wrong outcomes there is no point in going on.
_WRONG_MOST = 50
#: A task that is suspended in the midst of its first line notes its beginning that much too late, in seconds.
_SUSPENDED_SECONDS = 5.0
#: The parent may grow by so many bytes from the second third of the time to the last.
_GROWTH_MOST = 64 << 20


class Soak:
    """A pool, the threads that use it, and what is known of both."""

    def __init__(self, method: str, seed: int, folder: str) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        lifetime = self.random.choice([None, 50])
        self.pool = parallelkit.Pool(_WORKERS, start_method=method, maxtasksperchild=lifetime)
        self.notes = Notes(folder)
        self.numbers = itertools.count(1)
        self.seen: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []
        self.leaks: list[str] = []
        self.killed: dict[int, set[int]] = collections.defaultdict(set)
        self.stop = False
        self._struck_young = 0.0
        self._lock = threading.Condition()
        self._active: dict[int, float] = {}
        self._paused = False
        self._baseline: dict[str, int] = {}

    # One call

    def call(self, chance: random.Random) -> None:
        """One call of the pool, with its items judged."""
        options: dict[str, Any] = {"retries": chance.choice([0, 0, 0, 1, 2])}
        if chance.random() < 0.5:
            options["task_timeout"] = TASK_TIMEOUT
        if chance.random() < 0.1:
            options["timeout"] = chance.choice([0.05, 0.5, 2.0])
        plans = self._plans(chance, stuck="task_timeout" in options)
        begin = time.monotonic()
        kind = chance.choice([self._map, self._starmap, self._imap, self._apply, self._map_async])
        left = {plan.number: plan for plan in plans}
        try:
            for index, outcome in kind(chance, plans, options):
                plan = left.pop(plans[index].number)
                self._take(plan, index, outcome, options, single=kind == self._apply)
        except CallTimeoutError as error:
            self._count("call timeout")
            if "timeout" not in options or time.monotonic() - begin < options["timeout"] == error.timeout:
                self._complain(
                    f"{kind.__name__} ran out of time after {time.monotonic() - begin} s: {error!r}"
                )
        except ClosedError as error:
            if "cancelled" not in str(error):
                self._complain(f"{kind.__name__}: {error!r}")
        except BaseException as error:  # noqa: BLE001, RUF100 - whatever it is, it is wrong
            self._complain(f"{kind.__name__} raised {error!r} from {error.__cause__!r}")
        for number in left:
            self.notes.end(number, _SUSPENDED_SECONDS)
        self._count("call")

    def _plans(self, chance: random.Random, *, stuck: bool) -> list[Plan]:
        rate = chance.choice([0.0, 0.0, 0.05, 0.3, 1.0])
        faults = [*DEATHS, *RAISED, *(STUCK if stuck else ())]
        plans = []
        for _ in range(chance.choice([1, 2, 5, 10, 40, 200 if rate < 0.1 else 20])):
            what = chance.choice(faults) if chance.random() < rate else "value"
            if what == "value" and chance.random() < 0.1:
                what = "slow"
            if chance.random() < 0.01:
                what = chance.choice(["bytes", "array"])
            if what in STUCK and chance.random() < 0.8:
                what = "value"  # each of them takes a worker for a second
            size = chance.uniform(0, 0.2) if what == "slow" else chance.randint(1 << 20, 50 << 20)
            payload = bytes(chance.choice([0, 0, 0, 100, 10_000] if chance.random() < 0.99 else [10_000_000]))
            plans.append(Plan(self.folder, next(self.numbers), what, size, payload))
        return plans

    def _map(self, chance: random.Random, plans: list[Plan], options: dict[str, Any]) -> Iterator[Any]:
        yield from enumerate(
            self.pool.map(work, plans, chance.choice([None, 1, 7]), errors="return", **options)
        )

    def _starmap(self, chance: random.Random, plans: list[Plan], options: dict[str, Any]) -> Iterator[Any]:
        pairs = [(plan._replace(number=plan.number - 1), 1) for plan in plans]
        yield from enumerate(self.pool.starmap(work_on, pairs, errors="return", **options))

    def _map_async(self, chance: random.Random, plans: list[Plan], options: dict[str, Any]) -> Iterator[Any]:
        ended = threading.Event()
        call = self.pool.map_async(
            work, plans, None, lambda _: ended.set(), lambda _: ended.set(), errors="return", **options
        )
        if chance.random() < 0.3:
            ended.wait(chance.uniform(0, 0.2))
            call.cancel()
            self._count("cancelled call")
        if not ended.wait(10 * _PATIENCE):
            self._complain("a callback was not called")
        yield from enumerate(call.get())

    def _imap(self, chance: random.Random, plans: list[Plan], options: dict[str, Any]) -> Iterator[Any]:
        call: Any = chance.choice([self.pool.imap, self.pool.imap_unordered])
        source = chance.choice([plans, iter(plans)])
        size, chunk = chance.choice([None, 3, 50]), chance.choice([1, 5])
        most = chance.randrange(len(plans)) if chance.random() < 0.3 else len(plans) + 1
        with call(work, source, chunk, buffersize=size, errors="return", **options) as results:
            for outcome in itertools.islice(results, most):
                yield outcome.index, outcome
        if most <= len(plans):
            self._count("closed iterator")

    def _apply(self, chance: random.Random, plans: list[Plan], options: dict[str, Any]) -> Iterator[Any]:
        del plans[20:]
        calls = [self.pool.apply_async(work, (plan,), **options) for plan in plans]
        cancelled = set()
        if chance.random() < 0.3:
            time.sleep(chance.uniform(0, 0.1))
            cancelled = set(chance.sample(range(len(plans)), len(plans) // 2))
            for index in cancelled:
                calls[index].cancel()
        for index, call in enumerate(calls):
            try:
                yield index, Success(index, call.get())
            except (ClosedError, CallTimeoutError) as error:
                if isinstance(error, ClosedError) != (index in cancelled) and "timeout" not in options:
                    self._complain(f"a call that was not cancelled, or has no timeout: {error!r}")
                self._count("cancelled call" if index in cancelled else "call timeout")
            except BaseException as error:  # noqa: BLE001, RUF100 - a task's SystemExit is an outcome, too
                yield index, Failure(index, error)

    def _take(self, plan: Plan, index: int, outcome: Any, options: dict[str, Any], *, single: bool) -> None:
        """Judge one outcome."""
        begun = self.notes.begun(plan.number)
        self.notes.end(plan.number)
        error = None if outcome.ok else outcome.exception
        struck = isinstance(error, WorkerDiedError) and error.signal in self.killed.get(error.pid or 0, ())
        complaint = judge(plan, outcome, len(begun), options["retries"], struck)
        place = None if single else index
        if outcome.index != index or (isinstance(error, NUMBERED) and error.index != place):
            complaint = complaint or "has a wrong index"
        if isinstance(error, TaskTimeoutError) and plan.what not in STUCK:
            self._count("late")  # the machine was busy: but not before its time
            if begun and time.monotonic() - begun[-1] < TASK_TIMEOUT - 0.1:
                complaint = complaint or "was ended too early"
        if complaint:
            cause = error and error.__cause__
            self._complain(f"{plan[1:4]} {complaint}: {error!r} from {cause!r} begun {begun} {options}")
        self._count("struck from outside" if struck and plan.what not in DEATHS else plan.what)

    def _count(self, what: str) -> None:
        with self._lock:
            self.seen[what] += 1

    def _complain(self, text: str) -> None:
        self.wrong.append(text)
        print("WRONG:", text, flush=True)
        self.stop = self.stop or len(self.wrong) > _WRONG_MOST

    # Threads

    def work(self, seed: float) -> None:
        """Call the pool again and again."""
        chance = random.Random(seed)
        while self._enter():
            try:
                self.call(chance)
            finally:
                self._leave()

    def strike(self, seed: float) -> None:
        """Kill a worker, or suspend one for a moment, again and again."""
        chance = random.Random(seed)
        while self._enter():
            try:
                pids = []
                for process in self.pool._pool:
                    with contextlib.suppress(ValueError):  # it was just closed
                        pids.append(process.pid)
                how = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, 0])
                victim = chance.choice(pids) if pids else None
                if victim is not None and self._may_be_struck(victim):
                    self._strike(victim, how, chance)
            finally:
                self._leave()
            time.sleep(chance.choice([0.0, 0.1, 0.5, 1.0]))

    def _may_be_struck(self, pid: int) -> bool:
        """Not one worker after the other that is not up yet: after three in a row a pool gives up."""
        if self.notes.is_up(pid):
            return True
        if not self.notes.has_one_come_up(self._struck_young):
            return False
        self._struck_young = time.monotonic()
        return True

    def _strike(self, pid: int, how: int, chance: random.Random) -> None:
        with contextlib.suppress(ProcessLookupError):
            if how:
                self.killed[pid].add(how)
                os.kill(pid, how)
                self._count("killed from outside")
                return
            os.kill(pid, signal.SIGSTOP)
            try:
                time.sleep(chance.uniform(0, 0.3))
            finally:
                os.kill(pid, signal.SIGCONT)
                self._count("suspended from outside")

    def _enter(self) -> bool:
        with self._lock:
            while self._paused:
                self._lock.wait()
            if not self.stop:
                self._active[threading.get_ident()] = time.monotonic()
            return not self.stop

    def _leave(self) -> None:
        with self._lock:
            del self._active[threading.get_ident()]
            self._lock.notify_all()

    # Quiet moments

    def look(self) -> None:
        """Let all come to rest, and see what there is."""
        with self._lock:
            self._paused = True
            stats = self.pool.stats()
            while not self._lock.wait_for(lambda: not self._active, _PATIENCE):
                before, stats = stats, self.pool.stats()
                if (stats.outstanding, stats.retried) == (before.outstanding, before.retried):
                    _hang(f"a call does not come to its end: {stats}")
        gc.collect()
        if late := self.notes.take_late():
            self._complain(f"{len(late)} items ran after their end, such as {late[:5]}")
        deadline = time.monotonic() + _PATIENCE
        while (now := self._measure()) != self._baseline and time.monotonic() < deadline:
            if not self._baseline and now["workers"] == _WORKERS:
                time.sleep(1.0)  # threads and processes of the beginning end meanwhile
                if now == self._measure():
                    self._baseline = now
            time.sleep(0.05)
        if now != self._baseline:
            self.leaks.append(f"{now} instead of {self._baseline}")
            print("LEAK:", self.leaks[-1], flush=True)
        with self._lock:
            self._paused = False
            self._lock.notify_all()

    def _measure(self) -> dict[str, int]:
        self.pool._repopulate_pool()
        self.pool.apply(abs, (0,))  # so that somebody sees to those workers that have just ended
        strays = 0
        for process in psutil.process_iter(["cmdline"]):
            strays += self.folder in (process.info["cmdline"] or ())
        return {
            "workers": self.pool.stats().workers,
            "descriptors": len(os.listdir("/proc/self/fd")),
            "threads": threading.active_count(),
            "children": len(psutil.Process().children(recursive=True)),
            "strays": strays,
        }

    def report(self, begin: float) -> int:
        """Print a line; return the bytes that the parent holds."""
        with contextlib.suppress(AttributeError):  # what is free, and not given back, is no leak
            ctypes.CDLL(None).malloc_trim(0)
        size = psutil.Process().memory_info().rss
        stats, calls = self.pool.stats(), self.seen["call"]
        print(
            f"{time.monotonic() - begin:5.0f} s: {calls} calls, {self.seen.total() - calls} items, "
            f"{stats.started} workers, {stats.lost} lost, {len(self.wrong)} wrong, {len(self.leaks)} leaks, "
            f"{size >> 20} MiB",
            flush=True,
        )
        return size

    def run(self, seconds: float) -> None:
        """Use the pool for so long."""
        begin = time.monotonic()
        users: list[Callable[[float], None]] = [*[self.work] * _THREADS, self.strike]
        threads = [threading.Thread(target=user, args=(self.random.random(),)) for user in users]
        for thread in threads:
            thread.start()
        sizes = []
        while (left := begin + seconds - time.monotonic()) > 0 and not self.stop:
            time.sleep(min(left, _REPORT_SECONDS if self._baseline else 5.0))
            self.look()
            sizes.append(self.report(begin))
        self.stop = True
        for thread in threads:
            thread.join(10 * _PATIENCE)
            if thread.is_alive():
                _hang("a thread does not come to its end")
        third = len(sizes) // 3
        if third > 1 and median(sizes[-third:]) - median(sizes[third:-third]) > _GROWTH_MOST:
            self.leaks.append(f"memory: {[size >> 20 for size in sizes]} MiB")
        self._finish()

    def _finish(self) -> None:
        faulthandler.dump_traceback_later(_PATIENCE, exit=True)
        try:
            self.pool.close()
            self.pool.join()
        except BaseException as error:  # noqa: BLE001, RUF100 - all failures were retrieved: there are none
            self._complain(f"join raised {error!r}")
        faulthandler.cancel_dump_traceback_later()
        self.notes.close()


def _hang(text: str) -> None:
    faulthandler.dump_traceback()
    print("HANG:", text, flush=True)
    os._exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--method", choices=["fork", "forkserver", "spawn"], default="fork")
    options = parser.parse_args()
    faulthandler.register(signal.SIGUSR1)
    print(f"soak: seed {options.seed}, {options.method}, {options.seconds:g} s", flush=True)
    folder = tempfile.mkdtemp()
    try:
        soak = Soak(options.method, options.seed, folder)
        soak.run(options.seconds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for what, count in sorted(soak.seen.items()):
        print(f"{count:8} {what}")
    print(f"{len(soak.wrong)} wrong outcomes, {len(soak.leaks)} leaks: {soak.wrong[:10]} {soak.leaks[:10]}")
    raise SystemExit(bool(soak.wrong or soak.leaks))


if __name__ == "__main__":
    main()
