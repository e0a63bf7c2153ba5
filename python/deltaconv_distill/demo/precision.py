"""Whether this machine computes faster in bfloat16: processors without its instructions are many times slower in it."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from diffusers import DiffusionPipeline

from ..conversion import DeltaConvFusion
from ..distillation import DistillConfig, Distiller
from ..distillation.data.examples import Examples

PRECISIONS = ("no", "bf16")
REPEATS = 2
# Small, because a processor without bfloat16 takes long over it.
BATCH = 8


def computing_in(precision: str) -> AbstractContextManager:
    """Inside, passes run in one of PRECISIONS."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")


def faster_precision(
    pipe: DiffusionPipeline, fusion: DeltaConvFusion, examples: Examples, training: DistillConfig
) -> dict[str, float]:
    """Seconds of a small step's passes, forward and backward, by `mixed_precision`, fastest first; trains nothing."""
    seconds = {precision: float("inf") for precision in PRECISIONS}
    for _ in range(1 + REPEATS):  # the first warms up; the minimum passes over it
        for precision in PRECISIONS:
            small = replace(training, mixed_precision=precision, train_batch_size=BATCH, fit_batches=0, stage1_steps=0)
            distiller = Distiller(pipe, fusion, examples, small)
            batch = distiller.stream.batch(0)
            started = time.perf_counter()
            distiller.losses(batch).total(small.weights).backward()
            seconds[precision] = min(seconds[precision], time.perf_counter() - started)
            distiller.optimizer.zero_grad()
    return dict(sorted(seconds.items(), key=lambda item: item[1]))
