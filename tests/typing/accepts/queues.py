"""What queues and pipes are to accept, and the types that come out."""

from typing import Any, assert_type

from parallelkit.connection import Connection, Pipe, wait
from parallelkit.queues import JoinableQueue, Queue, SimpleQueue


class Request: ...


class Reply: ...


def of_queues() -> None:
    queue = Queue[int](maxsize=3)
    queue.put(1, timeout=0.5)
    queue.put(True, False)
    assert_type(queue.get(), int)
    assert_type(queue.get_nowait(), int)
    assert_type([item for item in queue], list[int])
    optional: Queue[str | None] = Queue()
    optional.put(None)
    assert_type(optional.get(timeout=1), str | None)
    assert_type(Queue().get(), Any)
    joinable: JoinableQueue[list[int]] = JoinableQueue(2)
    joinable.put([1])
    assert_type(joinable.join(timeout=2.0), bool)
    as_queue: Queue[list[int]] = joinable
    assert_type(as_queue.get(), list[int])
    with SimpleQueue[bytes]() as simple:
        assert_type(simple.get(timeout=None), bytes)


def of_pipes() -> None:
    client, server = Pipe[Request, Reply]()
    assert_type(client, Connection[Request, Reply])
    assert_type(server, Connection[Reply, Request])
    client.send(Request())
    assert_type(server.recv(timeout=1.5), Request)
    server.send(Reply())
    assert_type(client.recv(), Reply)
    one, other = Pipe[int | None]()
    one.send(None)
    assert_type(other.recv(), int | None)
    reader, writer = Pipe(duplex=False)
    assert_type(reader, Connection[Any, Any])
    writer.send("anything")
    assert_type(Pipe[int, str](False)[0].recv(), str)
    with client:
        assert_type(client.recv_bytes(10, timeout=1), bytes)
    narrow: Connection[bool, object] = Pipe[int, str]()[0]
    narrow.send(True)
    assert_type(wait([client, 3], timeout=1), list[Any])
