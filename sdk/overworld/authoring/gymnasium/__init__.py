"""Gymnasium's envs as `Env`s: `overworld serve gymnasium:CartPole-v1`; described in docs/gymnasium.md."""
