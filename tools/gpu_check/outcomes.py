"""pytest plugin: records every test that did not pass, as it happens, and the counts.

A run whose tests were all skipped fails.
"""

from __future__ import annotations

from collections import Counter

import pytest
from recording import record


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Outcomes())


class Outcomes:
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.last_reason = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        self.counts[report.outcome] += 1
        if report.outcome != "passed":
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)[-600:]
            self.last_reason = reason
            record(test=report.nodeid, outcome=report.outcome, reason=reason)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        record(counts=dict(self.counts))
        if self.skipped_all and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_unconfigure(self) -> None:  # after pytest's own summary: the last line is the reason
        if self.skipped_all:
            print(f"every test was skipped, {self.counts['skipped']} in all: {self.last_reason}")

    @property
    def skipped_all(self) -> bool:
        return set(self.counts) == {"skipped"}
