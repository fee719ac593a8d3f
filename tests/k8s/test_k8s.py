"""Every overlay renders, validates strictly, and passes the checks for what schemas miss; each check can fail."""

from __future__ import annotations

import copy
import functools
import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s import checks
from tests.k8s.checks import Object

ROOT = Path(__file__).parents[2]
MULTI_NODE, TRAIN_JOB = "overlays/multi-node", "overlays/train-job"
OVERLAYS = (
    "overlays/local",
    "overlays/gpu",
    "overlays/own-env",
    "overlays/cert-manager",
    MULTI_NODE,
    "overlays/multi-node-gpu",
    TRAIN_JOB,
    "overlays/study",
)
ALL = (*OVERLAYS, "evaluation")
KUBEFLOW = "trainer.kubeflow.org/"


@functools.cache
def rendered(overlay: str) -> str:
    """The text that `kubectl apply -k` would send."""
    if shutil.which("kubectl") is None:
        why = "there is no kubectl here (1.27 or later renders k8s/)"
        if os.environ.get("REQUIRE_KUBECTL") == "1":
            pytest.fail(f"REQUIRE_KUBECTL=1, but {why}")
        pytest.skip(why)
    command = ["kubectl", "kustomize", f"k8s/{overlay}"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


@functools.cache
def parsed(overlay: str) -> list[Object]:
    return [one for one in yaml.safe_load_all(rendered(overlay)) if one]


def objects(overlay: str) -> list[Object]:
    """What an overlay holds, to be changed at will; `evaluation` goes with the local one."""
    found = copy.deepcopy(parsed(overlay))
    return found if overlay in OVERLAYS else found + objects(OVERLAYS[0])


@pytest.mark.parametrize("overlay", ALL)
def test_it_validates_strictly(overlay: str, tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    others = KUBEFLOW, "cert-manager.io/"
    core = [one for one in yaml.safe_load_all(rendered(overlay)) if not one["apiVersion"].startswith(others)]
    path.write_text(yaml.safe_dump_all(core))
    command: list[str | Path] = [Path(sys.executable).with_name("kubernetes-validate"), "--strict", path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (done.stdout + done.stderr).count("passed for resource") == len(core)


def test_kubeflow_understands_its_objects() -> None:
    """Its own models drop fields that they do not know, and refuse values of other types."""
    found = [one for one in objects(TRAIN_JOB) if one["apiVersion"].startswith(KUBEFLOW)]
    assert {one["kind"] for one in found} == {"TrainJob", "TrainingRuntime"}
    for one in found:
        assert list(dropped(one, understood(one))) == []
    job = find(found, "TrainJob/trainer")
    job["spec"]["trainer"]["numProcPerNodes"] = job["spec"]["trainer"].pop("numProcPerNode")
    assert list(dropped(job, understood(job))) == [".spec.trainer.numProcPerNodes"]


def understood(thing: Object) -> Object:
    """What Kubeflow's models of its API make of an object."""
    models = importlib.import_module("kubeflow_trainer_api.models")
    model: Object = getattr(models, f"TrainerV1alpha1{thing['kind']}").from_dict(thing).to_dict()
    return model


def dropped(ours: Any, theirs: Any, where: str = "") -> Iterator[str]:
    """Where something of ours is missing or another in theirs, which may hold defaults besides."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key, value in ours.items():
            yield from dropped(value, theirs.get(key), f"{where}.{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from dropped(*pair, f"{where}.{number}")
    elif ours != theirs:
        yield where


@pytest.mark.parametrize("check", checks.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("overlay", ALL)
def test_it_passes(overlay: str, check: Callable[[list[Object]], Iterator[str]]) -> None:
    assert list(check(objects(overlay))) == []


def test_a_typo_does_not_validate(tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    path.write_text(rendered(OVERLAYS[0]).replace("readOnlyRootFilesystem:", "readOnlyRootFileSystem:", 1))
    command: list[str | Path] = [Path(sys.executable).with_name("kubernetes-validate"), "--strict", path]
    assert subprocess.run(command, capture_output=True).returncode != 0


def find(objects: list[Object], name: str) -> Object:
    return next(one for one in objects if checks.name(one) == name)


def env_server(objects: list[Object]) -> Object:
    return find(objects, "Deployment/env-server-gym-cards")


def labels(objects: list[Object]) -> dict[str, str]:
    return checks.pod(env_server(objects))["metadata"]["labels"]


def pod_spec(objects: list[Object]) -> Object:
    return checks.pod(env_server(objects))["spec"]


def container(objects: list[Object]) -> Object:
    return pod_spec(objects)["containers"][0]


def sources(objects: list[Object]) -> list[Object]:
    return next(one for one in pod_spec(objects)["volumes"] if one["name"] == "secrets")["projected"]["sources"]


def redis(objects: list[Object]) -> Object:
    return checks.pod(find(objects, "Deployment/redis"))["spec"]["containers"][0]


def policy(objects: list[Object], name: str) -> Object:
    return find(objects, f"NetworkPolicy/{name}")["spec"]


MISTAKES = {
    "names: Deployment/Env_Server": lambda o: env_server(o)["metadata"].update(name="Env_Server"),
    "names: twice": lambda o: o.append(o[-1]),
    "namespaces: no namespace": lambda o: env_server(o)["metadata"].pop("namespace"),
    "selectors: Deployment/env-server-gym-cards selects []": lambda o: labels(o).update(
        {"app.kubernetes.io/name": "x"}
    ),
    "ports: readinessProbe asks port 50052": lambda o: container(o)["readinessProbe"]["httpGet"].update(port=50052),
    "ports: targetPort grpc": lambda o: container(o)["ports"].pop(0),
    "probes: no livenessProbe": lambda o: container(o).pop("livenessProbe"),
    "resources: no limits of memory": lambda o: container(o)["resources"]["limits"].pop("memory"),
    "resources: '2GB' is no quantity": lambda o: container(o)["resources"]["limits"].update(memory="2GB"),
    "resources: requests more cpu": lambda o: container(o)["resources"]["requests"].update(cpu="2500m"),
    "images: overworld/gym-cards is not pinned": lambda o: container(o).update(image="overworld/gym-cards"),
    "images: gym-cards:latest is not pinned": lambda o: container(o).update(image="overworld/gym-cards:latest"),
    "restricted: may write to its root": lambda o: container(o)["securityContext"].update(readOnlyRootFilesystem=False),
    "restricted: keeps capabilities": lambda o: container(o)["securityContext"]["capabilities"].update(add=["NET_RAW"]),
    "restricted: gets a token": lambda o: pod_spec(o).pop("automountServiceAccountToken"),
    "restricted: its ServiceAccount default": lambda o: pod_spec(o).update(serviceAccountName="default"),
    "restricted: may run as root": lambda o: pod_spec(o)["securityContext"].update(runAsUser=0),
    "references: which is no volume": lambda o: container(o)["volumeMounts"][0].update(name="elsewhere"),
    "references: where nothing is mounted": lambda o: container(o)["volumeMounts"].pop(),
    "references: Secret other is not there": lambda o: sources(o)[0]["secret"].update(name="other"),
    "references: is made of nothing": lambda o: sources(o).clear(),
    "transport: has the certificates": lambda o: sources(o)[1]["secret"].update(name="miniworld-tls"),
    "transport: OVERWORLD_TLS is None": lambda o: container(o)["env"].pop(
        [entry["name"] for entry in container(o)["env"]].index("OVERWORLD_TLS")
    ),
    "transport: talks without TLS": lambda o: container(o)["args"].append("--registry=redis://redis:6379/0"),
    "transport: asks over gRPC": lambda o: container(o).update(livenessProbe={"grpc": {"port": 50051}}),
    "transport: serves without TLS": lambda o: redis(o).update(args=["valkey-server --port 6379"]),
    "tenants: can read ['trainer']": lambda o: sources(o).append({"secret": {"name": "trainer"}}),
    "tenants: its secrets are those of 'webshop'": lambda o: container(o)["env"].append(
        {"name": "NAME", "value": "webshop"}
    ),
    "tenants: an evaluation may take all slots": lambda o: container(o)["args"].remove("--quotas.evaluator.slots=64"),
    "certificates: no Certificate is for gym-cards": lambda o: o.append(
        {"kind": "Certificate", "spec": {"secretName": "x", "issuerRef": {"name": "nobody"}}}
    ),
    "certificates: the issuer nobody of x is not there": lambda o: o.append(
        {"kind": "Certificate", "spec": {"secretName": "x", "issuerRef": {"name": "nobody"}}}
    ),
    "endings: 30 s to end": lambda o: pod_spec(o).pop("terminationGracePeriodSeconds"),
    "endings: no PodDisruptionBudget": lambda o: o.remove(find(o, "PodDisruptionBudget/env-server-gym-cards")),
    "paths: ('trainer', 'redis', 6379) is closed": lambda o: policy(o, "trainer")["egress"].pop(),
    "paths: ('env-server', 'dns', 53) is closed": lambda o: policy(o, "dns")["egress"].clear(),
    "paths: ('stranger', 'policy-server', 8000) is open": lambda o: policy(o, "policy-server")["ingress"][0].pop(
        "from"
    ),
    "paths: ('policy-server', 'stranger', 22) is open": lambda o: policy(o, "nothing-else")["policyTypes"].pop(),
    "paths: ('neighbour', 'redis', 6379) is open": lambda o: (
        policy(o, "redis")["ingress"][0]["from"].append({"podSelector": {}}),
        policy(o, "nothing-else")["policyTypes"].pop(),
    ),
}
"""The check that must notice and a part of what it says -> the mistake."""


def trainer(objects: list[Object]) -> Object:
    return find(objects, "Job/trainer")["spec"]


def ranks_of(objects: list[Object]) -> Object:
    return trainer(objects)["template"]["spec"]["containers"][0]


MISTAKES_OF_RANKS = {
    "ranks: its pods have no numbers": lambda o: trainer(o).pop("completionMode"),
    "ranks: completions, parallelism and PET_NNODES differ": lambda o: trainer(o).update(parallelism=1),
    "ranks: its pod 0 is not called trainer-0.trainer": lambda o: trainer(o)["template"]["spec"].pop("subdomain"),
    "ranks: its port 29400 is not declared": lambda o: ranks_of(o)["ports"].pop(0),
    "ranks: no headless Service": lambda o: find(o, "Service/trainer")["spec"].pop("publishNotReadyAddresses"),
    "ranks: its ranks do not meet": lambda o: ranks_of(o)["command"].__setitem__(2, "--rdzv-endpoint=trainer:29400"),
    "ranks: 1 ranks a pod for 8 GPUs": lambda o: ranks_of(o)["resources"]["limits"].update({"nvidia.com/gpu": "8"}),
    "ranks: nothing to share": lambda o: ranks_of(o)["env"].pop(3),
    "ranks: the store of a pod that may be lost": lambda o: ranks_of(o)["env"].pop(4),
    "ranks: more time to end than the pod has": lambda o: trainer(o)["template"]["spec"].update(
        terminationGracePeriodSeconds=110
    ),
    "ranks: runs cannot be mounted on several nodes": lambda o: find(o, "PersistentVolumeClaim/runs")["spec"].update(
        accessModes=["ReadWriteOnce"]
    ),
    "paths: ('trainer', 'trainer', 29400) is closed": lambda o: policy(o, "ranks")["ingress"].clear(),
    "paths: ('env-server', 'trainer', 29400) is open": lambda o: (
        policy(o, "ranks")["ingress"].append({}),
        policy(o, "env-server")["egress"].append({}),
    ),
}
"""The same for a run of several pods."""

MISTAKES_OF_TRAIN_JOBS = {
    "ranks: 8 ranks a pod for 1 GPUs": lambda o: (
        find(o, "TrainJob/trainer")["spec"]["trainer"].update(numProcPerNode=8),
        checks.pod(find(o, "TrainingRuntime/trainer"))["spec"]["containers"][0]["resources"]["limits"].update(
            {"nvidia.com/gpu": "1"}
        ),
    ),
}
"""The same for Kubeflow's."""


@pytest.mark.parametrize(
    ("overlay", "expected"),
    [(OVERLAYS[0], one) for one in MISTAKES]
    + [(MULTI_NODE, one) for one in MISTAKES_OF_RANKS]
    + [(TRAIN_JOB, one) for one in MISTAKES_OF_TRAIN_JOBS],
)
def test_a_mistake_is_noticed(overlay: str, expected: str) -> None:
    broken = objects(overlay)
    (MISTAKES | MISTAKES_OF_RANKS | MISTAKES_OF_TRAIN_JOBS)[expected](broken)
    check, _, words = expected.partition(": ")
    said = list(getattr(checks, check)(broken))
    assert any(words in one for one in said), said


def test_compose_and_kubernetes_run_the_same_images() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    ours = {service["image"] for service in compose.values()}
    running = [
        container for one in ("overlays/local", "evaluation") for *_, container in checks.containers(objects(one))
    ]
    assert {container["image"] for container in running} == ours
