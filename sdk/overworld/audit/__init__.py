"""Audits of envs: is an env any good?"""
