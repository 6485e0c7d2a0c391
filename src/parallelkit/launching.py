"""How a `Process` is started, waited for and ended: multiprocessing's own way, with more around it.

    parent                                             child
      makes the result file and the leash, a pipe
      fork, fork server or spawn  ------------------>  waits on the leash
      has the guardian watch the child
      lets go of the leash        ------------------>  runs the target,
                                                       writes the result file
      reads the result file, once the child is dead  <-- ends

1. The target does not begin before the guardian knows the child. A parent that is killed in between leaves
   the other end of the leash closed, and the child ends by that.
2. A child's death is waited for by its pidfd, or, where a fork server is its parent, by what that says.
   multiprocessing's sentinel alone would not do: a grandchild that inherited it keeps it open.
3. Once the death is known, the result is taken out of the file and all descriptors but multiprocessing's
   own two are closed. Nothing is read from the child while it lives, and nobody need ask.
4. No process group is made, so the child gets the Ctrl-C of the terminal, as with multiprocessing. What it
   has started is found by descent, by the group where it leads one, and by its mark.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import pickle
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable
from multiprocessing import popen_fork, process, reduction
from multiprocessing.connection import wait as wait_for
from multiprocessing.context import get_spawning_popen
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from . import byvalue, guardian, interactive, marking, resources, serialization, termination
from .resources import Pid
from .resultfile import Result, ResultFile, Writer

#: Stands for an exit code that nobody can know any more, as in multiprocessing's fork server.
UNKNOWN_EXITCODE = 255
#: How long daemonic processes have at the end of their parent, in seconds.
EXIT_GRACE = 1.0
#: Who survives SIGKILL for so long, in seconds, is blocked in the kernel.
_KILL_SECONDS = 10.0
#: Who forks and exits so fast that it cannot be stopped is given up after so long, in seconds.
_STOP_SECONDS = 2.0
#: The longest single sleep, in seconds: poll counts milliseconds in a C int.
_SLEEP_MOST = 1e6
#: How often to look where nothing else tells of a death, in seconds.
_LOOK_SECONDS = 0.05
#: A fork server that has closed its connections is gone after so long, in seconds.
_SERVER_SECONDS = 1.0
#: Whose frames a reader of a traceback does not look for.
_OWN_FILES = frozenset({__file__, process.__file__, os.path.join(os.path.dirname(__file__), "process.py")})


class Popen(popen_fork.Popen):
    """The parent's view of a child. To be put before one of multiprocessing's own in the bases."""

    pid: int
    #: What the child has left; only set when it is dead.
    result: Result | None = None

    def __init__(self, process_obj: BaseProcess) -> None:
        self._lock = threading.Lock()
        self._owner = os.getpid()
        self._mark = marking.new()
        self._server_died = False
        self._told: list[int] = []
        self._told_until: float | None = None
        self._grace_until = 0.0
        #: The signals that were sent from here.
        self.sent: set[int] = set()
        super().__init__(process_obj)

    def _launch(self, process_obj: BaseProcess) -> None:
        self._file = ResultFile()
        leash, held = os.pipe()
        try:
            child = Child(process_obj, self._file.writer, leash, held, self._mark)
            with interactive.without_lost_file():
                super()._launch(child)  # type: ignore[misc]
            self._pid = resources.identity(self.pid) or Pid(self.pid, -1.0)
            guardian.watch(self.pid, self._mark)
            with contextlib.suppress(BrokenPipeError):  # it was killed already
                os.write(held, b"g")
        except BaseException:
            self._file.close()
            raise
        finally:
            os.close(leash)
            os.close(held)

    # Waiting

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """The exit code, or None while the child is alive."""
        if os.getpid() != self._owner:
            return self.returncode
        if flag != os.WNOHANG:
            return self.wait()
        with self._lock:
            if self.returncode is None:
                self._look()
                if self.returncode is not None:
                    self._at_end(self.returncode)
            return self.returncode

    def _look(self) -> None:
        if not self._server_died:
            super().poll(os.WNOHANG)
            if self.returncode == UNKNOWN_EXITCODE and resources.seems_alive(self._pid):
                # The fork server has died, and the child has not.
                self._server_died = True
                self.returncode = None
        ours = self.method != "forkserver" or self._server_died
        with contextlib.suppress(OSError):  # no descriptor is left to look with
            if ours and self.returncode is None and resources.identity(self._pid) is None:
                # Somebody else has waited for it, or SIGCHLD is ignored.
                self.returncode = UNKNOWN_EXITCODE

    def _at_end(self, returncode: int) -> None:
        self.result = self._file.take()
        if returncode == UNKNOWN_EXITCODE and self.result is not None:
            self.returncode = self.result.exitcode
        mark: str | None = self._mark
        if returncode < 0 and time.monotonic() >= self._grace_until:
            # It had no chance to see to what it has started.
            try:
                self._signal_seen(signal.SIGKILL, ())
            except OSError:
                mark = None  # the guardian sees to it in the end
        guardian.release(self.pid, mark)

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit code, or None where the child is alive after `timeout` seconds."""
        if os.getpid() != self._owner:
            return super().wait(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            code = self.poll()
            left = _SLEEP_MOST if deadline is None else deadline - time.monotonic()
            if code is not None or left <= 0:
                return code
            self._sleep(min(left, _SLEEP_MOST))

    def _sleep(self, seconds: float) -> None:
        if self.method == "forkserver" and not self._server_died:
            wait_for([self.sentinel], seconds)
            return
        with self._lock:
            if self.returncode is not None:
                return
            try:
                # Under the lock nobody takes the exit status, so that it is still this child's id.
                descriptor = os.pidfd_open(self.pid)
            except ProcessLookupError:
                return
            except (AttributeError, OSError):
                descriptor = -1
        if descriptor < 0:
            if self._server_died:
                time.sleep(min(seconds, _LOOK_SECONDS))
            else:
                wait_for([self.sentinel], seconds)
            return
        try:
            poller = select.poll()
            poller.register(descriptor, select.POLLIN)
            poller.poll(seconds * 1000)
        finally:
            os.close(descriptor)

    # Ending

    def terminate(self) -> None:
        """SIGTERM to the child and to all that it has started."""
        self._told = self._signal(signal.SIGTERM)
        self._told_until = time.monotonic() + EXIT_GRACE

    def kill(self) -> None:
        """SIGKILL to the child and to all that it has started."""
        self._kill(())

    def _kill(self, known: Collection[int]) -> list[int]:
        # Stopped first: who is killed while it forks leaves a child that nobody knows.
        found = dict.fromkeys(known)
        deadline = time.monotonic() + _STOP_SECONDS
        try:
            while time.monotonic() < deadline:
                stopped = self._signal(signal.SIGSTOP, found)
                if found.keys() >= set(stopped):
                    break
                found.update(dict.fromkeys(stopped))
        finally:
            killed = self._signal(signal.SIGKILL, found)
        return killed

    def end(self, grace: float) -> None:
        """SIGTERM, and SIGKILL after `grace` seconds to what is left; return when all are gone."""
        deadline = self._grace_until = time.monotonic() + grace
        self._end(self._signal(signal.SIGTERM), deadline)

    def end_at_exit(self) -> None:
        """What `terminate` has begun is brought to its end, within the time that all have together."""
        if self._told_until is not None:
            self._grace_until = self._told_until
            self._end(self._told, self._told_until)

    def _end(self, told: list[int], deadline: float) -> None:
        self.wait(max(0.0, deadline - time.monotonic()))
        termination.wait_for_all((Pid(pid, _started(pid)) for pid in told), deadline)
        killed = self._kill([pid for pid in told if resources.seems_alive(pid)])
        deadline = time.monotonic() + _KILL_SECONDS
        self.wait(_KILL_SECONDS)
        termination.wait_for_all((Pid(pid, _started(pid)) for pid in killed), deadline)
        left = [int(pid) for pid in killed if resources.seems_alive(pid)]
        if left:
            raise TimeoutError(
                f"processes {left} are there {_KILL_SECONDS:g} s after SIGKILL: they belong to another "
                "user, or are blocked in the kernel and end when they are not any more"
            )

    def _signal(self, signum: int, known: Iterable[int] = ()) -> list[int]:
        """Send a signal to the child, its descendants, those in `known` and those that wear its mark.

        To the child's process group alone where this process has no descriptor left to look with.
        """
        try:
            return self._signal_seen(signum, known)
        except OSError:
            if self.returncode is None:
                self.sent.add(signum)
                termination.signal_unseen(self.pid, signum)
            return []

    def _signal_seen(self, signum: int, known: Iterable[int]) -> list[int]:
        roots = [*known, *marking.find([self._mark], self._pid.started)]
        if self.returncode is None and resources.is_alive(self._pid):
            roots.insert(0, self._pid)
            self.sent.add(signum)
        roots = [pid for pid in roots if resources.is_alive(pid)]
        return termination.signal_seen(roots[0], signum, roots[1:]) if roots else []


def _started(pid: int) -> float:
    return pid.started if isinstance(pid, Pid) else -1.0


def start(process_obj: Any) -> None:
    """Start a process, of this library or of multiprocessing, also where this process is a daemonic one.

    As multiprocessing's own `start`, which refuses in a daemonic process, because it would leave its
    children behind when it is terminated. What this library starts is ended then.
    """
    inner: Any = process
    if process_obj._closed:
        raise ValueError("process object is closed")
    if process_obj._popen is not None:
        raise AssertionError("cannot start a process twice")
    if process_obj._parent_pid != os.getpid():
        raise AssertionError("can only start a process object created by current process")
    inner._cleanup()
    try:
        process_obj._popen = process_obj._Popen(process_obj)
    except (ConnectionError, EOFError) as error:
        if _fork_server_has_ended():
            error.add_note(
                "parallelkit: the fork server has ended; see its traceback on stderr. Either there is no "
                "room for one more process, or the program's main module cannot be imported, which is done "
                'first: what starts processes there has to be under `if __name__ == "__main__":`'
            )
        raise
    process_obj._sentinel = process_obj._popen.sentinel
    # The target may refer to the process object.
    del process_obj._target, process_obj._args, process_obj._kwargs
    inner._children.add(process_obj)


def _fork_server_has_ended() -> bool:
    module: Any = sys.modules.get("multiprocessing.forkserver")
    pid = None if module is None else module._forkserver._forkserver_pid
    if pid is None:
        return False
    termination._wait(pid, time.monotonic() + _SERVER_SECONDS)
    return not resources.seems_alive(pid)


@functools.cache
def popen_class(method: str) -> Callable[[BaseProcess], Popen]:
    """The class that starts a process by `method`."""
    if method == "fork":
        return Popen
    base: Any
    if method == "spawn":
        from multiprocessing import popen_spawn_posix as base
    else:
        from multiprocessing import popen_forkserver as base

        _preload()
    return type("Popen", (Popen, base.Popen), {})


def _preload() -> None:
    """Have a fork server import this library once and not in each child."""
    from multiprocessing import forkserver

    server: Any = forkserver._forkserver
    if server._preload_modules == ["__main__"]:  # nobody asked for something else
        forkserver.set_forkserver_preload(["__main__", "parallelkit.engines.processes.worker", __name__])


class Child:
    """What the child is started with, in the place of the process object that it holds."""

    def __init__(self, process_obj: Any, result: Writer, leash: int, held: int | None, mark: str) -> None:
        self._process = process_obj
        self._result = result
        self._leash = leash
        self._held = held
        self._mark = mark

    @property
    def _name(self) -> str:
        name: str = self._process._name
        return name

    def __reduce__(self) -> tuple[Any, ...]:
        pickled = _Pickled(self._name, dumps_for_child(self._process, "call"))
        return _rebuild, (pickled, self._result, reduction.DupFd(self._leash), self._mark)

    def _bootstrap(self, parent_sentinel: int | None = None) -> int:
        if self._held is not None:
            os.close(self._held)  # this is a fork, which has a copy
        if not os.read(self._leash, 1):
            os._exit(1)  # the parent is gone
        os.close(self._leash)
        marking.wear(self._mark)
        if isinstance(self._process, _Pickled):
            self._process = self._process.load()
        self._process.run = functools.partial(self._run, self._process.run, vars(self._process).get("run"))
        code: int = self._process._bootstrap(parent_sentinel)
        return code

    def _run(self, run: Callable[[], object], assigned: object) -> None:
        if assigned is None:
            del self._process.run
        else:
            self._process.run = assigned
        me = os.getpid()
        try:
            value = run()
        except BaseException as error:
            if os.getpid() == me:  # a copy that the target has forked has no say
                self._result.error(error, _OWN_FILES)
            raise
        if os.getpid() == me:
            self._result.value(value)


class _Pickled(NamedTuple):
    """A process object that is loaded where an error of its target or arguments can be told to the parent."""

    name: str
    data: bytes

    def load(self) -> Any:
        """The process object; where it cannot be had, another that raises the reason."""
        try:
            return pickle.loads(self.data)
        except Exception as error:
            failure = serialization.error("call", None, error)
        return multiprocessing.Process(target=_fail, args=(failure,), name=self.name)


#: What multiprocessing sends while it starts a process, and nothing else can: locks, queues, connections.
_REDUCERS = reduction.ForkingPickler._extra_reducers  # type: ignore[attr-defined]


def dumps_for_child(obj: object, what: str) -> bytes:
    """The pickle of something for the child that is being started, by value where that needs it.

    SerializationError where it cannot be sent; `what` it is, as there.
    """
    popen: Any = get_spawning_popen()
    noted = len(popen._fds)
    attempt: Callable[..., Any] = reduction.ForkingPickler.dumps
    try:
        try:
            data = bytes(attempt(obj))
        except Exception:
            if byvalue.cloudpickle() is None:
                raise
        else:
            if not interactive.needs_definitions(data):
                return data
        del popen._fds[noted:]  # the descriptors that are to be sent are noted anew
        attempt = functools.partial(interactive.dumps_by_value, reducers=_REDUCERS)
        return bytes(attempt(obj))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise serialization.error(what, obj, error, attempt=lambda part, _: attempt(part)) from error


def _fail(failure: Exception) -> None:
    raise failure


def _rebuild(process_obj: _Pickled, result: Writer, leash: Any, mark: str) -> Child:
    descriptor = leash.detach()
    os.set_inheritable(descriptor, False)
    return Child(process_obj, result, descriptor, None, mark)
