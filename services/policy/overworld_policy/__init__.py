"""The policy server: checkpoints as models behind an OpenAI-compatible API."""
