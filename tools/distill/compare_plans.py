"""Is a planned mix of converted layers better than other mixes as fast? On the embedded teacher, at equal steps.

    python tools/distill/compare_plans.py --output plans.json
    python tools/distill/compare_plans.py --tables plans.json   # Markdown of an earlier run, without another

The blocks of all layers are trained layer by layer (stage 1) once: that trains each by itself, so every subset of the
layers has its student, and each is measured. Then the planned mix for each speed, the one that converts the layers
with the most tokens first, two drawn at random and the whole conversion are trained end to end for equally many
steps. Only mixes count that would miss the speed without any one of their layers. For an error, the fastest student
of all subsets is set beside the fastest of the plan's curve, of the layers with the most tokens first, and of all or
nothing. Errors are mean squared differences from the teacher on noise that training never draws, as shares of what
removing all self-attention makes; the plan knows none of them. Costs are FLOPs of a step.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.analysis.plan_section import percent
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
        fast = [mix for mix in self.subsets() if self.speedup(mix) >= speedup]
        return [mix for mix in fast if all(self.speedup(set(mix) - {name}) < speedup for name in mix)]

    def subsets(self) -> list[Mix]:
        """All but the empty one."""
        names = list(self.plan.layers)
        return [mix for count in range(1, len(names) + 1) for mix in combinations(names, count)]

    def outermost(self) -> list[Mix]:
        """The layers that cost most, one more each time, in the model's order."""
        names = list(self.plan.layers)
        costly = sorted(names, key=lambda name: -self.plan.layers[name].saving)
        return [tuple(name for name in names if name in costly[:count]) for count in range(1, len(names) + 1)]

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
        "settings": {key: value for key, value in vars(options).items() if key not in ("output", "tables")},
        "plan": asdict(bench.plan),
    }
    trained = bench.stage_1()
    names = list(bench.plan.layers)
    errors = {mix: bench.error(part_of(trained, mix)) for mix in bench.subsets()}
    say(f"{len(errors)} subsets are measured")
    record["layers"] = {name: {"expected": bench.expected([name]), "stage 1": errors[name,]} for name in names}
    record["subsets"] = [
        {"layers": mix, "speedup": bench.speedup(mix), "expected": bench.expected(mix), "stage 1": error}
        for mix, error in errors.items()
    ]
    record["all"] = {
        "speedup": bench.speedup(names),
        "expected": bench.expected(names),
        "stage 1": errors[tuple(names)],
    }
    record["errors"] = [fastest_within(bench, errors, allowed) for allowed in options.errors]
    record["goals"] = [ways_to(bench, errors, speedup) for speedup in options.goals]
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


def ways_to(bench: Bench, errors: Mapping[Mix, float], speedup: float) -> dict[str, Any]:
    """The mixes that are so fast, and those of them that are trained further."""
    mixes = {mix: errors[mix] for mix in bench.minimal(speedup)}
    planned = tuple(bench.plan.for_goal(Goal(speedup=speedup)).kernel_sizes)
    outermost = next(mix for mix in bench.outermost() if bench.speedup(mix) >= speedup)
    others = [mix for mix in mixes if mix not in (planned, outermost)]
    drawn = random.Random(bench.options.seed).sample(others, min(2, len(others)))
    ways = {"planned": planned, "most tokens first": outermost}
    ways |= {f"drawn, {number}": mix for number, mix in enumerate(drawn, 1)}
    return {
        "speedup": speedup,
        "mixes": len(mixes),
        "better": sum(error < errors[planned] for error in mixes.values()),
        "best": min(mixes.values()),
        "median": statistics.median(mixes.values()),
        "worst": max(mixes.values()),
        "ways": {
            way: {
                "layers": mix,
                "speedup": bench.speedup(mix),
                "expected": bench.expected(mix),
                "stage 1": errors[mix],
            }
            for way, mix in ways.items()
        },
    }


def fastest_within(bench: Bench, errors: Mapping[Mix, float], allowed: float) -> dict[str, float]:
    """How fast a step can be with a student's error of at most so much, by the ways of choosing its layers."""
    curve = [point.layers for point in bench.plan.curve() if point.layers]
    ways = {
        "any": list(errors),
        "planned": curve,
        "most tokens first": bench.outermost(),
        "all or nothing": [tuple(bench.plan.layers)],
    }
    return {"allowed": allowed} | {
        way: max((bench.speedup(mix) for mix in mixes if errors[mix] <= allowed), default=1.0)
        for way, mixes in ways.items()
    }


