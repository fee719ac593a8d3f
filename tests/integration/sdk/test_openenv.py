"""The OpenEnv endpoint: what OpenEnv's own client sent and was answered, hostile input, and the host's guarantees."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import io
import json
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from overworld import Session, server_info
from overworld.host.config import ServerConfig
from overworld.host.openenv import player
from overworld.host.process import ServerProcess
from overworld.host.server import Server
from overworld.service import bounds
from overworld.service.credentials import Credentials
from overworld.service.tls import TlsFolder
from PIL import Image
from websockets.exceptions import ConnectionClosed, InvalidMessage, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.integration.sdk.test_tls import eventually
from tests.support.certificates import Authority
from tests.support.ports import free_port
from tests.support.toy_env import TOY

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".venv-openenv" / "bin" / "python"
PLAYER = ROOT / "tests" / "support" / "openenv_player.py"
IMPATIENT = ROOT / "tests" / "support" / "openenv_impatient.py"
RECORDED = Path(__file__).with_name("openenv_client.jsonl")
"""What `openenv_player.py` recorded of PLAN with the package openenv 0.10.0."""
PLAN = [
    ({"seed": 7}, [{"text": "up"}, {"text": "fly"}, {"index": 0}, {"text": "up", "reply": "I go up."}]),
    (
        {"seed": 7, "split": "four", "task": 2, "episode_id": "mine", "options": {"size": 4, "second_image": True}},
        [{"text": "down"}, {"tensor": [1]}, {"index": 99}, {"text": "raise"}],
    ),
    ({"seed": 8, "options": {"max_turns": 2}}, [{"text": "up"}, {}]),
]


@contextlib.contextmanager
def serving(*arguments: str, env: str = TOY, slots: int = 2, token: str = "") -> Iterator[tuple[ServerProcess, int]]:
    port = free_port()
    settings = ("--workers", "1", "--slots", str(slots), "--openenv-port", str(port), *arguments)
    with ServerProcess(env, arguments=settings, token=token) as server:
        yield server, port


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[ServerProcess, int]]:
    with serving("--step-timeout", "2") as server:
        yield server


def open_socket(port: int, path: str = "/ws", **arguments: Any) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{port}{path}", max_size=1 << 26, **arguments)


def ask(socket: ClientConnection, kind: str, data: Any = None) -> dict[str, Any]:
    """The answer to a message."""
    socket.send(json.dumps({"type": kind} | ({} if data is None else {"data": data})))
    return answer(socket)


def answer(socket: ClientConnection) -> dict[str, Any]:
    received: dict[str, Any] = json.loads(socket.recv(timeout=20))
    return received


def code(received: dict[str, Any]) -> str:
    assert received["type"] == "error", received
    return f"{received['data']['code']} {received['data'].get('reason', '')}".strip()


def pixels(block: dict[str, Any]) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(block["data"]))))


def get(port: int, path: str, body: bytes | None = None, token: str = "") -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def comparable(message: str) -> Any:
    """A message without what differs from time to time: drawn names, and how a PNG is compressed."""
    read = json.loads(message)
    data = read.get("data") or {}
    for block in data.get("observation", {}).get("content", []):
        if block["type"] == "image":
            image = pixels(block)
            assert xxhash.xxh64_hexdigest(image.tobytes()) == block["xxh64"]
            block["data"] = hashlib.sha256(image.tobytes()).hexdigest()
    if read["type"] == "state" and data.get("episode_id") not in (None, "mine"):
        data["episode_id"] = "drawn"
    return read


def test_openenvs_client_is_answered_as_it_was_when_it_was_recorded(served: tuple[ServerProcess, int]) -> None:
    lines = [json.loads(line) for line in RECORDED.read_text().splitlines()]
    kinds = [json.loads(line["sent"])["type"] for line in lines if "sent" in line]
    assert kinds.count("reset") == 3
    assert kinds[-1] == "close"
    with open_socket(served[1]) as socket:
        for line in lines:
            if "sent" in line:
                socket.send(line["sent"])
            else:
                assert comparable(str(socket.recv(timeout=20))) == comparable(line["received"])
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=20)


@pytest.mark.peer
@pytest.mark.skipif(not PYTHON.exists(), reason="OpenEnv is not installed; make test-openenv installs it")
def test_openenvs_own_client_plays_here(served: tuple[ServerProcess, int], tmp_path: Path) -> None:
    """And still sends what was recorded; and OpenEnv's own validator finds nothing."""
    record = tmp_path / "record"
    url = f"http://127.0.0.1:{served[1]}"
    command = [str(PYTHON), str(PLAYER), url, str(record)]
    played = subprocess.run(command, input=json.dumps(PLAN), capture_output=True, text=True, timeout=120)
    assert played.returncode == 0, played.stderr
    first, second, third = map(json.loads, played.stdout.splitlines())
    assert [turn[1:3] for turn in first] == [[None, False], [1.0, False], [0.0, False], [1.0, False], [1.0, True]]
    assert first[2][3]["outcome"] == "NOT_ADMISSIBLE"
    assert first[4][3] | {"end": "TASK", "success": True} == first[4][3]
    with Session(served[0].address, "toy/Count", 1) as session:
        results = [session.reset([7])[0], *(session.step([action])[0] for action in ("up", "fly", 0, "up"))]
        for turn, result in zip(first, results, strict=True):
            frames = b"".join(image.pixels.tobytes() for image in result.observation.images)
            assert turn[0] == hashlib.sha256(frames).hexdigest()
    assert "this env takes no tensors" in second[2][1]
    assert "code: EXECUTION_ERROR" in second[4][1]
    assert third[2][3]["end"] == "TIME_LIMIT"
    now, then = ([json.loads(line) for line in file.read_text().splitlines()] for file in (record, RECORDED))
    assert [line["sent"] for line in now if "sent" in line] == [line["sent"] for line in then if "sent" in line]
    validated = subprocess.run(
        [str(PYTHON.with_name("openenv")), "validate", "--url", url], capture_output=True, text=True, timeout=120
    )
    assert "Verdict: PASS" in validated.stdout, validated.stdout + validated.stderr


