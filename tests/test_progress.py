from __future__ import annotations

import asyncio
import io
import os
import pty
import re
import subprocess
import sys
import termios
import types
from pathlib import Path
from typing import Any

import pytest
import tasks
from rich.console import Console
from rich.progress import Progress

import parallelkit
from parallelkit.progress import Guarded, Reporter, _bar, make_reporter

#: A program that prints what an expression comes to.
PROGRAM = """
import parallelkit, rich.console, rich.progress, sys, tasks, tqdm
from parallelkit import *

def futures(*args, **options):
    with ProcessPoolExecutor(2) as executor:
        return list(executor.map(*args, **options))

def asynchronous(*args, **options):
    with Pool(2) as pool:
        return pool.map_async(*args, **options).get()

def shared(*args, **options):
    console = rich.console.Console(stderr=True)
    with rich.progress.Progress(console=console, auto_refresh=False) as display:
        sums = [sum(pool_map(*args, progress=display, **options)) for _ in range(2)]
        assert all(task.finished for task in display.tasks)
    return sums

def failures(results):
    try:
        return sum(not isinstance(outcome, Success) for outcome in results)
    except ExceptionGroup as group:
        return len(group.exceptions)

if __name__ == "__main__":
    print({expression})
"""


#: Colours, movements of the cursor, and whether that is shown.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def _program(folder: Path, expression: str) -> dict[str, Any]:
    path = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    script = folder / "program.py"
    script.write_text(PROGRAM.replace("{expression}", expression))
    return {
        "args": [sys.executable, str(script)],
        "env": {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path),
            "COLUMNS": "80",
            "LINES": "24",
            "TERM": "xterm",
        },
        "text": True,
    }


