"""`deltaconv distill`: convert a pipeline and train the blocks, under diffusers' flag names."""

from __future__ import annotations

import argparse
from dataclasses import fields
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from .errors import UserError
from .pipelines import EMBEDDED, attach_fusion, load_pipeline

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from ..conversion import DeltaConvFusion
    from ..distillation.data import Examples

DEFAULT_OUTPUT = "deltaconv-distilled"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pretrained_teacher_model", required=True, help="a diffusers pipeline directory or id, or 'embedded'"
    )
    parser.add_argument("--train_data_dir", required=True, help="a folder of captioned images, or 'embedded'")
    parser.add_argument("--caption_column", default="text", help="metadata.jsonl's or .csv's column of captions")
    parser.add_argument("--resolution", type=int, default=512, help="images are resized and cropped to this square")
    parser.add_argument(
        "--cache_latents", action="store_true", help="encode every image and caption once and keep them in memory"
    )
    parser.add_argument(
        "--kernel_size", default="auto", help="'auto' (the model's preset) or one odd number for every layer"
    )
    parser.add_argument("--fusion", help="start from the blocks of this saved fusion instead of new ones")
    _add_config_flags(parser)


def run(options: argparse.Namespace) -> None:
    from ..distillation import CheckpointError, DataError, DistillConfig, Distiller, TrainingDiverged

    try:
        config = DistillConfig(**{field.name: getattr(options, field.name) for field in fields(DistillConfig)})
    except ValueError as error:
        raise UserError(f"--{error}") from error
    pipe = load_pipeline(options.pretrained_teacher_model, "--pretrained_teacher_model")
    try:
        fusion = _fusion(pipe, options)
        Distiller(pipe, fusion, _examples(pipe, options), config).train()
    except (CheckpointError, DataError, TrainingDiverged) as error:
        raise UserError(str(error)) from error
    print(f"fusion: {config.output_dir}/fusion")


def _fusion(pipe: DiffusionPipeline, options: argparse.Namespace) -> DeltaConvFusion:
    import torch

    from ..conversion import DeltaConvFusion

    if options.fusion:
        return attach_fusion(pipe, options.fusion)
    torch.manual_seed(options.seed)
    try:
        return DeltaConvFusion.convert(pipe, kernel_size=_kernel_size(options.kernel_size))
    except ValueError as error:
        raise UserError(f"--kernel_size {options.kernel_size}: {error}") from error


def _kernel_size(text: str) -> str | int:
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError as error:
        raise UserError(f"--kernel_size: expected 'auto' or an odd number, got {text!r}") from error


def _examples(pipe: DiffusionPipeline, options: argparse.Namespace) -> Examples:
    from ..distillation import CachedExamples, EmojiImages, EncodedOnTheFly, ImageFolder, PipelineEncoder

    encoder = PipelineEncoder(pipe)
    if options.train_data_dir == EMBEDDED:
        return CachedExamples(EmojiImages(), encoder)
    images = ImageFolder(options.train_data_dir, options.resolution, options.caption_column)
    return CachedExamples(images, encoder) if options.cache_latents else EncodedOnTheFly(images, encoder)


def _add_config_flags(parser: argparse.ArgumentParser) -> None:
    """One flag for each setting, so that its name, default and help stand in one place."""
    from ..distillation.config import DistillConfig

    hints = get_type_hints(DistillConfig)
    for field in fields(DistillConfig):
        flag, help = f"--{field.name}", field.metadata["help"]
        default = DEFAULT_OUTPUT if field.name == "output_dir" else field.default
        if hints[field.name] is bool:
            parser.add_argument(flag, action="store_true", help=help)
        else:
            parser.add_argument(flag, type=_scalar(hints[field.name]), default=default, help=help)


def _scalar(hint: Any) -> type:
    """The type of a setting that may also be None."""
    return next((choice for choice in get_args(hint) if choice is not type(None)), hint)
