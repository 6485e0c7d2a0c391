"""`python -m parallelkit`: what this machine offers."""

from __future__ import annotations

import importlib.metadata
import multiprocessing
import os
import platform
import sys

from . import __version__, available_cpus


def main() -> None:
    """Print CPUs, start methods and versions."""
    default = multiprocessing.get_all_start_methods()[0]
    rows = [
        ("parallelkit", __version__),
        ("Python", f"{platform.python_version()} ({sys.executable})"),
        ("system", platform.platform()),
        ("CPUs", f"{available_cpus()} of {os.cpu_count()}"),
        ("start methods", ", ".join(multiprocessing.get_all_start_methods())),
        ("default", multiprocessing.get_start_method(allow_none=True) or default),
    ]
    for name in ("tblib", "psutil", "typing-extensions", "tqdm", "rich", "cloudpickle"):
        try:
            rows.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            rows.append((name, "not installed"))
    for name, value in rows:
        print(f"{name:18} {value}")


if __name__ == "__main__":
    main()
