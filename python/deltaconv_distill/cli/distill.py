"""`deltaconv distill`: convert a pipeline and train the blocks, under diffusers' flag names.

Runs as one process, or as many under `accelerate launch -m deltaconv_distill.cli distill …`.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from .errors import UserError, flagged
from .pipelines import attach_fusion, load_pipeline
from .training_data import TRAINING_SOURCES, add_training_flags, open_examples, require_one_source

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from ..analysis import Profile
    from ..conversion import DeltaConvFusion

DEFAULT_OUTPUT = "deltaconv-distilled"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pretrained_teacher_model", required=True, help="a diffusers pipeline directory or id, or 'embedded'"
    )
    add_training_flags(parser)
    parser.add_argument(
        "--kernel_size", default="auto", help="'auto' (the model's preset) or one odd number for every layer"
    )
    parser.add_argument(
        "--init",
        choices=("attention", "random"),
        default="attention",
        help="start the blocks from what the attentions do, or from random weights",
    )
    parser.add_argument("--profile", help="profile.json of `deltaconv analyze`: kernel sizes, and where to start from")
    parser.add_argument("--fusion", help="start from the blocks of this saved fusion instead of new ones")
    _add_config_flags(parser)


def run(options: argparse.Namespace) -> None:
    from ..distillation import (
        CheckpointError,
        DataError,
        DenoisingTask,
        DistillConfig,
        Distiller,
        TrainingDiverged,
        make_accelerator,
    )

    require_one_source(options, TRAINING_SOURCES)
    try:
        config = DistillConfig(**{field.name: _value(options, field.name) for field in fields(DistillConfig)})
        accelerator = make_accelerator(config)
    except ValueError as error:
        raise UserError(f"--{error}") from error
    pipe = load_pipeline(options.pretrained_teacher_model, "--pretrained_teacher_model").to(accelerator.device)
    try:
        _made(DenoisingTask, pipe, config.prediction_type)  # refuses what cannot be a teacher, before any encoding
        fusion = _fusion(pipe, options)
        examples = open_examples(pipe, options)
        distiller = _made(Distiller, pipe, fusion, examples, config, accelerator)
        distiller.train()
    except (CheckpointError, DataError, TrainingDiverged) as error:
        raise UserError(str(error)) from error
    except OSError as error:  # such as a full disk under the metrics; checkpoints have an error of their own
        raise UserError(f"--output_dir: {error}") from error
    if accelerator.is_main_process:
        print(f"fusion: {config.output_dir}/fusion")


def _made(make: Any, *arguments: Any) -> Any:
    """Settings that do not go together, or not with this teacher or machine, show when what uses them is made."""
    from ..distillation import DataError

    try:
        return make(*arguments)
    except DataError:
        raise
    except ValueError as error:
        raise flagged(error, "--pretrained_teacher_model") from error


def _fusion(pipe: DiffusionPipeline, options: argparse.Namespace) -> DeltaConvFusion:
    import torch

    from ..conversion import DeltaConvFusion

    if options.fusion:
        return attach_fusion(pipe, options.fusion)
    torch.manual_seed(options.seed)
    try:
        size = _kernel_size(options.kernel_size)
        return DeltaConvFusion.convert(pipe, kernel_size=size, profile=_profile(options.profile), init=options.init)
    except ValueError as error:
        raise UserError(f"--kernel_size {options.kernel_size}: {error}") from error


def _profile(path: str | None) -> Profile | None:
    if path is None:
        return None
    from ..analysis import Profile

    try:
        return Profile.load(path)
    except (OSError, ValueError) as error:
        raise UserError(f"--profile: {path!r} cannot be read ({error})") from error


def _kernel_size(text: str) -> str | int:
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError as error:
        raise UserError(f"--kernel_size: expected 'auto' or an odd number, got {text!r}") from error


def _add_config_flags(parser: argparse.ArgumentParser) -> None:
    """One flag for each setting, so that its name, default and help stand in one place."""
    from ..distillation.config import DistillConfig

    # what accelerate launch was told, where the flag is not given
    defaults = {"output_dir": DEFAULT_OUTPUT, "mixed_precision": os.environ.get("ACCELERATE_MIXED_PRECISION", "no")}
    hints = get_type_hints(DistillConfig)
    for field in fields(DistillConfig):
        flag, help, hint = f"--{field.name}", field.metadata["help"], hints[field.name]
        default = defaults.get(field.name, field.default)
        if hint is bool:
            parser.add_argument(flag, action="store_true", help=help)
        elif get_origin(hint) is tuple:
            parser.add_argument(flag, nargs="+", type=get_args(hint)[0], default=default, help=help)
        else:
            parser.add_argument(flag, type=_scalar(hint), default=default, help=help)


def _value(options: argparse.Namespace, name: str) -> Any:
    value = getattr(options, name)
    return tuple(value) if isinstance(value, list) else value


def _scalar(hint: Any) -> type:
    """The type of a setting that may also be None."""
    return next((choice for choice in get_args(hint) if choice is not type(None)), hint)
