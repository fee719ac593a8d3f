"""dm_env_rpc as a peer of the transport benchmark; runs in an environment of its own (.venv-dm-env-rpc).

    python dm_env_rpc_peer.py serve PORT HEIGHT WIDTH COST_US
    python dm_env_rpc_peer.py play PORT SLOTS      reads a number of steps per line, answers with the seconds they took
                                                   and the longest of them

A slot is a stream of its own, as the protocol has it. All requests are written before the first response is read.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from dm_env_rpc.v1 import dm_env_rpc_pb2 as pb
from dm_env_rpc.v1 import dm_env_rpc_pb2_grpc as services
from dm_env_rpc.v1 import tensor_utils
from dm_env_rpc.v1.connection import StreamReaderWriter
from noise import PICTURES, bank, spin
from stopwatch import answer

_OPTIONS = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
_PICTURE, _LOOK = 1, 1
"""Numbers of the only observation and the only action."""


class NoiseEnvironment(services.EnvironmentServicer):
    """The same as `noise_env.Noise`."""

    def __init__(self, height: int, width: int, cost: float) -> None:
        self._bank = bank(height, width)
        self._cost = cost

    def Process(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        """One agent's stream."""
        for turn, _ in enumerate(requests, 1):
            spin(self._cost)
            response = pb.EnvironmentResponse()
            response.step.state = pb.RUNNING
            pixels = self._bank[turn % PICTURES]
            response.step.observations[_PICTURE].CopyFrom(tensor_utils.pack_tensor(pixels))
            yield response


def serve(port: int, height: int, width: int, cost_us: int) -> None:
    """Runs the server."""
    server = grpc.server(ThreadPoolExecutor(256), options=_OPTIONS)
    services.add_EnvironmentServicer_to_server(NoiseEnvironment(height, width, cost_us * 1e-6), server)
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


def play(port: int, slots: int) -> None:
    """Steps all slots at once, as often as it is told on stdin."""
    with grpc.insecure_channel(f"127.0.0.1:{port}", _OPTIONS) as channel:
        stub = services.EnvironmentStub(channel)
        streams = [StreamReaderWriter(stub) for _ in range(slots)]
        request = pb.EnvironmentRequest(
            step=pb.StepRequest(
                requested_observations=[_PICTURE], actions={_LOOK: tensor_utils.pack_tensor(np.int32(0))}
            )
        )

        def step() -> None:
            for stream in streams:
                stream.write(request)
            np.stack([tensor_utils.unpack_tensor(stream.read().step.observations[_PICTURE]) for stream in streams])

        answer(step)


if __name__ == "__main__":
    what, *numbers = sys.argv[1], *map(int, sys.argv[2:])
    if what == "serve":
        serve(*numbers)
    else:
        play(*numbers)
