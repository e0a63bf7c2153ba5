"""Which K each layer gets: given, from a preset, or from measured fields."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from numbers import Integral

from diffusers import ModelMixin

from deltaconv_kernels.validation import MAX_KERNEL_SIZE

from .presets import PRESETS, find_preset

FIELD_FRACTION = 0.6  # of a layer's measured field, arXiv 2504.21292

KernelSizes = dict[str, int]


def choose_kernel_sizes(
    denoiser: ModelMixin,
    layers: Collection[str],
    kernel_size: int | str | Mapping[str, int],
    profile: Mapping[str, float] | None,
) -> tuple[KernelSizes, str]:
    """K of every layer, and in words where the sizes come from. Arguments as in `DeltaConvFusion.convert`.

    Raises:
        ValueError: a size is not an odd number from 1 to 31; a mapping names unknown layers or leaves some out; "auto"
            without a profile for a model that is not known.
    """
    if isinstance(kernel_size, str):
        if kernel_size != "auto":
            raise ValueError(f"kernel_size: expected 'auto', an odd integer or {{layer: K}}, got {kernel_size!r}")
        sizes, origin = _automatic(denoiser, layers, profile)
    elif profile is not None:
        raise ValueError("profile: it chooses the kernel sizes, so it goes with kernel_size='auto' alone")
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


def select_layers(layers: Collection[str], exclude: Collection[str]) -> list[str]:
    """The layers that none of the names and shell-style patterns in `exclude` fits.

    Raises:
        ValueError: an entry of `exclude` fits no layer, or nothing is left.
    """
    patterns = [exclude] if isinstance(exclude, str) else list(exclude)
    for pattern in patterns:
        if not any(fnmatchcase(layer, pattern) for layer in layers):
            raise ValueError(f"exclude: {pattern!r} fits none of the self-attentions {list(layers)}")
    selected = [layer for layer in layers if not any(fnmatchcase(layer, pattern) for pattern in patterns)]
    if not selected:
        raise ValueError(f"exclude: expected to leave a self-attention to replace, got {patterns}")
    return selected


def check_names(argument: str, given: Collection[str], expected: Collection[str]) -> None:
    """Raises ValueError naming the layers in `given` that are unknown and those of `expected` that it lacks."""
    unknown = [layer for layer in given if layer not in expected]
    missing = [layer for layer in expected if layer not in given]
    problems = [f"unknown {unknown}"] * bool(unknown) + [f"missing {missing}"] * bool(missing)
    if problems:
        raise ValueError(f"{argument}: expected exactly the layers {list(expected)}; {', '.join(problems)}")


def _automatic(
    denoiser: ModelMixin, layers: Collection[str], profile: Mapping[str, float] | None
) -> tuple[KernelSizes, str]:
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
    return {layer: size for layer, size in sizes.items() if size}, f"preset {preset.name}"
