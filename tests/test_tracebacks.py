"""Exceptions to bytes and back: what a user's exception is made of arrives, or is told."""

from __future__ import annotations

import dataclasses
import gc
import inspect
import io
import linecache
import os
import pdb
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import parallelkit
from parallelkit import tracebacks
from parallelkit.errors import RemoteError


def send(error: BaseException) -> BaseException:
    return tracebacks.loads(tracebacks.dumps(error))


def caught(function: Callable[[], Any]) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def printed(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))


# Exceptions of the kinds that users have


class Required(Exception):
    def __init__(self, first: int, second: str) -> None:
        super().__init__(f"{first} and {second}")
        self.first, self.second = first, second


class KeywordOnly(Exception):
    def __init__(self, *, code: int) -> None:
        super().__init__()
        self.code = code

    def __str__(self) -> str:
        return f"code {self.code}"


class Slotted(Exception):
    __slots__ = ("code", "unset")

    def __init__(self, code: int) -> None:
        self.code = code


class OwnNew(Exception):
    def __new__(cls, first: int, second: int) -> OwnNew:
        return super().__new__(cls, first, second)

    def __init__(self, first: int, second: int) -> None:
        super().__init__("only a text")
        self.sum = first + second


class Locked(Exception):
    def __init__(self, text: str, lock: Any) -> None:
        super().__init__(text, lock)
        self.lock = lock
        self.code = 5


class TextOfLock(Exception):
    def __init__(self, lock: Any) -> None:
        self.lock = lock

    def __str__(self) -> str:
        return f"locked: {self.lock.locked()}"


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    code: int
    text: str = "t"


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenSlotted(Exception):
    code: int


@dataclasses.dataclass
class Data(Exception):
    code: int
    rest: list[int] = dataclasses.field(default_factory=list)


class OwnReduce(Exception):
    def __init__(self, code: int, *, doubled: int) -> None:
        super().__init__(code)
        self.doubled = doubled

    def __reduce__(self) -> tuple[Any, ...]:
        return (_own, (self.args[0], self.doubled))


def _own(code: int, doubled: int) -> OwnReduce:
    return OwnReduce(code, doubled=doubled)


class Forgetful(Exception):
    """Its own pickle loses what it has in `code`."""

    code = 0

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code

    def __reduce__(self) -> tuple[Any, ...]:
        return (Forgetful, self.args)


class ReduceRaises(Exception):
    def __reduce__(self) -> str:
        raise LookupError("no pickle of me")


class ReduceExits(Exception):
    def __reduce__(self) -> str:
        raise SystemExit(3)


