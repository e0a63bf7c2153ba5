"""`save_pretrained` of a converted denoiser: the teacher's files, and the blocks in a folder beside them."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffusers import ModelMixin

from .hub import take_hub_options, upload
from .routing import hidden_blocks
from .side_car import SIDE_CAR_FOLDER

if TYPE_CHECKING:
    from .fusion import DeltaConvFusion

logger = logging.getLogger(__name__)


def save_teacher_and_side_car(
    fusion: DeltaConvFusion,
    denoiser: ModelMixin,
    save_directory: str | os.PathLike,
    is_main_process: bool = True,
    safe_serialization: bool = True,
    variant: str | None = None,
    max_shard_size: int | str = "10GB",
    push_to_hub: bool = False,
    **options: Any,
) -> None:
    """While attached: write the teacher as it is without blocks, and the blocks, in the same form, into the side-car.

    Pipelines look at the names of these parameters to know what they can ask for. `options` are those of
    `ModelMixin.save_pretrained`, those of the hub included.
    """
    hub_options = take_hub_options(options)
    form: dict[str, Any] = {
        "safe_serialization": safe_serialization,
        "variant": variant,
        "max_shard_size": max_shard_size,
    }
    with hidden_blocks(denoiser):
        type(denoiser).save_pretrained(denoiser, save_directory, is_main_process=is_main_process, **form, **options)
    if not is_main_process:
        return
    side_car = Path(save_directory) / SIDE_CAR_FOLDER
    fusion.save_pretrained(side_car, **form)
    logger.warning(
        f"{save_directory} holds the {type(denoiser).__name__} with its own self-attention, and {side_car} the "
        "ΔConvBlocks: after loading the former, DeltaConvFusion.attach_saved(...) puts them in their places"
    )
    if push_to_hub:
        upload(Path(save_directory), **hub_options)
