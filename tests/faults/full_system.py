"""A system with no room for another open file (ENFILE), for one call.

No test may fill the system's table, and root is let through even then. So the kernel is told to answer so to
whatever opens a file, in one thread alone: a seccomp filter cannot be taken off, but ends with its thread.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# What makes an open file, by the number of the system call: <asm/unistd.h>.
_CALLS = {
    "x86_64": {
        "open": 2,
        "pipe": 22,
        "socket": 41,
        "accept": 43,
        "socketpair": 53,
        "creat": 85,
        "epoll_create": 213,
        "openat": 257,
        "signalfd": 282,
        "timerfd_create": 283,
        "eventfd": 284,
        "accept4": 288,
        "signalfd4": 289,
        "eventfd2": 290,
        "epoll_create1": 291,
        "pipe2": 293,
        "inotify_init1": 294,
        "memfd_create": 319,
        "pidfd_open": 434,
        "openat2": 437,
    },
    "aarch64": {
        "eventfd2": 19,
        "epoll_create1": 20,
        "inotify_init1": 26,
        "openat": 56,
        "pipe2": 59,
        "signalfd4": 74,
        "timerfd_create": 85,
        "socket": 198,
        "socketpair": 199,
        "accept": 202,
        "accept4": 242,
        "memfd_create": 279,
        "pidfd_open": 434,
        "openat2": 437,
    },
}
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # <linux/audit.h>

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 22, 38, 2  # <linux/prctl.h>, <linux/seccomp.h>
_ALLOW, _FAIL, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06  # <linux/bpf_common.h>
_NUMBER_AT, _ARCHITECTURE_AT = 0, 4  # in struct seccomp_data


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def in_full_system(call: Callable[[], T]) -> T:
    """The result of `call`, which runs in a thread of its own, where ENFILE meets whatever opens a file."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            _fill()
            outcome.append(call())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]


def _fill() -> None:
    calls = _CALLS[platform.machine()].values()
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE_AT),
        (_JUMP_IF_EQUAL, 1, 0, _ARCHITECTURES[platform.machine()]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER_AT),
        *((_JUMP_IF_EQUAL, len(calls) - place, 0, number) for place, number in enumerate(calls)),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _FAIL | errno.ENFILE),
    ]
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    program = _Program(len(steps), code)
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "this machine allows no seccomp filter")


def _is_available() -> bool:
    if not sys.platform.startswith("linux") or platform.machine() not in _CALLS:
        return False
    try:
        in_full_system(lambda: None)
    except OSError:
        return False
    return True


#: Whether this machine has such filters.
AVAILABLE = _is_available()