@pytest.mark.peer
@pytest.mark.skipif(not PYTHON.exists(), reason="OpenEnv is not installed; make test-openenv installs it")
def test_openenvs_own_client_loses_its_episode_when_an_answer_is_late(served: tuple[ServerProcess, int]) -> None:
    """It drops its connection then, and the episode with it; `Session` asks again, and loses nothing."""
    command = [str(PYTHON), str(IMPATIENT), f"http://127.0.0.1:{served[1]}"]
    played = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert played.returncode == 0, played.stderr
    assert "no episode" in played.stdout


@pytest.mark.parametrize(
    ("sent", "wanted"),
    [
        ("", "INVALID_JSON"),
        ("{", "INVALID_JSON"),
        ("[" * 100_000, "INVALID_JSON"),
        ('{"type": "reset", "data": {"seed": NaN}}', "INVALID_JSON"),
        ('{"type": "step", "data": {"text": "\\ud800"}}', "INVALID_JSON"),
        (b'{"type": "state"}', "INVALID_JSON"),
        ("[]", "UNKNOWN_TYPE"),
        ('{"type": "fork"}', "UNKNOWN_TYPE"),
        ('{"type": ["reset"]}', "UNKNOWN_TYPE"),
        ('{"type": "reset", "seed": 1}', "VALIDATION_ERROR"),
        ('{"type": "reset", "data": {"difficulty": 1}}', "VALIDATION_ERROR"),
        ('{"type": "reset", "data": {"seed": -1}}', "VALIDATION_ERROR"),
        ('{"type": "reset", "data": {"seed": true}}', "VALIDATION_ERROR"),
        ('{"type": "reset", "data": {"seed": 1.5}}', "VALIDATION_ERROR"),
        (f'{{"type": "reset", "data": {{"seed": {"9" * 4000}}}}}', "VALIDATION_ERROR"),
        ('{"type": "reset", "data": {"task": 18446744073709551616}}', "VALIDATION_ERROR"),
        ('{"type": "reset", "data": {"split": "nowhere"}}', "EXECUTION_ERROR SPLIT_UNKNOWN"),
        ('{"type": "reset", "data": {"split": "four", "task": 4}}', "EXECUTION_ERROR TASK_UNKNOWN"),
        ('{"type": "step"}', "VALIDATION_ERROR"),
        ('{"type": "step", "data": {"text": 1}}', "VALIDATION_ERROR"),
        ('{"type": "step", "data": {"text": "up", "index": 0}}', "VALIDATION_ERROR"),
        ('{"type": "step", "data": {"index": 4294967296}}', "VALIDATION_ERROR"),
        ('{"type": "step", "data": {"tensor": ["a", [2]]}}', "EXECUTION_ERROR REQUEST_INVALID"),
        (f'{{"type": "step", "data": {{"text": "{"u" * 5000}"}}}}', "EXECUTION_ERROR ACTION_TOO_LARGE"),
    ],
)
def test_what_cannot_be_understood_is_refused_and_changes_nothing(
    served: tuple[ServerProcess, int], sent: str | bytes, wanted: str
) -> None:
    with open_socket(served[1]) as socket:
        assert ask(socket, "reset", {"seed": 1})["type"] == "observation"
        assert ask(socket, "step", {"text": "up"})["data"]["reward"] == 1.0
        before = ask(socket, "state")
        socket.send(sent)
        assert code(answer(socket)) == wanted
        assert ask(socket, "state") == before
        assert ask(socket, "step", {"text": "up"})["data"]["metadata"]["metrics"] == {"count": 2.0}


