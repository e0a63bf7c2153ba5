"""Fits of attention strength against distance: a local part that falls off, plus a constant bias.

The forms are strength(d) = bias + amplitude * shape(d / half_width), where every shape is 1 at 0 and 1/2 at 1, so that
half widths can be compared. ΔConvFusion (arXiv 2504.21292) finds that strength falls off "with the square of the
distance": that is `quadratic`, cut off where it reaches zero, and may also be read as `inverse square`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "quadratic": lambda x: (1 - x.square() / 2).clamp(min=0),
    "gaussian": lambda x: torch.exp2(-x.square()),
    "exponential": lambda x: torch.exp2(-x),
    "inverse square": lambda x: 1 / (1 + x.square()),
}
STEPS = 48  # half widths tried in each round
ROUNDS = 4
NARROWEST = 0.25  # tokens
CONSTANT = 1e-12  # relative variance below which a profile counts as constant


@dataclass(frozen=True)
class Fit:
    """The best form for one profile.

    bias, amplitude: in units of the strength, both >= 0; half_width: in tokens; r2: of the best form, weighted;
    r2_by_form: of each form. A constant profile has amplitude 0 and r2 1.
    """

    form: str
    bias: float
    amplitude: float
    half_width: float
    r2: float
    r2_by_form: dict[str, float]

    def local(self, distance: Tensor) -> Tensor:
        """The local part's strength at each distance."""
        return self.amplitude * SHAPES[self.form](distance / self.half_width)


def fit_profile(distance: Tensor, strength: Tensor, weight: Tensor) -> Fit:
    """Weighted least squares of each form, and the best of them.

    Args:
        distance: [D] in tokens, rising; strength: [D]; weight: [D] >= 0, such as numbers of query–key pairs. With
            these every pair counts the same, and bias and local part together have the whole of the measured mass
            (unless bias or amplitude is held at zero).
    """
    distance, strength, weight = (values.double() for values in (distance, strength, weight))
    weight = weight / weight.sum()
    mean = (weight * strength).sum()
    variance = (weight * (strength - mean).square()).sum()
    if variance <= CONSTANT * mean.square():
        perfect = dict.fromkeys(SHAPES, 1.0)
        return Fit(next(iter(SHAPES)), mean.item(), 0.0, NARROWEST, 1.0, perfect)
    fits = {form: _fit_form(shape, distance, strength, weight) for form, shape in SHAPES.items()}
    r2_by_form = {form: 1 - error / variance.item() for form, (*_, error) in fits.items()}
    form = max(r2_by_form, key=lambda name: r2_by_form[name])
    bias, amplitude, half_width, _ = fits[form]
    return Fit(form, bias, amplitude, half_width, r2_by_form[form], r2_by_form)


def _fit_form(
    shape: Callable[[Tensor], Tensor], distance: Tensor, strength: Tensor, weight: Tensor
) -> tuple[float, float, float, float]:
    """bias, amplitude, half width and weighted squared error of the best fit of one form.

    Half widths are tried on a logarithmic scale, then again between the neighbours of the best. The widest is that of
    the quadratic that reaches zero at the largest distance: beyond it nothing tells bias and amplitude apart.
    """
    low, high = NARROWEST, max(distance.max().item() / math.sqrt(2), 2 * NARROWEST)
    best = (0.0, 0.0, low, math.inf)
    for _ in range(ROUNDS):
        widths = torch.logspace(math.log10(low), math.log10(high), STEPS, dtype=torch.float64)
        bias, amplitude = _solve(shape(distance / widths[:, None]), strength, weight)
        fitted = bias[:, None] + amplitude[:, None] * shape(distance / widths[:, None])
        errors = (weight * (strength - fitted).square()).sum(-1)
        index = int(errors.argmin())
        if errors[index] < best[3]:
            best = (bias[index].item(), amplitude[index].item(), widths[index].item(), errors[index].item())
        low, high = widths[max(index - 1, 0)].item(), widths[min(index + 1, STEPS - 1)].item()
    return best


def _solve(shapes: Tensor, strength: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Bias and amplitude >= 0 of the least squares for each row of shapes, [R, D]; the weights add up to one."""
    mean = (weight * strength).sum()
    centre = (weight * shapes).sum(-1, keepdim=True)
    spread = (weight * (shapes - centre).square()).sum(-1)
    covariance = (weight * (shapes - centre) * (strength - mean)).sum(-1)
    amplitude = (covariance / spread.clamp(min=1e-300)).clamp(min=0)
    bias = mean - amplitude * centre.squeeze(-1)
    alone = (weight * shapes * strength).sum(-1) / (weight * shapes.square()).sum(-1).clamp(min=1e-300)
    amplitude = torch.where(bias < 0, alone.clamp(min=0), amplitude)
    return bias.clamp(min=0), amplitude
