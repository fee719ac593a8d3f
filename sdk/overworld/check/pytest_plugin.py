"""For pytest: `pytest --overworld-server HOST:PORT` checks a server, one test for each rule.

Loaded by pytest wherever the SDK is installed, so it imports nothing before it is asked to.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from overworld.check.running import Report


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of `overworld check`; those that every client has come from the environment, as in OVERWORLD_TLS."""
    group = parser.getgroup("overworld", "checks of an env server")
    group.addoption("--overworld-server", metavar="HOST:PORT", default="", help="check this env server, a test a rule")
    group.addoption("--overworld-env", metavar="ENV", default="", help="the env to check; all if it is not given")
    group.addoption("--overworld-slow", action="store_true", help="check keepalive and silence as well: minutes")
    group.addoption("--overworld-timeout", type=float, default=20.0, help="seconds that a call may take")


def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Adds a test for each rule."""
    if not (address := config.getoption("--overworld-server")):
        return
    from overworld.check.rules import RULES

    report = cache(partial(_check, config, address))
    items += [RuleItem.from_parent(session, name=f"overworld[{rule}]", rule=rule, report=report) for rule in RULES]


def _check(config: pytest.Config, address: str) -> Report:
    from overworld.check.running import check_server
    from overworld.client.settings import ClientSettings

    return check_server(
        address,
        config.getoption("--overworld-env"),
        credentials=ClientSettings.load([]).credentials,
        timeout=config.getoption("--overworld-timeout"),
        slow=config.getoption("--overworld-slow"),
    )


class RuleItem(pytest.Item):
    """The test of one rule; the first one runs the checks of all."""

    def __init__(self, *, rule: str, report: Callable[[], Report], **keywords: Any) -> None:
        super().__init__(**keywords)
        self._rule = rule
        self._report = report

    def runtest(self) -> None:
        """Fails with what was found, skips what could not be checked."""
        from overworld.check.rules import RULES

        report = self._report()
        found = [finding for finding in report.findings if finding.rule == self._rule]
        if found:
            told = "\n\n".join(
                f"{finding.check}, {finding.env}\n"
                f"sent      {finding.sent}\ncame      {finding.came}\nexpected  {finding.expected}"
                for finding in found
            )
            pytest.fail(f"{self._rule}  {RULES[self._rule]}\n\n{told}", pytrace=False)
        if self._rule not in report.held:
            pytest.skip(report.skipped.get(self._rule, "it does not apply to servers"))

    def reportinfo(self) -> tuple[str, None, str]:
        """Where the test is said to stand."""
        return "overworld", None, self.name
