"""The trainer's settings. Values that suit the paper's models are the defaults; nothing needs tuning between envs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from overworld.client.settings import ClientSettings
from overworld.evaluation.conversation import Recipe
from overworld_vlm.tiny_config import TinyConfig
from pydantic import BaseModel, ConfigDict, Field, model_validator

from overworld_trainer.algorithms import ALGORITHMS, Algorithm, AlgorithmName
from overworld_trainer.losses import KlKind


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EnvConfig(_Section):
    """An env to train in."""

    id: str = Field(description="env id, e.g. gym_cards/NumberLine")
    slots: int = Field(default=16, ge=2, description="episodes played at once")
    options: dict[str, Any] = Field(default={}, description="the env's options")
    split: str = Field(default="", description="split to train on; empty: the env's default")
    evaluation_split: str = Field(
        default="", description="split to evaluate on; empty: that of training, with other seeds if it is endless"
    )
    weight: float = Field(default=1.0, gt=0, description="weight of this env's steps in the policy's loss")
    share: float = Field(default=1.0, gt=0, description="its share of sampling.slots, in proportion to other envs'")
    from_env_steps: int = Field(default=0, ge=0, description="env steps of the run after which it is played")
    until_env_steps: int | None = Field(
        default=None, ge=1, description="env steps of the run after which it is played no more; null: to the end"
    )
    from_success: float | None = Field(
        default=None, gt=0, le=1, description="success rate of the env before it from which it is played; null: any"
    )
    fallback_reward: float | None = Field(
        default=None,
        description="reward of a turn whose reply held no admissible action, in training and in evaluation; null: less "
        "than that of any action, min(reward_min, 0) - .1 x the reward scale, so that silence does not pay",
    )


class LoraConfig(_Section):
    """An adapter on the language model's linear layers. Dropout is 0: it would make the policy another in each pass."""

    r: int = Field(default=16, ge=1, description="rank")
    alpha: int = Field(default=32, ge=1, description="scale: alpha / r")


class ModelConfig(_Section):
    """The model."""

    path: str = Field(default="tiny", description="folder in Hugging Face's layout; tiny: one is made on the spot")
    tiny: TinyConfig = TinyConfig()
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="type of the weights; of those in bfloat16 that are trained the optimizer keeps fp32 copies",
    )
    device: str = Field(default="auto", description="cpu, cuda, cuda:1, ...; auto: a GPU if there is one")
    lora: LoraConfig | None = Field(default=None, description="adapter to train; null: all weights are trained")
    gradient_checkpointing: bool = Field(default=False, description="less memory in updates for a third more time")
    batch_tokens: int | None = Field(
        default=None,
        ge=1,
        description="tokens, padding included, that go through the model at once; bounds memory only. "
        "null: as many as fit into the device's free memory",
    )
    cuda_graphs: bool = Field(
        default=False, description="whether a GPU gets the kernels of a token at once when replies are written"
    )
    vision_memory: float = Field(
        default=1.0,
        ge=0,
        description="GiB on the model's device for the features of frames, which spare them the vision tower until its "
        "weights change",
    )
    freeze_vision: bool = Field(
        default=False, description="whether the vision tower keeps its weights where all others are trained"
    )
    min_pixels: int | None = Field(default=None, ge=1, description="smallest area of an image; null: the model's own")
    max_pixels: int | None = Field(default=None, ge=1, description="largest area of an image; null: the model's own")
    tiling: bool | None = Field(
        default=None, description="whether large images are cut into tiles; null: as the model was last saved, or off"
    )


class CloneConfig(_Section):
    """Cloning before RL: of the envs' experts, or of episodes on disk."""

    updates: int = Field(default=0, ge=0, description="optimizer steps; 0: no cloning")
    episodes: tuple[Path, ...] = Field(
        default=(), description="folders of episodes to clone (docs/episodes.md); none: the envs' experts are cloned"
    )
    successful: bool = Field(default=True, description="clone only episodes that were a success; not for experts")
    min_return: float | None = Field(default=None, description="clone only episodes with this return; null: any")
    lr: float = Field(default=1e-3, gt=0, description="learning rate, falling to 0 along a cosine")
    random_actions: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="share of an expert's actions replaced by random ones; thoughts stay. With 1 no expert is needed "
        "where recipe.reply is action or bare",
    )
    lora: LoraConfig | None = Field(default=None, description="adapter to clone with, merged afterwards; null: none")


