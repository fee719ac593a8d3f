"""The host follows the contract, as any server has to: with free text, with tensors, and without pictures."""

from __future__ import annotations

import pytest
from overworld.check.running import check_server
from overworld.host.process import ServerProcess

_THEMES = "handshake health determinism opening order idempotence batches overlap actions ends frames"
"""All but those that take time and do not depend on the env."""
_HOLD = "T1 T2 T3 T6 T7 T9 T10 S3 S4 S8 S9 D1 D2 A1 A5 O3 F4 H2"


@pytest.mark.parametrize("env", ["toy/Commands", "toy/Search", "toy/Reach"])
def test_the_host_conforms(toy_server: ServerProcess, env: str) -> None:
    report = check_server(toy_server.address, env, only=[f"{theme}." for theme in _THEMES.split()])
    assert report.findings == []
    assert set(_HOLD.split()) <= report.held
