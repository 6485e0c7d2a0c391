"""Which machine this is: what decides whether two runs may be compared, and no name of it."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import parallelkit

from .contestants import WORKERS

_DISTRIBUTIONS = ("parallelkit", "joblib", "loky", "mpire", "pebble", "numpy", "pandas")


def describe() -> dict[str, Any]:
    """What the page says of the machine."""
    return {
        "cpu": _cpu(),
        "cpus": parallelkit.available_cpus(),
        "workers": WORKERS,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "architecture": platform.machine(),
        "system": platform.system(),
        "kernel": platform.release(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": {name: _version(name) for name in _DISTRIBUTIONS},
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"
