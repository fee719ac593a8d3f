"""Can anything be learnt in an env, and does it come from the picture? Described in docs/audits/learning.md.

learned = learn(place.open(32))
print(learned.verdict)
"""

from overworld.service.extras import needs_extra

with needs_extra("learn"):
    import torch  # noqa: F401 - before any module of this package, so that one place names the extra
