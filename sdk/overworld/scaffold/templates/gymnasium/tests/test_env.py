"""The env follows the contract, and is fit to be learnt in."""

from __future__ import annotations

from overworld.audit.auditing import audit
from overworld.check.env_class import check_env

from shape_hunt.env import Game

ENV = "shape_hunt.env:Game"


def test_it_follows_the_contract() -> None:
    assert check_env(ENV).findings == []


def test_its_audit_finds_no_error() -> None:
    assert audit(ENV).errors == []


def test_its_id_is_known_to_clients() -> None:
    assert Game.spec.id == "gymnasium/FrozenLake-v1"
