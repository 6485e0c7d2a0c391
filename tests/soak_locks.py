"""Kill processes at random moments while they use a lock, and see that it stays a lock.

    python tests/soak_locks.py --kind Lock --kills 200 --seed 1 --threads 2

Invariants: never are two inside; whoever gets in after one that was killed inside knows it; the
survivors go on.
"""

from __future__ import annotations

import argparse
import mmap
import multiprocessing
import multiprocessing.process
import os
import random
import signal
import struct
import threading
import time
from dataclasses import dataclass, field

import parallelkit.resources
import parallelkit.synchronize

_WORKERS = 4
#: Nobody got in for so long: a hang. In seconds.
_PATIENCE = 20.0
_STOP, _INSIDE, _COUNT, _FAULT, _FIRST = range(5)
_FORK = multiprocessing.get_context("fork")


class Numbers:
    """Shared whole numbers, each with one writer at a time."""

    def __init__(self, count: int) -> None:
        self._memory = mmap.mmap(-1, 8 * count)

    def __getitem__(self, index: int) -> int:
        return int(struct.unpack_from("q", self._memory, 8 * index)[0])

    def __setitem__(self, index: int, value: int) -> None:
        struct.pack_into("q", self._memory, 8 * index, value)


@dataclass
class Report:
    kills: int = 0
    passes: int = 0
    abandoned: int = 0
    longest_stop: float = 0.0
    faults: list[str] = field(default_factory=list)


_FAULTS = {
    1: "two were inside",
    2: "a process was inside when another got in, and it was not said to be abandoned",
    3: "abandoned by a process that lives",
}


class Soak:
    """Workers that count under a lock, and one who kills them."""

    def __init__(self, kind: str, *, threads: int, seed: int) -> None:
        self.kind = kind
        self.condition = parallelkit.synchronize.Condition()
        made = parallelkit.synchronize.Lock() if kind == "Lock" else parallelkit.synchronize.RLock()
        self.lock = self.condition._lock if kind == "Condition" else made
        self.threads = threads
        self.random = random.Random(seed)
        self.numbers = Numbers(_FIRST + 2 * _WORKERS * threads)
        self.report = Report()

    def run(self, kills: int) -> Report:
        workers = [self._start(index) for index in range(_WORKERS)]
        try:
            for _ in range(kills):
                time.sleep(self.random.uniform(0.0, 0.004))
                index = self.random.randrange(_WORKERS)
                workers[index].kill()
                workers[index].join()
                if workers[index].exitcode != -signal.SIGKILL:
                    self.report.faults.append(f"a worker ended with {workers[index].exitcode}")
                    break
                self.report.kills += 1
                if not self._goes_on():
                    self.report.faults.append(f"nobody gets in after kill {self.report.kills}")
                    break
                workers[index] = self._start(index)
            self.numbers[_STOP] = 1
            with self.condition:
                self.condition.notify_all()
            for worker in workers:
                worker.join(_PATIENCE)
                if worker.exitcode != 0:
                    self.report.faults.append(f"a worker ended with {worker.exitcode}")
        finally:
            for worker in workers:
                worker.kill()
                worker.join()
        if self.numbers[_FAULT]:
            self.report.faults.append(_FAULTS[self.numbers[_FAULT]])
        mine = [self.numbers[i] for i in range(_FIRST, _FIRST + 2 * _WORKERS * self.threads)]
        self.report.passes, self.report.abandoned = sum(mine[::2]), sum(mine[1::2])
        return self.report

    def _goes_on(self) -> bool:
        start, count = time.monotonic(), self.numbers[_COUNT]
        while self.numbers[_COUNT] == count:
            if time.monotonic() - start > _PATIENCE:
                return False
            time.sleep(0.0005)
        self.report.longest_stop = max(self.report.longest_stop, time.monotonic() - start)
        return True

    def _start(self, index: int) -> multiprocessing.process.BaseProcess:
        process = _FORK.Process(target=self._work, args=(index, self.random.random()))
        process.start()
        return process

    def _work(self, index: int, seed: float) -> None:
        threads = [
            threading.Thread(target=self._loop, args=(index * self.threads + number, seed + number))
            for number in range(self.threads)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _loop(self, place: int, seed: float) -> None:
        chance = random.Random(seed)
        while not self.numbers[_STOP]:
            if self.kind == "Condition":
                self._wait_or_notify(place, chance)
                continue
            how = chance.random()
            if how < 0.6:
                got = self.lock.acquire()
            elif how < 0.8:
                got = self.lock.acquire(timeout=0.002)
            else:
                got = self.lock.acquire(False)
            if got:
                self._inside(place, chance)
                self.lock.release()

    def _wait_or_notify(self, place: int, chance: random.Random) -> None:
        # Half of the workers only notify, so that nobody waits for ever.
        with self.condition:
            self._inside(place, chance)  # before a wait, as that gives the lock to one who is not told
            if place >= self.threads * _WORKERS // 2:
                self.condition.notify(chance.choice([1, 1, 100]))
            elif not self.numbers[_STOP]:
                self.condition.wait()
            self._inside(place, chance)

    def _inside(self, place: int, chance: random.Random) -> None:
        numbers = self.numbers
        if self.kind == "RLock" and chance.random() < 0.3:
            with self.lock:
                return self._inside(place, chance)
        before, abandoned = numbers[_INSIDE], self.lock.abandoned
        if before and not abandoned:
            numbers[_FAULT] = 2
        if before and abandoned and parallelkit.resources.is_alive(before >> 8):
            numbers[_FAULT] = 3
        me = (os.getpid() << 8) + place
        numbers[_INSIDE] = me
        count = numbers[_COUNT]
        if chance.random() < 0.2:
            os.sched_yield()
        numbers[_COUNT] = count + 1
        if numbers[_INSIDE] != me:
            numbers[_FAULT] = 1
        numbers[_INSIDE] = 0
        numbers[_FIRST + 2 * place] += 1
        numbers[_FIRST + 2 * place + 1] += abandoned
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kind", choices=["Lock", "RLock", "Condition"], default="Lock")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    report = Soak(options.kind, threads=options.threads, seed=options.seed).run(options.kills)
    print(options.kind, report)
    raise SystemExit(bool(report.faults))


if __name__ == "__main__":
    main()
