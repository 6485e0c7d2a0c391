"""Functions and classes of `__main__`, in all the ways in which there can be one, and lambdas."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import subprocess
import sys
import zipapp
from pathlib import Path
from typing import Any

import pytest
from conftest import START_METHODS

from parallelkit import interactive

PROGRAM = (Path(__file__).parent / "main_program.py").read_text()


def _typed(program: str) -> str:
    """A program as it is typed: an empty line ends a statement, and nothing else is empty."""
    lines = program.splitlines()
    statements = []
    for node in ast.parse(program).body:
        first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", ()))])
        statements.append("\n".join(line for line in lines[first - 1 : node.end_lineno] if line.strip()))
    return "\n\n".join(statements) + "\n\n"


@pytest.fixture
def no_cloudpickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the programs that a test starts, and what they start."""
    folder = tmp_path / "without"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['cloudpickle'] = None\n")
    path = [str(folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))


def _run(arguments: list[str], folder: Path, given: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        input=given,
        stdin=subprocess.DEVNULL if given is None else None,
        capture_output=True,
        text=True,
        timeout=55,
        cwd=folder,
    )


def _script(folder: Path) -> list[str]:
    (folder / "program.py").write_text(PROGRAM)
    return ["program.py"]


def _script_that_is_gone(folder: Path) -> list[str]:
    (folder / "gone.py").write_text(
        PROGRAM.replace("\nfactor =", "\n__import__('os').unlink(__file__)\nfactor =")
    )
    return ["gone.py"]


def _module(folder: Path) -> list[str]:
    (folder / "package").mkdir()
    (folder / "package" / "program.py").write_text(PROGRAM)
    return ["-m", "package.program"]


def _package(folder: Path) -> list[str]:
    (folder / "package").mkdir()
    (folder / "package" / "__main__.py").write_text(PROGRAM)
    return ["-m", "package"]


def _empty_script(folder: Path) -> list[str]:
    (folder / "empty.py").touch()
    return ["empty.py"]


def _zipapp(folder: Path) -> list[str]:
    (folder / "app").mkdir()
    (folder / "app" / "__main__.py").write_text(PROGRAM)
    zipapp.create_archive(folder / "app", folder / "app.pyz")
    return ["app.pyz"]


def _run_path(folder: Path) -> list[str]:
    _script(folder)
    code = "import runpy; runpy.run_path('program.py', run_name='__main__')"
    (folder / "outer.py").write_text(f"if __name__ == '__main__':\n    {code}\n")
    return ["outer.py"]


WAYS: dict[str, Any] = {
    "script": lambda folder: (_script(folder), None),
    "script that is gone": lambda folder: (_script_that_is_gone(folder), None),
    "-m package.module": lambda folder: (_module(folder), None),
    "-m package": lambda folder: (_package(folder), None),
    "zipapp": lambda folder: (_zipapp(folder), None),
    "run_path": lambda folder: (_run_path(folder), None),
    "-c": lambda folder: (["-c", PROGRAM], None),
    "standard input": lambda folder: ([], PROGRAM),
    "-": lambda folder: (["-"], PROGRAM),
    "typed": lambda folder: (["-i", "-q"], _typed(PROGRAM)),
    "typed after a script": lambda folder: (["-i", "-q", *_empty_script(folder)], _typed(PROGRAM)),
}


