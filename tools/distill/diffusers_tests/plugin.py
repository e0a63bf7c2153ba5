"""The pytest plugin of both runs: stand-ins for the hub, conversion where it is asked for, outcomes into a file."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import pytest

from . import CONVERT, OUTCOMES, hub_stand_ins
from .conversion import Construction


class Outcomes:
    """Writes after every test what became of it, and how many denoisers were converted during it.

    The file is JSON: {test: {"outcome", "reason", "converted"}}.
    """

    def __init__(self, path: Path, construction: Construction) -> None:
        self.path = path
        self.construction = construction
        self.tests: dict[str, dict[str, object]] = {}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.construction.converted = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        self.tests[report.nodeid] = {
            "outcome": report.outcome,
            "reason": _reason(report),
            "converted": self.construction.converted,
        }

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        partial = self.path.with_suffix(".partial")  # whole also where the run is killed
        partial.write_text(json.dumps(self.tests, indent=1), encoding="utf-8")
        partial.replace(self.path)


def pytest_configure(config: pytest.Config) -> None:
    folder = tempfile.TemporaryDirectory(prefix="hub-")
    config.add_cleanup(folder.cleanup)
    hub_stand_ins.install(Path(folder.name))
    construction = Construction()
    if os.environ.get(CONVERT) == "1":
        construction.install()
    config.pluginmanager.register(Outcomes(Path(os.environ[OUTCOMES]), construction))


def _reason(report: pytest.TestReport) -> str:
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2]
    crash = getattr(report.longrepr, "reprcrash", None)
    return str(crash.message if crash else report.longrepr or "")[:600]
