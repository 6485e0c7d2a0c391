"""Survey the standard library: how many functions and classes it has, and how complex they are.

The same work is done one file after the other and with `pool_map`, the results are compared, and at the end
a file that cannot be parsed shows what an error of a worker looks like.
"""

from __future__ import annotations

import argparse
import ast
import sys
import sysconfig
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

import parallelkit
from parallelkit import Failure, Outcome, Success

BRANCHES = (
    ast.If,
    ast.IfExp,
    ast.For,
    ast.AsyncFor,
    ast.While,
    ast.ExceptHandler,
    ast.Assert,
    ast.comprehension,
    ast.match_case,
)


@dataclass(frozen=True)
class Survey:
    """What is in one file. Lengths are in lines; complexity counts ways through a function (McCabe)."""

    path: str
    lines: int
    functions: int
    classes: int
    longest: tuple[int, str]
    most_complex: tuple[int, str]


def survey(path: Path) -> Survey:
    """Parse one file and count. SyntaxError where it is not Python."""
    source = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes and the like are not what is asked here
        tree = ast.parse(source, str(path))
    functions = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    lengths = [((f.end_lineno or f.lineno) - f.lineno + 1, f.name) for f in functions]
    return Survey(
        path=str(path),
        lines=source.count(b"\n"),
        functions=len(functions),
        classes=sum(isinstance(node, ast.ClassDef) for node in ast.walk(tree)),
        longest=max(lengths, default=(0, "")),
        most_complex=max(((complexity(f), f.name) for f in functions), default=(0, "")),
    )


def complexity(function: ast.AST) -> int:
    """McCabe's number: one more than the number of branches; those of functions inside count, too."""
    count = 1
    for node in ast.walk(function):
        if isinstance(node, ast.BoolOp):
            count += len(node.values) - 1
        count += isinstance(node, BRANCHES)
    return count


def one_after_the_other(paths: list[Path]) -> list[Outcome[Survey]]:
    """What `pool_map(survey, paths, errors="return")` does, without it."""
    outcomes: list[Outcome[Survey]] = []
    for index, path in enumerate(paths):
        try:
            outcomes.append(Success(index, survey(path)))
        except (SyntaxError, ValueError) as error:
            outcomes.append(Failure(index, error))
    return outcomes


def comparable(outcomes: list[Outcome[Survey]]) -> list[object]:
    """Outcomes as something that can be compared: an exception equals none but itself."""
    return [o.value if isinstance(o, Success) else (type(o.exception), str(o.exception)) for o in outcomes]


def print_table(outcomes: list[Outcome[Survey]], sequential: float, parallel: float, workers: int) -> None:
    """Print what was found, and how long it took."""
    found = [o.value for o in outcomes if isinstance(o, Success)]
    longest = max(found, key=lambda s: s.longest)
    knotty = max(found, key=lambda s: s.most_complex)
    rows = [
        ("files", f"{len(outcomes):,}, of which {len(outcomes) - len(found)} cannot be parsed"),
        ("lines", f"{sum(s.lines for s in found):,}"),
        ("functions", f"{sum(s.functions for s in found):,}"),
        ("classes", f"{sum(s.classes for s in found):,}"),
        (
            "longest function",
            f"{longest.longest[1]}, {longest.longest[0]:,} lines ({Path(longest.path).name})",
        ),
        (
            "most complex",
            f"{knotty.most_complex[1]}, complexity {knotty.most_complex[0]:,} ({Path(knotty.path).name})",
        ),
        ("one after the other", f"{sequential:.2f} s"),
        (f"pool_map, {workers} workers", f"{parallel:.2f} s"),
        ("speed-up", f"{sequential / parallel:.2f} x"),
    ]
    print()
    for name, value in rows:
        print(f"  {name:22} {value}")


def show_an_error(paths: list[Path]) -> None:
    """One file of many cannot be parsed: see what arrives."""
    with tempfile.TemporaryDirectory() as folder:
        broken = Path(folder, "broken.py")
        broken.write_text("def half(:\n    return\n", encoding="utf-8")
        try:
            parallelkit.pool_map(survey, [*paths[:3], broken])
        except SyntaxError as error:
            print(f"pool_map raised the {type(error).__name__} of its worker, as the worker raised it.")
            print("The frames from `survey` on are the worker's, and the last line names the item:\n")
            traceback.print_exc(file=sys.stdout)


def positive(text: str) -> int:
    """A whole number above 0, for the command line."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def main() -> int:
    """Run the survey; 1 where the two ways do not agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=positive, default=parallelkit.available_cpus())
    parser.add_argument("--limit", type=positive, help="so many files at most")
    given = parser.parse_args()

    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(path for path in root.rglob("*.py") if "site-packages" not in path.parts)
    paths = files[: given.limit]
    # All are read once before the clock starts, or the first of the two ways pays for the disk alone.
    size = sum(len(path.read_bytes()) for path in paths)
    print(f"Surveying {len(paths):,} files ({size / 1e6:.1f} MB) in {root}")

    print("One after the other ...", flush=True)
    begin = time.perf_counter()
    expected = one_after_the_other(paths)
    sequential = time.perf_counter() - begin

    print(f"With pool_map and {given.workers} workers ...", flush=True)
    begin = time.perf_counter()
    outcomes = parallelkit.pool_map(survey, paths, errors="return", progress=True, max_workers=given.workers)
    parallel = time.perf_counter() - begin

    print_table(outcomes, sequential, parallel, given.workers)
    if comparable(outcomes) != comparable(expected):
        print("\nThe two results differ!")
        return 1
    print("\nThe two results are equal. Now with a file that is not Python.")
    show_an_error(paths)
    return 0


if __name__ == "__main__":
    sys.exit(main())
