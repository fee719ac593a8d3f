"""What is said to each simulator's server: the script from which traces are recorded.

What is random is drawn from fixed seeds, and from what the server answered.
"""

from __future__ import annotations

import json
import math
import random
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from overworld.v1 import env_pb2 as pb

from tests.traces.wire import Line, Wire, as_request, as_response

SHARED, INLINE = pb.TRANSPORT_SHARED_MEMORY, pb.TRANSPORT_INLINE
SKIP, RANDOM = pb.FALLBACK_SKIP, pb.FALLBACK_RANDOM


class Conversation:
    """Calls a server and writes down what was said: `lines`."""

    def __init__(self, wire: Wire, seed: int) -> None:
        self.lines: list[Line] = []
        self.random = random.Random(seed)
        self.seeds: Sequence[int] = (*range(100), 2**64 - 1)
        """Of episodes."""
        self.specs: dict[str, pb.EnvSpec] = {}
        self._wire = wire

    def info(self, **fields: str) -> None:
        """GetServerInfo. `fields` are those of a line."""
        response = self._say("GetServerInfo", as_request(pb.GetServerInfoRequest()), **fields)
        if response is not None:
            self.specs = {spec.id: spec for spec in response.envs}

    def open(self, env_id: str, slots: int = 1, *, options: Any = "", **fields: Any) -> Session:
        """Open, accepted or not; `options` is JSON or an object."""
        name = str(uuid.UUID(int=self.random.getrandbits(128), version=4))
        options_json = options if isinstance(options, str) else json.dumps(options)
        request = pb.OpenRequest(session=name, env_id=env_id, slots=slots, options_json=options_json)
        for field, value in fields.items():
            if isinstance(value, (list, tuple)):
                getattr(request, field).extend(value)
            elif isinstance(value, Message):
                getattr(request, field).CopyFrom(value)
            else:
                setattr(request, field, value)
        return Session(self, request)

    def call(self, method: str, request: Message) -> Any:
        """Any call; its response, or None if it was refused."""
        return self._say(method, as_request(request))

    def send_bytes(self, method: str, base64: str) -> None:
        """A call with bytes that need not be a message."""
        self._say(method, base64)

    def terminate(self) -> None:
        """SIGTERM."""
        self.lines.append(self._wire.call({"call": len(self.lines), "method": "SIGTERM"}))

    def _say(self, method: str, request: Any, **fields: str) -> Any:
        line = self._wire.call({"call": len(self.lines), "method": method, "request": request, **fields})
        self.lines.append(line)
        return as_response(line)


class Session:
    """A session of the conversation, and where its slots are."""

    def __init__(self, conversation: Conversation, request: pb.OpenRequest) -> None:
        self.request = request
        self.name = request.session
        self._conversation = conversation
        self.seeds = conversation.seeds
        self.opened = self.open()
        self.spec = self.opened.spec if self.opened is not None else pb.EnvSpec()
        self.last: dict[int, pb.SlotResult] = {}
        self.resets: dict[int, pb.Reset] = {}
        self.played: dict[int, list[pb.Action]] = {}

    def open(self, **changed: Any) -> Any:
        """Open again."""
        request = pb.OpenRequest()
        request.CopyFrom(self.request)
        for field, value in changed.items():
            if field == "transports":
                del request.transports[:]
                request.transports.extend(value)
            else:
                setattr(request, field, value)
        return self._conversation.call("Open", request)

    def step(self, *commands: pb.Command, min_ready: int = 0) -> Any:
        """Step, and the notes on what it gave."""
        request = pb.StepRequest(session=self.name, commands=commands, min_ready=min_ready)
        response = self._conversation.call("Step", request)
        if response is None:
            return None
        for command, result in zip(commands, response.results, strict=True):
            if result.state == pb.SLOT_STATE_PENDING or self._is_repeat(result):
                continue
            self.last[result.slot] = result
            if command.HasField("reset"):
                self.resets[result.slot] = command.reset
                self.played[result.slot] = list(command.reset.prefix)
            else:
                self.played[result.slot].append(command.action)
        return response

    def reset(self, slot: int, seed: int, *, split: str = "", task: int | None = None, prefix: Any = ()) -> pb.Command:
        """The command that starts the slot's next episode."""
        episode = self.last[slot].episode + 1 if slot in self.last else 0
        command = pb.Command(slot=slot, episode=episode, turn=len(prefix))
        command.reset.CopyFrom(pb.Reset(seed=seed, split=split, prefix=prefix))
        if task is not None:
            command.reset.task = task
        return command

    def act(self, slot: int, action: str | int | None, reply: str = "") -> pb.Command:
        """The command that acts next."""
        last = self.last[slot]
        command = pb.Command(slot=slot, episode=last.episode, turn=last.turn + 1, action=pb.Action(reply=reply))
        if isinstance(action, str):
            command.action.text = action
        elif action is not None:
            command.action.index = action
        return command

    def playing(self, slot: int) -> bool:
        """Whether the slot's episode goes on."""
        return slot in self.last and self.last[slot].state == pb.SLOT_STATE_READY and not self.last[slot].end

    def close(self) -> None:
        """Close."""
        self._conversation.call("Close", pb.CloseRequest(session=self.name))

    def _is_repeat(self, result: pb.SlotResult) -> bool:
        last = self.last.get(result.slot)
        return last is not None and (last.episode, last.turn) == (result.episode, result.turn)


