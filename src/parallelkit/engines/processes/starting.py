"""Which start method, and how a process is started with it.

The processes themselves are `multiprocessing`'s: it knows how to bring `__main__`, `sys.path` and
descriptors into a fresh interpreter, and `multiprocessing.current_process()` is right in a task.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.process
import os
import pickle
import threading
import warnings
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, TypeAlias

from ... import interactive, resources, serialization, shielding
from ...launching import start
from ...threadlimits import ThreadLimits

#: Held where descriptors and processes are made, so that no fork happens between the making of a
#: descriptor and its entry in `_parent_ends`.
lock: AbstractContextManager[object] = threading.RLock()


#: A pickle and its large buffers.
Pickled: TypeAlias = tuple[bytes, list[bytearray]]


class _Closable(Protocol):
    def close(self) -> None: ...


_launched: weakref.WeakSet[BaseProcess] = weakref.WeakSet()
_parent_ends: weakref.WeakSet[_Closable] = weakref.WeakSet()


def remember(parent_end: _Closable) -> None:
    """The parent's end of a channel, or its selector: a forked child must not keep it open."""
    _parent_ends.add(parent_end)


def _close_inherited() -> None:
    # A child that held a sibling's channel open would keep that sibling from seeing its parent's end.
    global lock
    lock = threading.RLock()
    for parent_end in list(_parent_ends):
        parent_end.close()
    _parent_ends.clear()
    # At its end a child would wait for its parent's children, which multiprocessing refuses with a traceback.
    children: set[BaseProcess] = multiprocessing.process._children  # type: ignore[attr-defined]
    children.difference_update(_launched)
    _launched.clear()


os.register_at_fork(after_in_child=_close_inherited)


def choose(start_method: str | None, function: Callable[..., Any] | None) -> BaseContext:
    """The multiprocessing context for `start_method`, or for what is safest where nobody chose.

    `set_start_method` counts as a choice. Without one it is the interpreter's default, but not fork
    while other threads are alive, as a lock that such a thread holds stays locked in the child for
    ever. On the interpreters whose default is fork, `set_start_method("fork")` cannot be told from
    the default, so there `start_method="fork"` is the way to insist.
    """
    if start_method is not None:
        return multiprocessing.get_context(start_method)
    default = multiprocessing.get_all_start_methods()[0]
    method = multiprocessing.get_start_method(allow_none=True) or default
    if method == "fork" and default == "fork" and _other_threads():
        return _without_fork(function)
    return multiprocessing.get_context(method)


def _other_threads() -> bool:
    from ... import logs  # not in each worker

    me = threading.current_thread()
    return any(
        thread is not me and thread.is_alive() and thread.name != logs.THREAD  # which rests during a fork
        for thread in threading.enumerate()
    )


def foreign_threads() -> bool:
    """Whether threads are alive, beside this and the main one, that do not belong to this library."""
    known = (threading.current_thread(), threading.main_thread())
    return any(
        thread not in known and not thread.name.startswith("parallelkit-") for thread in threading.enumerate()
    )


def _without_fork(function: Callable[..., Any] | None) -> BaseContext:
    if function is None or interactive.can_be_sent(function):
        return multiprocessing.get_context("forkserver")
    warnings.warn(
        "parallelkit forks although other threads are alive, because "
        f"{getattr(function, '__qualname__', function)!r} cannot be sent to a fresh interpreter: a lock "
        "that such a thread holds stays locked in the workers. pip install 'parallelkit[cloudpickle]', "
        "define the function at the top level of a module, or say start_method='fork' to take the risk.",
        RuntimeWarning,
        stacklevel=2,
    )
    return multiprocessing.get_context("fork")


def prepare(context: BaseContext, *, import_main: bool = True) -> None:
    """Start what multiprocessing starts once for a program, before the signals are blocked.

    import_main: whether a fork server may import `__main__`.

    What is started while they are would have them blocked, too; and the resource tracker unblocks them.
    """
    method = context.get_start_method()
    if method == "fork":
        return
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            "a process that was just started imports the program's main module, and that starts processes "
            'again: put its calls under `if __name__ == "__main__":`'
        )
    from multiprocessing import forkserver, resource_tracker

    if method == "forkserver":
        _preload(context, forkserver._forkserver, import_main=import_main)
        with interactive.without_lost_file():
            forkserver.ensure_running()
    resource_tracker.ensure_running()


