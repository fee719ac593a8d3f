"""HTTPS and keys by name, both exchanged while the server runs, and what the owner of a key may take."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from overworld.evaluation.openai_client import OpenAIModel

from tests.integration.policy.conftest import Served, serve, start_and_fail
from tests.support.certificates import Authority


@dataclass
class Keyed:
    """A server with HTTPS and a file of keys."""

    served: Served
    authority: Authority
    folder: Path
    keys: Path
    context: ssl.SSLContext

    @property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.served.url, verify=self.context, timeout=60)

    def status(self, key: str) -> int:
        """Of a request with this key, over a connection of its own."""
        with self.http as http:
            return http.get("/models", headers={"Authorization": f"Bearer {key}"}).status_code

    def serial(self) -> str:
        """That of the certificate in use."""
        host, _, port = self.served.url.removeprefix("https://").removesuffix("/v1").partition(":")
        with (
            socket.create_connection((host, int(port))) as connection,
            self.context.wrap_socket(connection, server_hostname=host) as tls,
        ):
            return str((tls.getpeercert() or {})["serialNumber"])


@pytest.fixture(scope="module")
def keyed(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    base = tmp_path_factory.mktemp("keys")
    authority = Authority(base / "authority")
    folder, keys = authority.issue(base / "server", "127.0.0.1", mutual=True), base / "keys"
    keys.write_text("ada: a-key\nbob: b-key\n")
    served = serve(runs, f"tls={folder}", f"api_keys={keys}", "max_waiting_per_client=1")
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    yield Keyed(served, authority, folder, keys, context)
    served.stop()


def test_keys_and_certificates_are_exchanged_without_a_failed_request(keyed: Keyed) -> None:
    assert keyed.served.url.startswith("https://")
    failures: list[object] = []
    key, stop = ["a-key"], threading.Event()

    def ask() -> None:
        while not stop.is_set():
            try:
                if (status := keyed.status(key[0])) != 200:
                    failures.append(status)
            except httpx.HTTPError as error:
                failures.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    first = keyed.serial()
    keyed.keys.write_text("ada: a-key\nada: new-key\nbob: b-key\n")
    key[0] = "new-key"
    keyed.authority.issue(keyed.folder, "127.0.0.1")
    until(lambda: keyed.serial() != first)
    second = keyed.serial()
    keyed.keys.write_text("ada: new-key\nbob: b-key\n")
    (keyed.folder / "tls.key").write_text("not a key")
    time.sleep(1.5)  # the server looks every second
    stop.set()
    asking.join()
    assert failures == []
    assert keyed.serial() == second
    assert [keyed.status(one) for one in ("a-key", "x", "b-key")] == [401, 401, 200]


def until(check: Any) -> None:
    deadline = time.monotonic() + 60
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_the_owner_of_a_key_has_no_more_requests_in_flight_than_he_may(keyed: Keyed) -> None:
    body = {"model": "whole@0", "messages": [{"role": "user", "content": "x"}], "max_tokens": 200, "temperature": 1}

    def ask(key: str) -> httpx.Response:
        with keyed.http as http:
            return http.post("/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"})

    answers: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: answers.append(ask("b-key"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses[0] == 200
    assert statuses[-1] == 429
    error = next(answer.json()["error"] for answer in answers if answer.status_code == 429)
    assert error["code"] == "quota_exceeded"
    assert error["message"] == "bob has 1 of at most 1 replies in flight; try again when one is answered"
    assert ask("b-key").status_code == 200  # given back
    with keyed.http as http:
        page = http.get(keyed.served.url.removesuffix("/v1") + "/metrics").text
    assert 'overworld_client_requests_total{client="bob",status="429"}' in page
    names = {line.partition('client="')[2].partition('"')[0] for line in page.splitlines() if 'client="' in line}
    assert names <= {"", "ada", "bob"}


def test_an_evaluator_trusts_what_the_environment_says(keyed: Keyed, monkeypatch: pytest.MonkeyPatch) -> None:
    keyed.keys.write_text("ada: new-key\nbob: b-key\n")
    monkeypatch.setenv("SSL_CERT_FILE", str(keyed.folder / "ca.crt"))
    with OpenAIModel(keyed.served.url, "whole@3", api_key="b-key") as model:
        assert model.options("gym_cards/NumberLine") == {"size": 56}


def test_listening_beyond_loopback_needs_tls_or_a_word() -> None:
    assert "listening on 0.0.0.0 without TLS" in start_and_fail("host=0.0.0.0", OVERWORLD_API_KEY="key")
    assert "client_certificates needs the ca.crt" in start_and_fail("client_certificates=true")