def play(
    talk: Conversation,
    env_id: str,
    rounds: int,
    *,
    slots: int = 2,
    advised: float = 0.0,
    texts: Callable[[pb.SlotResult, random.Random], str] | None = None,
    **opening: Any,
) -> None:
    """A session in which each slot plays one episode after another.

    Of its actions the share `advised` is the expert's; some are none, not admissible, indices, spelt differently, or
    come with a reply. `texts` makes an action where none is listed. Some episodes are left and resumed with a prefix,
    some batches are sent twice, some slots are left out, some calls return before all is ready.
    """
    session = talk.open(env_id, slots, expert=advised > 0, fallback_reward=-0.25, **opening)
    chance = talk.random
    for _ in range(rounds):
        commands = [
            _next(session, slot, chance, advised, texts)
            for slot in range(slots)
            if chance.random() < 0.9 or not session.playing(slot)
        ]
        session.step(*commands)
        if commands and chance.random() < 0.05:
            session.step(*commands)
        if chance.random() < 0.05:
            _step_without_waiting(session, [_next(session, slot, chance, advised, texts) for slot in range(slots)])
    session.close()


def _step_without_waiting(session: Session, commands: Sequence[pb.Command]) -> None:
    """With all but one of the results there, min_ready asks for no more: the last comes back pending."""
    *most, last = commands
    if most:
        session.step(*most)
        session.step(*most, last, min_ready=len(most))
    session.step(last)


def _next(
    session: Session,
    slot: int,
    chance: random.Random,
    advised: float,
    texts: Callable[[pb.SlotResult, random.Random], str] | None,
) -> pb.Command:
    if not session.playing(slot):
        return _some_reset(session, slot, chance)
    last = session.last[slot]
    if last.HasField("expert") and chance.random() < advised:
        return session.act(slot, last.expert.action.text, last.expert.thoughts)
    draw = chance.random()
    if draw < 0.04:
        return session.act(slot, None, "I do not know.")
    if draw < 0.08:
        return session.act(slot, chance.choice(("fly away", "", "0", "stand up", "click[nothing]", "search[]")))
    if draw < 0.10:
        played = session.played[slot]
        resumed = session.resets[slot]
        return session.reset(
            slot,
            resumed.seed,
            split=resumed.split,
            task=resumed.task if resumed.HasField("task") else None,
            prefix=played[: chance.randint(0, len(played))],
        )
    vocabulary = session.spec.action.vocabulary
    if vocabulary and draw < 0.25:
        return session.act(slot, chance.randrange(len(vocabulary) + 1))
    choices = last.observation.admissible or vocabulary
    text = chance.choice(choices) if choices else texts(last, chance) if texts is not None else ""
    if draw < 0.35:
        return session.act(slot, f"  {text.upper().replace(' ', '  ')}\n", json.dumps({"action": text}))
    return session.act(slot, text)


