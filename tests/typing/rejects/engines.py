"""What is no engine."""

from __future__ import annotations

import parallelkit


class Sketch:
    name = "sketch"
    most_workers = None


with parallelkit.using(Sketch()):  # error
    parallelkit.pool_map(abs, [1], engine=Sketch())  # error
with parallelkit.using(None):  # error
    parallelkit.available_cpus(1)  # error
