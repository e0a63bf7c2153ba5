"""The hooks of a converted denoiser: plain objects without closures, so that a deep copy is hooked to itself.

They stay installed from attach to detach, whatever is switched on: torch.compile does not look at hooks again.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn

from .grids import NOTED, Arguments, Grid, InputGrid
from .notes import Note, write_note
from .routing import ROUTE, STUDENT, Route, StandIn, TextPart


class AttentionCall(NamedTuple):
    """What a self-attention, or what runs in its place, took in and gave out: [B, H, W, C] each.

    text: of a joint attention, whose `output` is what its image tokens got but for their text part, that part.
    """

    input: Tensor
    output: Tensor
    text: TextPart | None = None


AttentionCalls = dict[str, AttentionCall]  # by layer name


@dataclass
class State:
    """What an attached denoiser does in one thread."""

    mode: str = STUDENT
    size: Grid | None = None  # of the latents, where the user has said it
    note: Note | None = None  # of the call that runs, where its route has no other way
    features: list[dict[str, Tensor]] = field(default_factory=list)  # that are being filled
    calls: list[AttentionCalls] = field(default_factory=list)
    recording: bool = False


class Control(threading.local):
    """What an attached denoiser does now, in each thread by itself: what one thread switches, no other sees.

    Features and calls are recorded only between the start and the end of a forward of the denoiser, never when backward
    runs checkpointed blocks again: the tensors that a loss was computed from stay the ones in the dict.
    """

    def __init__(self) -> None:
        self.now = State()

    def __reduce__(self) -> tuple[type[Control], tuple[()]]:
        """A copy begins as the student, and so does what torch.save has written."""
        return Control, ()

    @contextmanager
    def recorder(self, kind: str) -> Iterator[dict[str, Any]]:
        """Inside, forwards fill the dict with "features" or "calls", whichever `kind` is."""
        filled: dict[str, Any] = {}
        now = self.now
        setattr(now, kind, [*getattr(now, kind), filled])
        try:
            yield filled
        finally:
            setattr(now, kind, [other for other in getattr(now, kind) if other is not filled])

    def begin_forward(self, denoiser: nn.Module, args: Any) -> None:
        """Forward pre-hook of the denoiser.

        Raises:
            RuntimeError: called by nn.DataParallel, whose threads are in none of the contexts of the caller's.
        """
        if getattr(denoiser, "_is_replica", False):
            raise RuntimeError("nn.DataParallel: a converted model runs in DistributedDataParallel instead")
        if self.now.features or self.now.calls:
            self.now.recording = True

    def end_forward(self, denoiser: nn.Module, args: Any, output: Any) -> None:
        """Forward hook of the denoiser, called after an exception too."""
        if self.now.recording:
            self.now.recording = False


class RouteHook:
    """Forward pre-hook of a module that knows height and width: sends a `Route` with its call.

    `smallest_grid` is the largest factor of the blocks inside: they need as many tokens on each side.
    """

    def __init__(self, control: Control, owner: nn.Module, source: InputGrid, smallest_grid: int) -> None:
        self.control = control
        self.source = source
        self.smallest_grid = smallest_grid
        # 5 for Transformer2DModel, 4 for PixArtTransformer2DModel, should somebody call them with positional arguments
        parameters = list(inspect.signature(type(owner).forward).parameters)
        carried = source.carrier is not None and source.carrier != NOTED
        self.position = parameters.index(str(source.carrier)) - 1 if carried else None

    def __call__(self, owner: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        now = self.control.now
        # an attention that sees its own grid, run again by checkpointing, does what it did when the note was written
        mode = now.note.route.mode if self.source.carrier is None and now.note is not None else now.mode
        route = Route(*self.source.grid(owner, args, kwargs, now.size), mode)
        if route.mode == STUDENT and min(route.height, route.width) < self.smallest_grid:
            raise ValueError(
                f"hidden_states: {route.height} x {route.width} tokens are too few for ΔConvBlocks that reduce them by "
                f"{self.smallest_grid}; expected a larger image"
            )
        if self.source.carrier == NOTED:
            write_note(self.control, owner, route)
            return args, kwargs
        if self.position is None or self.source.carrier is None:
            return args, {**kwargs, ROUTE: route}
        if len(args) > self.position:
            before, given, after = args[: self.position], args[self.position], args[self.position + 1 :]
            return (*before, {**(given or {}), ROUTE: route}, *after), kwargs
        given = kwargs.get(self.source.carrier) or {}
        return args, {**kwargs, self.source.carrier: {**given, ROUTE: route}}


class FeatureTap:
    """Forward pre-hook of the first module that takes the hidden state after the self-attention's residual add."""

    def __init__(self, control: Control, layer: str) -> None:
        self.control = control
        self.layer = layer

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if self.control.now.recording:
            for features in self.control.now.features:
                features[self.layer] = args[0]


class ImageTap(FeatureTap):
    """As FeatureTap, of a module that takes the hidden state as [B, C, H, W]."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        super().__call__(module, (args[0].flatten(2).mT,))


class OutputTap(FeatureTap):
    """Forward hook of a module that does the residual add itself: its output [B, C, H, W] is the feature."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:  # type: ignore[override]
        super().__call__(module, (output.flatten(2).mT,))


class SequenceTap(FeatureTap):
    """As FeatureTap, where text comes first in the hidden state: the feature is its image part, as long as noted."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        note = self.control.now.note
        if note is not None:
            tokens = note.route.height * note.route.width
            super().__call__(module, (args[0][:, args[0].shape[1] - tokens :],))


class ImageFirstTap(FeatureTap):
    """As FeatureTap, where the image comes first in the hidden state: the feature is as many tokens as noted."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        note = self.control.now.note
        if note is not None:
            super().__call__(module, (args[0][:, : note.route.height * note.route.width],))


class SequenceOutputTap(SequenceTap):
    """SequenceTap as a forward hook, for the module's output."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:  # type: ignore[override]
        super().__call__(module, (output,))


class ImageStreamTap(FeatureTap):
    """Forward hook of a block that returns text and image: the image is the feature."""

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:  # type: ignore[override]
        super().__call__(module, (output[1],))


class CallTap:
    """Forward hook of a converted self-attention, whatever runs in it."""

    def __init__(self, control: Control, layer: str) -> None:
        self.control = control
        self.layer = layer

    def __call__(self, attention: StandIn, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self.control.now.recording and self.control.now.calls:
            route = kwargs[ROUTE]
            grid = (route.height, route.width)
            tokens, gathered, text = attention.recorded(args, kwargs, output, route)
            for calls in self.control.now.calls:
                calls[self.layer] = AttentionCall(tokens.unflatten(1, grid), gathered.unflatten(1, grid), text)


def drop_route(attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
    """Forward pre-hook of the attentions that stay: diffusers warns of keywords that a processor does not know."""
    return args, {key: value for key, value in kwargs.items() if key != ROUTE}
