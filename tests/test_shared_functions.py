"""Functions with large arrays: written into memory once, and mapped by each worker."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import resource
import signal
import socket
from collections import deque
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

import parallelkit
from parallelkit.engines.processes import shared
from parallelkit.engines.processes.transport import DescriptorReceiver, Outbox, pack

NAME = "memfd:parallelkit-function"
COUNT = 1 << 18  # 2 MiB


def take(array: Any, at: int) -> float:
    return float(array[at])


def add_one(array: Any, at: int) -> tuple[int, float]:
    """Every task of a worker adds to the same element, where that is the worker's own."""
    array[0] += 1
    return os.getpid(), float(array[0])


def own_memory(array: Any, _: int) -> int:
    """How many kB of the array this worker has for itself."""
    assert float(array.sum()) == COUNT
    text = Path("/proc/self/smaps").read_text()
    (found,) = re.findall(rf"{NAME}.*?\nAnonymous: +(\d+) kB", text, re.DOTALL)
    return int(found)


def open_files(_: int) -> list[str]:
    found = []
    for entry in os.scandir("/proc/self/fd"):
        try:
            found.append(os.readlink(entry.path))
        except OSError:
            continue
    return [name for name in found if NAME in name]


def kill_at_one(array: Any, at: int) -> float:
    if at == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return float(array[at])


def leave_no_descriptor(_: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))


def give_descriptors(_: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def test_the_memory_is_there_once_and_given_back(start_method: str) -> None:
    array = np.ones(COUNT)
    with parallelkit.Pool(2, start_method=start_method) as pool:
        pool.map(abs, range(10))
        for _ in range(3):
            assert pool.map(functools.partial(own_memory, array), range(8), chunksize=1) == [0] * 8
        assert pool.map(open_files, range(8)) == [[]] * 8
    assert open_files(0) == []


def test_what_a_worker_writes_is_its_own(start_method: str) -> None:
    array = np.zeros(COUNT)
    with parallelkit.Pool(2, start_method=start_method) as pool:
        pool.map(abs, range(10))
        found = pool.map(functools.partial(add_one, array), range(20), chunksize=1)
    for worker in {pid for pid, _ in found}:
        assert sorted(value for pid, value in found if pid == worker) == [
            1.0 + at for at in range(sum(pid == worker for pid, _ in found))
        ]
    assert array[0] == 0


def test_the_bytes_are_counted_once(start_method: str) -> None:
    array = np.ones(COUNT)
    with parallelkit.Pool(2, start_method=start_method) as pool:
        pool.map(abs, range(10))
        pool.map(functools.partial(take, array), range(64), chunksize=1)
        assert array.nbytes <= pool.stats().bytes_in < 1.5 * array.nbytes


def test_a_death_costs_one_item(start_method: str) -> None:
    array = np.arange(float(COUNT))
    with parallelkit.Pool(2, start_method=start_method) as pool:
        pool.map(abs, range(10))
        outcomes = pool.map(functools.partial(kill_at_one, array), range(8), errors="return")
        assert [getattr(o, "value", type(getattr(o, "exception", None))) for o in outcomes] == [
            0.0, parallelkit.WorkerDiedError, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0,
        ]  # fmt: skip
        assert pool.map(functools.partial(take, array), range(8)) == list(range(8))


def test_a_worker_without_a_descriptor_fails_the_call_and_no_other(start_method: str) -> None:
    array = np.arange(float(COUNT))
    with parallelkit.Pool(1, start_method=start_method) as pool:
        pool.apply(leave_no_descriptor, (0,))
        with pytest.raises(parallelkit.SerializationError, match="no memory") as caught:
            pool.map(functools.partial(take, array), range(8))
        assert caught.value.what == "function"
        pool.apply(give_descriptors, (0,))
        assert pool.map(functools.partial(take, array), range(8)) == list(range(8))


def _no_file(*_: object) -> int:
    raise OSError("no such thing here")


def test_where_there_are_no_files_in_memory_it_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.arange(float(COUNT))
    with parallelkit.Pool(2, start_method="fork") as pool:
        pool.map(abs, range(10))
        with monkeypatch.context() as patch:
            patch.setattr(shared, "_memory_file", _no_file)
            assert pool.map(functools.partial(take, array), range(8)) == list(range(8))
        assert pool.map(open_files, range(8)) == [[]] * 8


SIZES = st.lists(st.integers(0, 300), min_size=1, max_size=20)


@given(SIZES)
@settings(max_examples=40)
def test_buffers_come_out_as_they_went_in(sizes: list[int]) -> None:
    buffers = [memoryview(bytes([at % 251]) * size) for at, size in enumerate([*sizes, 1])]
    file = shared.SharedBuffers(buffers)
    found = shared.map_buffers(os.dup(file.fileno()), file.sizes)
    file.close()
    for before, after in zip(buffers, found, strict=True):
        assert after == before
        assert after is not None
        assert not after.readonly
    assert shared.unpack_body(shared.pack_body(sizes, b"data")) == (sizes, b"data")


class _Numbered:
    """A file that holds its number."""

    def __init__(self, number: int) -> None:
        self.descriptor = os.memfd_create("numbered")
        os.write(self.descriptor, str(number).encode())

    def fileno(self) -> int:
        return self.descriptor


FRAMES = st.lists(st.tuples(st.booleans(), st.integers(0, 60_000), st.integers(0, 3)), max_size=30)


@given(FRAMES)
@settings(max_examples=40)
def test_descriptors_come_with_their_frames_through_a_full_pipe(frames: list[tuple[bool, int, int]]) -> None:
    mine, theirs = socket.socketpair()
    mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    mine.setblocking(False)
    theirs.setblocking(False)
    outbox, receiver = Outbox(mine), DescriptorReceiver(theirs)
    files: dict[int, _Numbered] = {}
    received: deque[Any] = deque()

    def read() -> None:
        with contextlib.suppress(BlockingIOError):
            received.extend(receiver.read())

    with mine, theirs:
        for number, (carries, size, buffers) in enumerate(frames):
            parts = pack(int(carries), number, 0, b"x" * size, [b"y" * 40_000] * buffers)
            if carries:
                files[number] = _Numbered(number)
            outbox.send(parts, files.get(number))
            if size & 1:
                read()
        while outbox or len(received) < len(frames):
            read()
            outbox.flush()
        for number, (frame, (carries, size, buffers)) in enumerate(zip(received, frames, strict=True)):
            assert (frame.kind, frame.a, len(frame.body)) == (int(carries), number, size)
            assert list(map(len, frame.buffers)) == [40_000] * buffers
            if carries:
                descriptor = receiver.descriptors.popleft()
                assert descriptor is not None
                assert os.pread(descriptor, 10, 0) == str(number).encode()
                os.close(descriptor)
        assert not receiver.descriptors
    for file in files.values():
        os.close(file.descriptor)
