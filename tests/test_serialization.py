"""What can be sent, by which way, and who is to blame where something cannot."""

from __future__ import annotations

import collections
import functools
import gc
import pickle
import subprocess
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import parallelkit
from parallelkit import byvalue, interactive, serialization
from parallelkit.errors import SerializationError

LOCK = threading.Lock()


@pytest.fixture
def no_cloudpickle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)


@pytest.fixture
def with_cloudpickle() -> None:
    pytest.importorskip("cloudpickle")


class Holder:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)

    def method(self) -> None: ...


class Slots:
    __slots__ = ("lock", "unset")

    def __init__(self, lock: Any) -> None:
        self.lock = lock


class OneSlot:
    __slots__ = "lock"

    def __init__(self, lock: Any) -> None:
        self.lock = lock


class Point(NamedTuple):
    x: int
    lock: Any


class Exits:
    def __reduce__(self) -> str:
        raise SystemExit(3)


class Nasty:
    """Nothing of it can be looked at."""

    def __reduce__(self) -> str:
        raise LookupError("no pickle of me")

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__reduce"):
            return object.__getattribute__(self, name)
        raise LookupError("no attribute")

    def __repr__(self) -> str:
        raise LookupError("no repr")

    def __hash__(self) -> int:
        return 1


def blame(obj: object, what: str = "item") -> SerializationError:
    """The error for `obj`, which is to fail really."""
    try:
        serialization.dumps(obj)
    except BaseException as cause:
        return serialization.error(what, obj, cause, index=4)
    raise AssertionError("it was pickled")


# To bytes and back


