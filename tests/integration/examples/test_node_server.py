"""The env server in JavaScript: our client, our evaluator and raw stubs against it."""

from __future__ import annotations

import fcntl
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import grpc
import httpx
import PIL.Image
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from overworld import Act, ContractError, End, Fallback, Fleet, Outcome, Reason, Reset, Result, Session, server_info
from overworld.client.channel import ServerInfo
from overworld.errors import ServerError
from overworld.evaluation.conversation import Message, Recipe
from overworld.evaluation.evaluate import evaluate, tasks_of_split
from overworld.evaluation.model import Answer
from overworld.service.credentials import Credentials
from overworld.v1 import env_pb2 as pb
from overworld.v1 import env_pb2_grpc

from tests.support.certificates import Authority
from tests.support.optional import present
from tests.support.ports import free_port
from tests.support.shared_folder import shared_folder

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "sdk/overworld/scaffold/templates/node"
ENV = "maze/Escape"


class NodeServer:
    def __init__(self, *arguments: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [present(shutil.which("node")), "server.js", "--port", "0", *arguments],
            cwd=FOLDER,
            env={"PATH": "/usr/bin"} | environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        said = present(self.process.stdout).readline()
        self.address = present(re.search(r"listening on (\S+)", said))[1]

    def __enter__(self) -> NodeServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        present(self.process.stdout).close()


@pytest.fixture(scope="module", autouse=True)
def packages(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Installed, by `make test` or by the first test process that comes here."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed; scripts/packages installs them where it may")
    installed, wanted = FOLDER / "node_modules" / ".package-lock.json", FOLDER / "package-lock.json"
    with (shared_folder(tmp_path_factory) / "npm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not installed.exists() or installed.stat().st_mtime < wanted.stat().st_mtime:
            subprocess.run(["npm", "ci", "--silent"], cwd=FOLDER, check=True)


@pytest.fixture(scope="module")
def server(packages: None) -> Iterator[NodeServer]:
    with NodeServer("--allow-expert", "--slots", "32") as server:
        yield server


@pytest.fixture(scope="module")
def stub(server: NodeServer) -> Iterator[env_pb2_grpc.EnvServiceStub]:
    with grpc.insecure_channel(server.address) as channel:
        yield env_pb2_grpc.EnvServiceStub(channel)


def asked(**fields: Any) -> pb.OpenRequest:
    settings: dict[str, Any] = {"session": str(uuid.uuid4()), "env_id": ENV, "slots": 1}
    return pb.OpenRequest(**(settings | fields))


def opened(stub: env_pb2_grpc.EnvServiceStub, **fields: Any) -> pb.OpenRequest:
    request = asked(**fields)
    stub.Open(request)
    return request


def reset(turn: int = 0, episode: int = 0, **fields: Any) -> pb.Command:
    return pb.Command(slot=0, episode=episode, turn=turn, reset=pb.Reset(**fields))


def act(turn: int, text: str = "south", **fields: Any) -> pb.Command:
    return pb.Command(slot=0, turn=turn, action=pb.Action(text=text), **fields)


def refusal(call: Any, request: Any) -> str:
    """The reason of the ErrorInfo with which a call is refused."""
    with pytest.raises(grpc.RpcError) as raised:
        call(request)
    error: Any = raised.value  # grpc.RpcError has no types for what each one has
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])
    assert (status.code, status.message) == (error.code().value[0], error.details())
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "overworld.v1"
    return info.reason


def test_the_expert_reaches_the_exit_of_every_maze(server: NodeServer) -> None:
    with Session(server.address, ENV, 20, expert=True) as session:
        results = session.step([Reset(split="twenty", task=task) for task in range(20)])
        assert len({result.observation.images[0].pixels.tobytes() for result in results}) > 10
        assert results.frames().shape == (20, 108, 108, 3)
        last: dict[int, Result] = {}
        while moves := {result.slot: present(result.expert).action for result in results if result.end is None}:
            results = session.step(moves)
            last |= {result.slot: result for result in results}
        assert {(result.end, result.success, result.reward) for result in last.values()} == {(End.TASK, True, 1.0)}


