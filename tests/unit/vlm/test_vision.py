"""Pictures go through the vision tower once, and what is remembered of them is never outdated."""

from typing import Any

import numpy as np
import pytest
import torch
from overworld_vlm.batch import collate, encode, hidden_states
from overworld_vlm.load import VLM
from overworld_vlm.score import score
from overworld_vlm.vision import Picture
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.support.optional import present
from tests.support.tiny_vlm import make_vlm, picture, user


class Passes:
    """Counts patches that go through a model's vision tower."""

    def __init__(self, vlm: VLM) -> None:
        self.patches = 0
        vlm.core.model.visual.register_forward_pre_hook(self._count)

    def _count(self, _: torch.nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.patches += len(inputs[0])

    def take(self) -> int:
        patches, self.patches = self.patches, 0
        return patches


class LargestTensor(TorchDispatchMode):
    """The bytes of the largest tensor that is made within it."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **kwargs or {})
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self.bytes = max(self.bytes, tensor.nbytes)
        return made


PATCHES = 16
"""Of one of these pictures, which are enlarged to the smallest size that the model takes."""


def of(vlm: VLM, *seeds: int) -> list[Picture]:
    """New pictures."""
    return [Picture.of(picture(seed), vlm.family) for seed in seeds]


def frozen() -> VLM:
    vlm = make_vlm()
    vlm.core.model.visual.requires_grad_(False)
    return vlm


def test_a_picture_is_encoded_once_however_often_it_is_shown() -> None:
    vlm = frozen()
    passes = Passes(vlm)
    first = present(vlm.vision(of(vlm, 1, 2, 1, 1)))
    assert passes.take() == 2 * PATCHES
    one, two, again, _ = first.split(PATCHES // 4, 1)
    assert torch.equal(present(vlm.vision(of(vlm, 2, 1))), torch.cat([two, one], 1))
    assert passes.take() == 0
    assert torch.equal(one, again)
    assert not torch.equal(one, two)
    assert vlm.vision([]) is None


def test_encoding_together_or_alone_gives_the_same_bits() -> None:
    """Otherwise a run that was resumed, which remembers nothing, would not go on to the same numbers."""
    pictures = of(frozen(), *range(40))
    together = present(frozen().vision(pictures))
    alone = torch.cat([present(frozen().vision([one])) for one in pictures], 1)
    assert torch.equal(together, alone)


def test_large_pictures_take_little_memory_and_have_the_same_bits_whoever_is_there() -> None:
    vlm = frozen()
    vlm.family.set_images(max_pixels=1_000_000)
    large = [np.random.default_rng(seed).integers(0, 256, (980, 980, 3), np.uint8) for seed in range(2)]
    pictures = [Picture.of(large[0], vlm.family), *of(vlm, *range(60)), Picture.of(large[1], vlm.family)]
    with LargestTensor() as largest:
        together = present(vlm.vision(pictures)).split([picture.layout.run for picture in pictures], 1)
    weights = (70 * 70) ** 2 * vlm.core.config.vision_config.num_heads * 4
    assert largest.bytes < weights / 10, "it does not grow with the square of a picture's size"
    for at in (0, 1, -1):
        assert torch.equal(together[at], present(frozen().vision([pictures[at]])))


@pytest.mark.parametrize("trained", [False, True])
def test_features_are_outdated_when_a_weight_changes(trained: bool) -> None:
    vlm = make_vlm() if trained else frozen()
    passes = Passes(vlm)
    weight = next(vlm.core.model.visual.parameters())
    with torch.no_grad():
        before = present(vlm.vision(of(vlm, 1)))
        vlm.vision(of(vlm, 1))
        assert passes.take() == PATCHES
        weight += 0.1
        after = present(vlm.vision(of(vlm, 1)))
    assert passes.take() == PATCHES
    assert not torch.equal(before, after)
    vlm.model.to(torch.float64)
    with torch.no_grad():
        assert present(vlm.vision(of(vlm, 1))).dtype == torch.float64


def test_an_optimizer_step_outdates_them() -> None:
    vlm = make_vlm()
    optimizer = torch.optim.Adam(vlm.core.model.visual.parameters(), lr=0.01)
    with torch.no_grad():
        before = present(vlm.vision(of(vlm, 1)))
    present(vlm.vision(of(vlm, 1))).sum().backward()
    optimizer.step()
    with torch.no_grad():
        assert not torch.equal(before, present(vlm.vision(of(vlm, 1))))


def test_what_is_remembered_stays_within_its_bound() -> None:
    vlm = frozen()
    passes = Passes(vlm)
    each = present(vlm.vision(of(vlm, 0))).nbytes
    vlm.vision.memory = 3 * each
    vlm.vision(of(vlm, 1, 2, 0))
    passes.take()
    vlm.vision(of(vlm, 3))  # the least recently used one makes room
    assert passes.take() == PATCHES
    vlm.vision(of(vlm, 0, 2, 3))
    assert passes.take() == 0
    vlm.vision(of(vlm, 1))
    assert passes.take() == PATCHES
    vlm.vision.memory = 0
    vlm.vision(of(vlm, 1, 4, 1))
    vlm.vision(of(vlm, 1))
    assert passes.take() == 2 * PATCHES
    assert f"0 pictures kept, 0 of {0:,} bytes" in repr(vlm.vision)


def test_adapters_in_the_tower_are_never_remembered() -> None:
    """They may be switched on and off without any weight changing."""
    vlm = make_vlm()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        targets = vlm.family.vision_lora_targets
        vlm = vlm.wrapped(get_peft_model(vlm.model, LoraConfig(target_modules=targets, init_lora_weights=False)))
    with torch.no_grad():
        on = present(vlm.vision(of(vlm, 1)))
        with vlm.model.disable_adapter():
            off = present(vlm.vision(of(vlm, 1)))
        again = present(vlm.vision(of(vlm, 1)))
    assert not torch.equal(on, off)
    assert torch.equal(on, again)


def test_an_adapter_of_the_language_model_shares_the_towers_memory() -> None:
    vlm = make_vlm()
    passes = Passes(vlm)
    adapted = vlm.wrapped(get_peft_model(vlm.model, LoraConfig(target_modules=vlm.family.lora_targets)))
    with torch.no_grad():
        vlm.vision(of(vlm, 1))
        adapted.vision(of(vlm, 1))
        with adapted.model.disable_adapter():
            adapted.vision(of(vlm, 1))
    assert passes.take() == PATCHES


def test_gradients_of_a_shared_picture_are_those_of_separate_passes() -> None:
    vlm = make_vlm()
    image, other = picture(1), picture(2)
    prompts = [encode(vlm, [user(image, other, "Go.")]), encode(vlm, [user(other, "count", image)])]
    replies = [torch.arange(30, 34), torch.arange(40, 47)]
    passes = Passes(vlm)

    def gradients(parts: list[list[int]]) -> dict[str, Tensor]:
        vlm.model.zero_grad()
        for part in parts:
            scores = score(vlm, [prompts[n] for n in part], [replies[n] for n in part])
            (scores.logps * scores.mask).sum().backward()
        return {name: weight.grad.clone() for name, weight in vlm.model.named_parameters() if weight.grad is not None}

    together = gradients([[0, 1]])
    assert passes.take() == 2 * PATCHES
    separate = gradients([[0], [1]])
    assert passes.take() == 4 * PATCHES
    assert any("visual" in name for name in together)
    steepest = max(float(gradient.abs().max()) for gradient in separate.values())
    for name, gradient in separate.items():
        assert torch.allclose(together[name] / steepest, gradient / steepest, rtol=0, atol=1e-6), name


def test_a_prompt_shares_the_pictures_that_an_earlier_one_has_shown() -> None:
    vlm = make_vlm()
    seen, new = picture(1), picture(2)
    first = encode(vlm, [user(seen, "Go.")])
    second = encode(vlm, [user(seen, new, seen.copy(), "Go.")], first.pictures)
    assert second.pictures[0] is first.pictures[0]
    assert second.pictures[0].pixels is seen
    assert second.pictures[2] is not first.pictures[0]
    assert [one.digest == first.pictures[0].digest for one in second.pictures] == [True, False, True]


def test_a_digest_names_pixels_and_shape() -> None:
    vlm = make_vlm()
    flat = picture(1, 28, 56)
    shapes = [flat, flat.reshape(56, 28, 3), flat.reshape(28, 168, 1), np.ascontiguousarray(flat[:, ::-1])]
    assert len({Picture.of(one, vlm.family).digest for one in shapes}) == 4
    assert Picture.of(flat[::1, ::1], vlm.family).digest == Picture.of(flat.copy(), vlm.family).digest
    assert Picture.of(flat[:, ::-1], vlm.family).digest == Picture.of(shapes[3], vlm.family).digest


def test_equal_towers_may_be_one() -> None:
    vlm, other = frozen(), make_vlm()
    passes = Passes(vlm)
    batch = collate(vlm, [encode(vlm, [user(picture(1), "Go.")])])
    with torch.no_grad():
        expected = hidden_states(other, batch)
        other.share_vision(vlm)
        hidden_states(vlm, batch)
        assert passes.take() == PATCHES
        assert torch.equal(hidden_states(other, batch), expected)
    assert passes.take() == 0
