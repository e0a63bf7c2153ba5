"""Checkpoints that are whole or not there, say when they are damaged, and give way to the one before.

A checkpoint is a directory `checkpoint-{step}`: `trainer_state.pt` resumes the run, `fusion/` is the side-car to
generate with, `manifest.json` holds every file's size and SHA-256.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ...atomic import atomic_directory
from ...conversion import DeltaConvFusion

logger = logging.getLogger(__name__)

STATE_FILE = "trainer_state.pt"
FUSION_FOLDER = "fusion"
MANIFEST_FILE = "manifest.json"
RUN_FILE = "run.json"  # beside the checkpoints: whose they are


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the message names it and the one that can be used instead."""


def save_checkpoint(output_dir: Path, step: int, run: str, state: dict[str, Any], fusion: DeltaConvFusion) -> Path:
    """Write `output_dir/checkpoint-{step}` atomically.

    Args:
        run: the name of the run that it belongs to.

    Raises:
        CheckpointError: the disk is full or not writable; nothing is left behind.
    """
    path = output_dir / f"checkpoint-{step}"
    with writing(output_dir, path), atomic_directory(path) as partial:
        fusion.save_pretrained(partial / FUSION_FOLDER)
        try:
            torch.save(state, partial / STATE_FILE)
        except RuntimeError as error:  # how torch.save reports a full disk
            raise OSError(str(error)) from error
        manifest = {"step": step, "run": run, "files": _describe(partial)}
        (partial / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1))
    return path


@contextmanager
def writing(output_dir: Path | None, path: Path | None = None) -> Iterator[None]:
    """Inside, a full or broken disk is a CheckpointError that names `path` and the newest usable checkpoint."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        if output_dir is None:
            raise
        target = path or output_dir
        raise CheckpointError(f"could not write {target} ({error}); {_fallback(output_dir, target)}") from error


def prune_checkpoints(output_dir: Path, limit: int | None, step: int) -> None:
    """Remove what a killed run left half written and, up to `step`, all but the newest `limit` checkpoints.

    Those beyond `step` are damaged ones, which the run has gone back behind: they are no reason to remove sound ones.
    """
    for pattern in (".checkpoint-*.partial", ".checkpoint-*.old"):
        for leftover in output_dir.glob(pattern):
            shutil.rmtree(leftover, ignore_errors=True)
    past = [path for path in list_checkpoints(output_dir) if step_of(path) <= step]
    for path in past[limit:] if limit else ():
        shutil.rmtree(path)


def list_checkpoints(output_dir: Path) -> list[Path]:
    """Checkpoint directories, newest first; not verified."""
    return sorted(_numbered(output_dir), key=step_of, reverse=True)


def find_checkpoint(output_dir: Path | None, requested: str) -> Path | None:
    """Resolve `requested`, a checkpoint directory or "latest".

    "latest" is the newest whole checkpoint of the run in `output_dir`; damaged ones, and those of another run, are
    named in a warning and passed over.
    None where there is no checkpoint at all.

    Raises:
        CheckpointError: the requested checkpoint, or every checkpoint, is damaged.
    """
    if requested != "latest":
        path = Path(requested)
        fault = find_fault(path)
        if fault:
            raise CheckpointError(f"{path}: {fault}; {_fallback(path.parent, path)}")
        return path
    assert output_dir is not None  # DistillConfig asks for output_dir with "latest"
    candidates = list_checkpoints(output_dir)
    for path in candidates:
        fault = find_fault(path) or _another_run(path)
        if not fault:
            return path
        logger.warning("%s: %s; trying the checkpoint before it", path, fault)
    if candidates:
        names = ", ".join(path.name for path in candidates)
        raise CheckpointError(f"{output_dir}: every checkpoint is damaged, or another run's: {names}")
    return None


def load_state(path: Path) -> dict[str, Any]:
    """The trainer's state of a checkpoint that `find_checkpoint` returned."""
    return torch.load(path / STATE_FILE, map_location="cpu", weights_only=True)


def find_fault(path: Path) -> str | None:
    """What is wrong with a checkpoint, in words, or None."""
    if not path.is_dir():
        return "no such checkpoint directory"
    try:
        manifest = json.loads((path / MANIFEST_FILE).read_text())
        expected: dict[str, dict] = manifest["files"]
    except FileNotFoundError:
        return f"{MANIFEST_FILE} is missing: the checkpoint is not complete"
    except (ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST_FILE} is damaged ({error})"
    for name, facts in expected.items():
        if not (path / name).is_file():
            return f"{name} is missing"
        if _facts(path / name) != facts:
            return f"{name} is damaged: size or checksum differs from {MANIFEST_FILE}"
    return None


def run_of(path: Path) -> str | None:
    """The name of the run that wrote a whole checkpoint; None of an earlier release's, which had none."""
    return json.loads((path / MANIFEST_FILE).read_text()).get("run")


def step_of(path: Path) -> int:
    """The step at which a checkpoint was written."""
    return int(path.name.split("-")[1])


def _describe(folder: Path) -> dict[str, dict]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _facts(path) for path in files}


def _facts(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _another_run(path: Path) -> str | None:
    """What speaks against a whole checkpoint of being of the run that its folder's run.json names, if anything."""
    try:
        expected = json.loads((path.parent / RUN_FILE).read_text(encoding="utf-8"))["run"]
    except (OSError, ValueError, KeyError):
        return None  # an earlier release wrote none
    return None if run_of(path) in (None, expected) else f"belongs to another run than {RUN_FILE} names"


def _fallback(output_dir: Path, unusable: Path) -> str:
    usable = (path for path in list_checkpoints(output_dir) if path != unusable and not find_fault(path))
    previous = next(usable, None)
    return f"the newest usable checkpoint is {previous}" if previous else "there is no other usable checkpoint"


def _numbered(output_dir: Path) -> Iterator[Path]:
    return (path for path in output_dir.glob("checkpoint-*") if path.is_dir() and path.name.split("-")[1].isdigit())
