"""pytest plugin: records every test that did not pass, as it happens, and the counts."""

from __future__ import annotations

from collections import Counter

import pytest
from recording import record


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Outcomes())


class Outcomes:
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        self.counts[report.outcome] += 1
        if report.outcome != "passed":
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)[-600:]
            record(test=report.nodeid, outcome=report.outcome, reason=reason)

    def pytest_sessionfinish(self) -> None:
        record(counts=dict(self.counts))
