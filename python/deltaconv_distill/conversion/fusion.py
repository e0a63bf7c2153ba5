"""DeltaConvFusion: the ΔConvBlocks of a denoiser, as a model of their own that attaches to it and comes off again."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

from deltaconv_kernels import DeltaConvBlock

from .attachment import Attachment, attachment_of, install
from .convfusion import read_convfusion
from .families import LOADED_AS
from .hooks import AttentionCalls
from .initialisation import ATTENTION, check_init, initialise_blocks, measured_maps
from .kernel_sizes import AUTO, MeasuredProfile, choose_kernel_sizes, select_layers
from .layers import add_nested, build_block, check_layers, place_of, plan_layers
from .persistence import SavedFusion
from .plan import ConversionPlan, refuse_beside_plan
from .presets import published_gate
from .report import FusionReport, report_fusion, summary
from .routing import POOL, REMOVED, TEACHER, StandIn
from .side_car import saved_beside
from .sites import PipelineOrDenoiser, Sites, denoiser_of, sites_to_convert
from .teacher_record import check_teacher, describe_teacher

logger = logging.getLogger(__name__)


class DeltaConvFusion(SavedFusion):
    """The blocks that replace a denoiser's self-attentions (ΔConvFusion, arXiv 2504.21292), and nothing else.

    Made by `convert` or `from_pretrained`. While attached, the blocks are part of the denoiser as well: `.to()`,
    offload and deep copies of the denoiser take them along, its state dict holds the teacher's keys unchanged plus
    `{layer}.deltaconv.*`, and its `save_pretrained` writes the teacher and, into the folder `deltaconv.fusion` in
    it, the blocks. The teacher's attentions stay where they are, weights untouched; while attached they are frozen.

    A fusion is attached to one denoiser at a time. The contexts (`teacher`, `record_features`, `ablate`) nest; they
    act on the forwards that start inside them, in the same thread, also where activation checkpointing runs parts of
    these again later.
    """

    @register_to_config
    def __init__(
        self,
        denoiser: str,
        layers: Mapping[str, Mapping[str, Any]],
        excluded: Sequence[str] = (),
        kernel_sizes_from: str = "given",
        teacher: Mapping[str, Any] | None = None,
    ) -> None:
        """The config: `layers` has dim, kernel_size, factors, expansion, gate, gate_scale and bias by layer name;
        `teacher` describes the model that the blocks were made for (`teacher_record`)."""
        super().__init__()
        self._attachment: Attachment | None = None
        for name, layer in layers.items():
            add_nested(self, place_of(name), build_block(layer))

    @classmethod
    def convert(
        cls,
        pipe_or_denoiser: PipelineOrDenoiser,
        kernel_size: int | str | Mapping[str, int] | MeasuredProfile = "auto",
        profile: Mapping[str, float] | MeasuredProfile | None = None,
        factors: Sequence[int] = (1, 2),
        expansion: float = 0.5,
        gate: str | None = None,
        exclude: Collection[str] = (),
        only: Collection[str] = (),
        init: str = ATTENTION,
        plan: ConversionPlan | None = None,
    ) -> DeltaConvFusion:
        """Replace every self-attention, or those of a plan, by a new ΔConvBlock, on its device and in its dtype.

        Args:
            pipe_or_denoiser: a denoiser of one of the classes in docs/models.md, or a pipeline with one as its unet or
                transformer; a ControlNet by itself.
            kernel_size: "auto" (from `profile` when given, else the preset of a known model), one K for all layers,
                {layer name: K} for exactly the layers that are not excluded, a Profile of deltaconv_distill.analysis,
                or "profile" with it as profile=. K is odd, 1 to 31.
            profile: a Profile, whose attention maps the blocks start from, whatever gives their K; or {layer name:
                measured field of its attention in tokens}: K becomes 60 % of it, as in the paper.
            factors: reduction factor of each stage of the pyramids.
            expansion: inner width of a block as a fraction of the layer's channels.
            gate: "scaled" or "sigmoid"; unless given, the paper's choice: "sigmoid" for transformers, "scaled" for
                UNets.
            exclude: names of self-attentions to leave alone, or shell-style patterns ("up_blocks.*"); `layers_of`
                lists the names.
            only: names or patterns of the self-attentions to replace, of those that `exclude` leaves; all unless given.
            init: "attention": from each attention's values and output projection, and from the Profile's maps where
                there is one; or "random". On the meta device there is nothing to start from.
            plan: which layers to replace, and with which K: without `exclude`, `only` and `kernel_size`, and with the
                `factors` and `expansion` that it was made for. A Profile as profile= still gives the maps to start
                from.

        Returns:
            The attached fusion.

        Raises:
            TypeError: not a supported model.
            ValueError: sizes or names that do not fit, an unknown model under "auto", nothing to replace; an attention
                that init="attention" does not know (with a group norm, a residual connection of its own, …).
            RuntimeError: the denoiser has a fusion attached already.
        """
        denoiser = denoiser_of(pipe_or_denoiser)
        _refuse_attached(denoiser)
        check_init(init)
        sites = sites_to_convert(denoiser)
        if plan is not None:
            refuse_beside_plan(kernel_size=kernel_size != AUTO, exclude=bool(exclude), only=bool(only))
            plan.check(type(denoiser).__name__, sites.found, factors, expansion)
            kernel_size = only = plan.kernel_sizes
        names = select_layers(sites.found, exclude, only)
        measured = measured_maps(kernel_size, profile)
        chooses = isinstance(kernel_size, str) or measured is None or kernel_size is measured
        sizes, origin = choose_kernel_sizes(denoiser, names, kernel_size, profile if chooses else None)
        origin = origin if plan is None else f"of a plan: {plan}"
        logger.info(f"converting {len(names)} self-attentions of {type(denoiser).__name__}, kernel sizes {origin}")
        gate = gate or published_gate(denoiser)
        layers = plan_layers(sites.found, sizes, factors=list(factors), expansion=expansion, gate=gate, bias=True)
        with torch.device("meta" if denoiser.device.type == "meta" else "cpu"):
            fusion = cls(
                denoiser=type(denoiser).__name__,
                layers=layers,
                excluded=[name for name in sites.found if name not in layers],
                kernel_sizes_from=origin,
                teacher=describe_teacher(denoiser),
            )
        if init == ATTENTION:
            initialise_blocks(fusion.blocks, sites.found, measured)
        return fusion._attach(denoiser, sites)

    @classmethod
    def from_convfusion(
        cls,
        path: str | os.PathLike[str],
        pipe_or_denoiser: PipelineOrDenoiser,
        gate: str | None = None,
        factors: Sequence[int] = (1, 2),
        ema: bool = True,
    ) -> DeltaConvFusion:
        """Attach the blocks of a checkpoint that the authors of ΔConvFusion released; kernel sizes are the file's.

        Args:
            path: a safetensors file, such as "ConvFusion-sd15-132000.safetensors".
            pipe_or_denoiser: as in `convert`; the model that the checkpoint was made for.
            gate: as in `convert`. The file does not name it.
            factors: reduction factor of each gate in the file.
            ema: of a training checkpoint with both, take the averaged weights ("base_ema:"), not the last ("base:").

        Returns:
            The attached fusion.

        Raises:
            FileNotFoundError: no such file.
            TypeError, RuntimeError: as in `convert`.
            ValueError: a foreign or truncated file; keys missing or unexpected, by name; shapes that do not fit.
        """
        denoiser = denoiser_of(pipe_or_denoiser)
        _refuse_attached(denoiser)
        sites = sites_to_convert(denoiser)
        dims = {name: site.dim for name, site in sites.found.items()}
        layers, weights = read_convfusion(path, dims, gate or published_gate(denoiser), factors, ema)
        origin = f"from the checkpoint {Path(path).name}"
        fusion = cls(
            denoiser=type(denoiser).__name__,
            layers=layers,
            kernel_sizes_from=origin,
            teacher=describe_teacher(denoiser),
        )
        fusion.load_state_dict({place_of(key): value for key, value in weights.items()})
        return fusion._attach(denoiser, sites)

    @staticmethod
    def attached_to(pipe_or_denoiser: PipelineOrDenoiser) -> DeltaConvFusion | None:
        """The fusion that a pipeline or denoiser runs with, as after a deep copy, or None."""
        attachment = attachment_of(denoiser_of(pipe_or_denoiser))
        return None if attachment is None else attachment.fusion

    @staticmethod
    def layers_of(pipe_or_denoiser: PipelineOrDenoiser) -> list[str]:
        """Names of the self-attentions that `convert` replaces, for its kernel_size=, exclude= and only=.

        Raises:
            TypeError, ValueError: as `convert`.
        """
        return list(sites_to_convert(denoiser_of(pipe_or_denoiser)).found)

    @property
    def blocks(self) -> dict[str, DeltaConvBlock]:
        """The blocks by layer name, such as "mid_block.attentions.0.transformer_blocks.0.attn1"."""
        return {name: self.get_submodule(place_of(name)) for name in self.config.layers}

    def attention(self, layer: str) -> StandIn:
        """The attention that a block of an attached fusion stands in for."""
        return cast(StandIn, self._attached().denoiser.get_submodule(layer))

    @property
    def report(self) -> FusionReport:
        """Layers, parameters and FLOPs before and after, of an attached fusion; `print(fusion.report)` is a table."""
        return report_fusion(self._attached().denoiser, self.config, self.blocks)

    def attach(self, pipe_or_denoiser: PipelineOrDenoiser) -> DeltaConvFusion:
        """Put the blocks in the places of the self-attentions, moved to their device and dtype. Returns the fusion.

        Raises:
            TypeError: not a supported model.
            ValueError: its class, configuration, layers or channels are not those that this fusion was made for; its
                weights are offloaded; somebody's hook stands where a block would have to run.
            RuntimeError: this fusion is attached, or another one is to this denoiser.
        """
        denoiser = denoiser_of(pipe_or_denoiser)
        if self._attachment is not None:
            raise RuntimeError(f"this fusion is attached to a {self.config.denoiser}: call detach() first")
        _refuse_attached(denoiser)
        made_for = self.config.denoiser
        if type(denoiser).__name__ not in (made_for, *LOADED_AS.get(made_for, ())):
            raise ValueError(
                f"pipe_or_denoiser: expected the {made_for} that this fusion was made for, "
                f"got {type(denoiser).__name__}"
            )
        return self._attach(denoiser, sites_to_convert(denoiser))

    @classmethod
    def attach_saved(
        cls, pipe_or_denoiser: PipelineOrDenoiser, path: str | os.PathLike | None = None, **options: Any
    ) -> DeltaConvFusion:
        """Attach the blocks that lie beside the model's own files since it was saved while converted.

        Args:
            path: the folder that it was saved to; unless given, the one that it was loaded from.
            options: of `from_pretrained`, such as variant="fp16".

        Raises:
            FileNotFoundError: no side-car there.
            TypeError, ValueError, RuntimeError: as `attach`.
        """
        denoiser = denoiser_of(pipe_or_denoiser)
        folder = path if path is not None else denoiser.config.get("_name_or_path")
        side_car = saved_beside(Path(folder)) if folder else None
        if side_car is None:
            raise FileNotFoundError(
                f"path: no ΔConvBlocks beside the files of this {type(denoiser).__name__}: {folder}"
            )
        return cls.from_pretrained(side_car, **options).attach(denoiser)

    def detach(self) -> DeltaConvFusion:
        """Take the blocks out: the denoiser is the teacher again, bit for bit. Returns the fusion.

        Raises:
            RuntimeError: the fusion is not attached.
        """
        self._attached().remove()
        self._attachment = None
        return self

    def teacher(self) -> AbstractContextManager[None]:
        """Context: the denoiser runs with its own self-attention."""
        return self._mode(TEACHER)

    @contextmanager
    def at_size(self, height: int, width: int) -> Iterator[None]:
        """Context: the denoiser runs on latents of height x width.

        Only needed for FLUX and Chroma as a whole inside `torch.compile(denoiser, fullgraph=True)`, where the positions
        of their tokens cannot be read; `denoiser.compile(fullgraph=True)` reads them before."""
        now = self._attached().control.now
        previous, now.size = now.size, (height, width)
        try:
            yield
        finally:
            now.size = previous

    def ablate(self, what: str) -> AbstractContextManager[None]:
        """Context: the replacements return zeros ("removed") or their pool branch only ("pool").

        Raises:
            ValueError: another word.
        """
        if what not in (REMOVED, POOL):
            raise ValueError(f"what: expected {REMOVED!r} or {POOL!r}, got {what!r}")
        return self._mode(what)

    def record_features(self) -> AbstractContextManager[dict[str, Tensor]]:
        """Context: every forward of the denoiser fills the dict with the hidden states, [B, L, C] by layer name, right
        after the self-attentions' residual adds. They keep their autograd history; a later forward replaces them."""
        return self._attached().control.recorder("features")

    def record_attention(self) -> AbstractContextManager[AttentionCalls]:
        """Context: every forward of the denoiser fills the dict with what each replaced self-attention, or whatever
        runs in its place, takes in and gives out, [B, H, W, C] each by layer name. As `record_features` otherwise."""
        return self._attached().control.recorder("calls")

    def __repr__(self) -> str:
        """A summary of six lines; `report` has every layer."""
        return summary(self.config, self.blocks, attached=self._attachment is not None)

    def __deepcopy__(self, memo: dict[int, Any]) -> DeltaConvFusion:
        """A detached copy; but as part of a copy of the denoiser, one that is attached to that copy."""
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        state = dict(self.__dict__)
        if self._attachment is not None and id(self._attachment.denoiser) not in memo:
            state["_attachment"] = None
        copied.__dict__.update(copy.deepcopy(state, memo))
        return copied

    def _attach(self, denoiser: ModelMixin, sites: Sites) -> DeltaConvFusion:
        check_layers(sites.found, self.config.layers, self.config.excluded)
        check_teacher(denoiser, self.config.get("teacher"))
        self._attachment = install(self, denoiser, sites, self.blocks)
        return self

    @contextmanager
    def _mode(self, mode: str) -> Iterator[None]:
        now = self._attached().control.now
        previous, now.mode = now.mode, mode
        try:
            yield
        finally:
            now.mode = previous

    def _attached(self) -> Attachment:
        if self._attachment is None:
            raise RuntimeError("this fusion is not attached to a denoiser: call attach(pipe) first")
        return self._attachment


def _refuse_attached(denoiser: ModelMixin) -> None:
    if attachment_of(denoiser) is not None:
        raise RuntimeError(f"this {type(denoiser).__name__} has a fusion attached already: call its detach() first")