@pytest.mark.parametrize("way", WAYS)
def test_functions_lambdas_and_classes_of_main(way: str, tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle")
    arguments, given = WAYS[way](tmp_path)
    done = _run(arguments, tmp_path, given)
    told = [line for line in done.stdout.splitlines() if line.endswith("is right")]
    assert sorted(told) == sorted(f"{method} is right" for method in START_METHODS), done.stderr


#: What follows on a pool that is up, with the names of `main_program`.
CHANGES = """
import sys
import parallelkit
state = None


def initialize(value):
    global state
    state = value


class Shop:
    pass


shop = Shop()
limit = 10
warm = parallelkit.Pool(1, initialize, (5,), start_method=sys.argv[-1])
warm.map(abs, [1])


def above(x):
    return state + x


assert warm.map(above, [1]) == [6]


def is_open(x):
    return shop is not None


assert warm.map(is_open, [1]) == [True]
shop = None
assert warm.map(is_open, [1]) == [False]


def work(x):
    return step(x) + limit


def step(x):
    return x


assert warm.map(work, [1]) == [11]
assert warm.apply(work, (1,)) == 11


def work(x):
    return step(x) + limit + 100


assert warm.map(work, [1]) == [111]
assert warm.apply(work, (1,)) == 111


def step(x):
    return x + 1000


assert warm.map(work, [1]) == [1111]
limit = 20
assert warm.map(work, [1]) == [1121]
assert warm.map(lambda x: work(x), [1]) == [1121]
limit = 10  # the very object that a forked worker has been given by its fork
assert warm.map(work, [1]) == [1111]
assert warm.apply(work, (1,)) == 1111


class Thing:
    def size(self):
        return 1


def make(x):
    return Thing()


def size(thing):
    return thing.size()


assert type(warm.map(make, [1])[0]) is Thing
assert warm.map(size, [Thing()]) == [1]


class Thing:
    def size(self):
        return 2


assert type(warm.map(make, [1])[0]) is Thing
assert warm.map(size, [Thing()]) == [2]


class Left:
    pass


class Right:
    other = Left


Left.other = Right


def both(x):
    return Left.other, Right.other


assert warm.map(both, [1]) == [(Right, Left)]
count = 0


def counted(x):
    global count
    count += 1
    return count


assert warm.map(counted, [1, 1]) == [1, 2]
assert warm.map(counted, [1]) == [3]
count = 100
assert warm.map(counted, [1]) == [101]


import abc
import collections
import functools


class Shape(abc.ABC):
    @abc.abstractmethod
    def area(self): ...


class Square(Shape):
    __slots__ = ("side",)

    class Error(Exception):
        def __init__(self, why, *, square):
            super().__init__(why)
            self.square = square

    def __init__(self, side):
        super().__init__()
        self.side = side

    @classmethod
    def of(cls, side):
        return cls(side)

    @property
    def twice(self):
        return step(self.side) * 2

    def area(self):
        return self.side**2

    def complain(self):
        try:
            raise KeyError(self.side)
        except KeyError as error:
            raise Square.Error("too small", square=self) from error


square = warm.apply(Square.of, (2,))
assert type(square) is Square
assert warm.apply(square.area) == 4
assert warm.map(lambda each: each.twice, [square]) == [2004]
try:
    warm.apply(square.complain)
except Square.Error as error:
    assert (type(error.square), error.square.side) == (Square, 2)
    assert type(error.__cause__) is KeyError

Pair = collections.namedtuple("Pair", "left right")
assert type(warm.starmap(Pair, [(1, 2)])[0]) is Pair
table = {}


def entered(function):
    table[function.__name__] = function
    return function


@entered
def one(x):
    return 1


def by_table(x):
    return table["one"](x)


assert warm.map(by_table, [0]) == [1]


def even(x):
    return x == 0 or odd(x - 1)


def odd(x):
    return x != 0 and even(x - 1)


assert warm.map(even, [4, 5]) == [True, False]


@functools.singledispatch
def kind(x):
    return "other"


@kind.register
def kind_of_int(x: int):
    return "int"


assert warm.map(kind, [1, "a"]) == ["int", "other"]


def adder(x):
    def add(y):
        return step(x) + y

    return add


assert warm.map(adder, [1])[0](2) == 1003
data = b"x" * 100_000


class Box:
    def __init__(self, content):
        self.content = content


def grow(box):
    return Box(bytearray(box.content + data))


assert len(warm.map(grow, [Box(bytearray(data))])[0].content) == 200_000
assert warm.map(above, [1]) == [6]
state = 7
assert warm.map(above, [1]) == [8]
warm.close()
warm.join()
print("all changes were seen")
"""


def test_what_is_defined_anew_runs_anew_on_a_pool_that_is_up(start_method: str, tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle")
    done = _run(["-", start_method], tmp_path, CHANGES)
    assert (done.stdout, done.stderr) == ("all changes were seen\n", "")


#: What takes more than a function's code, or a class's attributes, to be sent by value.
DEFINITIONS = """
import functools
import sys
import traceback
from typing import Callable, NamedTuple, NewType, ParamSpec, TypeVarTuple
from typing_extensions import TypeAliasType
import parallelkit

Name = NewType("Name", str)
P = ParamSpec("P")
Ts = TypeVarTuple("Ts")
Row = TypeAliasType("Row", dict[Name, int])


def annotated(x: Name, call: Callable[P, int] = len, row: Row = None, *rest: *Ts) -> Name:
    return Name(x)


def types(x):
    return annotated.__annotations__["x"] is Name, Name, P, Ts


class Slotted:
    __slots__ = ("__hidden", "value", "__weakref__")

    def __init__(self, value):
        self.value = self.__hidden = value

    def hidden(self):
        return self.__hidden


class Pair(NamedTuple):
    left: int
    right: int = 2


class Late:
    @functools.cached_property
    def value(self):
        return 5


def make(x):
    return Slotted(x)


def fail(x):
    raise KeyError(x)


with parallelkit.Pool(1, start_method=sys.argv[-1]) as pool:
    pool.map(abs, [1])
    assert pool.map(annotated, ["a"]) == ["a"]
    assert pool.map(types, [1]) == [(True, Name, P, Ts)]
    [made] = pool.map(make, [1])
    assert (type(made), made.value, made.hidden()) == (Slotted, 1, 1)
    assert pool.map(Slotted.hidden, [made]) == [1]
    [pair] = pool.map(Pair, [1])
    assert (type(pair), pair.right) == (Pair, 2)
    assert pool.map(lambda x: Late().value, [1]) == [5]
    for function in (fail, lambda x: fail(x)):
        try:
            pool.map(function, [1])
        except KeyError as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            assert (frame.filename, frame.name) == ("<stdin>", "fail")
print("all was sent")
"""


def test_what_functions_of_main_are_made_of_goes_along(start_method: str, tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle")
    done = _run(["-", start_method], tmp_path, DEFINITIONS)
    assert (done.stdout, done.stderr) == ("all was sent\n", "")


IN_A_PACKAGE = """
import sys
import parallelkit


def work(x):
    from .other import step

    return step(x)


if __name__ == "__main__":
    context = parallelkit.get_context(sys.argv[-1])
    process = context.Process(target=work, args=(1,))
    process.start()
    print(parallelkit.pool_map(work, [1], start_method=sys.argv[-1]), process.result())
"""


def test_a_package_imports_from_itself_in_a_task(start_method: str, tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle")
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__main__.py").write_text(IN_A_PACKAGE)
    (tmp_path / "package" / "other.py").write_text("def step(x): return x + 1")
    done = _run(["-m", "package", start_method], tmp_path)
    assert (done.stdout, done.stderr) == ("[2] 2\n", "")


DOCTEST = '''
"""
>>> import parallelkit
>>> def double(x):
...     return times * x
>>> class Cup:
...     def __init__(self, size):
...         self.size = size
>>> times = 2
>>> for method in ("fork", "forkserver", "spawn"):
...     with parallelkit.Pool(1, start_method=method) as pool:
...         print(pool.map(double, [1, 2]), pool.map(lambda x: x + 1, [1]), pool.map(inner, [1]))
...         print([(type(cup) is Cup, cup.size) for cup in pool.map(Cup, [1, 2])])
[2, 4] [2] [5]
[(True, 1), (True, 2)]
[2, 4] [2] [5]
[(True, 1), (True, 2)]
[2, 4] [2] [5]
[(True, 1), (True, 2)]
"""


def inner(x):
    return x + 4
'''


@pytest.mark.parametrize("runner", ["doctest", "pytest"])
def test_doctest(runner: str, tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle")
    (tmp_path / "lesson.py").write_text(DOCTEST)
    (tmp_path / "pytest.ini").touch()
    options = ["-v"] if runner == "doctest" else ["-q", "-p", "no:cacheprovider", "--doctest-modules"]
    done = _run(["-m", runner, *options, "lesson.py"], tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search("5 passed" if runner == "doctest" else "1 passed", done.stdout), done.stdout


CULPRITS = """
import functools
import sys
import threading
import parallelkit

lock = threading.Lock()


def locked(x):
    with lock:
        return x


def above(x):
    return locked(x)


def nested(x):
    return [lock.locked() for _ in range(x)]


def keyword(x, *, lock=threading.Lock()):
    return x


class Box:
    def get(self, x):
        return locked(x)


def run(pool, context):
    inner = threading.Lock()
    for function in (
        locked, above, nested, keyword, Box().get, functools.partial(above),
        lambda x: above(x), lambda x: [inner.locked() for _ in range(x)],
    ):
        try:
            pool.map(function, [1])
        except parallelkit.SerializationError as error:
            print(error.path)
        process = context.Process(target=function, args=(1,))
        try:
            process.start()
        except parallelkit.SerializationError as error:
            print(error.path)
        else:
            process.join()


if __name__ == "__main__":
    with parallelkit.Pool(1, start_method=sys.argv[-1]) as pool:
        run(pool, parallelkit.get_context(sys.argv[-1]))
"""
#: Of each function there, the way to the lock.
WAYS_TO_IT = [
    "lock",
    "locked.lock",
    "lock",
    "__kwdefaults__['lock']",
    "__self__.__class__.get.locked.lock",
    "func.locked.lock",
    "above.locked.lock",
    "inner",
]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_what_a_function_uses_and_cannot_be_sent_is_named(method: str, tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle")
    done = _run(["-", method], tmp_path, CULPRITS)
    assert done.stdout.splitlines() == [
        f"{what}.{way}" for way in WAYS_TO_IT for what in ("function", "target")
    ]
    assert done.stderr == ""
    # A script's functions are there in the worker.
    (tmp_path / "script.py").write_text(CULPRITS)
    done = _run(["script.py", method], tmp_path)
    assert done.stdout.splitlines() == [
        f"{what}.{way}" for way in WAYS_TO_IT[-2:] for what in ("function", "target")
    ]
    assert done.stderr == ""


# Without cloudpickle


MISSING = """
import sys
import parallelkit


def work(x):
    return x


def tell(call):
    try:
        call()
    except parallelkit.SerializationError as error:
        print(error.what, "install 'parallelkit[cloudpickle]'" in str(error), flush=True)


if __name__ == "__main__":
    method = sys.argv[-1]
    context = parallelkit.get_context(method)
    for function in (lambda x: x, work):
        tell(lambda: parallelkit.pool_map(function, [1], max_workers=1, start_method=method))
        with parallelkit.ProcessPoolExecutor(1, context) as executor:
            tell(executor.submit(function, 1).result)
    with parallelkit.Pool(1, start_method=method) as pool:
        tell(lambda: pool.apply(lambda: 1))
        tell(pool.apply_async(work, (1,)).get)
    process = context.Process(target=lambda: 1)
    tell(process.start)
"""


@pytest.mark.usefixtures("no_cloudpickle")
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_without_cloudpickle_the_error_says_how_to_get_it(method: str, tmp_path: Path) -> None:
    done = _run(["-", method], tmp_path, MISSING)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["function True"] * 6 + ["call True"]


@pytest.mark.usefixtures("no_cloudpickle")
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_without_cloudpickle_the_functions_of_a_script_run(method: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(MISSING)
    done = _run(["script.py", method], tmp_path)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["function True"] * 3 + ["call True"]


REFUSED = """
import parallelkit


def step(x): return x
def work(x): return step(x)


pool = parallelkit.Pool(1, start_method="fork")
print(pool.map(work, [1]), pool.apply(work, (2,)))
exec("def step(x): return x + 1")
for call in (lambda: pool.map(work, [1]), lambda: pool.apply(work, (2,))):
    try:
        print(call())
    except parallelkit.SerializationError as error:
        print(error)
exec("def new(x): return x")
try:
    pool.map(new, [1])
except parallelkit.SerializationError as error:
    print(error)
print(pool.map(abs, [-1]))
pool.terminate()
pool.join()
"""


@pytest.mark.usefixtures("no_cloudpickle")
def test_without_cloudpickle_a_forked_worker_does_not_run_what_is_out_of_date(tmp_path: Path) -> None:
    done = _run(["-"], tmp_path, REFUSED)
    assert done.stderr == ""
    first, *refused, last = done.stdout.splitlines()
    assert (first, last) == ("[1] 2", "[1]")
    assert [re.sub(".*Error: ", "", line).split(" ")[0] for line in refused] == ["step", "step", "new"]
    assert all("was defined after the workers had been forked" in line for line in refused)
    assert all("pip install 'parallelkit[cloudpickle]'" in line for line in refused)


# Beside threads


THREADED = """
import threading
import parallelkit


def work(x):
    return x + 1


done = threading.Event()
thread = threading.Thread(target=done.wait)
thread.start()
try:
    print(parallelkit.pool_map(work, [1]), parallelkit.pool_map(lambda x: x, [1]))
finally:
    done.set()
"""


def test_beside_threads_nothing_forks_where_cloudpickle_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle")
    done = _run(["-W", "error", "-c", THREADED], tmp_path)
    assert (done.stdout, done.stderr) == ("[2] [1]\n", "")


@pytest.mark.skipif(START_METHODS[0] != "fork", reason="it is not the default")
@pytest.mark.usefixtures("no_cloudpickle")
def test_beside_threads_it_forks_with_a_warning_without_cloudpickle(tmp_path: Path) -> None:
    done = _run(["-c", THREADED], tmp_path)
    assert done.stderr.count("parallelkit forks although other threads are alive") == 2
    assert done.stdout == "[2] [1]\n"


# Scripts without a guard


UNGUARDED = """
import sys
import parallelkit


def work(x):
    return x


print("begins", flush=True)
if sys.argv[1] == "process":
    process = parallelkit.get_context(sys.argv[2]).Process(target=work, args=(1,))
    process.start()
    process.result()
else:
    parallelkit.pool_map(work, [1, 2], max_workers=2, start_method=sys.argv[2])
"""


@pytest.mark.parametrize("face", ["pool_map", "process"])
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_script_without_a_guard_fails_and_says_why(method: str, face: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(UNGUARDED)
    done = _run(["script.py", face, method], tmp_path)
    assert done.returncode == 1
    # Each start is tried three times, with two workers, and none of them starts another.
    assert done.stdout.count("begins") <= 7
    if face == "pool_map":
        # The worker dies, or the fork server already, where Python's imports the main module.
        told = done.stderr[done.stderr.rindex("Traceback", 0, done.stderr.index("direct cause")) :]
        assert "parallelkit: " in told
        assert 'has to be under `if __name__ == "__main__":`' in told
        assert "WorkerInitError: no worker could be started" in told
    else:
        assert "if __name__ == '__main__'" in done.stderr
        assert "ProcessDiedError" in done.stderr or "the fork server has ended" in done.stderr


INTERRUPTED = """
import multiprocessing, os, signal, sys
import parallelkit

if multiprocessing.current_process().name != "MainProcess":
    os.kill(os.getpid(), signal.SIGINT)

if __name__ == "__main__":
    print(parallelkit.pool_map(abs, [-1], start_method=sys.argv[1]))
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_ctrl_c_while_a_worker_imports_the_main_module_is_the_parents_business(
    method: str, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(INTERRUPTED)
    done = _run(["script.py", method], tmp_path)
    assert (done.stdout, done.stderr) == (f"[1]{os.linesep}", "")


WITHOUT_MAIN = """
import sys
from parallelkit import ProcessPoolExecutor
from parallelkit.engines import ProcessesEngine


class Thing:
    def __init__(self, x):
        self.x = x


factor = 1


def begin(thing):
    global factor
    factor = thing.x


def work(thing):
    return Thing(thing.x * factor)


engine = ProcessesEngine(import_main=False)
with ProcessPoolExecutor(
    1, start_method=sys.argv[1], engine=engine, initializer=begin, initargs=(Thing(5),)
) as pool:
    print([(type(thing) is Thing, thing.x) for thing in pool.map(work, [Thing(2)])])
if sys.argv[1] == "forkserver":
    from multiprocessing import forkserver  # which would import it, where Python's has no fault

    assert "__main__" not in forkserver._forkserver._preload_modules
"""


@pytest.mark.parametrize("method", START_METHODS)
def test_an_engine_that_does_not_import_main_sends_what_is_used_of_it(method: str, tmp_path: Path) -> None:
    pytest.importorskip("cloudpickle")
    (tmp_path / "script.py").write_text(WITHOUT_MAIN)
    done = _run(["script.py", method], tmp_path)
    assert (done.stdout, done.stderr) == (f"[(True, 10)]{os.linesep}", "")


def test_the_file_of_main_is_there_again_after_a_start(tmp_path: Path) -> None:
    program = "import parallelkit\nparallelkit.pool_map(abs, [1], start_method='spawn')\nprint(__file__)\n"
    assert _run([], tmp_path, program).stdout == f"<stdin>{os.linesep}"


def test_a_forked_process_has_the_file_of_main(tmp_path: Path) -> None:
    program = """
import parallelkit
process = parallelkit.get_context("fork").Process(target=lambda: __file__)
process.start()
print(process.result())
"""
    done = _run([], tmp_path, program)
    assert (done.stdout, done.stderr) == ("<stdin>\n", "")


def test_the_file_of_main_is_away_until_the_last_of_several_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__spec__", None)
    monkeypatch.setattr(main, "__file__", "<stdin>", raising=False)
    first, second = interactive.without_lost_file(), interactive.without_lost_file()
    with contextlib.ExitStack() as stack:
        first.__enter__()
        stack.enter_context(second)
        first.__exit__(None, None, None)
        assert not hasattr(main, "__file__")
    assert main.__file__ == "<stdin>"
