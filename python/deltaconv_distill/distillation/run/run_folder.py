"""A run's folder belongs to one run: refused where it is used already, locked while it trains, named in run.json."""

from __future__ import annotations

import json
import os
import platform
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ...atomic import atomic_file, obstacle_to_folder
from ...conversion import DeltaConvFusion
from ...conversion.side_car import is_side_car
from ..config import DistillConfig
from .checkpoint import FUSION_FOLDER, RUN_FILE, find_fault, list_checkpoints, run_of, step_of
from .parallel import LOGS_FOLDER
from .records import METRICS_FILE
from .sample_grids import VALIDATION_FOLDER

LOCK_FILE = "run.lock"


class RunFolderError(ValueError):
    """The output directory cannot be this run's; the message says what stands there and what to do."""


class RunFolder:
    """The output directory of a run; does nothing without one.

    Args:
        config: `output_dir`, and whether what stands there may go.
        checkpoint: what the run goes on from; None for one that starts.

    Raises:
        RunFolderError: the folder is a file or cannot be written to, holds a fusion/ that no run wrote, or, unless
            `overwrite_output_dir` gives it up, what another run or the later part of this one left.
    """

    def __init__(self, config: DistillConfig, checkpoint: Path | None) -> None:
        self.path = Path(config.output_dir) if config.output_dir else None
        self.run = (checkpoint and run_of(checkpoint)) or uuid.uuid4().hex  # a resumed run keeps its name
        self._config = config
        self._checkpoint = checkpoint
        self._claimed = False
        self._refuse_used()
        self._earlier_logs = self._tracked()  # before this run's own tracker writes among them

    def claim(self) -> None:
        """Before the first file is written: remove what `overwrite_output_dir` gives up, and write run.json.

        Raises:
            RunFolderError: the folder has been used since this object was made.
        """
        if self._claimed or self.path is None:
            return
        self._refuse_used()
        for path in _lost(self.path, self._config, self._checkpoint):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in self._earlier_logs:
            path.unlink(missing_ok=True)
        _write_run(self.path, self._config, self.run)
        self._claimed = True

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Inside, no other process trains into the folder.

        Raises:
            RunFolderError: one does.
        """
        if self.path is None:
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / LOCK_FILE)
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise RunFolderError(f"output_dir: another process is training into {self.path}") from error
        try:
            yield
        finally:
            lock.release()

    def _tracked(self) -> list[Path]:
        """A tracker's files of other runs, which would be drawn as part of this one; those that it gives up."""
        if self.path is None or not self._config.overwrite_output_dir or _goes_on_in(self.path, self._checkpoint):
            return []
        return [path for path in (self.path / LOGS_FOLDER).rglob("*") if path.is_symlink() or path.is_file()]

    def _refuse_used(self) -> None:
        folder = self.path
        if folder is None:
            return
        if obstacle := obstacle_to_folder(folder):
            raise RunFolderError(f"output_dir: expected a folder that can be written to, {obstacle}")
        if not folder.exists():
            return
        fusion = folder / FUSION_FOLDER
        if fusion.exists() and not is_side_car(fusion, DeltaConvFusion.__name__):
            raise RunFolderError(
                f"output_dir: {fusion} is no fusion of a run, which would take its place; move it away"
            )
        lost = _lost(folder, self._config, self._checkpoint)
        if lost and not self._config.overwrite_output_dir:
            raise RunFolderError(
                f"output_dir: {folder} holds {_listed(lost)} of another run, or of a later part of this one; "
                "resume_from_checkpoint latest goes on with it, overwrite_output_dir removes it"
            )


def _goes_on_in(folder: Path, checkpoint: Path | None) -> bool:
    """Whether a run resumes where it was, and not into another folder."""
    return checkpoint is not None and checkpoint.resolve().parent == folder.resolve()


def _lost(folder: Path, config: DistillConfig, checkpoint: Path | None) -> list[Path]:
    """What stands in the folder and is no part of a run that goes on from `checkpoint`."""
    if checkpoint is not None and _goes_on_in(folder, checkpoint):
        later = [path for path in list_checkpoints(folder) if step_of(path) > step_of(checkpoint)]
        return [path for path in later if not find_fault(path)]
    names = [FUSION_FOLDER, VALIDATION_FOLDER]
    if config.resume_from_checkpoint != "latest":  # a run that stopped before its first checkpoint starts anew
        names.append(METRICS_FILE)
    others = (folder / name for name in names)
    return [*list_checkpoints(folder), *(path for path in others if path.exists())]


def _listed(paths: list[Path]) -> str:
    shown = ", ".join(path.name for path in paths[:3])
    return shown if len(paths) <= 3 else f"{shown} and {len(paths) - 3} more"


def _write_run(folder: Path, config: DistillConfig, run: str) -> None:
    facts: dict[str, Any] = {
        "run": run,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "host": platform.node(),
        "process": os.getpid(),
        "settings": asdict(config),
    }
    with atomic_file(folder / RUN_FILE, "w") as file:
        json.dump(facts, file, indent=1)
