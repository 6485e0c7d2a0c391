"""The programs that are started to be measured: `python -m faults.probes PROBE CONTESTANT METHOD ...`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from . import catalogue, inside, outside
from .contestants import named

_PROBES: dict[str, Callable[..., Any]] = {
    "figure": lambda contestant, method, name, repeat: inside.run(name, contestant, method, int(repeat)),
    "interrupt": outside.interrupted_program,
    "orphans": lambda contestant, method, path, busy: outside.orphaned_program(
        contestant, method, path, busy == "1"
    ),
    "idle": outside.idle_program,
    "fault": catalogue.strike,
}

if __name__ == "__main__":
    _PROBES[sys.argv[1]](named(sys.argv[2]), *sys.argv[3:])
