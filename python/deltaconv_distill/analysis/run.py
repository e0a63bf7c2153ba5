"""Analysing a text-to-image pipeline while it generates."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from ..conversion.sites import denoiser_of, sites_to_convert
from ..machine import describe_machine
from ..quiet import quiet
from .generate import Generation
from .profile import Profile
from .recording import Recording, Sampling, record
from .records import Example
from .summary import Rule, summarise_layer

# of height and width: the middle, what is probably part of a shape, what is probably background
SPOTLIGHT = [(0.5, 0.5), (0.3, 0.35), (0.1, 0.88)]
EXAMPLE_SIDE = 32  # cells


def analyze(
    pipe: DiffusionPipeline,
    generation: Generation,
    sampling: Sampling | None = None,
    rule: Rule | None = None,
    progress: bool = True,
) -> Profile:
    """Generate images, and look at every self-attention at a few timesteps of each.

    The pipeline is left as it was, and its images are those that it makes without being looked at.

    Args:
        pipe: a text-to-image pipeline of Stable Diffusion, SDXL or PixArt, without a fusion attached. For anything
            else, such as a ControlNet, see `record`.
        generation: prompts, seeds, timesteps.
        sampling: how much of each self-attention is looked at.
        rule: how kernel sizes follow.
        progress: show a bar, one tick for each layer and forward.

    Returns:
        The profile, with the first image as its example.

    Raises:
        TypeError, RuntimeError, ValueError: as `record`.
    """
    denoiser, sampling, rule = denoiser_of(pipe), sampling or Sampling(), rule or Rule()
    images = len(generation.prompts) * len(generation.seeds)
    total = images * len(set(generation.timesteps)) * len(sites_to_convert(denoiser).found)
    bar = tqdm(total=total, desc="analyse", unit="layer", disable=not progress)

    def counts(timestep: int) -> bool:
        return generation.counts(pipe, timestep)

    example = None
    with bar, quiet(pipe), record(denoiser, sampling, counts, bar.update) as recording:
        recording.spotlight = SPOTLIGHT
        for prompt, image in generation.images(pipe):
            example = example or _example(recording, prompt, image)
            recording.spotlight = []
    profile = profile_of(recording, rule)
    profile.example = example
    profile.settings["generation"] = _plain(asdict(generation))
    return profile


def profile_of(recording: Recording, rule: Rule | None = None) -> Profile:
    """The profile of what has been recorded.

    Raises:
        ValueError: nothing has.
    """
    rule = rule or Rule()
    if not recording.layers:
        raise ValueError("recording: no self-attention ran at the timesteps that count")
    order = [name for name in sites_to_convert(recording.denoiser).found if name in recording.layers]
    return Profile(
        model=type(recording.denoiser).__name__,
        layers={name: summarise_layer(recording.layers[name], rule) for name in order},
        settings={"sampling": asdict(recording.sampling), "rule": asdict(rule)},
        machine={"date": datetime.now(timezone.utc).isoformat(timespec="seconds"), **describe_machine()},
    )


def _example(recording: Recording, prompt: str, image: Image.Image) -> Example | None:
    """Of the middle one of the timesteps; None where there was none."""
    if not recording.maps:
        return None
    timestep = sorted(recording.maps)[len(recording.maps) // 2]
    maps = {layer: _shrink(maps) for layer, maps in recording.maps[timestep].items()}
    return Example(prompt, timestep, image.convert("RGB"), list(recording.spotlight), maps)


def _shrink(maps: Tensor) -> Tensor:
    """Probabilities [points, H, W] on at most EXAMPLE_SIDE cells a side, each the sum of its tokens'."""
    height, width = (min(side, EXAMPLE_SIDE) for side in maps.shape[-2:])
    shrunk = torch.nn.functional.adaptive_avg_pool2d(maps, (height, width))
    return shrunk / shrunk.sum((-2, -1), keepdim=True)


def _plain(value: Any) -> Any:
    """What JSON gives back as it was; other things as text."""
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)
