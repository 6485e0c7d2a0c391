from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import parallelkit
from parallelkit import marking, resources, termination
from parallelkit._guardian_main import family, snapshot
from parallelkit.termination import terminate_tree

#: A tree of processes, as its argument draws it. Each prints its id when all below it are ready.
SCRIPT = """
import json, os, signal, sys, time

def live(node):
    if "session" in node: os.setsid()
    if "group" in node: os.setpgid(0, 0)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if "ignore" in node else signal.SIG_DFL)
    if "block" in node: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    for below in node.get("children", ()):
        read, write = os.pipe()
        if os.fork() == 0:
            os.close(read)
            live_and_tell(below, write)
        os.close(write)
        os.read(read, 1)
        os.close(read)
    os.write(1, f"{os.getpid()}\\n".encode())

def live_and_tell(node, write):
    live(node)
    os.write(write, b"x")
    os.close(write)
    rest(node)

def rest(node):
    if "ends" in node: os._exit(0)
    if "stopped" in node: os.kill(os.getpid(), signal.SIGSTOP)
    if "own" in node:
        sys.stdin.read()
        from parallelkit.termination import kill_own_tree
        kill_own_tree()
    time.sleep(3600)

root = json.loads(sys.argv[1])
live(root)
os.write(1, b"up\\n")
rest(root)
"""

LEAF: dict[str, Any] = {}
STUBBORN = {"ignore": 1}
TREES: dict[str, dict[str, Any]] = {
    "alone": {},
    "children": {"children": [LEAF, LEAF]},
    "grandchildren": {"children": [{"children": [LEAF, {"children": [LEAF]}]}]},
    "child in a session of its own": {"children": [{"session": 1, "children": [LEAF]}]},
    "child in a group of its own": {"children": [{"group": 1, "children": [LEAF]}]},
    "ignores SIGTERM": {**STUBBORN, "children": [LEAF]},
    "blocks SIGTERM": {"block": 1, "children": [LEAF]},
    "child ignores SIGTERM": {"children": [STUBBORN, {"session": 1, **STUBBORN}]},
    "parents died first, below a session": {
        "session": 1,
        "children": [{"ends": 1, "children": [LEAF, {"ends": 1, "group": 1, "children": [LEAF]}]}],
    },
    "parent died first, below a group": {"group": 1, "children": [{"ends": 1, "children": [LEAF]}]},
    "stopped": {"stopped": 1, "children": [{"stopped": 1}, LEAF]},
    "stopped and stubborn": {"stopped": 1, **STUBBORN, "children": [{"stopped": 1, **STUBBORN}]},
}


class Tree:
    """A tree of living processes: its root, and the ids of all, the root's last."""

    def __init__(self, node: dict[str, Any]) -> None:
        self.root = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, json.dumps(node)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pids: list[int] = []
        assert self.root.stdout
        for line in self.root.stdout:
            if line == "up\n":
                break
            self.pids.append(int(line))
        assert self.pids[-1] == self.root.pid

    def left(self) -> list[int]:
        return [pid for pid in self.pids if _is_there(pid)]


@pytest.fixture
def grow() -> Iterator[Callable[[dict[str, Any]], Tree]]:
    trees: list[Tree] = []

    def grow(node: dict[str, Any]) -> Tree:
        trees.append(Tree(node))
        return trees[-1]

    yield grow
    for tree in trees:
        for pid in tree.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with tree.root:  # which closes the pipes and waits
            pass


