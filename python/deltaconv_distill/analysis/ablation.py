"""What is lost, without training, when self-attention sees a window and the mean alone.

The paper's neighbourhood-attention check (arXiv 2504.21292). Weights inside the window stay those of the full
attention: that bounds what copying it into kernels of this size can keep. It is no bound on distilled blocks, which
make up for each other and need not imitate each layer by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from diffusers import DiffusionPipeline, ModelMixin
from torch import Tensor
from tqdm import tqdm

from ..conversion.kernel_sizes import check_names
from ..conversion.model_inputs import predict
from ..conversion.sites import denoiser_of, sites_to_convert
from ..quiet import quiet
from .attention import probabilities
from .generate import Generation
from .hooks import Call, watched
from .inputs import Inputs, record_inputs
from .records import Ablation, LayerChange
from .windows import KINDS, WITH_MEAN, windowed_outputs

MEAN_ALONE = 0  # the kernel size of a window without a key
Replacement = Callable[[Call], Tensor]


def ablate_windows(
    pipe: DiffusionPipeline,
    generation: Generation,
    kernel_sizes: Mapping[str, int],
    kind: str = WITH_MEAN,
    progress: bool = True,
) -> Ablation:
    """Replace self-attention by windows and measure what changes, for all layers together and for one at a time.

    The denoiser's inputs are those of the unchanged run at the timesteps that count. Then the images of the first
    prompt and seed are generated under each replacement of all layers.

    Args:
        pipe: as for `analyze`; left as it was.
        generation: prompts, seeds, timesteps.
        kernel_sizes: K by layer name, such as `profile.kernel_sizes`.
        kind: "window and mean" or "window alone".
        progress: show a bar, one tick for each forward of the denoiser.

    Raises:
        ValueError: unknown or missing layers, another kind, no forward at the timesteps.
        TypeError, RuntimeError: as `record`.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {KINDS}, got {kind!r}")
    denoiser = denoiser_of(pipe)
    check_names("kernel_sizes", kernel_sizes, sites_to_convert(denoiser).found)
    wholes: dict[str, dict[str, Replacement]] = {
        "windows": {name: _Windowed(size, kind) for name, size in kernel_sizes.items()},
        "mean": dict.fromkeys(kernel_sizes, _Windowed(MEAN_ALONE, WITH_MEAN)),
        "removed": dict.fromkeys(kernel_sizes, _remove),
    }
    with quiet(pipe):
        inputs = record_inputs(pipe, denoiser, generation)
        changes = _Changes(denoiser, inputs, progress, runs=1 + len(wholes) + 2 * len(kernel_sizes))
        layers = {}
        for name, size in kernel_sizes.items():
            prediction, own = changes.of({name: wholes["windows"][name]})
            removed, _ = changes.of({name: _remove})
            layers[name] = LayerChange(size, own, prediction, removed)
        overall = {what: changes.of(replacements)[0] for what, replacements in wholes.items()}
        changes.bar.close()
        images = {"unchanged": _first_image(pipe, denoiser, generation, {})}
        images |= {what: _first_image(pipe, denoiser, generation, whole) for what, whole in wholes.items()}
    return Ablation(kind, overall["windows"], overall["removed"], overall["mean"], layers, images)


class _Windowed:
    """A self-attention with windows of one size."""

    def __init__(self, kernel_size: int, kind: str) -> None:
        self.kernel_size = kernel_size
        self.kind = kind

    def __call__(self, call: Call) -> Tensor:
        projected = call.project(call.hidden_states)
        queries = torch.arange(call.hidden_states.shape[1], device=call.hidden_states.device)
        gathered = [
            call.with_text(
                windowed_outputs(weights, projected.value, chunk, call.grid, [self.kernel_size], self.kind)[0], chunk
            )
            for chunk, weights in probabilities(projected, queries)
        ]
        return call.project_out(torch.cat(gathered, dim=-2), call.output.dtype)


def _remove(call: Call) -> Tensor:
    return torch.zeros_like(call.output)


class _Changes:
    """Runs the denoiser on the same inputs with layers replaced, and compares with what it predicts unchanged."""

    def __init__(self, denoiser: ModelMixin, inputs: list[Inputs], progress: bool, runs: int) -> None:
        self.denoiser = denoiser
        self.inputs = inputs
        self.bar = tqdm(total=runs * len(inputs), desc="ablate", unit="forward", disable=not progress)
        self.unchanged = [self._predict(given, {})[0] for given in inputs]

    def of(self, replacements: Mapping[str, Replacement]) -> tuple[float, float]:
        """Relative squared change of the prediction, and of the replaced layers' own outputs, over all inputs."""
        change, whole, own_change, own_whole = 0.0, 0.0, 0.0, 0.0
        for given, unchanged in zip(self.inputs, self.unchanged, strict=True):
            prediction, own, before = self._predict(given, replacements)
            change += _square(prediction - unchanged)
            whole += _square(unchanged)
            own_change, own_whole = own_change + own, own_whole + before
        return change / whole, own_change / own_whole

    @torch.no_grad()
    def _predict(self, given: Inputs, replacements: Mapping[str, Replacement]) -> tuple[Tensor, float, float]:
        own = before = 0.0

        def watch(call: Call) -> Tensor | None:
            nonlocal own, before
            if call.layer not in replacements:
                return None
            output = replacements[call.layer](call)
            own += _square(output - call.output)
            before += _square(call.output)
            return output

        with watched(self.denoiser, watch):
            prediction = predict(self.denoiser, given)
        self.bar.update()
        return prediction, own, before


def _first_image(
    pipe: DiffusionPipeline, denoiser: ModelMixin, generation: Generation, replacements: Mapping[str, Replacement]
) -> Any:
    def watch(call: Call) -> Tensor | None:
        return replacements[call.layer](call) if call.layer in replacements else None

    with watched(denoiser, watch):
        return next(generation.images(pipe))[1].convert("RGB")


def _square(values: Tensor) -> float:
    return values.float().square().sum().item()
