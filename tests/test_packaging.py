"""What a user gets: the built wheel, its metadata, the public names, the two ways to look around."""

from __future__ import annotations

import email.message
import email.parser
import inspect
import multiprocessing
import os
import re
import subprocess
import sys
import typing
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

import parallelkit

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    # Without isolation, so that nothing is fetched: hatchling is a dependency of the tests.
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run([*command, "--disable-pip-version-check", "--wheel-dir", folder, ROOT], check=True)
    (built,) = folder.iterdir()
    assert built.name == f"parallelkit-{parallelkit.__version__}-py3-none-any.whl"
    return zipfile.ZipFile(built)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> email.message.Message:
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.parser.Parser().parsestr(wheel.read(name).decode())


def test_the_wheel_holds_all_modules_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    ours = {
        path.relative_to(SOURCE).as_posix()
        for path in (SOURCE / "parallelkit").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"parallelkit/py.typed", "parallelkit/__main__.py", "parallelkit/_guardian_main.py"} < ours
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == ours
    assert any(name.endswith("/licenses/LICENSE") for name in wheel.namelist())


def test_required_dependencies(metadata: email.message.Message) -> None:
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    names = {re.split(r"[^\w-]", line)[0]: line for line in required}
    assert sorted(names) == ["psutil", "tblib", "typing-extensions"]
    assert len(required) == 3
    assert {"!=3.2.0", "!=3.2.1"} <= set(names["tblib"].removeprefix("tblib").split(","))


def test_extras(metadata: email.message.Message) -> None:
    extras = ["cloudpickle", "joblib", "progress", "rich", "threads"]
    assert sorted(metadata.get_all("Provides-Extra", [])) == extras
    optional = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" in line]
    pairs = sorted(re.sub(r"^([\w-]+)[^;]*; extra == '([\w-]+)'$", r"\2: \1", line) for line in optional)
    assert pairs == [
        "cloudpickle: cloudpickle",
        "joblib: cloudpickle",
        "joblib: joblib",
        "progress: tqdm",
        "rich: rich",
        "threads: threadpoolctl",
    ]


def test_metadata(metadata: email.message.Message) -> None:
    assert metadata["Name"] == "parallelkit"
    assert metadata["Version"] == parallelkit.__version__
    assert metadata["License-Expression"] == "MIT"
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Requires-Python"] == ">=3.11"
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    assert not any("License ::" in line for line in metadata.get_all("Classifier", []))  # as PEP 639 wants it
    description = metadata.get_payload()
    assert isinstance(description, str)
    assert description.strip() == (ROOT / "README.md").read_text().strip()


# The public names


def test_all_is_sorted_and_complete() -> None:
    assert parallelkit.__all__ == sorted(parallelkit.__all__)
    assert len(parallelkit.__all__) == len(set(parallelkit.__all__))
    assert all(hasattr(parallelkit, name) for name in parallelkit.__all__)
    public = {
        name
        for name, value in vars(parallelkit).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    } - {"Any", "TYPE_CHECKING"}
    modules = {"aio", "tracebacks", "reducer"}  # the last is multiprocessing's
    assert public == {name for name in parallelkit.__all__ if name not in ("__version__", *modules)}


def test_all_errors_are_public() -> None:
    from parallelkit import errors

    defined = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, BaseException) and value.__module__ == errors.__name__
    }
    assert {name for name in defined if not name.startswith("_")} <= set(parallelkit.__all__)


def test_the_readme_speaks_of_public_names_only() -> None:
    spoken = set(re.findall(r"\bparallelkit\.(\w+)", (ROOT / "README.md").read_text()))
    assert spoken
    assert spoken <= {*parallelkit.__all__, "integrations"}


#: What is handed on from multiprocessing as it is, and documented there.
HANDED_ON = {
    name
    for name in parallelkit.__all__
    if hasattr(multiprocessing, name)
    and not getattr(getattr(parallelkit, name), "__module__", "").startswith("parallelkit.")
}


def test_what_is_handed_on_is_multiprocessings() -> None:
    assert {"current_process", "TimeoutError", "Value", "set_start_method"} <= HANDED_ON
    assert not HANDED_ON & {"Process", "Pool", "Queue", "Lock", "Pipe", "get_context"}


@pytest.mark.parametrize("name", sorted(set(parallelkit.__all__) - HANDED_ON - {"__version__"}))
def test_each_public_name_is_documented(name: str) -> None:
    value = getattr(parallelkit, name)
    if name == "Outcome":  # an alias, whose docstring would be that of all unions
        assert [typing.get_origin(kind) or kind for kind in typing.get_args(value)] == [
            parallelkit.Success,
            parallelkit.Failure,
        ]
        return
    assert (value.__doc__ or "").strip()
    if not inspect.isclass(value):
        return
    for attribute, member in vars(value).items():
        target = getattr(member, "__func__", getattr(member, "fget", member))
        if not attribute.startswith("_") and callable(target):
            assert inspect.getdoc(getattr(value, attribute)), f"{name}.{attribute}"


def test_the_map_of_the_rooms_is_complete() -> None:
    rooms = set(re.findall(r"\w+", (parallelkit.__doc__ or "").partition("=\n")[2]))
    for path in (SOURCE / "parallelkit").iterdir():
        name = path.stem
        if not name.startswith("_") and (path.suffix == ".py" or (path / "__init__.py").exists()):
            assert name in rooms, f"{name} is not on the map in __init__.py"


# A look around


def _run(*arguments: str) -> str:
    command = [sys.executable, "-W", "error", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_import_brings_in_nothing_but_the_standard_library() -> None:
    output = _run(
        "-c",
        "import sys; before = {*sys.modules}; from parallelkit import *; print(*{*sys.modules} - before)",
    )
    roots = {name.partition(".")[0] for name in output.split()}
    roots -= sys.stdlib_module_names
    assert roots - {"__mp_main__"} == {
        "parallelkit",
        "typing_extensions",
    }  # multiprocessing's other name of main


def test_python_m_tells_what_there_is() -> None:
    rows = dict(
        line.split(maxsplit=1) for line in _run("-m", "parallelkit").splitlines() if " of " not in line
    )
    assert rows["parallelkit"] == parallelkit.__version__
    assert rows["Python"].startswith(sys.version.split()[0])
    assert {"tblib", "psutil", "typing-extensions", "tqdm", "rich", "cloudpickle"} < set(rows)
    output = _run("-m", "parallelkit")
    assert re.search(rf"^CPUs +{parallelkit.available_cpus()} of {os.cpu_count()}$", output, re.MULTILINE)
    assert re.search(r"^start methods +.*spawn", output, re.MULTILINE)


def test_make_help_lists_the_targets() -> None:
    output = subprocess.check_output(["make", "--no-print-directory", "-C", ROOT, "help"], text=True)
    listed = re.findall(r"^  make ([\w-]+) +\S", output, re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None
    assert listed == phony[1].split()
    assert {"demo", "test"} < set(listed)
    # The first words of a stranger are `make` alone.
    assert subprocess.check_output(["make", "--no-print-directory", "-C", ROOT], text=True) == output
