"""Episodes as a Parquet table, pictures included; docs/episodes.md lists the columns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from overworld.errors import EvaluationError
from overworld.evaluation.conversation import png
from overworld.evaluation.episodes import ActionRecord, Episode, ImageRecord, TensorRecord
from overworld.evaluation.folder import EpisodeFolder
from overworld.service.extras import needs_extra

with needs_extra("parquet"):
    import pyarrow
    import pyarrow.parquet

_ROWS = 256
"""Rows that are held in memory at a time."""

_SCHEMA = pyarrow.schema(
    {
        "episode": pyarrow.int64(),
        "turn": pyarrow.int32(),
        "seed": pyarrow.uint64(),
        "split": pyarrow.string(),
        "task": pyarrow.uint64(),
        "sample": pyarrow.uint64(),
        "text": pyarrow.string(),
        "images": pyarrow.list_(pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})),
        "admissible": pyarrow.list_(pyarrow.string()),
        "actor": pyarrow.string(),
        "reply": pyarrow.string(),
        "thoughts": pyarrow.string(),
        "action": pyarrow.string(),
        "executed": pyarrow.string(),
        "outcome": pyarrow.string(),
        "reward": pyarrow.float64(),
        "metrics": pyarrow.map_(pyarrow.string(), pyarrow.float64()),
        "cut": pyarrow.bool_(),
        "fingerprint": pyarrow.string(),
        "sampling_seed": pyarrow.uint64(),
        "tokens": pyarrow.list_(pyarrow.uint64()),
        "logprobs": pyarrow.list_(pyarrow.float64()),
        "value": pyarrow.float64(),
        "end": pyarrow.string(),
        "success": pyarrow.bool_(),
        "error": pyarrow.string(),
        "total_reward": pyarrow.float64(),
    }
)


def export_parquet(folder: EpisodeFolder, file: Path) -> int:
    """Writes the episodes of `folder` to the new file `file`, a row per observation; how many rows that were.

    Raises EvaluationError if the file exists or the folder is damaged, OSError if it cannot be written.
    """
    if file.exists():
        raise EvaluationError(f"{file} exists already: name another file, or delete it")
    schema = _SCHEMA.with_metadata({"overworld": folder.header.to_json()})
    part = file.with_name(file.name + ".part")
    count = 0
    try:
        with pyarrow.parquet.ParquetWriter(part, schema, compression="zstd") as writer:
            rows: list[dict[str, Any]] = []
            for row in _rows(folder):
                rows.append(row)
                count += 1
                if len(rows) == _ROWS:
                    writer.write_table(pyarrow.Table.from_pylist(rows, schema))
                    rows.clear()
            writer.write_table(pyarrow.Table.from_pylist(rows, schema))
        part.rename(file)
    finally:
        part.unlink(missing_ok=True)
    return count


def _rows(folder: EpisodeFolder) -> Iterator[dict[str, Any]]:
    """A row per turn, then one for what was observed at the end."""
    for number, episode in enumerate(folder):
        common = _common(number, episode)
        first = len(episode.prefix)
        for turn_number, turn in enumerate(episode.turns, first):
            fields = turn.model_dump(include=set(_SCHEMA.names))
            yield (
                common
                | fields
                | {
                    "turn": turn_number,
                    "text": _text(turn.seen),
                    "images": _images(folder, turn.seen),
                    "admissible": turn.observation.admissible,
                    "action": _action(turn.action),
                    "executed": _action(turn.executed),
                    "metrics": sorted(turn.metrics.items()),
                }
            )
        final = () if episode.final is None else episode.final.parts
        yield common | {
            "turn": first + len(episode.turns),
            "text": _text(final),
            "images": _images(folder, final),
            "admissible": () if episode.final is None else episode.final.admissible,
        }


def _common(number: int, episode: Episode) -> dict[str, Any]:
    names = ("seed", "split", "task", "sample", "end", "success", "error", "total_reward")
    return {"episode": number} | {name: getattr(episode, name) for name in names}


def _text(parts: tuple[str | ImageRecord, ...]) -> str:
    return "\n".join(part for part in parts if isinstance(part, str))


def _images(folder: EpisodeFolder, parts: tuple[str | ImageRecord, ...]) -> list[dict[str, Any]]:
    images = (part for part in parts if isinstance(part, ImageRecord))
    return [{"bytes": png(folder.pixels(image)), "path": f"{image.xxh64}.png"} for image in images]


def _action(action: ActionRecord | None) -> str | None:
    """A text as it is; an index or a tensor as JSON."""
    if action is None or isinstance(action, str):
        return action
    return json.dumps(action.model_dump() if isinstance(action, TensorRecord) else action, sort_keys=True)
