"""The programs of the guide print what it says, the pages name all there is, and links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from snippets import ROOT, check, snippets

import parallelkit
from parallelkit.options import MapOptions

_WITH_EXAMPLES = ("docs/guide.md", "docs/migrating.md", "docs/troubleshooting.md")
_EXAMPLES = {page: snippets(page) for page in _WITH_EXAMPLES}
_PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("benchmarks/*.md"),
        *ROOT.glob("src/**/*.md"),
    )
)


@pytest.mark.parametrize(
    ("source", "output"), [example for examples in _EXAMPLES.values() for example in examples]
)
def test_example(source: str, output: str, tmp_path: Path) -> None:
    check(source, output, tmp_path)


@pytest.mark.parametrize("page", _WITH_EXAMPLES)
def test_all_programs_of_a_page_are_found(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    examples = _EXAMPLES[page]
    assert len(examples) == text.count("```python") > 0
    assert len(examples) == text.count("```text")
    assert all(output for _, output in examples)


def test_guide_names_each_option() -> None:
    text = (ROOT / "docs/guide.md").read_text(encoding="utf-8")
    missing = [name for name in [*MapOptions.__annotations__, "errors"] if f"`{name}`" not in text]
    assert not missing


_PUBLIC = {name: getattr(parallelkit, name) for name in parallelkit.__all__}
_ERRORS = {
    name
    for name, value in _PUBLIC.items()
    if isinstance(value, type) and issubclass(value, parallelkit.ParallelKitError)
} - {"ParallelKitError"}


def test_errors_page_explains_each_error() -> None:
    text = (ROOT / "docs/errors.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^## (\w+Error)$", text, re.MULTILINE)) == _ERRORS


def test_troubleshooting_names_each_error() -> None:
    text = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
    assert not {name for name in _ERRORS if f"`{name}" not in text}


def test_guarantees_are_tested_where_they_say_so() -> None:
    text = (ROOT / "docs/guarantees.md").read_text(encoding="utf-8")
    files = set(re.findall(r"`(tests/[\w/]+\.py)`", text))
    assert files
    assert not {name for name in files if not (ROOT / name).exists()}


def test_clients_page_has_a_program_and_tests_for_each_client() -> None:
    text = (ROOT / "docs/clients.md").read_text(encoding="utf-8")
    programs = "".join(source for source, _ in snippets("docs/clients.md"))
    clients = re.findall(r"^\| \[\w+\]\(#(\w+)\)", text, re.MULTILINE)
    assert len(clients) >= 9
    for client in clients:
        assert re.search(rf"^(import|from) {client}\b", programs, re.MULTILINE), client
        assert (ROOT / f"tests/clients/test_{client}.py").exists(), client


@pytest.mark.parametrize("page", _PAGES)
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (path.parent / target).exists(), target
