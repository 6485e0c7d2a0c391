from __future__ import annotations

import contextlib
import errno
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
from faults import full_system

from parallelkit import _guardian_main, guardian, marking, resources

#: An owner that watches a child, which has a child in a session of its own. It prints their ids and
#: the guardian's, does what it is told on the way, and waits.
OWNER = """
import os, signal, subprocess, sys, time
if "closed" in sys.argv:
    os.close(0)
    saved = os.dup2(1, 20); os.close(1); os.close(2)
else:
    saved = 1
if "no pidfd" in sys.argv: del os.pidfd_open
if "inherits" in sys.argv:
    for _ in range(3, 9): os.set_inheritable(os.open("/dev/zero", os.O_RDONLY), True)
from parallelkit import guardian

def fork(code):
    child = os.fork()
    if child == 0:
        if saved != 1: os.close(saved)
        code()
        os._exit(0)
    return child

def busy():
    while True: pass

def tree():
    for signum in (signal.SIGTERM, signal.SIGINT): signal.signal(signum, signal.SIG_IGN)
    read, write = os.pipe()
    below = os.fork()
    if below == 0:
        os.setsid()
        os.write(write, b"x")
        idle()
    os.read(read, 1)
    with open(sys.argv[1], "w") as file: file.write(str(below))
    os.rename(sys.argv[1], sys.argv[1] + ".whole")
    busy() if "busy" in sys.argv else idle()

def idle():
    time.sleep(3600)

child = fork(tree)
while not os.path.exists(sys.argv[1] + ".whole"): time.sleep(0.005)
grandchild = int(open(sys.argv[1] + ".whole").read())
guardian.watch(child)
if "stopped" in sys.argv: os.kill(child, signal.SIGSTOP)
if "released" in sys.argv: guardian.release(child)
os.write(saved, f"{child} {grandchild} {guardian.pid()}\\n".encode())
"""


class Owner:
    def __init__(self, folder: Path, *words: str, code: str = "time.sleep(3600)", **options: Any) -> None:
        self.process: subprocess.Popen[str] = subprocess.Popen(
            [sys.executable, "-c", OWNER + code, str(folder / "below"), *words],
            stdout=subprocess.PIPE,
            text=True,
            **options,
        )
        assert self.process.stdout
        self.child, self.grandchild, self.guardian = map(int, self.process.stdout.readline().split())

    def left(self) -> list[int]:
        return [pid for pid in (self.child, self.grandchild, self.guardian) if _is_there(pid)]

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()


@pytest.fixture(autouse=True)
def _ends_with_no_guardian() -> Iterator[None]:
    """Some tests here leave one that watches what is dead, or one that has lost its replacement."""
    yield
    guardian.stop()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Callable[..., Owner]]:
    owners: list[Owner] = []

    def own(*words: str, **options: Any) -> Owner:
        owners.append(Owner(tmp_path, *words, **options))
        return owners[-1]

    yield own
    for owner in owners:
        with owner.process:
            owner.process.kill()
        for pid in owner.left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "3600"]) as process:
        yield process
        process.kill()


