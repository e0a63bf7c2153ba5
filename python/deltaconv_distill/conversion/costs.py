"""What each convertible layer costs in a denoising step at a size, with its attention and with a block in its place.

In FLOPs, by the formulas of `flops`, from a configuration alone; or in nanoseconds on this machine.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ModelMixin
from torch import nn
from torch.utils.hooks import RemovableHandle

from .fusion import DeltaConvFusion
from .model_inputs import random_inputs
from .whole_model import step_flops

FLOPS, NANOSECONDS = "FLOPs", "ns"
UNITS = (FLOPS, NANOSECONDS)
STEP = ""  # the name under which a whole step is timed
WARM_UP = 1


@dataclass(frozen=True)
class LayerCost:
    """Of one layer in one step for one sample; `block` is all that is left with a block in the attention's place."""

    attention: int
    block: int

    @property
    def saving(self) -> int:
        return self.attention - self.block


@dataclass(frozen=True)
class StepCosts:
    """Of one denoising step for one sample, without guidance; `rest` is all but the convertible layers."""

    unit: str
    rest: int
    layers: dict[str, LayerCost]

    @property
    def teacher(self) -> int:
        """The step with every self-attention."""
        return self.rest + sum(layer.attention for layer in self.layers.values())


def counted_costs(denoiser: ModelMixin, height: int, width: int) -> StepCosts:
    """FLOPs for latents of height x width, of a denoiser with a fusion, whose layers are those that are told.

    Raises:
        RuntimeError: the denoiser has no fusion.
        ValueError: too few tokens for the blocks.
    """
    step = step_flops(denoiser, height, width)
    fusion = DeltaConvFusion.attached_to(denoiser)
    assert fusion is not None
    layers = {}
    for layer in fusion.report.layers:
        flops = layer.flops(height, width)
        layers[layer.name] = LayerCost(flops.attention, flops.block)
    return StepCosts(FLOPS, step.block - sum(cost.block for cost in layers.values()), layers)


@torch.no_grad()
def timed_costs(denoiser: ModelMixin, height: int, width: int, repeats: int = 5) -> StepCosts:
    """Nanoseconds on this machine, otherwise as `counted_costs`: medians of steps that alternate between both.

    The clock starts and stops around each layer, after waiting for the device, so that nothing overlaps; a step without
    that is somewhat faster.

    Raises:
        RuntimeError: the denoiser has no fusion.
        ValueError: too few tokens for the blocks; repeats below 1.
    """
    fusion = DeltaConvFusion.attached_to(denoiser)
    if fusion is None:
        raise RuntimeError(f"denoiser: expected a converted {type(denoiser).__name__}")
    if repeats < 1:
        raise ValueError(f"repeats: expected at least 1, got {repeats}")
    inputs = random_inputs(denoiser, height, width)
    layers = {name: fusion.attention(name) for name in fusion.blocks}
    teachers, students = [], []
    with _Stopwatch(denoiser, layers) as watch:
        for repeat in range(WARM_UP + repeats):
            with fusion.teacher():
                teacher = watch.step(inputs)
            student = watch.step(inputs)
            if repeat >= WARM_UP:
                teachers.append(teacher)
                students.append(student)
    costs = {name: LayerCost(_median(teachers, name), _median(students, name)) for name in layers}
    rest = _median(teachers, STEP) - sum(cost.attention for cost in costs.values())
    return StepCosts(NANOSECONDS, max(rest, 0), costs)


def _median(steps: list[dict[str, int]], name: str) -> int:
    return int(statistics.median(step[name] for step in steps))


class _Stopwatch:
    """Context: `step` runs the denoiser once and returns the nanoseconds of each layer and, under STEP, of all."""

    def __init__(self, denoiser: ModelMixin, layers: Mapping[str, nn.Module]) -> None:
        self.denoiser = denoiser
        self.layers = layers
        self.times: dict[str, int] = {}
        self.handles: list[RemovableHandle] = []

    def __enter__(self) -> _Stopwatch:
        for name, module in self.layers.items():
            self.handles.append(module.register_forward_pre_hook(lambda *_, name=name: self._start(name)))
            self.handles.append(module.register_forward_hook(lambda *_, name=name: self._stop(name)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def step(self, inputs: Mapping[str, Any]) -> dict[str, int]:
        self.times = {}
        self._start(STEP)
        self.denoiser(**inputs)
        self._stop(STEP)
        return self.times

    def _start(self, name: str) -> None:
        self.times[name] = -self._now()

    def _stop(self, name: str) -> None:
        self.times[name] += self._now()

    def _now(self) -> int:
        if self.denoiser.device.type != "cpu":
            torch.get_device_module(self.denoiser.device).synchronize()
        return time.perf_counter_ns()
