from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tasks
from hypothesis import given
from hypothesis import strategies as st
from process_tasks import (
    CLASSES,
    LONG,
    ByHand,
    Late,
    Noted,
    Slow,
    Unloadable,
    ask_from_outside,
    daemonize,
    end_with,
    family,
    fork_and_return,
    happen,
    have_child,
    have_pool,
    leave_behind,
    multiply,
    outlive_fork_server,
    reader_of,
    stand_in,
    start_slow_one,
    wait_until_gone,
    who,
)

from parallelkit import CallTimeoutError, ClosedError, SerializationError, WorkerDiedError, launching
from parallelkit.process import ForkProcess, ForkServerProcess, Process, ProcessDiedError, SpawnProcess
from parallelkit.resultfile import RAISED, UNSENDABLE, VALUE, ResultFile, Writer, write_error, write_value


@pytest.fixture
def make(start_method: str) -> type[Process[Any]]:
    return CLASSES[start_method]


@pytest.fixture
def pipe() -> Iterator[tuple[Any, Any]]:
    reader, writer = multiprocessing.Pipe(duplex=False)
    yield reader, writer
    reader.close()
    writer.close()


def active_children() -> list[Any]:
    return [*multiprocessing.active_children()]


def receive(reader: Any) -> Any:
    assert reader.poll(LONG)
    return reader.recv()


# What comes out


def start_all(make: type[Process[Any]], calls: list[tuple[Callable[..., Any], Any]]) -> list[Process[Any]]:
    processes = [make(target=target, args=(argument,)) for target, argument in calls]
    for process in processes:
        process.start()
    return processes


def test_the_value_arrives(make: type[Process[Any]]) -> None:
    values = [None, 7, {"a": [1, 2]}, bytes(3 << 20)]
    processes = start_all(make, [(tasks.echo, value) for value in values])
    for process, value in zip(processes, values, strict=True):
        assert process.result() == value
        assert process.exception() is None
        assert process.exitcode == 0
        process.join()
        assert process.result() is process.result()


def test_keyword_arguments_and_a_list_of_arguments() -> None:
    with Process(None, tasks.add, "adder", [1], kwargs={"y": 5}) as process:
        assert process.name == "adder"
    assert process.result() == 6


