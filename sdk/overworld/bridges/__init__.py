"""Overworld's envs in the interfaces of other libraries."""
