"""A plan: which layers to convert for a goal, with what each costs and is expected to lose, and its JSON form."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..atomic import atomic_file
from ..record_files import load_record
from .budget import Curve, best_choices
from .kernel_sizes import check_names

VERSION = 1


@dataclass(frozen=True)
class Goal:
    """One of two: a step at least `speedup` times as fast, or an expected error of at most this share of what removing
    all convertible attention would change.

    Raises:
        ValueError: none or both; a speedup that is not above 1, an error that is not above 0.
    """

    speedup: float | None = None
    error: float | None = None

    def __post_init__(self) -> None:
        if (self.speedup is None) == (self.error is None):
            raise ValueError("goal: expected a speedup or an error, one of the two")
        if self.speedup is not None and not 1 < self.speedup < math.inf:
            raise ValueError(f"goal_speedup: expected a number above 1, got {self.speedup}")
        if self.error is not None and not 0 < self.error < math.inf:
            raise ValueError(f"goal_error: expected a share above 0, got {self.error}")

    def __str__(self) -> str:
        if self.speedup is not None:
            return f"at least {self.speedup:g}x as fast"
        return f"at most {100 * (self.error or 0):g} % of the removed attention's error"


@dataclass(frozen=True)
class PlannedLayer:
    """One convertible layer.

    attention, block: its cost in a step, in the plan's unit, and what is left of it with a block;
    loss: expected relative squared change of the prediction when this layer alone is converted.
    """

    kernel_size: int
    attention: int
    block: int
    loss: float
    convert: bool

    @property
    def saving(self) -> int:
        return self.attention - self.block


@dataclass(frozen=True)
class Point:
    """A choice on the curve of the best: how many times as fast a step is, the expected error as a share of the removed
    attention's, and the layers."""

    speedup: float
    error: float
    layers: tuple[str, ...]


