"""What is here is run by tests/test_conformance.py, in processes of its own."""

from __future__ import annotations

# Importing `cases` puts this library's classes into CPython's test module: not in pytest's own process.
collect_ignore_glob = ["*.py"]
