"""A long stream, and the memory that it takes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from .. import tasks
from ..contestants import JOBLIB, MPIRE, OUR_POOL, POOL, POOL_IMAP, SERIAL, each, slow
from ..workloads import Figure, Round, Seat, Workload
from .dispatch import stream_chunk

_COUNT = 10_000_000
#: So often the workers are looked at in between.
_LOOKS = 20
_MB = 1_000_000


@contextlib.contextmanager
def _session(seat: Seat) -> Iterator[Round]:
    count = seat.size(_COUNT)
    chunksize = stream_chunk(seat.contestant)
    with seat.warm() as runner:

        def once() -> Figure:
            Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
            before = psutil.Process().memory_info().rss
            workers = [0]
            looking = 0.0

            def draw() -> int:
                nonlocal looking
                drawn = 0
                for _ in runner.imap(tasks.noop, (number for number in range(count)), chunksize):
                    drawn += 1
                    if drawn % (count // _LOOKS) == 0:
                        begin = time.perf_counter()
                        workers.append(max(map(_peak, psutil.Process().children(recursive=True)), default=0))
                        looking += time.perf_counter() - begin
                return drawn

            seconds = seat.timed(draw, lambda drawn: drawn == count).seconds
            seconds -= looking * seat.contestant.scaled
            growth = _peak(psutil.Process()) - before
            return Figure(
                seconds, {"parent's growth, MB": growth / _MB, "largest worker, MB": max(workers) / _MB}
            )

        yield once


def _peak(process: psutil.Process) -> int:
    """The largest resident set that it has had, in bytes; 0 where it is gone."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))


_CONTESTANTS = slow(
    slow(each((SERIAL, POOL, JOBLIB, MPIRE, POOL_IMAP, OUR_POOL)), 10, JOBLIB.name, rounds=1),
    20, MPIRE.name, rounds=1,
)  # fmt: skip
WORKLOADS = (
    Workload(
        "stream", "long", f"{_COUNT:,} items from a generator, one by one",
        _CONTESTANTS,
        _session, items=_COUNT, rounds=1, warmups=0, quick=False, bound=240,
        note="Memory is the peak of the resident set: by how much the parent's grew, and the largest "
        "worker's, with the smaller problem for who got one.",
    ),
)  # fmt: skip