class KlConfig(_Section):
    """The KL to the policy at the start of RL."""

    kind: KlKind = Field(default="k3_loss", description="see losses.kl_penalty")
    beta: float = Field(default=0.05, ge=0, description="its weight")


class PolicyConfig(_Section):
    """PPO."""

    epochs: int = Field(default=2, ge=1, description="passes over a rollout")
    minibatch: int = Field(default=128, ge=1, description="steps per optimizer step")
    lr: float = Field(default=5e-5, gt=0, description="learning rate")
    lr_end: float = Field(default=1e-7, ge=0, description="learning rate at the last update, along a cosine")
    lr_updates: int | None = Field(
        default=None,
        ge=1,
        description="updates until lr_end; null: `updates`. A run keeps the number it began with, so that more updates "
        "continue at lr_end",
    )
    clip: float = Field(default=0.2, gt=0, lt=1, description="bound of the ratio's distance from 1")
    dual_clip: float | None = Field(
        default=None,
        gt=1,
        description="bound of the ratio where the advantage is negative, e.g. 3; null: none, as in VL-DAC",
    )
    thought_weight: float = Field(
        default=0.5, ge=0, description="weight of the thoughts' log-probs in a step's, the lambda of algorithm = rl4vlm"
    )
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradients are clipped to this norm")


class CriticConfig(_Section):
    """The value head."""

    layers: tuple[int, ...] = Field(default=(3072, 2048), description="widths of the MLP's hidden layers")
    epochs: int = Field(default=4, ge=1, description="passes over a rollout")
    minibatch: int = Field(default=128, ge=1, description="steps per optimizer step")
    lr: float = Field(default=1e-4, gt=0, description="learning rate")
    coefficient: float = Field(
        default=1.0, gt=0, description="c_V, weight of the value loss; matters where the backbone shares its gradient"
    )
    clip: float | None = Field(default=None, gt=0, description="value clipping; null: none")
    max_grad_norm: float = Field(default=1.0, gt=0, description="gradients are clipped to this norm")
    warmup_updates: int = Field(default=2, ge=0, description="first updates, in which only the critic learns")
    warmup_epochs: int = Field(
        default=40,
        ge=1,
        description="most passes over a rollout in these; they end where held-out slots are no longer predicted better",
    )
    stop_gradient: bool = Field(
        default=True, description="whether the value loss stays out of the backbone; the head learns alike either way"
    )
    input: Literal["last_prompt_token", "prompt_mean"] = Field(
        default="last_prompt_token", description="what of the prompt the critic sees"
    )


class TableConfig(_Section):
    """Episodes of training, kept to be looked at."""

    every: int = Field(default=10, ge=0, description="updates between tables of episodes; 0: none")
    episodes: int = Field(default=4, ge=1, le=1000, description="episodes of each env in a table")


class SamplingConfig(_Section):
    """How an update's slots are divided among the envs."""

    slots: int | None = Field(default=None, ge=1, description="slots that play in an update; null: all of them")
    by: Literal["share", "progress"] = Field(
        default="share",
        description="what divides them: the envs' shares; or these times how fast each env's return is changing, "
        "but for a fifth of the slots",
    )


class EvaluationConfig(_Section):
    """Evaluation on episodes held out from training."""

    every: int = Field(default=0, ge=0, description="updates between evaluations; 0: none")
    episodes: int = Field(
        default=100, ge=1, lt=2**31, description="episodes of each env; a finite split may have fewer"
    )
    seed: int = Field(default=0, ge=0, lt=2**31, description="first of their seeds; training's start at 2^32")
    slots: int = Field(default=16, ge=1, description="episodes played at once, besides those of training")
    greedy: bool = Field(default=False, description="evaluate the likeliest replies, not sampled ones")
    diagnose: bool = Field(
        default=False,
        description="also find out why the policy fails (docs/diagnose.md): about ten times the episodes, on env "
        "servers started with --allow-expert",
    )
    patience: int | None = Field(
        default=None, ge=1, description="evaluations without a better one after which the run ends; null: it does not"
    )