def test_the_exception_arrives_with_its_traceback(
    make: type[Process[Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    process = make(target=tasks.deep, args=(2,))
    process.start()
    for _ in range(3):
        error = process.exception()
        with pytest.raises(ZeroDivisionError) as caught:
            process.result()
        assert caught.value is error
        frames = traceback.extract_tb(caught.value.__traceback__)
        names = [frame.name for frame in frames]
        # Always the same, however often it is raised, and nothing of ours between here and there.
        assert names == ["test_the_exception_arrives_with_its_traceback", "result", "deep", "deep", "deep"]
        assert frames[-1].line is not None
        assert "1 // 0" in frames[-1].line
    assert process.exitcode == 1
    printed = capfd.readouterr().err
    if make is not ForkServerProcess:  # which writes to the stderr that its server was started with
        assert printed.startswith(f"Process {process.name}:\nTraceback")
        assert printed.endswith(f"ZeroDivisionError: {process.exception()}\n")


def test_the_users_own_exception_is_whole(make: type[Process[Any]], capfd: Any) -> None:
    process = make(target=tasks.chained, args=(4,))
    process.start()
    error = process.exception()
    assert isinstance(error, tasks.TwoArguments)
    assert (error.first, error.second) == (4, 2)
    assert error.__notes__ == ["look here"]
    assert isinstance(error.__cause__, ZeroDivisionError)


def test_an_interrupt_is_an_exception_like_others(make: type[Process[Any]], capfd: Any) -> None:
    process = make(target=tasks.happen, args=("interrupt",))
    process.start()
    assert isinstance(process.exception(), KeyboardInterrupt)
    assert process.exitcode == 1


DEATHS = {
    "kill": (-9, "was killed by SIGKILL before its target returned, possibly by the out-of-memory killer"),
    "trap": (-5, "was killed by SIGTRAP before its target returned"),
    "exit 0": (0, "ended with exit code 0 before its target returned"),
    "exit 7": (7, "ended with exit code 7 before its target returned"),
    "sys.exit": (1, "ended with exit code 1 before its target returned"),
}


def test_a_death_without_an_outcome(make: type[Process[Any]], capfd: Any) -> None:
    processes = start_all(make, [(happen, what) for what in DEATHS])
    for process, (what, (exitcode, text)) in zip(processes, DEATHS.items(), strict=True):
        with pytest.raises(ProcessDiedError, match=text) as caught:
            process.result()
        error = caught.value
        assert isinstance(error, WorkerDiedError)
        assert (error.pid, error.exitcode) == (process.pid, exitcode)
        assert error.signal == (-exitcode if exitcode < 0 else None)
        assert (error.name, error.started, error.index) == (process.name, True, None)
        assert isinstance(error.__cause__, SystemExit) == (what == "sys.exit")
        assert process.exitcode == exitcode
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.name, again.signal) == (str(error), error.name, error.signal)


@pytest.mark.parametrize(("code", "exitcode"), [(None, 0), (0, 0), (3, 3), (True, 1), ([1], 1)])
def test_sys_exit_keeps_its_exit_code(code: Any, exitcode: int, capfd: Any) -> None:
    process = Process(target=sys.exit, args=(code,))
    process.start()
    process.join()
    assert process.exitcode == exitcode
    error = process.exception()
    assert isinstance(error, ProcessDiedError)
    assert error.exitcode == exitcode
    assert isinstance(error.__cause__, SystemExit)
    assert error.__cause__.code == code


def test_the_first_error_names_who_ended_it(make: type[Process[Any]]) -> None:
    process = make(target=tasks.wait_for_ever)
    process.start()
    process.kill()
    error = process.exception()
    assert isinstance(error, ProcessDiedError)
    assert error.asked
    assert str(error).endswith("was killed by SIGKILL before its target returned, as this program asked")


def test_a_result_that_cannot_be_sent(make: type[Process[Any]]) -> None:
    locked, poison = start_all(make, [(tasks.return_lock, 1), (tasks.return_poison, 1)])
    with pytest.raises(SerializationError, match="the result cannot be sent") as caught:
        locked.result()
    assert caught.value.what == "result"
    poison.join()
    with pytest.raises(SerializationError, match="poison") as caught:
        poison.result()
    assert isinstance(caught.value.__cause__, RuntimeError)
    assert poison.exception() is caught.value
    assert (locked.exitcode, poison.exitcode) == (0, 0)


@pytest.mark.parametrize("make", [SpawnProcess, ForkServerProcess])
def test_an_argument_that_cannot_be_loaded(make: type[Process[Any]], capfd: Any) -> None:
    by_argument = make(target=tasks.echo, args=(Unloadable(),), name="loader")
    by_attribute = make(target=tasks.echo, args=(1,))
    by_attribute.own = Unloadable()  # type: ignore[attr-defined]
    for process in (by_argument, by_attribute):
        process.start()
        with pytest.raises(SerializationError, match="ValueError: invalid literal") as caught:
            process.result()
        assert caught.value.what == "call"
        assert isinstance(caught.value.__cause__, ValueError)
        assert process.exitcode == 1
    with (
        pytest.raises(SerializationError, match="invalid literal"),
        make(target=tasks.echo, args=[Unloadable()]),
    ):
        pass
    if make is SpawnProcess:
        assert "Process loader:\nTraceback" in capfd.readouterr().err


def test_a_timeout_ends_the_wait_and_not_the_process(make: type[Process[Any]], pipe: tuple[Any, Any]) -> None:
    reader, writer = pipe
    process = make(target=reader_of, args=(reader,))
    process.start()
    for timeout in (0, 0.01, -1):
        with pytest.raises(CallTimeoutError) as caught:
            process.result(timeout)
        assert isinstance(caught.value, multiprocessing.TimeoutError)
        with pytest.raises(TimeoutError):
            process.exception(timeout)
    assert process.is_alive()
    writer.send("now")
    assert process.result(LONG) == "now"


def test_without_a_start_there_is_no_result() -> None:
    process = Process(target=abs, args=(1,))
    for ask in (process.result, process.exception, process.terminate, process.kill):
        with pytest.raises(ClosedError, match="has not been started"):
            ask()
    with pytest.raises(ValueError, match="process not started"):
        process.sentinel
    with pytest.raises(AssertionError):
        process.join()
    process.start()
    process.join()
    process.close()
    for ask in (process.result, process.exception, process.terminate, process.kill):
        with pytest.raises(ClosedError, match="was closed"):
            ask()
    with pytest.raises(ValueError, match="closed"):
        process.start()


def test_bad_arguments_are_refused_at_the_call() -> None:
    with pytest.raises(TypeError, match="target must be a function"):
        Process(target=3)  # type: ignore[call-overload]
    with pytest.raises(TypeError):
        Process(target=abs, args=3)  # type: ignore[call-overload]
    process = Process(target=abs, args=(1,))
    for grace in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="grace must be"):
            process.terminate(grace=grace)


# A result that nobody asked for


def test_a_large_result_that_nobody_asks_for_keeps_nobody_waiting(make: type[Process[Any]]) -> None:
    process = make(target=bytes, args=(100 << 20,))
    process.start()
    process.join(LONG)
    assert process.exitcode == 0
    assert not memory_files()
    assert len(process.result()) == 100 << 20


def memory_files() -> list[str]:
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if "parallelkit-result" in target:
            found.append(target)
    return found


def test_a_result_is_unpickled_when_asked_for_and_once(make: type[Process[Any]], tmp_path: Path) -> None:
    process = make(target=Noted, args=(str(tmp_path),))
    process.start()
    process.join()
    assert not process.is_alive()
    assert not (tmp_path / "loaded").exists()
    assert process.result() == process.result() == "rebuilt"
    assert (tmp_path / "loaded").read_text() == "x"


def test_an_array_comes_out_of_band_and_writable(make: type[Process[Any]]) -> None:
    process = make(target=np.arange, args=(100_000,))
    process.start()
    array = process.result()
    array[0] = 5
    assert array.sum() == 5 + 100_000 * 99_999 // 2
    assert array.ctypes.data % 8 == 0


def test_what_was_collected_unasked_leaves_no_descriptor() -> None:
    process = Process(target=abs, args=(-1,))
    process.start()
    gone = weakref.ref(process)
    wait_until_dead(process)
    while multiprocessing.active_children():  # a fork server tells of an end a moment later
        time.sleep(0.001)
    del process
    gc.collect()
    assert gone() is None
    assert not memory_files()


def wait_until_dead(process: Process[Any]) -> None:
    """Return when it is dead, without the process object's help."""
    assert process.pid is not None
    wait_until_gone(process.pid)


def test_the_parent_keeps_no_reference_to_the_target() -> None:
    target = Noted("")
    gone = weakref.ref(target)
    process = ForkProcess(target=tasks.echo, args=[target])
    del target
    process.start()
    process.join()
    assert gone() is None


@given(st.recursive(st.none() | st.integers() | st.binary(), st.lists, max_leaves=6))
def test_a_result_file_gives_back_what_was_written(value: object) -> None:
    file = ResultFile()
    write_value(file.fd, value)
    result = file.take()
    assert result is not None
    assert result.kind == VALUE
    assert result.value() == value
    assert result.error() is None


def test_a_kill_while_the_result_is_written_costs_all_of_it_or_nothing() -> None:
    chance = random.Random(4)
    died = 0
    for _ in range(12):
        process = ForkProcess(target=bytes, args=(20 << 20,))
        process.start()
        assert process.pid is not None
        time.sleep(chance.random() * 0.03)
        os.kill(process.pid, signal.SIGKILL)
        error = process.exception(LONG)
        if error is None:
            assert len(process.result()) == 20 << 20
        else:
            assert isinstance(error, ProcessDiedError)
            died += 1
    assert died


def test_what_is_half_written_is_no_result(tmp_path: Path) -> None:
    file = ResultFile()
    assert file.take() is None
    file = ResultFile()
    write_value(file.fd, bytes(1000))
    os.pwrite(file.fd, bytes(16), 0)  # the header is what a killed process has not written yet
    assert file.take() is None


def test_the_exit_code_that_a_result_tells_of(tmp_path: Path) -> None:
    for error, expected in [(SystemExit(), 0), (SystemExit(258), 2), (SystemExit("x"), 1), (KeyError(), 1)]:
        file = ResultFile()
        write_error(file.fd, error, frozenset())
        result = file.take()
        assert result is not None
        assert (result.kind, result.exitcode) == (RAISED, expected)
    file = ResultFile()
    write_value(file.fd, threading.Lock())
    result = file.take()
    assert result is not None
    assert (result.kind, result.exitcode) == (UNSENDABLE, 0)


def test_a_copy_that_the_target_forked_has_no_say() -> None:
    process = ForkProcess(target=fork_and_return)
    process.start()
    assert process.result() == "parent"


@pytest.mark.parametrize("fails", [False, True])
def test_a_target_that_closes_all_descriptors_keeps_its_files_and_its_result(
    make: type[Process[Any]], fails: bool, tmp_path: Path, capfd: Any
) -> None:
    process = make(target=daemonize, args=(str(tmp_path),), kwargs={"fails": fails})
    process.start()
    process.join()
    assert process.exitcode == int(fails)
    if fails:
        with pytest.raises(ZeroDivisionError, match="as a daemon"):
            process.result()
    else:
        assert process.result() == "done"
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"precious"}