@dataclass(frozen=True)
class ConversionPlan:
    """Which layers of a denoiser to convert, for `DeltaConvFusion.convert(pipe, plan=plan)`.

    model: the denoiser's class; goal: what the choice is for; pixels, latents: height and width that costs are about;
    unit: of the costs, "FLOPs" or "ns"; rest: what a step costs beside the layers; factors, expansion: of the blocks;
    removed: relative squared change of the prediction with all attentions of the layers removed;
    joint: the same with all layers, and with the planned ones, in blocks together, where that has been measured;
    settings: how losses and costs were measured; machine: on what, and when.
    """

    model: str
    goal: Goal
    pixels: tuple[int, int]
    latents: tuple[int, int]
    unit: str
    rest: int
    factors: tuple[int, ...]
    expansion: float
    layers: dict[str, PlannedLayer]
    removed: float
    joint: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)

    @property
    def kernel_sizes(self) -> dict[str, int]:
        """K of the layers to convert."""
        return {name: layer.kernel_size for name, layer in self.layers.items() if layer.convert}

    @property
    def cost(self) -> int:
        """Of a step of the teacher."""
        return self.rest + sum(layer.attention for layer in self.layers.values())

    @property
    def speedup(self) -> float:
        """Expected, of a whole step."""
        return self.cost / (self.cost - sum(layer.saving for layer in self.layers.values() if layer.convert))

    @property
    def error(self) -> float:
        """Expected, the sum of the losses as a share of the removed attention's."""
        return sum(layer.loss for layer in self.layers.values() if layer.convert) / self.removed

    @property
    def measure(self) -> str:
        """What the speedup is by, in words."""
        return "the clock" if self.unit == "ns" else self.unit

    def __str__(self) -> str:
        height, width = self.pixels
        return (
            f"{len(self.kernel_sizes)} of {len(self.layers)} layers for a step {self.goal} at {height} x {width} "
            f"pixels: {self.speedup:.2f}x by {self.measure}, error {100 * self.error:.2g} % of the removed attention's"
        )

    def for_goal(self, goal: Goal) -> ConversionPlan:
        """The plan for another goal, from the same measurements.

        Raises:
            ValueError: the goal cannot be reached; the message says what can.
        """
        chosen = _choose(self, goal)
        layers = {name: replace(layer, convert=name in chosen) for name, layer in self.layers.items()}
        joint = {what: value for what, value in self.joint.items() if what != "planned"}
        return replace(self, goal=goal, layers=layers, joint=joint)

    def curve(self, at_most: int = 500) -> list[Point]:
        """The choices that no other one beats, from the smallest to the largest speedup.

        Of more than `at_most` of them, so many at even distances in their order."""
        curve, names = self._curve(), list(self.layers)
        last, count = len(curve) - 1, min(len(curve), at_most)
        points = []
        for index in sorted({number * last // max(count - 1, 1) for number in range(count)}):
            layers = tuple(names[layer] for layer in curve.choice(index))
            lost = sum(self.layers[name].loss for name in layers)
            points.append(Point(self.cost / (self.cost - int(curve.savings[index])), lost / self.removed, layers))
        return points

    def check(self, model: str, layers: Collection[str], factors: Sequence[int], expansion: float) -> None:
        """
        Raises:
            ValueError: the plan was made for another denoiser than one of this class with these layers, or for blocks
                of other options; it converts nothing.
        """
        if model != self.model:
            raise ValueError(f"plan: expected one for a {model}, got one for a {self.model}")
        check_names("plan", self.layers, layers)
        if not self.kernel_sizes:
            raise ValueError("plan: expected one that converts a layer, got one that converts none")
        if tuple(factors) != self.factors:
            raise ValueError(f"factors: expected {self.factors}, as the plan has them, got {tuple(factors)}")
        if expansion != self.expansion:
            raise ValueError(f"expansion: expected {self.expansion}, as the plan has it, got {expansion}")

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the JSON file; returns its path."""
        text = json.dumps({"version": VERSION, **asdict(self)}, ensure_ascii=False, allow_nan=False, indent=1)
        with atomic_file(path, "w") as file:
            file.write(text + "\n")
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ConversionPlan:
        """Read a file that `save` wrote.

        Raises:
            OSError: it cannot be read.
            ValueError: it is no plan; the message says where it breaks the schema.
        """
        record = load_record(path, schema(), "conversion plan")
        del record["version"]
        lists = {name: tuple(record[name]) for name in ("pixels", "latents", "factors")}
        layers = {name: PlannedLayer(**layer) for name, layer in record["layers"].items()}
        return cls(**{**record, **lists, "layers": layers, "goal": Goal(**record["goal"])})

    def _curve(self) -> Curve:
        layers = self.layers.values()
        return best_choices([layer.saving for layer in layers], [layer.loss for layer in layers])


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a plan."""
    return json.loads((files(__package__) / "plan.schema.json").read_text(encoding="utf-8"))


def refuse_beside_plan(**given: bool) -> None:
    """Raises ValueError for the first argument that is given although a plan decides what it says."""
    for name in (name for name, is_given in given.items() if is_given):
        raise ValueError(f"{name}: not with plan=, which chooses the layers and their kernel sizes")


def _choose(plan: ConversionPlan, goal: Goal) -> set[str]:
    curve, names, cost = plan._curve(), list(plan.layers), plan.cost
    where = f"at {plan.pixels[0]} x {plan.pixels[1]} pixels"
    if goal.speedup is not None:
        point = curve.cheapest(math.ceil(cost * (1 - 1 / Fraction(goal.speedup))))
        if point is None:
            fastest = curve.choice(len(curve) - 1)
            best = math.floor(1000 * cost / (cost - int(curve.savings[-1]))) / 1000
            raise ValueError(
                f"goal_speedup: {goal.speedup:g} cannot be reached {where}; the best, with {len(fastest)} of "
                f"{len(names)} layers in blocks, is {best:g}"
            )
    else:
        point = curve.fastest((goal.error or 0) * plan.removed)
        if not curve.choice(point):
            if len(curve) == 1:
                raise ValueError(f"goal_error: nothing can be gained {where}: no layer costs less in a block")
            smallest = min(layer.loss for layer in plan.layers.values() if layer.saving > 0) / plan.removed
            raise ValueError(
                f"goal_error: {goal.error:g} leaves no layer to convert {where}; the smallest expected error of one is "
                f"{math.ceil(10000 * smallest) / 10000:g}"
            )
    return {names[layer] for layer in curve.choice(point)}
