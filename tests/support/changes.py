"""Single changes of a kept evaluation, drawn at random, and what anybody can do to hide them: count and seal again."""

from __future__ import annotations

import hashlib
import json
import random
import struct
import unicodedata
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import PIL.Image
from overworld.evaluation.folder import EPISODES, HEADER, REPORT, SEAL, EpisodeFolder, to_json
from overworld.evaluation.report import report_of

Json = dict[str, Any]
_T = TypeVar("_T")


class UnfitError(Exception):
    """The change cannot be made in this place."""


def read(folder: Path) -> list[Json]:
    """The episodes."""
    return [json.loads(line) for line in (folder / EPISODES).read_text().split("\n") if line]


def write(folder: Path, episodes: list[Json]) -> None:
    """The inverse."""
    lines = (json.dumps(one, sort_keys=True, ensure_ascii=False, separators=(",", ":")) + "\n" for one in episodes)
    (folder / EPISODES).write_text("".join(lines))


def recount(folder: Path) -> None:
    """Makes the figures those of the episodes."""
    kept = EpisodeFolder(folder)
    (folder / REPORT).write_bytes(to_json(report_of(kept.header, kept).to_json()))


def seal(folder: Path) -> None:
    """What anybody can do: sha256sum."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SEAL)
    sums = (f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}\n" for path in files)
    (folder / SEAL).write_text("".join(sums))


class Place(NamedTuple):
    """Where a change is made."""

    episode: Json
    number: int
    turn: Json
    at: int
    chance: random.Random


def some(chance: random.Random, choices: list[_T]) -> _T:
    if not choices:
        raise UnfitError
    return chance.choice(choices)


def flipped(name: str, chance: random.Random) -> str:
    return f"{int(name, 16) ^ 1 << chance.randrange(64):016x}"


def another_float(value: float, chance: random.Random) -> float:
    """One with another bit, or another number."""
    bits = struct.unpack("<Q", struct.pack("<d", value))[0] ^ 1 << chance.randrange(64)
    (other,) = struct.unpack("<d", struct.pack("<Q", bits))
    return chance.choice([one for one in (float(other), -value, value + 1, 1e308) if np.isfinite(one)])


def observation(place: Place) -> Json:
    """The turn's, or the final one."""
    final = place.episode.get("final")
    found: Json = place.turn["observation"] if not final or place.chance.random() < 0.7 else final
    return found


def picture(place: Place) -> Json:
    parts = observation(place).get("parts", [])
    return some(place.chance, [part for part in parts if isinstance(part, dict)])


def frame_hash(place: Place) -> None:
    one = picture(place)
    one["xxh64"] = flipped(one["xxh64"], place.chance)


def other_frame(place: Place) -> None:
    one = picture(place)
    others = [
        part["xxh64"]
        for turn in place.episode["turns"]
        for part in turn["observation"].get("parts", [])
        if isinstance(part, dict) and part["xxh64"] != one["xxh64"]
    ]
    one["xxh64"] = some(place.chance, others)


def frame_name(place: Place) -> None:
    picture(place)["name"] += " "


def frame_shape(place: Place) -> None:
    one = picture(place)
    if one["height"] % 2:
        raise UnfitError
    one["height"], one["width"] = one["height"] // 2, one["width"] * 2


def text(place: Place) -> None:
    seen = observation(place)
    where = [number for number, part in enumerate(seen.get("parts", [])) if isinstance(part, str) and part]
    number = some(place.chance, where)
    old = seen["parts"][number]
    cut = place.chance.randrange(len(old))
    seen["parts"][number] = place.chance.choice(
        [
            old[:cut] + old[cut + 1 :],
            old[:cut] + "\u200b" + old[cut:],
            old + " ",
            old.swapcase(),
            old[:cut] + "\u0301" + old[cut:],
            unicodedata.normalize("NFKC", old) + "\u2028",
        ]
    )
    if seen["parts"][number] == old:
        raise UnfitError


def dropped_part(place: Place) -> None:
    seen = observation(place)
    if not seen.get("parts"):
        raise UnfitError
    del seen["parts"][place.chance.randrange(len(seen["parts"]))]


def admissible(place: Place) -> None:
    seen = observation(place)
    listed = seen.setdefault("admissible", [])
    if listed and place.chance.random() < 0.7:
        del listed[place.chance.randrange(len(listed))]
    else:
        listed.append("win the game")


