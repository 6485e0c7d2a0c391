from __future__ import annotations

import functools
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parallelkit import available_cpus, resources
from parallelkit.resources import parse_memory

# CPUs


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_available_cpus_follows_the_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_cgroup_quota", lambda: None)
    before = os.sched_getaffinity(0)
    assert available_cpus() == min(len(before), os.cpu_count() or 1)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert available_cpus() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize(
    ("quota", "cpus"), [(None, 8), (0.01, 1), (1.0, 1), (1.5, 2), (2.0, 2), (7.9, 8), (64.0, 8)]
)
def test_available_cpus_rounds_the_quota_up(
    quota: float | None, cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "_cgroup_quota", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for name in ("cpu_count", "process_cpu_count"):
        monkeypatch.setattr(os, name, lambda: 16, raising=False)
    assert available_cpus() == cpus


def test_available_cpus_where_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_cgroup_quota", lambda: None)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(os, "process_cpu_count", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cpus() == 1


V1 = "4:memory:/elsewhere\n2:cpu,cpuacct:/docker/abc\n1:cpuset:/elsewhere\n"
V2 = "0::/user.slice/app.scope\n"


@pytest.mark.parametrize(
    ("own", "files", "quota"),
    [
        pytest.param(V2, {"user.slice/app.scope/cpu.max": "150000 100000"}, 1.5, id="v2"),
        pytest.param(V2, {"user.slice/app.scope/cpu.max": "max 100000"}, None, id="v2 without limit"),
        pytest.param(
            V2,
            {"user.slice/cpu.max": "200000 100000", "user.slice/app.scope/cpu.max": "max 100000"},
            2.0,
            id="v2, set above",
        ),
        pytest.param(
            V2,
            {"user.slice/cpu.max": "50000 100000", "user.slice/app.scope/cpu.max": "400000 100000"},
            0.5,
            id="v2, less above",
        ),
        pytest.param("0::/\n", {"cpu.max": "300000 100000"}, 3.0, id="v2, root of a container"),
        pytest.param("0::/../other\n", {"cpu.max": "300000 100000"}, 3.0, id="v2, outside the namespace"),
        pytest.param(V2, {}, None, id="v2, no files"),
        pytest.param(V2, {"cpu.max": "rubbish"}, None, id="v2, rubbish"),
        pytest.param(V2, {"cpu.max": "100000 0"}, None, id="v2, no period"),
        pytest.param(V2, {"cpu.max": ""}, None, id="v2, empty"),
        pytest.param(
            V1,
            {"cpu/docker/abc/cpu.cfs_quota_us": "250000", "cpu/docker/abc/cpu.cfs_period_us": "100000"},
            2.5,
            id="v1",
        ),
        pytest.param(
            V1,
            {"cpu/docker/abc/cpu.cfs_quota_us": "-1", "cpu/docker/abc/cpu.cfs_period_us": "100000"},
            None,
            id="v1 without limit",
        ),
        pytest.param(
            V1,
            {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "50000"},
            2.0,
            id="v1, the container's own folder is the root",
        ),
        pytest.param(V1, {"cpu/docker/abc/cpu.cfs_quota_us": "250000"}, None, id="v1, no period"),
        pytest.param(
            V1 + "0::/\n",
            {
                "cpu/cpu.cfs_quota_us": "400000",
                "cpu/cpu.cfs_period_us": "100000",
                "cpu.max": "100000 100000",
            },
            1.0,
            id="both",
        ),
        pytest.param("", {"cpu.max": "100000 100000"}, None, id="no cgroup"),
        pytest.param("rubbish\n\n::", {}, None, id="rubbish"),
    ],
)
def test_cgroup_quota(
    own: str, files: dict[str, str], quota: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "cgroup"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    (tmp_path / "own").write_text(own)
    made_up = functools.partial(resources._cgroup_quota, str(tmp_path / "own"), str(root))
    assert made_up() == quota
    monkeypatch.setattr(resources, "_cgroup_quota", made_up)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for name in ("cpu_count", "process_cpu_count"):
        monkeypatch.setattr(os, name, lambda: 8, raising=False)
    assert available_cpus() == (8 if quota is None else math.ceil(quota))


def test_no_cgroups_at_all(tmp_path: Path) -> None:
    assert resources._cgroup_quota(str(tmp_path / "none"), str(tmp_path / "none")) is None


# Sizes

UNITS = {
    "": 1, "b": 1, "k": 2**10, "kib": 2**10, "kb": 10**3, "m": 2**20, "mib": 2**20, "mb": 10**6,
    "g": 2**30, "gib": 2**30, "gb": 10**9, "t": 2**40, "tib": 2**40, "tb": 10**12,
}  # fmt: skip

blanks = st.sampled_from(["", " ", "  ", "\t"])


@st.composite
def units(draw: st.DrawFn) -> tuple[str, int]:
    unit, factor = draw(st.sampled_from(sorted(UNITS.items())))
    return "".join(draw(st.sampled_from([c, c.upper()])) for c in unit), factor


@given(st.integers(1, 10**25), units(), blanks, blanks, blanks)
def test_whole_sizes_are_exact(
    number: int, unit: tuple[str, int], before: str, between: str, after: str
) -> None:
    assert parse_memory(f"{before}{number}{between}{unit[0]}{after}") == number * unit[1]
    assert parse_memory(number) == number


@given(st.integers(0, 10**6), st.text("0123456789", min_size=1, max_size=12), units())
def test_broken_sizes_are_rounded_down(whole: int, part: str, unit: tuple[str, int]) -> None:
    expected = int(f"{whole}{part}") * unit[1] // 10 ** len(part)
    text = f"{whole}.{part}{unit[0]}"
    if expected:
        assert parse_memory(text) == expected
    else:
        with pytest.raises(ValueError, match="must be more than 0 bytes"):
            parse_memory(text)


@given(st.text())
def test_any_text_is_a_size_or_a_value_error(text: str) -> None:
    try:
        assert parse_memory(text) > 0
    except ValueError as raised:
        error = str(raised)
    else:
        return
    assert error.startswith("memory_limit must be ")


@pytest.mark.parametrize(
    "value",
    [
        "lots",
        "",
        " ",
        "GiB",
        "-1GB",
        "1e9",
        "1.GB",
        ".5GB",
        "1 G B",
        "2 GiBs",
        "nan",
        "inf",
        "0x10",
        "1,5G",
        "9" * 400,
        "9" * 5000,
        "1_000",
        "1GB\0",
        "0",
        0,
        -1,
        "0.0 GiB",
        "0.4",
    ],
)
def test_bad_sizes(value: Any) -> None:
    with pytest.raises(ValueError, match=r"memory_limit must be (a number of|more than 0) bytes"):
        parse_memory(value)


@pytest.mark.parametrize("value", [True, 1.5e9, b"1GB", [], object()])
def test_no_sizes(value: Any) -> None:
    with pytest.raises(TypeError, match=r"must be a number of bytes or text such as '2GiB'"):
        parse_memory(value)


# Processes

SCRIPT = """
import os, sys, threading, time
hoard = bytearray(int(sys.argv[1])); hoard[::4096] = b"x" * len(hoard[::4096])
def fork():
    global child
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            os.write(1, b"x")
    time.sleep(3600)
thread = threading.Thread(target=fork)
thread.start()
os.write(1, b"x")
time.sleep(3600)
"""


@pytest.fixture
def chain() -> Iterator[tuple[int, int, int]]:
    """The ids of a process, of its child (started by another thread), and of the child's child."""
    with subprocess.Popen([sys.executable, "-c", SCRIPT, str(64 << 20)], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.read(2) == b"xx"
        below = psutil.Process(process.pid).children(recursive=True)
        yield process.pid, below[0].pid, below[1].pid
        for each in below:
            each.kill()
        process.kill()


def test_descendants(chain: tuple[int, int, int]) -> None:
    root, child, grandchild = chain
    assert resources.children(root) == resources._children_by_psutil(root) == [child]
    assert resources.descendants(root) == [child, grandchild]
    assert resources.descendants(child) == [grandchild]
    assert resources.descendants(grandchild) == []
    assert root in resources.descendants(os.getpid())


def test_descendants_without_the_kernels_list(
    chain: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "children", resources._children_by_psutil)
    assert resources.descendants(chain[0]) == list(chain[1:])


def test_resident_sets(chain: tuple[int, int, int]) -> None:
    root, child, _ = chain
    for pid in chain:
        os.kill(pid, signal.SIGSTOP)  # or it takes another page between two looks
        while not all(" T " in stat.read_text() for stat in Path(f"/proc/{pid}/task").glob("*/stat")):
            time.sleep(0.001)
    for pid in chain:
        assert resources.resident_set(pid) == psutil.Process(pid).memory_info().rss
    assert resources.resident_set(root) > 64 << 20
    whole = sum(map(resources.resident_set, chain))
    assert resources.tree_resident_set(root) == whole
    assert resources.tree_resident_set(child) == whole - resources.resident_set(root)


def test_those_that_are_gone() -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    gone = process.pid
    assert resources.children(gone) == resources._children_by_psutil(gone) == []
    assert resources.descendants(gone) == []
    assert resources.resident_set(gone) == resources.tree_resident_set(gone) == 0
    assert resources.identity(gone) is None
    assert resources.start_time(gone) is None
    assert not resources.is_alive(gone)


def test_a_zombie_is_dead_and_there() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not resources.is_alive(process.pid)
    assert resources.identity(process.pid) == process.pid
    assert resources.resident_set(process.pid) == 0
    process.wait()


def test_a_pid_is_not_a_later_process() -> None:
    me = resources.identity(os.getpid())
    assert me == os.getpid()
    assert me is not None
    assert resources.identity(me) == me
    assert resources.is_alive(me)
    earlier = resources.Pid(me, me.started - 1)
    assert earlier == me  # an int, for all who want one
    assert resources.identity(earlier) is None
    assert not resources.is_alive(earlier)


def test_start_times_are_in_order() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        mine, its = resources.start_time(os.getpid()), resources.start_time(process.pid)
        process.kill()
    assert mine is not None
    assert its is not None
    assert mine <= its


def test_a_name_with_parentheses_and_blanks(tmp_path: Path) -> None:
    program = tmp_path / "a) Z (b"
    program.symlink_to(sys.executable)
    with subprocess.Popen([str(program), "-S", "-c", "import time; time.sleep(60)"]) as process:
        assert resources.is_alive(process.pid)
        assert resources.identity(process.pid) == process.pid
        process.kill()


def test_the_threads_of_a_process_are_not_its_children() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    before = resources.children(os.getpid())
    thread.start()
    assert resources.children(os.getpid()) == before
    done.set()
    thread.join()
