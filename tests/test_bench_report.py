"""The report of the benchmarks, on a run that was made up: all figures of the page come from it."""

from __future__ import annotations

import copy
import importlib
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

MACHINE = {
    "cpu": "Made-up 3000",
    "cpus": 2,
    "workers": 2,
    "memory_bytes": 8 << 30,
    "architecture": "x86_64",
    "system": "Linux",
    "kernel": "6.1",
    "python": "CPython 3.11.0",
    "versions": {"loky": "1.2.3"},
}


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("report")


def entry(
    group: str,
    workload: str,
    contestant: str,
    kind: str,
    seconds: list[float],
    method: str = "fork",
    **more: Any,
) -> dict[str, Any]:
    about = {
        "group": group, "workload": workload, "title": f"title of {workload}", "note": "", "kind": kind,
        "contestant": contestant, "method": method, "scaled": 1, "ideal": None, "ideal_share": None,
        "items": None, "bytes": None, "compared": True, "extras": {},
    }  # fmt: skip
    return {"group": group, "params": {}, "extra_info": {**about, **more}, "stats": {"data": seconds}}


def start(contestant: str, kind: str, seconds: list[float], method: str = "fork") -> dict[str, Any]:
    return entry("start", "two items, fork", contestant, kind, seconds, method)


def content(
    *entries: dict[str, Any], failures: tuple[dict[str, Any], ...] = (), **machine: Any
) -> dict[str, Any]:
    return {
        "machine_info": {**MACHINE, **machine},
        "commit_info": {"id": "0123456789abcdef", "dirty": False},
        "datetime": "2030-01-02T03:04:05",
        "quick": False,
        "benchmarks": list(entries),
        "failures": list(failures),
    }


STARTS = (
    start("multiprocessing.Pool", "peer", [0.010, 0.100, 0.030]),
    start("loky", "peer", [0.2, 0.2, 0.2], "loky"),
    # Half of the other's time in two rounds, though not by the medians.
    start("parallelkit.Pool", "ours", [0.005, 0.050, 0.029]),
)
BY_METHOD = (
    entry("dispatch", "no-ops", "multiprocessing.Pool", "peer", [0.1], items=1000),
    entry("dispatch", "no-ops", "multiprocessing.Pool", "peer", [0.4], "forkserver", items=1000),
    entry("dispatch", "no-ops", "joblib", "peer", [0.2], "loky", items=1000, scaled=20),
    entry("dispatch", "no-ops", "parallelkit.Pool", "ours", [0.15], items=1000),
    entry("dispatch", "no-ops", "parallelkit.Pool", "ours", [0.15], "forkserver", items=1000),
)


def saved(folder: Path, name: str, made_up: dict[str, Any]) -> Path:
    path = folder / name
    path.write_text(json.dumps(made_up))
    return path


def rendered(report: Any, folder: Path, *entries: dict[str, Any], **more: Any) -> str:
    path = saved(folder, "run.json", content(*entries, **more))
    assert report.main([str(path), "--page", str(folder / "page.md")]) == 0
    return (folder / "page.md").read_text()


