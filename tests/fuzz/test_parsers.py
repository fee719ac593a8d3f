"""What reads foreign bytes refuses what it cannot read, and only in the ways that it promises."""

from __future__ import annotations

import json

import pytest

from tests.fuzz.budget import reproducible, seeds
from tests.fuzz.mutation import mutated_bytes, mutated_json
from tests.fuzz.parsers import PARSERS


@pytest.mark.parametrize("name", PARSERS)
def test_mutated_samples_are_taken_or_refused(name: str) -> None:
    parser = PARSERS[name]()
    for sample in parser.samples:
        parser.parse(sample)
    refused = 0
    for seed in seeds(0.05):
        with reproducible(seed) as rng:
            for _ in range(50):
                sample = rng.choice(parser.samples)
                mutate = mutated_json if _is_json(sample) else mutated_bytes
                try:
                    parser.parse(mutate(sample, rng))
                except parser.refusals:
                    refused += 1
    assert refused or not parser.refusals


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except ValueError:
        return False
    return True
