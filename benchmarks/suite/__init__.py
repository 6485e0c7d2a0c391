"""The benchmark suite: the same work for everybody, in turn, and what it took.

The rooms, from the top; each imports only from those below it:

=========== =========================================================================================
replay      recorded rounds, handed to pytest-benchmark
race        the rounds of one workload, in turn; each contestant in a program of its own
host        that program
groups      the workloads, a module a group
workloads   what a workload is, and how a round is timed
contestants who is measured
peers, ours what they look like, each in the idiom of its own documentation
tasks       what the workers are given
machine     which machine this is
=========== =========================================================================================

Apart from these, as it needs nothing but the JSON: `results`, `goals`, `tables`, `charts`, of which
`report.py` beside this folder makes docs/benchmarks.md.
"""
