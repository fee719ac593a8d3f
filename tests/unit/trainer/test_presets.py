"""The settings under configs/ are accepted, the presets for GPUs on top of any env's, and their memory adds up."""

import itertools
import re
from pathlib import Path

import pytest
from overworld_trainer.config import TrainerConfig
from overworld_vlm.budget import activation_bytes

CONFIGS = Path(__file__).parents[3] / "configs"
ENVS = sorted([*CONFIGS.glob("tiny/*.yaml"), *CONFIGS.glob("paper/*.yaml")])
GPUS = sorted(CONFIGS.glob("gpu/*.yaml"))
SIZES = {"Qwen2-VL-7B-Instruct": (3584, 18944, 28), "Qwen2.5-VL-3B-Instruct": (2048, 11008, 36)}
"""Hidden size, width of the MLPs and layers, from the models' config.json."""


def load(*files: Path) -> TrainerConfig:
    return TrainerConfig.load([*map(str, files), "run=runs/mine"])


def test_nothing_under_configs_is_left_out() -> None:
    assert sorted(CONFIGS.rglob("*.y*ml")) == sorted([*ENVS, *GPUS])
    paper, tiny = ({path.stem for path in CONFIGS.glob(f"{folder}/*.yaml")} for folder in ("paper", "tiny"))
    assert tiny - paper == {"lab"}, "which the paper does not know"
    assert paper < tiny


@pytest.mark.parametrize("path", ENVS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_settings_of_an_env_are_accepted(path: Path) -> None:
    config = load(path)
    assert path.stem in {env.id.split("/")[0] for env in config.envs}
    # Rollouts are cut into whole minibatches.
    assert sum(env.slots for env in config.envs) * config.rollout_steps % config.policy.minibatch == 0


@pytest.mark.parametrize(("env", "gpu"), list(itertools.product(ENVS, GPUS)), ids=lambda path: path.stem)
def test_a_preset_for_a_gpu_goes_on_top(env: Path, gpu: Path) -> None:
    config = load(env, gpu)
    assert config.model.path != "tiny"
    assert config.envs == load(env).envs


@pytest.mark.parametrize("path", GPUS, ids=lambda path: path.stem)
def test_the_memory_of_a_preset_adds_up_and_fits(path: Path) -> None:
    config, text = load(ENVS[0], path), path.read_text()
    lines = re.findall(r"^#   (\S[a-z ]*?) +(\d+\.\d\d)\b", text, re.MULTILINE)
    gigabytes = {name: float(number) for name, number in lines}
    total = gigabytes.pop("sum")
    assert total == pytest.approx(sum(gigabytes.values()), abs=0.005)
    assert total <= 0.95 * int(path.name.split("gb-")[0])
    hidden, intermediate, layers = SIZES[Path(config.model.path).name]
    per_token = activation_bytes(
        hidden, intermediate, layers, 2, checkpointing=config.model.gradient_checkpointing, adapters=True
    )
    assert config.model.batch_tokens is not None
    assert gigabytes["activations"] == pytest.approx(config.model.batch_tokens * per_token / 1e9, abs=0.01)
    assert gigabytes["frames"] == pytest.approx(config.model.vision_memory * 2**30 / 1e9, abs=0.01)
