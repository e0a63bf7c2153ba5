"""One stage of training on a CPU: steps until a time is spent, with averaged weights, checkpoints and resume."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

LOG_EVERY = 100  # steps
LONGEST_STEP = 10.0  # seconds; what a step takes beyond this, the process was suspended, and the clock with it

LossOfBatch = Callable[[torch.Generator], Tensor]  # draws a batch with the generator, gives its loss


def learning_rate(step: int, peak: float, progress: float, warmup: int = 200, decay_from: float = 0.6) -> float:
    """Warm-up by step, then constant, then a cosine to zero by progress (0 to 1, of the time or steps allowed)."""
    tail = max(0.0, (progress - decay_from) / (1 - decay_from))
    return peak * min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * min(1.0, tail)))


class ThreadChoice:
    """One thread or several, whichever is faster just now.

    On a shared machine a step on all cores waits for the busiest one, and may well be slower than a step on one core.
    """

    EVERY, TRIAL = 60, 4  # steps between choices; steps tried with each count

    def __init__(self, most: int):
        self.candidates = sorted({1, most})
        self.best = most
        self.times: dict[int, list[float]] = {}

    def before_step(self, step: int) -> None:
        turn = step % self.EVERY // self.TRIAL
        if turn < len(self.candidates):
            torch.set_num_threads(self.candidates[turn])
        elif self.times:
            self.best = min(self.times, key=lambda n: sorted(self.times[n])[len(self.times[n]) // 2])
            self.times = {}
            torch.set_num_threads(self.best)
        self.trying = turn < len(self.candidates)

    def after_step(self, seconds: float) -> None:
        if self.trying:
            self.times.setdefault(torch.get_num_threads(), []).append(seconds)


class Stage:
    """Modules, optimiser, averages, random stream and history; saved whole, so that a resumed run goes on as it was."""

    def __init__(self, path: Path, module: nn.Module, peak: float, minutes: float, threads: int, seed: int):
        self.path, self.module, self.peak, self.minutes = path, module, peak, minutes
        self.threads = ThreadChoice(threads)
        self.optimizer = torch.optim.AdamW(
            module.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.ema = EMAModel(module.parameters(), decay=0.999, use_ema_warmup=True, power=0.75)
        self.generator = torch.Generator().manual_seed(seed)
        self.step, self.seconds, self.history = 0, 0.0, []
        if path.exists():
            self._load()

    def _load(self) -> None:
        state = torch.load(self.path, weights_only=True)
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        self.generator.set_state(state["generator"])
        self.step, self.seconds, self.history = state["step"], state["seconds"], state["history"]

    def save(self) -> None:
        state = {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step,
            "seconds": self.seconds,
            "history": self.history,
        }
        torch.save(state, self.path.with_suffix(".partial"))
        os.replace(self.path.with_suffix(".partial"), self.path)

    def run(self, loss_of_batch: LossOfBatch, on_snapshot: Callable[[], None], snapshot_minutes: float) -> None:
        """Trains until the stage's minutes are spent; saves and calls on_snapshot at intervals and at the end."""
        losses: list[float] = []
        next_snapshot = self.seconds + 60 * snapshot_minutes
        while self.seconds < 60 * self.minutes:
            losses.append(self._train_step(loss_of_batch))
            if self.step % LOG_EVERY == 0:
                self._log(sum(losses) / len(losses))
                losses = []
            if self.seconds >= next_snapshot:
                self.save()
                on_snapshot()
                next_snapshot = self.seconds + 60 * snapshot_minutes
        self.save()
        on_snapshot()

    def _train_step(self, loss_of_batch: LossOfBatch) -> float:
        began = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.peak, progress=self.seconds / (60 * self.minutes))
        self.threads.before_step(self.step)
        loss = loss_of_batch(self.generator)
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.ema.step(self.module.parameters())
        elapsed = time.perf_counter() - began
        self.threads.after_step(elapsed)
        self.step += 1
        self.seconds += min(elapsed, LONGEST_STEP)
        return loss.item()

    def _log(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise RuntimeError(f"{self.path.stem}: the loss is {loss} at step {self.step}")
        self.history.append({"step": self.step, "seconds": round(self.seconds, 1), "loss": loss})
        where = f"{self.path.stem} step {self.step}, {self.seconds:.0f} s"
        print(f"{where}: loss {loss:.4f} ({torch.get_num_threads()} threads)", flush=True)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Context in which the module holds its averaged weights."""
        self.ema.store(self.module.parameters())
        self.ema.copy_to(self.module.parameters())
        try:
            yield
        finally:
            self.ema.restore(self.module.parameters())
