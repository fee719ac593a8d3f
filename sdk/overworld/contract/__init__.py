"""The contract in Python: messages and frames to and from the types of `overworld.authoring`."""
