"""The status page: whoever is told that nothing starts behind a place can count on it."""

from __future__ import annotations

import contextlib
import itertools
import marshal
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pytest
from tasks import Poison

from parallelkit.engines.processes import protocol, worker
from parallelkit.engines.processes.entries import PLAIN, Entries, plain
from parallelkit.engines.processes.page import PLACE, POSITION_BITS, StatusPage
from parallelkit.engines.processes.transport import Frame, Receiver
from parallelkit.errors import SerializationError
from parallelkit.scheduler import Place


@pytest.fixture
def page() -> Iterator[StatusPage]:
    made = StatusPage()
    yield made
    made.close()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def _frames(sock: socket.socket) -> list[Frame]:
    sock.setblocking(False)
    return Receiver(sock).read()


def _run(page: StatusPage, sock: socket.socket, task: Any, count: int) -> None:
    worker.Loop(worker.Channel(sock, page), page, {}).run_items(7, task, range(count), eager=False)


@pytest.mark.parametrize("at", range(4))
def test_nothing_starts_behind_the_place_that_a_revoke_returns(
    at: int, page: StatusPage, ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker loses its processor after its look at the clock, and the parent revokes meanwhile."""
    ran: list[int] = []
    places: list[Place] = []
    now = time.monotonic()
    armed = False

    def clock() -> float:
        nonlocal armed, now
        now += 1e-6
        if armed:
            armed = False
            seen = now
            now += 0.02
            places.append(page.revoke(7))
            return seen
        return now

    def task(item: int) -> int:
        nonlocal armed
        ran.append(item)
        armed = item == at
        return item * 10

    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=clock))
    _run(page, ends[1], task, 10)
    assert ran == list(range(at + 1))
    assert [place.position for place in places] == [at]
    results, short = _frames(ends[0])
    assert (results.kind, results.a, results.b) == (protocol.RESULTS, 7, 0)
    assert (short.kind, short.a, short.b) == (protocol.SHORT, 7, at + 1)


def test_what_was_not_sent_is_found_in_the_log(
    page: StatusPage, ends: tuple[socket.socket, socket.socket]
) -> None:
    found: list[Any] = []

    def task(item: int) -> int | None:
        if item == 3:
            found.append(page.unsent())
        if item == 1:
            raise KeyError(item)
        return None if item == 2 else item

    _run(page, ends[1], task, 4)
    chunk, first, entries = found[0]
    assert (chunk, first) == (7, 0)
    values, failures = entries.values(())
    assert values == [0, None, None]
    assert failures is not None
    assert {at: error.args for at, error in failures.items()} == {1: (1,)}


def test_what_is_sent_while_one_looks_is_left_out(
    page: StatusPage, ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = worker.Channel(ends[1], page)
    word = 7 << POSITION_BITS
    page.words[PLACE] = word
    channel.begin(word, 0.0)
    channel.add(word, "what was sent")
    page.words[PLACE] = word + 1
    chunk, first, entries = page.unsent()
    assert (chunk, first, entries.values(())) == (7, 0, (["what was sent"], None))
    parts = page._entries

    def slowly(count: int, end: int) -> tuple[bytes, bytes, bytes]:
        monkeypatch.undo()
        copied = parts(count, end)
        channel.flush(word + 1, 0.0)
        channel.add(word + 1, "another")
        return copied[0], copied[1], parts(1, end)[2]

    monkeypatch.setattr(page, "_entries", slowly)
    assert page.unsent()[2].size == 0


def test_what_cannot_be_read_fails_for_itself() -> None:
    places = struct.pack("=2I", 3 | PLAIN, 8 | PLAIN)
    values, failures = Entries(2, places, bytes(16), b"(\xff\xff" + marshal.dumps(5, 2)).values(())
    assert values == [None, 5]
    assert failures is not None
    assert isinstance(failures[0], SerializationError)


class _Unhashed(type):
    def __eq__(self, other: object) -> bool:
        return self is other


class _Odd(metaclass=_Unhashed):
    pass


@pytest.mark.parametrize(
    "value",
    [
        _Odd(),
        (_Odd(),),
        (b"x" * 1000,) * 100,
        (0,) * 1000,
        b"x" * 100_000,
        "x" * 100_000,
        [1],
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_small_or_not_plain_is_pickled(value: object) -> None:
    assert plain(value) is None


_numbers = st.one_of(
    st.integers(),
    st.integers(min_value=-(2**64), max_value=2**64),
    st.sampled_from([2**63, 2**63 - 1, -(2**63), -(2**63) - 1]),
    st.floats(allow_nan=False),
    st.booleans(),
)
_results = st.one_of(
    st.none(),
    _numbers,
    st.text(max_size=5),
    st.sampled_from([(), [None], {}, b"", b"x" * 20_000, b"y" * 40_000, ValueError("raised"), Poison()]),
    st.sampled_from(
        ["\ud800", ("\ud800",), bytearray(b"z"), 1j, signal.SIGINT, (signal.SIGINT,), ((1,),), ([2],)]
    ),
)
_plain = st.one_of(
    st.text(max_size=5),
    st.binary(max_size=5),
    st.tuples(_numbers, st.text(max_size=3), st.none()),
    st.lists(_numbers, max_size=3).map(tuple),
)


@hypothesis.given(
    results=st.one_of(
        st.lists(_results, min_size=1, max_size=30),
        st.lists(st.integers(0, 9), min_size=1, max_size=30),
        st.lists(st.floats(0, 9), min_size=1, max_size=30),
        st.lists(st.none(), min_size=1, max_size=30),
        st.lists(_plain, min_size=1, max_size=30),
    ),
    copies=st.sampled_from([1, 1, 1, 400]),
)
def test_what_a_worker_sends_is_what_its_tasks_gave(results: list[Any], copies: int) -> None:
    """Of each type, also where the log is full of entries or of bytes."""
    results = results * copies
    page = StatusPage()
    ours, theirs = socket.socketpair()
    frames: list[Frame] = []

    def read() -> None:
        receiver = Receiver(ours)
        with contextlib.suppress(EOFError):
            while True:
                frames.extend(receiver.read())

    def task(item: int) -> Any:
        if isinstance(results[item], ValueError):
            raise results[item]
        return results[item]

    reader = threading.Thread(target=read)
    with ours:
        reader.start()
        with theirs:
            _run(page, theirs, task, len(results))
        reader.join()
    page.close()
    got: list[Any] = []
    for frame in frames:
        assert (frame.kind, frame.a, frame.b) == (protocol.RESULTS, 7, len(got))
        seconds, entries = Entries.unpack(bytes(frame.body))
        values, failures = entries.values(frame.buffers)
        assert seconds >= 0
        assert len(values) == entries.size
        for at, error in (failures or {}).items():
            assert values[at] is None
            values[at] = error
        got += values
    assert len(got) == len(results)
    for value, result in zip(got, results, strict=True):
        if isinstance(result, Poison):
            assert isinstance(value, SerializationError)
        elif isinstance(result, ValueError):
            assert (type(value), value.args) == (ValueError, ("raised",))
        else:
            assert (type(value), value) == (type(result), result)
            if type(result) is tuple:
                assert list(map(type, value)) == list(map(type, result))


def test_a_death_while_results_are_sent_costs_none_of_them(
    page: StatusPage, ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even the last one, behind which the place has not moved on yet."""
    clock = itertools.count()
    monkeypatch.setattr(worker, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with pytest.raises(ZeroDivisionError):
        monkeypatch.setattr(worker.Channel, "send", lambda *_: 1 // 0)
        _run(page, ends[1], lambda item: None, 3)
    chunk, first, entries = page.unsent()
    assert (chunk, first, entries.size) == (7, 0, 1)
    place = page.place()
    assert place is not None
    assert (place.chunk, place.position) == (7, 0)


def test_a_page_without_work_has_no_place(page: StatusPage) -> None:
    assert page.place() is None
    assert page.unsent() == (0, 0, Entries(0, b"", b"", b""))
    assert page.revoke(5) == Place(0, 0, 0.0)