class Walker:
    """A model that goes one of the ways that the text says are open."""

    name = "walker"
    temperature = 0.0
    max_tokens = 64
    url = "nowhere"

    def answer_all(self, prompts: Sequence[tuple[list[Message], int]]) -> list[Answer]:
        ways = [
            re.findall(r"\w+", present(re.search("Open: (.*)", messages[0]["content"][-1]["text"]))[1])
            for messages, _ in prompts
        ]
        chosen = [random.Random(seed).choice(open_) for open_, (_, seed) in zip(ways, prompts, strict=True)]
        return [Answer(f'{{"action": "{way}"}}', False, "no weights") for way in chosen]


def test_our_evaluator_plays_it(server: NodeServer) -> None:
    with Fleet([server.address], ENV, 8, options={"size": 5, "max_turns": 1000}) as fleet:
        tasks = tasks_of_split(fleet.spec.splits, "twenty")
        report, episodes = evaluate(Walker(), fleet, tasks, recipe=Recipe())
    assert report.episodes == 20
    assert report.invalid_replies == 0
    assert report.ends == {"TASK": 20}  # a walk at random finds the exit of a maze of four rooms in time
    assert report.success.value == 1.0
    assert len({len(episode.turns) for episode in episodes}) > 5


def test_it_can_be_played_in_the_terminal(server: NodeServer, tmp_path: Path) -> None:
    picture = tmp_path / "maze.gif"
    command = ["play", ENV, "--servers", server.address, "--agent", "expert", "--gif", str(picture), "options.size=5"]
    done = subprocess.run([sys.executable, "-m", "overworld", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "TASK, success" in done.stdout
    with PIL.Image.open(picture) as shown:
        assert shown.size == (60, 60)


def test_a_restarted_server_gets_its_episodes_back() -> None:
    with NodeServer() as first:
        session = Session(first.address, ENV, 2)
        session.reset([1, 2])
        walked = session.step([Act("south"), None])
        with NodeServer() as second:
            first.process.kill()
            session.move(second.address)
            there = session.step(["south", "north"])
            assert [result.turn for result in there] == [2, 2]
            assert walked[1].outcome is Outcome.NO_ACTION
            session.close()


def test_repeats_and_wrong_names(stub: env_pb2_grpc.EnvServiceStub) -> None:
    name = opened(stub).session

    def step(*commands: pb.Command) -> pb.StepResponse:
        return stub.Step(pb.StepRequest(session=name, commands=commands))

    def refused(*commands: pb.Command) -> str:
        return refusal(stub.Step, pb.StepRequest(session=name, commands=commands))

    assert refused(act(1)) == "NOT_RESET"
    assert refused(reset(1)) == "TURN_SKIPPED"
    assert refused(reset(task=0)) == "TASK_UNKNOWN"
    assert refused(reset(split="none")) == "SPLIT_UNKNOWN"
    assert refused(reset(split="twenty", task=20)) == "TASK_UNKNOWN"
    assert refused(pb.Command()) == "REQUEST_INVALID"
    assert refused(pb.Command(slot=1)) == "SLOT_UNKNOWN"
    assert refused(reset(), reset()) == "SLOT_REPEATED"
    first = step(reset(seed=2**64 - 1))
    again = step(reset(seed=2**64 - 1))
    assert (again.results, again.frames) == (first.results, first.frames)
    assert first.results[0].reward == 0
    assert first.results[0].outcome == pb.OUTCOME_UNSPECIFIED
    assert not first.results[0].HasField("success")
    assert refused(reset(seed=1)) == "CONFLICT"
    assert refused(act(2)) == "TURN_SKIPPED"
    assert refused(act(1, "x" * 5000)) == "ACTION_TOO_LARGE"
    assert refused(pb.Command(slot=0, turn=1, action=pb.Action(tensor=pb.Tensor()))) == "REQUEST_INVALID"
    moved = step(act(1, f"  {first.results[0].observation.admissible[0].upper()} "))
    assert moved.results[0].outcome == pb.OUTCOME_EXECUTED
    assert moved.results[0].executed.text == first.results[0].observation.admissible[0]
    assert refused(reset()) == "STALE"
    assert refused(reset(2, prefix=[pb.Action(text="south")] * 2)) == "REQUEST_INVALID"
    walled = next(
        way for way in ("north", "east", "south", "west") if way not in moved.results[0].observation.admissible
    )
    skipped = step(act(2, walled))
    assert skipped.results[0].outcome == pb.OUTCOME_NOT_ADMISSIBLE
    assert not skipped.results[0].HasField("executed")
    assert skipped.frames == moved.frames
    replayed = step(reset(2, episode=2**63, seed=2**64 - 1, prefix=[moved.results[0].executed, pb.Action()]))
    assert replayed.frames == skipped.frames
    assert replayed.results[0].outcome == pb.OUTCOME_NO_ACTION


def test_prefixes_ends_and_limits(stub: env_pb2_grpc.EnvServiceStub) -> None:
    name = opened(stub, options_json='{"max_turns": 2}', fallback=pb.FALLBACK_RANDOM).session

    def step(*commands: pb.Command) -> pb.SlotResult:
        [result] = stub.Step(pb.StepRequest(session=name, commands=commands)).results
        return result

    step(reset())
    assert step(act(1, "nowhere")).HasField("executed")
    last = step(act(2, "nowhere"))
    assert (last.end, last.success, last.truncated, last.terminated) == (pb.END_TIME_LIMIT, False, True, False)
    assert refusal(stub.Step, pb.StepRequest(session=name, commands=[act(3)])) == "EPISODE_ENDED"
    assert step(reset(2, episode=1, prefix=[pb.Action()] * 2)) == pb.SlotResult(
        **{
            field.name: value
            for field, value in last.ListFields()
            if field.name not in ("episode", "micros", "outcome")
        },
        episode=1,
        micros=step(reset(2, episode=1, prefix=[pb.Action()] * 2)).micros,
        outcome=pb.OUTCOME_NO_ACTION,
    )
    assert refusal(stub.Step, pb.StepRequest(session=name, commands=[reset(3, 2, prefix=[pb.Action()] * 3)])) == (
        "REQUEST_INVALID"
    )


def test_sessions(stub: env_pb2_grpc.EnvServiceStub, server: NodeServer) -> None:
    free = server_info(server.address).slots_free
    request = opened(stub, slots=2)
    assert stub.Open(request).spec.id == ENV
    assert server_info(server.address).slots_free == free - 2
    changed = pb.OpenRequest()
    changed.CopyFrom(request)
    changed.slots = 3
    assert refusal(stub.Open, changed) == "SESSION_CONFLICT"
    changed.CopyFrom(request)
    changed.transports[:] = [pb.TRANSPORT_SHARED_MEMORY, pb.TRANSPORT_INLINE]
    assert stub.Open(changed).transport == pb.TRANSPORT_INLINE
    changed.transports[:] = [pb.TRANSPORT_SHARED_MEMORY]
    assert refusal(stub.Open, changed) == "FEATURE_MISSING"
    stub.Close(pb.CloseRequest(session=request.session))
    stub.Close(pb.CloseRequest(session=request.session))
    assert refusal(stub.Step, pb.StepRequest(session=request.session)) == "SESSION_UNKNOWN"
    brief = asked()
    brief.lease.FromMilliseconds(200)
    assert stub.Open(brief).lease.ToMilliseconds() == 200
    for _ in range(4):
        time.sleep(0.1)
        stub.Step(pb.StepRequest(session=brief.session))
    time.sleep(0.4)
    assert refusal(stub.Step, pb.StepRequest(session=brief.session)) == "SESSION_UNKNOWN"
    assert server_info(server.address).slots_free == free


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"session": "mine"}, "REQUEST_INVALID"),
        ({"slots": 0}, "REQUEST_INVALID"),
        ({"slots": 33}, "NO_FREE_SLOTS"),
        ({"env_id": "maze/Nope"}, "ENV_UNKNOWN"),
        ({"fallback_reward": float("nan")}, "REQUEST_INVALID"),
        ({"options_json": "[]"}, "OPTIONS_INVALID"),
        ({"options_json": '{"size": 6}'}, "OPTIONS_INVALID"),
        ({"options_json": '{"sise": 7}'}, "OPTIONS_INVALID"),
        ({"options_json": '{"toString": 7}'}, "OPTIONS_INVALID"),
        ({"options_json": "{"}, "OPTIONS_INVALID"),
        ({"required_features": ["min_ready"]}, "FEATURE_MISSING"),
        ({"transports": [pb.TRANSPORT_SHARED_MEMORY]}, "FEATURE_MISSING"),
    ],
)
def test_what_cannot_be_opened(stub: env_pb2_grpc.EnvServiceStub, fields: dict[str, Any], reason: str) -> None:
    assert refusal(stub.Open, asked(**fields)) == reason


