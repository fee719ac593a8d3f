"""OpenEnv's own client, in an environment of its own (.venv-openenv): plays what it is told, and says what it saw.

    python openenv_player.py URL [RECORD]   reads JSON from stdin: a list of [reset's arguments, [action, ...]]

Prints a JSON list per episode, of [SHA-256 of the pixels, reward, done, metadata, tensors] per turn. An error is
["error", its text], and the episode goes on. RECORD gets all messages as they were on the wire, one per line.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from openenv.core.generic_client import GenericEnvClient
from PIL import Image
from websockets.asyncio.client import ClientConnection


def seen(result: Any) -> list[Any]:
    """One turn."""
    images = [block for block in result.observation["content"] if block["type"] == "image"]
    pixels = [np.asarray(Image.open(io.BytesIO(base64.b64decode(image["data"])))) for image in images]
    digest = hashlib.sha256(b"".join(one.tobytes() for one in pixels)).hexdigest()
    return [digest, result.reward, result.done, result.metadata, result.observation["tensors"]]


async def play(url: str, episodes: list[tuple[dict[str, Any], list[dict[str, Any]]]]) -> None:
    """Plays the episodes on one connection, as far as each goes."""
    async with GenericEnvClient(base_url=url) as env:
        for arguments, actions in episodes:
            turns = [seen(await env.reset(**arguments))]
            for action in actions:
                if turns[-1][0] != "error" and turns[-1][2]:
                    break
                try:
                    turns.append(seen(await env.step(action)))
                except RuntimeError as error:
                    turns.append(["error", str(error)])
            await env.state()
            print(json.dumps(turns), flush=True)


def record(file: Path) -> None:
    """Has all messages written to the file."""
    stream = file.open("w")
    send, receive = ClientConnection.send, ClientConnection.recv

    async def sending(self: ClientConnection, message: Any, *more: Any) -> None:
        print(json.dumps({"sent": message}), file=stream, flush=True)
        await send(self, message, *more)

    async def receiving(self: ClientConnection, *more: Any) -> Any:
        message = await receive(self, *more)
        print(json.dumps({"received": message}), file=stream, flush=True)
        return message

    ClientConnection.send, ClientConnection.recv = sending, receiving  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    if len(sys.argv) > 2:
        record(Path(sys.argv[2]))
    asyncio.run(play(sys.argv[1], json.load(sys.stdin)))
