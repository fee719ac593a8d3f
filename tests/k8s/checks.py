"""What Kubernetes' schemas do not see: each check yields what is wrong in the objects of one overlay."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

_QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?")
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_PINNED = re.compile(r"[\w./-]+:(?!latest$)[\w.-]+(@sha256:[0-9a-f]{64})?")
_DNS = "dns"
_MONITORING = "monitoring"
_COMPONENT = "app.kubernetes.io/component"
SIMULATORS = ("gym-cards", "miniworld", "alfworld", "webshop")

EXPECTED_PATHS = {
    ("trainer", "env-server", 50051), ("evaluator", "env-server", 50051),
    ("trainer", "redis", 6379), ("evaluator", "redis", 6379), ("env-server", "redis", 6379),
    ("evaluator", "policy-server", 8000),
    ("trainer", _DNS, 53), ("evaluator", _DNS, 53), ("env-server", _DNS, 53),
    (_MONITORING, "trainer", 9464), (_MONITORING, "env-server", 9464), (_MONITORING, "policy-server", 8000),
}  # fmt: skip
"""(from, to, port): whoever has to reach whom. All else must be closed, but for ranks, which reach each other."""
_TRIED = {53, 6379, 8000, 9464, 29400, 50051, 22}


def name(thing: Object) -> str:
    return f"{thing['kind']}/{thing['metadata']['name']}"


def kind(objects: list[Object], *kinds: str) -> list[Object]:
    return [thing for thing in objects if thing["kind"] in kinds]


def workloads(objects: list[Object]) -> list[Object]:
    return kind(objects, "Deployment", "Job", "TrainingRuntime")


def pod(workload: Object) -> Object:
    template: Object = workload["spec"]["template"]
    if workload["kind"] == "TrainingRuntime":
        (replicated,) = template["spec"]["replicatedJobs"]
        template = replicated["template"]["spec"]["template"]
    return template


def containers(objects: list[Object]) -> Iterator[tuple[str, Object, Object]]:
    """Where it is, the pod's template, the container."""
    for workload in workloads(objects):
        for container in pod(workload)["spec"]["containers"]:
            yield f"{name(workload)}/{container['name']}", pod(workload), container


def names(objects: list[Object]) -> Iterator[str]:
    for thing in objects:
        if not _DNS_LABEL.fullmatch(thing["metadata"]["name"]):
            yield f"{name(thing)} is no DNS label"
    everybody = [(thing["kind"], thing["metadata"].get("namespace"), thing["metadata"]["name"]) for thing in objects]
    for one in {one for one in everybody if everybody.count(one) > 1}:
        yield f"{one} is there twice"


def namespaces(objects: list[Object]) -> Iterator[str]:
    for thing in objects:
        if thing["kind"] != "Namespace" and thing["metadata"].get("namespace") != "overworld":
            yield f"{name(thing)} is in no namespace or in another"
    for thing in kind(objects, "Namespace"):
        if thing["metadata"]["labels"].get("pod-security.kubernetes.io/enforce") != "restricted":
            yield f"{name(thing)} does not enforce restricted"


def selectors(objects: list[Object]) -> Iterator[str]:
    """A Deployment selects its own pods and nobody else's; a Service and a PodDisruptionBudget just one workload's."""
    pods = {name(one): pod(one)["metadata"]["labels"] for one in workloads(objects)}
    for thing in kind(objects, "Deployment", "Service", "PodDisruptionBudget"):
        selector = thing["spec"]["selector"]
        found = {one for one, labels in pods.items() if selected(labels, selector.get("matchLabels", selector))}
        if len(found) != 1 or (thing["kind"] == "Deployment" and found != {name(thing)}):
            yield f"{name(thing)} selects {sorted(found)}"


def ports(objects: list[Object]) -> Iterator[str]:
    for where, template, container in containers(objects):
        here = {port["containerPort"] for port in container.get("ports", ())}
        here |= {port["name"] for port in container.get("ports", ())}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            for way in ("grpc", "httpGet", "tcpSocket"):
                port = container.get(probe, {}).get(way, {}).get("port")
                if port is not None and port not in here:
                    yield f"{where}: {probe} asks port {port}, there are {sorted(map(str, here))}"
        scraped = template["metadata"].get("annotations", {}).get("prometheus.io/port")
        if scraped is not None and int(scraped) not in here:
            yield f"{where}: prometheus.io/port is {scraped}, there are {sorted(map(str, here))}"
    for service in kind(objects, "Service"):
        for workload in workloads(objects):
            if selected(pod(workload)["metadata"]["labels"], service["spec"]["selector"]):
                open_ports = [p for c in pod(workload)["spec"]["containers"] for p in c.get("ports", ())]
                known = {p["name"] for p in open_ports} | {p["containerPort"] for p in open_ports}
                for port in service["spec"]["ports"]:
                    if port.get("targetPort", port["port"]) not in known:
                        yield f"{name(service)}: targetPort {port['targetPort']} is none of {sorted(map(str, known))}"


