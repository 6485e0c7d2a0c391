"""What workers log arrives in the parent: once, by its levels, filters and handlers, before the pool ends."""

from __future__ import annotations

import collections
import logging
import logging.handlers
import mmap
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import log_tasks
import pytest

import parallelkit
from parallelkit import driver, logs

FORKED = [("fork", True), ("spawn", None)]


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def wait_for(self, count: int) -> None:
        while len(self.records) < count:
            time.sleep(0.001)

    @property
    def messages(self) -> list[str]:
        return [record.getMessage() for record in self.records]


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    """The root logger with no handler and level INFO, and all loggers as they were when the test is over."""
    known = [logging.root, logging.getLogger("app"), logging.getLogger("app.work"), logging.getLogger("lib")]
    before = [
        (each.level, each.handlers[:], each.filters[:], each.propagate, each.disabled) for each in known
    ]
    monkeypatch.setattr(logging.root, "handlers", [])
    logging.root.setLevel(logging.INFO)
    yield logging.root
    logging.disable(logging.NOTSET)
    for each, (level, handlers, filters, propagate, disabled) in zip(known, before, strict=True):
        each.setLevel(level)
        each.handlers[:], each.filters[:] = handlers, filters
        each.propagate, each.disabled = propagate, disabled


@pytest.fixture
def kept(root: logging.Logger) -> Kept:
    handler = Kept()
    root.addHandler(handler)
    return handler


# Each record once


@pytest.mark.parametrize("forward_logs", [True, None])
def test_each_record_is_written_once(
    engine: dict[str, Any], forward_logs: bool | None, root: logging.Logger, tmp_path: Path
) -> None:
    file = logging.FileHandler(tmp_path / "log")
    file.setFormatter(logging.Formatter("%(process)d %(processName)s %(name)s %(levelname)s %(message)s"))
    root.addHandler(file)
    try:
        pids = parallelkit.pool_map(
            log_tasks.say, range(4), max_workers=2, forward_logs=forward_logs, **engine
        )
    finally:
        file.close()
    lines = [line.split(" ", 2) for line in (tmp_path / "log").read_text().splitlines()]
    expected = [(str(pid), f"app.work INFO item {item}") for item, pid in enumerate(pids)]
    expected += [(str(pid), f"lib WARNING of lib {item}") for item, pid in enumerate(pids)]
    assert sorted((pid, text) for pid, _, text in lines) == sorted(expected)
    if engine["engine"] == "processes":
        assert {name[: len("parallelkit-")] for _, name, _ in lines} == {"parallelkit-"}


@pytest.mark.parametrize(("method", "forward_logs"), [("fork", None), ("fork", False), ("spawn", False)])
def test_off_is_without_a_thread_and_a_module(method: str, forward_logs: bool | None, kept: Kept) -> None:
    with parallelkit.Pool(1, start_method=method, forward_logs=forward_logs) as pool:
        loaded = pool.apply(log_tasks.modules, (1,))
        pool.apply(log_tasks.say, (1,))
        assert logs.THREAD not in {thread.name for thread in threading.enumerate()}
    assert kept.records == []
    if method == "spawn":
        assert not {"parallelkit.logs", "parallelkit.queues"} & set(loaded)


def test_a_call_in_which_nothing_is_logged_starts_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[str] = []
    start = threading.Thread.start

    def note(thread: threading.Thread) -> None:
        started.append(thread.name)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", note)
    parallelkit.pool_map(abs, [1], start_method="spawn")
    assert started == []
    parallelkit.pool_map(log_tasks.say, [1], start_method="fork", forward_logs=True)
    assert started == [logs.THREAD]


@pytest.mark.parametrize("kind", ["pool", "executor"])
def test_records_arrive_while_nobody_waits_for_a_result(kind: str, kept: Kept) -> None:
    options: dict[str, Any] = {"start_method": "fork", "forward_logs": True}
    if kind == "pool":
        with parallelkit.Pool(1, log_tasks.say_later, **options):
            kept.wait_for(2)
    else:
        with parallelkit.ProcessPoolExecutor(1, **options) as executor:
            executor.submit(log_tasks.say_later).result()
            kept.wait_for(2)
    assert kept.messages == ["item 1", "of lib 1"]


def test_a_worker_that_logs_nothing_needs_no_queue(kept: Kept) -> None:
    (loaded,) = parallelkit.pool_map(log_tasks.modules, [1], start_method="spawn")
    assert "parallelkit.logs" in loaded
    assert "parallelkit.queues" not in loaded


