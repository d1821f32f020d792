"""What stands before TorchServe, before a small server of our own on a Unix socket."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from segdeploy.serve.front import Front, Limits, Link

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HEAD = b"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"


class Behind:
    """Answers every request of four bytes when it is let to; keeps what it was sent."""

    def __init__(self, path):
        self.path, self.received, self.let = path, [], threading.Event()
        self.let.set()
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        self._listening.listen(512)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._answer, args=(self._listening.accept()[0],), daemon=True).start()

    def _answer(self, connection):
        taken = b""
        with contextlib.suppress(OSError), connection:
            while chunk := connection.recv(1 << 16):
                taken += chunk
                if len(taken.partition(b"\r\n\r\n")[2]) >= 4:
                    self.received.append(taken)
                    taken = b""
                    self.let.wait(20)
                    connection.sendall(ANSWER)


@pytest.fixture
def fronted(tmp_path):
    """Starts a front with limits before such a server; gives the front, the server behind it, and how to connect."""
    with contextlib.ExitStack() as stack:

        def begin(**limits):
            behind = Behind(tmp_path / "s")
            listening = socket.socket()
            listening.bind(("127.0.0.1", 0))
            address = listening.getsockname()
            front = Front(listening, behind.path, Limits(**limits))
            stack.callback(front.close)
            front.start()

            def connect():
                return stack.enter_context(socket.create_connection(address, timeout=10))

            return front, behind, connect

        yield begin


def ask(connection):
    connection.sendall(HEAD + b"body")
    return connection.recv(1000)


def closed(connection, within_s):
    """Whether the other side ends a connection that says nothing more, in time."""
    connection.settimeout(within_s)
    try:
        return connection.recv(1000) == b""
    except ConnectionError:
        return True
    except TimeoutError:
        return False


def test_bytes_pass_as_they_are_request_after_request(fronted):
    """Both ways, also in many small pieces, and on one connection."""
    _, behind, connect = fronted()
    connection = connect()
    assert ask(connection) == ANSWER
    for byte in HEAD + b"abcd":
        connection.sendall(bytes([byte]))
    assert connection.recv(1000) == ANSWER
    assert behind.received == [HEAD + b"body", HEAD + b"abcd"]


def test_connections_that_say_nothing_keep_nobody_out(fronted):
    """Many more than are kept at once: the next one is answered all the same."""
    _, _, connect = fronted(most=20)
    connect()
    for _ in range(200):
        connect()
    assert ask(connect()) == ANSWER


def test_who_waits_for_an_answer_is_not_sent_away_for_another(fronted):
    """With as many in flight as are kept, the next is told to come again; those are answered."""
    _, behind, connect = fronted(most=3)
    behind.let.clear()
    waiting = [connect() for _ in range(3)]
    for one in waiting:
        one.sendall(HEAD + b"body")
    until(lambda: len(behind.received) == 3)
    refused = connect().recv(1000)
    assert refused.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nRetry-After: 1\r\n" in refused
    assert len(refused.partition(b"\r\n\r\n")[2]) == 37
    behind.let.set()
    assert [one.recv(1000) for one in waiting] == [ANSWER] * 3


def test_bodies_do_not_fill_the_memory(fronted):
    """Parts of requests by many clients, together more than may be: who goes beyond is cut off, and others are answered."""
    front, behind, connect = fronted(most_bytes=1000)
    behind.let.clear()
    many = [connect() for _ in range(3)]
    for one in many:
        one.sendall(HEAD.replace(b": 4", b": 9999") + b"x" * 300)
        time.sleep(0.05)
    assert closed(many[2], 5)
    assert not closed(many[1], 0.2)
    for one in many:
        one.close()
    until(lambda: not front._links)
    behind.let.set()
    assert ask(connect()) == ANSWER
    assert ask(connect()) == ANSWER


def test_what_only_looks_like_a_request_keeps_nobody_out_for_long(fronted):
    """A last chunk inside of a chunk: who sends it is taken to wait for an answer, but not for ever."""
    _, _, connect = fronted(most=3, patience_s=0.3)
    for _ in range(3):
        connect().sendall(b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n0\r\n\r\n")
    time.sleep(0.5)
    assert ask(connect()) == ANSWER


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\r\n\r\n", b"GET /x HTTP/1.1\r\nX: ", HEAD + b"bod"])
def test_a_request_that_does_not_come_is_not_waited_for(fronted, sent):
    """Nothing, what is skipped, half a head, and half a body: closed after its time, however it trickles in."""
    _, _, connect = fronted(idle_s=0.5, request_s=0.5)
    connection = connect()
    connection.sendall(sent)
    if sent.startswith(b"GET"):
        with contextlib.suppress(OSError):
            for _ in range(40):
                time.sleep(0.1)
                connection.sendall(b"a")
        assert closed(connection, 0.1)
    else:
        assert closed(connection, 5)


def test_an_answer_is_waited_for_however_long_it_takes(fronted):
    """The limits are those of a request's coming in, not of the model."""
    _, behind, connect = fronted(idle_s=0.3, request_s=0.3)
    behind.let.clear()
    connection = connect()
    connection.sendall(HEAD + b"body")
    assert not closed(connection, 1.5)
    behind.let.set()
    connection.settimeout(5)
    assert connection.recv(1000) == ANSWER