def row(page: str, *cells: str) -> list[str]:
    """The one line of a table that begins with these cells."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines()]
    (found,) = [line for line in lines if line[: len(cells)] == list(cells)]
    return found


def test_ratios_are_of_rounds_with_the_same_number(report: Any, tmp_path: Path) -> None:
    page = rendered(report, tmp_path, *STARTS)
    assert row(page, "**parallelkit.Pool**", "fork")[2:] == ["29.0 ms", "5.00 ms", "0.50x", "3"]
    assert row(page, "multiprocessing.Pool", "fork")[4] == "1.00x"
    goal = row(page, "start, two items, stop", "at most 0.60x of multiprocessing.Pool", "parallelkit.Pool")
    assert goal[3:] == ["0.50x: yes", ""]  # forkserver has a workload of its own
    assert row(page, "start: title of two items, fork")[1:] == [
        "parallelkit.Pool", "29.0 ms", "multiprocessing.Pool", "30.0 ms", "0.50x",
    ]  # fmt: skip


def test_peers_are_compared_by_their_start_method_if_they_have_one(report: Any, tmp_path: Path) -> None:
    page = rendered(report, tmp_path, *BY_METHOD)
    goal = row(page, "100,000 no-ops, own chunking", "at most 1.00x of the best peer", "parallelkit.Pool")
    assert goal[3:] == ["1.50x (multiprocessing.Pool): **no**", "0.75x (joblib): yes"]
    assert row(page, "joblib", "loky")[-2:] == ["200 µs", "1, of 1/20"]


def test_a_goal_that_was_not_measured_is_not_met(report: Any, tmp_path: Path) -> None:
    page = rendered(report, tmp_path, *STARTS)
    assert (
        row(page, "64 sleeping workers", "at least 95.0 % efficiency", "parallelkit.Pool")[3]
        == "not measured"
    )


def test_a_face_that_fails_has_not_met_its_goal(report: Any, tmp_path: Path) -> None:
    failure = {**BY_METHOD[4]["extra_info"], "instead": "dies"}
    page = rendered(report, tmp_path, *BY_METHOD[:4], failures=(failure,))
    goal = row(page, "100,000 no-ops, own chunking", "at most 1.00x of the best peer", "parallelkit.Pool")
    assert goal[4] == "dies: **no**"


def test_who_fails_with_a_deadline_has_not_met_its_goal(report: Any, tmp_path: Path) -> None:
    timed = {**BY_METHOD[3]["extra_info"], "contestant": "parallelkit.Pool, task_timeout", "instead": "dies"}
    page = rendered(report, tmp_path, *BY_METHOD, failures=(timed,))
    goal = row(page, "task_timeout: 100,000 no-ops", "at most 1.10x of without", "parallelkit.Pool")
    assert goal[3:] == ["dies: **no**", "not measured"]


def test_to_be_faster_than_all_is_to_be_faster_than_each(report: Any, tmp_path: Path) -> None:
    # One has the least median; the other is faster than ours in the same round, more often than not.
    page = rendered(
        report,
        tmp_path,
        entry("dispatch", "no-ops", "mpire", "peer", [0.10, 0.21, 0.31]),
        entry("dispatch", "no-ops", "Pebble", "peer", [0.09, 0.9, 0.29]),
        entry("dispatch", "no-ops", "parallelkit.Pool", "ours", [0.10, 0.2, 0.30]),
    )
    goal = row(page, "100,000 no-ops, own chunking", "at most 1.00x of the best peer", "parallelkit.Pool")
    assert goal[3] == "1.03x (Pebble): **no**"
    assert row(page, "**parallelkit.Pool**", "fork")[4] == "0.97x"


def test_a_goal_that_is_missed_does_not_look_met(report: Any, tmp_path: Path) -> None:
    page = rendered(
        report,
        tmp_path,
        entry("dispatch", "no-ops", "mpire", "peer", [1.0]),
        entry("dispatch", "no-ops", "parallelkit.Pool", "ours", [1.004]),
    )
    goal = row(page, "100,000 no-ops, own chunking", "at most 1.00x of the best peer", "parallelkit.Pool")
    assert goal[3] == "1.0040x (mpire): **no**"


def test_what_has_a_deadline_besides_does_not_stand_for_parallelkit(report: Any, tmp_path: Path) -> None:
    timed = entry("dispatch", "no-ops", "parallelkit.Pool, task_timeout", "ours", [0.01])
    page = rendered(report, tmp_path, *BY_METHOD, timed)
    assert row(page, "dispatch: title of no-ops")[1] == "parallelkit.Pool"


def test_times_that_say_nothing_are_not_compared(report: Any, tmp_path: Path) -> None:
    entries = [{**one, "extra_info": {**one["extra_info"], "compared": False}} for one in STARTS]
    page = rendered(report, tmp_path, *entries)
    assert row(page, "**parallelkit.Pool**", "fork")[4] == ""
    assert "29.0 ms" not in (tmp_path / "page" / "start.svg").read_text()


def test_the_ideal_may_be_a_share_of_what_serial_takes(report: Any, tmp_path: Path) -> None:
    page = rendered(
        report,
        tmp_path,
        # In the same round: the machine was slow in the last two.
        entry("document", "working", "serial", "serial", [2.0, 4.0, 4.0], "", ideal_share=0.5),
        entry("document", "working", "parallelkit", "ours", [1.1, 2.1, 2.2], ideal_share=0.5),
        entry("scale", "64 workers", "parallelkit.Pool", "ours", [0.25], ideal=0.2),
    )
    assert row(page, "**parallelkit**", "fork")[5:7] == ["+100.0 ms", "1.100x"]
    goal = row(page, "64 sleeping workers", "at least 95.0 % efficiency", "parallelkit.Pool")
    assert goal[3] == "80.0 %: **no**"


def test_who_failed_is_in_the_table(report: Any, tmp_path: Path) -> None:
    failure = {**start("Pebble", "peer", [])["extra_info"], "instead": "hangs (> 5 s)"}
    page = rendered(report, tmp_path, *STARTS, failures=(failure,))
    assert row(page, "Pebble", "fork")[2] == "hangs (> 5 s)"


def test_the_primitives_are_there_without_a_race(report: Any, tmp_path: Path) -> None:
    entries = [
        {"group": "a lock", "params": {"kit": kit}, "extra_info": {}, "stats": {"data": [seconds]}}
        for kit, seconds in (("multiprocessing", 0.001), ("parallelkit", 0.002))
    ]
    page = rendered(report, tmp_path, *entries)
    assert row(page, "**parallelkit**", "")[2:] == ["2.00 ms", "2.00 ms", "2.00x", "1"]


def test_the_page_tells_of_the_machine(report: Any, tmp_path: Path) -> None:
    page = rendered(report, tmp_path, *STARTS)
    for told in ("2030-01-02", "0123456789ab", "Made-up 3000, 2 CPUs, 8 GiB", "CPython 3.11.0", "loky 1.2.3"):
        assert told in page


def test_charts_are_drawings_that_the_page_links_and_that_heed_dark_mode(report: Any, tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "old.svg").write_text("of a group that is no more")
    page = rendered(report, tmp_path, *STARTS, *BY_METHOD)
    linked = set(re.findall(r"\]\((\S+\.svg)\)", page))
    assert linked == {f"page/{path.name}" for path in (tmp_path / "page").iterdir()}
    assert linked == {"page/glance.svg", "page/start.svg", "page/dispatch.svg"}
    for name in linked:
        text = (tmp_path / name).read_text()
        ElementTree.fromstring(text)
        assert "prefers-color-scheme: dark" in text
    assert "29.0 ms" in (tmp_path / "page" / "start.svg").read_text()


def test_two_runs_of_one_machine_are_compared(
    report: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faster = copy.deepcopy(STARTS)
    faster[2]["stats"]["data"] = [0.0145]
    before = saved(tmp_path, "before.json", content(*STARTS))
    # What a kernel keeps of the memory may differ a little; of those measured then one fails, one is gone.
    failure = {**STARTS[1]["extra_info"], "instead": "hangs (> 5 s)"}
    new = start("mpire", "peer", [0.5])
    later = content(faster[2], new, failures=(failure,), memory_bytes=(8 << 30) - 12345)
    after = saved(tmp_path, "after.json", later)
    assert report.main(["--compare", str(before), str(after)]) == 0
    table = capsys.readouterr().out
    title = "start: title of two items, fork"
    assert row(table, title, "parallelkit.Pool (fork)")[2:] == ["29.0 ms", "14.5 ms", "0.50x"]
    assert row(table, title, "loky (loky)")[2:] == ["200 ms", "hangs (> 5 s)", ""]
    assert row(table, title, "multiprocessing.Pool (fork)")[2:] == ["30.0 ms", "not measured", ""]
    assert row(table, title, "mpire (fork)")[2:] == ["not measured", "500 ms", ""]


@pytest.mark.parametrize(
    ("key", "other"),
    [
        ("cpu", "Other 1"),
        ("cpus", 4),
        ("memory_bytes", 4 << 30),
        ("kernel", "6.2"),
        ("python", "CPython 3.12"),
    ],
)
def test_runs_of_different_machines_are_not_compared(
    report: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, other: Any
) -> None:
    before = saved(tmp_path, "before.json", content(*STARTS))
    elsewhere = content(*STARTS)
    elsewhere["machine_info"][key] = other
    after = saved(tmp_path, "after.json", elsewhere)
    assert report.main(["--compare", str(before), str(after)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{key}: {MACHINE[key]} and {other}" in captured.err


AGAIN = (
    start("multiprocessing.Pool", "peer", [0.2]),
    start("loky", "peer", [0.9], "loky"),
    start("parallelkit.Pool", "ours", [0.1]),
)


def test_a_workload_that_was_measured_again_takes_its_place(report: Any, tmp_path: Path) -> None:
    other = entry("start", "import", "parallelkit, used", "ours", [0.03], "")
    whole = saved(tmp_path, "whole.json", content(*STARTS, other, *BY_METHOD))
    again = content(*AGAIN)
    again |= {"commit_info": {"id": "fedcba9876543210", "dirty": False}, "datetime": "2030-01-03T00:00:00"}
    part = saved(tmp_path, "part.json", again)
    assert report.main([str(whole), str(part), "--page", str(tmp_path / "page.md")]) == 0
    page = (tmp_path / "page.md").read_text()
    assert row(page, "start: title of two items, fork")[1:] == [
        "parallelkit.Pool", "100 ms", "multiprocessing.Pool", "200 ms", "0.50x",
    ]  # fmt: skip
    assert row(page, "**parallelkit, used**", "")[2] == "30.0 ms"
    assert row(page, "dispatch: title of no-ops")[1] == "parallelkit.Pool"
    assert (
        "2030-01-02, commit 0123456789ab (dispatch; start: import); "
        "2030-01-03, commit fedcba987654 (start: two items, fork); Made-up 3000"
    ) in page


@pytest.mark.parametrize(
    ("entries", "versions", "told"),
    [
        (AGAIN[::2], {"loky": "1.2.3"}, "lacks loky (loky)"),
        (AGAIN, {"loky": "1.2.4"}, "different versions"),
    ],
)
def test_a_part_that_does_not_fit_is_refused(
    report: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], entries: Any, versions: Any, told: str
) -> None:
    whole = saved(tmp_path, "whole.json", content(*STARTS))
    part = saved(tmp_path, "part.json", content(*entries, versions=versions))
    assert report.main([str(whole), str(part), "--page", str(tmp_path / "page.md")]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"machine_info": {"cpu": "x"}}'])
def test_other_files_are_refused(
    report: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    assert report.main([str(path), "--page", str(tmp_path / "page.md")]) == 2
    assert "other.json" in capsys.readouterr().err
    assert not (tmp_path / "page.md").exists()
