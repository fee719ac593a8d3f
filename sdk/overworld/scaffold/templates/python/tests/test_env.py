"""The env follows the contract, means what it says, and its expert wins."""

from __future__ import annotations

import overworld
import pytest
from overworld.audit.auditing import audit
from overworld.check.env_class import check_env

ENV = "shape_hunt.env:Triangle"


def test_it_follows_the_contract() -> None:
    assert check_env(ENV).findings == []


def test_its_audit_finds_nothing() -> None:
    assert audit(ENV).findings == []


@pytest.mark.parametrize("seed", range(20))
def test_the_expert_wins(seed: int) -> None:
    env = overworld.make(ENV, expert=True)
    result = env.reset(seed)
    while not result.end:
        assert result.expert
        result = env.step(result.expert.action)
    assert result.success
