"""Who is told how far a call has come."""

from __future__ import annotations

import sys
import threading
from typing import Any, Protocol, runtime_checkable

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


def make_reporter(progress: bool | Reporter, total: int | None) -> Guarded | None:
    """The reporter for one call over `total` items (None: not known); None where nobody wants one.

    True is a bar on standard error, or in the notebook, and nothing where standard error is no
    terminal; ImportError where tqdm is not installed.

    >>> print(make_reporter(False, 3))
    None
    """
    if progress is False:
        return None
    if progress is not True:
        return Guarded(progress)
    bar = _bar(total)
    return None if bar is None or bar.disable else Guarded(bar)


def _bar(total: int | None) -> Any:
    try:
        base = _bar_class()
    except ImportError as error:
        raise ImportError(
            "progress=True needs tqdm: pip install 'parallelkit[progress]', or give an object with "
            "update(n) and close()"
        ) from error
    if sys.stderr is None or sys.stderr.closed:
        return None
    # A class of our own, so that the program's settings of tqdm stay as they are. tqdm's usual lock is
    # one between processes, and a worker that is killed while it holds that would stop the bar for ever;
    # its monitor is a thread, and forking beside threads is not safe. Without the monitor, tqdm has to
    # look at the clock at each update (miniters=1).
    bar_class: Any = type("Bar", (base,), {"monitor_interval": 0})
    bar_class.set_lock(threading.RLock())
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
