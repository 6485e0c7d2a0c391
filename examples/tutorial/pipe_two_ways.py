"""A pipe with two ends that both send and receive.

There is no `if __name__ == "__main__":` here, as there is none in the tutorial. That is right with fork,
where a process does not import this file again, and with fork alone.
"""

from __future__ import annotations

from parallelkit import Connection, Pipe, Process


class Consumer(Process[None]):
    """Sends first."""

    def __init__(self, pipe: Connection[str, str]) -> None:
        Process.__init__(self)
        self.pipe = pipe

    def run(self) -> None:
        """Send, then receive."""
        self.pipe.send("Consumer Words")
        print("Consumer Received:", self.pipe.recv())


class Producer(Process[None]):
    """Receives first."""

    def __init__(self, pipe: Connection[str, str]) -> None:
        Process.__init__(self)
        self.pipe = pipe

    def run(self) -> None:
        """Receive, then send."""
        print("Producer Received:", self.pipe.recv())
        self.pipe.send("Producer Words")


pipe = Pipe[str, str]()
p = Producer(pipe[0])
c = Consumer(pipe[1])
p.daemon = c.daemon = True
p.start()
c.start()
p.join()
c.join()
print("Ended!")
