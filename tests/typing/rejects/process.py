"""What `Process` is to reject: each line with the comment."""

from parallelkit.context import get_context
from parallelkit.process import Process


def ratio(a: int, b: int = 1) -> float:
    return a / b


class Wrong(Process[int]):
    def run(self) -> str:  # error
        return ""


def run_all() -> None:
    text: str = Process(target=ratio, args=(1, 2)).result()  # error
    narrow: Process[int] = Process(target=ratio, args=(1, 2))  # error
    Process(target=ratio, args=("a", 2))  # error
    Process(target=ratio, args=(1, 2, 3))  # error
    Process(target=ratio, args=3)  # error
    Process(target=3)  # error
    Process(target=ratio, args=(1,), name=3)  # error
    Process(target=ratio, args=(1,)).result("soon")  # error
    Process(target=ratio, args=(1,)).terminate(grace="short")  # error
    get_context("spawn").Process(target=ratio, args=("a",))  # error
    get_context(3)  # error