def _is_there(pid: int) -> bool:
    # Not by the code under test.
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _until(happened: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


@pytest.mark.parametrize("drawing", TREES)
def test_terminate_tree_ends_all(drawing: str, grow: Any) -> None:
    tree = grow(TREES[drawing])
    bystander = grow(LEAF)
    terminate_tree(tree.root, grace=0.2)
    assert tree.left() == []
    stubborn = drawing in ("ignores SIGTERM", "blocks SIGTERM", "stopped and stubborn")
    assert tree.root.returncode == (-signal.SIGKILL if stubborn else -signal.SIGTERM)
    assert bystander.left() == bystander.pids


@pytest.mark.parametrize("grace", [0, 0.0, 5])
def test_grace(grace: float, grow: Any) -> None:
    tree = grow({"children": [LEAF]})
    terminate_tree(tree.root, grace=grace)
    assert tree.left() == []
    assert tree.root.returncode in (-signal.SIGTERM, -signal.SIGKILL)


def test_who_ends_in_its_own_time_may(grow: Any, tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (open(sys.argv[1], 'w').write('tidy'), sys.exit(3)))\n"
        "print('up', flush=True)\ntime.sleep(3600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "file")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        terminate_tree(process, grace=20)
    assert process.returncode == 3
    assert (tmp_path / "file").read_text() == "tidy"


def test_by_id_a_zombie_stays_for_its_parent(grow: Any) -> None:
    tree = grow({"children": [LEAF]})
    terminate_tree(tree.root.pid)
    assert tree.left() == []
    assert psutil.Process(tree.root.pid).status() == psutil.STATUS_ZOMBIE
    assert tree.root.wait() == -signal.SIGTERM


def test_a_zombie_and_what_it_left(grow: Any) -> None:
    tree = grow({"group": 1, "children": [LEAF]})
    tree.root.kill()
    _until(lambda: not _is_there(tree.root.pid))
    assert len(tree.left()) == 1
    terminate_tree(tree.root.pid)  # not waited for yet
    assert tree.left() == []
    assert tree.root.wait() == -signal.SIGKILL
    terminate_tree(tree.root.pid)


def test_one_that_was_waited_for_and_what_it_left(grow: Any) -> None:
    tree = grow({"session": 1, "children": [{"group": 1}]})
    tree.root.kill()
    tree.root.wait()
    assert len(tree.left()) == 1
    terminate_tree(tree.root)
    assert tree.left() == []
    terminate_tree(tree.root)
    assert tree.root.returncode == -signal.SIGKILL


def test_an_object_whose_id_was_given_to_another(grow: Any) -> None:
    other = grow(LEAF)
    stale = subprocess.Popen(["true"])
    stale.wait()
    stale.pid = other.root.pid
    terminate_tree(stale)
    assert other.left() == other.pids


def test_a_process_whose_main_thread_has_ended() -> None:
    code = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(3600,)).start()\n"
        "ctypes.CDLL(None).pthread_exit(None)"
    )
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        _until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
        assert resources.is_alive(process.pid)
        terminate_tree(process)
    assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_a_process_of_multiprocessing(method: str) -> None:
    context = multiprocessing.get_context(method)
    process = context.Process(target=time.sleep, args=(3600,))  # type: ignore[attr-defined]
    process.start()
    terminate_tree(process)
    assert process.exitcode == -signal.SIGTERM
    terminate_tree(process)
    process.close()
    with pytest.raises(ValueError, match="closed"):
        terminate_tree(process)


def test_a_process_of_psutil(grow: Any) -> None:
    tree = grow({"children": [LEAF]})
    process = psutil.Process(tree.root.pid)
    terminate_tree(process)
    assert tree.left() == []
    tree.root.wait()
    terminate_tree(process)


class _Unstarted:
    pid = None


