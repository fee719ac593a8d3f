"""Seeds: one at the top decides everything below it, and training meets no evaluation."""

from overworld_trainer.seeds import derive, episode_seed


def test_a_seed_is_decided_by_all_that_names_it() -> None:
    names: list[tuple[int, *tuple[int | str, ...]]] = [
        (0, "a"),
        (1, "a"),
        (0, "b"),
        (0, "a", 1),
        (0, "a", "1"),
        (0, 1, 2),
        (0, 12),
        (0,),
    ]
    seeds = {derive(*name) for name in names}
    assert len(seeds) == len(names)
    assert derive(7, "minibatches", "policy", 3, 1) == derive(7, "minibatches", "policy", 3, 1)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_training_episodes_have_seeds_that_no_evaluation_uses() -> None:
    seeds = {episode_seed(run, env, slot, episode)
             for run in range(3) for env in range(2) for slot in range(50) for episode in range(50)}  # fmt: skip
    assert len(seeds) == 3 * 2 * 50 * 50
    assert min(seeds) >= 2**32
    assert max(seeds) < 2**63