@pytest.mark.parametrize("forward_logs", [None, True])
def test_handlers_that_a_workers_initializer_adds(
    forward_logs: bool | None, kept: Kept, tmp_path: Path
) -> None:
    parallelkit.pool_map(
        log_tasks.say, [1], max_workers=1, start_method="spawn", forward_logs=forward_logs,
        initializer=log_tasks.configure, initargs=(str(tmp_path / "log"),),
    )  # fmt: skip
    expected = ["configured", "item 1", "of lib 1"]
    assert (tmp_path / "log").read_text().splitlines() == expected
    assert kept.messages == ([] if forward_logs is None else expected)


@pytest.mark.parametrize("option", [None, True])
def test_handlers_of_a_main_module_that_workers_import_anew(option: bool | None, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(f"""
import logging, parallelkit
logging.basicConfig(level=logging.INFO, format="%(processName)s %(message)s")

def work(item):
    logging.info("item %d", item)

if __name__ == "__main__":
    parallelkit.pool_map(work, [5], start_method="spawn", forward_logs={option})
""")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True, timeout=50)
    assert done.stderr.splitlines() == ["parallelkit-1 item 5"]


def test_what_a_handler_holds_back_is_not_written_by_forked_workers_too(
    root: logging.Logger, tmp_path: Path
) -> None:
    target = logging.FileHandler(tmp_path / "log")
    buffer = logging.handlers.MemoryHandler(100, target=target)
    root.addHandler(buffer)
    logging.getLogger("app").info("before")
    parallelkit.pool_map(log_tasks.say, [1], start_method="fork", forward_logs=True)
    assert (tmp_path / "log").read_text() == ""
    buffer.close()
    target.close()
    assert (tmp_path / "log").read_text().splitlines() == ["before", "item 1", "of lib 1"]


# Levels and filters


@pytest.mark.parametrize(("method", "forward_logs"), FORKED)
def test_the_levels_of_the_parent_hold_in_the_worker(
    method: str, forward_logs: bool | None, root: logging.Logger
) -> None:
    logging.getLogger("app").setLevel(logging.DEBUG)
    lib = logging.getLogger("lib")
    lib.disabled = True
    logging.disable(5)
    with parallelkit.Pool(1, start_method=method, forward_logs=forward_logs) as pool:
        asked = [("app.work", 10), ("app.work", 5), ("other", 20), ("other", 10), ("lib", 50)]
        assert pool.starmap(log_tasks.is_enabled, asked) == [True, False, True, False, False]


@pytest.mark.parametrize(("method", "forward_logs"), FORKED)
def test_the_root_logger_may_have_no_level(
    method: str, forward_logs: bool | None, root: logging.Logger
) -> None:
    root.setLevel(logging.NOTSET)
    with parallelkit.Pool(1, start_method=method, forward_logs=forward_logs) as pool:
        assert pool.apply(log_tasks.is_enabled, ("other", 1))


@pytest.mark.parametrize(("method", "forward_logs"), FORKED)
def test_filters_and_handlers_of_named_loggers_apply_once(
    method: str, forward_logs: bool | None, kept: Kept
) -> None:
    of_app, work = Kept(), logging.getLogger("app.work")

    def mark(record: logging.LogRecord) -> bool:
        record.msg = f"marked {record.msg}"
        return not record.msg.endswith("2")

    work.addFilter(mark)
    logging.getLogger("app").addHandler(of_app)
    logging.getLogger("app").propagate = False
    parallelkit.pool_map(log_tasks.say, [1, 2], start_method=method, forward_logs=forward_logs)
    assert of_app.messages == ["marked item 1"]
    assert sorted(kept.messages) == ["of lib 1", "of lib 2"]


def test_the_level_of_the_parent_counts_when_a_record_arrives(kept: Kept) -> None:
    with parallelkit.Pool(1, start_method="fork", forward_logs=True) as pool:
        logging.getLogger("app").setLevel(logging.WARNING)
        pool.apply(log_tasks.say, (1,))
    assert kept.messages == ["of lib 1"]


# What records hold


