"""The programs of the tutorial, run as a reader runs them; what they print is compared with its text."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pytest

ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "examples" / "tutorial"
#: What a program may take longer than it sleeps, in seconds, on a slow machine that does other things, too.
SLACK = 8.0
#: Seconds for one program, all of them running at once.
LIMIT = 45.0
MAIN = 'if __name__ == "__main__":\n'
#: Programs that do not sleep long are run with the other start methods, too.
SHORT = ("process_run", "lock_print", "queue_write_read", "pool_map_urls", "beyond")
SCRIPTS = sorted(path.stem for path in TUTORIAL.glob("*.py") if path.stem not in ("workers", "timings"))
RUNS = [(name, None) for name in SCRIPTS] + [(name, m) for name in SHORT for m in ("spawn", "forkserver")]


@dataclass
class Run:
    exitcode: int
    lines: list[str]
    errors: str

    @property
    def seconds(self) -> float:
        """What the program says that it took."""
        return float(self.find("fini?sh").split()[1])

    def find(self, pattern: str) -> str:
        return next(line for line in self.lines if re.match(pattern, line))


Runs: TypeAlias = "dict[tuple[str, str | None], Run]"


def _run(name: str, method: str | None) -> Run:
    """Run a program in a fresh folder."""
    with tempfile.TemporaryDirectory(prefix="tutorial-") as folder:
        script = TUTORIAL / f"{name}.py"
        if method is not None:
            choice = f"    import parallelkit\n    parallelkit.set_start_method({method!r})\n"
            for path in TUTORIAL.glob("*.py"):
                text = path.read_text("utf-8").replace(MAIN, MAIN + choice)
                Path(folder, path.name).write_text(text, "utf-8")
            script = Path(folder, script.name)
            assert choice in script.read_text("utf-8")
        # As on a terminal, a line is written when it is printed, by each process and at one stroke.
        Path(folder, "sitecustomize.py").write_text("import sys; sys.stdout.reconfigure(line_buffering=True)")
        process = subprocess.Popen(
            [sys.executable, script],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, "PYTHONIOENCODING": "utf-8", "PYTHONPATH": folder, "PYTHONUNBUFFERED": ""},
            start_new_session=True,
        )
        try:
            output, errors = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, errors = process.communicate()
            errors += f"\n{name} {method}: not over after {LIMIT:g} s"
        return Run(process.returncode, output.splitlines(), errors)


@pytest.fixture(scope="module")
def runs() -> Runs:
    """All programs at once, as most of their time is sleep."""
    with ThreadPoolExecutor(len(RUNS)) as threads:
        return dict(zip(RUNS, threads.map(lambda run: _run(*run), RUNS), strict=True))


def _takes(run: Run, least: float, fails: bool = False) -> None:
    assert least <= run.seconds < least + SLACK
    if not fails:
        assert (run.exitcode, run.errors) == (0, "")


@pytest.fixture(params=[None, "spawn", "forkserver"], ids=["default", "spawn", "forkserver"])
def method(request: pytest.FixtureRequest) -> str | None:
    method: str | None = request.param
    return method


def test_two_processes_together(runs: Runs) -> None:
    run = runs["process_together", None]
    assert sorted(run.lines[:2]) == ["工作1", "工作212"]  # which of them is first is not determined
    assert run.lines[2:4] == ["end工作1", "end工作212"]
    assert len(run.lines) == 5
    _takes(run, 6)


def test_two_processes_in_turn(runs: Runs) -> None:
    run = runs["process_in_turn", None]
    assert run.lines[:4] == ["工作1", "end工作1", "工作212", "end工作212"]
    assert len(run.lines) == 5
    _takes(run, 10)


def test_daemonic_processes(runs: Runs) -> None:
    run = runs["process_daemon", None]
    assert sorted(run.lines[:2]) == ["工作1", "工作212"]
    assert run.lines[2] == "end工作1"
    shown = r"<Process name='Process-%d' pid=\d+ parent=\d+ %s daemon>"
    assert re.fullmatch("进程1: " + shown % (1, "stopped exitcode=0") + " ", run.lines[3])
    assert re.fullmatch(" 进程2: " + shown % (2, "started"), run.lines[4])
    assert run.lines[5:7] == ["进程1: False ", " 进程2: True"]
    # The tutorial's last line, "end工作212", is that of a process whose parent, a notebook, was still there.
    assert len(run.lines) == 8
    _takes(run, 4)


def test_an_assigned_run(runs: Runs, method: str | None) -> None:
    run = runs["process_run", method]
    assert len(run.lines) == 3
    began = time.strptime(run.lines[0].removeprefix("this is fun1 "))
    ended = time.strptime(run.lines[1].removeprefix("fun1 finish "))
    assert 1 <= time.mktime(ended) - time.mktime(began) <= 2 + SLACK
    _takes(run, 2)


def test_a_lock(runs: Runs, method: str | None) -> None:
    run = runs["lock_print", method]
    counts: dict[str, list[int]] = {}
    for line in run.lines:
        found = re.fullmatch(r"Pid: (\d+) LoopCount: (\d+)", line)
        assert found, line
        counts.setdefault(found[1], []).append(int(found[2]))
    assert sorted(counts.values()) == [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]
    assert (run.exitcode, run.errors) == (0, "")


def test_a_queue(runs: Runs, method: str | None) -> None:
    run = runs["queue_write_read", method]
    puts = [f"Put {letter} to queue..." for letter in "ABC"]
    assert run.lines == [*puts, *(f"Get {letter} from queue." for letter in "ABC"), "所有数据都写入并且读完"]
    assert (run.exitcode, run.errors) == (0, "")


@pytest.mark.skipif(multiprocessing.get_all_start_methods()[0] != "fork", reason="it has no main guard")
def test_a_pipe(runs: Runs) -> None:
    run = runs["pipe_two_ways", None]
    assert sorted(run.lines[:2]) == [
        "Consumer Received: Producer Words",
        "Producer Received: Consumer Words",
    ]
    assert run.lines[2:] == ["Ended!"]
    assert (run.exitcode, run.errors) == (0, "")


def _ends_with_the_error_of_worker_0(run: Run) -> None:
    assert run.exitcode == 1
    assert "ZeroDivisionError: division by zero" in run.errors
    line = next(n for n, text in enumerate(_workers(), 1) if "0 / 0" in text)
    assert re.search(rf'workers\.py", line {line}, in worker_0\n.* _ = 0 / 0\n', run.errors)
    assert "end工作失误" not in run.lines


def _workers() -> list[str]:
    return (TUTORIAL / "workers.py").read_text("utf-8").splitlines()


def test_a_pool_whose_fifth_call_divides_by_zero(runs: Runs) -> None:
    run = runs["pool_apply_async", None]
    others = ["工作1", "工作212", "工作three", "工作four"]
    assert sorted(run.lines[:-1]) == sorted([*others, *(f"end{name}" for name in others), "错误的工作"])
    # The fifth begins when one of the four has ended.
    assert any(line.startswith("end") for line in run.lines[: run.lines.index("错误的工作")])
    _takes(run, 2, fails=True)
    assert "ExceptionGroup: 1 failure that nobody retrieved" in run.errors
    _ends_with_the_error_of_worker_0(run)


def test_a_pool_that_is_waited_for_each_time(runs: Runs) -> None:
    run = runs["pool_apply", None]
    others = ["工作1", "工作212", "工作three", "工作four"]
    assert run.lines[:-1] == [line for name in others for line in (name, f"end{name}")] + ["错误的工作"]
    _takes(run, 5, fails=True)
    _ends_with_the_error_of_worker_0(run)


def test_fetching_pages(runs: Runs, method: str | None) -> None:
    run = runs["pool_map_urls", method]
    assert run.lines[-1] == "[None, None, None, None]"
    assert run.lines.count("<Response [200]>") == 3
    scraped = [line.split()[1] for line in run.lines if re.fullmatch(r"URL \S+ Scraped", line)]
    assert len(scraped) == 4
    refused = run.find("Error Occured").split()[2]
    assert refused in scraped
    assert sorted(url.rpartition("/")[2] for url in scraped) == ["", "baidu", "csdn", "meituan"]
    assert len(run.lines) == 9
    assert (run.exitcode, run.errors) == (0, "")


def test_what_is_beyond_the_tutorial(runs: Runs, method: str | None) -> None:
    run = runs["beyond", method]
    assert run.lines == [
        "one quarter: 0.25",
        "one by nothing: ZeroDivisionError('division by zero')",
        "the child ended with -15",
        "is the grandchild alive: False",
        "abandoned: True",
        "got 0",
        "got 1",
        "got 2",
        "the item cannot be sent between processes: TypeError: cannot pickle '_thread.lock' object. "
        "Send what it can be made from, and make it in the worker",
        "nothing came",
        "late",
        "slept: None",
        "the call ran longer than its task_timeout of 0.5 s and was ended",
        "slept: None",
    ]
    assert run.exitcode == 0
    assert run.errors.count("Traceback") == 1  # a process prints what it ends in, as with multiprocessing


def test_the_order_that_each_process_keeps(runs: Runs) -> None:
    for name in ("pool_apply_async", "process_together", "process_daemon"):
        lines = runs[name, None].lines
        for line in lines:
            if line.startswith("end"):
                assert lines.index(line.removeprefix("end")) < lines.index(line)


def test_the_timings_are_those_of_the_programs(tmp_path: Path) -> None:
    # With each sleep divided by 20; the whole table takes half a minute otherwise.
    done = subprocess.run(
        [sys.executable, TUTORIAL / "timings.py", "--faster", "20"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = [re.split(r" {2,}", line.strip()) for line in done.stdout.splitlines()[1:]]
    assert [row[1] for row in rows] == ["6.03 s", "10.04 s", "4.02 s", "2.02 s", "2.14 s", "-"]
    for row, sleeps in zip(rows, (6, 10, 4, 2, 2, 5), strict=True):
        assert sleeps / 20 <= float(row[2].removesuffix(" s")) < sleeps / 20 + SLACK


_BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("page", ["tutorial.md", "tutorial.zh.md"])
def test_the_pages_show_the_programs(page: str) -> None:
    text = (ROOT / "docs" / page).read_text("utf-8")
    sources = {path.name: path.read_text("utf-8") for path in TUTORIAL.glob("*.py")}
    blocks = _BLOCK.findall(text)
    for block in blocks:
        assert any(block in source for source in sources.values()), f"in no program:\n{block}"
    for name in sources:
        assert name in text, f"{page} does not speak of {name}"
    assert len(blocks) >= len(SCRIPTS)


def test_both_pages_show_the_same_programs() -> None:
    pages = [(ROOT / "docs" / name).read_text("utf-8") for name in ("tutorial.md", "tutorial.zh.md")]
    assert _BLOCK.findall(pages[0]) == _BLOCK.findall(pages[1])
