"""What restarts a service: the policies of Compose and Kubernetes fit the statuses that programs end with."""

import os
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
NOT_SERVERS = {"secrets", "trainer", "evaluator"}


def test_compose_restarts_servers_however_often_they_fail() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    assert {"redis", "gym-cards", "policy-server"} <= set(services) - NOT_SERVERS
    for name in set(services) - NOT_SERVERS:
        assert services[name]["restart"] == "on-failure", name  # a number counts over the container's whole life


def test_kubernetes_gives_a_run_up_only_when_it_has_said_why() -> None:
    job, *_ = yaml.safe_load_all((ROOT / "k8s" / "base" / "trainer.yaml").read_text())
    given_up = [rule["onExitCodes"] for rule in job["spec"]["podFailurePolicy"]["rules"] if rule["action"] == "FailJob"]
    assert given_up == [{"containerName": "trainer", "operator": "In", "values": [1]}]
    assert not {os.EX_SOFTWARE, os.EX_TEMPFAIL} & set(given_up[0]["values"])
    assert job["spec"]["backoffLimit"] >= 1
