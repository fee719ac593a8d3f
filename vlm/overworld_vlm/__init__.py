"""The vision-language model that trainer and policy server share: loading, decoding, scoring, checkpoints."""