def _on_a_terminal(folder: Path, expression: str) -> tuple[str, list[str]]:
    """What the program prints, and what the terminal on its standard error shows, one after the other."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))  # a new one has no columns, and so no room for a bar
    program = _program(folder, expression)
    with subprocess.Popen(**program, stdout=subprocess.PIPE, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        while data := _read(ours):
            shown += data
        os.close(ours)
        output, _ = process.communicate()
    assert process.returncode == 0, shown.decode()
    text = _CONTROL.sub("", shown.decode())
    assert text.endswith("\n")
    return output.strip(), [line for line in re.split(r"\s*[\r\n]\s*", text) if line]


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1 << 16)
    except OSError:  # how Linux tells that nobody has the other end any more
        return b""


def test_a_bar_on_a_terminal_is_complete(start_method: str, tmp_path: Path) -> None:
    output, bars = _on_a_terminal(
        tmp_path, f"pool_map(abs, range(50), progress=True, max_workers=2, start_method={start_method!r})"
    )
    assert output == str(list(range(50)))
    assert re.match(r"0%\|\s+\| 0/50 ", bars[0])
    assert re.fullmatch(r"100%\|█+\| 50/50 \[.*\]", bars[-1])
    assert not any("failed" in bar for bar in bars)


@pytest.mark.parametrize(
    ("call", "last"),
    [
        (
            "pool_map(abs, range(50), progress='rich', chunksize=7)",
            r"━+ 100% 50/50 \d:\d\d:\d\d \d:\d\d:\d\d items",
        ),
        ("pool_map(abs, iter(range(50)), progress='rich')", r"━+ 100% 50/50 .* items"),
        (
            "failures(pool_map(tasks.fail_on_odd, range(10), progress='rich', errors='return'))",
            r"━+ 100% 10/10 .* items, 5 failed",
        ),
        ("futures(abs, range(50), progress='rich')", r"━+ 100% 50/50 .* items"),
        ("futures(abs, range(50), progress=True)", r"100%\|█+\| 50/50 \[.*\]"),
        ("asynchronous(abs, range(50), progress=True)", r"100%\|█+\| 50/50 \[.*\]"),
    ],
)
def test_bars_of_rich_and_of_other_calls(call: str, last: str, tmp_path: Path) -> None:
    output, bars = _on_a_terminal(tmp_path, call)
    assert output == ("5" if "failures" in call else str(list(range(50))))
    assert re.fullmatch(last, bars[-1])


def test_a_display_of_rich_shows_several_calls(tmp_path: Path) -> None:
    output, bars = _on_a_terminal(tmp_path, "shared(abs, range(50))")
    assert output == "[1225, 1225]"
    assert [re.sub(r" [ ━]+ ", " ", bar) for bar in bars[-2:]] == ["items 100% 0:00:00"] * 2


def test_a_bar_counts_an_item_once_that_is_retried(tmp_path: Path) -> None:
    call = (
        "pool_map(tasks.fail_on_odd, range(10), progress={}, errors='return', retries=2, retry_on=ValueError)"
    )
    for progress, last in (("True", r" 10/10 \[.*, failed=5\]$"), ("'rich'", " 100% 10/10 .*, 5 failed$")):
        _, bars = _on_a_terminal(tmp_path, f"len({call.format(progress)})")
        assert re.search(last, bars[-1])
        assert not any("/10" in bar and int(bar.split("/10")[0].split()[-1]) > 10 for bar in bars)


def test_a_bar_moves_while_items_are_done(tmp_path: Path) -> None:
    _, bars = _on_a_terminal(
        tmp_path, "pool_map(tasks.sleep, [0.2] * 6, progress=True, max_workers=2, chunksize=1)"
    )
    seen = {int(match[1]) for bar in bars if (match := re.search(r" (\d)/6 ", bar))}
    assert {0, 6} < seen


def test_a_bar_without_a_total(tmp_path: Path) -> None:
    output, bars = _on_a_terminal(tmp_path, "pool_map(abs, (x for x in range(7)), progress=True)")
    assert output == str(list(range(7)))
    assert re.fullmatch(r"7it \[.*\]", bars[-1])


@pytest.mark.parametrize(
    "call",
    [
        "pool_imap(tasks.fail_on_odd, range(10), progress=True, errors='return')",
        "pool_imap(tasks.fail_on_odd, range(10), progress=True, errors='group')",
        "pool_map(tasks.fail_on_odd, range(10), progress=True, errors='return')",
        "pool_map(tasks.fail_on_odd, range(10), progress=True, errors='return', engine='serial')",
        "pool_map(tasks.fail_on_odd, range(10), progress=True, errors='return', engine='threads')",
    ],
)
def test_a_bar_tells_how_many_items_failed(call: str, tmp_path: Path) -> None:
    output, bars = _on_a_terminal(tmp_path, f"failures({call})")
    assert output == "5"
    assert re.fullmatch(r"100%\|█+\| 10/10 \[.*, failed=5\]", bars[-1])


@pytest.mark.parametrize(
    ("redirection", "progress"),
    [
        *((redirection, "True") for redirection in ("2>file", "2>/dev/null", "2>&-", "2>&1")),
        ("2>file", "'rich'"),
        ("2>&-", "'rich'"),
        ("2>&1", "'rich'"),
    ],
)
def test_nothing_is_shown_where_there_is_no_terminal(redirection: str, progress: str, tmp_path: Path) -> None:
    program = _program(tmp_path, f"pool_map(abs, [1, -2], progress={progress})")
    program["args"] = ["sh", "-c", f'exec "$0" "$@" {redirection}', *program["args"]]
    done = subprocess.run(**program, cwd=tmp_path, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout) == (0, "[1, 2]\n")
    if redirection == "2>file":
        assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize(
    "bar", ["tqdm.tqdm(total=7)", "rich.progress.Progress(console=rich.console.Console(stderr=True))"]
)
def test_a_bar_that_the_caller_made_is_shown_without_a_terminal(bar: str, tmp_path: Path) -> None:
    program = _program(tmp_path, f"pool_map(abs, range(7), progress={bar}, start_method='fork')")
    done = subprocess.run(**program, capture_output=True, check=True)
    assert done.stdout == "[0, 1, 2, 3, 4, 5, 6]\n"
    assert "100%" in done.stderr


def test_nothing_is_shown_where_standard_error_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    assert make_reporter(True, 3) is None
    assert make_reporter("rich", 3) is None


def _enter_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    shell = types.SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))


def test_a_bar_in_a_notebook_with_widgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """How they look is the browser's matter. Here: theirs is the bar, and is told of all that is done."""
    from tqdm import notebook

    _enter_a_notebook(monkeypatch)
    made: list[Any] = []

    class Widget:
        disable = False

        def __init__(self, **options: Any) -> None:
            self.options, self.done, self.postfix, self.closed = options, 0, 0, False
            made.append(self)

        @classmethod
        def set_lock(cls, lock: object) -> None:
            pass

        def update(self, n: int) -> None:
            self.done += n

        def set_postfix(self, *, failed: int, refresh: bool) -> None:
            self.postfix = failed

        def close(self) -> None:
            self.closed = True

    monkeypatch.setattr(notebook, "IProgress", object(), raising=False)
    monkeypatch.setattr(notebook, "tqdm_notebook", Widget)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    parallelkit.pool_map(tasks.fail_on_odd, range(6), progress=True, errors="return")
    (bar,) = made
    assert bar.options["total"] == 6
    assert not bar.options["disable"]
    assert (bar.done, bar.postfix, bar.closed) == (6, 3, True)


