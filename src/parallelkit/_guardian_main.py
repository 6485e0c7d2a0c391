"""The guardian: ends what it was told to watch once its owner is dead. See `guardian` for the owner's side.

Run as a script, `python -I -S _guardian_main.py OWNER_PID [pidfd]`, by an interpreter that imports next to
nothing: no `signal` and no `struct`, and nothing of this package. `termination` imports it for `family`,
`marking` for `wearing`.

    fd 0   a socket: records of 8 bytes, little-endian and signed: +pid watches, -pid releases;
           numbers from MARK up are marks, see `marking`
    fd 3   the owner's pidfd, where there are such things and the second argument says so: without it, a
           file that the owner's own parent left open may be there

The owner's death shows as an exit notice on fd 3. The end of file on fd 0 alone would not do: it comes
only when the last copy of the other end is closed, and a child forked by the owner's C code has one. It
does for the owner that becomes another program by exec, and where there is no pidfd.
"""

from __future__ import annotations

import errno
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    #: parent, process group, session, state, start time
    Entry = tuple[int, int, int, str, float]
    Table = dict[int, Entry]

RECORD_BYTES = 8
#: A record that is not a process id but this and a mark of 62 bits.
MARK = 1 << 62
#: The name of a descriptor that says which mark its process wears is this and the mark.
MARK_NAME = "parallelkit-mark-"
#: They end by themselves: the one cleans up shared memory after the dead, the other kills what they left.
_HELPERS = (b"multiprocessing.resource_tracker", b"_guardian_main.py")
OWNER_FD = 3
_SIGKILL = 9
#: How often to look whether the parent is still the owner, where there is no pidfd, in milliseconds.
_LOOK_MILLISECONDS = 250
#: How long to wait for the killed before looking again who is left, in milliseconds.
_ROUND_MILLISECONDS = 100
#: A killed process that is blocked in the kernel dies when it is not any more; nobody need see it.
_ROUNDS = 100
#: So many rounds in which there is no descriptor to look with may come besides.
_SHORTAGES = 600
#: After so many of them it ends those of whom it knows, and gives up on finding others by these.
_BLIND_AFTER = 5
#: When a process began, where there was no descriptor to see it with.
_UNSEEN = -2.0
#: This process or the system has no descriptor left.
_SHORTAGE = (errno.EMFILE, errno.ENFILE)


def snapshot() -> Table:
    """All processes of the machine, from /proc; empty where there is none.

    OSError where there is no descriptor to look at them with.
    """
    table: Table = {}
    try:
        names = os.listdir("/proc")
    except OSError as error:
        raise_shortage(error)
        return table
    for name in names:
        if not name.isdigit():
            continue
        try:
            descriptor = os.open(f"/proc/{name}/stat", os.O_RDONLY)
        except OSError as error:
            raise_shortage(error)
            continue
        try:
            line = os.read(descriptor, 4096)
        except OSError:
            continue
        finally:
            os.close(descriptor)
        # pid (name) state ...: the name may hold blanks and parentheses.
        fields = line.rpartition(b")")[2].split()
        if len(fields) < 20:
            continue
        state = fields[0].decode()
        if state in "ZX" and int(fields[17]) > 1:
            state = "S"  # the main thread has ended, others run
        parent, group, session = int(fields[1]), int(fields[2]), int(fields[3])
        table[int(name)] = parent, group, session, state, int(fields[19])
    return table


def raise_shortage(error: OSError) -> None:
    """Raise `error` where it says that this process or the system has no descriptor left.

    What could not be looked at for that reason may be there all the same.
    """
    if error.errno in _SHORTAGE:
        raise error


def family(table: Table, known: Mapping[int, float], spared: Collection[int] = ()) -> dict[int, Entry]:
    """Who of `table` is alive and belongs to the processes in `known` (id and start time).

    They themselves, their descendants, and the members of a process group or a session that one of
    these leads or led: that finds those whose parent has ended. A group's or a session's id in
    `spared` says nothing. Parents come before their children.
    """
    ids = {pid for pid, started in known.items() if pid not in table or table[pid][4] == started}
    found = {pid: table[pid] for pid in ids if pid in table}
    grown = True
    while grown:
        grown = False
        leaders = ids.difference(spared)
        for pid, entry in table.items():
            if pid not in ids and (entry[0] in ids or entry[1] in leaders or entry[2] in leaders):
                ids.add(pid)
                found[pid] = entry
                grown = True
    return {pid: entry for pid, entry in found.items() if entry[3] not in "ZX"}


def wearing(table: Table, marks: Collection[str], since: float) -> dict[int, Entry]:
    """Who of `table` is alive and wears one of `marks`, this process left out; see `marking`.

    Processes older than `since`, a start time, are not looked at. OSError where there is no descriptor to
    look with.
    """
    if not marks:
        return {}
    return {
        pid: entry
        for pid, entry in table.items()
        if entry[4] >= since and entry[3] not in "ZX" and pid != os.getpid() and _wears(pid, marks)
    }


def _wears(pid: int, marks: Collection[str]) -> bool:
    environment = _read(f"/proc/{pid}/environ")
    if not any(mark.encode() in environment for mark in marks) and not _holds(pid, marks):
        return False
    command = _read(f"/proc/{pid}/cmdline")
    return not any(name in command for name in _HELPERS)


