"""OpenEnv's own client, in an environment of its own (.venv-openenv), once it has given up waiting for an answer.

    python openenv_impatient.py URL

Prints what the next step was answered.
"""

from __future__ import annotations

import asyncio
import sys

from openenv.core.generic_client import GenericEnvClient


async def play(url: str) -> None:
    """Waits for all answers but one."""
    async with GenericEnvClient(base_url=url) as env:
        await env.reset(seed=7)
        await env.step({"text": "up"})
        patience, env._message_timeout = env._message_timeout, 0.05
        try:
            await env.step({"text": "slow"})
            print("in time")
        except TimeoutError:
            env._message_timeout = patience
            try:
                print((await env.step({"text": "up"})).observation)
            except RuntimeError as error:
                print(error)


if __name__ == "__main__":
    asyncio.run(play(sys.argv[1]))