@pytest.mark.parametrize(
    ("process", "kind", "message"),
    [
        (0, ValueError, "process id above 1 is needed"),
        (1, ValueError, "process id above 1 is needed"),
        (-5, ValueError, "process id above 1 is needed"),
        pytest.param(os.getpid(), ValueError, "cannot end its own tree", id="own"),
        (_Unstarted(), ValueError, "has not been started"),
        (multiprocessing.Process(target=time.sleep), ValueError, "has not been started"),
        (True, TypeError, "a process or a process id is needed"),
        ("12", TypeError, "a process or a process id is needed"),
        (None, TypeError, "a process or a process id is needed"),
        (1.5, TypeError, "a process or a process id is needed"),
    ],
)
def test_bad_processes(process: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        terminate_tree(process)


@pytest.mark.parametrize(
    ("grace", "kind"),
    [(-1, ValueError), (float("nan"), ValueError), (float("inf"), ValueError)]
    + [(value, TypeError) for value in ("1", None, True)],
)
def test_bad_grace(grace: Any, kind: type[Exception], grow: Any) -> None:
    tree = grow(LEAF)
    with pytest.raises(kind, match="grace must be a number of seconds"):
        terminate_tree(tree.root, grace=grace)
    assert tree.left() == tree.pids


def test_a_process_of_another_user(monkeypatch: pytest.MonkeyPatch, grow: Any) -> None:
    tree = grow({"children": [LEAF]})
    foreign = tree.pids[0]
    send = termination._send

    def refusing(pid: int, signum: int) -> bool:
        if pid == foreign:
            raise PermissionError
        return send(pid, signum)

    monkeypatch.setattr(termination, "_send", refusing)
    with pytest.raises(PermissionError, match=rf"\[{foreign}\] belong to another user"):
        terminate_tree(tree.root)
    assert tree.left() == [foreign]


def test_one_that_is_blocked_in_the_kernel(monkeypatch: pytest.MonkeyPatch, grow: Any) -> None:
    tree = grow(LEAF)
    monkeypatch.setattr(termination, "_send", lambda pid, signum: True)  # which has no effect
    monkeypatch.setattr(termination, "_KILL_SECONDS", 0.1)
    with pytest.raises(TimeoutError, match=rf"\[{tree.root.pid}\] are there 0.1 s after SIGKILL"):
        terminate_tree(tree.root, grace=0)


@pytest.mark.parametrize("drawing", ["grandchildren", "parent died first, below a group", "stopped"])
def test_without_pidfd_and_proc(drawing: str, monkeypatch: pytest.MonkeyPatch, grow: Any) -> None:
    tree = grow(TREES[drawing])
    monkeypatch.delattr(os, "pidfd_open")
    start_times = resources.start_time
    monkeypatch.setattr(resources, "start_time", _created)
    monkeypatch.setattr(termination, "_table", termination._table_by_psutil)
    assert start_times(tree.root.pid) != _created(tree.root.pid)
    terminate_tree(tree.root, grace=0.2)
    assert tree.left() == []


def _created(pid: int) -> float | None:
    with contextlib.suppress(psutil.Error):
        return float(psutil.Process(pid).create_time())
    return None


def test_both_tables_tell_the_same(grow: Any) -> None:
    tree = grow({"session": 1, "children": [{"stopped": 1}, {"group": 1, "children": [LEAF]}]})
    _until(lambda: psutil.Process(tree.pids[0]).status() == psutil.STATUS_STOPPED)
    mine, theirs = snapshot(), termination._table_by_psutil()
    for pid in tree.pids:
        assert mine[pid][:3] == theirs[pid][:3]
        assert (mine[pid][3] == "T") == (theirs[pid][3] == "T")


def test_family_knows_a_later_process_by_its_start() -> None:
    table = {
        10: (1, 10, 10, "S", 5.0),
        11: (10, 10, 10, "S", 6.0),
        12: (1, 10, 10, "S", 6.0),
        13: (11, 13, 10, "Z", 7.0),
        14: (13, 14, 14, "S", 8.0),
        20: (1, 20, 20, "S", 9.0),
    }
    assert list(family(table, {10: 5.0})) == [10, 11, 12, 14]
    assert list(family(table, {10: 5.0}, spared={10})) == [10, 11, 14]
    assert list(family(table, {10: 4.0})) == []
    del table[10]
    assert list(family(table, {10: -1.0})) == [11, 12, 14]


def test_signal_tree(grow: Any) -> None:
    tree = grow({"children": [{"ignore": 1, "children": [{"session": 1}]}]})
    lost, stubborn, root = tree.pids
    told = termination.signal_tree(root, signal.SIGTERM)
    assert told == [root, stubborn, lost]
    assert tree.root.wait() == -signal.SIGTERM
    _until(lambda: tree.left() == [stubborn])
    assert termination.signal_tree(root, signal.SIGKILL) == []  # what it has lost it cannot find
    assert termination.signal_tree(root, signal.SIGKILL, told) == [stubborn]
    _until(lambda: tree.left() == [])


def test_sigterm_reaches_who_is_stopped() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    process.send_signal(signal.SIGSTOP)
    _until(lambda: resources.is_stopped(process.pid))
    assert termination.signal_tree(process.pid, signal.SIGTERM) == [process.pid]
    assert process.wait(20) == -signal.SIGTERM
    assert not resources.is_stopped(process.pid)


def test_signal_tree_tells_each_once(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys, time\n"
        "os.setpgid(0, 0)\n"
        "r, w = os.pipe()\n"
        "child = os.fork()\n"
        "signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b'got\\n'))\n"
        "os.write(w, b'x')\n"
        "if child: os.read(r, 1), os.read(r, 1), os.write(1, b'up\\n')\n"
        "while True: time.sleep(3600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        told = termination.signal_tree(process.pid, signal.SIGUSR1)
        assert len(told) == 2
        assert [process.stdout.readline() for _ in told] == [b"got\n"] * 2
        terminate_tree(process)
        assert process.stdout.read() == b""


def test_signal_tree_does_not_reach_a_later_process(grow: Any) -> None:
    tree = grow(LEAF)
    stale = resources.Pid(tree.root.pid, -1.0)
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert termination.signal_tree(gone.pid, signal.SIGKILL, [stale]) == []
    assert tree.left() == tree.pids
    with pytest.raises(ValueError, match="cannot end its own tree"):
        termination.signal_tree(os.getpid(), signal.SIGKILL)


def test_signal_tree_kills_those_that_are_just_being_started() -> None:
    code = (
        "import os\nos.write(1, b'up\\n')\n"
        "while True:\n    if os.fork() == 0: os._exit(0)\n    os.waitpid(-1, 0)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        termination.signal_tree(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout.read() == b""  # nobody has the other end any more


def test_kill_group(grow: Any) -> None:
    tree = grow({"group": 1, "children": [{"ends": 1, "children": [LEAF]}, {"group": 1}]})
    termination.kill_group(tree.root.pid)
    assert tree.root.wait() == -signal.SIGKILL
    _until(lambda: tree.left() == [tree.pids[2]])
    for pgid in (tree.root.pid, 0, 1, -1, os.getpgrp()):
        termination.kill_group(pgid)


@pytest.mark.parametrize("group", [{"group": 1}, {}])
def test_kill_own_tree(group: dict[str, Any], grow: Any) -> None:
    below = [{"session": 1, **STUBBORN}, {"children": [{"stopped": 1}]}, {"ends": 1, "children": [LEAF]}]
    tree = grow({**group, "own": 1, "children": below})
    orphan = tree.pids[-3]
    tree.root.stdin.close()
    tree.root.stdin = None
    assert tree.root.wait() == -signal.SIGKILL
    # One that lost its parent is found by the group alone, which here is somebody else's.
    _until(lambda: tree.left() == ([] if group else [orphan]))


# No descriptor is left for a part of the look


@pytest.fixture
def no_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for somebody's children finds that there is no descriptor left."""

    def children(pid: int) -> list[int]:
        raise OSError(errno.ENFILE, "Too many open files in system")

    monkeypatch.setattr(resources, "children", children)


@pytest.mark.usefixtures("no_children")
def test_a_process_is_killed_whose_children_cannot_be_looked_for(start_method: str) -> None:
    process = parallelkit.get_context(start_method).Process(target=time.sleep, args=(3600,))
    process.start()
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_who_wears_a_mark_is_not_taken_for_ended_where_no_signal_could_be_sent(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    mark = marking.new()
    with subprocess.Popen(["sleep", "3600"], env={**os.environ, marking.VARIABLE: mark}) as process:
        try:
            # It is a program before its environment can be read.
            while mark.encode() not in Path(f"/proc/{process.pid}/environ").read_bytes():
                time.sleep(0.001)
            request.getfixturevalue("no_children")
            assert marking.kill([mark], 0.0) is None
            monkeypatch.undo()
            assert marking.kill([mark], 0.0)
            assert process.wait(10) == -signal.SIGKILL
        finally:
            process.kill()


def test_a_shortage_in_the_midst_of_the_children(monkeypatch: pytest.MonkeyPatch) -> None:
    def scarce(path: str, mode: str) -> Any:
        raise OSError(errno.EMFILE, "Too many open files", path)

    monkeypatch.setattr(resources, "open", scarce, raising=False)
    with pytest.raises(OSError, match="Too many open files"):
        resources.children(os.getpid())


def test_who_seems_alive_without_a_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_alive(pid: int) -> bool:
        raise OSError(errno.EMFILE, "Too many open files")

    with subprocess.Popen(["sleep", "3600"]) as process:
        assert resources.seems_alive(process.pid)
        monkeypatch.setattr(resources, "is_alive", is_alive)
        assert resources.seems_alive(process.pid)
        assert resources.seems_alive(1)
        process.kill()
    assert not resources.seems_alive(process.pid)