def _is_there(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _until(happened: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
@pytest.mark.parametrize(
    "words", [[], ["busy"], ["stopped"], ["closed"], ["no pidfd"], ["inherits"], ["no pidfd", "inherits"]]
)
def test_the_end_of_the_owner_ends_all(how: signal.Signals, words: list[str], own: Any) -> None:
    owner = own(*words)
    assert len(owner.left()) == 3
    owner.process.send_signal(how)
    owner.process.wait()
    _until(lambda: owner.left() == [])


def test_a_normal_end_of_the_owner_ends_all(own: Any) -> None:
    owner = own(code="sys.exit(3)")
    assert owner.process.wait() == 3
    _until(lambda: owner.left() == [])


@pytest.mark.parametrize("words", [["inherits"], ["no pidfd"], ["no pidfd", "inherits"]])
def test_as_long_as_the_owner_lives_nothing_is_ended(words: list[str], own: Any) -> None:
    code = """
sys.stdin.readline()
if os.fork() == 0:
    other = fork(idle)
    guardian.watch(other)
    print(other, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
os.wait()
time.sleep(3600)
"""
    owner = own(*words, code=code, stdin=subprocess.PIPE)
    first = owner.guardian
    _until(lambda: not _is_there(first) or psutil.Process(first).cwd() == "/")  # it is about to look
    owner.process.stdin.write("go on\n")
    owner.process.stdin.close()
    other = int(owner.line())
    # When the second guardian has started and acted, the first has had the time to act wrongly.
    _until(lambda: not _is_there(other))
    assert owner.left() == [owner.child, owner.grandchild, first]


def test_who_was_released_stays(own: Any) -> None:
    owner = own("released")
    assert owner.left() == [owner.child, owner.grandchild, owner.guardian]
    owner.process.kill()
    owner.process.wait()
    _until(lambda: owner.left() == [owner.child, owner.grandchild])


def test_an_owner_that_becomes_another_program(own: Any) -> None:
    owner = own(code='os.execv("/bin/sleep", ["sleep", "3600"])')
    _until(lambda: owner.left() == [])
    assert owner.process.poll() is None


@pytest.mark.parametrize("words", [[], ["no pidfd"]])
def test_a_fork_by_the_owner_keeps_nothing_alive(words: list[str], own: Any) -> None:
    # ctypes' fork does not run what Python does after one, as that of a C library: the copy has the socket.
    code = """
import ctypes
copy = ctypes.PyDLL(None).fork()
if copy: print(copy, flush=True)
time.sleep(3600)
"""
    owner = own(*words, code=code)
    copy = int(owner.line())
    owner.process.kill()
    owner.process.wait()
    _until(lambda: owner.left() == [])
    assert _is_there(copy)
    os.kill(copy, signal.SIGKILL)


def test_a_guardian_that_was_killed_is_replaced(own: Any) -> None:
    code = """
os.kill(guardian.pid(), signal.SIGKILL)
os.waitid(os.P_PID, guardian.pid(), os.WEXITED | os.WNOWAIT)
other = fork(idle)
guardian.watch(other)
print(other, guardian.pid(), flush=True)
time.sleep(3600)
"""
    owner = own(code=code)
    other, second = map(int, owner.line().split())
    assert second != owner.guardian
    assert _is_there(second)
    owner.process.kill()
    owner.process.wait()
    _until(lambda: not any(map(_is_there, [other, second, owner.child, owner.grandchild])))


def test_signals_to_the_group_of_the_owner_do_not_end_its_guardian(own: Any) -> None:
    owner = own(start_new_session=True, stderr=subprocess.DEVNULL)
    assert os.getsid(owner.guardian) == owner.guardian
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        os.kill(owner.guardian, signum)
    os.killpg(owner.process.pid, signal.SIGINT)
    owner.process.wait()
    # The others ignore it: it is the guardian that ends them.
    _until(lambda: owner.left() == [])


def test_a_forked_child_has_a_guardian_of_its_own(own: Any) -> None:
    code = """
def second():
    assert guardian.pid() is None
    guardian.release(child)  # which has no part in its parent's
    mine = fork(idle)
    guardian.watch(mine)
    os.write(1, f"{mine} {guardian.pid()}\\\\n".encode())
    idle()
os.write(1, f"{fork(second)}\\\\n".encode())  # at once: an unbuffered print writes number and end apart
time.sleep(3600)
""".replace("\\\\", "\\")
    owner = own(code=code)
    lines = [owner.line(), owner.line()]
    ((second,), (mine, its_guardian)) = sorted(([int(n) for n in line.split()] for line in lines), key=len)
    assert its_guardian != owner.guardian
    os.kill(second, signal.SIGKILL)
    _until(lambda: not _is_there(mine) and not _is_there(its_guardian))
    assert owner.left() == [owner.child, owner.grandchild, owner.guardian]
    owner.process.kill()
    owner.process.wait()
    _until(lambda: owner.left() == [])


@pytest.mark.parametrize(
    "environment",
    [
        {b"PYTHONHOME": b"/nowhere", b"PYTHONPATH": b"/nowhere", b"PYTHONSTARTUP": b"/nowhere"},
        {b"\xff\xfe": b"\xff\xfe", b"NEWLINE": b"\n=\n", b"EMPTY": b"", b"LONG": b"x" * 100_000},
        {},
    ],
    ids=["python", "bytes", "empty"],
)
def test_odd_environments(environment: dict[bytes, bytes], sleeper: Any, tmp_path: Path) -> None:
    # Set in the owner, whose own interpreter could not live with some of it.
    code = (
        "import os, sys\n"
        "from parallelkit import guardian\n"
        "os.environb.clear()\n"
        f"os.environb.update({environment!r})\n"
        "guardian.watch(int(sys.argv[1]))\n"
        "os.write(1, str(guardian.pid()).encode())\n"
        "os.kill(os.getpid(), 9)\n"
    )
    command = [sys.executable, "-c", code, str(sleeper.pid)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    assert int(done.stdout) > 1
    assert sleeper.wait(10) == -signal.SIGKILL
    _until(lambda: not _is_there(int(done.stdout)))


@pytest.mark.parametrize("environment", [{"NUMBER": 1}, {"A=B": "x"}, {"NUL": "a\0b"}, {1: "x"}])
def test_an_environment_that_no_process_can_have(
    environment: Any, sleeper: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    guardian.stop()
    monkeypatch.setattr(os, "environ", environment)
    guardian.watch(sleeper.pid)
    pid = guardian.pid()
    assert pid is not None
    _until(lambda: "_guardian_main.py" in " ".join(psutil.Process(pid).cmdline()))
    guardian.stop()


@pytest.mark.parametrize("name", ["executable", "frozen"])
def test_where_there_is_no_interpreter_to_run(
    name: str, sleeper: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    values: list[Any] = [True] if name == "frozen" else ["", "/nowhere/python"]
    for value in values:
        monkeypatch.setattr(sys, name, value, raising=False)
        guardian.watch(sleeper.pid)
        assert guardian.pid() is None
        guardian.release(sleeper.pid)
    assert sleeper.poll() is None


def test_where_there_is_no_setsid(sleeper: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spawn = os.posix_spawn

    def without(*args: Any, setsid: bool = False, **options: Any) -> int:
        if setsid:
            raise NotImplementedError
        return spawn(*args, **options)

    guardian.stop()
    monkeypatch.setattr(os, "posix_spawn", without)
    guardian.watch(sleeper.pid)
    pid = guardian.pid()
    assert pid is not None
    assert os.getpgid(pid) == pid
    guardian.stop()


def _descriptors() -> set[str]:
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return found


def test_stop_leaves_nothing(sleeper: Any) -> None:
    guardian.stop()
    before = _descriptors()
    guardian.watch(sleeper.pid)
    first = guardian.pid()
    assert first is not None
    guardian.watch(sleeper.pid)
    assert guardian.pid() == first
    guardian.stop()
    guardian.stop()
    assert guardian.pid() is None
    assert not psutil.pid_exists(first)  # not even as a zombie
    assert _descriptors() == before
    assert sleeper.poll() is None  # what it watched was forgotten
    guardian.watch(sleeper.pid)
    assert guardian.pid() not in (None, first)
    guardian.stop()


def test_marks_can_outlast_their_process(sleeper: Any) -> None:
    guardian.stop()
    mark, other = marking.new(), marking.new()
    guardian.watch(sleeper.pid, mark)
    guardian.release(sleeper.pid)
    assert guardian._watched == {_guardian_main.MARK + int(mark, 16)}
    guardian.release_marks([other])
    assert len(guardian._watched) == 1
    guardian.release_marks([mark, other])
    assert guardian._watched == set()
    guardian.stop()


def test_one_that_somebody_else_has_waited_for(sleeper: Any) -> None:
    guardian.watch(sleeper.pid)
    pid = guardian.pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    guardian.stop()
    assert guardian.pid() is None


def test_release_does_not_start_one(sleeper: Any) -> None:
    guardian.stop()
    guardian.release(sleeper.pid)
    assert guardian.pid() is None
    guardian.watch(sleeper.pid)
    first = guardian.pid()
    assert first is not None
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    guardian.release(sleeper.pid)  # nobody is left to watch
    assert guardian.pid() is None


def test_one_that_takes_nothing_in_is_replaced(sleeper: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guardian, "_SEND_SECONDS", 0.1)
    guardian.stop()
    guardian.watch(sleeper.pid)
    first = guardian.pid()
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    for _ in range(1 << 20):
        guardian.watch(sleeper.pid)
        if guardian.pid() != first:
            break
    assert guardian.pid() not in (None, first)
    assert not psutil.pid_exists(first)


@pytest.mark.parametrize("pid", [1, 0, -5])
def test_bad_ids(pid: int) -> None:
    with pytest.raises(ValueError, match="no process to watch"):
        guardian.watch(pid)


def test_it_holds_no_descriptor_of_its_owner(sleeper: Any) -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    guardian.stop()
    guardian.watch(sleeper.pid)
    os.close(write)
    assert os.read(read, 1) == b""  # it has closed its copy
    os.close(read)


def test_records_may_come_in_pieces() -> None:
    watch = _guardian_main._Watch()
    me = os.getpid()
    data = b"".join(
        n.to_bytes(_guardian_main.RECORD_BYTES, "little", signed=True) for n in (me, 1 << 30, 77, -77, -5)
    )
    for at in range(len(data)):
        watch._take(watch._rest + data[at : at + 1])
    assert watch.pids == {me: _guardian_main._started(me), 1 << 30: -1}


def test_it_starts_with_next_to_nothing() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import _guardian_main; "
        "print(*sorted({'contextlib', 'signal', 'struct', 'typing', 'parallelkit', 're'} & {*sys.modules}))"
    )
    folder = str(Path(_guardian_main.__file__).parent)
    output = subprocess.check_output([sys.executable, "-I", "-S", "-c", code, folder], text=True)
    assert output == "\n"


LOOKS: dict[str, Callable[[], object]] = {
    "the table": _guardian_main.snapshot,
    "children": lambda: resources.children(os.getpid()),
    "descendants": lambda: resources.descendants(os.getpid()),
    "an environment": lambda: _guardian_main._read("/proc/self/environ"),
    "descriptors": lambda: _guardian_main._holds(os.getpid(), [marking.new()]),
    "who wears a mark": lambda: marking.find([marking.new()], 0.0),
}


@pytest.mark.skipif(not full_system.AVAILABLE, reason="no filter for it")
@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_a_look_without_a_descriptor_does_not_pass_for_nobody_there(look: Callable[[], object]) -> None:
    with pytest.raises(OSError, match="Too many open files in system"):
        full_system.in_full_system(look)


@pytest.mark.skipif(not full_system.AVAILABLE, reason="no filter for it")
def test_who_could_not_be_looked_for_is_not_said_to_be_gone() -> None:
    assert full_system.in_full_system(lambda: marking.kill([marking.new()], 0.0)) is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_shortage_for_a_part_of_the_look(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def without_me(path: str, flags: int) -> int:
        if path == f"/proc/{os.getpid()}/stat":
            raise OSError(errno.EMFILE, "Too many open files")
        return opened(path, flags)

    monkeypatch.setattr(os, "open", without_me)
    with pytest.raises(OSError, match="Too many open files"):
        _guardian_main.snapshot()


@pytest.mark.skipif(not full_system.AVAILABLE, reason="no filter for it")
def test_in_a_full_system_it_ends_those_of_whom_it_knows(
    sleeper: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_guardian_main, "_SHORTAGES", _guardian_main._BLIND_AFTER)
    known = {sleeper.pid: _guardian_main._started(sleeper.pid)}
    full_system.in_full_system(lambda: _guardian_main.end(known, [marking.new()]))
    assert sleeper.wait(10) == -signal.SIGKILL


@pytest.fixture
def scarce(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of all processes cannot be had at first."""
    looks: list[object] = []

    def snapshot() -> Any:
        looks.append(None)
        if len(looks) < 3:
            raise OSError(errno.ENFILE, "Too many open files in system")
        return table()

    table = _guardian_main.snapshot
    monkeypatch.setattr(_guardian_main, "snapshot", snapshot)


@pytest.mark.usefixtures("scarce")
def test_it_looks_again_when_there_are_descriptors() -> None:
    script = "setsid sleep 3600 > /dev/null 2>&1 & echo $!; wait"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, text=True) as shell:
        assert shell.stdout is not None
        below = int(shell.stdout.readline())
        _until(lambda: os.getsid(below) == below)
        _guardian_main.end({shell.pid: _guardian_main._started(shell.pid)})
        assert shell.wait(10) == -signal.SIGKILL
    _until(lambda: not _is_there(below))


@pytest.mark.skipif(not full_system.AVAILABLE, reason="no filter for it")
@pytest.mark.usefixtures("scarce")
def test_it_asks_again_when_somebody_began(sleeper: Any) -> None:
    unseen = full_system.in_full_system(lambda: _guardian_main._started(sleeper.pid))
    _guardian_main.end({sleeper.pid: unseen})
    assert sleeper.wait(10) == -signal.SIGKILL


def test_it_does_not_end_who_has_the_number_of_somebody_who_was_gone(sleeper: Any) -> None:
    _guardian_main.end({sleeper.pid: -1})
    assert sleeper.poll() is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_it_ends_who_is_older_than_those_it_watches(sleeper: Any) -> None:
    mark = marking.new()
    older = subprocess.Popen(["sleep", "3600"], env={**os.environ, marking.VARIABLE: mark})
    try:
        wears = f"{marking.VARIABLE}={mark}".encode()
        _until(lambda: wears in Path(f"/proc/{older.pid}/environ").read_bytes())
        began = _guardian_main._started(older.pid) + 1000
        _guardian_main.end({1 << 22: began}, [mark])
        assert older.wait(10) == -signal.SIGKILL
        assert sleeper.poll() is None
    finally:
        older.kill()
        older.wait()
