"""Tasks that log, for workers to import."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
from typing import Any

import parallelkit

log = logging.getLogger("app.work")
lib = logging.getLogger("lib")
lib.addHandler(logging.NullHandler())  # as libraries do


class Unsendable:
    def __reduce__(self) -> Any:
        raise TypeError("not me")

    def __repr__(self) -> str:
        return "<unsendable>"


class Unreadable:
    def __reduce__(self) -> Any:
        return fail, ("cannot be read",)


class NoRepr(Unsendable):
    def __repr__(self) -> str:
        raise ValueError("nor shown")


def fail(text: str) -> None:
    raise OSError(text)


def say(item: int) -> int:
    log.info("item %d", item)
    lib.warning("of lib %d", item)
    log.debug("unheard")
    return os.getpid()


def say_all_sorts() -> None:
    log.info("args %s %r", Unsendable(), [1])
    log.info(
        "extras", extra={"unsendable": Unsendable(), "unreadable": Unreadable(), "mute": NoRepr(), "a": {1}}
    )
    try:
        fail("broken")
    except OSError:
        log.exception("failed", stack_info=True)
    logging.warning("root")
    log.log(25, "a level of its own")


def is_enabled(name: str, level: int) -> bool:
    return logging.getLogger(name).isEnabledFor(level)


def say_and_end(how: str) -> None:
    for number in range(100):
        log.info("%s %d", how, number)
    if how == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        os._exit(3)
    raise ValueError(how)


def say_in_thread(item: int) -> None:
    thread = threading.Thread(target=say, args=(item,), name="helper")
    thread.start()
    thread.join()


def say_later() -> None:
    threading.Timer(0.1, say, (1,)).start()


def say_at_exit(text: str) -> None:
    atexit.register(log.info, text)
    log.info("initializer")


def fail_to_initialize() -> None:
    log.info("before the failure")
    fail("no connection")


def configure(path: str) -> None:
    """What programs have as an initializer, as workers of spawn have no handlers."""
    logging.basicConfig(filename=path, format="%(message)s", level=logging.INFO)
    log.info("configured")


def say_in_inner_pool(options: dict[str, Any]) -> list[int]:
    return parallelkit.pool_map(say, [7], **options)


def flood(count: int, progress: Any = None) -> None:
    for number in range(count):
        log.info("%d", number)
        if progress is not None:
            progress[0] = number + 1


def hold(progress: Any) -> None:
    global held
    held = progress


def flood_and_tell(count: int) -> None:
    flood(count, held)


held: Any = None


def modules(_: int) -> list[str]:
    return [name for name in sys.modules if name.startswith("parallelkit.")]
