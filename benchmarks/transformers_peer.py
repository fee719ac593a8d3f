"""The same training as `training_run.py`, written on transformers alone: `transformers_peer.py SETTINGS.yaml`.

What a practised user would write: the model's own Processor, batched `generate` with a KV cache, batched scoring with
the model's own forward and `logits_to_keep`, PEFT, micro-batches of similar length. Prompts, env, numbers of steps,
epochs and minibatches, losses and advantages are those of the settings; only the model's part differs.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import frames_env
import torch
import yaml
from overworld import Act, Fallback, Fleet, Reset, open_registry
from overworld.evaluation.conversation import Conversation, Recipe
from overworld.host.process import ServerProcess
from overworld_trainer.advantages import Discount, Valuation, gae, normalise
from overworld_trainer.codec import as_arrays
from overworld_vlm.load import load, quieten_transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from tests.support.tiny_families import own_processor

MICROBATCH = 16
CLIP, BETA, GAMMA, LAMBDA = 0.2, 0.05, 0.99, 0.95


@dataclass(eq=False)
class Sample:
    """A decision; a prompt's tensors without padding."""

    ids: Tensor
    kinds: Tensor
    pixels: Tensor
    grids: Tensor
    reply: Tensor
    reward: float = 0.0
    unparseable: bool = False

    def __len__(self) -> int:
        return len(self.ids) + len(self.reply)


