"""Runs a part under a time limit, and reads what it records while it runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from recording import RECORDS

from .parts import NOT_RUN

POLL_SECONDS = 1.0
GRACE_SECONDS = 5.0  # between asking a part to end and ending it
TAIL = 4000  # characters of a part's output that are kept

Outcome = dict[str, Any]


def run_command(command: Sequence[str], seconds: float, changed: Callable[[Outcome], None]) -> Outcome:
    """Run a command for at most `seconds`, its children too, and return how it went and what it recorded.

    `changed` gets the outcome so far whenever the command has recorded something more: what was measured is kept, even
    should this process be killed.
    """
    with tempfile.TemporaryDirectory() as folder:
        records, log = Path(folder) / "records", Path(folder) / "log"
        records.touch()
        start = time.monotonic()
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, RECORDS: str(records)},
                start_new_session=True,
            )
            seen = 0
            try:
                while process.poll() is None and time.monotonic() - start < seconds:
                    time.sleep(min(POLL_SECONDS, seconds / 10))
                    if records.stat().st_size > seen:
                        seen = records.stat().st_size
                        changed({"status": "running", "records": _read(records)})
                timed_out = process.poll() is None
            finally:
                _end(process)
        tail = log.read_text(errors="replace")[-TAIL:]
        outcome: Outcome = {"seconds": round(time.monotonic() - start, 1), "limit_seconds": round(seconds, 1)}
        outcome |= _status(process.returncode, timed_out, tail)
        return {**outcome, "records": _read(records), "output_tail": tail}


def _status(code: int, timed_out: bool, tail: str) -> Outcome:
    if timed_out:
        return {"status": "timed out", "reason": "its time limit"}
    if code == 0:
        return {"status": "done"}
    last = next((line for line in reversed(tail.splitlines()) if line.strip()), "no output")
    if code == NOT_RUN:
        return {"status": "not run", "reason": last}
    return {"status": "failed", "reason": f"exit code {code}: {last}"}


def _end(process: subprocess.Popen) -> None:
    """The process and all it has started; it leads a group of its own."""
    for sign, patience in ((signal.SIGTERM, GRACE_SECONDS), (signal.SIGKILL, None)):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            break
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _read(records: Path) -> list[dict[str, Any]]:
    """All whole lines; one that is being written has no end yet."""
    lines = records.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
