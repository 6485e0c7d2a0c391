"""The programs of the guide print what it says, the pages name all there is, and links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from snippets import ROOT, check, snippets

import parallelkit
from parallelkit.options import MapOptions

_EXAMPLES = snippets("docs/guide.md")
_PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("benchmarks/*.md"),
        *ROOT.glob("src/**/*.md"),
    )
)


@pytest.mark.parametrize(("source", "output"), _EXAMPLES)
def test_example(source: str, output: str, tmp_path: Path) -> None:
    check(source, output, tmp_path)


def test_all_programs_of_the_guide_are_found() -> None:
    text = (ROOT / "docs/guide.md").read_text(encoding="utf-8")
    assert len(_EXAMPLES) == text.count("```python") > 0
    assert len(_EXAMPLES) == text.count("```text")
    assert all(output for _, output in _EXAMPLES)


def test_guide_names_each_option() -> None:
    text = (ROOT / "docs/guide.md").read_text(encoding="utf-8")
    missing = [name for name in [*MapOptions.__annotations__, "errors"] if f"`{name}`" not in text]
    assert not missing


def test_errors_page_explains_each_error() -> None:
    text = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    errors = {
        name for name, value in vars(parallelkit).items()
        if isinstance(value, type) and issubclass(value, parallelkit.ParallelKitError)
    } - {"ParallelKitError"}  # fmt: skip
    assert errors == set(re.findall(r"^## (\w+Error)$", text, re.MULTILINE))


@pytest.mark.parametrize("page", _PAGES)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target
