"""Is a planned mix of converted layers better than other mixes as fast? On the embedded teacher, at equal steps.

    python tools/distill/compare_plans.py --output plans.json

The blocks of all layers are trained layer by layer (stage 1) once: that trains each by itself, so every subset of the
layers has its student, and each is measured. Then the planned mix for each speed, the one that converts the layers with
the most tokens first, two drawn at random and the whole conversion are trained end to end for equally many steps. Only
mixes count that would miss the speed without any one of their layers. Errors are mean squared differences from the
teacher on noise that training never draws, as shares of what removing all self-attention makes; the plan knows none of
them. Costs are FLOPs of a step.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.conversion.parts import part_of
from deltaconv_distill.conversion.routing import REMOVED
from deltaconv_distill.demo.settings import ANALYSIS, TRAINING
from deltaconv_distill.distillation import CachedExamples, DenoisingTask, Distiller, EmojiImages, PipelineEncoder
from deltaconv_distill.distillation.evaluation.held_out_noise import held_out_batches
from deltaconv_distill.embedded import load_teacher
from deltaconv_distill.machine import describe_machine
from deltaconv_distill.planning import ConversionPlan, Goal, plan_conversion

Mix = tuple[str, ...]
EVERYTHING = Goal(error=1e6)


@dataclass
class Bench:
    """The teacher, its plan, its data, and what students are measured on."""

    options: argparse.Namespace

    def __post_init__(self) -> None:
        torch.manual_seed(self.options.seed)
        self.pipe = load_teacher()
        pixels = (self.options.size, self.options.size)
        self.plan = plan_conversion(self.pipe, ANALYSIS, EVERYTHING, pixels, kernel_size="auto", progress=False)
        say(f"planned: {self.plan}")
        self.examples = CachedExamples(EmojiImages(), PipelineEncoder(self.pipe))
        self.task = DenoisingTask(self.pipe)
        self.held = [*held_out_batches(self.task, self.examples, self.options.seed, self.options.held, 1)]
        self.teacher = self._predict()
        self.removed = 1.0

    def speedup(self, mix: Collection[str]) -> float:
        return self._mixed(mix).speedup

    def expected(self, mix: Collection[str]) -> float:
        """The plan's error."""
        return self._mixed(mix).error

    def minimal(self, speedup: float) -> list[Mix]:
        """All mixes so fast that would not be without any one of their layers."""
        names = list(self.plan.layers)
        fast = [
            mix
            for count in range(1, len(names) + 1)
            for mix in combinations(names, count)
            if self.speedup(mix) >= speedup
        ]
        return [mix for mix in fast if all(self.speedup(set(mix) - {name}) < speedup for name in mix)]

    @torch.no_grad()
    def error(self, fusion: DeltaConvFusion) -> float:
        """Of a detached fusion."""
        with attached(fusion, self.pipe):
            return self._error_now()

    def train(self, fusion: DeltaConvFusion, **settings: Any) -> None:
        """Of a detached fusion; it ends with the average of its weights."""
        shared = {"seed": self.options.seed, "train_batch_size": self.options.batch, "mixed_precision": "bf16"}
        with attached(fusion, self.pipe):
            Distiller(self.pipe, fusion, self.examples, replace(TRAINING, **shared, **settings)).train()

    def stage_1(self) -> DeltaConvFusion:
        """All blocks, each trained on its own attention."""
        steps = self.options.stage1
        fusion = DeltaConvFusion.convert(self.pipe)
        with torch.no_grad(), fusion.ablate(REMOVED):
            self.removed = self._error_now()
        fusion.detach()
        self.train(fusion, stage1_steps=steps, max_train_steps=steps)
        return fusion

    def _mixed(self, mix: Collection[str]) -> ConversionPlan:
        layers = {name: replace(layer, convert=name in mix) for name, layer in self.plan.layers.items()}
        return replace(self.plan, layers=layers)

    def _predict(self) -> list[torch.Tensor]:
        with torch.no_grad():
            return [self.task.predict(batch) for batch in self.held]

    def _error_now(self) -> float:
        errors = [F.mse_loss(mine, theirs) for mine, theirs in zip(self._predict(), self.teacher, strict=True)]
        return statistics.fmean(error.item() for error in errors) / self.removed