def test_tokens_and_experts() -> None:
    with NodeServer(OVERWORLD_TOKEN="secret") as guarded:
        for token, reason in (("", Reason.TOKEN_MISSING), ("guess", Reason.TOKEN_WRONG)):
            with pytest.raises(ContractError) as raised:
                server_info(guarded.address, token)
            assert raised.value.reason is reason
        with pytest.raises(ContractError) as raised:
            Session(guarded.address, ENV, 1, token="secret", expert=True)
        assert raised.value.reason is Reason.EXPERT_NOT_ALLOWED
        with grpc.insecure_channel(guarded.address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)  # its types name no methods
            for service in ("", "overworld.v1.EnvService"):
                answer = health.Check(health_pb2.HealthCheckRequest(service=service))
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            questions = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            reflection: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
            [listed] = reflection.ServerReflectionInfo(questions)
            assert "overworld.v1.EnvService" in [one.name for one in listed.list_services_response.service]


def test_tls_and_a_token_for_each_client(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "ours"), Authority(tmp_path / "theirs")
    authority.issue(tmp_path / "server", "127.0.0.1", mutual=True)
    authority.issue(tmp_path / "trainer", "trainer", mutual=True)
    other.issue(tmp_path / "stranger", "trainer")
    (tmp_path / "stranger" / "ca.crt").write_bytes(authority.certificate)
    (tmp_path / "tokens").write_text("trainer: one\ntrainer: two\nevaluator: three\n")
    environment = {"OVERWORLD_TLS": str(tmp_path / "server"), "OVERWORLD_TOKENS": str(tmp_path / "tokens")}

    with NodeServer(**environment) as secured:

        def ask(folder: str, token: str) -> ServerInfo:
            credentials = Credentials.load(token=token, tokens=None, tls=tmp_path / folder, plaintext=False)
            return server_info(secured.address, credentials=credentials, retry_budget=0.3)

        for token in ("one", "two", "three"):
            assert list(ask("trainer", token).envs) == [ENV]
        for token in ("", "trainer: one", "four"):
            with pytest.raises(ContractError):
                ask("trainer", token)
        with pytest.raises(ServerError):
            ask("stranger", "one")


