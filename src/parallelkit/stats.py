"""`PoolStats`: what has happened in a pool, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PoolStats:
    """What has happened in a pool or an executor so far; of `Pool.stats` and `ProcessPoolExecutor.stats`.

    But for `workers` and `outstanding` these are counters, which never become less.

    Tasks (a call, or one item of a map):

    - handed_in: those that there are in all. Of a lazy input, those that were drawn.
    - done, failed: those that returned, and those whose failure is final.
    - retried: runs whose failure was not final, as `retries` allowed one more.
    - dropped: those without an outcome of their own, as their call ended before: by the failure of another
      item, a timeout, a cancel, the end of the pool, or because no worker could be started.
    - outstanding: the others, which wait or run.

    Workers (processes, or threads with that engine):

    - workers: those that there are now, those that are ending included.
    - started: those that were started in all.
    - lost: of these, how many ended without being told to.

    Seconds, of all workers together, those that are gone included:

    - busy_seconds: in which they read their tasks, ran them and handed over the results. That of a task
      under way is included.
    - waiting_seconds: in which they had nothing to do, from the end of their initializer on. 0 with the
      engine "serial", whose one worker is the thread that asks for a result.

    Bytes, 0 with engines that start no processes:

    - bytes_in: what was sent to workers. What a worker inherits by fork is not sent.
    - bytes_out: what was received from workers.
    - peak_rss_by_pid: the peak resident set of each worker, by its process id: of those that there are, and
      of the last 1,000 that are gone, as far as it is known. It is not of a worker that was
      lost, unless somebody had looked before. A forked worker begins with all that its parent holds, as
      the memory that they share counts for both.
    - peak_rss: the highest of all that were ever seen.
    """

    workers: int
    started: int
    lost: int
    done: int
    failed: int
    retried: int
    dropped: int
    handed_in: int
    busy_seconds: float
    waiting_seconds: float
    bytes_in: int
    bytes_out: int
    peak_rss: int
    peak_rss_by_pid: Mapping[int, int] = field(hash=False)

    @property
    def outstanding(self) -> int:
        """How many tasks wait or run."""
        return self.handed_in - self.done - self.failed - self.dropped

    def table(self) -> str:
        """The numbers in lines, to be read by people.

        >>> print(PoolStats(2, 3, 1, 1500, 2, 1, 0, 1502, 3.4, 0.0123, 5 << 20, 977, 1 << 30, {}).table())
        tasks done               1,500
        tasks failed                 2
        tasks retried                1
        tasks dropped                0
        tasks outstanding            0
        workers now                  2
        workers started              3
        workers lost                 1
        busy                     3.4 s
        waiting                12.3 ms
        sent to workers        5.0 MiB
        received from workers    977 B
        peak resident set      1.0 GiB
        """
        lines = [
            ("tasks done", f"{self.done:,}"),
            ("tasks failed", f"{self.failed:,}"),
            ("tasks retried", f"{self.retried:,}"),
            ("tasks dropped", f"{self.dropped:,}"),
            ("tasks outstanding", f"{self.outstanding:,}"),
            ("workers now", f"{self.workers:,}"),
            ("workers started", f"{self.started:,}"),
            ("workers lost", f"{self.lost:,}"),
            ("busy", _seconds(self.busy_seconds)),
            ("waiting", _seconds(self.waiting_seconds)),
            ("sent to workers", _bytes(self.bytes_in)),
            ("received from workers", _bytes(self.bytes_out)),
            ("peak resident set", _bytes(self.peak_rss)),
        ]
        names, values = (max(map(len, column)) for column in zip(*lines, strict=True))
        return "\n".join(f"{name:{names}}  {value:>{values}}" for name, value in lines)


def _seconds(value: float) -> str:
    """Text for a span of time.

    >>> [_seconds(value) for value in (0.0, 0.00004, 0.9996, 59.96, 61, 7260)]
    ['0.0 ms', '0.0 ms', '999.6 ms', '60.0 s', '1 min 01 s', '2 h 01 min']
    """
    if value < 1:
        return f"{value * 1000:.1f} ms"
    if value < 60:
        return f"{value:.1f} s"
    if value < 3600:
        return f"{int(value // 60)} min {int(value % 60):02} s"
    return f"{int(value // 3600)} h {int(value % 3600 // 60):02} min"


def _bytes(value: int) -> str:
    """Text for a size; the units are powers of 1024.

    >>> [_bytes(value) for value in (0, 1023, 1024, (1 << 20) - 1, 3 << 40)]
    ['0 B', '1,023 B', '1.0 KiB', '1,024.0 KiB', '3.0 TiB']
    """
    if value < 1024:
        return f"{value:,} B"
    power = min((value.bit_length() - 1) // 10, 4)
    return f"{value / (1 << 10 * power):,.1f} {' KMGT'[power]}iB"