def test_what_is_in_flight_is_finished_and_nothing_new_is_taken(fronted):
    """After stop_taking: no connection, idle ones are closed, and the one that waits gets its answer."""
    front, behind, connect = fronted()
    idle, waiting = connect(), connect()
    assert ask(idle) == ANSWER
    behind.let.clear()
    waiting.sendall(HEAD + b"body")
    until(lambda: len(behind.received) == 2)
    front.stop_taking()
    with pytest.raises(ConnectionError):
        connect()
    assert not front.finish(0.3)
    assert closed(idle, 5)
    behind.let.set()
    assert front.finish(5)
    assert waiting.recv(1000) == ANSWER


def test_a_client_that_does_not_take_its_answer_is_closed():
    """An answer of which nothing is read is in flight, but only for so long."""
    link = Link()
    link.asked(HEAD + b"body")
    link.answered(ANSWER)
    link.unsent = lambda: 1
    link.since -= 1
    assert link.busy
    assert link.overdue(Limits(idle_s=0.5))


def test_where_a_request_ends_is_told_from_its_bytes():
    """By its length, by its last chunk, or by its head where it has no body; also where chunks are cut anywhere."""
    chunked = b"POST /x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
    lenient = b"POST /x HTTP/1.1\nHost: x\ncontent-length : 4\r\n\r\nbody"
    for whole in (HEAD + b"body", lenient, b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n", chunked):
        link = Link()
        for byte in whole:
            assert not link.waiting
            link.asked(bytes([byte]))
            assert link.waiting or link.coming
        assert link.waiting
        for byte in b"HTTP/1.1 100 Continue\r\n\r\n" + ANSWER[:-1]:
            link.answered(bytes([byte]))
            assert link.waiting
        link.answered(ANSWER[-1:])
        assert not link.waiting
        assert not link.coming


def test_a_query_comes_to_the_handler(fronted):
    """In the header that it reads, after what that says already; in one piece or byte by byte, and nothing else is changed."""
    _, behind, connect = fronted()
    asked = HEAD.replace(b"/x", b"/predictions/tiny?as=json&classes=a%2Cb\xe9")
    given = asked.replace(b"Host", b"x-segdeploy-options: size=network \r\nHost")
    connection = connect()
    for byte in asked + b"body":
        connection.sendall(bytes([byte]))
    assert connection.recv(1000) == ANSWER
    for one in (given, asked.replace(b"predictions", b"else"), asked.replace(b"as=json&classes=a%2Cb\xe9", b"")):
        connection.sendall(one + b"body")
        assert connection.recv(1000) == ANSWER
    query = b"as=json&classes=a%2Cb%E9"
    first_line = asked.partition(b"\r\n")[0] + b"\r\n"
    with_header = asked.replace(first_line, first_line + b"X-Segdeploy-Options: " + query + b"\r\n")
    assert behind.received[0] == with_header + b"body"
    assert behind.received[1] == given.replace(b"=network ", b"=network&" + query) + b"body"
    assert behind.received[2] == asked.replace(b"predictions", b"else") + b"body"
    assert b"options" not in behind.received[3].lower()


def test_one_request_of_a_connection_is_passed_on_at_a_time(fronted):
    """Of several that come at once: TorchServe may answer them in any order. On drain all of them are answered."""
    front, behind, connect = fronted()
    behind.let.clear()
    connection = connect()
    bodies = [b"one.", b"two.", b"tre."]
    connection.sendall(b"".join(HEAD + body for body in bodies[:2]))
    until(lambda: behind.received == [HEAD + b"one."])
    connection.sendall(HEAD + bodies[2])
    assert not front.finish(0.3)
    assert len(behind.received) == 1
    behind.let.set()
    assert front.finish(5)
    assert behind.received == [HEAD + body for body in bodies]
    connection.settimeout(5)
    assert b"".join(iter(lambda: connection.recv(1000), b"")) == 3 * ANSWER


def until(true):
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