@pytest.mark.parametrize("at_parent", ["/nowhere", os.devnull])
def test_a_result_that_cannot_be_left_does_not_change_the_exit_code(
    at_parent: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = Writer.__init__

    def init(self: Writer, fd: int) -> None:
        made(self, fd)
        self._at_parent = at_parent

    monkeypatch.setattr(Writer, "__init__", init)
    process = ForkProcess(target=daemonize, args=(str(tmp_path),), kwargs={"fails": False})
    process.start()
    with pytest.raises(ProcessDiedError, match="exit code 0") as caught:
        process.result()
    assert "closed the result's descriptor" in caught.value.__notes__[0]
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"precious"}


# What multiprocessing has


@pytest.fixture
def default_method(start_method: str) -> Iterator[str]:
    """The start method is the program's default."""
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method(start_method, force=True)
    yield start_method
    multiprocessing.set_start_method(before, force=True)


def test_subclasses_and_an_assigned_run(default_method: str) -> None:
    late, by_hand, assigned = Late(4), ByHand(), Process[str]()
    assigned.run = stand_in  # type: ignore[method-assign]
    for process in (late, by_hand, assigned):
        process.start()
    assert (late.result(), by_hand.result(), assigned.result()) == (8, "hand", "assigned")
    assert re.fullmatch(r"<Late name='late' pid=\d+ parent=\d+ stopped exitcode=0>", repr(late))
    assert isinstance(late, multiprocessing.Process)


