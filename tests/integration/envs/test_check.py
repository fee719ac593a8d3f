"""Gym-Cards follows the contract, and the checker says so. `make check-simulators` checks the others, and examples."""

from __future__ import annotations

from overworld.check.running import check_server
from overworld.host.process import ServerProcess


def test_gym_cards_conforms() -> None:
    with ServerProcess("gym_cards", arguments=("--slots", "16", "--workers", "2", "--allow-expert")) as server:
        report = check_server(server.address)
    assert report.findings == []
    assert len(report.envs) == 4
    assert not {"D1", "E4", "F6", "F5", "L1", "O8", "S3", "T1", "T2", "T8"} - report.held
    assert report.seconds < 60  # 7 s on two cores with nothing else to do
