"""Playing a model in an env and counting its successes."""
