"""Chat templates that come with a model's folder and are written to harm whoever renders them."""

import threading
import time
from collections.abc import Iterator

import psutil
import pytest
from overworld_vlm.tiny import make_tiny

from tests.integration.policy.conftest import TINY, Served, serve
from tests.support.checkpoints import TEXTS, write

HOSTILE = {
    "looping": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "stuck_in_c": "{{ 7 ** (10 ** 8) % 2 }}",
    "multiplying": "{{ 'a' * 10 ** 10 }}",
    "doubling": "{% set n = namespace(x='a') %}{% for i in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "silent": "{# nothing #}",
    "writing": "{% for i in range(1000) %}{{ 'a' * 100000 }}{% endfor %}",
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    runs = tmp_path_factory.mktemp("runs")
    vlm = make_tiny(TEXTS, TINY, 0)
    sound = vlm.tokenizer.chat_template
    for name in ("sound", *HOSTILE):
        vlm.tokenizer.chat_template = HOSTILE.get(name, sound)
        write(runs / name / "checkpoints" / "000000", vlm, 0)
    served = serve(runs)
    served.chat(model="sound@0")
    yield served
    served.stop()


def memory(served: Served) -> float:
    """MB of the server itself."""
    return psutil.Process(served.process.pid).memory_info().rss / 1e6


@pytest.mark.parametrize(
    ("name", "says"),
    [("looping", "CPU time"), ("stuck_in_c", "CPU time"), ("multiplying", "memory"), ("doubling", "memory")],
)
def test_a_template_that_goes_beyond_all_bounds_is_stopped_and_left_alone(served: Served, name: str, says: str) -> None:
    served.chat(model="sound@0")
    before = memory(served)
    errors: list[str] = []
    asking = [
        threading.Thread(target=lambda: errors.append(served.error(model=f"{name}@0", status=404)["message"]))
        for _ in range(4)
    ]
    for thread in asking:
        thread.start()
    waited = []
    while any(thread.is_alive() for thread in asking):
        began = time.monotonic()
        served.chat(model="sound@0", max_tokens=1)
        waited.append(time.monotonic() - began)
    for thread in asking:
        thread.join()
    assert len(set(errors)) == 1
    assert "the model's chat template" in errors[0]
    assert says in errors[0]
    assert memory(served) < before + 50
    assert len(waited) > 5, "the others' chats waited for the template"
    began = time.monotonic()
    assert served.error(model=f"{name}@0", status=404)["message"] == errors[0]
    assert time.monotonic() - began < 1


def test_a_template_that_writes_too_much_makes_a_prompt_that_is_too_long(served: Served) -> None:
    before = memory(served)
    error = served.error(model="writing@0")
    assert error["code"] == "context_length_exceeded"
    assert "100000000 characters" in error["message"]
    assert memory(served) < before + 50
    served.chat(model="sound@0")


def test_a_template_that_writes_nothing_makes_no_prompt(served: Served) -> None:
    assert "empty prompt" in served.error(model="silent@0")["message"]


def test_the_processes_of_templates_end_with_the_server(served: Served) -> None:
    served.chat(model="sound@0")
    others = serve(served.runs)
    others.chat(model="sound@0")
    (renderer,) = psutil.Process(others.process.pid).children()
    others.process.kill()
    renderer.wait(60)
    others.stop()
