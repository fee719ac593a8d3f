"""What reads bytes that somebody else wrote, each part with samples of what it takes and the errors that it may raise.

`test_parsers` gives each of them mutated samples; `make fuzz` lets coverage guide the mutations.
"""

from __future__ import annotations

import base64
import functools
import io
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import pydantic_core
from google.protobuf.message import DecodeError
from overworld import ActionSpec, Image, Observation, Runner
from overworld.authoring.env import EnvSpec
from overworld.authoring.runner import Result
from overworld.client.results import read_response, read_results
from overworld.contract.compression import compress
from overworld.contract.frames import FrameFile, join_response, map_for_reading
from overworld.contract.wire import (
    action_from_proto,
    action_to_proto,
    result_to_proto,
    spec_from_proto,
    spec_to_proto,
)
from overworld.errors import ContractError, EvaluationError, SettingsError
from overworld.evaluation.conversation import Recipe, png, read_as, write_reply
from overworld.evaluation.episodes import Episode, Header, ImageRecord, ObservationRecord, Turn, env_record, problem
from overworld.evaluation.folder import EPISODES, FRAMES, HEADER, EpisodeFolder
from overworld.host.openenv.messages import MESSAGES
from overworld.redis_registry import _read
from overworld.service.tokens import read_tokens
from overworld.v1 import env_pb2 as pb
from pydantic import ValidationError

from tests.support.toy_env import Commands, Reach, Toy, ToyOptions

_GREY = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)


@dataclass(frozen=True)
class Parser:
    """`parse` takes each of `samples`, and of all other bytes what it likes; otherwise it raises one of `refusals`."""

    parse: Callable[[bytes], object]
    samples: Sequence[bytes]
    refusals: tuple[type[Exception], ...] = ()


def answers() -> Parser:
    """The answer to a Step, once its checksum fits; the first byte says whether blocks may be compressed."""
    commands = [pb.Command(slot=slot, turn=3) for slot in range(2)]
    image = Image("view", _GREY, 7)
    response = pb.StepResponse()
    for slot in range(2):
        observation = Observation((image, "count 1"), ("up",), {"count": np.array([1, 2])})
        result = Result(slot=slot, episode=0, turn=3, observation=observation, executed="up", metrics={"count": 1.0})
        message = result_to_proto(result)
        message.observation.images[0].index = slot
        response.results.append(message)
    response.blocks.add(stride=48, count=2, height=4, width=4, channels=3)
    plain = join_response(response, [_GREY, _GREY])
    packed = compress([memoryview(_GREY.tobytes())] * 2)
    response.blocks[0].compressed_size = len(packed)

    def parse(data: bytes) -> None:
        answer, frames = read_response(data[1:], commands, frozenset(["up"]), checked=False)
        results = read_results(answer, frames, None, compressed=data[:1] == b"1", copy=False)
        for result in results:
            for shown in result.observation.images:
                shown.pixels.sum()  # a view of memory that is not there would end the process

    samples = [b"0" + plain, b"1" + join_response(response, [packed])]
    return Parser(parse, samples, (ValueError, LookupError, DecodeError))


def shared_memory() -> Parser:
    """The token of a session's shared memory, which names any file of the client's machine."""
    file = FrameFile(2, 100)

    def parse(data: bytes) -> None:
        memory = map_for_reading(pb.SharedMemory.FromString(data))
        if memory is not None:
            memory.close()

    unmapped = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # a regular file that cannot be mapped
    paths = ((file.path, file.size), ("/dev/zero", 0), (str(unmapped), 4096))
    samples = [pb.SharedMemory(path=path, size=size, nonce=file.nonce).SerializeToString() for path, size in paths]
    return Parser(parse, samples, (DecodeError,))


def specs() -> Parser:
    """An env's description by its server."""
    return Parser(
        lambda data: spec_from_proto(pb.EnvSpec.FromString(data)),
        [spec_to_proto(spec).SerializeToString() for spec in (Toy.spec, Commands.spec, Reach.spec)],
        (ValueError, DecodeError),
    )


