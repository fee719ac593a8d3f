"""The audit's small learner on a server."""

from __future__ import annotations

import dataclasses

from overworld.audit.learning.learn import Learned, LearnSettings, learn
from overworld.audit.learning.ppo import PpoSettings
from overworld.audit.learning.sequences import SearchSettings
from overworld.audit.stage import ClassPlace, Place, ServerPlace
from overworld.authoring.catalogue import load
from overworld.client.channel import server_info
from overworld.host.process import ServerProcess
from overworld.service.credentials import Credentials

ENV = "gym_cards/NumberLine"
SETTINGS = LearnSettings(
    PpoSettings(steps=512, batch=256), SearchSettings(candidates=12, trials=2, steps=300, final_trials=4), 10, 20, 20
)


def test_a_server_teaches_what_its_class_does() -> None:
    def learned(place: Place) -> Learned:
        stage = place.open(8)
        try:
            found = learn(stage, settings=SETTINGS)
        finally:
            stage.close()
        return dataclasses.replace(found, arms=tuple(dataclasses.replace(arm, seconds=0.0) for arm in found.arms))

    with ServerProcess(ENV, arguments=("--workers", "2", "--slots", "8")) as server:
        info = server_info(server.address)
        there = learned(ServerPlace(server.address, info, ENV, options={}, credentials=Credentials(), timeout=20.0))
    assert there == learned(ClassPlace(ENV, load([ENV])[ENV], options={}, timeout=20.0))