def tensor(place: Place) -> None:
    tensors = observation(place).setdefault("tensors", {})
    tensors[f"new {place.at}"] = {"dtype": "uint8", "shape": [1], "data": "AA=="}


def reward(place: Place) -> None:
    old = place.turn["reward"]
    place.turn["reward"] = another_float(float(old), place.chance)


def failed_reward(place: Place) -> None:
    """Of a turn that earned nothing, since it failed."""
    if place.episode["turns"][-1]["outcome"] != "failed":
        raise UnfitError
    place.episode["turns"][-1]["reward"] = 1.0


def metric(place: Place) -> None:
    metrics = place.turn.setdefault("metrics", {})
    if metrics and place.chance.random() < 0.8:
        name = some(place.chance, sorted(metrics))
        if place.chance.random() < 0.3:
            del metrics[name]
        else:
            metrics[name] = another_float(metrics[name], place.chance)
    else:
        metrics["score of its own"] = 1.0


def action(place: Place) -> None:
    """Of the action alone."""
    old = place.turn.get("action")
    place.turn["action"] = place.chance.choice([one for one in ("up", 3, None, f"{old}!") if one != old])


def reply(place: Place) -> None:
    """Of the reply alone: it says another action."""
    place.turn["reply"] = json.dumps({"thoughts": place.turn.get("thoughts", ""), "action": "something else"})


def whole_action(place: Place) -> None:
    """Of all that the turn says of its action."""
    others = [
        turn["action"]
        for turn in place.episode["turns"]
        if isinstance(turn.get("action"), str) and turn["action"] != place.turn.get("action")
    ]
    chosen = some(place.chance, [one for one in others if one != place.turn.get("executed")])
    place.turn.update(action=chosen, executed=chosen, outcome="executed")
    place.turn["reply"] = json.dumps({"thoughts": place.turn.get("thoughts", ""), "action": chosen})


def executed(place: Place) -> None:
    if place.turn.get("executed") is None:
        place.turn["executed"] = "up"
    else:
        place.turn.pop("executed")


def outcome(place: Place) -> None:
    others = {"executed", "no_action", "not_admissible"} - {place.turn["outcome"]}
    place.turn["outcome"] = some(place.chance, sorted(others))


def actor(place: Place) -> None:
    place.turn["actor"] = place.chance.choice(["person", "expert", "random"])


def shown(place: Place) -> None:
    place.turn["shown"] = ["nothing to see"]


def dropped_turn(place: Place) -> None:
    if len(place.episode["turns"]) < 2:
        raise UnfitError
    del place.episode["turns"][place.at]


def repeated_turn(place: Place) -> None:
    place.episode["turns"].insert(place.at, place.turn)


def ending(place: Place) -> None:
    others = {"TASK", "RULE", "TIME_LIMIT"} - {place.episode.get("end")}
    if "end" not in place.episode:
        raise UnfitError
    place.episode["end"] = some(place.chance, sorted(others))


def success(place: Place) -> None:
    if "error" in place.episode:
        raise UnfitError
    if place.episode.get("success"):
        place.episode.pop("success")
    else:
        place.episode["success"] = True


def error(place: Place) -> None:
    """A failure in place of the end."""
    end = place.episode.get("end", "TASK")
    for name in ("end", "final", "success", "error"):
        place.episode.pop(name, None)
    place.episode["error"] = place.chance.choice([f"{end}: well", "ENV_ERROR: boom", "ERROR", "None: "])


def seed(place: Place) -> None:
    place.episode["seed"] = place.chance.choice([place.episode["seed"] + 1000 + place.at, 2**64 - 1])


def prefix(place: Place) -> None:
    actions = [turn["action"] for turn in place.episode["turns"] if turn.get("executed") is not None]
    place.episode["prefix"] = [some(place.chance, actions)]


def sooner(place: Place) -> None:
    """The first turn becomes a prefix: true, but another task, and its reward counts no more."""
    turns = place.episode["turns"]
    if len(turns) < 2 or "prefix" in place.episode:
        raise UnfitError
    place.episode["prefix"] = [turns[0].get("action")]
    del turns[0]


def thoughts(place: Place) -> None:
    """The reply says the same action."""
    if place.turn.get("action") is None:
        raise UnfitError
    place.turn["thoughts"] = "I know the way."
    place.turn["reply"] = json.dumps({"thoughts": "I know the way.", "action": place.turn["action"]})