def actions() -> Parser:
    """Actions and prefixes of a request, as far as an env's worker sees them."""
    runners = [Runner(Toy(ToyOptions(size=4))), Runner(Commands()), Runner(Reach())]
    for runner in runners:
        runner.reset(0)
    prefix = [action_to_proto(action) for action in ("up", 1, None, np.ones(2, np.float32))]
    request = pb.StepRequest(session="s", commands=[pb.Command(turn=4, reset=pb.Reset(seed=1, prefix=prefix))])
    for action in prefix:
        request.commands.add(action=action)

    def parse(data: bytes) -> None:
        for command in pb.StepRequest.FromString(data).commands:
            for message in (*command.reset.prefix, command.action):
                action = action_from_proto(message)
                for runner in runners:
                    assert runner._last is not None
                    runner.env.resolve(action, runner._last.observation) if action is not None else None

    return Parser(parse, [request.SerializeToString()], (ValueError, DecodeError))


def registry_entries() -> Parser:
    """What Redis holds under a server's key."""
    entry = {"address": "gym-cards-0.envs:50051", "envs": ["gym_cards/NumberLine"], "name": "gym-cards"}
    return Parser(_read, [json.dumps(entry).encode(), b'{"address": "[::1]:1", "envs": []}'])


def token_files() -> Parser:
    """The file of tokens by name."""
    path = _folder() / "tokens"
    return Parser(
        lambda data: path.write_bytes(data) and read_tokens(path),
        [b"# names\ntrainer: secret\ntrainer: next\n\neval-1: other\n"],
        (SettingsError,),
    )


def episode_lines() -> Parser:
    """A line of a folder of episodes."""
    image = Image("view", _GREY)
    observation = ObservationRecord.of(Observation((image, "count 1"), ("up",), {"count": np.arange(2)}))
    turn = Turn(observation=observation, action=1, executed="up", outcome="executed", reward=1.0, tokens=(1,))
    whole = Episode(seed=2**64 - 1, prefix=("up", None), turns=(turn,), final=observation, end="TASK", success=True)
    broken = Episode(seed=1, turns=(), error="the server is gone")

    def parse(data: bytes) -> None:
        try:
            episode = Episode.model_validate_json(data)
        except ValidationError as error:
            assert problem(error)
            raise
        assert Episode.model_validate_json(episode.to_line()) == episode
        for number in range(len(episode.turns) + 1):
            episode.reset_at(number)

    return Parser(parse, [whole.to_line(), broken.to_line()], (ValidationError,))


def episode_headers() -> Parser:
    """The header of a folder of episodes."""
    folder = _folder()
    samples = [_header(spec).to_json() for spec in (Toy.spec, Reach.spec)]

    def parse(data: bytes) -> None:
        (folder / HEADER).write_bytes(data)
        header = EpisodeFolder(folder).header
        assert Header.model_validate_json(header.to_json()) == header

    return Parser(parse, samples, (EvaluationError,))


def pictures() -> Parser:
    """A picture of a folder of episodes; the first byte says whether it may hold more than its pixels."""
    folder = _folder()
    (folder / HEADER).write_bytes(_header(Toy.spec).to_json())
    (folder / EPISODES).touch()
    (folder / FRAMES).mkdir()
    record = ImageRecord.of(Image("view", _GREY))
    episodes = EpisodeFolder(folder)

    def parse(data: bytes) -> None:
        (folder / FRAMES / f"{record.xxh64}.png").write_bytes(data[1:])
        episodes.pixels(record, bare=data[:1] == b"1")

    return Parser(parse, [b"0" + png(_GREY), b"1" + png(_GREY)], (EvaluationError,))


def replies() -> Parser:
    """An agent's reply, in each form that a recipe asks for."""
    recipes = [Recipe(reply="action"), Recipe(reply="thoughts+action"), Recipe(reply="bare")]
    spaces = [ActionSpec(("up", "down")), ActionSpec(max_text_bytes=64), Reach.spec.action]

    def parse(data: bytes) -> None:
        text = data.decode(errors="surrogateescape")
        for recipe in recipes:
            for space in spaces:
                reply = read_as(text, space, recipe)
                action_to_proto(reply.action, text)
                reply.thoughts.encode()

    samples = [write_reply(recipe, "0.5 1e3", 'It is "3"').encode() for recipe in recipes]
    return Parser(parse, [*samples, b"```json\n{'thoughts': 'x', 'action': [1, -2.5]}\n```", b'"action": up'])


