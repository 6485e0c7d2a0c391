"""The status page: whoever is told that nothing starts behind a place can count on it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from parallelkit.engines.processes import protocol, worker
from parallelkit.engines.processes.page import StatusPage
from parallelkit.engines.processes.transport import Frame, Receiver
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
    assert [entry if entry is None else entry[0] for entry in entries] == [False, True, None]


def test_a_page_without_work_has_no_place(page: StatusPage) -> None:
    assert page.place() is None
    assert page.unsent() == (0, 0, [])
    assert page.revoke(5) == Place(0, 0, 0.0)