def cut(place: Place) -> None:
    if not place.turn.pop("cut", False):
        place.turn["cut"] = True


def noise(place: Place) -> None:
    place.turn["sampling_seed"] = place.chance.randrange(2**53)


def in_place(change: Callable[[Place], None]) -> Callable[[Path, random.Random], None]:
    """Makes a change in a turn that is drawn."""

    def make(folder: Path, chance: random.Random) -> None:
        episodes = read(folder)
        number = chance.randrange(len(episodes))
        episode = episodes[number]
        if not episode["turns"]:
            raise UnfitError
        at = chance.randrange(len(episode["turns"]))
        change(Place(episode, number, episode["turns"][at], at, chance))
        write(folder, episodes)

    return make


def swapped_tasks(folder: Path, chance: random.Random) -> None:
    episodes = read(folder)
    one, other = chance.sample(range(len(episodes)), 2)
    names = ("turns", "final", "end", "success", "error")
    parts = [
        {name: episodes[number].pop(name) for name in names if name in episodes[number]} for number in (one, other)
    ]
    if parts[0]["turns"] == parts[1]["turns"]:
        raise UnfitError
    episodes[one] |= parts[1]
    episodes[other] |= parts[0]
    write(folder, episodes)


def repeated_episode(folder: Path, chance: random.Random) -> None:
    """It counts twice."""
    episodes = read(folder)
    episodes.insert(chance.randrange(len(episodes)), chance.choice(episodes))
    write(folder, episodes)


def replaced_episode(folder: Path, chance: random.Random) -> None:
    """By a copy of another, which is better."""
    episodes = read(folder)
    one, other = chance.sample(range(len(episodes)), 2)
    episodes[one] = episodes[other]
    write(folder, episodes)


def name_twice(folder: Path, chance: random.Random) -> None:
    """Readers take the first or the last of the two."""
    lines = (folder / EPISODES).read_text().splitlines(keepends=True)
    number = chance.randrange(len(lines))
    name = chance.choice(['"reward":', '"success":', '"seed":', '"xxh64":'])
    at = lines[number].find(name)
    if at < 0:
        raise UnfitError
    value = {'"reward":': "5.0", '"success":': "true", '"seed":': "7", '"xxh64":': '"0000000000000000"'}[name]
    lines[number] = f"{lines[number][:at]}{name}{value},{lines[number][at:]}"
    (folder / EPISODES).write_text("".join(lines))


def header_twice(folder: Path, chance: random.Random) -> None:
    old, new = chance.choice(
        [
            ('"fallback_reward":', '"fallback_reward": 9.0, "fallback_reward":'),
            ('"max_turns":', '"maxTurns": 5, "max_turns":'),  # proto3's other spelling
        ]
    )
    text = (folder / HEADER).read_text()
    if old not in text[: text.index('"options"')] and old == '"max_turns":':
        raise UnfitError
    (folder / HEADER).write_text(text.replace(old, new, 1))


def torn_tail(folder: Path, chance: random.Random) -> None:
    """Other readers of lines would take it for an episode."""
    with (folder / EPISODES).open("a") as file:
        file.write(json.dumps(chance.choice(read(folder))))


def figure(folder: Path, chance: random.Random) -> None:
    """Any number or text of the report."""
    report = json.loads((folder / REPORT).read_text())
    leaves: list[tuple[Any, Any]] = []

    def collect(node: Any) -> None:
        for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
            if isinstance(value, dict | list) and value:
                collect(value)
            else:
                leaves.append((node, key))

    collect(report)
    node, key = chance.choice(leaves)
    old = node[key]
    new: list[Any] = ["other", None, True]
    if isinstance(old, int | float) and not isinstance(old, bool):
        new = [another_float(float(old), chance), old + 1, -1, str(old), not old]
    if isinstance(old, str):
        new += [old + " ", old.upper() + "\u00a0"]
    node[key] = chance.choice([one for one in new if json.dumps(one) != json.dumps(old)])
    (folder / REPORT).write_bytes(to_json(report))


def figures_twice(folder: Path, chance: random.Random) -> None:
    old = (folder / REPORT).read_text()
    (folder / REPORT).write_text(old.replace("{", '{"mean_return": 99.0, ', 1))