def openenv_messages() -> Parser:
    """What a client of OpenEnv sends."""
    spaces = [Toy.spec.action, Commands.spec.action, Reach.spec.action]

    def parse(data: bytes) -> None:
        sent = pydantic_core.from_json(data, allow_inf_nan=False)
        model = MESSAGES.get(str(sent.get("type"))) if isinstance(sent, dict) else None
        if model is None:
            return
        message = model.model_validate(sent)
        if message.type == "step":
            for space in spaces:
                try:
                    message.data.action(space)
                except ContractError:
                    continue

    samples = [
        {"type": "reset", "data": {"seed": 7, "split": "four", "task": 2, "options": {"size": 8}}},
        {"type": "step", "data": {"text": "up", "reply": "I go up", "metadata": {}}},
        {"type": "step", "data": {"tensor": [0.5, 1]}},
        {"type": "step", "data": {"index": 1}},
    ]
    return Parser(parse, [json.dumps(sample).encode() for sample in samples], (ValueError,))


def manifests() -> Parser:
    """The manifest of a checkpoint."""
    from overworld_vlm import checkpoint  # loads PyTorch
    from overworld_vlm.load import ModelError

    folder = _folder()
    (folder / "weights").mkdir()
    (folder / "weights" / "config.json").write_text("{}")
    manifest = checkpoint.Manifest(
        run="run",
        update=3,
        env_steps=100,
        kind="adapter",
        base=checkpoint.Base(path="../000000/weights", digest="d"),
        files={"weights/config.json": checkpoint._sha256(folder / "weights" / "config.json"), "trainer/state": "d"},
        digest="d",
        recipe={"history": 1},
        config={"envs": [{"id": "toy/Count"}]},
        provenance={"toy/Count": {"rules": "1"}},
    )

    def parse(data: bytes) -> None:
        (folder / "manifest.json").write_bytes(data)
        checkpoint.read(folder)

    return Parser(parse, [manifest.model_dump_json(indent=1).encode()], (ModelError,))


def chats() -> Parser:
    """The body of a chat, as far as the policy server reads it without a model, images included."""
    from overworld_policy import fields  # loads PyTorch
    from overworld_policy.app import _parse
    from overworld_policy.body import Count
    from overworld_policy.config import PolicyServerConfig
    from overworld_policy.errors import ApiError
    from overworld_policy.messages import SentImage, read_messages

    config = PolicyServerConfig(max_image_pixels=10_000, max_total_pixels=20_000)

    def parse(data: bytes) -> None:
        Count().add(data)
        request = _parse(data)
        fields.check(request.model_extra or {}, strict=bool(request.strict))
        for message in read_messages(request, config).messages:
            for part in message["content"] if isinstance(message["content"], list) else ():
                if isinstance(part.get("image"), SentImage):
                    part["image"].read()

    samples = []
    for form in ("PNG", "JPEG", "WEBP"):
        url = _data_url(form)
        content = [{"type": "text", "text": "Look."}, {"type": "image_url", "image_url": {"url": url}}]
        body = {"model": "base", "messages": [{"role": "user", "content": content}], "temperature": 0.5, "stop": ["."]}
        samples.append(json.dumps(body | {"logit_bias": {"3": 1}, "seed": 1, "user": "me", "n": 2}).encode())
    return Parser(parse, samples, (ApiError,))


PARSERS: dict[str, Callable[[], Parser]] = {
    parser.__name__: parser
    for parser in (
        answers,
        shared_memory,
        specs,
        actions,
        registry_entries,
        token_files,
        episode_lines,
        episode_headers,
        pictures,
        replies,
        openenv_messages,
        manifests,
        chats,
    )
}


def _header(spec: EnvSpec) -> Header:
    return Header(
        env=env_record(spec),
        options={"size": 8},
        fallback="SKIP",
        fallback_reward=-0.1,
        expert=False,
        recipe=Recipe(),
        versions={"overworld": "1"},
    )


def _data_url(form: str) -> str:
    buffer = io.BytesIO()
    PIL.Image.fromarray(_GREY).save(buffer, form)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


@functools.cache
def _root() -> tempfile.TemporaryDirectory[str]:
    """Gone with the process."""
    return tempfile.TemporaryDirectory(prefix="overworld-fuzz-")


def _folder() -> Path:
    return Path(tempfile.mkdtemp(dir=_root().name))