@pytest.mark.parametrize("total", [3, None])
def test_a_bar_in_a_notebook_without_widgets(total: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    from tqdm import notebook

    _enter_a_notebook(monkeypatch)
    monkeypatch.setattr(notebook, "IProgress", None, raising=False)
    monkeypatch.setattr(sys, "stderr", shown := io.StringIO())
    items = [1, 2, 3] if total else (x for x in [1, 2, 3])
    assert parallelkit.pool_map(abs, items, progress=True) == [1, 2, 3]
    assert shown.getvalue().endswith("\n")
    assert ("3/3" if total else "3it") in shown.getvalue().split("\r")[-1]


def test_bars_of_several_threads_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := io.StringIO())
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    first, second = _bar(3), _bar(3)
    assert first.get_lock() is second.get_lock()
    second.close()
    first.close()


def test_the_programs_settings_of_tqdm_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    from tqdm.std import tqdm

    theirs: Any = tqdm
    monkeypatch.setattr(sys, "stderr", terminal := io.StringIO())
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    before = (theirs.monitor_interval, theirs.get_lock())
    reporter = make_reporter(True, 3)
    assert reporter is not None
    reporter.close()
    assert (theirs.monitor_interval, theirs.get_lock()) == before


@pytest.mark.parametrize("call", [parallelkit.pool_map, parallelkit.pool_imap])
def test_without_tqdm(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [*sys.modules]:
        if name.partition(".")[0] == "tqdm":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tqdm", None)  # which makes its import fail
    with pytest.raises(
        ImportError, match=r"needs tqdm: pip install 'parallelkit\[progress\]', or give an obj"
    ):
        call(abs, [1], progress=True)
    counter = Counter()
    assert list(call(abs, [1], progress=counter)) == [1]
    assert counter.closed == 1


def test_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    with pytest.raises(ImportError, match=r"needs rich: pip install 'parallelkit\[rich\]', or give an obj"):
        parallelkit.pool_map(abs, [1], progress="rich")


def test_an_executor_refuses_what_is_no_progress() -> None:
    with parallelkit.ProcessPoolExecutor(1) as executor, pytest.raises(TypeError, match="'on' has no update"):
        executor.map(abs, [1], progress="on")  # type: ignore[call-overload]


# Displays of rich


@pytest.fixture
def display() -> Progress:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    return Progress("{task.description} {task.completed} of {task.total}", console=console)


def _shown(display: Progress) -> str:
    file = display.console.file
    assert isinstance(file, io.StringIO)
    return _CONTROL.sub("", file.getvalue())


def test_a_display_that_nobody_has_started_is_for_one_call(display: Progress) -> None:
    parallelkit.pool_map(tasks.fail_on_odd, range(8), progress=display, errors="return")
    assert not display.live.is_started
    assert _shown(display).rstrip().endswith("items, 4 failed 8 of 8")
    assert display.tasks[0].fields == {"failed": 4}


def test_a_display_that_draws_has_no_part_in_how_workers_start(display: Progress) -> None:
    # By fork, though it has a thread: the first workers are there before it.
    parent = os.getpid()
    assert parallelkit.pool_map(lambda _: os.getppid(), [1], progress=display) == [parent]


def test_a_display_goes_on_where_a_call_is_left_early(display: Progress) -> None:
    with display:
        with pytest.raises(ValueError, match="three"):
            parallelkit.pool_map(tasks.fail_on_three, [3], progress=display, start_method="fork")
        assert display.live.is_started
        with parallelkit.Pool(1, start_method="fork") as pool:
            assert sum(pool.imap(abs, (x for x in range(4)), progress=display)) == 6
    assert [(task.completed, task.total, task.finished) for task in display.tasks] == [
        (1, 1, True),
        (4, 4, True),
    ]
    assert display.tasks[0].stop_time is not None


# Objects of the caller's own


class Counter:
    def __init__(self) -> None:
        self.done = 0
        self.closed = 0

    def update(self, n: int, /) -> None:
        assert n > 0
        assert not self.closed
        self.done += n

    def close(self) -> None:
        self.closed += 1


def test_an_object_is_told_of_each_item(engine: dict[str, Any]) -> None:
    for errors in ("return", "group"):
        counter = Counter()
        assert isinstance(counter, Reporter)
        try:
            parallelkit.pool_map(tasks.fail_on_three, range(20), progress=counter, errors=errors, **engine)
        except ExceptionGroup:
            assert errors == "group"
        assert (counter.done, counter.closed) == (20, 1)
    counter = Counter()
    assert sum(parallelkit.pool_imap(tasks.square, iter(range(20)), progress=counter, **engine)) == 2470
    assert (counter.done, counter.closed) == (20, 1)


def test_an_object_is_closed_where_the_call_is_left_early(engine: dict[str, Any]) -> None:
    counter = Counter()
    with pytest.raises(ValueError, match="three"):
        parallelkit.pool_map(tasks.fail_on_three, range(20), progress=counter, **engine)
    assert counter.closed == 1
    counter = Counter()
    with parallelkit.pool_imap(tasks.square, range(20), progress=counter, **engine) as results:
        next(results)
    assert counter.closed == 1


def test_an_object_is_closed_where_there_is_no_item() -> None:
    counters = [Counter() for _ in range(5)]
    none: list[int] = []
    assert parallelkit.pool_map(abs, none, progress=counters[0]) == []
    assert list(parallelkit.pool_imap(abs, none, progress=counters[1])) == []
    assert asyncio.run(parallelkit.aio.pool_map(abs, none, progress=counters[2])) == []
    with parallelkit.Pool(1) as pool:
        assert pool.map(abs, none, progress=counters[3]) == []
        assert list(pool.imap(abs, none, progress=counters[4])) == []
    assert [counter.closed for counter in counters] == [1] * 5


def test_an_object_with_a_postfix_is_told_of_failures(engine: dict[str, Any]) -> None:
    told: list[int] = []

    class WithPostfix(Counter):
        def set_postfix(self, *, failed: int, refresh: bool) -> None:
            told.append(failed)

    parallelkit.pool_map(
        tasks.fail_on_odd, range(8), progress=WithPostfix(), errors="return", chunksize=1, **engine
    )
    assert told == sorted(told)
    assert told[-1] == 4


def test_the_failure_of_an_item_comes_before_that_of_the_object() -> None:
    class Broken(Counter):
        def update(self, n: int, /) -> None:
            raise OSError("no such terminal")

    with pytest.raises(ValueError, match="three"):
        parallelkit.pool_map(tasks.fail_on_three, [3], progress=Broken())
    with pytest.raises(ExceptionGroup) as caught:
        list(parallelkit.pool_imap(tasks.fail_on_three, [3], errors="group", progress=Broken()))
    assert caught.group_contains(ValueError, match="three")


def test_guarded_keeps_the_first_error_and_tells_no_more() -> None:
    calls: list[str] = []

    class Broken:
        def update(self, n: int, /) -> None:
            calls.append("update")
            raise OSError("first")

        def set_postfix(self, **_: object) -> None:
            calls.append("postfix")

        def close(self) -> None:
            calls.append("close")
            raise OSError("second")

    guarded = Guarded(Broken())
    guarded.failed(1)
    guarded.update(1)
    guarded.update(1)
    guarded.failed(2)
    guarded.close()
    guarded.close()
    assert calls == ["postfix", "update", "close"]
    assert str(guarded.error) == "first"


def test_guarded_lets_an_interrupt_pass() -> None:
    class Interrupted(Counter):
        def update(self, n: int, /) -> None:
            raise KeyboardInterrupt

    guarded = Guarded(Interrupted())
    with pytest.raises(KeyboardInterrupt):
        guarded.update(1)
    assert guarded.error is None