def header_field(folder: Path, chance: random.Random) -> None:
    """What a server of the same provenance says otherwise, or the report."""
    header = json.loads((folder / HEADER).read_text())
    options = header["options"]
    changes: list[Callable[[], Any]] = [
        lambda: header["env"].update(task="Do whatever you like."),
        lambda: header["env"].update(max_turns=header["env"].get("max_turns", 0) + 1),
        lambda: header["env"].update(success="Always."),
        lambda: options.update(max_turns=options["max_turns"] + 1),
        lambda: options.pop("max_turns"),
        lambda: header.update(substitution="blank_frames"),
    ]
    chance.choice(changes)()
    (folder / HEADER).write_bytes(to_json(header))


def pixel(folder: Path, chance: random.Random) -> None:
    path = some(chance, sorted((folder / "frames").iterdir()))
    pixels = np.asarray(PIL.Image.open(path)).copy()
    pixels.reshape(-1)[chance.randrange(pixels.size)] ^= 1 << chance.randrange(8)
    PIL.Image.fromarray(pixels).save(path, "PNG")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def animated(folder: Path, chance: random.Random) -> None:
    """The pixels are the same, and a viewer shows an animation."""
    path = some(chance, sorted((folder / "frames").iterdir()))
    data = path.read_bytes()
    path.write_bytes(data[:33] + chunk(b"acTL", struct.pack(">II", 1, 0)) + data[33:])


def more_than_pixels(folder: Path, chance: random.Random) -> None:
    """The pixels are the same; a viewer shows something else, or much is unpacked."""
    path = some(chance, sorted((folder / "frames").iterdir()))
    data = path.read_bytes()
    extra = chance.choice(
        [
            chunk(b"tRNS", b"\0\0\0\0\0\0"),
            chunk(b"gAMA", struct.pack(">I", 1)),
            chunk(b"zTXt", b"bomb\0\0" + zlib.compress(b"0" * (32 << 20), 9)),
            chunk(b"iCCP", b"bomb\0\0" + zlib.compress(b"0" * (8 << 20), 9)),
        ]
    )
    path.write_bytes(data[:33] + extra + data[33:] if chance.random() < 0.8 else data + b"more")


def other_picture(folder: Path, chance: random.Random) -> None:
    """Two files change places."""
    one, other = chance.sample(sorted((folder / "frames").iterdir()), 2)
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def no_picture(folder: Path, chance: random.Random) -> None:
    some(chance, sorted((folder / "frames").iterdir())).unlink()


def more_files(folder: Path, chance: random.Random) -> None:
    name = chance.choice(["notes.txt", f"frames/{chance.randrange(2**64):016x}.png", "frames/.png", ".hidden"])
    (folder / name).write_bytes(b"")


def dropped_episode(folder: Path, chance: random.Random) -> None:
    episodes = read(folder)
    del episodes[chance.randrange(len(episodes))]
    write(folder, episodes)


def any_byte(folder: Path, chance: random.Random) -> None:
    path = chance.choice(sorted(one for one in folder.rglob("*") if one.is_file()))
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def any_end(folder: Path, chance: random.Random) -> None:
    path = chance.choice(sorted(one for one in folder.rglob("*") if one.is_file()))
    data = path.read_bytes()
    path.write_bytes(chance.choice([data[: len(data) // 2], data + b"\n", data + data, b"", b"\xef\xbb\xbf" + data]))


Make = Callable[[Path, random.Random], None]

SEALED_AGAIN: dict[str, Make] = {
    one.__name__: in_place(one)
    for one in (
        frame_hash, other_frame, frame_name, frame_shape, text, dropped_part, admissible, tensor, reward, failed_reward,
        metric, action, reply, whole_action, executed, outcome, actor, shown, dropped_turn, repeated_turn, ending,
        success, error, seed, prefix, noise,
    )
} | {
    one.__name__: one
    for one in (
        swapped_tasks, repeated_episode, replaced_episode, name_twice, header_twice, torn_tail, figure, figures_twice,
        header_field, pixel, animated, more_than_pixels, other_picture, no_picture, more_files,
    )
}  # fmt: skip
"""Changes that are found though figures and seal were made to fit; those of the figures, though the seal was."""

UNSEALED: dict[str, Make] = {
    **{one.__name__: in_place(one) for one in (thoughts, cut, sooner)},
    **{one.__name__: one for one in (dropped_episode, any_byte, any_end)},
}
"""Changes of which only the seal tells: what a replay cannot prove."""

OF_FIGURES = ("figure", "figures_twice")
"""They stand in the report, which is not made again."""