class Policy:
    """A model with an adapter, its Processor and its critic."""

    def __init__(self, settings: dict[str, Any]) -> None:
        vlm = load(settings["model"]["path"])
        self.processor = own_processor(vlm)
        self.template = vlm.tokenizer.chat_template
        self.end, self.pad = vlm.end_id, int(vlm.tokenizer.pad_token_id or 0)
        self.banned = vlm.banned.nonzero().flatten().tolist()
        self.temperature = settings["temperature"]
        self.longest = settings["max_new_tokens"]
        lora = settings["model"]["lora"]
        adapter = LoraConfig(r=lora["r"], lora_alpha=lora["alpha"], target_modules=vlm.family.lora_targets)
        self.model: Any = get_peft_model(vlm.model, adapter).eval()
        (width,) = settings["critic"]["layers"]
        self.features = vlm.hidden_size
        self.critic = nn.Sequential(nn.Linear(self.features, width), nn.ReLU(), nn.Linear(width, 1))

    def decode(self, reply: Tensor) -> str:
        """The text of a reply."""
        text: str = self.processor.tokenizer.decode(reply, skip_special_tokens=True)
        return text

    @torch.no_grad()
    def write(self, conversations: Sequence[Conversation]) -> list[Sample]:
        """Replies to all conversations, in one batch."""
        messages = [as_arrays(conversation.messages()) for conversation in conversations]
        texts = [
            self.processor.apply_chat_template(
                one, tokenize=False, add_generation_prompt=True, chat_template=self.template
            )
            for one in messages
        ]
        images = [part["image"] for one in messages for part in one[0]["content"] if part["type"] == "image"]
        inputs = self.processor(
            text=texts,
            images=images,
            padding=True,
            padding_side="left",
            return_tensors="pt",
            input_data_format="channels_last",
        )
        written = self.model.generate(
            **inputs,
            max_new_tokens=self.longest,
            do_sample=True,
            temperature=self.temperature,
            top_k=0,
            top_p=1.0,
            suppress_tokens=self.banned,
            eos_token_id=self.end,
            pad_token_id=self.pad,
        )[:, inputs["input_ids"].shape[1] :]
        counts = [text.count(self.processor.image_token) for text in texts]
        grids = inputs["image_grid_thw"].split(counts)
        pixels = inputs["pixel_values"].split([int(grid.prod(1).sum()) for grid in grids])
        samples = []
        for row, reply in enumerate(written):
            ends = (reply == self.end).nonzero()
            length = int(ends[0]) + 1 if len(ends) else len(reply)
            real = inputs["attention_mask"][row].bool()
            ids, kinds = inputs["input_ids"][row][real], inputs["mm_token_type_ids"][row][real]
            samples.append(Sample(ids, kinds, pixels[row], grids[row], reply[:length]))
        return samples

    def score(self, samples: Sequence[Sample], *, features: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
        """Log-probs [B, T], their mask, and the hidden state of each prompt's last token."""
        prompt = max(len(sample.ids) for sample in samples)
        reply = max(len(sample.reply) for sample in samples)
        ids = torch.full((len(samples), prompt + reply), self.pad)
        attended, kinds = torch.zeros_like(ids), torch.zeros_like(ids)
        for row, sample in enumerate(samples):  # prompts end and replies begin in one column
            begin, end = prompt - len(sample.ids), prompt + len(sample.reply)
            ids[row, begin:end] = torch.cat([sample.ids, sample.reply])
            attended[row, begin:end] = 1
            kinds[row, begin:prompt] = sample.kinds
        output = self.model(
            input_ids=ids,
            attention_mask=attended,
            mm_token_type_ids=kinds,
            pixel_values=torch.cat([sample.pixels for sample in samples]),
            image_grid_thw=torch.cat([sample.grids for sample in samples]),
            logits_to_keep=reply + 1,
            output_hidden_states=features,
            use_cache=False,
        )
        logits = output.logits[:, :-1].float()
        logits[..., self.banned] = -1e9
        logps = (logits / self.temperature).log_softmax(-1).gather(-1, ids[:, prompt:, None])[..., 0]
        hidden = output.hidden_states[-1][:, prompt - 1] if features else None
        mask = attended[:, prompt:].bool()
        return logps.masked_fill(~mask, 0.0), mask, hidden


def main() -> None:
    """Trains, and prints what each update took."""
    settings = yaml.safe_load(Path(sys.argv[1]).read_text())
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    quieten_transformers()
    policy = Policy(settings)
    weights = [weight for weight in policy.model.parameters() if weight.requires_grad]
    optimizer = torch.optim.Adam(weights, lr=settings["policy"]["lr"])
    critic_optimizer = torch.optim.Adam(policy.critic.parameters(), lr=settings["critic"]["lr"])
    (env,) = settings["envs"]
    with (
        ServerProcess(frames_env.ENVS[0]) as server,
        Fleet(
            open_registry(server.address), env["id"], env["slots"], options=env["options"], fallback=Fallback.SKIP
        ) as fleet,
    ):
        conversations = [Conversation(fleet.spec, Recipe(**settings["recipe"])) for _ in range(env["slots"])]
        for result in fleet.step({slot: Reset(slot) for slot in range(env["slots"])}):
            conversations[result.slot].observe(result)
        for update in range(settings["updates"]):
            rows = [play(policy, fleet, conversations) for _ in range(settings["rollout_steps"])]
            learn(
                policy, [list(row) for row in zip(*rows, strict=True)], settings, optimizer, critic_optimizer, weights
            )
            report(update + 1, rows)


def play(policy: Policy, fleet: Fleet, conversations: Sequence[Conversation]) -> list[Sample]:
    """A step of every slot."""
    samples = policy.write(conversations)
    acts = {}
    for slot, (sample, conversation) in enumerate(zip(samples, conversations, strict=True)):
        text = policy.decode(sample.reply)
        action = conversation.read(text).action
        sample.unparseable = action is None
        acts[slot] = Act(action, reply=text)
    for result in fleet.step(acts):
        conversations[result.slot].observe(result)
        samples[result.slot].reward = result.reward
    return samples


def learn(
    policy: Policy,
    rows: Sequence[Sequence[Sample]],
    settings: dict[str, Any],
    optimizer: torch.optim.Optimizer,
    critic_optimizer: torch.optim.Optimizer,
    weights: Sequence[Tensor],
) -> None:
    """PPO on every token, for `rows` of samples by slot."""
    samples = [sample for row in rows for sample in row]
    old, ref, features = score_all(policy, samples)
    values = policy.critic(features).detach()[:, 0].reshape(len(rows), -1)
    rewards = torch.tensor([[sample.reward for sample in row] for row in rows])
    goes_on = torch.ones_like(values, dtype=torch.bool)
    goes_on[:, -1] = False
    # The state after the border is taken to be worth what the last one is: a prefill less than ours.
    after = torch.cat([values[:, 1:], values[:, -1:]], 1)
    alone = torch.zeros(len(rows), dtype=torch.long)
    valuation = Valuation(
        features=features, valid=torch.ones_like(goes_on), rewards=rewards, values=values, next_values=after,
        bootstraps=torch.ones_like(goes_on), continues=goes_on, tasks=alone, states=torch.zeros_like(values).long(),
        scales=torch.ones(len(rows), dtype=torch.float64),
    )  # fmt: skip
    advantages = gae(valuation, Discount(GAMMA, LAMBDA))
    targets = (advantages + values).flatten().float()
    scaled = normalise(advantages.flatten().float(), 1.0)
    for _ in range(4):
        for chosen in minibatches(len(samples), 128):
            critic_optimizer.zero_grad()
            ((policy.critic(features[chosen])[:, 0] - targets[chosen]) ** 2 / 2).mean().backward()
            nn.utils.clip_grad_norm_(policy.critic.parameters(), 1.0)
            critic_optimizer.step()
    policy.model.train()
    for _ in range(settings["policy"]["epochs"]):
        for chosen in minibatches(len(samples), settings["policy"]["minibatch"]):
            optimizer.zero_grad()
            for micro in by_length([samples[n] for n in chosen], MICROBATCH):
                part = chosen[micro]
                logps, mask, _ = policy.score([samples[n] for n in part])
                before, reference = (pad_sequence([given[n] for n in part], batch_first=True) for given in (old, ref))
                advantage = scaled[part][:, None]
                ratio = (logps - before).exp()
                surrogate = torch.minimum(ratio * advantage, ratio.clamp(1 - CLIP, 1 + CLIP) * advantage)
                apart = reference - logps
                loss = -surrogate + BETA * (apart.exp() - apart - 1)
                (((loss * mask).sum(1) / mask.sum(1)).sum() / len(chosen)).backward()
            nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
    policy.model.eval()


@torch.no_grad()
def score_all(policy: Policy, samples: Sequence[Sample]) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Log-probs under the policy and under the reference, and the critic's features."""
    old: dict[int, Tensor] = {}
    ref: dict[int, Tensor] = {}
    features = torch.empty(len(samples), policy.features)
    for micro in by_length(samples, MICROBATCH):
        chosen = [samples[n] for n in micro]
        logps, mask, hidden = policy.score(chosen, features=True)
        with policy.model.disable_adapter():
            reference, _, _ = policy.score(chosen)
        assert hidden is not None
        features[micro] = hidden
        for row, n in enumerate(micro.tolist()):
            old[n], ref[n] = logps[row][mask[row]], reference[row][mask[row]]
    return [old[n] for n in range(len(old))], [ref[n] for n in range(len(ref))], features


def minibatches(count: int, size: int) -> Iterator[Tensor]:
    """Indices in random order."""
    return iter(torch.randperm(count).tensor_split(max(round(count / size), 1)))


def by_length(samples: Sequence[Sample], size: int) -> Iterator[Tensor]:
    """Indices of samples of similar length."""
    return iter(torch.tensor([len(sample) for sample in samples]).argsort(stable=True).split(size))


def report(update: int, rows: Sequence[Sequence[Sample]]) -> None:
    """As `training_run.py` does."""
    samples = [sample for row in rows for sample in row]
    metrics = {
        "env_steps": update * len(samples),
        "replies/tokens": sum(len(sample.reply) for sample in samples) / len(samples),
        "replies/unparseable": sum(sample.unparseable for sample in samples) / len(samples),
    }
    spent = {"seconds": time.perf_counter(), "cpu_seconds": time.process_time(), "frames": 0.0}
    print(json.dumps({**spent, "metrics": metrics}))


if __name__ == "__main__":
    main()
