"""Which lanes are silent, by the heartbeats that they leave in a file."""

import tempfile
from collections.abc import Iterator

import pytest
from overworld.host.heartbeat import HeartbeatFile, Silence

LANES = 4


@pytest.fixture
def file() -> Iterator[HeartbeatFile]:
    with tempfile.TemporaryFile() as file:
        file.truncate(HeartbeatFile.size(LANES))
        yield HeartbeatFile(file.fileno(), LANES)


def test_lanes_with_jobs_are_silent_until_they_give_a_sign_of_life(file: HeartbeatFile) -> None:
    one, other = file.line(1), file.line(2)
    one.start(1, 0)
    other.start(1, 0)
    silence, before = Silence(LANES), file.read()
    silence.passed(1.0, before, before, [1, 2, 3])
    assert silence.waited.tolist() == [0, 1, 1, 1]
    assert silence.busy.tolist() == [0, 1, 1, 0]  # lane 3 has not begun
    one.beat()
    other.finish()
    other.start(1, 0)
    silence.passed(1.0, before, now := file.read(), [1, 2, 3])
    assert silence.waited.tolist() == [0, 0, 0, 2]
    assert silence.busy.tolist() == [0, 2, 0, 0]
    silence.passed(1.0, now, now, [1, 3])
    assert silence.waited.tolist() == [0, 1, 0, 3]
    assert silence.longer(2.5, 10) == [3]
    assert silence.longer(10, 2.5) == [1]


def test_who_waits_for_an_event_loop_that_another_keeps_is_not_silent(file: HeartbeatFile) -> None:
    keeps, waits = file.line(1), file.line(2)
    for beats in (keeps, waits):
        beats.turn()
        beats.start(1, 0)
    waits.turn()
    silence, before = Silence(LANES), file.read()
    silence.passed(1.0, before, before, [1, 2])
    assert silence.waited.tolist() == [0, 1, 0, 0]
    keeps.turn()
    silence.passed(1.0, before, now := file.read(), [1, 2])
    silence.passed(1.0, now, now, [1, 2])
    assert silence.waited.tolist() == [0, 3, 2, 0]
