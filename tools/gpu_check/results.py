"""The JSON of a check: the machine, and every part's outcome and records."""

from __future__ import annotations

import datetime
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch
from deltaconv_distill.atomic import atomic_file
from deltaconv_distill.machine import commit, describe_machine

FORMAT = 1
FOLDER = Path(__file__).resolve().parents[2] / "bench" / "results"


class Results:
    """Kept on disk: every change replaces the file. An earlier file of the same machine and commit is continued."""

    def __init__(self, path: Path, commit_given: str | None) -> None:
        self.path = path
        self.content = describe(commit_given)
        if path.exists():
            before = json.loads(path.read_text())
            if _identity(before) != _identity(self.content):
                raise SystemExit(f"--output: {path} is of another machine or commit; choose another file")
            self.content = before
        self._write()

    def is_done(self, part: str) -> bool:
        return self.content["parts"].get(part, {}).get("status") == "done"

    def put(self, part: str, outcome: dict[str, Any]) -> None:
        self.content["parts"][part] = outcome
        self._write()

    def _write(self) -> None:
        with atomic_file(self.path, "w") as file:
            json.dump(self.content, file, indent=1)


def describe(commit_given: str | None) -> dict[str, Any]:
    machine = describe_machine()
    return {
        "format": FORMAT,
        "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine | {"commit": commit_given or machine["commit"]},
        "cuda": {
            "torch": torch.version.cuda,
            "nvcc": _last_line("nvcc", "--version"),
            "gpu": _last_line(
                "nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm", "--format=csv,noheader"
            ),
        },
        "parts": {},
    }


def default_path(commit_given: str | None) -> Path:
    """bench/results/GPU-DATE-COMMIT.json"""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no-gpu"
    name = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    head = (commit_given or commit() or "unknown")[:9]
    return FOLDER / f"{name}-{datetime.date.today()}-{head}.json"


def _identity(content: dict[str, Any]) -> tuple[Any, ...]:
    return content["format"], content["machine"]["commit"], content["machine"]["gpus"], content["machine"]["versions"]


def _last_line(program: str, *arguments: str) -> str | None:
    if not shutil.which(program):
        return None
    lines = subprocess.run([program, *arguments], capture_output=True, text=True).stdout.strip().splitlines()
    return lines[-1] if lines else None
