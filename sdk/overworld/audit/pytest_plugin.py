"""For pytest: `pytest --overworld-audit treasure:Treasure` audits an env, one test for each question.

Loaded by pytest wherever the SDK is installed, so it imports nothing before it is asked to.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from overworld.audit.report import Report


def pytest_addoption(parser: pytest.Parser) -> None:
    """What is audited, and the seed; credentials come from the environment, as for all clients."""
    group = parser.getgroup("overworld", "checks of an env server")
    group.addoption("--overworld-audit", metavar="SUBJECT", default="", help="audit HOST:PORT or module:Class")
    group.addoption("--overworld-audit-env", metavar="ENV", default="", help="the env of it; all if it is not given")


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Adds a test for each question."""
    if not (subject := config.getoption("--overworld-audit")):
        return
    from overworld.audit import judgements  # noqa: F401 - they register themselves
    from overworld.audit.questions import QUESTIONS

    report = cache(partial(_audit, config, subject))
    items += [
        QuestionItem.from_parent(session, name=f"audit[{question.id}]", question=question.id, report=report)
        for question in QUESTIONS.values()
    ]


def _audit(config: pytest.Config, subject: str) -> Report:
    from overworld.audit.auditing import audit
    from overworld.client.settings import ClientSettings

    return audit(
        subject,
        config.getoption("--overworld-audit-env") or None,
        credentials=ClientSettings.load([]).credentials,
    )


class QuestionItem(pytest.Item):
    """The test of one question; the first one runs the audit."""

    def __init__(self, *, question: str, report: Callable[[], Report], **keywords: Any) -> None:
        super().__init__(**keywords)
        self._question = question
        self._report = report

    def runtest(self) -> None:
        """Fails with the errors that were found, warns of warnings, skips what could not be answered."""
        report = self._report()
        found = [finding for finding in report.findings if finding.question == self._question]
        told = [
            f"{finding.env}: {finding.severity}\n"
            f"sent      {finding.sent}\ncame      {finding.came}\nexpected  {finding.expected}"
            for finding in found
        ]
        if any(finding.severity == "error" for finding in found):
            pytest.fail("\n\n".join(told), pytrace=False)
        for words in told:
            self.warn(pytest.PytestWarning(words))
        skipped = [env.skipped[self._question] for env in report.envs if self._question in env.skipped]
        if not found and len(skipped) == len(report.envs):
            pytest.skip(skipped[0])

    def reportinfo(self) -> tuple[str, None, str]:
        """Where the test is said to stand."""
        return "overworld", None, self.name