def test_a_message_that_is_too_large_ends_its_connection(served: tuple[ServerProcess, int]) -> None:
    with open_socket(served[1]) as socket, open_socket(served[1]) as other:
        with pytest.raises(ConnectionClosed):  # while it is sent, or when the answer is awaited
            socket.send("x" * (bounds.OPENENV_MESSAGE + 1))
            socket.recv(timeout=20)
        assert ask(other, "state")["type"] == "state"


def test_a_step_without_an_episode_is_refused(served: tuple[ServerProcess, int]) -> None:
    """As after a connection that was cut: OpenEnv's client reconnects silently."""
    with open_socket(served[1]) as socket:
        refused = ask(socket, "step", {"text": "up"})
        assert code(refused) == "EXECUTION_ERROR NOT_RESET"
        assert ask(socket, "state")["data"] == {
            "episode_id": None, "step_count": 0, "env": "toy/Count", "seed": None, "split": None, "task": None,
            "options": None,
        }  # fmt: skip


def test_a_drawn_seed_is_told_and_gives_the_same_episode(served: tuple[ServerProcess, int]) -> None:
    with open_socket(served[1]) as socket:
        drawn = ask(socket, "reset", {})["data"]
        again = ask(socket, "reset", {"seed": drawn["metadata"]["seed"]})["data"]
        assert drawn == again
        assert ask(socket, "reset", {})["data"]["metadata"]["seed"] != drawn["metadata"]["seed"]


@pytest.mark.parametrize(
    ("action", "reason"), [("crash", "WORKER_DIED"), ("hang", "STEP_TIMEOUT"), ("raise", "ENV_ERROR")]
)
def test_an_env_that_fails_is_told_and_the_others_play_on(
    served: tuple[ServerProcess, int], action: str, reason: str
) -> None:
    with open_socket(served[1]) as guilty, open_socket(served[1]) as other:
        for socket in (guilty, other):
            ask(socket, "reset", {"seed": 1})
            ask(socket, "step", {"text": "up"})
        assert code(ask(guilty, "step", {"text": action})) == f"EXECUTION_ERROR {reason}"
        assert code(ask(guilty, "step", {"text": "up"})) == "EXECUTION_ERROR NOT_RESET"
        assert ask(other, "step", {"text": "up"})["data"]["metadata"]["metrics"] == {"count": 2.0}
        assert ask(guilty, "reset", {"seed": 1})["data"]["metadata"]["turn"] == 0


def test_slots_are_those_of_all_clients_and_come_back_with_the_connection(served: tuple[ServerProcess, int]) -> None:
    server, port = served
    with open_socket(port) as one, open_socket(port) as two, Session(server.address, "toy/Count", 1):
        assert ask(one, "reset", {})["type"] == "observation"
        full = ask(two, "reset", {})
        assert code(full) == "CAPACITY_REACHED NO_FREE_SLOTS"
        assert "1 slots were asked for, 0 of 2 are free" in full["data"]["message"]
        one.close_socket()  # no closing handshake
        eventually(lambda: server_info(server.address).slots_free == 1)
        assert ask(two, "reset", {})["type"] == "observation"
        assert ask(two, "reset", {"options": {"size": 8}})["type"] == "observation"  # its own slot, not another one
    eventually(lambda: server_info(server.address).slots_free == 2)


def test_connections_are_bounded(served: tuple[ServerProcess, int]) -> None:
    with contextlib.ExitStack() as open_ones:
        for _ in range(2 + 64):
            open_ones.enter_context(open_socket(served[1]))
        with open_socket(served[1]) as last:
            assert code(answer(last)) == "CAPACITY_REACHED"


def test_http(served: tuple[ServerProcess, int]) -> None:
    server, port = served
    assert get(port, "/health") == (200, {"status": "healthy"})
    status, told = get(port, "/metadata")
    assert (status, told["name"], told["description"]) == (
        200, "toy/Count", "Count to three.\nSuccess: the count is three",
    )  # fmt: skip
    assert get(port, "/toy/Count/metadata") == (status, told)
    _, schema = get(port, "/schema")
    assert schema["action"]["properties"]["text"]["examples"][:2] == ["up", "down"]
    assert "tensor" not in schema["action"]["properties"]
    assert set(schema) == {"action", "observation", "state"}
    status, first = get(port, "/reset", b'{"seed": 3}')
    assert (status, first["metadata"]["seed"], first["done"]) == (200, 3, False)
    assert server_info(server.address).slots_free == 2
    assert get(port, "/reset", b'{"seed": -3}')[0] == 422
    assert get(port, "/reset", b" " * (bounds.OPENENV_MESSAGE + 1))[0] == 400
    status, refused = get(port, "/step", b'{"action": {"text": "up"}}')
    assert (status, "/ws" in refused["detail"]) == (409, True)
    status, refused = get(port, "/toy/Nothing/metadata")
    assert status == 404
    assert "['toy/Count']" in refused["detail"]
    with pytest.raises(InvalidStatus) as denied:
        open_socket(port, "/toy/Nothing/ws")
    assert denied.value.response.status_code == 404