@pytest.mark.parametrize(("method", "forward_logs"), FORKED)
def test_all_sorts_of_records(method: str, forward_logs: bool | None, kept: Kept) -> None:
    logging.addLevelName(25, "NOTICE")
    with parallelkit.ProcessPoolExecutor(1, start_method=method, forward_logs=forward_logs) as executor:
        executor.submit(log_tasks.say_all_sorts).result()
    args, extras, failed, of_root, notice = kept.records
    assert args.getMessage() == "args <unsendable> [1]"
    assert (args.funcName, args.module, args.threadName) == ("say_all_sorts", "log_tasks", "MainThread")
    found: dict[str, Any] = vars(extras)
    assert (found["unsendable"], found["a"]) == ("<unsendable>", {1})
    assert found["unreadable"] == "<cannot be unpickled: OSError('cannot be read')>"
    assert found["mute"] == "<NoRepr, whose repr raises>"
    text = logging.Formatter("%(message)s").format(failed)
    assert text.startswith("failed\nTraceback (most recent call last):\n")
    assert "\nOSError: broken\nStack (most recent call last):\n" in text
    assert of_root.name == "root"
    assert notice.levelname == "NOTICE"


# When they are logged


@pytest.mark.parametrize(("method", "forward_logs"), FORKED)
@pytest.mark.parametrize("how", ["error", "exit", "SIGKILL"])
def test_what_was_logged_before_the_end_is_not_lost(
    method: str, forward_logs: bool | None, how: str, kept: Kept
) -> None:
    (outcome,) = parallelkit.pool_map(
        log_tasks.say_and_end, [how], start_method=method, forward_logs=forward_logs, errors="return"
    )
    assert not outcome.ok
    assert kept.messages == [f"{how} {number}" for number in range(100)]


def test_records_of_a_call_that_raises_are_there_when_it_does(kept: Kept) -> None:
    with pytest.raises(ValueError, match="error"):
        parallelkit.pool_map(log_tasks.say_and_end, ["error"], start_method="fork", forward_logs=True)
    assert len(kept.records) == 100


def test_initializers_threads_and_exit_handlers(start_method: str, kept: Kept) -> None:
    with parallelkit.Pool(
        1, log_tasks.say_at_exit, ("at exit",), start_method=start_method, forward_logs=True
    ) as pool:
        pool.apply(log_tasks.say_in_thread, (1,))
    expected = ["initializer", "item 1", "of lib 1"]
    if start_method == "spawn" or sys.version_info >= (
        3,
        13,
    ):  # multiprocessing's others had no `atexit` before
        expected.append("at exit")
    assert kept.messages == expected
    assert [record.threadName for record in kept.records[1:3]] == ["helper", "helper"]


@pytest.mark.parametrize(("method", "forward_logs"), FORKED)
def test_an_initializer_that_fails(method: str, forward_logs: bool | None, kept: Kept) -> None:
    with pytest.raises(parallelkit.WorkerInitError) as caught:
        parallelkit.pool_map(
            abs, [1], initializer=log_tasks.fail_to_initialize, start_method=method, forward_logs=forward_logs
        )
    assert isinstance(caught.value.__cause__, OSError)
    assert set(kept.messages) == {"before the failure"}


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("fork", {"start_method": "fork"}),
        ("fork", {"start_method": "fork", "forward_logs": True}),
        ("fork", {"start_method": "spawn"}),
        ("spawn", {"start_method": "fork"}),
    ],
)
def test_pools_within_workers(outer: str, inner: dict[str, Any], kept: Kept) -> None:
    ((pid,),) = parallelkit.pool_map(
        log_tasks.say_in_inner_pool, [inner], start_method=outer, forward_logs=True
    )
    assert [(record.process, record.getMessage()) for record in kept.records] == [
        (pid, "item 7"),
        (pid, "of lib 7"),
    ]


# The parent


