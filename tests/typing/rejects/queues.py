"""What queues and pipes are to reject: each line with the comment."""

from parallelkit.connection import Connection, Pipe
from parallelkit.queues import JoinableQueue, Queue, SimpleQueue


class Request: ...


class Reply: ...


def of_queues() -> None:
    queue = Queue[int]()
    queue.put("text")  # error
    queue.put(1, timeout="soon")  # error
    text: str = queue.get()  # error
    Queue[int]("three")  # error
    wide: Queue[object] = queue  # error
    SimpleQueue[int]().put(None)  # error
    SimpleQueue[int](3)  # error
    JoinableQueue[int]().join("soon")  # error
    queue.task_done()  # error


def of_pipes() -> None:
    client, server = Pipe[Request, Reply]()
    client.send(Reply())  # error
    request: Request = client.recv()  # error
    server.send(3)  # error
    client.recv(timeout="soon")  # error
    client.send_bytes("text")  # error
    wide: Connection[object, Reply] = client  # error
    narrow: Connection[Reply, int] = Pipe[Reply, Request]()[0]  # error