def test_a_server_of_several_envs_wants_one_in_the_url() -> None:
    with serving(env="gym_cards") as (_, port):
        status, refused = get(port, "/metadata")
        assert status == 404
        assert "put the id of one into the URL" in refused["detail"]
        with open_socket(port, "/gym_cards/EZPoints/ws") as socket:
            seen = ask(socket, "reset", {"seed": 1})["data"]["observation"]["content"]
        assert [block["type"] for block in seen] == ["image", "text"]


def test_a_token_is_asked_for_by_all_but_health_checks() -> None:
    with serving(token="s3cret") as (_, port):
        assert get(port, "/health")[0] == 200
        assert get(port, "/metadata")[0] == 401
        assert get(port, "/metadata", token="wrong")[0] == 401
        assert get(port, "/metadata", token="s3cret")[0] == 200
        with pytest.raises(InvalidStatus) as denied:
            open_socket(port)
        assert denied.value.response.status_code == 401
        with open_socket(port, additional_headers={"Authorization": "Bearer s3cret"}) as socket:
            assert ask(socket, "reset", {})["type"] == "observation"


def test_quotas_hold_here_too(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("a: one\nb: two\n")
    with serving("--tokens", str(tokens), "--quota.slots", "1", slots=4) as (server, port):
        one, two = ({"Authorization": f"Bearer {token}"} for token in ("one", "two"))
        with (
            Session(server.address, "toy/Count", 1, token="one"),
            open_socket(port, additional_headers=one) as full,
            open_socket(port, additional_headers=two) as free,
        ):
            assert code(ask(full, "reset", {})) == "CAPACITY_REACHED QUOTA_EXCEEDED"
            assert ask(free, "reset", {})["type"] == "observation"


def test_an_episode_lasts_as_long_as_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model may think for longer than a lease lasts."""
    monkeypatch.setattr(player, "_LEASE_SECONDS", 0.6)
    config = ServerConfig(envs=[TOY], port=0, workers=1, slots=1, openenv_port=free_port())

    def think() -> None:
        with open_socket(config.openenv_port) as socket:
            ask(socket, "reset", {"seed": 1})
            time.sleep(1.5)
            assert ask(socket, "step", {"text": "up"})["data"]["reward"] == 1.0

    async def serve() -> None:
        server = Server(config)
        await server.start()
        try:
            await asyncio.to_thread(think)
        finally:
            await server.stop(0)

    asyncio.run(serve())


def test_sigterm_lets_episodes_finish_and_then_hangs_up() -> None:
    with serving("--grace", "200") as (server, port), open_socket(port) as playing, open_socket(port) as late:
        ask(playing, "reset", {"seed": 1})
        server.process.send_signal(signal.SIGTERM)
        eventually(lambda: get(port, "/health") == (503, {"status": "unhealthy"}))
        assert ask(playing, "step", {"text": "up"})["data"]["reward"] == 1.0
        assert code(ask(late, "reset", {})) == "CAPACITY_REACHED DRAINING"
        playing.close()
        assert server.process.wait(60) == 0
        with pytest.raises(ConnectionClosed):
            late.recv(timeout=10)


def test_tls_as_the_servers_own(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    folder = authority.issue(tmp_path / "server", "127.0.0.1", mutual=True)
    client = authority.issue(tmp_path / "client", "somebody", mutual=True)
    with serving("--tls", str(folder)) as (server, port):
        trusted = TlsFolder(client, server=False)
        url = f"wss://127.0.0.1:{port}/ws"
        with connect(url, ssl=trusted.client_context()) as socket:
            assert ask(socket, "reset", {})["type"] == "observation"
            credentials = Credentials.load(token="", tokens=None, tls=client, plaintext=False)
            assert server_info(server.address, credentials=credentials).slots_free == 1
        stranger = TlsFolder(authority.trust(tmp_path / "stranger"), server=False)
        with (
            pytest.raises((OSError, InvalidMessage, ConnectionClosed)),
            connect(url, ssl=stranger.client_context()) as socket,
        ):
            ask(socket, "state")
