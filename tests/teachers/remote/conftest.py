"""A real HTTP server in a thread that answers as OpenAI-compatible ones do, and can be told to fail; clients of it."""

import json
import threading
import time
from collections import deque
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from retort.records import Group, Passage, Query
from retort.teachers.remote.client import Client
from retort.teachers.remote.server import Server


class TinyServer(ThreadingHTTPServer):
    """Answers until told to fail: `failures` are used up first, and after `lives` answers it is dead."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.complete = lambda body: {"text": body["prompt"]}
        self.judge = lambda body: "[1]"
        self.failures, self.seen, self.lives = deque(), [], None
        self.lock, self.busy, self.busiest = threading.Lock(), 0, 0
        self.pause_seconds = 0.0
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1"
        self.thread = threading.Thread(target=self.serve_forever, args=(0.005,))
        self.thread.start()

    def stop(self):
        self.shutdown()
        self.thread.join()
        self.server_close()

    def handle_error(self, request, client_address):
        pass  # a client that no longer waits


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            server.busy += 1
            server.busiest = max(server.busiest, server.busy)
            server.seen.append((self.path, dict(self.headers), body))
            failure = server.failures.popleft() if server.failures else None
        time.sleep(server.pause_seconds)
        with server.lock:
            server.busy -= 1
            if server.lives is not None:
                server.lives -= 1
            dead = server.lives is not None and server.lives < 0
        if dead or failure == "close":
            self.close_connection = True
        elif failure == "slow":
            time.sleep(0.25)
            self.close_connection = True
        elif failure == "trickle":
            self.answer(200, '{"choices": [{"text": "late"}]}', pause_seconds=0.06)
        elif isinstance(failure, str):
            self.answer(200, failure)
        elif failure:
            self.answer(*failure)
        else:
            choice = server.complete(body) if self.path == "/v1/completions" else server.judge(body)
            if isinstance(choice, str):
                choice = {"message": {"role": "assistant", "content": choice}}
            self.answer(200, json.dumps({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}))

    def answer(self, status, text, headers=(), pause_seconds=0.0):
        with suppress(ConnectionError):
            self.send_response(status)
            for name, value in [*headers, ("Content-Length", len(text.encode()))]:
                self.send_header(name, value)
            self.end_headers()
            for part in text if pause_seconds else [text]:
                self.wfile.write(part.encode())
                time.sleep(pause_seconds)

    def log_message(self, *args):
        pass


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self):
        self.now, self.naps = 0.0, []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.naps.append(seconds)
        self.now += seconds


@pytest.fixture
def server():
    made = TinyServer()
    yield made
    made.stop()


@pytest.fixture
def another():
    """A second server, as after a restart at another address."""
    made = TinyServer()
    yield made
    made.stop()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def connect(clock):
    """A client of a server, whose waits take no time."""

    def connected(server, *, cache=None, ledger=None, **settings):
        where = Server(**{"base_url": server.url, "model": "tiny", "timeout_seconds": 5.0, "in_flight": 4, **settings})
        return Client(where, cache=cache, ledger=ledger, sleep=clock.sleep, clock=clock)

    return connected


@pytest.fixture
def groups():
    return [
        Group(
            Query("q1", "what falls here?", ("snow", "rain")),
            (Passage("a", "Winter", "the snow fell"), Passage("b", "", "where he was"), Passage("c", "Hot", "no snow")),
        ),
        Group(Query("q2", "who was it?", ("he",)), (Passage("b", "", "where he was"),)),
        Group(Query("q3", "nothing?", ("x",)), ()),
    ]
