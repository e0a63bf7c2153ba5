"""What a denoiser is given while its pipeline generates."""

from __future__ import annotations

import copy
from typing import Any

from diffusers import DiffusionPipeline, ModelMixin

from .generate import Generation
from .hooks import on_forward, timestep_of

Inputs = dict[str, Any]  # the arguments of one forward, by name


def record_inputs(pipe: DiffusionPipeline, denoiser: ModelMixin, generation: Generation) -> list[Inputs]:
    """Copies of the arguments of each forward of the denoiser that counts.

    Raises:
        ValueError: there was none.
    """
    inputs: list[Inputs] = []

    def keep(arguments: Inputs) -> None:
        if generation.counts(pipe, timestep_of(arguments)):
            inputs.append(copy.deepcopy({name: value for name, value in arguments.items() if name != "self"}))

    with on_forward(denoiser, keep):
        for _ in generation.images(pipe):
            pass
    if not inputs:
        raise ValueError("generation: the denoiser did not run at the timesteps that count")
    return inputs