def test_the_start_method_that_was_set_counts(default_method: str) -> None:
    process = Process(target=multiprocessing.get_start_method)
    process.start()
    assert process.result() == default_method
    assert process._popen.method == default_method  # type: ignore[union-attr]


def test_the_form_of_repr_is_that_of_multiprocessing() -> None:
    ours: Any
    for ours in (Process(target=abs, args=(1,)), multiprocessing.Process(target=abs, args=(1,))):
        number = ours._identity[0]
        parent = os.getpid()
        ours.daemon = True
        assert repr(ours) == f"<Process name='Process-{number}' parent={parent} initial daemon>"
        ours.start()
        running = f"<Process name='Process-{number}' pid={ours.pid} parent={parent} "
        assert repr(ours) in (running + "started daemon>", running + "stopped exitcode=0 daemon>")
        ours.join()
        assert repr(ours) == running + "stopped exitcode=0 daemon>"
        ours.close()
        assert repr(ours) == f"<Process name='Process-{number}' parent={parent} closed daemon>"


def test_who_is_who(make: type[Process[Any]]) -> None:
    process = make(target=who, name="child")
    process.start()
    name, kind, pid, parent, group, authkey, daemon = process.result()
    assert (name, kind, pid, parent) == ("child", make.__name__, process.pid, os.getpid())
    assert group == os.getpgrp()  # a Ctrl-C in the terminal reaches it
    assert authkey == multiprocessing.current_process().authkey
    assert daemon is False
    assert process not in active_children()


