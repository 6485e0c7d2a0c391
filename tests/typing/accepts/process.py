"""What `Process` is to accept, and the types that come out."""

from typing import Any, assert_type

from parallelkit.context import Context, SpawnContext, get_context
from parallelkit.process import ForkProcess, Process, SpawnProcess


def ratio(a: int, b: int = 1) -> float:
    return a / b


def nothing() -> None: ...


def keyword(a: int, *, scale: str) -> str:
    return scale * a


class Counter(Process[int]):
    def __init__(self, limit: int) -> None:
        super().__init__(name="counter", daemon=True)
        self.limit = limit

    def run(self) -> int:
        return self.limit


class Late(Process[None]):
    def __init__(self) -> None:
        self.x = 1
        Process.__init__(self)


class Plain(Process):
    def run(self) -> None:
        pass


def run_all(anything: tuple[Any, ...], listed: list[int]) -> None:
    process = Process(target=ratio, args=(1, 2))
    assert_type(process, Process[float])
    assert_type(process.result(), float)
    assert_type(process.result(timeout=1.5), float)
    assert_type(process.exception(), BaseException | None)
    assert_type(Process(target=ratio, args=(1,)).result(), float)
    assert_type(Process(None, ratio, "name", (1, 2)).result(), float)
    assert_type(Process(target=nothing), Process[None])
    assert_type(Process(target=nothing, daemon=True), Process[None])
    assert_type(Process(target=keyword, args=(1,), kwargs={"scale": "x"}).result(), str)
    assert_type(Process(target=ratio, kwargs={"a": 1}).result(), float)
    assert_type(Process(target=ratio, args=[1, 2]).result(), float)
    assert_type(Process(target=ratio, args=listed).result(), float)
    assert_type(Process(target=lambda: 3).result(), int)
    assert_type(Counter(3).result(), int)
    assert_type(ForkProcess(target=ratio, args=(1, 2)).result(), float)
    assert_type(SpawnProcess(target=ratio, args=(1, 2)), SpawnProcess[float])
    with Process(target=ratio, args=(1, 2)) as entered:
        assert_type(entered, Process[float])
    spawn = get_context("spawn")
    assert_type(spawn, SpawnContext)
    assert_type(spawn.Process(target=ratio, args=(1, 2)).result(), float)
    assert_type(get_context(), Context)
    assert_type(get_context().Process(target=nothing).result(), None)
    wider: Process[object] = Process(target=ratio, args=(1, 2))
    wider.terminate(grace=0.5)
    Process(target=ratio, args=anything)
    Process()
    Late().start()
    Plain().start()