class Broken(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            raise OSError("disk full")
        except OSError:
            self.handleError(record)


@pytest.mark.parametrize("loud", [True, False])
def test_handlers_and_filters_that_raise(
    loud: bool, kept: Kept, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(record: logging.LogRecord) -> bool:
        raise ValueError("what is this?")

    monkeypatch.setattr(logging, "raiseExceptions", loud)
    logging.root.addHandler(Broken())
    logging.getLogger("app.work").addFilter(refuse)
    parallelkit.pool_map(log_tasks.say, range(2), start_method="fork", forward_logs=True)
    assert sorted(kept.messages) == ["of lib 0", "of lib 1"]
    shown = capsys.readouterr().err
    assert shown.count("--- Logging error ---") == 4 * loud
    assert shown.count("OSError: disk full") == 2 * loud
    assert shown.count("ValueError: what is this?") == 2 * loud


def test_record_factories(kept: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    usual = logging.getLogRecordFactory()

    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = usual(*args, **kwargs)
        record.application = "mine"
        return record

    try:
        with parallelkit.Pool(1, start_method="fork", forward_logs=True) as pool:
            logging.setLogRecordFactory(make)
            pool.apply(log_tasks.say, (1,))
            kept.wait_for(2)
            logging.setLogRecordFactory(lambda *args: log_tasks.fail("no record"))  # type: ignore[arg-type]
            pool.apply(log_tasks.say, (1,))
    finally:
        logging.setLogRecordFactory(usual)
    assert [vars(record)["application"] for record in kept.records] == ["mine", "mine"]
    assert capsys.readouterr().err.count("OSError: no record") == 2


def test_a_flood(kept: Kept) -> None:
    parallelkit.pool_map(log_tasks.flood, [4000, 4000], max_workers=2, start_method="fork", forward_logs=True)
    counts = collections.Counter(record.process for record in kept.records)
    assert sorted(counts.values()) == [4000, 4000]
    for pid in counts:
        assert [r.getMessage() for r in kept.records if r.process == pid] == [str(n) for n in range(4000)]


class Blocked(Kept):
    def __init__(self) -> None:
        super().__init__()
        self.inside, self.go_on = threading.Event(), threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        self.inside.set()
        self.go_on.wait()


def test_a_flood_waits_for_its_reader_and_keeps_nobody_from_an_end(
    root: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = Blocked()
    root.addHandler(blocked)
    monkeypatch.setattr(driver, "_END_SECONDS", 0.3)
    shared = mmap.mmap(-1, 8)
    sent = memoryview(shared).cast("Q")
    pool = parallelkit.Pool(1, log_tasks.hold, (sent,), start_method="fork", forward_logs=True)
    result = pool.apply_async(log_tasks.flood_and_tell, (100_000,))
    while sent[0] < logs.BACKLOG + 1:
        time.sleep(0.001)
    with pytest.raises(parallelkit.CallTimeoutError):
        result.get(timeout=0.1)
    assert sent[0] == logs.BACKLOG + 1  # one is being handled
    pool.terminate()
    pool.join()
    assert result.ready()
    blocked.go_on.set()
    # What nobody had taken when time was up is dropped.
    assert len(blocked.records) == 1


@pytest.mark.skipif(multiprocessing.get_all_start_methods()[0] != "fork", reason="fork is no default here")
def test_the_listener_does_not_change_the_start_method(kept: Kept) -> None:
    with parallelkit.Pool(1, start_method="spawn") as first:
        assert logs.THREAD in {thread.name for thread in threading.enumerate()}
        with parallelkit.Pool(1) as second:
            assert second._driver.start_method == "fork"
        first.apply(log_tasks.say, (1,))
    assert kept.messages == ["item 1", "of lib 1"]


def test_no_process_is_forked_while_the_listener_is_in_a_handler(root: logging.Logger) -> None:
    class Slow(Blocked):
        def emit(self, record: logging.LogRecord) -> None:
            self.inside.set()
            self.go_on.wait(0.2)
            self.inside.clear()

    slow = Slow()
    root.addHandler(slow)
    with parallelkit.Pool(1, start_method="fork", forward_logs=True) as pool:
        pool.apply(log_tasks.say, (1,))
        slow.inside.wait()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later warn of threads
            pid = os.fork()
        if not pid:
            os._exit(slow.inside.is_set())
        assert os.waitpid(pid, 0)[1] == 0


def test_workers_are_replaced_while_records_arrive(kept: Kept) -> None:
    pids = parallelkit.pool_map(
        log_tasks.say, range(6), max_workers=2, max_tasks_per_child=1, start_method="fork", forward_logs=True
    )
    assert len(set(pids)) == 6
    assert {record.process for record in kept.records} == set(pids)
    assert len(kept.records) == 12


def test_what_is_logged_while_a_record_is_being_sent_comes_behind_it() -> None:
    """By a signal handler, or by a finalizer that the garbage collector runs there."""
    sent: list[str] = []

    class Interrupted:
        def put(self, message: logs.Message) -> None:
            if not sent:
                sender.send(logging.makeLogRecord({"msg": "second"}))
            sent.append(message[0]["msg"])

    queue: Any = Interrupted()
    sender = logs.Sender(queue, None, False)
    sender.send(logging.makeLogRecord({"msg": "first"}))
    assert sent == ["first", "second"]


def test_a_pool_that_was_never_closed(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("""
import logging, parallelkit

def work(item):
    for number in range(100):
        logging.warning("item %d", number)

if __name__ == "__main__":
    pool = parallelkit.Pool(1, start_method="spawn")
    pool.apply(work, (5,))
""")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True, timeout=50)
    lines = [line for line in done.stderr.splitlines() if line.startswith("item")]
    assert lines == [f"item {number}" for number in range(100)]
