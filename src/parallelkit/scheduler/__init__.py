"""What is to happen next: a state machine without I/O, clock, threads or operating system.

Two rules hold in this room:

1. **Events go in, commands come out.** `Scheduler.handle(event, now)` takes one of the events of
   `messages` and the time; `Scheduler.commands()` hands over what has to be done. Nothing is done
   here, so a test needs no process and no sleep: it makes up the events and the clock.
2. **Items are numbers.** The scheduler knows that there are items 0 to n, never what they are. Values
   and exceptions pass through it unread, but for the question whether an exception is to be retried.

The way of one item::

    drawn ──> fresh ──> in a chunk on a worker ──> outcome known ──> parked (if order was
                ▲              │      │                  ▲           asked for) ──> delivered
                └── returned ◄─┘      └── retried ───────┘
                 (not started)            (started, and the caller asked for retries)

Modules: `messages` (events, commands and the plain values in them), `timers` (points in time that
something waits for), `jobs` (one call: its items, its chunk sizes, its order), `workers` (what one
worker holds), `machine` (the state machine itself: who works on what, and what a death means).
"""

from .machine import Scheduler
from .messages import (
    LOADING,
    Broken,
    Cancel,
    Chunk,
    Command,
    Consumed,
    Death,
    Deliver,
    Draw,
    Event,
    Finish,
    Hasten,
    InputFailed,
    ItemsReady,
    JobFailed,
    JobSpec,
    Kill,
    Measure,
    Measured,
    Observe,
    Observed,
    Peek,
    Place,
    Results,
    Revoke,
    Revoked,
    RunChunk,
    Sent,
    StartFailed,
    StartWorker,
    StoppedShort,
    StopWorker,
    Tick,
    Unreadable,
    WorkerDied,
    WorkerReady,
)

__all__ = [
    "LOADING",
    "Broken",
    "Cancel",
    "Chunk",
    "Command",
    "Consumed",
    "Death",
    "Deliver",
    "Draw",
    "Event",
    "Finish",
    "Hasten",
    "InputFailed",
    "ItemsReady",
    "JobFailed",
    "JobSpec",
    "Kill",
    "Measure",
    "Measured",
    "Observe",
    "Observed",
    "Peek",
    "Place",
    "Results",
    "Revoke",
    "Revoked",
    "RunChunk",
    "Scheduler",
    "Sent",
    "StartFailed",
    "StartWorker",
    "StopWorker",
    "StoppedShort",
    "Tick",
    "Unreadable",
    "WorkerDied",
    "WorkerReady",
]
