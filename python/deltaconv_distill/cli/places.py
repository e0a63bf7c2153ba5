"""Where a command computes and where it writes, checked before it loads or does anything."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..atomic import obstacle_to_folder
from .errors import UserError

if TYPE_CHECKING:
    import torch


def add_device_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="such as cuda, cuda:1 or cpu; the GPU if there is one, unless given")


def chosen_device(options: argparse.Namespace) -> torch.device:
    """What --device names, or the best that there is.

    Raises:
        UserError: no such device, or none that this torch can use.
    """
    import torch

    name = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()  # fails on the meta device too, which computes nothing
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch asserts where it has no CUDA
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"--device: cannot use {name!r} ({reason})") from error
    return device


def require_folder(flag: str, path: str | Path) -> None:
    """Raises UserError where files cannot be written into `path`, a folder that may be still to be made."""
    if obstacle := obstacle_to_folder(path):
        raise UserError(f"{flag}: expected a folder that can be written to, {obstacle}")


def require_file(flag: str, path: str | Path) -> None:
    """Raises UserError where no file `path` can be written."""
    if Path(path).is_dir():
        raise UserError(f"{flag}: expected a file, {path} is a folder")
    require_folder(flag, Path(path).parent)
