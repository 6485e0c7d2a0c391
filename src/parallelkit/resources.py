"""What this machine and its processes have: CPUs, memory, and who started whom."""

from __future__ import annotations

import contextlib
import math
import os
import re
from collections.abc import Iterable

from ._guardian_main import raise_shortage

_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_CGROUP = "/sys/fs/cgroup"
_UNITS = {
    "": 1, "B": 1,
    "K": 1 << 10, "KIB": 1 << 10, "KB": 10**3,
    "M": 1 << 20, "MIB": 1 << 20, "MB": 10**6,
    "G": 1 << 30, "GIB": 1 << 30, "GB": 10**9,
    "T": 1 << 40, "TIB": 1 << 40, "TB": 10**12,
}  # fmt: skip


def available_cpus() -> int:
    """How many CPUs this process may use: its affinity, and the CPU quota of its cgroup.

    >>> available_cpus() >= 1
    True
    """
    counted = getattr(os, "process_cpu_count", os.cpu_count)() or 1
    if hasattr(os, "sched_getaffinity"):
        counted = min(counted, len(os.sched_getaffinity(0)))
    quota = _cgroup_quota()
    return max(1, counted if quota is None else min(counted, math.ceil(quota)))


def _cgroup_quota(own: str = "/proc/self/cgroup", root: str = _CGROUP) -> float | None:
    """The CPUs that the cgroups of this process, and those around them, allow."""
    quotas: list[float] = []
    for line in _lines(own):
        _, controllers, path = [*line.strip().split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root if not controllers else os.path.join(root, "cpu")
        while True:
            quotas += _quotas(base + path)
            if path in ("", "/"):
                break
            path = os.path.dirname(path)
    return min(quotas, default=None)


def _quotas(folder: str) -> Iterable[float]:
    with contextlib.suppress(ValueError, ZeroDivisionError):
        for line in _lines(f"{folder}/cpu.max"):  # version 2
            quota, period = line.split()
            if quota != "max":
                yield int(quota) / int(period)
        for quota in _lines(f"{folder}/cpu.cfs_quota_us"):  # version 1
            for period in _lines(f"{folder}/cpu.cfs_period_us"):
                if int(quota) > 0 and int(period) > 0:
                    yield int(quota) / int(period)


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


def parse_memory(value: int | str) -> int:
    """Bytes, from a whole number of them or from text such as "2GiB", "500 MB" or "1.5G".

    KiB, MiB, GiB, TiB and the bare letters are powers of 1024; KB, MB, GB, TB are powers of 1000.

    >>> parse_memory("1.5 KiB")
    1536
    >>> parse_memory("lots")
    Traceback (most recent call last):
    ValueError: memory_limit must be a number of bytes or text such as '2GiB' or '500MB', not 'lots'
    """
    wrong = f"memory_limit must be a number of bytes or text such as '2GiB' or '500MB', not {value!r}"
    if isinstance(value, bool) or not (isinstance(value, str) or hasattr(value, "__index__")):
        raise TypeError(wrong)
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d{1,30})(?:\.(\d{1,30}))?\s*([A-Za-z]*)\s*", value)
        if match is None or match[3].upper() not in _UNITS:
            raise ValueError(wrong)
        part = match[2] or ""
        # In whole numbers: a float holds 15 digits.
        size: int = int(match[1] + part) * _UNITS[match[3].upper()] // 10 ** len(part)
    else:
        size = value.__index__()
    if size <= 0:
        raise ValueError(f"memory_limit must be more than 0 bytes, not {value!r}")
    return size


def children(pid: int) -> list[int]:
    """The processes that `pid` started and that are there still; empty where it is gone.

    OSError where there is no descriptor to look with.
    """
    tasks = f"/proc/{pid}/task"
    try:
        threads = os.listdir(tasks)
    except OSError as error:
        raise_shortage(error)
        return [] if os.path.isdir("/proc/self") else _children_by_psutil(pid)
    found: list[int] = []
    for thread in threads:
        try:
            with open(f"{tasks}/{thread}/children", "rb") as file:
                found += map(int, file.read().split())
        except FileNotFoundError:
            if not os.path.exists("/proc/self/task/self/children") and not os.path.exists(
                f"/proc/self/task/{os.getpid()}/children"
            ):
                return _children_by_psutil(pid)  # a kernel without that file
        except OSError as error:
            raise_shortage(error)
            continue
    return found


def _children_by_psutil(pid: int) -> list[int]:
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children()]
    except psutil.Error:
        return []


def descendants(pid: int) -> list[Pid]:
    """All that `pid` started, and what those started, parents before their children."""
    found: list[Pid] = []
    seen = {int(pid)}
    ahead = [int(pid)]
    for parent in ahead:  # which grows meanwhile
        for child in children(parent):
            known = None if child in seen else identity(child)
            if known is not None:
                seen.add(child)
                ahead.append(child)
                found.append(known)
    return found


def resident_set(pid: int) -> int:
    """Bytes of memory that a process holds; 0 where it is gone."""
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except FileNotFoundError:
        if os.path.isdir("/proc/self"):
            return 0
    except (OSError, IndexError):
        return 0
    import psutil

    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return 0


def peak_resident_set(pid: int) -> int:
    """The most bytes of memory that a process has ever held; 0 where it is gone.

    Not `ru_maxrss`, which in a process of spawn is at least what its parent held: it lasts beyond `exec`.
    Where the system does not tell, it is what the process holds now.
    """
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            status = file.read()
    except OSError:
        return resident_set(pid)
    at = status.find(b"\nVmHWM:")
    return int(status[at:].split(None, 2)[1]) << 10 if at >= 0 else 0


def tree_resident_set(pid: int) -> int:
    """Bytes of memory that a process and its descendants hold."""
    return resident_set(pid) + sum(map(resident_set, descendants(pid)))


class Pid(int):
    """A process id with the start time of its process, so that it is not mistaken for a later one."""

    started: float

    def __new__(cls, pid: int, started: float) -> Pid:
        """`started` is what `start_time(pid)` said."""
        self = super().__new__(cls, pid)
        self.started = started
        return self


def identity(pid: int) -> Pid | None:
    """A process id that stays with its process; None where there is no such process (any more)."""
    started = start_time(pid)
    if started is None or (isinstance(pid, Pid) and pid.started != started):
        return None
    return Pid(pid, started)


def is_alive(pid: int) -> bool:
    """Whether a process is there and not a zombie; for a `Pid`, whether it is that very process."""
    return _is_running(pid) and not (isinstance(pid, Pid) and pid.started != start_time(pid))


def seems_alive(pid: int) -> bool:
    """As `is_alive`; without a descriptor to look with, whether a process has that number."""
    try:
        return is_alive(pid)
    except OSError:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True


def _is_running(pid: int) -> bool:
    fields = _stat(pid)
    if fields is not None:
        # A zombie with several threads is a process whose main thread alone has ended.
        return bool(fields) and (fields[0] not in (b"Z", b"X") or int(fields[17]) > 1)
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _stat(pid: int) -> list[bytes] | None:
    """What /proc tells of a process, behind its name; nothing of one that is gone; None without /proc."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return [] if os.path.isdir("/proc/self") else None


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by SIGSTOP or its like, and waits for SIGCONT."""
    fields = _stat(pid)
    if fields is not None:
        return fields[:1] == [b"T"]
    import psutil

    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False


def start_time(pid: int) -> float | None:
    """When a process began, on a clock of its machine; None where it is gone.

    With its number this tells one process from a later one that was given the same number.
    """
    fields = _stat(pid)
    if fields is not None:
        return float(fields[19]) if fields else None
    import psutil

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return None
