"""Weights of the losses that change during a run: straight lines between given steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .losses import LossWeights

Points = tuple[tuple[float, float], ...]  # (step, value) by rising step


@dataclass(frozen=True)
class WeightSchedule:
    """Each weight's corner points; before the first and after the last the value stays."""

    noise: Points
    kd: Points
    feat: Points

    @classmethod
    def parse(cls, noise: str | float, kd: str | float, feat: str | float) -> WeightSchedule:
        """Each weight is a number, or a text such as "0:0,2000:1".

        Raises:
            ValueError: a text of another form, steps that do not rise, or a negative value.
        """
        return cls(_points("w_noise", noise), _points("w_kd", kd), _points("w_feat", feat))

    @property
    def is_ever_positive(self) -> bool:
        return any(value > 0 for points in (self.noise, self.kd, self.feat) for _, value in points)

    def at(self, step: int) -> LossWeights:
        """The weights of the step that follows `step` steps."""
        return LossWeights(_at(self.noise, step), _at(self.kd, step), _at(self.feat, step))


def _at(points: Points, step: int) -> float:
    if len(points) == 1:
        return points[0][1]
    steps, values = zip(*points, strict=True)
    return float(np.interp(step, steps, values))


def _points(name: str, weight: str | float) -> Points:
    if not isinstance(weight, str):
        return ((0, float(weight)),)
    try:
        pairs = [tuple(map(float, pair.split(":"))) for pair in weight.split(",")]
        points = tuple((step, value) for step, value in pairs)
    except ValueError as error:
        raise ValueError(f"{name}_schedule: expected step:value,step:value, got {weight!r}") from error
    steps = [step for step, _ in points]
    if steps != sorted(set(steps)) or any(value < 0 for _, value in points):
        raise ValueError(f"{name}_schedule: expected rising steps and values of 0 or more, got {weight!r}")
    return points