class WandbConfig(_Section):
    """A run in Weights & Biases."""

    project: str = Field(default="overworld", min_length=1, description="project")
    entity: str | None = Field(default=None, description="user or team; null: the user's own default")
    mode: Literal["online", "offline"] = Field(
        default="online", description="offline: kept in the run's folder, to be uploaded with `wandb sync`"
    )
    group: str | None = Field(default=None, description="group of runs, e.g. one experiment with several seeds")
    name: str | None = Field(default=None, description="name of the run; null: that of its folder")


class TrainerConfig(ClientSettings):
    """Trains an agent, with VL-DAC unless told otherwise; a run that holds checkpoints is resumed."""

    run: Path = Field(description="the run's folder; if it holds checkpoints, the run is resumed")
    seed: int = Field(default=0, ge=0, description="decides everything")
    algorithm: AlgorithmName = Field(
        default="vl_dac",
        description="vl_dac or a baseline; those without a critic (all but rl4vlm) learn from whole episodes",
    )
    group_size: int = Field(
        default=4, ge=2, description="episodes of the same task that loop, rloo, grpo and gigpo compare with each other"
    )
    updates: int = Field(default=100, ge=1, description="rollouts to learn from, warm-up included")
    max_env_steps: int | None = Field(
        default=None,
        ge=1,
        description="env steps after which no further update begins, whatever `updates` says; null: no bound",
    )
    rollout_steps: int = Field(
        default=8, ge=1, description="steps of each slot per update; without a critic it plays one whole episode"
    )
    checkpoint_every: int = Field(default=10, ge=1, description="updates between checkpoints")
    checkpoint_minutes: float | None = Field(
        default=15.0, gt=0, description="minutes after which the next update gets a checkpoint in any case; null: never"
    )
    keep_checkpoints: int = Field(default=2, ge=1, description="newest checkpoints that keep the state for resuming")
    keep_weights: int | None = Field(
        default=None, ge=1, description="newest checkpoints kept at all, besides the start and the best; null: all"
    )
    servers: str = Field(default="127.0.0.1:50051", description="env servers: addresses, or rediss://host:port/0")
    envs: tuple[EnvConfig, ...] = Field(min_length=1)
    model: ModelConfig = ModelConfig()
    recipe: Recipe = Recipe()
    blank_frames: bool = Field(
        default=False,
        description="show white pictures instead, in cloning, training and evaluation: a control that says what can be "
        "learnt without sight",
    )
    max_new_tokens: int = Field(default=128, ge=1, description="longest reply")
    temperature: float = Field(default=1.0, gt=0, description="of sampling and of scoring")
    max_batch: int = Field(default=64, ge=1, description="replies that are written at once")
    clone: CloneConfig = CloneConfig()
    gamma: float = Field(default=0.99, gt=0, le=1, description="discount")
    lam: float = Field(default=0.95, ge=0, le=1, description="GAE's lambda")
    time_limit: Literal["bootstrap", "penalty"] = Field(
        default="bootstrap",
        description="a host's time limit adds the final state's value, or counts as -1, whatever the reward scale",
    )
    kl: KlConfig = KlConfig()
    policy: PolicyConfig = PolicyConfig()
    critic: CriticConfig = CriticConfig()
    sampling: SamplingConfig = SamplingConfig()
    table: TableConfig = TableConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    parallel: Literal["none", "replicate", "shard"] = Field(
        default="none",
        description="how the processes that torchrun starts share a model: each has all of it, or a part (FSDP2). "
        "docs/scale.md",
    )
    rank_timeout: float = Field(
        default=1800.0, gt=0, description="seconds after which a process that is not heard of is given up"
    )
    threads: int = Field(default=0, ge=0, description="CPU threads of torch; 0: its own choice")
    retry_budget: float = Field(default=300.0, gt=0, description="seconds to wait for a lost env server")
    metrics_host: str = Field(default="127.0.0.1", description="address of /metrics for Prometheus")
    metrics_port: int = Field(default=0, ge=0, le=65535, description="its port; 0: no metrics are served")
    wandb: WandbConfig | None = Field(default=None, description="logging to Weights & Biases; null: none")
    profile_update: int | None = Field(
        default=None, ge=0, description="number of the update, from 0, of which a trace is written; null: none"
    )

    @property
    def parts(self) -> Algorithm:
        """What the algorithm is put together from."""
        return ALGORITHMS[self.algorithm]

    @property
    def steps_per_slot(self) -> int | None:
        """What each slot plays per update: so many steps, or one whole episode (None)."""
        return self.rollout_steps if self.parts.critic else None

    @property
    def slots_per_task(self) -> int:
        """How many neighbouring slots of an env play the same task."""
        return self.group_size if self.parts.grouped else 1

    @property
    def warmup_updates(self) -> int:
        """First updates, in which only the critic learns."""
        return self.critic.warmup_updates if self.parts.critic else 0

    @property
    def is_sampled(self) -> bool:
        """Whether some slots may not play in some updates."""
        return self.sampling.slots is not None or any(
            env.from_env_steps or env.until_env_steps is not None or env.from_success is not None for env in self.envs
        )

    @model_validator(mode="after")
    def _check_sampling(self) -> TrainerConfig:
        if self.is_sampled and self.parallel != "none":
            raise ValueError("sampling, from_* and until_env_steps work in one process only: set parallel = none")
        if self.envs[0].from_success is not None:
            raise ValueError(f"envs.0.from_success: there is no env before {self.envs[0].id}")
        certain = [env for env in self.envs if env.from_success is None]
        borders = {0, *(env.until_env_steps for env in certain if env.until_env_steps is not None)}
        for steps in sorted(borders):
            if not any(_is_due(env, steps) for env in certain):
                raise ValueError(
                    f"after {steps} env steps no env is certain to be played: give one without from_success another "
                    "from_env_steps or until_env_steps"
                )
        needed = len(self.envs) * self.slots_per_task
        if self.sampling.slots is not None and self.sampling.slots < needed:
            raise ValueError(
                f"sampling.slots = {self.sampling.slots} cannot give each of {len(self.envs)} envs a task: at least "
                f"{needed} are needed"
            )
        return self

    @model_validator(mode="after")
    def _check(self) -> TrainerConfig:
        if self.keep_weights is not None and self.keep_weights < self.keep_checkpoints:
            raise ValueError(
                f"keep_weights = {self.keep_weights} is less than keep_checkpoints = {self.keep_checkpoints}: a run "
                "cannot be resumed without weights; set it to that at least, or to null"
            )
        if self.gamma == 1 and self.time_limit == "bootstrap" and self.parts.critic:
            raise ValueError("gamma = 1 with time_limit = bootstrap has any constant V as a solution: choose another")
        if self.time_limit == "penalty" and not self.recipe.turns_left:
            raise ValueError("time_limit = penalty punishes what the agent cannot see: set recipe.turns_left = true")
        if self.blank_frames and self.evaluation.diagnose:
            raise ValueError(
                "a diagnosis shows the env's own frames: set evaluation.diagnose = false with blank_frames"
            )
        if self.model.path == "tiny" and not self.clone.updates:
            raise ValueError(
                "the tiny model starts from random weights and finds no format by itself: set clone.updates"
            )
        if self.clone.episodes and not self.clone.updates:
            raise ValueError("clone.episodes are to be cloned, in no update: set clone.updates")
        if self.parts.of_tokens and (
            self.parallel != "none" or not self.critic.stop_gradient or self.critic.input != "last_prompt_token"
        ):
            raise ValueError(
                f"algorithm = {self.algorithm} has a value for each token: it takes parallel = none, "
                "critic.stop_gradient = true and critic.input = last_prompt_token"
            )
        for env in self.envs if self.parts.grouped else ():
            if env.slots % self.group_size:
                raise ValueError(
                    f"algorithm = {self.algorithm} has {self.group_size} slots play the same task (group_size), and "
                    f"{env.id} has {env.slots}: give it a multiple of that"
                )
        if self.evaluation.patience is not None and not self.evaluation.every:
            raise ValueError("evaluation.patience counts evaluations, and there are none: set evaluation.every")
        if self.evaluation.diagnose and not self.evaluation.every:
            raise ValueError("evaluation.diagnose goes with evaluations, and there are none: set evaluation.every")
        return self


def _is_due(env: EnvConfig, env_steps: int) -> bool:
    return env.from_env_steps <= env_steps and (env.until_env_steps is None or env_steps < env.until_env_steps)
