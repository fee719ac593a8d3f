"""The stack as users start it: what runs in it, who gets in, how it trains, what it survives, how it ends."""

from __future__ import annotations

import hmac
import json
import re
import secrets
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from overworld import Fleet
from overworld.evaluation.conversation import Recipe
from overworld.evaluation.evaluate import evaluate, tasks_of_split
from overworld.evaluation.openai_client import OpenAIModel
from overworld.host.process import ServerProcess

from tests.compose.stack import SECONDS, SECRETS, SERVERS, VERSION, Stack, run

pytestmark = [pytest.mark.compose, pytest.mark.timeout(1800)]

IMAGES = ("gym-cards", "miniworld", "alfworld", "webshop", "sdk", "trainer", "policy-server")
METRICS = {
    "gym-cards": ("http://localhost:9464/metrics", "overworld_slots_free 128.0"),
    "treasure": ("http://localhost:9464/metrics", "overworld_slots_free 64.0"),
    "policy-server": ("http://localhost:8000/metrics", "overworld_chats_in_flight 0.0"),
}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_has_a_user_a_health_check_and_no_secret(stack: Stack, name: str) -> None:
    (image,) = json.loads(run("docker", "image", "inspect", f"overworld/{name}:{VERSION}").stdout)
    config = image["Config"]
    assert config["User"] == "10001:10001"
    assert config["Healthcheck"]["Test"][1] == "healthcheck"
    assert not [entry for entry in config["Env"] if re.search("token|secret|passw|api_key|index_url", entry, re.I)]
    history = run("docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", image["Id"]).stdout
    assert not [token for token in stack.tokens("gym-cards").values() if token in history]
    assert stack.policy_key not in history
    files = ("docker", "run", "--rm", "--user", "0", "--network", "none", "--entrypoint", "find", image["Id"])
    assert run(*files, "/secrets", "/run/secrets", "-type", "f", check=False).stdout == ""
    assert run(*files, "/etc/pip.conf", "/app", "-type", "f", check=False).stdout.split() == ["/app/constraints.txt"]


def test_the_example_of_an_own_env_becomes_an_image(stack: Stack) -> None:
    run("docker", "build", "--tag", f"{stack.name}/treasure", "examples/own_env")
    try:
        listed = run("docker", "run", "--rm", "--entrypoint", "python3", f"{stack.name}/treasure", "-c", _ENVS).stdout
    finally:
        run("docker", "image", "rm", f"{stack.name}/treasure")
    assert listed == "['island/Treasure']\n"


_ENVS = "from overworld.authoring import catalogue; print(list(catalogue.load(['treasure:Treasure'])))"


def test_an_image_of_one_simulator_holds_no_torch_and_no_other_simulator(stack: Stack) -> None:
    listed = stack.execute("gym-cards", "pip", "list", "--format", "freeze").stdout
    packages = {line.partition("==")[0].lower() for line in listed.splitlines()}
    assert {"overworld", "overworld-envs", "numpy", "pillow"} <= packages
    assert not packages & {"torch", "transformers", "miniworld", "pyglet", "textworld", "fastapi"}


def test_a_package_in_an_image_has_its_version_and_the_licences_of_others(stack: Stack) -> None:
    code = "from importlib.metadata import distribution as of; d = of('overworld-envs'); print(d.version)"
    version, notice = stack.python("gym-cards", f"{code}; print(d.read_text('licenses/NOTICE'))").split("\n", 1)
    assert version == VERSION
    assert "Copyright (c) 2023 Princeton Natural Language Processing" in notice


