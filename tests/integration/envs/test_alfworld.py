"""ALFWorld over gRPC."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from overworld import ContractError, Reset, Result, Session, make, server_info
from overworld.contract.frames import pixels_hash
from overworld.errors import ServiceError
from overworld.host.process import ServerProcess

from tests.support.optional import present
from tests.support.shared_folder import shared_folder


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = shared_folder(tmp_path_factory) / "alfworld"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVERWORLD_ALFWORLD_CACHE", str(folder))
        patch.delenv("ALFWORLD_DATA", raising=False)
        yield folder


@pytest.fixture(scope="module")
def server(cache: Path) -> Iterator[ServerProcess]:
    with ServerProcess("alfworld", arguments=("--workers", "2", "--slots", "12", "--allow-expert")) as server:
        yield server


def test_the_expert_wins_a_game_of_each_type_with_the_texts_of_the_engine(server: ServerProcess) -> None:
    with Session(server.address, "alfworld/all", 12, expert=True) as session:
        started = time.monotonic()
        session.step({0: Reset(seed=0)})
        assert time.monotonic() - started < 60
        results = session.reset(range(6, 18))
        local = make("alfworld/all")
        here: Result | None = local.reset(seed=6)
        while not all(result.end for result in results):
            first = results[0] if results[0].slot == 0 else None
            if first is not None and here is not None:
                assert first.observation.text == here.observation.text
                assert first.observation.admissible == here.observation.admissible
                assert first.observation.images[0].xxh64 == pixels_hash(here.observation.images[0].pixels)
                here = local.step(present(first.expert).action) if first.end is None else None
            results = session.step({result.slot: present(result.expert).action for result in results if not result.end})
        assert all(result.success for result in results)


def test_one_can_play_each_game_of_a_split_once(server: ServerProcess) -> None:
    with Session(server.address, "alfworld/pick_clean_then_place_in_recep", 3) as session:
        assert session.spec.splits == {"train": 24, "valid_seen": 3, "valid_unseen": 3}
        commands = {slot: Reset(seed=0, split="valid_unseen", task=slot) for slot in range(3)}
        assert len({result.observation.text for result in session.step(commands)}) == 3
        with pytest.raises(ContractError, match="TASK_UNKNOWN"):
            session.step({0: Reset(seed=0, split="valid_unseen", task=3)})


def test_a_server_without_games_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    with pytest.raises(ServiceError, match="did not start"), ServerProcess("alfworld"):
        pass
    assert "alfworld-download" in capfd.readouterr().err


def test_the_renderer_thor_is_refused_with_what_to_install(server: ServerProcess) -> None:
    with pytest.raises(ContractError, match=r"ENV_FAILED.*pip install"):
        Session(server.address, "alfworld/all", 1, options={"renderer": "thor"})


def test_the_server_tells_which_games_it_plays(server: ServerProcess) -> None:
    spec = server_info(server.address).envs["alfworld/all"]
    assert spec.provenance["games"].startswith("generated, ")
    assert "ALFWORLD_DATA" not in os.environ
