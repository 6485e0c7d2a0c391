"""Who is told how far a call has come."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from .shielding import unshielded


@runtime_checkable
class Reporter(Protocol):
    """Anything that can be told of progress: a bar of tqdm's, or an object of one's own.

    >>> class Counter:
    ...     done = 0
    ...     def update(self, n):
    ...         self.done += n
    ...     def close(self):
    ...         print(self.done, "done")
    >>> isinstance(Counter(), Reporter)
    True
    """

    def update(self, n: int, /) -> object:
        """`n` more items are done, however they ended."""

    def close(self) -> object:
        """No more will come."""


@runtime_checkable
class RichProgress(Protocol):
    """What is used of a `rich.progress.Progress`."""

    @property
    def live(self) -> Any:
        """What draws it, and knows whether that has begun."""

    def start(self) -> object:
        """Begin to draw."""

    def stop(self) -> object:
        """Draw for the last time."""

    def add_task(self, description: str, *, total: float | None, **fields: Any) -> Any:
        """Add a bar, and return its id."""

    def update(self, task_id: Any, **changes: Any) -> object:
        """Change a bar."""

    def stop_task(self, task_id: Any) -> object:
        """Stop the clock of a bar."""


#: What the option `progress` may be.
Progress: TypeAlias = bool | Literal["rich"] | Reporter | RichProgress


class RichReporter:
    """One call as a bar in a `rich.progress.Progress`.

    The number of failed items is in the description, and in the task's field `failed` for columns of one's
    own. A display that nobody has started is started with the first news, and stopped at the end.
    """

    #: A display without a thread of its own is drawn at most so often, in seconds.
    _PAUSE = 0.1

    def __init__(self, display: RichProgress, total: int | None) -> None:
        self._display = display
        self._total = total
        self._done = 0
        self._task = display.add_task("items", total=total, failed=0)
        self._started = False
        self._drawn_at = 0.0

    def update(self, n: int, /) -> None:
        """`n` more items are done."""
        # Not before: its thread would keep the first workers from being forked.
        self._start()
        self._done += n
        now = time.monotonic()
        refresh = not self._display.live.auto_refresh and now - self._drawn_at >= self._PAUSE
        if refresh:
            self._drawn_at = now
        self._display.update(self._task, advance=n, refresh=refresh)

    def set_postfix(self, *, failed: int, refresh: bool) -> None:
        """So many items have failed."""
        self._display.update(
            self._task, description=f"items, {failed} failed", failed=failed, refresh=refresh
        )

    def close(self) -> None:
        """No more will come."""
        if self._total is None:
            self._display.update(self._task, total=self._done)  # now it is known
        self._display.stop_task(self._task)
        if self._started:
            self._display.stop()

    def _start(self) -> None:
        if not self._started and not self._display.live.is_started:
            self._display.start()
            self._started = True


class Guarded:
    """A reporter whose errors wait: a call does not lose its results to its progress bar.

    The first exception that the object raises is kept in `error`, for the caller to raise when the
    results are safe; the object is told nothing after it but `close`. KeyboardInterrupt passes, in the
    main thread.

    >>> class Broken:
    ...     def update(self, n):
    ...         raise OSError("no such terminal")
    ...     def close(self):
    ...         pass
    >>> reporter = Guarded(Broken())
    >>> reporter.update(1)
    >>> reporter.error
    OSError('no such terminal')
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._closed = False
        #: What `update` or `close` of the object raised first.
        self.error: BaseException | None = None

    def update(self, n: int, /) -> None:
        """`n` more items are done."""
        if self.error is None:
            self._call(self._reporter.update, n)

    def failed(self, n: int, /) -> None:
        """`n` items in all have failed so far; shown by whatever has tqdm's `set_postfix`."""
        show = getattr(self._reporter, "set_postfix", None)
        if self.error is None and callable(show):
            self._call(lambda: show(failed=n, refresh=False))

    def close(self) -> None:
        """No more will come. Closing twice is closing once."""
        if not self._closed:
            self._closed = True
            self._call(self._reporter.close)

    def _call(self, function: Any, *args: Any) -> None:
        try:
            with unshielded():
                function(*args)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread():
                raise  # the user's Ctrl-C
            if self.error is None:
                self.error = error


