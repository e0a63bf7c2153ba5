"""How fast the embedded teacher is distilled from different starts: a Markdown table of error against processor time.

    python tools/distill/compare_starts.py --seconds 15 30 60 --ways random attention stage1

All ways have the same seeds, data, kernel sizes and optimizer, and take turns between two marks. What counts is the
time of this process's threads, with conversion, analysis, fit and stage 1 but without measuring: the machine may be
shared.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.analysis import analyze
from deltaconv_distill.conversion.presets import find_preset
from deltaconv_distill.conversion.sites import find_sites
from deltaconv_distill.demo.settings import ANALYSIS, TRAINING
from deltaconv_distill.distillation import (
    CachedExamples,
    DenoisingTask,
    DistillConfig,
    Distiller,
    EmojiImages,
    PipelineEncoder,
)
from deltaconv_distill.distillation.evaluation.held_out_noise import held_out_batches
from deltaconv_distill.embedded import load_teacher

HELD_BATCH, HELD_BATCHES = 64, 2


@dataclass(frozen=True)
class Way:
    """Where the blocks start, with or without measured maps, and the settings of the training from there."""

    title: str
    init: str
    training: DistillConfig
    measured: bool = False


END_TO_END = replace(TRAINING, fit_batches=0, stage1_steps=0)
PAPER = DistillConfig(train_batch_size=TRAINING.train_batch_size, lr_warmup_steps=TRAINING.lr_warmup_steps)
WAYS = {
    "paper": Way("random; end to end at the paper's learning rate", "random", PAPER),
    "random": Way("random; end to end", "random", END_TO_END),
    "random-stage1": Way("random; stage 1, end to end", "random", replace(TRAINING, fit_batches=0)),
    "attention": Way("attention; end to end", "attention", END_TO_END),
    "maps": Way("attention with measured maps; end to end", "attention", END_TO_END, measured=True),
    "fit": Way("attention with measured maps; fit, end to end", "attention", replace(TRAINING, stage1_steps=0), True),
    "stage1": Way("attention with measured maps; fit, stage 1, end to end", "attention", TRAINING, True),
}


class Run:
    """One way under way; `seconds`: processor time so far."""

    def __init__(self, way: Way, examples: CachedExamples, precision: str) -> None:
        self.title, self.seconds = way.title, 0.0
        self.pipe = load_teacher()
        names = find_sites(self.pipe.unet).found
        preset = find_preset(self.pipe.unet)
        assert preset is not None
        sizes = {name: preset.kernel_size(name) or 0 for name in names}
        with self._clock():
            torch.manual_seed(0)
            profile = analyze(self.pipe, ANALYSIS, progress=False) if way.measured else None
            self.fusion = DeltaConvFusion.convert(self.pipe, sizes, profile, init=way.init)
            self.distiller = Distiller(
                self.pipe, self.fusion, examples, replace(way.training, mixed_precision=precision)
            )

    def advance(self, seconds: float) -> None:
        """Train until `seconds` of processor time are spent."""
        while self.seconds < seconds:
            with self._clock():
                self.distiller.train_step()

    @torch.no_grad()
    def error(self, examples: CachedExamples) -> float:
        """MSE between student, with averaged blocks, and teacher on noise that training never draws."""
        task = DenoisingTask(self.pipe)
        errors = []
        with self.distiller.averaged():
            for batch in held_out_batches(task, examples, 0, HELD_BATCH, HELD_BATCHES):
                with self.fusion.teacher():
                    teacher = task.predict(batch)
                errors.append(F.mse_loss(task.predict(batch), teacher).item())
        return sum(errors) / len(errors)

    @contextmanager
    def _clock(self) -> Iterator[None]:
        started = time.process_time()
        yield
        self.seconds += time.process_time() - started


def compare(ways: Sequence[str], marks: Sequence[float], precision: str) -> str:
    """The table: a row for each way, and in it the error, with the steps done, at each mark."""
    examples = CachedExamples(EmojiImages(), PipelineEncoder(load_teacher()))
    runs = [Run(WAYS[name], examples, precision) for name in ways]
    cells = [[run.title, f"{run.error(examples):.4f} ({run.seconds:.1f} s)"] for run in runs]
    for mark in sorted(marks):
        for run, row in zip(runs, cells, strict=True):
            run.advance(mark)
            row.append(f"{run.error(examples):.4f} ({run.distiller.step})")
            print(row[0], row[-1], flush=True)
    head = ["start; training", "before step 1", *(f"{mark:g} s" for mark in sorted(marks))]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *cells])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), metavar="WAY", help=", ".join(WAYS))
    parser.add_argument("--seconds", nargs="+", type=float, default=[15, 30, 60], help="marks, in processor time")
    parser.add_argument("--mixed_precision", choices=("no", "bf16"), default="bf16")
    options = parser.parse_args()
    print(compare(options.ways, options.seconds, options.mixed_precision))


if __name__ == "__main__":
    main()
