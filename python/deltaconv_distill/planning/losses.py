"""What the prediction loses when layers are converted, measured on the teacher before anything is trained.

Every block starts from its attention and is fitted to what that takes in and gives out while the teacher generates.
Then each one stands in its place alone, on inputs with other noise, and the denoiser's output is compared.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from diffusers import DiffusionPipeline
from torch import Tensor
from tqdm import tqdm

from ..analysis.generate import Generation
from ..analysis.inputs import Inputs, record_inputs
from ..conversion import DeltaConvFusion
from ..conversion.hooks import AttentionCalls
from ..conversion.model_inputs import predict
from ..conversion.parts import part_of
from ..conversion.routing import REMOVED
from ..conversion.sites import denoiser_of
from ..distillation.training.layer_local import fit_to_calls
from ..quiet import quiet

FIT_SEED_OFFSET = 1_000_003  # keeps the noise that blocks are fitted on apart from the noise they are measured on


class LossMeasurement:
    """A teacher's own inputs, its predictions on them, and the blocks of a fusion fitted to its attentions.

    Losses are sums of squares of the prediction's change over those of the prediction, over all inputs.

    Args:
        pipe: a text-to-image pipeline with `fusion` attached, which is detached.
        fusion: fresh blocks of all layers.
        generation: prompts, seeds and timesteps of the inputs; the blocks are fitted on the same with other seeds.
        progress: show a bar, one tick for each forward beside the generation's own.

    Raises:
        ValueError: the denoiser did not run at the timesteps that count.
    """

    def __init__(
        self, pipe: DiffusionPipeline, fusion: DeltaConvFusion, generation: Generation, progress: bool = True
    ) -> None:
        self.denoiser = denoiser_of(pipe)
        self.fusion = fusion
        fusion.detach()
        other_noise = replace(generation, seeds=[seed + FIT_SEED_OFFSET for seed in generation.seeds])
        with quiet(pipe):
            to_fit, self.inputs = (record_inputs(pipe, self.denoiser, given) for given in (other_noise, generation))
        runs = len(to_fit) + len(self.inputs) * (4 + len(fusion.blocks))
        self.bar = tqdm(total=runs, desc="plan", unit="forward", disable=not progress)
        self.teacher = self._predictions()
        fusion.attach(self.denoiser)
        fit_to_calls(fusion, self._passes(to_fit))
        with fusion.ablate(REMOVED):
            self.removed = self._change()
        fusion.detach()

    def loss(self, layers: Collection[str]) -> float:
        """With these layers converted and no others."""
        with self._converted(layers):
            return self._change()

    @contextmanager
    def _converted(self, layers: Collection[str]) -> Iterator[None]:
        part = part_of(self.fusion, layers).attach(self.denoiser)
        try:
            yield
        finally:
            part.detach()

    def _passes(self, inputs: list[Inputs]) -> Iterator[AttentionCalls]:
        for given in inputs:
            with torch.no_grad(), self.fusion.teacher(), self.fusion.record_attention() as calls:
                self._predict(given)
            yield calls

    def _change(self) -> float:
        change = sum(_square(now - before) for now, before in zip(self._predictions(), self.teacher, strict=True))
        return change / sum(map(_square, self.teacher))

    def _predictions(self) -> list[Tensor]:
        return [self._predict(given) for given in self.inputs]

    @torch.no_grad()
    def _predict(self, given: Inputs) -> Tensor:
        self.bar.update()
        return predict(self.denoiser, given)


def _square(values: Tensor) -> float:
    return values.float().square().sum().item()
