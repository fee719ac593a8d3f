"""What each history of actions gave: the same one must give the same result again, wherever it is played."""

from __future__ import annotations

from dataclasses import dataclass, field

from overworld.v1 import env_pb2 as pb


@dataclass(frozen=True, slots=True)
class Setting:
    """What a session was opened with, as far as results depend on it."""

    env: str
    options_json: str
    fallback: int
    fallback_reward: float


@dataclass(frozen=True, slots=True)
class History:
    """An episode up to some turn: its task, and the actions since, without replies."""

    split: str
    task: int | None
    seed: int
    actions: tuple[bytes, ...] = ()

    def then(self, action: pb.Action) -> History:
        """One action later."""
        return History(self.split, self.task, self.seed, (*self.actions, without_reply(action)))


@dataclass(slots=True)
class Histories:
    """Setting and history -> the first result that they gave, without what may differ."""

    seen: dict[tuple[Setting, History], pb.SlotResult] = field(default_factory=dict)
    hashless: set[str] = field(default_factory=set)
    """Envs whose pixels are not reproducible."""

    def compare(self, setting: Setting, history: History, result: pb.SlotResult) -> tuple[str, str] | None:
        """What came and what was expected where `result` differs from the first one; None if it does not."""
        key = (setting, history)
        result = comparable(result, pixels=setting.env not in self.hashless)
        first = self.seen.setdefault(key, result)
        return difference(result, first)

    def known(self, setting: Setting, history: History) -> pb.SlotResult | None:
        """The first result of that history."""
        return self.seen.get((setting, history))


def without_reply(action: pb.Action) -> bytes:
    """The action as it counts for the episode."""
    copy = pb.Action()
    copy.CopyFrom(action)
    copy.ClearField("reply")
    return copy.SerializeToString(deterministic=True)


def comparable(result: pb.SlotResult, *, pixels: bool = True) -> pb.SlotResult:
    """The result without what may differ between two that are the same (rule S2), and without name and advice."""
    copy = pb.SlotResult()
    copy.CopyFrom(result)
    for name in ("slot", "episode", "micros", "expert"):
        copy.ClearField(name)
    for image in copy.observation.images:
        image.ClearField("block")
        image.ClearField("index")
        if not pixels:
            image.ClearField("xxh64")
    return copy


def difference(one: pb.SlotResult, other: pb.SlotResult) -> tuple[str, str] | None:
    """The first field that differs, as it is in `one` and in `other`; None if they are equal."""
    if one.SerializeToString(deterministic=True) == other.SerializeToString(deterministic=True):
        return None
    for descriptor in one.DESCRIPTOR.fields:
        mine, theirs = (_field(result, descriptor.name) for result in (one, other))
        if mine != theirs:
            if descriptor.name == "observation":
                return _observations(one.observation, other.observation)
            return f"{descriptor.name} {mine}", f"{descriptor.name} {theirs}"
    return None  # NaN, which is not equal to itself, or fields that the proto file lacks


def _field(result: pb.SlotResult, name: str) -> str:
    """The field in a form in which NaN is equal to itself, and maps have an order."""
    value = getattr(result, name)
    if hasattr(value, "SerializeToString"):
        return repr(value.SerializeToString(deterministic=True)[:200])
    return repr(dict(sorted(value.items()))) if hasattr(value, "items") else repr(value)


def _observations(one: pb.Observation, other: pb.Observation) -> tuple[str, str] | None:
    parts = [[part.text for part in look.parts if part.WhichOneof("kind") == "text"] for look in (one, other)]
    hashes = [[f"{image.name} {image.xxh64:016x}" for image in look.images] for look in (one, other)]
    if hashes[0] != hashes[1]:
        return f"images {hashes[0]}", f"images {hashes[1]}"
    if parts[0] != parts[1]:
        return f"texts {parts[0]}", f"texts {parts[1]}"
    if list(one.admissible) != list(other.admissible):
        return f"admissible {list(one.admissible)}", f"admissible {list(other.admissible)}"
    return "other parts or tensors of the observation", "the same observation as before"