def test_a_process_is_started_once_and_closed_when_it_is_over(
    make: type[Process[Any]], pipe: tuple[Any, Any]
) -> None:
    process = make(target=reader_of, args=(pipe[0],))
    process.start()
    with pytest.raises(AssertionError, match="cannot start a process twice"):
        process.start()
    with pytest.raises(ValueError, match="still running"):
        process.close()
    assert process.is_alive()
    assert process in active_children()
    pipe[1].send(1)
    assert wait_for([process.sentinel], LONG) == [process.sentinel]
    process.join()
    process.close()
    with pytest.raises(ValueError, match="closed"):
        process.is_alive()


def test_another_process_cannot_ask(pipe: tuple[Any, Any]) -> None:
    process = ForkProcess(target=reader_of, args=(pipe[0],))
    process.start()
    outsider = ForkProcess(target=ask_from_outside, args=(process,))
    outsider.start()
    assert outsider.result() == ("ClosedError", "AssertionError", None)
    pipe[1].send(1)
    assert process.result() == 1


def test_many_threads_start_and_ask() -> None:
    process = ForkServerProcess(target=tasks.sleep, args=(0.05,))
    process.start()
    results: list[Any] = []

    def ask() -> None:
        results.append(process.result())
        with ForkServerProcess(target=tasks.square, args=(3,)) as own:
            pass
        results.append(own.result())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [0.05] * 8 + [9] * 8


def test_several_threads_unpickle_a_result_once() -> None:
    process = ForkProcess(target=Slow)
    process.start()
    process.join()
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(process.result())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["slow"] * 6


def test_several_threads_wait_for_a_forked_one(pipe: tuple[Any, Any]) -> None:
    process = ForkProcess(target=reader_of, args=(pipe[0],))
    process.start()
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(process.result(LONG))) for _ in range(6)]
    for thread in threads:
        thread.start()
    pipe[1].send("x")
    for thread in threads:
        thread.join()
    assert results == ["x"] * 6


def test_an_exit_status_that_somebody_else_took() -> None:
    # As in programs that ignore SIGCHLD, or loop over os.wait().
    for code, expected in [(None, 0), (7, launching.UNKNOWN_EXITCODE)]:
        process: Process[Any] = ForkProcess(target=end_with, args=(code,))
        process.start()
        assert process.pid is not None
        os.waitpid(process.pid, 0)
        process.join()
        assert process.exitcode == expected
        assert not process.is_alive()
    with pytest.raises(ProcessDiedError):
        process.result()


def test_the_death_of_the_fork_server_is_not_that_of_the_process() -> None:
    with SpawnProcess(target=outlive_fork_server) as process:  # which has a fork server of its own
        pass
    assert process.exitcode == 0


# With


def test_with_starts_it_and_waits(make: type[Process[Any]]) -> None:
    with make(target=tasks.square, args=(3,)) as process:
        assert process.pid is not None
    assert process.exitcode == 0
    assert process.result() == 9


def test_with_raises_its_error(make: type[Process[Any]], capfd: Any) -> None:
    with pytest.raises(ValueError, match="raised"), make(target=tasks.happen, args=("raise",)):
        pass
    with pytest.raises(ProcessDiedError, match="exit code 0"), make(target=os._exit, args=(0,)):
        pass


@pytest.mark.parametrize("end", ["exit", "terminate", "kill", "close", "unsendable"])
def test_with_raises_nothing_where_that_was_the_wish(end: str) -> None:
    targets: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "exit": (sys.exit, ()),
        "close": (abs, (1,)),
        "unsendable": (tasks.return_lock, (1,)),
    }
    target, args = targets.get(end, (time.sleep, (LONG,)))
    with Process(target=target, args=args) as process:
        if end in ("terminate", "kill"):
            getattr(process, end)()
        elif end == "close":
            process.join()
            process.close()


def test_with_ends_it_where_an_exception_leaves_the_block(make: type[Process[Any]]) -> None:
    with pytest.raises(KeyError), make(target=tasks.happen, args=("stubborn",)) as process:
        raise KeyError
    assert not process.is_alive()
    assert process.exitcode in (-signal.SIGKILL, -signal.SIGTERM)


# The whole tree


HOW = [
    ("fork", "process"),
    ("fork", "stubborn"),
    ("fork", "program"),
    ("fork", "orphaned program"),
    ("fork", "orphaned fork"),
    ("forkserver", "stubborn"),
    ("forkserver", "orphaned fork"),
    ("spawn", "process"),
    ("spawn", "orphaned program"),
]
each_family = pytest.mark.parametrize(("start_method", "how"), HOW)


