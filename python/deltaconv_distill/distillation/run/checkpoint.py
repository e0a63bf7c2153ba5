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
from pathlib import Path
from typing import Any

import torch

from ...atomic import atomic_directory
from ...conversion import DeltaConvFusion

logger = logging.getLogger(__name__)

STATE_FILE = "trainer_state.pt"
FUSION_FOLDER = "fusion"
MANIFEST_FILE = "manifest.json"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written or read; the message names it and the one that can be used instead."""


def save_checkpoint(output_dir: Path, step: int, state: dict[str, Any], fusion: DeltaConvFusion) -> Path:
    """Write `output_dir/checkpoint-{step}` atomically.

    Raises:
        CheckpointError: the disk is full or not writable; nothing is left behind.
    """
    path = output_dir / f"checkpoint-{step}"
    try:
        with atomic_directory(path) as partial:
            fusion.save_pretrained(partial / FUSION_FOLDER)
            torch.save(state, partial / STATE_FILE)
            (partial / MANIFEST_FILE).write_text(json.dumps({"step": step, "files": _describe(partial)}, indent=1))
    except (OSError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        raise CheckpointError(f"could not write {path} ({error}); {_fallback(output_dir, path)}") from error
    return path


def prune_checkpoints(output_dir: Path, limit: int | None) -> None:
    """Remove what a killed run left half written and, beyond the newest `limit`, older checkpoints."""
    for pattern in (".checkpoint-*.partial", ".checkpoint-*.old"):
        for leftover in output_dir.glob(pattern):
            shutil.rmtree(leftover, ignore_errors=True)
    for path in list_checkpoints(output_dir)[limit:] if limit else ():
        shutil.rmtree(path)


def list_checkpoints(output_dir: Path) -> list[Path]:
    """Checkpoint directories, newest first; not verified."""
    return sorted(_numbered(output_dir), key=_step_of, reverse=True)


def find_checkpoint(output_dir: Path | None, requested: str) -> Path | None:
    """Resolve `requested`, a checkpoint directory or "latest".

    "latest" is the newest whole checkpoint of `output_dir`; damaged ones are named in a warning and passed over.
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
        fault = find_fault(path)
        if not fault:
            return path
        logger.warning("%s: %s; trying the checkpoint before it", path, fault)
    if candidates:
        raise CheckpointError(
            f"{output_dir}: every checkpoint is damaged: {', '.join(path.name for path in candidates)}"
        )
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


def _describe(folder: Path) -> dict[str, dict]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _facts(path) for path in files}


def _facts(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _fallback(output_dir: Path, unusable: Path) -> str:
    usable = (path for path in list_checkpoints(output_dir) if path != unusable and not find_fault(path))
    previous = next(usable, None)
    return f"the newest usable checkpoint is {previous}" if previous else "there is no other usable checkpoint"


def _numbered(output_dir: Path) -> Iterator[Path]:
    return (path for path in output_dir.glob("checkpoint-*") if path.is_dir() and path.name.split("-")[1].isdigit())


def _step_of(path: Path) -> int:
    return int(path.name.split("-")[1])
