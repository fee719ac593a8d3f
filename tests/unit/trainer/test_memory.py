"""What is said when the memory is full."""

import pytest
import torch
from overworld_trainer.memory import OutOfMemoryError, needing


def test_a_full_memory_says_which_setting_to_lower_and_to_what() -> None:
    with pytest.raises(OutOfMemoryError) as raised, needing("model.batch_tokens", 4096, "model.other = true"):
        torch.empty(1 << 50, dtype=torch.uint8)
    assert str(raised.value).startswith(
        "the memory is full: set model.batch_tokens = 2048 (it was 4096), or model.other = true. "
    )


def test_a_gpus_memory_too_and_the_least_is_one() -> None:
    with pytest.raises(OutOfMemoryError, match=r"set max_batch = 1 \(it was 1\)\. CUDA out of memory"):
        with needing("max_batch", 1):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nand more")


def test_other_errors_are_left_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), needing("max_batch", 1):
        raise RuntimeError("shapes do not match")