def _server_is_alive() -> bool:
    from multiprocessing import forkserver

    server: Any = forkserver._forkserver
    return server._forkserver_pid is not None and resources.is_alive(server._forkserver_pid)


def _preload(context: BaseContext, server: Any, *, import_main: bool) -> None:
    """Have a fork server import the worker's code once and not in each worker."""
    if server._preload_modules == ["__main__"]:  # nobody asked for something else
        modules = ["parallelkit.engines.processes.worker", "parallelkit.logs"]
        context.set_forkserver_preload(["__main__", *modules] if import_main else modules)


class FirstOrders(str):
    """The name of a process that is to do something before it imports `__main__`.

    multiprocessing sends the name with the first thing that a fresh interpreter reads, and has it read the
    process itself, by which all else goes, behind `__main__`. So the orders are carried out where the name
    is unpickled. Nothing of this library can be imported there yet: `sys.path` comes with the same message.
    """

    _orders: str

    def __new__(cls, name: str, threads: ThreadLimits | None, *, import_main: bool) -> FirstOrders:
        """`import_main`: whether `__main__` is to be imported at all."""
        self = super().__new__(cls, name)
        # A Ctrl-C is the parent's business. The worker says so for itself as soon as it runs; until then one
        # that a fork server has made would print a traceback.
        orders = ["import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"]
        if threads is not None:
            orders.append(f"import os; os.environ.update({dict(threads.environment)!r})")
        if not import_main:
            orders.append("from multiprocessing import spawn")
            orders.append("spawn._fixup_main_from_name = spawn._fixup_main_from_path = lambda main: None")
        self._orders = "\n".join(orders)
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"exec({self._orders!r}, {{}}) or {str(self)!r}",)


def launch(
    context: BaseContext, target: Callable[..., None], args: tuple[Any, ...], name: str
) -> BaseProcess:
    """Start a process. OSError where the system has no room for one more."""
    maker: Callable[..., BaseProcess] = context.Process  # type: ignore[attr-defined]
    if context.get_start_method() != "fork":
        if context.get_start_method() == "forkserver" and not _server_is_alive():
            # It was killed, or has lost itself. With SIGCHLD blocked a new one would never tell of a death.
            with shielding.unshielded():
                prepare(context)
        process = maker(target=target, args=args, name=name, daemon=False)
        with interactive.without_lost_file():
            start(process)
        _launched.add(process)
        return process
    # Python 3.12 and later warn of a fork while threads are alive. Where a worker is replaced, those are
    # the service thread and who waits; a caller's own threads were taken into account in `choose`.
    kwargs = {"filters": list(warnings.filters)}
    process = maker(target=target, args=args, kwargs=kwargs, name=name, daemon=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        start(process)
        _launched.add(process)
    return process


def restore_filters(filters: list[Any]) -> None:
    """In a forked child: the warning filters that its parent had before `launch` changed them."""
    warnings.resetwarnings()
    warnings.filters[:] = filters  # type: ignore[index]


def pickled_settings(
    dumps: serialization.Dumps, initializer: Callable[..., object], initargs: tuple[Any, ...]
) -> Pickled | None:
    """Initializer and arguments for a fresh interpreter.

    None where they hold what multiprocessing sends only while it starts a process, such as its locks and
    queues. SerializationError where they cannot be sent at all.
    """
    try:
        buffers: list[pickle.PickleBuffer] = []
        data = dumps((initializer, initargs), buffers)
        return data, [bytearray(buffer.raw()) for buffer in buffers]
    except RuntimeError as error:
        if "inheritance" in str(error):  # `multiprocessing.context.assert_spawning`
            return None
        raise serialization.error("initializer", (initializer, initargs), error, attempt=dumps) from error
    except Exception as error:
        raise serialization.error("initializer", (initializer, initargs), error, attempt=dumps) from error