def probes(objects: list[Object]) -> Iterator[str]:
    for where, template, container in containers(objects):
        if template["spec"].get("restartPolicy") == "Never":
            continue
        for probe in ("readinessProbe", "livenessProbe"):
            if probe not in container:
                yield f"{where} has no {probe}"


def resources(objects: list[Object]) -> Iterator[str]:
    for where, _, container in containers(objects):
        given = container.get("resources", {})
        for side in ("requests", "limits"):
            for what in ("cpu", "memory"):
                if what not in given.get(side, {}):
                    yield f"{where} has no {side} of {what}"
            for what, quantity in given.get(side, {}).items():
                if not _QUANTITY.fullmatch(str(quantity)):
                    yield f"{where}: {side} of {what}: {quantity!r} is no quantity"
        for what in set(given.get("requests", {})) & set(given.get("limits", {})):
            if amount(given["requests"][what]) > amount(given["limits"][what]):
                yield f"{where} requests more {what} than its limit"
    for claim in kind(objects, "PersistentVolumeClaim"):
        if not _QUANTITY.fullmatch(str(claim["spec"]["resources"]["requests"]["storage"])):
            yield f"{name(claim)}: its storage is no quantity"
    for workload in workloads(objects):
        for volume in pod(workload)["spec"].get("volumes", ()):
            if "emptyDir" in volume and not _QUANTITY.fullmatch(str(volume["emptyDir"].get("sizeLimit", ""))):
                yield f"{name(workload)}: the emptyDir {volume['name']} has no limit"


def images(objects: list[Object]) -> Iterator[str]:
    for where, _, container in containers(objects):
        if not _PINNED.fullmatch(container["image"]):
            yield f"{where}: {container['image']} is not pinned"


def restricted(objects: list[Object]) -> Iterator[str]:
    """Pod security `restricted`, and what we ask for beyond: a read-only root and no token."""
    for workload in workloads(objects):
        spec = pod(workload)["spec"]
        security = spec.get("securityContext", {})
        if security.get("runAsNonRoot") is not True or security.get("runAsUser", 0) == 0:
            yield f"{name(workload)} may run as root"
        if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{name(workload)} has no seccomp profile"
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{name(workload)} gets a token"
        if any(spec.get(host) for host in ("hostNetwork", "hostPID", "hostIPC")):
            yield f"{name(workload)} uses the host's namespaces"
        if any("hostPath" in volume for volume in spec.get("volumes", ())):
            yield f"{name(workload)} mounts the host's files"
        account = spec.get("serviceAccountName")
        accounts = {one["metadata"]["name"]: one for one in kind(objects, "ServiceAccount")}
        if account not in accounts or accounts[account].get("automountServiceAccountToken") is not False:
            yield f"{name(workload)}: its ServiceAccount {account} is not there or has a token"
    for where, _, container in containers(objects):
        security = container.get("securityContext", {})
        if security.get("allowPrivilegeEscalation") is not False or security.get("privileged"):
            yield f"{where} may gain privileges"
        if security.get("capabilities") != {"drop": ["ALL"]}:
            yield f"{where} keeps capabilities"
        if security.get("readOnlyRootFilesystem") is not True:
            yield f"{where} may write to its root"


def secrets(volume: Object) -> Iterator[str]:
    """Names of the Secrets that a volume is made of."""
    if "secret" in volume:
        yield volume["secret"]["secretName"]
    for source in volume.get("projected", {}).get("sources", ()):
        if "secret" in source:
            yield source["secret"]["name"]


@functools.cache
def made_secrets() -> frozenset[str]:
    """Names of what `docker/secrets kubernetes` makes, as k8s/README.md has it called."""
    command = [sys.executable, "docker/secrets", "kubernetes", *SIMULATORS, "treasure", "lab"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], check=True, capture_output=True, text=True)
    return frozenset(thing["metadata"]["name"] for thing in yaml.safe_load_all(done.stdout) if thing)


