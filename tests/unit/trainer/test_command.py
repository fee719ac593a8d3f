"""How `overworld train` ends: with what says whether to start it again."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from overworld.errors import OverworldError, ServerLostError, TransientError
from overworld_trainer import command


@pytest.fixture(autouse=True)
def process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the command changes in its process stays as it is."""
    monkeypatch.setattr("overworld.service.log.configure", lambda: None)
    monkeypatch.setattr("overworld.service.malloc.keep_freed_memory", lambda: None)
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@pytest.mark.parametrize("begun", [False, True])
def test_a_run_that_had_its_env_servers_may_be_started_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, begun: bool
) -> None:
    """One that never had them has a wrong address, as far as anybody can tell."""

    def train(config: object) -> bool:
        raise ServerLostError("no answer")

    monkeypatch.setattr("overworld_trainer.train.train", train)
    settings = tmp_path / "run.yaml"
    settings.write_text(f"run: {tmp_path}\nenvs: [{{id: gym_cards/NumberLine}}]\nclone: {{updates: 1}}\n")
    if begun:
        (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(OverworldError, match="no answer") as caught:
        command.main([str(settings)])
    assert isinstance(caught.value, TransientError) == begun
