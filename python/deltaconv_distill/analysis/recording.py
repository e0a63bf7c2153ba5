"""Collecting the statistics of every self-attention while a denoiser runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from diffusers import DiffusionPipeline, ModelMixin
from torch import Tensor

from deltaconv_kernels.validation import MAX_KERNEL_SIZE

from ..conversion.sites import denoiser_of
from .attention import Projected, probabilities, text_shares
from .geometry import Grid, window_sizes
from .hooks import Call, on_forward, timestep_of, watched
from .receptive_field import FieldSums, central_queries
from .sums import AttentionSums


@dataclass(frozen=True)
class Sampling:
    """How much of each self-attention is looked at, in each forward. None of it changes what the model computes.

    max_queries: queries whose attention to all keys is summed up, drawn anew each time; None: all of them;
    window_queries: those among them for which outputs under windows are computed;
    field_queries, field_directions: queries near the middle, and random output directions, of the receptive field;
    largest_window: the largest K of the windows; seed: of the draws.
    """

    max_queries: int | None = 1024
    window_queries: int = 128
    field_queries: int = 4
    field_directions: int = 4
    largest_window: int = MAX_KERNEL_SIZE
    seed: int = 0

    def __post_init__(self) -> None:
        counts = ("max_queries", "window_queries", "field_queries", "field_directions", "largest_window")
        for name in counts:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: expected a positive number, got {value}")


@dataclass
class LayerSums:
    """What is known of one layer: its sums by timestep."""

    grid: Grid
    heads: int
    channels: int
    attention: dict[int, AttentionSums] = field(default_factory=dict)
    receptive: dict[int, FieldSums] = field(default_factory=dict)
    queries: int = 0  # of each image in each forward
    text_shares: dict[int, list[Tensor]] = field(default_factory=dict)  # of a joint attention: [heads] of each forward


@dataclass
class Recording:
    """Filled while `record` is open. `wanted` says of a timestep whether its forwards count; `progress` hears of each
    layer that was done; `spotlight` holds points, as fractions of height and width, whose attention is kept in `maps`,
    by timestep and layer: [points, H, W], the mean over heads.
    """

    denoiser: ModelMixin
    sampling: Sampling
    wanted: Callable[[int], bool]
    progress: Callable[[], None]
    layers: dict[str, LayerSums] = field(default_factory=dict)
    spotlight: list[tuple[float, float]] = field(default_factory=list)
    maps: dict[int, dict[str, Tensor]] = field(default_factory=dict)
    timestep: int | None = None  # of this forward, None if it does not count

    def __post_init__(self) -> None:
        self._generator = torch.Generator().manual_seed(self.sampling.seed)

    def begin(self, arguments: dict) -> None:
        """Called before each forward of the denoiser, with its arguments."""
        timestep = timestep_of(arguments)
        self.timestep = timestep if self.wanted(timestep) else None

    def watch(self, call: Call) -> None:
        """Called after each self-attention."""
        if self.timestep is None:
            return
        self._add(call, self._layer(call), self.timestep)
        self.progress()

    def _layer(self, call: Call) -> LayerSums:
        found = self.layers.get(call.layer)
        if found is None:
            found = LayerSums(call.grid, call.attention.heads, call.hidden_states.shape[-1])
            self.layers[call.layer] = found
        if found.grid != call.grid:
            raise ValueError(f"{call.layer}: one recording is of one size, got {call.grid} tokens after {found.grid}")
        return found

    def _add(self, call: Call, layer: LayerSums, timestep: int) -> None:
        tokens = call.hidden_states.shape[1]
        if timestep not in layer.attention:
            sizes = window_sizes(call.grid, self.sampling.largest_window)
            layer.attention[timestep] = AttentionSums(call.grid, layer.heads, sizes)
            layer.receptive[timestep] = FieldSums(call.grid)
        order = torch.randperm(tokens, generator=self._generator)
        queries = order[: self.sampling.max_queries].to(call.hidden_states.device)
        layer.queries = len(queries)
        projected = call.project(call.hidden_states)
        layer.attention[timestep].add_projected(projected, queries, self.sampling.window_queries)
        middle = central_queries(call.grid, self.sampling.field_queries, self._generator)
        directions = torch.randn(self.sampling.field_directions, layer.channels, generator=self._generator)
        layer.receptive[timestep].add(call, middle.to(queries.device), directions)
        if call.joint is not None:
            shares = text_shares(*call.joint.streams(call.hidden_states), queries, call.joint.text_mask)
            layer.text_shares.setdefault(timestep, []).append(shares.mean((0, 2)).cpu())
        if self.spotlight:
            self.maps.setdefault(timestep, {})[call.layer] = self._spotlight(call.grid, projected)

    def _spotlight(self, grid: Grid, projected: Projected) -> Tensor:
        """Of the last image of the batch, which under guidance is one with its prompt."""
        height, width = grid
        points = torch.tensor([int(y * height) * width + int(x * width) for y, x in self.spotlight])
        rows = [weights[-1].mean(0) for _, weights in probabilities(projected, points.to(projected.key.device))]
        return torch.cat(rows).unflatten(-1, grid).cpu()


@contextmanager
def record(
    pipe_or_denoiser: DiffusionPipeline | ModelMixin,
    sampling: Sampling | None = None,
    wanted: Callable[[int], bool] = lambda timestep: True,
    progress: Callable[[], None] = lambda: None,
) -> Iterator[Recording]:
    """Context: forwards of the denoiser fill the recording. They return what they return without it, bit for bit.

    Made for `analyze`; used by itself for whatever is not a text-to-image pipeline, such as a ControlNet.

    Args:
        pipe_or_denoiser: as in `DeltaConvFusion.convert`, without a fusion attached.
        sampling: how much is looked at.
        wanted: whether forwards at a timestep count; all of them do unless given.
        progress: called after each layer of a forward that counts.

    Raises:
        TypeError: not a supported model.
        RuntimeError: a fusion is attached.
        ValueError: while it runs: two image sizes in one recording, masked or merged tokens.
    """
    denoiser = denoiser_of(pipe_or_denoiser)
    recording = Recording(denoiser, sampling or Sampling(), wanted, progress)
    with watched(denoiser, recording.watch), on_forward(denoiser, recording.begin):
        yield recording