@contextmanager
def attached(fusion: DeltaConvFusion, pipe: Any) -> Iterator[None]:
    fusion.attach(pipe)
    try:
        yield
    finally:
        fusion.detach()


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Everything, written to `options.output` after each part."""
    bench = Bench(options)
    record: dict[str, Any] = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "settings": {key: value for key, value in vars(options).items() if key != "output"},
        "plan": asdict(bench.plan),
    }
    trained = bench.stage_1()
    names = list(bench.plan.layers)
    record["layers"] = {
        name: {"expected": bench.expected([name]), "stage 1": bench.error(part_of(trained, [name]))} for name in names
    }
    record["all"] = {
        "speedup": bench.speedup(names), "expected": bench.expected(names), "stage 1": bench.error(trained)
    }  # fmt: skip
    record["goals"] = []
    for speedup in options.goals:
        goal = stage_1_of_goal(bench, trained, speedup)
        record["goals"].append(goal)
        save(options.output, record)
    whole = part_of(trained, names)
    bench.train(whole, **end_to_end(options))
    record["all"]["end to end"] = bench.error(whole)
    say(f"all: {record['all']}")
    for goal in record["goals"]:
        for way in goal["ways"].values():
            fusion = part_of(trained, way["layers"])
            bench.train(fusion, **end_to_end(options))
            way["end to end"] = bench.error(fusion)
            say(f"{goal['speedup']}x: {way}")
            save(options.output, record)
    return record


def stage_1_of_goal(bench: Bench, trained: DeltaConvFusion, speedup: float) -> dict[str, Any]:
    """Every minimal mix that is so fast, and those that are trained further."""
    mixes = bench.minimal(speedup)
    errors = {mix: bench.error(part_of(trained, mix)) for mix in mixes}
    planned = tuple(bench.plan.for_goal(Goal(speedup=speedup)).kernel_sizes)
    outer = sorted(bench.plan.layers, key=lambda name: -bench.plan.layers[name].saving)
    outermost = next(outer[:count] for count in range(1, len(outer) + 1) if bench.speedup(outer[:count]) >= speedup)
    others = [mix for mix in mixes if set(mix) not in (set(planned), set(outermost))]
    drawn = random.Random(bench.options.seed).sample(others, min(2, len(others)))
    ways = {"planned": planned, "outermost": tuple(outermost)}
    ways |= {f"random {number}": mix for number, mix in enumerate(drawn)}
    goal = {
        "speedup": speedup,
        "mixes": len(mixes),
        "better": sum(error < errors[planned] for error in errors.values()) if planned in errors else None,
        "best": min(errors.values()),
        "median": statistics.median(errors.values()),
        "worst": max(errors.values()),
        "ways": {
            way: {
                "layers": list(mix),
                "speedup": bench.speedup(mix),
                "expected": bench.expected(mix),
                "stage 1": bench.error(part_of(trained, mix)),
                "stage 1, sum": sum(bench.error(part_of(trained, [name])) for name in mix),
            }
            for way, mix in ways.items()
        },
        "all mixes": [
            {"layers": list(mix), "expected": bench.expected(mix), "stage 1": error} for mix, error in errors.items()
        ],
    }
    say(f"{speedup}x: {goal['ways']['planned']}, {goal['better']} of {len(mixes)} mixes are better")
    return goal


def end_to_end(options: argparse.Namespace) -> dict[str, Any]:
    return {"fit_batches": 0, "stage1_steps": 0, "max_train_steps": options.steps}


def save(path: Path, record: dict[str, Any]) -> None:
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def say(line: str) -> None:
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=128, help="pixels a side that speed is about")
    parser.add_argument("--goals", nargs="+", type=float, default=[1.2, 1.5, 2.0], help="speedups of a whole step")
    parser.add_argument("--stage1", type=int, default=160, help="layer-local steps")
    parser.add_argument("--steps", type=int, default=40, help="steps end to end after these")
    parser.add_argument("--batch", type=int, default=32, help="examples in a training step")
    parser.add_argument("--held", type=int, default=64, help="examples that students are measured on")
    parser.add_argument("--seed", type=int, default=0, help="of training, measuring and drawing")
    parser.add_argument("--output", type=Path, default=Path("plans.json"), help="where everything goes, as JSON")
    compare(parser.parse_args())


if __name__ == "__main__":
    main()
