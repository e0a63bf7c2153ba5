"""`deltaconv distill`: convert a pipeline and train the blocks, under diffusers' flag names.

Runs as one process, or as many under `accelerate launch -m deltaconv_distill.cli distill …`.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Sized
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from .conversion_flags import add_conversion_flags, convert, refuse_conversion_flags
from .errors import UserError, flagged
from .pipelines import add_model_flags, attach_fusion, load_pipeline
from .training_data import TRAINING_SOURCES, add_training_flags, open_examples, require_one_source

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from ..conversion import DeltaConvFusion
    from ..distillation import DistillConfig
    from ..distillation.data.examples import Examples
    from ..distillation.data.shards import ShardedImages

DEFAULT_OUTPUT = "deltaconv-distilled"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pretrained_teacher_model",
        required=True,
        help="a diffusers pipeline directory or id, a checkpoint file, 'embedded' or 'embedded-mmdit'",
    )
    add_model_flags(parser)
    add_training_flags(parser)
    parser.add_argument(
        "--fusion", help="start from the blocks of this saved fusion, or of this run, instead of new ones"
    )
    add_conversion_flags(parser)
    parser.add_argument("--num_train_epochs", type=int, help="passes over the data, instead of --max_train_steps")
    _add_config_flags(parser)


def run(options: argparse.Namespace) -> None:
    from ..distillation import (
        CheckpointError,
        DataError,
        DenoisingTask,
        DistillConfig,
        Distiller,
        RunFolderError,
        TrainingDiverged,
        make_accelerator,
    )
    from ..distillation.run.resume import checkpoint_to_resume
    from ..distillation.run.run_folder import RunFolder

    require_one_source(options, TRAINING_SOURCES)
    try:
        config = DistillConfig(**{field.name: _value(options, field.name) for field in fields(DistillConfig)})
        accelerator = make_accelerator(config)
        RunFolder(config, checkpoint_to_resume(config))  # before anything that takes time
    except ValueError as error:
        raise UserError(f"--{error}") from error
    except CheckpointError as error:
        raise UserError(str(error)) from error
    pipe = load_pipeline(options.pretrained_teacher_model, "--pretrained_teacher_model", options).to(accelerator.device)
    try:
        _made(DenoisingTask.configured, pipe, config)  # refuses what cannot be a teacher, before any encoding
        fusion = _fusion(pipe, options)
        examples = open_examples(pipe, options)
        config = _with_epochs(config, options, examples, accelerator.num_processes)
        distiller = _made(Distiller, pipe, fusion, examples, config, accelerator)
        distiller.train()
    except RunFolderError as error:
        raise UserError(f"--{error}") from error
    except (CheckpointError, DataError, TrainingDiverged) as error:
        raise UserError(str(error)) from error
    except OSError as error:  # such as a folder that cannot be made; a full disk has an error of its own
        raise UserError(f"--output_dir: {error}") from error
    if accelerator.is_main_process:
        print(f"fusion: {config.output_dir}/fusion")


def _with_epochs(
    config: DistillConfig, options: argparse.Namespace, examples: Examples | ShardedImages, processes: int
) -> DistillConfig:
    """The steps that so many passes over the examples take, the last one filled up to a whole step."""
    epochs = options.num_train_epochs
    if epochs is None:
        return config
    if epochs < 1:
        raise UserError(f"--num_train_epochs: expected at least 1, got {epochs}")
    if options.max_train_steps != type(config).max_train_steps:
        raise UserError("--num_train_epochs, --max_train_steps: expected one of them")
    if not isinstance(examples, Sized):
        raise UserError("--num_train_epochs: shards are streamed and not counted, expected --max_train_steps")
    step = config.train_batch_size * config.gradient_accumulation_steps * processes
    return replace(config, max_train_steps=math.ceil(epochs * len(examples) / step))


def _made(make: Any, *arguments: Any) -> Any:
    """Settings that do not go together, or not with this teacher or machine, show when what uses them is made."""
    from ..distillation import DataError

    try:
        return make(*arguments)
    except DataError:
        raise
    except (TypeError, ValueError) as error:
        raise flagged(error, "--pretrained_teacher_model") from error


def _fusion(pipe: DiffusionPipeline, options: argparse.Namespace) -> DeltaConvFusion:
    if options.fusion:
        refuse_conversion_flags(options)
        return attach_fusion(pipe, options.fusion)
    return convert(pipe, options)


def _add_config_flags(parser: argparse.ArgumentParser) -> None:
    """One flag for each setting, so that its name, default and help stand in one place."""
    from ..distillation.config import DistillConfig

    # what accelerate launch was told, where the flag is not given
    group = parser.add_argument_group("training", "by the names that diffusers' training scripts use")
    defaults = {"output_dir": DEFAULT_OUTPUT, "mixed_precision": os.environ.get("ACCELERATE_MIXED_PRECISION", "no")}
    hints = get_type_hints(DistillConfig)
    for field in fields(DistillConfig):
        flag, help, hint = f"--{field.name}", field.metadata["help"], hints[field.name]
        default = defaults.get(field.name, field.default)
        if hint is bool:
            group.add_argument(flag, action="store_true", help=help)
        elif get_origin(hint) is tuple:
            group.add_argument(flag, nargs="+", type=get_args(hint)[0], default=default, help=help)
        else:
            group.add_argument(flag, type=_scalar(hint), default=default, help=help)


def _value(options: argparse.Namespace, name: str) -> Any:
    value = getattr(options, name)
    return tuple(value) if isinstance(value, list) else value


def _scalar(hint: Any) -> type:
    """The type of a setting that may also be None."""
    return next((choice for choice in get_args(hint) if choice is not type(None)), hint)