def references(objects: list[Object]) -> Iterator[str]:
    """Volumes that are mounted are there, and so is what they are made of; Secrets are made by a script."""
    there = {(thing["kind"], thing["metadata"]["name"]) for thing in objects}
    there |= {("Secret", name) for name in made_secrets()}
    for where, template, container in containers(objects):
        volumes = {volume["name"]: volume for volume in template["spec"].get("volumes", ())}
        for mount in container.get("volumeMounts", ()):
            if mount["name"] not in volumes:
                yield f"{where} mounts {mount['name']}, which is no volume"
        for volume in volumes.values():
            if "projected" in volume and not list(secrets(volume)):
                yield f"{where}: the volume {volume['name']} is made of nothing"
            for made_of, target in (
                *(("Secret", one) for one in secrets(volume)),
                ("ConfigMap", volume.get("configMap", {}).get("name")),
                ("PersistentVolumeClaim", volume.get("persistentVolumeClaim", {}).get("claimName")),
            ):
                if target and (made_of, target) not in there:
                    yield f"{where}: {made_of} {target} is not there"
        for entry in container.get("env", ()):
            path = str(entry.get("value", ""))
            mounts = [mount["mountPath"] for mount in container.get("volumeMounts", ())]
            if entry["name"].endswith("_FILE") and not any(path.startswith(f"{mount}/") for mount in mounts):
                yield f"{where}: {entry['name']} is {path}, where nothing is mounted"
    for thing in kind(objects, "Secret"):
        yield f"{name(thing)} is in the repository"


def transport(objects: list[Object]) -> Iterator[str]:
    """All speak TLS, each with a certificate of its own."""
    for where, template, container in containers(objects):
        component = template["metadata"]["labels"][_COMPONENT]
        said = " ".join(map(str, (*container.get("command", ()), *container.get("args", ()))))
        entries = {entry["name"]: str(entry.get("value", "")) for entry in container.get("env", ())}
        if component == "redis":
            if "--port 0 --tls-port 6379" not in said or "--aclfile" not in said:
                yield f"{where} serves without TLS, or to anybody"
        elif entries.get("OVERWORLD_TLS") not in [mount["mountPath"] for mount in container["volumeMounts"]]:
            yield f"{where}: OVERWORLD_TLS is {entries.get('OVERWORLD_TLS')}, where nothing is mounted"
        if re.search(r"\bredis://|\bhttp://|plaintext|insecure", said, re.I) or "OVERWORLD_PLAINTEXT" in entries:
            yield f"{where} talks without TLS"
        if [name for name in own_secrets(template) if name.endswith("-tls")] != [f"{own_name(template)}-tls"]:
            yield f"{where} has the certificates {own_secrets(template)}"
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container.get(probe, {})
            if "grpc" in asked:
                yield f"{where}: {probe} asks over gRPC, which Kubernetes does without TLS"
            if component == "policy-server" and asked.get("httpGet", {}).get("scheme") != "HTTPS":
                yield f"{where}: {probe} asks without TLS"


def tenants(objects: list[Object]) -> Iterator[str]:
    """No service can read what another shows, the policy server's key aside, which the evaluator has; and no client can
    have all slots of an env server.
    """
    for where, template, container in containers(objects):
        component = template["metadata"]["labels"][_COMPONENT]
        name = own_name(template)
        allowed = {name, f"{name}-tls"} | ({"policy-server"} if component == "evaluator" else set())
        if foreign := set(own_secrets(template)) - allowed:
            yield f"{where} can read {sorted(foreign)}"
        entries = {entry["name"]: str(entry.get("value", "")) for entry in container.get("env", ())}
        if component == "env-server":
            if entries.get("NAME") != name:
                yield f"{where}: its secrets are those of {entries.get('NAME')!r}"
            if not any(str(argument).startswith("--quotas.evaluator.slots=") for argument in container["args"]):
                yield f"{where}: an evaluation may take all slots"


def own_name(template: Object) -> str:
    """By which a pod's secrets go: that of its simulator, or of its component."""
    labels = template["metadata"]["labels"]
    name: str = labels.get("app.kubernetes.io/name", labels[_COMPONENT])
    return name


def own_secrets(template: Object) -> list[str]:
    """Names of all Secrets that a pod mounts."""
    return [name for volume in template["spec"].get("volumes", ()) for name in secrets(volume)]