def _holds(pid: int, marks: Collection[str]) -> bool:
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise_shortage(error)
        return False  # it is another user's, or gone
    return any(
        MARK_NAME in target and any(mark in target for mark in marks) for target in _targets(folder, names)
    )


def _targets(folder: str, names: Iterable[str]) -> Iterable[str]:
    for name in names:
        try:
            yield os.readlink(f"{folder}/{name}")
        except OSError:
            continue  # closed meanwhile


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise_shortage(error)
        return b""


def end(known: dict[int, float], marks: Collection[str] = ()) -> None:
    """Kill the processes in `known` with all that belongs to them, until there is nobody left.

    To them belongs who wears one of `marks`, too.
    """
    import time

    out_of_reach: set[int] = set()
    unsure = bool(marks)  # who is about to become a program cannot be seen to wear one, see `marking`
    rounds = shortages = 0
    while rounds < _ROUNDS and shortages < _SHORTAGES:
        try:
            table = snapshot()
            for pid, started in known.items():
                if started == _UNSEEN and pid in table:
                    known[pid] = table[pid][4]
            left = family(table, known) or wearing(table, marks, 0.0)
        except OSError:
            shortages += 1
            if shortages == _BLIND_AFTER:
                _end_blindly(known)
            time.sleep(_ROUND_MILLISECONDS / 1000)
            continue
        rounds += 1
        if not table:
            return _end_blindly(known)
        pids = [pid for pid in left if pid not in out_of_reach]
        if not pids and unsure:
            unsure = False
            time.sleep(_ROUND_MILLISECONDS / 1000)
            continue
        if not pids:
            return None
        for pid in pids:
            known[pid] = left[pid][4]
            if not _kill(pid):
                out_of_reach.add(pid)
        _wait(pids, _ROUND_MILLISECONDS)
    return None


def _end_blindly(pids: Iterable[int]) -> None:
    """Without /proc there is no telling who belongs to whom, but for the process groups."""
    for pid in pids:
        try:
            os.killpg(pid, _SIGKILL)
        except OSError:
            _kill(pid)


def _kill(pid: int) -> bool:
    try:
        os.kill(pid, _SIGKILL)
    except ProcessLookupError:
        pass
    except OSError:
        return False  # it runs as another user
    return True


def _wait(pids: Iterable[int], milliseconds: int) -> None:
    """Wait until all of them are dead, or the time is up."""
    import select
    import time

    deadline = time.monotonic() + milliseconds / 1000
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        except (AttributeError, OSError):
            time.sleep(0.005)
            continue
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
        os.close(descriptor)


class _Watch:
    """What there is to watch, as the owner says."""

    def __init__(self) -> None:
        self.pids: dict[int, float] = {}
        self.marks: set[str] = set()
        self._rest = b""

    def read(self) -> bool:
        """Take in what has come; False where the owner's end is closed."""
        while True:
            try:
                data = os.read(0, 1 << 16)
            except BlockingIOError:
                return True
            except OSError:
                return False  # a reset, as good as an end
            if not data:
                return False
            self._take(self._rest + data)

    def _take(self, data: bytes) -> None:
        whole = len(data) - len(data) % RECORD_BYTES
        for at in range(0, whole, RECORD_BYTES):
            pid = int.from_bytes(data[at : at + RECORD_BYTES], "little", signed=True)
            if pid >= MARK:
                self.marks.add(f"{pid - MARK:016x}")
            elif pid <= -MARK:
                self.marks.discard(f"{-pid - MARK:016x}")
            elif pid < 0:
                self.pids.pop(-pid, None)
            else:
                self.pids[pid] = _started(pid)
        self._rest = data[whole:]


def _started(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except OSError as error:
        return _UNSEEN if error.errno in _SHORTAGE else -1
    except IndexError:
        return -1


def main(owner: int, *, has_pidfd: bool) -> None:
    """Watch until the owner is dead, and end what it left."""
    import select

    os.chdir("/")  # keep no file system busy
    poller = select.poll()
    poller.register(0, select.POLLIN)
    timeout: int | None = None
    if has_pidfd:
        poller.register(OWNER_FD, select.POLLIN)
        _close_from(OWNER_FD + 1)
    else:
        timeout = _LOOK_MILLISECONDS
        _close_from(OWNER_FD)
    os.set_blocking(0, False)
    watch = _Watch()
    alive = True
    while alive:
        happened = dict(poller.poll(timeout))
        alive = OWNER_FD not in happened and (timeout is None or os.getppid() == owner)
        alive = watch.read() and alive  # also the last words of a dead owner
    end(watch.pids, watch.marks)


def _close_from(first: int) -> None:
    """Close what an owner made inheritable: whoever waits for its end of file must not wait for us."""
    try:
        names = os.listdir("/proc/self/fd")
    except OSError:
        os.closerange(first, 1024)
        return
    for name in names:
        if int(name) >= first:
            try:  # noqa: SIM105 - without contextlib, which would have to be imported
                os.close(int(name))
            except OSError:
                pass  # that of the listing itself


if __name__ == "__main__":
    main(int(sys.argv[1]), has_pidfd="pidfd" in sys.argv)
    os._exit(0)
