"""What is said of a run where nobody watches a terminal."""

import logging

import pytest
from overworld_trainer.display import Display
from overworld_trainer.metrics import Metric, Metrics

from tests.support.learning import settings

REPLIES: Metrics = {Metric.REPLIES_UNPARSEABLE: 0.25, Metric.REPLIES_INADMISSIBLE: 0.125}


def test_each_update_is_a_line_with_the_figures_that_there_are(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Display(settings(updates=5)).training(1) as bar:
        bar.write(1, 64, {Metric.SUCCESS_RATE: 0.5, Metric.KL_K3: 0.01, Metric.STEPS_PER_SECOND: 7.0, **REPLIES})
        bar.write(2, 96, REPLIES)
    assert [record.getMessage() for record in caplog.records] == [
        "update 2 of 5, 64 steps: success 0.50  kl 0.01  valid 0.62  steps/s 7.00",
        "update 3 of 5, 96 steps: valid 0.62",
    ]


def test_cloning_is_a_line_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Display(settings(clone={"updates": 60})).cloning() as show:
        for update in range(60):
            show(update, 1 / (update + 1))
    assert [record.getMessage() for record in caplog.records] == [
        "cloning: update 25 of 60, loss 0.040",
        "cloning: update 50 of 60, loss 0.020",
    ]
