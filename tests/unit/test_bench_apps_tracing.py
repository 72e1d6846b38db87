# SPDX-License-Identifier: BSD-3-Clause
"""The load that bench.apps_tracing puts on a server: all is sent and answered, and a bad answer is none."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench.apps_tracing import CONNECTIONS, DEPTH, SERVERS, Load, http_answer, redis_answer


@contextmanager
def redis(answer: bytes | None = None) -> Iterator[tuple[int, list[bytes]]]:
    """Its port, and the commands it got."""
    seen: list[bytes] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while line := self.rfile.readline():
                words = []
                for _ in range(int(line[1:])):
                    size = int(self.rfile.readline()[1:])
                    words.append(self.rfile.read(size + 2)[:-2])
                seen.append(words[0])
                right = b"+OK\r\n" if words[0] == b"SET" else b"$5\r\nvalue\r\n"
                self.wfile.write(right if answer is None else answer)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield int(server.server_address[1]), seen
        finally:
            server.shutdown()
            thread.join()


def test_every_request_is_sent_and_answered() -> None:
    with redis() as (port, seen):
        load = Load(SERVERS["redis"], port)
        assert len(seen) == CONNECTIONS  # each has answered once
        assert load.run(3 * CONNECTIONS * DEPTH) > 0
        load.close()
        sent = seen[CONNECTIONS:]
        assert len(sent) == 3 * CONNECTIONS * DEPTH
        assert sent.count(b"SET") == sent.count(b"GET")


def test_an_error_ends_it() -> None:
    with redis(b"-ERR no\r\n") as (port, _), pytest.raises(ValueError, match="ERR no"):
        Load(SERVERS["redis"], port)


@pytest.mark.parametrize(
    ("answer", "data"),
    [
        (redis_answer, b"+OK\r\n"),
        (redis_answer, b"$5\r\nvalue\r\n"),
        (redis_answer, b"$0\r\n\r\n"),
        (http_answer, b"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length: 4\r\n\r\npage"),
    ],
)
def test_answers_are_taken_whole(answer: object, data: bytes) -> None:
    assert callable(answer)
    assert [answer(data[:n]) for n in range(len(data))] == [0] * len(data)
    assert answer(data) == answer(data + b"+more") == len(data)


def test_a_key_that_is_not_there_is_no_answer() -> None:
    with pytest.raises(ValueError, match=r"\$-1"):
        redis_answer(b"$-1\r\n")
    with pytest.raises(ValueError, match="404"):
        http_answer(b"HTTP/1.1 404 Not Found\r\n\r\n")
