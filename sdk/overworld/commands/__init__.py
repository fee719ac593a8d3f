"""The verbs of `overworld` that the SDK brings, a module each."""