@given(
    st.recursive(
        st.integers() | st.text() | st.binary(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_plain_data_comes_back(value: object) -> None:
    buffers: list[pickle.PickleBuffer] = []
    data = serialization.dumps(value, buffers)
    assert serialization.loads(data, buffers) == value


@pytest.mark.parametrize("size", [0, serialization.LARGE - 1, serialization.LARGE, 1 << 20])
def test_large_buffers_travel_beside_the_pickle(size: int) -> None:
    array = np.arange(size, dtype=np.uint8)
    buffers: list[pickle.PickleBuffer] = []
    data = serialization.dumps({"a": array}, buffers)
    assert len(buffers) == (size >= serialization.LARGE)
    assert len(data) < 1000 or not buffers
    back = serialization.loads(data, [bytearray(buffer.raw()) for buffer in buffers])
    assert np.array_equal(back["a"], array)


def test_an_array_with_gaps_comes_back() -> None:
    array = np.arange(1 << 18).reshape(512, 512)[::2, ::2]
    buffers: list[pickle.PickleBuffer] = []
    data = serialization.dumps(array, buffers)
    assert np.array_equal(serialization.loads(data, buffers), array)


@pytest.mark.usefixtures("with_cloudpickle")
def test_what_pickle_refuses_goes_by_cloudpickle_with_its_buffers_once() -> None:
    array = np.zeros(1 << 20, np.uint8)
    buffers: list[pickle.PickleBuffer] = []
    data = serialization.dumps([array, lambda x: x + 1], buffers)
    assert len(buffers) == 1  # and not that of the first attempt, too
    back = serialization.loads(data, buffers)
    assert back[1](1) == 2
    assert len(data) < 10_000


@pytest.mark.usefixtures("no_cloudpickle")
def test_without_cloudpickle_the_error_is_pickles_own() -> None:
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        serialization.dumps(lambda: 0)


# Who is to blame


def _closure(lock: Any) -> Callable[[], Any]:
    return lambda: lock


def _uses_global() -> Callable[[], Any]:
    return lambda: LOCK


def _default(lock: Any) -> Callable[[], Any]:
    def function(at: int = 1, held: Any = lock) -> Any:
        return held

    return function


PATHS: list[tuple[object, str]] = [
    (LOCK, "item"),
    ([1, LOCK], "item[1]"),
    ((1, [2, {"k": LOCK}]), "item[1][1]['k']"),
    ({"a": 1, "lock": LOCK}, "item['lock']"),
    ({LOCK: 1}, f"item key {repr(LOCK)[:37]}..."),
    ({LOCK}, f"item member {repr(LOCK)[:37]}..."),
    (frozenset([LOCK]), f"item member {repr(LOCK)[:37]}..."),
    (Point(1, LOCK), "item.lock"),
    (Holder(a=1, inner=Holder(lock=LOCK)), "item.inner.lock"),
    (Slots(LOCK), "item.lock"),
    (OneSlot(LOCK), "item.lock"),
    (functools.partial(print, 1, LOCK), "item.args[1]"),
    (functools.partial(dict, end=LOCK), "item.keywords['end']"),
    (functools.partial(Holder(lock=LOCK).method), "item.func.__self__.lock"),
    (Holder(lock=LOCK).method, "item.__self__.lock"),
    (collections.deque([LOCK]), "item"),
    (collections.OrderedDict(k=LOCK), "item['k']"),
    ({"x" * 100: LOCK}, f"item['{'x' * 36}...]"),
    ((n for n in "ab"), "item"),
    (Exits(), "item"),
    ([Exits()], "item[0]"),
    ([1, Nasty()], "item[1]"),
    ({Nasty()}, "item member <Nasty>"),
]


@pytest.mark.parametrize(
    ("obj", "path"), PATHS, ids=[f"{n}-{path[:20]}" for n, (_, path) in enumerate(PATHS)]
)
@pytest.mark.parametrize("cloudpickle", [True, False])
def test_names_the_way_to_the_culprit(
    obj: object, path: str, cloudpickle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not cloudpickle:
        monkeypatch.setitem(sys.modules, "cloudpickle", None)
    error = blame(obj)
    assert error.path == path
    assert (error.what, error.index) == ("item", 4)
    assert error.__cause__ is not None
    assert error.reason == f"{type(error.__cause__).__name__}: {error.__cause__}"
    assert ("at item" in str(error)) == (path != "item")


@pytest.mark.usefixtures("with_cloudpickle")
@pytest.mark.parametrize(
    ("function", "path"),
    [
        (_closure(LOCK), "function.lock"),
        (_closure([LOCK]), "function.lock[0]"),
        (_uses_global(), "function.LOCK"),
        (_default(LOCK), "function.__defaults__[1]"),
    ],
)
def test_names_what_a_function_carries(function: Callable[[], Any], path: str) -> None:
    assert blame(function, "function").path == path


@pytest.mark.usefixtures("no_cloudpickle")
def test_without_cloudpickle_a_closure_is_itself_to_blame() -> None:
    error = blame(_closure(LOCK), "function")
    assert error.path == "function"
    assert "Define it at the top level of a module" in str(error)


def test_a_cycle_is_walked_once() -> None:
    cycle: list[Any] = [LOCK]
    cycle.insert(0, cycle)
    assert blame(cycle).path == "item[1]"


def test_what_refuses_by_itself_is_to_blame_and_no_part_of_it() -> None:
    with parallelkit.ProcessPoolExecutor(1) as executor, parallelkit.Pool(1) as pool:
        assert blame([executor]).path == "item[0]"
        assert blame(pool.map).path == "item.__self__"


def test_the_search_ends_in_what_is_very_deep_and_very_wide() -> None:
    deep: Any = LOCK
    for _ in range(100):
        deep = [deep]
    assert blame(deep).path == "item" + "[0]" * 12
    assert blame([*([n] for n in range(100_000)), LOCK]).path == "item"


def test_the_search_copies_no_large_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    most = 0
    dumps = serialization.dumps

    def watched(*args: Any) -> bytes:
        nonlocal most
        data = dumps(*args)
        most = max(most, len(data))
        return data

    monkeypatch.setattr(serialization, "dumps", watched)
    cause = TypeError("cannot pickle")
    assert serialization.error("item", [np.zeros(1 << 22), LOCK], cause).path == "item[1]"
    assert 0 < most < 10_000


@pytest.mark.parametrize(
    ("obj", "path"),
    [
        ((_closure, (1, {"k": LOCK})), "initargs[1]['k']"),
        ((Holder(lock=LOCK).method, ()), "initializer.__self__.lock"),
    ],
)
def test_an_initializer_is_told_from_its_arguments(obj: object, path: str) -> None:
    error = blame(obj, "initializer")
    assert error.path == path
    assert str(error).startswith(f"the initializer cannot be sent between processes at {path}: TypeError")


def test_a_cause_without_text_is_named() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise LookupError

    assert serialization.error("result", None, Mute()).reason == "Mute: (its text cannot be had: LookupError)"


# Through a pool


def _echo(x: Any, y: Any = None) -> Any:
    return x


def _return_lock(x: int) -> Any:
    return {"ok": 1, "lock": LOCK} if x == 1 else x


@pytest.fixture(params=["forkserver", "fork"])
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"start_method": request.param, "max_workers": 1}


def _failures(outcomes: list[parallelkit.Outcome[Any]]) -> dict[int, BaseException]:
    return {o.index: o.exception for o in outcomes if isinstance(o, parallelkit.Failure)}


def test_an_item_fails_for_itself_alone() -> None:
    items: list[Any] = [0, {"lock": LOCK}, 2]
    failures = _failures(
        parallelkit.pool_map(_echo, items, start_method="forkserver", max_workers=1, errors="return")
    )
    assert list(failures) == [1]
    error = failures[1]
    assert isinstance(error, SerializationError)
    assert (error.what, error.index, error.path) == ("item", 1, "item['lock']")
    assert isinstance(error.__cause__, TypeError)


def test_a_result_fails_for_itself_alone(options: dict[str, Any]) -> None:
    failures = _failures(parallelkit.pool_map(_return_lock, range(3), errors="return", **options))
    assert list(failures) == [1]
    error = failures[1]
    assert isinstance(error, SerializationError)
    assert (error.what, error.path) == ("result", "result['lock']")
    assert any("item 1" in note for note in error.__notes__)


def test_a_function_fails_with_the_way_to_the_culprit() -> None:
    function: Callable[[int], Any] = functools.partial(_echo, y=LOCK)
    with pytest.raises(SerializationError) as caught:
        parallelkit.pool_map(function, [1], start_method="forkserver")
    assert (caught.value.what, caught.value.path) == ("function", "function.keywords['y']")
    assert caught.value.index is None


def test_an_initializer_fails_with_the_way_to_the_culprit() -> None:
    with pytest.raises(SerializationError) as caught:
        parallelkit.pool_map(_echo, [1], start_method="forkserver", initializer=_echo, initargs=([LOCK],))
    assert (caught.value.what, caught.value.path) == ("initializer", "initargs[0][0]")


# Whether a fresh interpreter can rebuild a function


def test_functions_of_modules_can_be_sent() -> None:
    bound, partial = Holder().method, functools.partial(_echo, 1)
    functions: list[Callable[..., Any]] = [len, _echo, partial, Holder, bound, "".join]
    for function in functions:
        assert interactive.can_be_sent(function), function


def test_functions_with_a_lock_cannot_be_sent() -> None:
    functions: list[Callable[..., Any]] = [
        _closure(LOCK),
        functools.partial(_echo, LOCK),
        Holder(lock=LOCK).method,
    ]
    for function in functions:
        assert not interactive.can_be_sent(function), function


def test_the_error_names_the_global_of_main(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cloudpickle")
    main = types.ModuleType("__main__")
    exec("import threading\nLOCK = threading.Lock()\ndef work():\n    return LOCK", vars(main))
    monkeypatch.setitem(sys.modules, "__main__", main)
    with pytest.raises(pickle.PicklingError, match=r"^LOCK of __main__: cannot pickle"):
        interactive.Mirror().dumps(main.work, [])


def test_code_keeps_the_name_of_its_file() -> None:
    pytest.importorskip("cloudpickle")
    main = byvalue.main_pickler()
    main.dump(lambda: lambda: 0)
    for data in (byvalue.dumps(lambda: lambda: 0), main.file.getvalue()):
        assert data is not None
        function = pickle.loads(data)
        assert [each.__code__.co_filename for each in (function, function())] == [__file__] * 2


def test_a_lambda_can_be_sent_with_cloudpickle_only(monkeypatch: pytest.MonkeyPatch) -> None:
    if byvalue.cloudpickle() is not None:
        assert interactive.can_be_sent(lambda: 0)
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    assert not interactive.can_be_sent(lambda: 0)


MAIN = """
import functools
import sys
sys.modules["cloudpickle"] = None
from parallelkit.interactive import can_be_sent
def f(x=0): return x
class C:
    def m(self): return 1
print(*map(can_be_sent, [f, functools.partial(f, 1), C, C().m, len]))
"""


@pytest.fixture(params=["script", "module", "-c", "standard input"])
def main(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[list[str], str | None, bool]]:
    """How to run MAIN, what to give it on the standard input, and whether it could be run a second time."""
    (tmp_path / "main_module.py").write_text(MAIN)
    kind = request.param
    if kind == "script":
        yield [str(tmp_path / "main_module.py")], None, True
    elif kind == "module":
        yield ["-m", "main_module"], None, True
    elif kind == "-c":
        yield ["-c", MAIN], None, False
    else:
        yield ["-"], MAIN, False


def test_functions_of_main_can_be_sent_where_main_can_be_run_again(
    main: tuple[list[str], str | None, bool], tmp_path: Path
) -> None:
    arguments, given_in, again = main
    done = subprocess.run(
        [sys.executable, *arguments],
        input=given_in,
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
        cwd=tmp_path,
    )
    assert done.stdout.split() == [*[str(again)] * 4, "True"]


@pytest.mark.usefixtures("no_cloudpickle")
def test_what_failed_is_not_kept_by_its_error() -> None:
    holder = Holder(lock=LOCK)
    gone = weakref.ref(holder)
    gc.disable()
    try:
        choices: tuple[list[pickle.PickleBuffer] | None, ...] = (None, [])
        for buffers in choices:
            with pytest.raises(TypeError, match="pickle"):
                serialization.dumps(holder, buffers)
        del holder
        assert gone() is None
    finally:
        gc.enable()