def start_family(make: type[Process[Any]], pipe: tuple[Any, Any], how: str) -> tuple[Process[Any], int]:
    process = make(target=family, args=(pipe[1], how))
    process.start()
    pids = {receive(pipe[0]), receive(pipe[0])} - {0}
    return process, pids.pop()


@each_family
def test_terminate_with_grace_ends_the_whole_tree(
    make: type[Process[Any]], pipe: tuple[Any, Any], how: str
) -> None:
    process, pid = start_family(make, pipe, how)
    process.terminate(grace=0.3)
    assert process.exitcode == -signal.SIGTERM
    assert process.pid is not None
    for each in (pid, process.pid):
        assert not Path(f"/proc/{each}").exists() or is_zombie(each)


def is_zombie(pid: int) -> bool:
    """An orphan waits for process 1 to fetch its status, which may take a moment."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


@each_family
def test_kill_ends_the_whole_tree(make: type[Process[Any]], pipe: tuple[Any, Any], how: str) -> None:
    process, pid = start_family(make, pipe, how)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    wait_until_gone(pid)


def test_the_grace_is_for_all_of_the_tree(make: type[Process[Any]], tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "ready")
    process = make(target=start_slow_one, args=(str(tmp_path),))
    process.start()
    (tmp_path / "ready").read_text()
    process.terminate(grace=LONG)
    assert (tmp_path / "cleaned up").exists()


def test_terminate_without_grace_reaches_the_tree_and_waits_for_nobody(
    make: type[Process[Any]], pipe: tuple[Any, Any]
) -> None:
    process, pid = start_family(make, pipe, "orphaned program")
    process.terminate()
    wait_until_gone(pid)
    process.join()
    assert process.exitcode == -signal.SIGTERM
    process.terminate(grace=0)  # and what is over already is no error
    process.kill()


def test_kill_ends_those_that_are_just_being_started(pipe: tuple[Any, Any]) -> None:
    # The end of the pipe comes when the last of them is gone.
    process = ForkProcess(target=multiply, args=(pipe[1],))
    process.start()
    pipe[1].close()
    assert [receive(pipe[0]) for _ in range(20)]
    process.kill()
    process.join()
    with pytest.raises(EOFError):
        while True:
            receive(pipe[0])


@each_family
def test_a_signal_that_kills_a_process_ends_what_it_has_started(
    make: type[Process[Any]], pipe: tuple[Any, Any], how: str
) -> None:
    process, pid = start_family(make, pipe, how)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    wait_until_gone(pid)
    assert isinstance(process.exception(), ProcessDiedError)


def test_the_death_of_a_process_in_the_middle(make: type[Process[Any]], pipe: tuple[Any, Any]) -> None:
    process = make(target=family, args=(pipe[1], "killed middle"))
    process.start()
    # Of the middle one, its program's, and a 0 from each of the two that go on.
    told = [receive(pipe[0]) for _ in range(4)]
    middle, last = sorted(pid for pid in told if pid)
    os.kill(middle, signal.SIGKILL)
    wait_until_gone(middle)
    assert process.is_alive()
    process.kill()
    process.join()
    wait_until_gone(last)


def test_what_a_process_left_that_ended_by_itself_goes_on(make: type[Process[Any]], pipe: Any) -> None:
    process = make(target=leave_behind, args=(pipe[1],))
    process.start()
    # The one that is left has copies of all descriptors, and nobody waits for it.
    assert process.result(LONG) == "left"
    pid = receive(pipe[0])
    assert not is_zombie(pid)
    process.kill()  # which can end it also now
    wait_until_gone(pid)


def test_daemonic_processes_may_have_children(make: type[Process[Any]]) -> None:
    process = make(target=have_child, args=(2,), daemon=True)
    process.start()
    assert process.result() == 13


def test_daemonic_processes_may_have_pools(make: type[Process[Any]]) -> None:
    with make(target=have_pool, daemon=True) as process:
        pass
    assert process.result() == [1, 4]


# The end of the parent

_PARENT = """
import os, sys, time
sys.path[:0] = {path!r}
import multiprocessing
from process_tasks import CLASSES, family, sleeper
from multiprocessing.connection import Connection

