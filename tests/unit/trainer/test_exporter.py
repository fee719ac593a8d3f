"""What Prometheus reads off a trainer."""

import socket
import urllib.error
import urllib.request

import pytest
from overworld.errors import SettingsError
from overworld_trainer.exporter import Exporter, serve_metrics
from prometheus_client.parser import text_string_to_metric_families

from tests.support.ports import free_port


def test_the_newest_metrics_are_served_by_name_and_env() -> None:
    port = free_port()
    with serve_metrics("127.0.0.1", port) as exporter:
        exporter.write(0, 64, {"losses/kl_k3": 0.5})
        exporter.write(1, 128, {"charts/success_rate": 0.25, "charts/success_rate/toy/A-b": 0.5, "charts/SPS": 7.0})
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
            families = text_string_to_metric_families(response.read().decode())
            samples = {(one.name, one.labels["env"]): one.value for family in families for one in family.samples}
    assert samples == {
        ("overworld_trainer_updates", ""): 2.0,
        ("overworld_trainer_env_steps", ""): 128.0,
        ("overworld_trainer_charts_success_rate", ""): 0.25,
        ("overworld_trainer_charts_success_rate", "toy/A-b"): 0.5,
        ("overworld_trainer_charts_sps", ""): 7.0,
    }


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError, match=f"metrics_port: 127.0.0.1:{port} cannot be listened on"):
            with serve_metrics("127.0.0.1", port):
                pass


def test_the_figures_of_an_evaluation_hold_until_the_next() -> None:
    exporter = Exporter()

    def served() -> dict[str, float]:
        return {sample.name: sample.value for family in exporter.collect() for sample in family.samples}

    exporter.write(9, 64, {"charts/SPS": 7.0})
    exporter.write(9, 64, {"eval/return": 0.5})
    assert served()["overworld_trainer_charts_sps"] == 7
    assert served()["overworld_trainer_eval_return"] == 0.5
    exporter.write(10, 128, {"losses/kl_k3": 0.1})
    assert served()["overworld_trainer_eval_return"] == 0.5
    assert "overworld_trainer_charts_sps" not in served()
    exporter.write(19, 256, {"eval/return": 0.75})
    assert served()["overworld_trainer_eval_return"] == 0.75


def test_port_0_serves_nothing() -> None:
    with serve_metrics("256.256.256.256", 0) as exporter:
        exporter.write(1, 1, {})


def test_the_port_is_free_again_afterwards() -> None:
    port = free_port()
    for _ in range(2):
        with serve_metrics("127.0.0.1", port):
            assert urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").status == 200
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics")