def test_a_probe_that_does_not_speak_grpc_is_told_of_its_health() -> None:
    port = free_port()
    with NodeServer("--health-port", str(port)) as probed:
        session = Session(probed.address, ENV, 1)
        assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 200
        probed.process.send_signal(signal.SIGTERM)
        while (status := httpx.get(f"http://127.0.0.1:{port}/").status_code) == 200:
            time.sleep(0.01)
        assert status == 503
        session.close()


def test_a_server_that_is_told_to_stop_lets_sessions_finish() -> None:
    with NodeServer() as server:
        session = Session(server.address, ENV, 1, fallback=Fallback.RANDOM)
        session.reset([0])
        server.process.send_signal(signal.SIGTERM)
        with grpc.insecure_channel(server.address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)  # its types name no methods
            while health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING:
                time.sleep(0.01)
            assert refusal(env_pb2_grpc.EnvServiceStub(channel).Open, asked()) == "DRAINING"
        session.step([None])
        assert session.draining
        session.close()
        assert server.process.wait(60) == 0


@pytest.mark.skipif(
    "check" not in entry_points(group="overworld.commands").names, reason="no `overworld check` is installed here"
)
def test_it_conforms() -> None:
    """`overworld check` finds no rule of the contract broken, with a token and up to the server's end."""
    with NodeServer("--allow-expert", OVERWORLD_TOKEN="secret") as server:
        command = [sys.executable, "-m", "overworld", "check", server.address, "--terminate", str(server.process.pid)]
        done = subprocess.run(command, env=os.environ | {"OVERWORLD_TOKEN": "secret"}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert server.process.wait(60) == 0
