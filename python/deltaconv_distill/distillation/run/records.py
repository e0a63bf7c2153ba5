"""What each step of a run was like, in memory and as one line of JSON a step."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...atomic import atomic_file

METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True)
class StepRecord:
    """step counts from 1; terms are the unweighted losses; total is weighted; seconds is the step's wall-clock time."""

    step: int
    terms: dict[str, float]
    total: float
    grad_norm: float
    learning_rate: float
    seconds: float
    skipped: bool


class StepLog:
    """The run's records, appended to `folder/metrics.jsonl` where there is a folder."""

    def __init__(self, folder: Path | None) -> None:
        self.records: list[StepRecord] = []
        self._path = folder / METRICS_FILE if folder else None
        self._is_written = False  # this process has begun the file

    def append(self, record: StepRecord) -> None:
        self.records.append(record)
        if self._path is None:
            return
        if self._is_written:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(_line(record))
            return
        with atomic_file(self._path, "w") as file:  # in the place of another run's, or of what is done again
            file.writelines(map(_line, self.records))
        self._is_written = True

    def rewind(self, step: int) -> None:
        """Take up the records of an interrupted run up to `step`; what it did after its checkpoint is done again."""
        if self._path and self._path.is_file():
            lines = self._path.read_text(encoding="utf-8").splitlines()[:step]
            self.records = [_parse(line) for line in lines]


def _line(record: StepRecord) -> str:
    """JSON has no NaN or infinity: such a number is null."""
    return json.dumps(_map_numbers(asdict(record), lambda value: value if math.isfinite(value) else None)) + "\n"


def _parse(line: str) -> StepRecord:
    return StepRecord(**_map_numbers(json.loads(line), lambda value: math.nan if value is None else value))


def _map_numbers(values: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    return {
        name: _map_numbers(value, change) if isinstance(value, dict) else change(value)
        for name, value in values.items()
    }