@pytest.mark.parametrize("service", SERVERS)
def test_a_container_runs_without_rights(stack: Stack, service: str) -> None:
    container = stack.container(service)
    host = container["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert host["Memory"] > 0
    assert host["PidsLimit"] > 0
    status = stack.execute(service, "cat", "/proc/1/status").stdout
    assert re.search(r"^Uid:\s+10001\s+10001\s+10001\s+10001$", status, re.M)
    assert re.search(r"^CapEff:\s+0+$", status, re.M)
    refused = stack.execute(service, "sh", "-c", "echo > /file", check=False)
    assert "Read-only file system" in refused.stderr


def test_only_the_policy_server_is_published_and_only_on_loopback(stack: Stack) -> None:
    published = {
        service: [
            (port, entry["HostIp"], entry["HostPort"])
            for port, entries in (stack.container(service)["NetworkSettings"]["Ports"] or {}).items()
            for entry in entries or ()
        ]
        for service in SERVERS
    }
    expected: dict[str, list[tuple[str, str, str]]] = {service: [] for service in SERVERS}
    expected["policy-server"] = [("8000/tcp", "127.0.0.1", str(stack.port))]
    assert published == expected
    assert httpx.get(f"http://127.0.0.1:{stack.port}/health").json() == {"status": "ok"}
    assert any("publish this on loopback only" in line for line in stack.logs("policy-server"))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; tells this machine's own address
        (own, _) = probe.getsockname()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((own, stack.port), timeout=5)


def test_services_reach_whom_they_must_and_nobody_else(stack: Stack) -> None:
    def reaches(service: str, host: str, port: int) -> bool:
        code = f"import socket; socket.create_connection(('{host}', {port}), timeout=3)"
        done = stack.execute(service, "python3", "-c", code, check=False)
        assert done.returncode == 0 or "rror" in done.stderr.splitlines()[-1]
        return done.returncode == 0

    assert reaches("gym-cards", "redis", 6379)
    assert reaches("treasure", "gym-cards", 50051)
    assert not reaches("policy-server", "redis", 6379)
    assert not reaches("policy-server", "gym-cards", 50051)
    assert not reaches("gym-cards", "policy-server", 8000)
    gateway = ("192.0.2.1", 80)  # stands for the internet
    assert not reaches("gym-cards", *gateway)
    assert not reaches("policy-server", *gateway)


def test_env_servers_and_the_policy_server_ask_for_their_secret(stack: Stack) -> None:
    """For a token of their own, over TLS: one env server's token is of no use at another."""
    ps = ("overworld", "ps", "treasure:50051")
    wrong = stack.execute("gym-cards", "env", "--unset=OVERWORLD_TOKENS", *ps, check=False)
    assert wrong.returncode == 1
    assert "TOKEN_MISSING" in wrong.stdout
    plain = ("env", "--unset=OVERWORLD_TLS", "OVERWORLD_PLAINTEXT=true")
    assert "asks for TLS" in stack.execute("gym-cards", *plain, *ps, check=False).stdout
    uncertified = stack.execute("gym-cards", "env", "--unset=OVERWORLD_TLS", *ps, check=False)
    assert "the certificate of treasure:50051 was not issued by what this machine trusts" in uncertified.stdout
    tokens = {service: stack.tokens(service) for service in ("gym-cards", "treasure")}
    for service, listed in (("treasure", 0), ("gym-cards", 1)):
        token = ("env", "--unset=OVERWORLD_TOKENS", f"OVERWORLD_TOKEN={tokens[service]['trainer']}")
        said = stack.execute("gym-cards", *token, "overworld", "ps", "gym-cards:50051", "treasure:50051", check=False)
        assert said.stdout.count("TOKEN_WRONG") == 1
        assert ("gym_cards/NumberLine" in said.stdout, "island/Treasure" in said.stdout) == (bool(listed), not listed)
    url = f"http://127.0.0.1:{stack.port}/v1/models"
    assert httpx.get(url).status_code == 401
    assert httpx.get(url, headers={"Authorization": f"Bearer {stack.policy_key}"}).status_code == 200


@pytest.mark.parametrize("service", SERVERS)
def test_a_service_can_read_its_own_secret_and_no_other(stack: Stack, service: str) -> None:
    tls = ["ca.crt", "tls.crt", "tls.key"]
    files = {"redis": [*tls, "users.acl"]}.get(service, [*tls, "redis_password", "tokens"])
    own = ["/run/secrets/policy/key"] if service == "policy-server" else [f"{SECRETS}/{file}" for file in files]
    found = stack.execute(service, "find", "/run/secrets", "-type", "f", check=False).stdout
    assert sorted(found.split()) == sorted(own)
    mounted = {"policy-server": {"policy-key", "runs"}}.get(service, {f"{service}-secrets"})
    assert volumes(stack, service) == mounted
    for path in own:
        assert stack.execute(service, "stat", "--format=%a %u", path).stdout == "400 10001\n"
        refused = stack.execute(service, "rm", "--force", path, check=False)
        assert "Read-only file system" in refused.stderr


def volumes(stack: Stack, service: str) -> set[str]:
    """The named volumes that a service's container has mounted."""
    mounts = stack.container(service)["Mounts"]
    return {mount["Name"].removeprefix(f"{stack.name}_") for mount in mounts if mount["Type"] == "volume"}


@pytest.mark.parametrize("service", METRICS)
def test_a_service_tells_prometheus_how_it_is(stack: Stack, service: str) -> None:
    url, expected = METRICS[service]
    code = f"import urllib.request; print(urllib.request.urlopen('{url}').read().decode())"
    assert expected in stack.python(service, code)


def test_a_run_in_several_simulators_survives_crashes_of_env_server_and_trainer(stack: Stack) -> None:
    """Killed are one env server, then the trainer itself; each is back by itself and the run goes on to its end."""
    stack.up("trainer", TRAIN_RUN="killed")
    stack.wait("2 updates", lambda: stack.updates("killed") >= 2)
    code = "import urllib.request; print(urllib.request.urlopen('http://localhost:9464/metrics').read().decode())"
    metrics = stack.python("trainer", code)
    assert re.search(r'^overworld_trainer_updates\{env=""\} [2-9]\.0$', metrics, re.M)
    assert "overworld_trainer_charts_episodic_return{env=" in metrics or "overworld_trainer_losses" in metrics

    stack.crash("treasure")
    done = stack.updates("killed")
    stack.wait("the env server back", lambda: stack.healthy("treasure"))
    stack.wait("an update after it", lambda: stack.updates("killed") > done)
    assert stack.container("trainer")["RestartCount"] == 0

    stack.crash("trainer")
    stack.wait("the run finished", lambda: stack.state("trainer") == ("exited", 0))
    assert stack.updates("killed") == 6
    log = stack.logs("trainer")
    assert any("resuming from /runs/killed/checkpoints/" in line for line in log)
    for line in log:
        assert {"time", "level", "logger", "message"} <= json.loads(line).keys()
    envs = {env["id"] for env in card(stack, "killed@latest")["envs"]}
    assert envs == {"gym_cards/NumberLine", "miniworld/Hallway", "island/Treasure"}


def card(stack: Stack, name: str) -> dict[str, Any]:
    """What /v1/models says of a model."""
    headers = {"Authorization": f"Bearer {stack.policy_key}"}
    listed = httpx.get(f"http://127.0.0.1:{stack.port}/v1/models", headers=headers).json()["data"]
    described: dict[str, Any] = next(entry for entry in listed if entry["id"] == name)["overworld"]
    return described


def test_the_documented_command_trains_and_evaluates(stack: Stack) -> None:
    """One command: here two updates on the island, then ten episodes there."""
    variables = {
        "TRAIN_ENV": "island/Treasure",
        "TRAIN_RUN": "island",
        "TRAIN_SETTINGS": "tests/compose/island.yaml",
        "TRAIN_ARGUMENTS": "updates=2",
        "EVAL_ARGUMENTS": "--seeds 0-9 --max-tokens 64",
    }
    stack.compose("up", "--no-build", "trainer", "evaluator", check=True, **variables)
    assert stack.state("evaluator") == ("exited", 0)
    assert volumes(stack, "trainer") == {"trainer-secrets", "runs"}
    assert volumes(stack, "evaluator") == {"evaluator-secrets", "policy-key", "runs"}
    report = json.loads(stack.execute("policy-server", "cat", "/runs/island/evaluation/report.json").stdout)
    assert (report["model"], report["env"], report["episodes"]) == ("island@2", "island/Treasure", 10)
    assert report["options"]["max_turns"] == 20
    assert any("island@2 in island/Treasure, 10 episodes" in line for line in stack.logs("evaluator"))


def test_a_checkpoint_is_evaluated_from_outside_through_the_published_port(stack: Stack) -> None:
    """As somebody with simulators of their own does it."""
    options = {"size": 56, "colours": True, "max_turns": 20}
    with (
        ServerProcess("gym_cards") as server,
        OpenAIModel(
            f"http://127.0.0.1:{stack.port}/v1", "killed@latest", api_key=stack.policy_key, max_tokens=64
        ) as model,
        Fleet([server.address], "gym_cards/NumberLine", 10, options=options) as fleet,
    ):
        assert model.options("gym_cards/NumberLine") == options
        tasks = tasks_of_split(fleet.spec.splits, "deals")[:10]
        report, episodes = evaluate(model, fleet, tasks, recipe=model.recipe() or Recipe())
    assert report.episodes == len(episodes) == 10
    assert report.fingerprint == card(stack, "killed@latest")["weights"]


def test_chats_that_are_cut_leave_no_place_taken(stack: Stack) -> None:
    """As many as the policy server takes at a time, and more: if any kept its place, it would refuse all in the end."""
    message = [{"role": "user", "content": "Say something."}]
    body = json.dumps({"model": "killed@latest", "messages": message, "max_tokens": 256, "stream": True}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {stack.policy_key}\r\n"
    for number in range(300):
        with socket.create_connection(("127.0.0.1", stack.port), timeout=30) as connection:
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            time.sleep(number % 10 / 500)

    def free() -> bool:
        return "overworld_chats_in_flight 0.0" in httpx.get(f"http://127.0.0.1:{stack.port}/metrics").text

    stack.wait("every place free", free, 60)
    with OpenAIModel(f"http://127.0.0.1:{stack.port}/v1", "killed@latest", api_key=stack.policy_key) as model:
        assert model.recipe()


def test_sigterm_stops_every_service_within_its_grace(stack: Stack) -> None:
    """The trainer in the middle of a run, which then goes on."""
    stack.up("trainer", TRAIN_RUN="stopped", TRAIN_ARGUMENTS="updates=100000")
    stack.wait("an update", lambda: stack.updates("stopped") >= 1)
    seconds = {}

    def stop(service: str) -> None:
        started = time.monotonic()
        stack.compose("stop", service)
        seconds[service] = time.monotonic() - started

    stop("trainer")
    done = stack.updates("stopped")
    assert stack.state("trainer") == ("exited", 143)
    stack.up("trainer", TRAIN_RUN="stopped", TRAIN_ARGUMENTS=f"updates={done + 1}")
    stack.wait("the run finished", lambda: stack.state("trainer") == ("exited", 0))
    assert stack.updates("stopped") == done + 1
    assert any("resuming from" in line for line in stack.logs("trainer"))

    threads = [threading.Thread(target=stop, args=(service,)) for service in SERVERS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {service: stack.state(service) for service in SERVERS} == dict.fromkeys(SERVERS, ("exited", 0))
    assert all(taken < 30 for taken in seconds.values()), seconds
    stack.compose("up", "--detach", "--no-build", "--wait", *SERVERS)


def test_no_secret_is_printed_anywhere(stack: Stack) -> None:
    """Not in the logs of all that ran so far, nor in what the engine and Compose tell of the containers."""
    texts = {service: "\n".join(stack.logs(service)) for service in (*SERVERS, "secrets", "trainer", "evaluator")}
    assert all(texts[service] for service in ("trainer", "evaluator", "redis"))
    texts["config"] = stack.compose("config").stdout
    texts["inspect"] = run("docker", "inspect", *stack.compose("ps", "--all", "--quiet").stdout.split()).stdout
    servers = ("gym-cards", "miniworld", "alfworld", "webshop", "treasure")
    given = [token for service in servers for token in stack.tokens(service).values()]
    given += [stack.execute(service, "cat", f"{SECRETS}/redis_password").stdout for service in servers]
    assert len(set(given)) == 3 * len(servers)
    for secret in (*given, stack.policy_key):
        assert re.fullmatch("[0-9a-f]{64}", secret)
        assert [place for place, text in texts.items() if secret in text] == []


def test_secrets_stay_when_the_stack_goes_down_and_up(stack: Stack) -> None:
    before = stack.tokens("gym-cards"), certificate(stack, "gym-cards"), stack.policy_key
    stack.compose("down")
    stack.compose("up", "--detach", "--no-build", "--wait", *SERVERS)
    assert (stack.tokens("gym-cards"), certificate(stack, "gym-cards"), stack.policy_key) == before
    assert card(stack, "killed@latest")


def certificate(stack: Stack, service: str) -> str:
    return stack.execute(service, "cat", f"{SECRETS}/tls.crt").stdout


def test_redis_lets_a_service_do_what_it_must_and_no_more(stack: Stack) -> None:
    def ask(service: str, user: str, command: str) -> str:
        code = (
            f"import redis, pathlib; secrets = pathlib.Path('{SECRETS}'); "
            f"store = redis.Redis.from_url('rediss://{user}@redis:6379/0', ssl_ca_certs=secrets / 'ca.crt', "
            "ssl_certfile=secrets / 'tls.crt', ssl_keyfile=secrets / 'tls.key', "
            "password=(secrets / 'redis_password').read_text())\n"
            f"try: print(store.{command})\nexcept redis.RedisError as error: print(type(error).__name__)"
        )
        return stack.python(service, code).strip()

    assert ask("gym-cards", "gym-cards", "set('overworld:server:gym-cards:test', '{}', ex=1)") == "True"
    for command in ("set('overworld:server:treasure:test', '{}')", "keys('*')", "flushall()", "config_get()"):
        assert ask("gym-cards", "gym-cards", command) == "NoPermissionError"
    for user in ("treasure", "trainer", "default"):  # with another's password, or none
        assert ask("gym-cards", user, "ping()") == "AuthenticationError"


def test_tokens_are_exchanged_while_a_run_goes_on(stack: Stack) -> None:
    """Twice, so that the first ones are out of use; nothing is restarted, nothing fails."""
    first = stack.tokens("gym-cards")
    stack.up("trainer", TRAIN_RUN="exchanged", TRAIN_ARGUMENTS="updates=6")
    for done in (1, 3):
        stack.wait("an update", lambda done=done: stack.updates("exchanged") >= done)
        stack.compose("run", "--rm", "--no-deps", "-T", "secrets", "rotate")
    stack.wait("the run finished", lambda: stack.state("trainer") == ("exited", 0))
    assert stack.container("trainer")["RestartCount"] == 0
    assert not [line for line in stack.logs("trainer") if "TOKEN" in line]
    assert not set(first.values()) & set(stack.execute("gym-cards", "cat", f"{SECRETS}/tokens").stdout.split())
    stale = ("env", "--unset=OVERWORLD_TOKENS", f"OVERWORLD_TOKEN={first['trainer']}", "overworld", "ps")
    assert "TOKEN_WRONG" in stack.execute("gym-cards", *stale, "gym-cards:50051", check=False).stdout


def test_secrets_can_be_given(stack: Stack, tmp_path: Path) -> None:
    """A folder with both; what the services read then is a copy, and another folder replaces it."""
    other = Stack(f"overworld-test-{uuid.uuid4().hex[:8]}")
    url = f"http://127.0.0.1:{other.port}/v1/models"
    try:
        for number in range(2):
            folder = tmp_path / str(number)
            folder.mkdir(mode=0o700)
            given = {name: secrets.token_hex(8) for name in ("env_token", "policy_key")}
            for name, secret in given.items():
                (folder / name).write_text(secret)
            services = ("gym-cards", "policy-server")
            other.compose("up", "--detach", "--no-build", "--wait", *services, OVERWORLD_SECRETS=str(folder))
            assert other.policy_key == given["policy_key"]
            derived = hmac.new(given["env_token"].encode(), b"trainer at gym-cards", "sha256").hexdigest()
            assert other.tokens("gym-cards")["trainer"] == derived
            assert httpx.get(url, headers={"Authorization": f"Bearer {given['policy_key']}"}).status_code == 200
            assert httpx.get(url, headers={"Authorization": f"Bearer {stack.policy_key}"}).status_code == 401
    finally:
        other.down()


def test_everything_is_taken_down(stack: Stack) -> None:
    """The last test of this file: afterwards nothing of the project is left."""
    stack.down()
    for kind in (("ps", "--all"), ("volume", "ls"), ("network", "ls")):
        left = run("docker", *kind, "--quiet", "--filter", f"label=com.docker.compose.project={stack.name}")
        assert left.stdout == "", kind
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", stack.port), timeout=SECONDS)