class TextExits(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


_changing = {"to": "itself"}


class Changing(Exception):
    def __reduce__(self) -> tuple[Any, ...]:
        return (_change, self.args)


def _change(text: str) -> Any:
    if _changing["to"] == "exit":
        raise SystemExit(3)
    return Changing(text) if _changing["to"] == "itself" else "something else"


class Hiding(Exception):
    @property
    def __cause__(self) -> BaseException | None:  # type: ignore[override]
        raise LookupError("no cause")


class TextRaises(Exception):
    def __str__(self) -> str:
        raise LookupError("no text")

    __repr__ = __str__


class Text(str):
    """Not a plain type, and so no part of the bytes."""

    def __str__(self) -> str:
        return self


class OddText(Exception):
    def __str__(self) -> str:
        return Text("odd")


class CannotBeSet(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} cannot be set")


class BuiltByName(Exception):
    def __reduce__(self) -> str:
        return "THE_ONE"


THE_ONE = BuiltByName("one")


class Batch(ExceptionGroup[Exception]):
    def derive(self, excs: Any) -> Any:
        return Batch(self.message, excs)


class Numbered(ExceptionGroup[Exception]):
    code: int

    def __init__(self, errors: list[Exception], code: int) -> None: ...

    def __new__(cls, errors: list[Exception], code: int) -> Numbered:
        made = super().__new__(cls, f"code {code}", errors)
        made.code = code
        return made

    def derive(self, excs: Any) -> Any:
        return Numbered(excs, self.code)


def _one(x: int) -> int:
    return _two(x)


def _two(x: int) -> int:
    here = x
    return _three(here)


def _three(x: int) -> int:
    raise ValueError("three", x)


def _raise_required(x: int) -> None:
    try:
        _one(x)
    except ValueError as error:
        raise Required(x, "b") from error


def _deep(n: int) -> int:
    return _deep(n - 1) if n else 1 // 0


def _for_ever(n: int) -> int:
    return _for_ever(n + 1)


def _chained() -> None:
    try:
        _one(1)
    except ValueError as error:
        failure = Required(1, "b")
        failure.add_note("look here")
        raise failure from error


# The traceback


class TestTraceback:
    def test_holds_the_real_frames(self) -> None:
        error = caught(lambda: _one(5))
        there = send(error)
        here, frames = traceback.extract_tb(error.__traceback__), traceback.extract_tb(there.__traceback__)
        assert [(f.filename, f.name, f.lineno, f.line) for f in frames] == [
            (f.filename, f.name, f.lineno, f.line) for f in here
        ]
        assert [f.name for f in frames][-3:] == ["_one", "_two", "_three"]
        assert frames[-1].line == 'raise ValueError("three", x)'

    def test_prints_the_same_but_for_marks_below_a_line(self) -> None:
        # tblib's frames have columns of their own: marks would stand below the wrong part of the line.
        for function in (lambda: _one(5), lambda: _deep(2), _chained):
            error = caught(function)
            lines = [line for line in printed(error).splitlines() if line.strip(" ~^")]
            assert [line for line in printed(send(error)).splitlines() if line] == lines

    def test_is_printed_by_the_excepthook(self, capsys: pytest.CaptureFixture[str]) -> None:
        there = send(caught(_chained))
        sys.__excepthook__(type(there), there, there.__traceback__)
        text = capsys.readouterr().err
        assert (
            text.index("in _three") < text.index("direct cause of the following") < text.rindex("in _chained")
        )
        assert 'raise ValueError("three", x)' in text
        assert text.endswith("Required: 1 and b\nlook here\n")

    def test_follows_the_local_frames_when_it_is_raised(self) -> None:
        there = send(caught(lambda: _one(5)))

        def get() -> None:
            raise there

        names = [f.name for f in traceback.extract_tb(caught(get).__traceback__)]
        assert names[0] == "caught"
        assert names[1] == "get"
        assert names[-1] == "_three"

    def test_can_be_inspected(self) -> None:
        there = send(caught(lambda: _one(5)))
        assert there.__traceback__ is not None
        for info in inspect.getinnerframes(there.__traceback__, context=3):
            assert info.filename == __file__
            assert info.code_context is not None
            assert info.index is not None
            assert info.code_context[info.index] == linecache.getline(__file__, info.lineno)
            assert inspect.getmodule(info.frame) is sys.modules[__name__]
            assert info.frame.f_locals is not None
        assert (
            traceback.TracebackException.from_exception(there, capture_locals=True).stack[-1].name == "_three"
        )
        traceback.clear_frames(there.__traceback__)

    def test_is_walked_by_pdb(self) -> None:
        there = send(caught(lambda: _one(5)))
        script = [
            *("where", "list", "longlist", "up", "list", "up", "where", "down", "down", "args", "p 1 + 1"),
            *("p x", "pp __name__", "whatis 1", "p locals()", "display 1", "bt", "quit"),
        ]
        out = io.StringIO()
        debugger = pdb.Pdb(
            stdin=io.StringIO("\n".join(script) + "\n"), stdout=out, nosigint=True, readrc=False
        )
        debugger.use_rawinput = False
        debugger.reset()
        debugger.interaction(None, there.__traceback__)
        text = out.getvalue()
        assert text.count('raise ValueError("three", x)') >= 3
        assert "_two()" in text
        assert "_one()" in text
        assert "return _three(here)" in text
        assert "NameError" in text  # locals stay in the worker
        assert f"'{__name__}'" in text
        assert "Traceback" not in text

    def test_does_not_keep_its_receiver_alive(self) -> None:
        class Held:
            pass

        def receive() -> tuple[weakref.ref[Any], weakref.ref[Any], BaseException]:
            held = Held()
            unheld = send(caught(lambda: _raise_required(5)))
            return weakref.ref(held), weakref.ref(unheld), send(caught(lambda: _one(5)))

        gc.collect()
        gc.disable()
        try:
            held, unheld, _kept = receive()
            assert held() is None
            assert unheld() is None
        finally:
            gc.enable()

    def test_of_a_thousand_frames(self) -> None:
        there = send(caught(lambda: _in_a_deep_stack(_deep, 1000)))
        names = [f.name for f in traceback.extract_tb(there.__traceback__)]
        assert names.count("_deep") == 1001
        assert "[Previous line repeated" in printed(there)

    def test_of_a_recursion_error(self) -> None:
        error = caught(lambda: _for_ever(0))
        there = send(error)
        assert type(there) is RecursionError
        assert str(there) == str(error)
        here = [f.name for f in traceback.extract_tb(error.__traceback__)]
        assert [f.name for f in traceback.extract_tb(there.__traceback__)] == here

    def test_of_code_without_a_file(self) -> None:
        there = send(caught(lambda: exec(compile("\n\n1 // 0", "<made up>", "exec"), {})))
        last = traceback.extract_tb(there.__traceback__)[-1]
        assert (last.filename, last.lineno, last.line) == ("<made up>", 3, "")

    def test_of_code_that_stands_in_no_line(self) -> None:
        code = compile("def f():\n    1 // 0", "<made up>", "exec").co_consts[0]
        code = code.replace(co_linetable=b"\xff" + b"\xff" * (len(code.co_code) // 16))
        scope: dict[str, Any] = {}
        exec("def f(): pass", scope)
        scope["f"].__code__ = code
        error = caught(scope["f"])
        assert error.__traceback__ is not None
        last = error.__traceback__.tb_next
        assert last is not None
        assert last.tb_lineno is None
        assert traceback.extract_tb(send(error).__traceback__)[-1].lineno == code.co_firstlineno


def _in_a_deep_stack(function: Callable[[int], Any], n: int) -> Any:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + n + 100)
    try:
        return function(n)
    finally:
        sys.setrecursionlimit(limit)


# What the exception is made of


def _with(error: BaseException, **attributes: Any) -> BaseException:
    error.__dict__.update(attributes)
    return error


UNICODE = ["encoding", "object", "start", "end", "reason"]
BUILTIN: list[tuple[BaseException, list[str]]] = [
    (ValueError("a", 1, None, 2.5, b"x"), []),
    (ValueError([1, {"k": (2, 3)}]), []),
    (_with(ValueError("a"), extra=[1]), ["extra"]),
    (KeyError("k"), []),
    (KeyboardInterrupt(), []),
    (GeneratorExit(), []),
    (MemoryError(), []),
    (SystemExit(3), ["code"]),
    (SystemExit("bye", 2), ["code"]),
    (StopIteration([1, 2]), ["value"]),
    (StopAsyncIteration("a"), []),
    (
        UnicodeDecodeError("utf-8", b"\xff\xfe", 0, 1, "bad start"),
        UNICODE,
    ),
    (
        UnicodeEncodeError("ascii", "\xe4", 0, 1, "not in range"),
        UNICODE,
    ),
    (UnicodeTranslateError("\xe4", 0, 1, "why"), ["object", "start", "end", "reason"]),
    (OSError(2, "gone", "a"), ["errno", "strerror", "filename", "filename2"]),
    (FileNotFoundError(2, "gone", "a", None, "b"), ["errno", "strerror", "filename", "filename2"]),
    (FileNotFoundError("just a text"), ["errno", "strerror", "filename", "filename2"]),
    (BlockingIOError(11, "again", 5), ["errno", "strerror", "characters_written"]),
    (PermissionError(13, "no", Path("a")), ["errno", "strerror", "filename"]),
    (
        SyntaxError("bad", ("f.py", 3, 5, "x = = 1\n", 3, 6)),
        ["msg", "filename", "lineno", "offset", "text", "end_lineno"],
    ),
    (
        IndentationError("bad", ("f.py", 3, 5, "x\n", 3, 6)),
        ["msg", "filename", "lineno", "offset", "text", "end_offset"],
    ),
    (ImportError("no", name="n", path="p"), ["msg", "name", "path"]),
    (ModuleNotFoundError("no", name="n", path="p"), ["msg", "name", "path"]),
    (AttributeError("no x", name="x", obj=[1]), ["name", "obj"]),
    (NameError("no x", name="x"), ["name"]),
    (UnboundLocalError("no x", name="x"), ["name"]),
]


@pytest.mark.parametrize(("error", "fields"), BUILTIN, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("burden", [False, True], ids=["", "with a lock"])
def test_a_builtin_comes_with_all_its_fields(error: BaseException, fields: list[str], burden: bool) -> None:
    # With an attribute that cannot be sent an exception takes the other way, and is to lose nothing else.
    if burden:
        error.lock = threading.Lock()  # type: ignore[attr-defined]
    try:
        there = send(error)
    finally:
        if burden:
            del error.lock  # type: ignore[attr-defined]
    assert type(there) is type(error)
    assert there.args == error.args
    assert str(there) == str(error)
    assert repr(there) == repr(error)
    for name in fields:
        assert getattr(there, name) == getattr(error, name), name
    if burden:
        assert there.__notes__ == [
            "parallelkit: attribute lock was left behind (TypeError: cannot pickle '_thread.lock' object)"
        ]
    else:
        assert vars(there) == vars(error)


def test_a_real_syntax_error_prints_its_line_and_mark() -> None:
    error = caught(lambda: compile("x = (1,\ny = = 2\n", "made.py", "exec"))
    assert printed(send(error)).splitlines()[-3:] == printed(error).splitlines()[-3:]


def test_real_os_errors_keep_both_names(tmp_path: Path) -> None:
    error = caught(lambda: os.rename(tmp_path / "a", tmp_path / "b"))
    there = send(error)
    assert isinstance(there, FileNotFoundError)
    assert str(there) == str(error)
    assert there.filename2 == str(tmp_path / "b")


@pytest.mark.parametrize("obj", [threading.Lock(), bytes(10_000_000)], ids=["lock", "large"])
def test_what_lacks_an_attribute_is_left_behind_where_it_is_a_burden(obj: object) -> None:
    error = caught(lambda: obj.nothing)  # type: ignore[attr-defined]
    data = tracebacks.dumps(error)
    assert len(data) < 100_000
    there = tracebacks.loads(data)
    assert (str(there), there.name) == (str(error), "nothing")  # type: ignore[attr-defined]
    assert there.obj is None  # type: ignore[attr-defined]
    assert not hasattr(there, "__notes__")


USERS: list[tuple[BaseException, dict[str, Any]]] = [
    (Required(1, "b"), {"first": 1, "second": "b"}),
    (KeywordOnly(code=5), {"code": 5}),
    (Slotted(5), {"code": 5}),
    (OwnNew(2, 3), {"sum": 5}),
    (Frozen(5), {"code": 5, "text": "t"}),
    (FrozenSlotted(5), {"code": 5}),
    (Data(5, [1]), {"code": 5, "rest": [1]}),
    (OwnReduce(2, doubled=4), {"doubled": 4}),
    (Forgetful("t", 7), {"code": 7}),
    (ReduceRaises("a", 2), {}),
    (CannotBeSet("a", 2), {}),
    (OddText("a"), {}),
    (BuiltByName("another"), {}),
    (Batch("b", [ValueError(1)]), {"message": "b"}),
    (Numbered([ValueError(1)], 5), {"message": "code 5", "code": 5}),
]


@pytest.mark.parametrize(("error", "fields"), USERS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("burden", [False, True], ids=["", "with a lock"])
def test_a_users_exception_comes_as_itself(
    error: BaseException, fields: dict[str, Any], burden: bool
) -> None:
    notes = ["a note"]
    error.__dict__["__notes__"] = notes
    if burden:
        error.__dict__["lock"] = threading.Lock()
    try:
        there = send(caught(lambda: _raise(error)))
    finally:
        error.__dict__.pop("lock", None)
    assert type(there) is type(error)
    assert repr(there.args) == repr(error.args)
    assert str(there) == str(error)
    assert {name: getattr(there, name) for name in fields} == fields
    assert there.__notes__[0] == "a note"
    assert len(there.__notes__) == 1 + burden
    assert traceback.extract_tb(there.__traceback__)[-1].name == "_raise"


def _raise(error: BaseException) -> None:
    raise error


def test_a_slot_that_was_never_set_stays_unset() -> None:
    assert not hasattr(send(Slotted(5)), "unset")


def test_what_cannot_be_sent_is_told_and_the_rest_arrives() -> None:
    there = send(Locked("text", threading.Lock()))
    assert isinstance(there, Locked)
    assert there.code == 5
    assert there.args[0] == "text"
    assert there.args[1].startswith("<unlocked _thread.lock object at")
    assert not hasattr(there, "lock")
    why = "(TypeError: cannot pickle '_thread.lock' object)"
    assert there.__notes__ == [
        f"parallelkit: of argument 1 there is only the repr {why}",
        f"parallelkit: attribute lock was left behind {why}",
        f"parallelkit: its text was: ('text', {there.args[1]})",
    ]


def test_a_text_that_cannot_be_made_here_is_told() -> None:
    there = send(TextOfLock(threading.Lock()))
    assert isinstance(there, TextOfLock)
    assert there.__notes__[-1] == "parallelkit: its text was: locked: False"
    assert "its text was: locked: False" in printed(there)


def test_an_exception_without_text_arrives() -> None:
    there = send(TextRaises("a"))
    assert type(there) is TextRaises
    assert there.args == ("a",)
    assert "TextRaises: <exception str() failed>" in printed(there)


def test_notes_of_any_kind_arrive() -> None:
    error = ValueError("a")
    error.__notes__ = ["a", 5, Text("b"), TextRaises()]  # type: ignore[list-item]
    assert send(error).__notes__ == ["a", "5", "b", "(its text cannot be had: LookupError)"]
    error.__notes__ = "no list"  # type: ignore[assignment]
    assert type(send(error)) is ValueError


def test_a_reduce_that_exits_ends_nothing() -> None:
    there = send(caught(lambda: _raise(ExceptionGroup("g", [ReduceExits("a"), ValueError(TextExits())]))))
    assert isinstance(there, ExceptionGroup)
    one, two = there.exceptions
    assert type(one) is ReduceExits
    assert one.args == ("a",)
    assert type(two.args[0]) is TextExits


def test_a_pickle_that_exits_or_gives_something_else_here_costs_its_own_node() -> None:
    # The first time, in the worker, it is read back well.
    for what in ("exit", "other"):
        _changing["to"] = "itself"
        data = tracebacks.dumps(ExceptionGroup("g", [Changing("a"), ValueError(1)]))
        _changing["to"] = what
        there = tracebacks.loads(data)
        assert isinstance(there, ExceptionGroup)
        stand_in, neighbour = there.exceptions
        assert isinstance(stand_in, RemoteError)
        assert stand_in.type_name.endswith(".Changing")
        assert repr(neighbour) == "ValueError(1)"


def test_an_exception_that_hides_its_cause_becomes_a_remote_error() -> None:
    there = send(caught(lambda: _raise(Hiding("a"))))
    assert isinstance(there, RemoteError)
    assert there.type_name.endswith("Hiding")
    assert "cannot be looked into: LookupError" in str(there)
    assert "in _raise" in there.traceback


@pytest.mark.parametrize("error", [ValueError(1), CannotBeSet("a"), Slotted(1)])
def test_a_note_is_added_to_any_exception(error: BaseException) -> None:
    for text in ("one", "two"):
        tracebacks.add_note(error, text)
    assert error.__notes__ == ["one", "two"]


def test_bytes_that_are_none_of_ours_give_an_error() -> None:
    assert isinstance(tracebacks.loads(b"nonsense"), RemoteError)


# Causes, contexts and groups


def test_cause_and_context_arrive_with_their_own_tracebacks() -> None:
    there = send(caught(_chained))
    cause = there.__cause__
    assert cause is not None
    assert cause.args == ("three", 1)
    assert traceback.extract_tb(cause.__traceback__)[-1].name == "_three"
    assert there.__context__ is cause
    assert there.__suppress_context__
    assert there.__notes__ == ["look here"]


@pytest.mark.parametrize("suppress", [True, False])
def test_a_suppressed_context_stays_so(suppress: bool) -> None:
    def fail() -> None:
        try:
            _one(1)
        except ValueError:
            if suppress:
                raise LookupError("b") from None
            raise LookupError("b")

    error = caught(fail)
    there = send(error)
    assert there.__cause__ is None
    assert repr(there.__context__) == "ValueError('three', 1)"
    assert there.__suppress_context__ is suppress
    assert ("in _three" in printed(there)) is not suppress


def test_groups_arrive_with_members_causes_and_types() -> None:
    first = caught(_chained)
    assert isinstance(first, Required)
    inner = Batch("inner", [Required(2, "c"), OSError(2, "gone", "f")])
    inner.add_note("a note")
    there = send(ExceptionGroup("outer", [first, inner, Numbered([KeyError("k")], 5)]))
    assert isinstance(there, ExceptionGroup)
    one, two, three = there.exceptions
    assert str(one.__cause__) == "('three', 1)"
    assert traceback.extract_tb(one.__traceback__)[-1].name == "_chained"
    assert isinstance(two, Batch)
    assert two.__notes__ == ["a note"]
    gone = two.exceptions[1]
    assert isinstance(gone, OSError)
    assert gone.filename == "f"
    assert isinstance(three, Numbered)
    assert three.code == 5
    part = there.subgroup(OSError)
    assert part is not None
    assert isinstance(part.exceptions[0], Batch)


@pytest.mark.parametrize(
    "group", [BaseExceptionGroup("g", [SystemExit(1)]), ExceptionGroup("g", [OSError(1)])]
)
def test_both_types_of_group_arrive(group: BaseExceptionGroup[BaseException]) -> None:
    there = send(group)
    assert type(there) is type(group)
    assert repr(there) == repr(group)


def test_an_exception_that_is_found_twice_is_one() -> None:
    shared = ValueError("shared")
    group = ExceptionGroup("g", [shared, shared])
    group.__cause__ = shared
    there = send(group)
    assert isinstance(there, ExceptionGroup)
    assert there.exceptions[0] is there.exceptions[1] is there.__cause__


def test_cycles_of_cause_and_context_arrive() -> None:
    one, two = ValueError(1), Required(2, "b")
    one.__cause__, two.__context__ = two, one
    there = send(one)
    assert there.__cause__ is not None
    assert type(there.__cause__) is Required
    assert there.__cause__.__context__ is there


def test_an_exception_among_its_own_arguments_arrives() -> None:
    error = ValueError("a")
    error.args = ("a", error)
    there = send(error)
    assert type(there) is ValueError
    assert there.args[1] is there


def test_exceptions_that_hold_each_other_arrive() -> None:
    one, two = Required(1, "a"), Frozen(2)
    one.__dict__["partner"], two.__dict__["partners"] = two, [one, {"k": one}]
    there: Any = send(one)
    assert there.partner.partners[0] is there.partner.partners[1]["k"] is there
    assert there.partner.code == 2


def test_a_very_long_chain_arrives() -> None:
    error: BaseException = Required(0, "b")
    for n in range(1, 3000):
        above = Required(n, "b") if n % 2 else ValueError(n)
        above.__cause__ = error
        error = above
    there: BaseException | None = send(error)
    length = 0
    while there is not None:
        assert type(there) is (Required if (2999 - length) % 2 or length == 2999 else ValueError)
        length += 1
        there = there.__cause__
    assert length == 3000


def test_exceptions_deep_in_each_others_arguments_arrive() -> None:
    error = ValueError("innermost")
    for _ in range(1000):
        error = ValueError(error)
    there: Any = send(error)
    for _ in range(1000):
        there = there.args[0]
    assert there.args == ("innermost",)


# Classes that are not found


def _local(text: str) -> BaseException:
    class Local(Exception):
        pass

    def fail() -> None:
        raise Local(text) from KeyError("k")

    return caught(fail)


def test_a_local_class_travels_by_cloudpickle() -> None:
    pytest.importorskip("cloudpickle")
    there = send(_local("text"))
    assert type(there).__name__ == "Local"
    assert str(there) == "text"


def test_a_local_class_without_cloudpickle_becomes_a_remote_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    error = _local("text")
    error.add_note("look here")
    there = send(error)
    assert isinstance(there, RemoteError)
    assert there.type_name == f"{__name__}._local.<locals>.Local"
    assert str(there) == f"{there.type_name}: text"
    assert repr(there.__cause__) == "KeyError('k')"
    assert there.__notes__ == ["look here"]
    assert traceback.extract_tb(there.__traceback__)[-1].name == "fail"
    lines = there.traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert '    raise Local(text) from KeyError("k")' in lines
    assert lines[-2:] == [str(there), "look here"]


class Vanishing(Exception):
    pass


class VanishingGroup(ExceptionGroup[Exception]):
    pass


@pytest.mark.parametrize("lock", [None, threading.Lock()], ids=["whole", "in pieces"])
def test_a_class_that_is_not_found_here_becomes_a_remote_error(
    monkeypatch: pytest.MonkeyPatch, lock: Any
) -> None:
    member = Vanishing("text")
    member.__dict__["lock"] = lock
    member.__cause__ = Required(1, "b")
    data = tracebacks.dumps(ExceptionGroup("g", [ValueError(1), member]))
    monkeypatch.delattr(sys.modules[__name__], "Vanishing")
    there = tracebacks.loads(data)
    assert isinstance(there, ExceptionGroup)
    neighbour, stand_in = there.exceptions
    assert repr(neighbour) == "ValueError(1)"
    assert isinstance(stand_in, RemoteError)
    assert stand_in.type_name == f"{__name__}.Vanishing"
    assert type(stand_in.__cause__) is Required
    assert stand_in.__notes__[-1].startswith(
        "parallelkit: not rebuilt here, AttributeError: Can't get attribute"
    )


def test_the_members_of_a_group_whose_class_is_not_found_are_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed = caught(lambda: _one(5))
    assert isinstance(failed, ValueError)
    data = tracebacks.dumps(VanishingGroup("g", [Required(1, "b"), failed]))
    monkeypatch.delattr(sys.modules[__name__], "VanishingGroup")
    there = tracebacks.loads(data)
    assert isinstance(there, RemoteError)
    assert there.type_name == f"{__name__}.VanishingGroup"
    members = there.__cause__
    assert isinstance(members, ExceptionGroup)
    assert [type(error) for error in members.exceptions] == [Required, ValueError]
    assert "in _three" in printed(there)


SCRIPT = """
import sys, traceback
import parallelkit

class Mine(Exception):
    def __init__(self, first, second):
        super().__init__(first)
        self.second = second

def fail(x):
    raise Mine(x, [x]) from KeyError(x)

if __name__ == "__main__":
    try:
        parallelkit.pool_map(fail, [1], start_method="spawn")
    except Mine as error:
        assert type(error) is Mine and error.second == [1] and error.__cause__.args == (1,)
        assert traceback.extract_tb(error.__traceback__)[-1].name == "fail"
        raise
"""


def test_a_class_of_main_under_spawn(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 1
    assert f'File "{script}", line 11, in fail\n    raise Mine(x, [x]) from KeyError(x)\n' in done.stderr
    assert done.stderr.endswith("Mine: 1\nparallelkit: item 0: 1\n")


# Through real workers


def _fail_as(number: int) -> None:
    if number == 0:
        _chained()
    if number == 1:
        raise ExceptionGroup("two", [Required(1, "b"), Batch("in", [OSError(2, "gone", "f")])])
    if number == 2:
        _in_a_deep_stack(_deep, 1000)
    if number == 3:
        _for_ever(0)
    if number == 4:
        raise Locked("text", threading.Lock())
    if number == 5:
        b"\xff".decode()
    if number == 6:
        sys.exit("bye")
    if number == 7:
        compile("x = = 1", "made.py", "exec")
    if number == 8:
        raise Frozen(5)
    if number == 9:
        raise ReduceExits("a")
    if number == 10:
        raise _local("text")
    if number == 11:
        os.stat("/nowhere/at/all")
    if number == 12:
        raise StopIteration([1])
    raise KeyboardInterrupt


def test_exceptions_come_through_workers(start_method: str) -> None:
    outcomes = parallelkit.pool_map(
        _fail_as, range(14), start_method=start_method, max_workers=1, errors="return"
    )
    errors: list[Any] = [
        outcome.exception for outcome in outcomes if isinstance(outcome, parallelkit.Failure)
    ]
    assert len(errors) == 14
    assert [type(error).__name__ for error in errors] == [
        *(
            "Required",
            "ExceptionGroup",
            "ZeroDivisionError",
            "RecursionError",
            "Locked",
            "UnicodeDecodeError",
        ),
        *(
            "SystemExit",
            "SyntaxError",
            "Frozen",
            "ReduceExits",
            "Local",
            "FileNotFoundError",
            "StopIteration",
        ),
        "KeyboardInterrupt",
    ]
    assert "_three" in printed(errors[0])
    assert errors[1].exceptions[1].exceptions[0].filename == "f"
    assert printed(errors[2]).count("in _deep") >= 3
    assert len(traceback.extract_tb(errors[2].__traceback__)) > 1000
    assert errors[4].code == 5
    assert errors[5].object == b"\xff"
    assert errors[6].code == "bye"
    assert errors[7].text.strip() == "x = = 1"
    assert errors[8].code == 5
    assert errors[11].filename == "/nowhere/at/all"
    assert errors[12].value == [1]
    for error in errors:
        assert traceback.extract_tb(error.__traceback__)[0].name == "_fail_as"


POST_MORTEM = """
import pdb, sys
import parallelkit
from test_tracebacks import fail_with_a_cause

if __name__ == "__main__":
    try:
        parallelkit.pool_map(fail_with_a_cause, [5], start_method=sys.argv[1])
    except Exception as error:
        pdb.post_mortem(error if sys.version_info >= (3, 13) else error.__traceback__)
"""


def fail_with_a_cause(x: int) -> None:
    _raise_required(x)


def test_post_mortem_walks_the_frames_of_a_worker(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(POST_MORTEM)
    commands = [
        "where",
        "list",
        "p x",
        "up",
        "list",
        "p x",
        "p __name__",
        "down",
        "up",
        "up",
        "down",
        "longlist",
    ]
    if sys.version_info >= (3, 13):
        commands += ["exceptions", "exceptions 0", "where", "list"]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py"), "fork"],
        input="\n".join([*commands, "quit"]),
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        cwd=tmp_path,
    )
    assert done.stderr == ""
    out = done.stdout
    assert 'raise Required(x, "b") from error' in out
    assert "_raise_required(x)\n" in out
    assert "NameError: name 'x' is not defined" in out
    assert "'test_tracebacks'" in out
    if sys.version_info >= (3, 13):
        assert "ValueError('three', 5)" in out
        assert 'raise ValueError("three", x)' in out


# Any tree of exceptions


ATOMS = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.binary(max_size=5)


@st.composite
def exceptions(draw: st.DrawFn, depth: int = 3) -> BaseException:
    kinds = ["plain", "required", "frozen", "os", "keyword", "base", "with a list"]
    kind = draw(st.sampled_from([*kinds, "group", "batch"] if depth else kinds))
    error: BaseException
    if kind in ("group", "batch"):
        cls = Batch if kind == "batch" else ExceptionGroup
        members = draw(st.lists(exceptions(depth - 1), min_size=1, max_size=3))
        error = cls(
            draw(st.text(max_size=5)), [m for m in members if isinstance(m, Exception)] or [KeyError(1)]
        )
    elif kind == "plain":
        error = draw(st.sampled_from([ValueError, KeyError, TypeError]))(*draw(st.lists(ATOMS, max_size=3)))
    elif kind == "required":
        error = Required(draw(st.integers()), draw(st.text(max_size=5)))
    elif kind == "frozen":
        error = Frozen(draw(st.integers()))
    elif kind == "os":
        error = OSError(draw(st.integers(1, 40)), "text", draw(st.text(max_size=5)))
    elif kind == "keyword":
        error = KeywordOnly(code=draw(st.integers()))
    elif kind == "base":
        error = SystemExit(draw(ATOMS))
    else:
        error = ValueError(draw(st.lists(ATOMS, max_size=3)))
    if depth:
        nothing_or_one = st.none() | exceptions(depth - 1)
        BaseException.__setattr__(error, "__context__", draw(nothing_or_one))
        BaseException.__setattr__(error, "__cause__", draw(nothing_or_one))
        BaseException.__setattr__(error, "__suppress_context__", draw(st.booleans()))
    if draw(st.booleans()):
        BaseException.__setattr__(
            error, "__notes__", draw(st.lists(st.text(max_size=5), min_size=1, max_size=2))
        )
    if draw(st.booleans()):
        error.__dict__["extra"] = draw(ATOMS | exceptions(0))
    return error


def alike(one: BaseException | None, other: BaseException | None) -> bool:
    if one is None or other is None:
        return one is other
    extra, others = vars(one).get("extra"), vars(other).get("extra")
    return (
        type(one) is type(other)
        and repr(one) == repr(other)
        and str(one) == str(other)
        and vars(one).keys() == vars(other).keys()
        and getattr(one, "__notes__", None) == getattr(other, "__notes__", None)
        and one.__suppress_context__ is other.__suppress_context__
        and alike(one.__cause__, other.__cause__)
        and alike(one.__context__, other.__context__)
        and (alike(extra, others) if isinstance(extra, BaseException) else extra == others)
        and (
            not isinstance(one, BaseExceptionGroup)
            or not isinstance(other, BaseExceptionGroup)
            or all(map(alike, one.exceptions, other.exceptions))
        )
    )


@given(exceptions())
def test_any_tree_of_exceptions_arrives(error: BaseException) -> None:
    assert alike(send(error), error)


@given(st.data())
def test_part_of_the_bytes_gives_an_error(data: st.DataObject) -> None:
    whole = tracebacks.dumps(Required(1, "b"))
    part = whole[: data.draw(st.integers(0, len(whole) - 1))]
    assert isinstance(tracebacks.loads(part), RemoteError)
