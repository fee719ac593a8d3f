"""Clients that leave before they have their reply."""

import json
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.policy.conftest import Served, serve
from tests.integration.policy.test_api import metric


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the server says."""
    return tmp_path_factory.mktemp("narrow") / "log"


@pytest.fixture(scope="module")
def narrow(runs: Path, log: Path) -> Iterator[Served]:
    """A server that 100 requests that keep their places would close to everybody, and that keeps one model."""
    served = serve(runs, "max_waiting=50", "max_loaded=1", log=log)
    yield served
    served.stop()


def send_chat(served: Served, *, stream: bool, model: str = "whole@0") -> socket.socket:
    """A connection on which a long chat was asked for."""
    messages = [{"role": "user", "content": "Say something."}]
    chat = {"model": model, "messages": messages, "temperature": 1, "max_tokens": 1024, "stream": stream}
    body = json.dumps(chat).encode()
    host, port = served.url.removeprefix("http://").removesuffix("/v1").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def cut(connection: socket.socket) -> None:
    """Hangs up as a killed process does, or as a network does that is gone: with a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def all_places_are_free(served: Served) -> None:
    deadline = time.monotonic() + 60
    for name in ("overworld_chats_in_flight", "overworld_models_used"):
        while (taken := metric(served, name)) > 0:
            assert time.monotonic() < deadline, f"{name} is still {taken:g}"
            time.sleep(0.05)


def test_a_hundred_streams_cut_in_every_phase_leave_nothing_behind(narrow: Served, log: Path) -> None:
    delays = [0, 0.001, 0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.05]
    models = ["whole@0", "whole@3", "adapted@1", "adapted@2"]
    for number in range(100):
        connection = send_chat(narrow, stream=True, model=models[number % 4])
        if number % 10 == 9:
            connection.recv(400)  # in mid-stream
        time.sleep(delays[number // 10])
        cut(connection)
    all_places_are_free(narrow)
    for model in models:  # each has to make room for the next: none is held by those who left
        narrow.chat(model=model)
    all_places_are_free(narrow)
    assert metric(narrow, "overworld_models_loaded") == 1
    assert '"level": "error"' not in log.read_text(), "a client that leaves is no error of the server"


def test_plain_requests_that_are_cut_leave_nothing_behind(narrow: Served) -> None:
    for number in range(60):
        connection = send_chat(narrow, stream=False)
        time.sleep(number / 60 * 0.03)
        cut(connection)
    all_places_are_free(narrow)
    narrow.chat()
