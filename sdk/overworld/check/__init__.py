"""Checks a server in any language, or an `Env` in this process, against the rules of the contract: `overworld check`.

`wire` speaks the four calls through raw stubs, `audit` looks at every answer, `session` drives slots and remembers what
each history of actions gave; the modules of `themes` hold the checks. The server is not trusted: every call has a
deadline, every answer a bound, and what it says is never printed raw.
"""