def _some_reset(session: Session, slot: int, chance: random.Random) -> pb.Command:
    split = chance.choice(("", *sorted(session.spec.splits)))
    size = session.spec.splits[split or session.spec.default_split]
    seed = chance.choice(session.seeds)
    return session.reset(slot, seed, split=split, task=seed % size if size and chance.random() < 0.5 else None)


def refused_opens(talk: Conversation, env_id: str) -> None:
    """Sessions that no server opens."""
    for wrong in ('{"size": "large"}', '{"no_such_option": 1}', "[]", "{", '{"max_turns": 0}', '{"max_turns": 1e9}'):
        talk.open(env_id, options=wrong)
    talk.open(f"{env_id}s")
    talk.open("nowhere/Nothing", 2)
    talk.open(env_id, 0)
    talk.open(env_id, 17)
    talk.open(env_id, session="not a uuid")
    talk.open(env_id, required_features=["prefix", "teleport", "min_ready"])
    talk.open(env_id, transports=[pb.TRANSPORT_UNSPECIFIED])
    talk.open(env_id, fallback=9)
    talk.open(env_id, fallback_reward=math.nan)
    talk.open(env_id, fallback_reward=math.inf, fallback=SKIP)
    for seconds in (0, -1):
        talk.open(env_id, lease=Duration(seconds=seconds))


def sessions(talk: Conversation, env_id: str) -> None:
    """Names, leases, transports and free slots."""
    lease = Duration(seconds=100_000, nanos=500_000_000)
    first = talk.open(env_id, 3, lease=lease, transports=[pb.TRANSPORT_UNSPECIFIED, SHARED, INLINE])
    talk.info()
    first.open()
    first.open(slots=4)
    first.open(expert=True)
    first.step(first.reset(0, 1), first.reset(2, 2))
    first.open(transports=[INLINE])
    first.step(*(first.reset(slot, slot) for slot in (2, 1, 0)))
    first.open(transports=[SHARED])
    first.step(first.reset(1, 5))
    first.step()
    second = talk.open(env_id, 13, required_features=["prefix", "min_ready", "random_fallback", "expert"])
    talk.info()
    talk.open(env_id, 1)
    first.close()
    first.close()
    first.step()
    first.step(first.reset(0, 1))
    talk.info()
    talk.open(env_id, 4)
    second.close()
    talk.call("Step", pb.StepRequest(session="nobody's"))
    talk.call("Close", pb.CloseRequest(session="nobody's"))