def make_reporter(progress: Progress, total: int | None) -> Guarded | None:
    """The reporter for one call over `total` items (None: not known); None where nobody wants one.

    True and "rich" are a bar on standard error, or in the notebook, and nothing where standard error is no
    terminal; ImportError where tqdm, or rich, is not installed.

    >>> print(make_reporter(False, 3))
    None
    """
    if progress is False:
        return None
    if progress is True:
        bar = _bar(total)
        return None if bar is None or bar.disable else Guarded(bar)
    if isinstance(progress, str):
        display = _rich_display()
        return None if display is None else Guarded(RichReporter(display, total))
    return Guarded(progress if isinstance(progress, Reporter) else RichReporter(progress, total))


def check_progress(progress: object) -> None:
    """TypeError for what is no `Progress`.

    >>> check_progress("rich")
    >>> check_progress("on")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    TypeError: progress must be True, False, "rich", a rich.progress.Progress or an object with ...
    """
    # Not compared with what is no text: a bar of tqdm's can be compared with its kind only.
    if isinstance(progress, (bool, RichProgress)) or (isinstance(progress, str) and progress == "rich"):
        return
    for name in ("update", "close"):
        if not callable(getattr(progress, name, None)):
            raise TypeError(
                'progress must be True, False, "rich", a rich.progress.Progress or an object with update(n) '
                f"and close(); {progress!r} has no {name}()"
            )


def _missing(value: str, package: str, extra: str) -> ImportError:
    return ImportError(
        f"progress={value} needs {package}: pip install 'parallelkit[{extra}]', or give an object with "
        "update(n) and close()"
    )


def _has_stderr() -> bool:
    return sys.stderr is not None and not sys.stderr.closed


def _rich_display() -> RichProgress | None:
    try:
        from rich import console, progress
    except ImportError as error:
        raise _missing('"rich"', "rich", "rich") from error
    if not _has_stderr():
        return None
    where = console.Console(stderr=True)
    if not (where.is_terminal or where.is_jupyter):
        return None
    # Drawn when there is news: a thread that draws would keep the workers from being forked.
    display: RichProgress = progress.Progress(
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.description}"),
        console=where,
        auto_refresh=False,
    )
    return display


#: Of all bars, as they share the terminal and tqdm's list of them.
_bars_lock = threading.RLock()


def _renew_lock() -> None:
    global _bars_lock
    _bars_lock = threading.RLock()  # a thread that is not in this process may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def _bar(total: int | None) -> Any:
    try:
        base = _bar_class()
    except ImportError as error:
        raise _missing("True", "tqdm", "progress") from error
    if not _has_stderr():
        return None
    # A class of our own, so that the program's settings of tqdm stay as they are. tqdm's usual lock is
    # one between processes, and a worker that is killed while it holds that would stop the bar for ever;
    # its monitor is a thread, and forking beside threads is not safe. Without the monitor, tqdm has to
    # look at the clock at each update (miniters=1).
    bar_class: Any = type("Bar", (base,), {"monitor_interval": 0})
    bar_class.set_lock(_bars_lock)
    # A notebook's standard error is no terminal, and yet there is somebody who looks.
    shown = True if _in_notebook() else None
    return bar_class(total=total, disable=None if shown is None else False, leave=shown, miniters=1)


def _bar_class() -> Any:
    from tqdm.std import tqdm

    if _in_notebook():
        from tqdm import notebook

        if getattr(notebook, "IProgress", None) is not None:  # needs ipywidgets
            return notebook.tqdm_notebook
    return tqdm


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in shell.config
