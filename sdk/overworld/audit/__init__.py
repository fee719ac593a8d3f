"""Is an env any good? Plays it in many ways, without a model, and says what is wrong with it: `overworld audit`.

    report = audit("treasure:Treasure")
    assert not report.errors, report.errors

`questions` lists what is asked; `judgements` answers it from the episodes that a `Case` plays on a `stage`, which is on
a server or of an `Env` class in this process. Other modules add questions: `questions.add` and `judging.answers`.
"""

from overworld.audit.auditing import audit as audit
from overworld.audit.report import Report as Report
