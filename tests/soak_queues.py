"""Kill readers and writers of a queue at random moments, and look at what is left.

    python tests/soak_queues.py --kills 200 --seed 1

Each setting (kind of queue, `maxsize`, size of an item) sees so many kills. Items are numbered by writer. A
writer notes in shared memory which item it is about to put and which `put` has accepted; a reader writes
down each item that it got, in a file of its own. After the kills it must hold:

- the survivors go on, to the end;
- no item was got twice, none that was not put, and none is damaged; those of one writer come in order;
- each item that `put` accepted was got, but for one that each killed reader may have taken with it.
"""

from __future__ import annotations

import argparse
import mmap
import multiprocessing
import os
import random
import signal
import struct
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from typing import Any

from parallelkit.queues import JoinableQueue, Queue, SimpleQueue

_ENTRY = struct.Struct("<II")
_PATIENCE = 20.0


@dataclass(frozen=True)
class Setting:
    name: str
    kind: type[Any] = Queue
    maxsize: int | None = 0
    size: int = 0


SETTINGS = (
    Setting("unbounded, small"),
    Setting("maxsize 1, small", maxsize=1),
    Setting("maxsize 4, 100 KB", maxsize=4, size=100_000),
    Setting("maxsize 1, 1 MB", maxsize=1, size=1 << 20),
    Setting("maxsize 8, 1 MB", maxsize=8, size=1 << 20),
    Setting("joinable, maxsize 3", kind=JoinableQueue, maxsize=3, size=10),
    Setting("simple", kind=SimpleQueue, maxsize=None, size=300),
)


@dataclass
class Figures:
    kills: int = 0
    accepted: int = 0
    got: int = 0
    lost: int = 0
    killed_readers: int = 0
    by_setting: dict[str, tuple[int, int, int]] = field(default_factory=dict)


def _payload(writer: int, number: int, size: int) -> bytes:
    return struct.pack("<II", writer, number) + bytes([number & 255]) * size