if __name__ == "__main__":
    connection = Connection({fd})
    make = CLASSES[{method!r}]
    {body}
"""


def run_parent(method: str, body: str, pipe: tuple[Any, Any], folder: Path, **options: Any) -> Any:
    """A program of its own that has processes; what they send comes out of the pipe."""
    script = folder / "parent.py"
    here = str(Path(__file__).parent)
    script.write_text(_PARENT.format(path=[here], fd=pipe[1].fileno(), method=method, body=body))
    return subprocess.Popen([sys.executable, str(script)], pass_fds=[pipe[1].fileno()], **options)


@pytest.mark.parametrize(
    ("start_method", "daemon", "how"),
    [
        ("fork", True, "stubborn"),
        ("fork", False, "program"),
        ("fork", False, "orphaned program"),
        ("forkserver", False, "orphaned fork"),
        ("forkserver", False, "stubborn"),
        ("spawn", True, "program"),
    ],
)
def test_nothing_outlives_a_killed_parent(
    start_method: str, daemon: bool, how: str, pipe: tuple[Any, Any], tmp_path: Path
) -> None:
    body = (
        f"process = make(target=family, args=(connection, {how!r}), daemon={daemon}); "
        "process.start(); connection.send(process.pid); process.join()"
    )
    parent = run_parent(start_method, body, pipe, tmp_path)
    pids = [receive(pipe[0]) for _ in range(3)]
    parent.kill()
    parent.wait()
    for pid in filter(None, pids):
        wait_until_gone(pid)


def test_a_parent_killed_before_the_guardian_knew_leaves_nothing(
    start_method: str, pipe: tuple[Any, Any], tmp_path: Path
) -> None:
    body = "\n    ".join(
        [
            "from parallelkit import guardian",
            "guardian.watch = lambda *process: os.kill(os.getpid(), 9)",
            "make(target=sleeper, args=(connection,)).start()",
        ]
    )
    parent = run_parent(start_method, body, pipe, tmp_path)
    pipe[1].close()
    # The end of the pipe: nobody has it any more, and nobody has written to it.
    assert pipe[0].poll(LONG)
    with pytest.raises(EOFError):
        pipe[0].recv()
    assert parent.wait() == -signal.SIGKILL


def test_a_parent_killed_at_any_moment_leaves_nothing(pipe: tuple[Any, Any], tmp_path: Path) -> None:
    # What runs has told of itself before it does anything; so whoever has not told has not run.
    body = "\n    ".join(
        ["while True:", "    process = make(target=sleeper, args=(connection,))", "    process.start()"]
    )
    chance = random.Random(3)
    for _ in range(5):
        parent = run_parent("fork", body, pipe, tmp_path)
        pids = [receive(pipe[0])]
        time.sleep(chance.random() * 0.02)
        parent.kill()
        parent.wait()
        for pid in pids:
            wait_until_gone(pid)
            while pipe[0].poll(0):
                pids.append(pipe[0].recv())


def test_the_ordinary_end_of_the_parent(start_method: str, pipe: tuple[Any, Any], tmp_path: Path) -> None:
    # The one that is not daemonic is waited for; the daemonic ones are ended, though they ignore SIGTERM.
    body = "\n    ".join(
        [
            "daemons = [make(target=sleeper, args=(connection,), kwargs={'stubborn': True}, daemon=True)",
            "           for _ in range(2)]",
            "for daemon in daemons: daemon.start()",
            "sys.stdin.readline()",
            "make(target=print, args=('printed',)).start()",
        ]
    )
    parent = run_parent(start_method, body, pipe, tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    pids = [receive(pipe[0]) for _ in range(2)]
    output, _ = parent.communicate(b"go on\n", timeout=LONG)
    assert (output, parent.returncode) == (b"printed\n", 0)
    for pid in pids:
        wait_until_gone(pid)


def test_a_stopped_process_is_killed_all_the_same(make: type[Process[Any]]) -> None:
    process = make(target=tasks.happen, args=("stopped",))
    process.start()
    process.terminate(grace=0.1)
    assert process.exitcode in (-signal.SIGKILL, -signal.SIGTERM)
