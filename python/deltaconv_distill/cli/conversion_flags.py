"""The flags that say how self-attentions are replaced, and the conversion that they ask for."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import UserError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from ..analysis import Profile
    from ..conversion import ConversionPlan, DeltaConvFusion

DEFAULTS = {
    "kernel_size": "auto",
    "init": "attention",
    "profile": None,
    "exclude": None,
    "only": None,
    "gate": None,
    "expansion": 0.5,
    "plan": None,
}


def add_conversion_flags(parser: argparse.ArgumentParser) -> None:
    """Those arguments of `DeltaConvFusion.convert` that a command line can give."""
    group = parser.add_argument_group("new blocks", "not with --fusion, whose blocks are made")
    group.add_argument(
        "--kernel_size",
        default=DEFAULTS["kernel_size"],
        help="'auto' (the model's preset), one odd number for every layer, or a JSON file with {layer: number}",
    )
    group.add_argument(
        "--init",
        choices=("attention", "random"),
        default=DEFAULTS["init"],
        help="start the blocks from what the attentions do, or from random weights",
    )
    group.add_argument("--profile", help="profile.json of `deltaconv analyze`: kernel sizes, and where to start from")
    group.add_argument(
        "--exclude", nargs="+", metavar="LAYER", help="self-attentions to leave alone, by name or pattern (up_blocks.*)"
    )
    group.add_argument("--only", nargs="+", metavar="LAYER", help="self-attentions to replace, instead of all")
    group.add_argument(
        "--gate", choices=("scaled", "sigmoid"), help="of the blocks; unless given, the paper's for this kind of model"
    )
    group.add_argument(
        "--expansion", type=float, default=DEFAULTS["expansion"], help="a block's inner width over the layer's channels"
    )
    group.add_argument(
        "--plan", help="plan.json of `deltaconv analyze`: which layers to replace, instead of --only and --exclude"
    )


def refuse_conversion_flags(options: argparse.Namespace) -> None:
    """Raises UserError for flags that a saved fusion has decided already."""
    given = [f"--{name}" for name, default in DEFAULTS.items() if getattr(options, name) != default]
    if given:
        raise UserError(f"{', '.join(given)}: not with --fusion, whose blocks are made")


def convert(pipe: DiffusionPipeline, options: argparse.Namespace) -> DeltaConvFusion:
    """A new fusion, attached to `pipe`; random weights come from `--seed`.

    Raises:
        UserError: layers, sizes or options that do not fit the model.
    """
    import torch

    from ..conversion import DeltaConvFusion

    torch.manual_seed(options.seed)
    sizes = _kernel_size(options.kernel_size)
    profile = None if options.profile is None else _profile(options.profile)
    plan = None if options.plan is None else _plan(options.plan)
    try:
        return DeltaConvFusion.convert(
            pipe,
            kernel_size=sizes,
            profile=profile,
            expansion=options.expansion,
            gate=options.gate,
            exclude=options.exclude or (),
            only=options.only or (),
            init=options.init,
            plan=plan,
        )
    except (TypeError, ValueError) as error:
        names_its_argument = str(error).startswith(("exclude", "only", "expansion", "profile", "init", "plan"))
        where = "--" if names_its_argument else f"--kernel_size {options.kernel_size}: "
        raise UserError(f"{where}{error}") from error


def _kernel_size(text: str) -> str | int | dict[str, int]:
    if text == "auto":
        return text
    if Path(text).is_file():
        return _sizes_of_layers(Path(text))
    try:
        return int(text)
    except ValueError as error:
        raise UserError(f"--kernel_size: expected 'auto', an odd number or a JSON file, got {text!r}") from error


def _sizes_of_layers(file: Path) -> dict[str, int]:
    try:
        sizes = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"--kernel_size: {file} is not JSON ({error})") from error
    if not isinstance(sizes, dict):
        raise UserError(f"--kernel_size: expected {{layer: odd number}} in {file}, got a {type(sizes).__name__}")
    return sizes


def _profile(path: str) -> Profile:
    from ..analysis import Profile

    try:
        return Profile.load(path)
    except (OSError, ValueError) as error:
        raise UserError(f"--profile: {path!r} cannot be read ({error})") from error


def _plan(path: str) -> ConversionPlan:
    from ..conversion import ConversionPlan

    try:
        return ConversionPlan.load(path)
    except (OSError, ValueError) as error:
        raise UserError(f"--plan: {path!r} cannot be read ({error})") from error