def tables(record: dict[str, Any]) -> str:
    """Markdown: students by goal and way, and how well the plan's errors foretell those of students."""
    head = ["goal", "mix", "layers", "speed", "expected", "stage 1", "end to end"]
    rows = [head, ["---", "---", *["---:"] * (len(head) - 2)]]
    for goal in record["goals"]:
        for way, found in goal["ways"].items():
            rows.append([f"{goal['speedup']:g}×", way, *_cells(found, len(found["layers"]))])
    rows.append(["", "all", *_cells(record["all"], len(record["layers"]))])
    ways = [way for way in record["errors"][0] if way != "allowed"]
    by_error = [["error after stage 1 at most", *ways], ["---:"] * (1 + len(ways))]
    by_error += [[percent(found["allowed"]), *(f"{found[way]:.2f}×" for way in ways)] for found in record["errors"]]
    found = foretold(record)
    lines = [*_table(rows), "", *_table(by_error), ""]
    for goal in record["goals"]:
        lines.append(
            f"{goal['speedup']:g}×: of {goal['mixes']} mixes {goal['better']} have a smaller error after stage 1 than "
            f"the plan's; the best {percent(goal['best'])}, the median {percent(goal['median'])}, the worst "
            f"{percent(goal['worst'])}"
        )
    low, middle, high = found["expected over measured"]
    lines.append(
        f"{found['mixes']} subsets: rank correlation {found['rank correlation']:.3f}; expected over measured "
        f"{low:.1f} to {high:.1f}, median {middle:.1f}"
    )
    low, middle, high = found["together over sum"]
    lines.append(f"together over the sum of each alone: {low:.2f} to {high:.2f}, median {middle:.2f}")
    return "\n".join(lines)


def foretold(record: dict[str, Any]) -> dict[str, Any]:
    """Of all subsets, what the plan said of their students after stage 1; lowest, median and highest ratios."""
    mixes = {tuple(mix["layers"]): mix for mix in record["subsets"]}
    expected = [mix["expected"] for mix in mixes.values()]
    measured = [mix["stage 1"] for mix in mixes.values()]
    sums = [sum(record["layers"][name]["stage 1"] for name in layers) for layers in mixes]
    return {
        "mixes": len(mixes),
        "rank correlation": statistics.correlation(_ranks(expected), _ranks(measured)),
        "expected over measured": _spread(expected, measured),
        "together over sum": _spread(measured, sums),
    }


def _table(rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in rows]


def _spread(numerators: list[float], denominators: list[float]) -> tuple[float, float, float]:
    ratios = [above / below for above, below in zip(numerators, denominators, strict=True)]
    return min(ratios), statistics.median(ratios), max(ratios)


def _ranks(values: list[float]) -> list[int]:
    order = sorted(values)
    return [order.index(value) for value in values]


def _cells(found: dict[str, Any], layers: int) -> list[str]:
    trained = percent(found["end to end"]) if "end to end" in found else ""
    return [str(layers), f"{found['speedup']:.2f}×", percent(found["expected"]), percent(found["stage 1"]), trained]


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
    parser.add_argument("--errors", nargs="+", type=float, default=[0.01, 0.03, 0.06, 0.09], help="shares, of students")
    parser.add_argument("--stage1", type=int, default=160, help="layer-local steps")
    parser.add_argument("--steps", type=int, default=40, help="steps end to end after these")
    parser.add_argument("--batch", type=int, default=32, help="examples in a training step")
    parser.add_argument("--held", type=int, default=64, help="examples that students are measured on")
    parser.add_argument("--seed", type=int, default=0, help="of training, measuring and drawing")
    parser.add_argument("--output", type=Path, default=Path("plans.json"), help="where everything goes, as JSON")
    parser.add_argument("--tables", type=Path, help="print what this output of an earlier run says, and do no more")
    options = parser.parse_args()
    record = json.loads(options.tables.read_text(encoding="utf-8")) if options.tables else compare(options)
    print(tables(record))


if __name__ == "__main__":
    main()
