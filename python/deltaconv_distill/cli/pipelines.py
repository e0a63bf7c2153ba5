"""Loading what `--model`, `--pretrained_teacher_model` and `--fusion` name."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UserError

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

    from ..conversion import DeltaConvFusion

EMBEDDED, EMBEDDED_MMDIT = "embedded", "embedded-mmdit"
EMBEDDED_MODELS = (EMBEDDED, EMBEDDED_MMDIT)
DTYPES = ("float32", "bfloat16", "float16")
SINGLE_FILES = (".safetensors", ".ckpt")
RUN_FOLDER = "fusion"  # where a run of `deltaconv distill` and each of its checkpoints have their fusion


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """Which files of a model are loaded."""
    parser.add_argument("--variant", help="files of this kind, such as fp16, where the model has several")
    parser.add_argument("--revision", help="a branch, tag or commit of a model on the hub")
    parser.add_argument("--config", help="for a model in a single file: the pipeline folder or hub id of its kind")


def load_pipeline(
    name: str, flag: str, options: argparse.Namespace | None = None, dtype: torch.dtype | None = None
) -> DiffusionPipeline:
    """A pipeline directory, a checkpoint in one file, a hub id, or one of EMBEDDED_MODELS, in float32 unless told.

    `options` has the flags of `add_model_flags`.

    Raises:
        UserError: `name` does not lead to a pipeline, or not with these flags.
    """
    import torch
    from diffusers import DiffusionPipeline

    flags = {key: getattr(options, key, None) for key in ("variant", "revision", "config")}
    given = {key: value for key, value in flags.items() if value is not None}
    dtype = dtype or torch.float32
    if name in EMBEDDED_MODELS:
        _refuse(given, f"{flag} {name}")
        from ..embedded import load_joint_teacher, load_teacher

        return load_teacher(dtype) if name == EMBEDDED else load_joint_teacher(dtype)
    expected = (
        f"{flag}: expected {EMBEDDED!r}, a folder with a diffusers pipeline, a .safetensors or .ckpt file, or a hub "
        f"id, got {name!r}"
    )
    if Path(name).suffix in SINGLE_FILES and Path(name).is_file():
        _refuse({key: value for key, value in given.items() if key != "config"}, "a single file")
        with _loading(expected):
            return _from_single_file(name, given.get("config"), dtype)
    if not _is_folder_or_hub_id(name):
        raise UserError(expected)
    _refuse({key: value for key, value in given.items() if key == "config"}, "a pipeline's folder, which has its own")
    with _loading(expected):
        return DiffusionPipeline.from_pretrained(name, dtype=dtype, **given)


def attach_fusion(pipe: DiffusionPipeline, path: str) -> DeltaConvFusion:
    """Put the blocks of a saved fusion into the pipeline, and return the fusion.

    Args:
        path: its folder, that of the run or checkpoint that it is in, or a hub id.

    Raises:
        UserError: `path` holds no fusion, or one of another model.
    """
    from ..conversion import DeltaConvFusion

    if not _is_folder_or_hub_id(path):
        raise UserError(f"--fusion: expected a saved fusion's folder, a run's folder or a hub id, got {path!r}")
    with _loading(f"--fusion: {path!r} cannot be used with this model"):
        return DeltaConvFusion.from_pretrained(_fusion_folder(path)).attach(pipe)


def attach_saved(pipe: DiffusionPipeline, variant: str | None) -> DeltaConvFusion | None:
    """The blocks beside the files of a pipeline that was saved while converted, or None where there are none.

    Raises:
        UserError: they cannot be read.
    """
    from ..conversion import DeltaConvFusion
    from ..conversion.side_car import saved_beside
    from ..conversion.sites import denoiser_of

    folder = denoiser_of(pipe).config.get("_name_or_path")
    if not folder or saved_beside(Path(folder)) is None:
        return None
    with _loading("--model: the ΔConvBlocks in its folder cannot be used; --no_fusion leaves them alone"):
        return DeltaConvFusion.attach_saved(pipe, variant=variant)


def _from_single_file(name: str, config: str | None, dtype: torch.dtype) -> DiffusionPipeline:
    from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type, load_single_file_checkpoint

    kind = infer_diffusers_model_type(load_single_file_checkpoint(name))
    pipeline: Any = StableDiffusionXLPipeline if kind.startswith("xl") else StableDiffusionPipeline
    options = {} if config is None else {"config": config, "local_files_only": Path(config).is_dir()}
    return pipeline.from_single_file(name, torch_dtype=dtype, **options)


def _fusion_folder(path: str) -> str:
    inside = Path(path) / RUN_FOLDER
    has_none = not (Path(path) / "config.json").is_file()
    return str(inside) if has_none and (inside / "config.json").is_file() else path


def _refuse(given: dict[str, Any], model: str) -> None:
    """Flags that would be ignored."""
    if given:
        raise UserError(f"{', '.join(f'--{name}' for name in given)}: not for {model}")


@contextmanager
def _loading(expected: str) -> Iterator[None]:
    """Whatever loaders raise on files that are not what they expect becomes a line that says what was expected."""
    try:
        yield
    except Exception as error:  # loaders have no class of errors in common
        raise UserError(f"{expected} ({_first_line(error)})") from error


def _is_folder_or_hub_id(name: str) -> bool:
    """Told apart here, because the hub's client asks the network, at length, about a folder that is not there."""
    return Path(name).is_dir() or re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) is not None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
