"""What faults cost: the figures of docs/faults.md, measured, with the rivals in the same run.

    make faults                                  # all, some minutes; writes docs/faults.md
    make faults ARGS="--repeat 5 --only death"   # one figure, quickly; prints, and writes nothing

The rooms, from the top; each imports only from those below it:

=========== =========================================================================================
__main__    what is measured, for whom, and the goals
page        the page that is written
catalogue   one catalogue of faults: what each contestant makes of them
outside     figures that are taken from outside: Ctrl-C, the parent's death, an idle pool
inside      figures that the pool's own program takes: deaths, timeouts, memory
probing     each contestant in a program of its own, bounded; nothing of it stays
contestants who is measured, as one small interface
tasks       what the workers are given
=========== =========================================================================================
"""