def refused_steps(talk: Conversation, env_id: str, action: str, *, longest: int) -> None:
    """Batches of which nothing is executed. `action` is admissible after a reset; `longest` in bytes."""
    session = talk.open(env_id, 3)
    session.step(pb.Command(slot=0, turn=1, action=pb.Action(text=action)))
    session.step(pb.Command(slot=3, reset=pb.Reset()))
    session.step(session.reset(0, 1), session.reset(0, 1))
    session.step(pb.Command(slot=0))
    session.step(session.reset(0, 1), session.reset(1, 1, split="nowhere"))
    finite = [split for split, size in sorted(session.spec.splits.items()) if size]
    for split, size in sorted(session.spec.splits.items()):
        session.step(session.reset(0, 1, split=split, task=size))
    wrong = session.reset(0, 1)
    wrong.turn = 1
    session.step(wrong)
    too_many = [pb.Action(text=action)] * (session.spec.max_turns + 1)
    session.step(session.reset(0, 1, prefix=too_many))
    session.step(session.reset(0, 1, prefix=[pb.Action(text="x" * (longest + 1))]))

    started = session.reset(0, 1, split=finite[0] if finite else "", task=0 if finite else None)
    session.step(started)
    session.step(session.reset(1, 3), started)
    other = pb.Command()
    other.CopyFrom(started)
    other.reset.seed = 2
    session.step(other)
    again = session.reset(0, 1)
    again.episode -= 1
    again.turn = 1
    again.reset.prefix.add(text=action)
    session.step(again)
    acted = session.act(0, action, "a reply")
    skipped = session.act(0, action)
    skipped.turn += 1
    session.step(skipped)
    later = session.act(0, action)
    later.episode += 1
    session.step(later)
    session.step(session.act(0, "ß" * (longest // 2 + 1)))
    session.step(session.act(0, action, "r" * 65_537))
    tensor = session.act(0, None)
    tensor.action.tensor.CopyFrom(pb.Tensor(dtype="float32", shape=[1], data=bytes(4)))
    session.step(tensor)
    session.step(acted)
    session.step(acted)
    other.CopyFrom(acted)
    other.action.reply = "another reply"
    session.step(other)
    session.step(session.act(1, "x" * longest, "r" * 65_536))
    session.step(started)
    session.close()


def ends(talk: Conversation, env_id: str, actions: Sequence[str], **options: Any) -> None:
    """An episode that `actions` or the limit of turns end, an action after its end, and prefixes up to and past it."""
    session = talk.open(env_id, 2, options=options)
    session.step(session.reset(0, 3))
    for action in actions:
        session.step(session.act(0, action))
    session.step(session.act(0, actions[0]))
    whole = [pb.Action(text=action) for action in actions]
    session.step(session.reset(1, 3, prefix=whole))
    session.step(session.act(1, actions[0]))
    session.step(session.reset(0, 3, prefix=[*whole, whole[0]]), session.reset(1, 3, prefix=whole[:1]))
    session.step(session.act(0, actions[0]))
    session.step(session.act(1, actions[0]))
    session.step(session.reset(0, 4))
    session.close()


def gym_cards(talk: Conversation) -> None:
    """All four games; and here all that does not depend on the simulator."""
    talk.info(authorization="")
    talk.info(authorization="Bearer of bad news")
    for method in ("GetServerInfo", "Open", "Step", "Close"):
        talk.send_bytes(method, "/////w==")
    refused_opens(talk, "gym_cards/EZPoints")
    sessions(talk, "gym_cards/NumberLine")
    refused_steps(talk, "gym_cards/NumberLine", "+", longest=4096)
    ends(talk, "gym_cards/Blackjack", ["stand"])
    ends(talk, "gym_cards/EZPoints", ["+", "-", "+"], max_turns=3)
    ends(talk, "gym_cards/NumberLine", ["-"] * 10)
    large = talk.open("gym_cards/Points24", 2, options={"size": 640})
    large.step(large.reset(0, 0), large.reset(1, 1))
    large.step(large.act(0, "("))
    large.close()
    for env_id in sorted(talk.specs):
        play(talk, env_id, 24, slots=3)
        play(talk, env_id, 16, advised=1.0, transports=[SHARED], options={"colours": True, "size": 64})
        play(talk, env_id, 16, slots=3, advised=0.4, fallback=RANDOM, options={"max_turns": 6, "size": 100})
    play(talk, "gym_cards/Points24", 16, options={"formula_in_text": False})
    left = talk.open("gym_cards/EZPoints", 2)
    left.step(left.reset(0, 1))
    talk.terminate()
    talk.info()
    talk.open("gym_cards/EZPoints")
    left.open()
    left.step(left.act(0, "1"), left.reset(1, 1))
    left.close()


def miniworld(talk: Conversation) -> None:
    """All tasks; on some of them the three renderers, randomisation and all options."""
    small = {"width": 48, "height": 36}
    for env_id in sorted(talk.specs):
        play(talk, env_id, 6, options=small)
    talk.open("miniworld/CollectHealth", expert=True)
    talk.open("miniworld/Hallway", options={"width": 8})
    talk.open("miniworld/Hallway", options={"render": "raytraced"})
    talk.open("miniworld/Sign", options={"domain_rand": True})
    talk.open("miniworld/Hallway", options={"colour": "red"})
    refused_steps(talk, "miniworld/OneRoom", "turn left", longest=4096)
    ends(talk, "miniworld/OneRoom", ["turn left", "move forward"], max_episode_steps=2)
    ends(talk, "miniworld/YMaze", ["turn left", "move forward"], max_turns=2)
    for render in ("exact", "msaa", "fast"):
        for domain_rand in (False, True):
            for env_id in ("miniworld/FourRooms", "miniworld/PutNext", "miniworld/Sidewalk"):
                options: Mapping[str, Any] = {"render": render, "domain_rand": domain_rand, "turn_repeat": 3}
                play(talk, env_id, 10, options=options, fallback=RANDOM)
    for env_id in ("miniworld/Hallway", "miniworld/WallGap", "miniworld/MazeS2", "miniworld/TMazeLeft"):
        play(talk, env_id, 30, advised=0.97, options={"move_repeat": 6, "turn_repeat": 3}, transports=[SHARED])
    play(talk, "miniworld/OneRoomS6Fast", 20, advised=1.0, options={"task_text": "describing"})
    play(talk, "miniworld/Sign", 20, options={"colour": "any", "goal": "any", **small})
    play(talk, "miniworld/Sign", 8, options={"colour": "green", "goal": "key", "task_text": "describing"})
    play(talk, "miniworld/PickupObjects", 20, options={"actions": "integers", "move_repeat": 8, "turn_repeat": 4})
    play(talk, "miniworld/CollectHealth", 20, options={"move_repeat": 5, **small})
    play(talk, "miniworld/RoomObjects", 12, options={"task_text": "describing", "domain_rand": True, "move_repeat": 4})


def alfworld(talk: Conversation) -> None:
    """All task types, each with another reward; the expert wins. Each game costs time when it is first played."""
    talk.seeds = (0, 2**64 - 1)
    refused_steps(talk, "alfworld/all", "look", longest=128)
    ends(talk, "alfworld/all", ["look", "inventory", "look"], max_turns=3, size=64)
    talk.open("alfworld/all", options={"renderer": "thor"})
    talk.open("alfworld/all", options={"renderer": "crayon"})
    talk.open("alfworld/all", options={"reward": "much", "size": 10})
    rewards = ("success", "rl4vlm", "delta")
    for number, env_id in enumerate(sorted(talk.specs)):
        options: dict[str, Any] = {"reward": rewards[number % 3]}
        play(talk, env_id, 24, slots=1, advised=0.97, options=options, transports=[SHARED] if number % 2 else [])
        play(talk, env_id, 6, options=options | {"size": 100}, fallback=RANDOM if number % 2 else SKIP)
    play(talk, "alfworld/all", 12, options={"renderer": "none", "reward": "rl4vlm", "max_turns": 7})


def webshop(talk: Conversation) -> None:
    """Both kinds of instructions, both rules, all ways to show a page; the expert buys."""
    talk.open("webshop/human", fallback=RANDOM)
    talk.open("webshop/human", options={"rules": "none"})
    talk.open("webshop/human", options={"data": "/etc"})
    refused_steps(talk, "webshop/synthetic", "search[easy clean rug]", longest=2048)
    ends(talk, "webshop/human", ["search[rug]", "click[back to search]", "search[red shoes]"], max_turns=3)
    for env_id in sorted(talk.specs):
        play(talk, env_id, 24, advised=0.95, transports=[SHARED])
        play(talk, env_id, 30, texts=_search)
        play(
            talk,
            env_id,
            30,
            advised=0.3,
            texts=_search,
            options={"rules": "compat", "page_text": "text", "show_attributes": True, "width": 320, "height": 200},
        )
        play(talk, env_id, 16, texts=_search, options={"page_text": "text_rich", "width": 160, "height": 400})


def _search(result: pb.SlotResult, chance: random.Random) -> str:
    """Some words of the instruction."""
    text = "".join(part.text for part in result.observation.parts)
    words = text.partition("Instruction: ")[2].partition("\n")[0].split()
    start = chance.randrange(len(words))
    return f"search[{' '.join(words[start : start + 4])}]"


SCRIPTS: Mapping[str, Callable[[Conversation], None]] = {
    "gym_cards": gym_cards,
    "miniworld": miniworld,
    "alfworld": alfworld,
    "webshop": webshop,
}


def conversation(simulator: str, wire: Wire) -> list[Line]:
    """All that is said to a simulator's server, and its answers."""
    talk = Conversation(wire, seed=9)
    talk.info()
    SCRIPTS[simulator](talk)
    return talk.lines
