"""What a client can make a server keep."""

import uuid
from collections.abc import Iterator

import grpc
import psutil
import pytest
from overworld.host.process import ServerProcess
from overworld.v1 import env_pb2 as pb
from overworld.v1 import env_pb2_grpc

from tests.support.toy_env import TOY

MEGABYTE = 1 << 20


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    with ServerProcess(TOY, arguments=("--workers", "1", "--slots", "32")) as server:
        yield server


def resident(server: ServerProcess) -> float:
    """Megabytes of the front."""
    return psutil.Process(server.process.pid).memory_info().rss / MEGABYTE


def test_replies_in_a_prefix_are_not_kept(server: ServerProcess) -> None:
    moves = [pb.Action(text="up" if turn % 2 else "down", reply="x" * 60_000) for turn in range(250)]  # 15 MB
    with grpc.insecure_channel(server.address) as channel:
        stub = env_pb2_grpc.EnvServiceStub(channel)
        name = str(uuid.uuid4())
        stub.Open(pb.OpenRequest(session=name, env_id="toy/Count", slots=20, options_json='{"max_turns": 1000}'))
        for slot in range(20):
            command = pb.Command(slot=slot, episode=1, turn=len(moves), reset=pb.Reset(prefix=moves))
            request = pb.StepRequest(session=name, commands=[command])
            if slot == 4:
                before = resident(server)  # room for requests that are under way is taken by now
            (result,) = stub.Step(request).results
            assert (result.state, result.turn) == (pb.SLOT_STATE_READY, len(moves))
        assert stub.Step(request).results[0].turn == len(moves)  # it is known again
        command.reset.prefix[0].reply = "y"
        with pytest.raises(grpc.RpcError, match="another command had this name"):
            stub.Step(pb.StepRequest(session=name, commands=[command]))
        assert resident(server) < before + 60
        stub.Close(pb.CloseRequest(session=name))