class Board:
    """Words in memory that is inherited: [0] stop, then for each writer: begun, accepted."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, 1 << 16)
        self.words = memoryview(self._map).cast("Q")

    def close(self) -> None:
        self.words.release()
        self._map.close()


def _write(queue: Any, board: Board, writer: int, size: int) -> None:
    number = 0
    words = board.words
    while not words[0]:
        number += 1
        item = (writer, number, _payload(writer, number, size))
        words[2 * writer] = number
        queue.put(item)
        words[2 * writer + 1] = number
        if queue.qsize() > 200 if hasattr(queue, "qsize") else number % 50 == 0:
            time.sleep(0.001)  # what is read less fast than it is written is not the matter here


def _read(queue: Any, path: str, size: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for writer, number, payload in queue:
        if payload != _payload(writer, number, size):
            os.write(file, _ENTRY.pack(2**32 - 1, number))
        os.write(file, _ENTRY.pack(writer, number))
        if hasattr(queue, "task_done"):
            queue.task_done()


class Round:
    """One queue, two writers, two readers, and some kills."""

    def __init__(self, setting: Setting, random_: random.Random, folder: str) -> None:
        self.setting = setting
        self.random = random_
        self.folder = folder
        self.queue = setting.kind() if setting.maxsize is None else setting.kind(setting.maxsize)
        self.board = Board()
        self.context = multiprocessing.get_context("fork")
        self.writers: list[BaseProcess] = []
        self.readers: list[BaseProcess] = []
        self.begun_writers = 0
        self.begun_readers = 0
        self.killed_readers = 0

    def start_writer(self) -> BaseProcess:
        self.begun_writers += 1
        args = (self.queue, self.board, self.begun_writers, self.setting.size)
        process = self.context.Process(target=_write, args=args)
        process.start()
        return process

    def start_reader(self) -> BaseProcess:
        self.begun_readers += 1
        args = (self.queue, f"{self.folder}/{self.begun_readers}", self.setting.size)
        process = self.context.Process(target=_read, args=args)
        process.start()
        return process

    def run(self, kills: int) -> tuple[int, int, int]:
        """How many items were accepted, got, and lost with a reader; AssertionError for a broken rule."""
        self.writers = [self.start_writer() for _ in range(2)]
        self.readers = [self.start_reader() for _ in range(2)]
        try:
            for _ in range(kills):
                self._kill_one()
            self._finish()
        finally:
            for process in self.writers + self.readers:
                process.kill()
                process.join()
                process.close()
        found = self._check()
        self.board.close()
        return found

    def _kill_one(self) -> None:
        crew, start = self.random.choice(
            ((self.writers, self.start_writer), (self.readers, self.start_reader))
        )
        place = self.random.randrange(2)
        time.sleep(self.random.uniform(0, 0.004))
        victim = crew[place]
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()
        assert victim.exitcode == -signal.SIGKILL, f"{victim} had ended before: {victim.exitcode}"
        victim.close()
        self.killed_readers += crew is self.readers
        crew[place] = start()

    def _finish(self) -> None:
        before = [process.exitcode for process in self.writers + self.readers]
        assert before == [None] * 4, f"some had ended by themselves: {before}"
        self.board.words[0] = 1
        self._join(self.writers)
        if hasattr(self.queue, "join"):
            assert self.queue.join(_PATIENCE), "join waits for the dead"
        self.queue.shutdown()
        self._join(self.readers)
        assert self.queue.empty()

    def _join(self, crew: Sequence[BaseProcess]) -> None:
        for process in crew:
            process.join(_PATIENCE)
            assert process.exitcode == 0, f"{self.setting.name}: a survivor hangs or failed: {process}"

    def _check(self) -> tuple[int, int, int]:
        got: set[tuple[int, int]] = set()
        for reader in range(1, self.begun_readers + 1):
            path = f"{self.folder}/{reader}"
            data = b""
            if os.path.exists(path):
                with open(path, "rb") as file:
                    data = file.read()
                os.unlink(path)
            last: dict[int, int] = {}
            for writer, number in _ENTRY.iter_unpack(data):
                assert writer <= self.begun_writers, f"item {number} is damaged"
                assert (writer, number) not in got, f"item {number} of writer {writer} came twice"
                assert number > last.get(writer, 0), f"item {number} of writer {writer} came out of order"
                last[writer] = number
                got.add((writer, number))
        words = self.board.words
        accepted, lost = 0, 0
        for writer in range(1, self.begun_writers + 1):
            begun, taken_in = words[2 * writer], words[2 * writer + 1]
            accepted += taken_in
            assert begun - taken_in in (0, 1)
            lost += sum((writer, number) not in got for number in range(1, taken_in + 1))
            assert not any((writer, number) in got for number in range(begun + 1, begun + 10))
        assert lost <= self.killed_readers, f"{lost} items lost with {self.killed_readers} readers"
        return accepted, len(got), lost


def soak(kills: int, seed: int, each: int = 10) -> Figures:
    """So many kills, `each` of them in one round, over all settings in turn."""
    figures = Figures()
    random_ = random.Random(seed)
    turn = 0
    while figures.kills < kills:
        setting = SETTINGS[turn % len(SETTINGS)]
        turn += 1
        now = min(each, kills - figures.kills)
        with tempfile.TemporaryDirectory() as folder:
            round_ = Round(setting, random_, folder)
            accepted, got, lost = round_.run(now)
        figures.kills += now
        figures.accepted += accepted
        figures.got += got
        figures.lost += lost
        figures.killed_readers += round_.killed_readers
        a, g, n = figures.by_setting.get(setting.name, (0, 0, 0))
        figures.by_setting[setting.name] = (a + accepted, g + got, n + lost)
    return figures


def main() -> None:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="how many for each setting")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    options = parser.parse_args()
    began = time.monotonic()
    figures = soak(options.kills * len(SETTINGS), options.seed)
    seconds = time.monotonic() - began
    print(
        f"seed {options.seed}: {figures.kills} kills in {seconds:.1f} s, "
        f"{figures.killed_readers} of a reader; "
        f"{figures.accepted} items accepted, {figures.got} got, {figures.lost} gone with a reader"
    )
    for name, (accepted, got, lost) in figures.by_setting.items():
        print(f"  {name:22} accepted {accepted:8}  got {got:8}  gone with a reader {lost}")


if __name__ == "__main__":
    main()