def certificates(objects: list[Object]) -> Iterator[str]:
    """Where cert-manager makes them, there is one for each Secret that is mounted, for the right name."""
    made = {one["spec"]["secretName"]: one["spec"] for one in kind(objects, "Certificate")}
    issuers = {issuer["metadata"]["name"] for issuer in kind(objects, "Issuer")}
    if not made:
        return
    for _, template, _ in containers(objects):
        name = own_name(template)
        if f"{name}-tls" not in made:
            yield f"no Certificate is for {name}"
        elif made[f"{name}-tls"]["dnsNames"][0] != name:
            yield f"the Certificate for {name} is for {made[f'{name}-tls']['dnsNames']}"
    for name, spec in made.items():
        if spec["issuerRef"]["name"] not in issuers:
            yield f"the issuer {spec['issuerRef']['name']} of {name} is not there"


def endings(objects: list[Object]) -> Iterator[str]:
    """What is drained gets longer than the services take (30 s), and Deployments have a PodDisruptionBudget."""
    budgets = [budget["spec"]["selector"]["matchLabels"] for budget in kind(objects, "PodDisruptionBudget")]
    for workload in kind(objects, "Deployment"):
        labels = pod(workload)["metadata"]["labels"]
        grace = pod(workload)["spec"].get("terminationGracePeriodSeconds", 30)
        if labels[_COMPONENT] != "redis" and grace <= 30:
            yield f"{name(workload)} has {grace} s to end"
        if not any(selected(labels, budget) for budget in budgets):
            yield f"{name(workload)} has no PodDisruptionBudget"
    for job in kind(objects, "Job"):
        if pod(job)["metadata"]["labels"][_COMPONENT] == "trainer" and "podFailurePolicy" not in job["spec"]:
            yield f"{name(job)} would repeat what cannot succeed"


def paths(objects: list[Object]) -> Iterator[str]:
    """The NetworkPolicies open what is expected and no more."""
    found = open_paths(objects)
    between_ranks = {("trainer", "trainer", port) for port in _TRIED} if any(torchruns(objects)) else set()
    expected = EXPECTED_PATHS | between_ranks
    yield from (f"{path} is closed" for path in sorted(expected - found))
    yield from (f"{path} is open" for path in sorted(found - expected, key=str))


def torchruns(objects: list[Object]) -> Iterator[tuple[Object, Object, dict[str, str]]]:
    """What torchrun makes a run of several ranks: the workload, its container, the environment there."""
    for workload in kind(objects, "Job", "TrainingRuntime"):
        (container, *_) = pod(workload)["spec"]["containers"]
        if container.get("command", [""])[0] == "torchrun":
            yield workload, container, {entry["name"]: str(entry.get("value")) for entry in container["env"]}


def ranks(objects: list[Object]) -> Iterator[str]:
    """All pods of a run find pod 0; they are started, and end, alike."""
    for workload, container, environment in torchruns(objects):
        where, template = name(workload), pod(workload)["spec"]
        options = dict(argument.partition("=")[::2] for argument in container["command"])
        if workload["kind"] == "Job":
            yield from _indexed(objects, workload, environment)
            per_node = environment.get("PET_NPROC_PER_NODE")
        else:
            per_node = str(_train_job(objects, workload)["spec"]["trainer"]["numProcPerNode"])
        host, _, port = options["--rdzv-endpoint"].partition(":")
        if host != "$(PET_MASTER_ADDR)" or options["--rdzv-backend"] != "c10d":
            yield f"{where}: its ranks do not meet at pod 0"
        if int(port) not in {one["containerPort"] for one in container["ports"]}:
            yield f"{where}: its port {port} is not declared"
        gpus = container["resources"]["limits"].get("nvidia.com/gpu", per_node)
        if per_node != gpus:
            yield f"{where}: {per_node} ranks a pod for {gpus} GPUs"
        if environment.get("OVERWORLD_PARALLEL") not in ("replicate", "shard"):
            yield f"{where}: its ranks have nothing to share"
        if environment.get("TORCH_DISABLE_SHARE_RDZV_TCP_STORE") != "1":
            yield f"{where}: ranks that are started again look for the store of a pod that may be lost"
        if int(options["--shutdown-timeout"]) >= template["terminationGracePeriodSeconds"]:
            yield f"{where}: torchrun gives its ranks more time to end than the pod has"
        claims = {claim["metadata"]["name"]: claim["spec"] for claim in kind(objects, "PersistentVolumeClaim")}
        for volume in template["volumes"]:
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim and not claims[claim]["accessModes"][0].endswith("Many"):
                yield f"{where}: {claim} cannot be mounted on several nodes"


