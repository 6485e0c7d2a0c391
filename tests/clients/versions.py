"""The versions that the clients were tested with: a table of docs/clients.md, which nobody writes by hand."""

from __future__ import annotations

import importlib.metadata
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "clients.md"
_BEGIN = "<!-- written by `make clients ARGS=--write` -->\n"
_END = "<!-- end -->"


def packages() -> list[str]:
    """The clients: the dependency group without what runs the tests."""
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
    names = [re.split(r"[^\w-]", line)[0] for line in groups["clients"]]
    return [name for name in names if not name.startswith("pytest")]


def updated(page: str, python: str, versions: dict[str, str]) -> str:
    """The page with the column of one Python made anew; the others stay as they are."""
    before, rest = page.split(_BEGIN)
    table, after = rest.split(_END)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.split("\n") if line]
    columns: dict[str, dict[str, str]] = {}
    for row in rows[2:]:
        for column, version in zip(rows[0][1:], row[1:], strict=True):
            columns.setdefault(column, {})[row[0]] = version
    columns[python] = versions
    pythons = sorted(columns, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])
    lines = [["", *pythons], ["---"] * (len(pythons) + 1)]
    lines += [[name, *(columns[python].get(name, "") for python in pythons)] for name in versions]
    text = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    return before + _BEGIN + text + _END + after


def write() -> None:
    """Write down what is installed here."""
    python = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    versions = {name: importlib.metadata.version(name) for name in packages()}
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8"), python, versions), encoding="utf-8")
