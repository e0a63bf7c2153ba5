"""Which K each layer gets: given, from a preset, or from measured fields."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from numbers import Integral
from typing import Protocol, runtime_checkable

from diffusers import ModelMixin

from deltaconv_kernels.validation import MAX_KERNEL_SIZE

from .presets import PRESETS, find_preset

logger = logging.getLogger(__name__)

FIELD_FRACTION = 0.6  # of a layer's measured field, arXiv 2504.21292
AUTO, PROFILE = "auto", "profile"

KernelSizes = dict[str, int]


@runtime_checkable
class MeasuredProfile(Protocol):
    """What conversion asks of an analysis: `deltaconv_distill.analysis.Profile` is one."""

    @property
    def kernel_sizes(self) -> Mapping[str, int]:
        """K by layer name."""

    @property
    def not_local(self) -> Mapping[str, str]:
        """The layers that a convolution and an average cannot stand in for, and why."""


def choose_kernel_sizes(
    denoiser: ModelMixin,
    layers: Collection[str],
    kernel_size: int | str | Mapping[str, int] | MeasuredProfile,
    profile: Mapping[str, float] | MeasuredProfile | None,
) -> tuple[KernelSizes, str]:
    """K of every layer, and in words where the sizes come from. Arguments as in `DeltaConvFusion.convert`.

    Raises:
        ValueError: a size is not an odd number from 1 to 31; a mapping names unknown layers or leaves some out; "auto"
            without a profile for a model that is not known; "profile" without one.
    """
    if isinstance(kernel_size, MeasuredProfile):
        if profile is not None:
            raise ValueError("profile: kernel_size is a profile already")
        profile, kernel_size = kernel_size, PROFILE
    if isinstance(kernel_size, str):
        if kernel_size not in (AUTO, PROFILE):
            raise ValueError(
                f"kernel_size: expected 'auto', 'profile', an odd integer, {{layer: K}} or a Profile, "
                f"got {kernel_size!r}"
            )
        if kernel_size == PROFILE and profile is None:
            raise ValueError(
                "kernel_size: 'profile' expects profile=, the result of deltaconv_distill.analysis.analyze"
            )
        sizes, origin = _automatic(denoiser, layers, profile)
    elif profile is not None:
        raise ValueError("profile: it chooses the kernel sizes, so it goes with kernel_size='auto' or 'profile' alone")
    elif isinstance(kernel_size, Mapping):
        check_names("kernel_size", kernel_size, layers)
        sizes, origin = {layer: kernel_size[layer] for layer in layers}, "given for each layer"
    else:
        sizes, origin = dict.fromkeys(layers, kernel_size), "given"
    for layer, size in sizes.items():
        if not isinstance(size, Integral) or size % 2 == 0 or not 1 <= size <= MAX_KERNEL_SIZE:
            expected = f"odd integers from 1 to {MAX_KERNEL_SIZE}"
            raise ValueError(f"kernel_size: expected {expected}, got {size!r} for {layer}")
    return {layer: int(size) for layer, size in sizes.items()}, origin


def kernel_size_for_field(field: float) -> int:
    """The odd K nearest to 60 % of an effective field of `field` tokens (an even one goes up), from 3 to 31."""
    return min(max(2 * int(FIELD_FRACTION * field / 2) + 1, 3), MAX_KERNEL_SIZE)


def select_layers(layers: Collection[str], exclude: Collection[str], only: Collection[str] = ()) -> list[str]:
    """The layers that `only` names (all where it is empty) and `exclude` does not, by names or shell-style patterns.

    Raises:
        ValueError: an entry fits no layer, or nothing is left.
    """
    excluded = _matching("exclude", layers, exclude)
    wanted = _matching("only", layers, only) if only else set(layers)
    selected = [layer for layer in layers if layer in wanted - excluded]
    if not selected:
        raise ValueError(f"exclude: expected to leave a self-attention to replace, got {exclude} and only={only}")
    return selected


def _matching(argument: str, layers: Collection[str], given: Collection[str]) -> set[str]:
    fitting = set()
    for pattern in [given] if isinstance(given, str) else given:
        matches = {layer for layer in layers if fnmatchcase(layer, pattern)}
        if not matches:
            raise ValueError(f"{argument}: {pattern!r} fits none of the self-attentions {list(layers)}")
        fitting |= matches
    return fitting


def check_names(argument: str, given: Collection[str], expected: Collection[str]) -> None:
    """Raises ValueError naming the layers in `given` that are unknown and those of `expected` that it lacks."""
    unknown = [layer for layer in given if layer not in expected]
    missing = [layer for layer in expected if layer not in given]
    problems = [f"unknown {unknown}"] * bool(unknown) + [f"missing {missing}"] * bool(missing)
    if problems:
        raise ValueError(f"{argument}: expected exactly the layers {list(expected)}; {', '.join(problems)}")


def _automatic(
    denoiser: ModelMixin, layers: Collection[str], profile: Mapping[str, float] | MeasuredProfile | None
) -> tuple[KernelSizes, str]:
    if isinstance(profile, MeasuredProfile):
        return _from_analysis(layers, profile), "from the profile"
    if profile is not None:
        check_names("profile", profile, layers)
        return {layer: kernel_size_for_field(profile[layer]) for layer in layers}, "from the profile"
    preset = find_preset(denoiser)
    if preset is None:
        raise ValueError(
            f"kernel_size: 'auto' knows {', '.join(known.name for known in PRESETS)}, but not this "
            f"{type(denoiser).__name__}; give an odd integer, {{layer: K}}, or profile={{layer: field in tokens}}"
        )
    sizes = {layer: preset.kernel_size(layer) for layer in layers}
    strange = [layer for layer, size in sizes.items() if size is None]
    if strange:
        raise ValueError(f"kernel_size: no size for {strange} in the preset {preset.name}; give {{layer: K}}")
    origin = preset.origin(denoiser)
    if not isinstance(denoiser, preset.made_for):
        logger.warning(f"kernel_size: 'auto' takes {origin}; measure with deltaconv analyze, or give kernel_size=13")
    return {layer: size for layer, size in sizes.items() if size}, origin


def _from_analysis(layers: Collection[str], profile: MeasuredProfile) -> KernelSizes:
    """The measured sizes of `layers`, with a warning of those among them that are not local."""
    sizes = profile.kernel_sizes
    missing = [layer for layer in layers if layer not in sizes]
    if missing:
        raise ValueError(f"profile: it was made for another model, or of a part of this one; missing {missing}")
    not_local = {layer: reason for layer, reason in profile.not_local.items() if layer in layers}
    if not_local:
        reasons = "; ".join(f"{layer}: {reason}" for layer, reason in not_local.items())
        logger.warning(
            f"{len(not_local)} of {len(layers)} self-attentions are not local, convolutions may not replace them well "
            f"({reasons}); keep their attention with exclude={list(not_local)}"
        )
    return {layer: sizes[layer] for layer in layers}
