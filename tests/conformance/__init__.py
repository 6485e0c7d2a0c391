"""CPython's own tests of multiprocessing, run against this library's classes.

The tests come from `test._test_multiprocessing` of the interpreter that runs; none of their code is here.
`substitution` puts this library's classes where that module looks for multiprocessing's, `cases` holds the
test classes that come of it, `runner` runs some of them in a process of its own, `harness` starts
the runners and collects what they report, and `expected.toml` lists what does not pass, with the reason.
"""