def _indexed(objects: list[Object], job: Object, environment: dict[str, str]) -> Iterator[str]:
    """A Job whose pods have names."""
    spec, subdomain = job["spec"], pod(job)["spec"].get("subdomain")
    if spec.get("completionMode") != "Indexed":
        yield f"{name(job)}: its pods have no numbers"
    if not str(spec.get("completions")) == str(spec.get("parallelism")) == environment.get("PET_NNODES"):
        yield f"{name(job)}: completions, parallelism and PET_NNODES differ"
    if environment.get("PET_MASTER_ADDR") != f"{job['metadata']['name']}-0.{subdomain}":
        yield f"{name(job)}: its pod 0 is not called {environment.get('PET_MASTER_ADDR')}"
    services = {service["metadata"]["name"]: service["spec"] for service in kind(objects, "Service")}
    service = services.get(subdomain, {})
    if service.get("clusterIP") != "None" or not service.get("publishNotReadyAddresses"):
        yield f"{name(job)}: no headless Service names its pods from their start"


def _train_job(objects: list[Object], runtime: Object) -> Object:
    """The TrainJob of a TrainingRuntime."""
    wanted = {"apiGroup": "trainer.kubeflow.org", "kind": "TrainingRuntime", "name": runtime["metadata"]["name"]}
    (job,) = (one for one in kind(objects, "TrainJob") if one["spec"]["runtimeRef"] == wanted)
    return job


CHECKS: list[Callable[[list[Object]], Iterator[str]]] = [
    names, namespaces, selectors, ports, probes, resources, images, restricted, references, transport, tenants,
    certificates, endings, paths, ranks,
]  # fmt: skip


def open_paths(objects: list[Object]) -> set[tuple[str, str, Any]]:
    """(from, to, port) of all that may pass, by the semantics of NetworkPolicies.

    A pod that a policy of a direction selects may do in it what some such policy allows; a pod that none selects, all.
    Beyond our components there are DNS, monitoring, and a stranger from somewhere else.
    """
    here = {"kubernetes.io/metadata.name": "overworld"}
    peers: dict[str, tuple[dict[str, str], dict[str, str]]] = {
        component: ({_COMPONENT: component}, here)
        for component in ("trainer", "evaluator", "env-server", "redis", "policy-server")
    }
    ours = set(peers)
    peers[_DNS] = {"k8s-app": "kube-dns"}, {"kubernetes.io/metadata.name": "kube-system"}
    peers[_MONITORING] = {"app": "prometheus"}, {"kubernetes.io/metadata.name": "monitoring"}
    peers["stranger"] = {}, {"kubernetes.io/metadata.name": "default"}
    peers["neighbour"] = {}, here
    policies = [thing["spec"] for thing in kind(objects, "NetworkPolicy")]

    def may(direction: str, side: str, component: str, other: str, port: int) -> bool:
        labels, namespace = peers[component]
        if namespace != here:  # not ours to close
            return True
        applying = [one for one in policies if direction in one["policyTypes"] and matches(labels, one["podSelector"])]
        if not applying:
            return True
        rules = [rule for one in applying for rule in one.get(direction.lower(), ())]
        return any(_allows(rule, side, *peers[other], here, port) for rule in rules)

    return {
        (source, target, port)
        for source in peers
        for target in peers
        for port in _TRIED
        if source in ours or target in ours
        if may("Egress", "to", source, target, port) and may("Ingress", "from", target, source, port)
    }


def _allows(
    rule: Object, side: str, labels: dict[str, str], namespace: dict[str, str], here: dict[str, str], port: int
) -> bool:
    if "ports" in rule and port not in [one.get("port") for one in rule["ports"]]:
        return False
    if side not in rule:
        return True
    return any(
        matches(labels, peer.get("podSelector", {}))
        and (matches(namespace, peer["namespaceSelector"]) if "namespaceSelector" in peer else namespace == here)
        for peer in rule[side]
        if "ipBlock" not in peer
    )


def matches(labels: dict[str, str], selector: Object) -> bool:
    """A LabelSelector; the empty one matches all."""
    for expression in selector.get("matchExpressions", ()):
        assert expression["operator"] == "In", expression
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return selected(labels, selector.get("matchLabels", {}))


def selected(labels: dict[str, str], wanted: dict[str, str]) -> bool:
    return wanted.items() <= labels.items()


def amount(quantity: str) -> float:
    """A quantity as a number."""
    units = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    number, unit = re.fullmatch(r"([\d.]+)(\w*)", str(quantity)).groups()  # type: ignore[union-attr]
    return float(number) * units.get(unit, 1)
