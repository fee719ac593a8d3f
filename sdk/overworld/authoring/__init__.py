"""What the author of an env writes and runs: the env, its spec, the rules it is played under."""
