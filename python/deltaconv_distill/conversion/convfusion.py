"""The checkpoints that the authors of ΔConvFusion released, as layers and weights of a `DeltaConvFusion`.

Their block is `conv1` of a transformer block. For C channels, width D inside (C / 2) and S gates (two):

    conv_up.weight [D, C], .bias [D]      gates.{i}.conv_spatial.weight [K, K, D], .bias [D] (optional)
    conv_out.weight [C, S*D/2], .bias [C] conv_pool.weight [C, C], .bias [C]

Blocks built from nn.Conv2d have 1x1 kernels [., ., 1, 1] for the matrices, [D, 1, K, K] for the depthwise filters, and
no conv_up.bias unless they were given one.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from deltaconv_kernels import DeltaConvBlock
from deltaconv_kernels.validation import MAX_KERNEL_SIZE

logger = logging.getLogger(__name__)

EMA, BASE = "base_ema:", "base:"
AUTHORS_NAMES = {"in_proj": "conv_up", "out_proj": "conv_out", "pool_proj": "conv_pool"}
LISTED_KEYS = 8  # of a message

Tensors = dict[str, Tensor]
Layers = dict[str, dict[str, Any]]


def read_convfusion(
    path: str | os.PathLike[str], dims: Mapping[str, int], gate: str, factors: Sequence[int], ema: bool
) -> tuple[Layers, Tensors]:
    """The `layers` of a fusion's config and its state dict. `dims` has the channels of every layer by name.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a whole safetensors file, keys missing or unexpected, or shapes that do not fit.
    """
    tensors = _select_weights(_load(path), ema)
    parts = _split_by_layer(path, tensors, dims, len(factors))
    layers: Layers = {}
    weights: Tensors = {}
    for name, part in parts.items():
        layers[name], block = _read_block(_prefix(name), part, dims[name], gate, factors)
        weights |= {f"{name}.{key}": value for key, value in block.items()}
    return layers, weights


def _load(path: str | os.PathLike[str]) -> Tensors:
    if not Path(path).is_file():
        raise FileNotFoundError(f"path: no such file: {path}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"path: {path} is not a safetensors file, or not all of one ({error})") from error


def _select_weights(tensors: Tensors, ema: bool) -> Tensors:
    """The averaged or the last weights of a training checkpoint, without their prefix; other files as they are."""
    prefixes = [prefix for prefix in (EMA, BASE) if any(key.startswith(prefix) for key in tensors)]
    if not prefixes:
        return tensors
    chosen = prefixes[0] if ema else prefixes[-1]
    logger.info(f"reading the weights called {chosen!r} of {prefixes}")
    others = tuple(prefix for prefix in prefixes if prefix != chosen)
    return {key.removeprefix(chosen): value for key, value in tensors.items() if not key.startswith(others)}


def _split_by_layer(
    path: str | os.PathLike[str], tensors: Tensors, dims: Mapping[str, int], stages: int
) -> dict[str, Tensors]:
    """The tensors of each layer under their names in the block; all that should be there, and no others."""
    if not any(".conv1." in key for key in tensors):
        example = _prefix(next(iter(dims))) + "conv_up.weight"
        raise ValueError(
            f"path: {path} holds no ConvFusion blocks: expected such keys as {example}, got {_shortened(list(tensors))}"
        )
    parts = {}
    missing: list[str] = []
    expected: set[str] = set()
    for name in dims:
        prefix = _prefix(name)
        parts[name] = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        required, optional = _block_keys(parts[name], stages)
        missing += [prefix + key for key in required if key not in parts[name]]
        expected |= {prefix + key for key in (*required, *optional)}
    unexpected = [key for key in tensors if key not in expected]
    problems = [f"missing {_shortened(missing)}"] * bool(missing)
    problems += [f"unexpected {_shortened(unexpected)}"] * bool(unexpected)
    if problems:
        raise ValueError(
            f"path: {path} does not hold the blocks of this model with {stages} gates: {'; '.join(problems)}"
        )
    return parts


def _block_keys(part: Tensors, stages: int) -> tuple[list[str], list[str]]:
    """Names that a block must have, and that it may have."""
    required = [f"{linear}.{kind}" for linear in ("conv_out", "conv_pool") for kind in ("weight", "bias")]
    required += ["conv_up.weight", *(f"gates.{i}.conv_spatial.weight" for i in range(stages))]
    biases = [f"gates.{i}.conv_spatial.bias" for i in range(stages)]
    is_convolution = "conv_up.weight" in part and part["conv_up.weight"].dim() == 4
    optional = ["conv_up.bias"] if is_convolution else []
    required += [] if is_convolution else ["conv_up.bias"]
    if any(bias in part for bias in biases):
        return [*required, *biases], optional
    return required, optional


def _read_block(
    prefix: str, part: Tensors, dim: int, gate: str, factors: Sequence[int]
) -> tuple[dict[str, Any], Tensors]:
    """Config and state dict of the DeltaConvBlock with these weights."""
    plain = {key: _as_linear(prefix + key, value) for key, value in part.items()}
    inter = len(plain["conv_up.weight"])
    plain.setdefault("conv_up.bias", torch.zeros(inter))
    layer: dict[str, Any] = {
        "dim": dim,
        "kernel_size": len(plain["gates.0.conv_spatial.weight"]),
        "factors": list(factors),
        "expansion": inter / dim,
        "gate": gate,
        "bias": "gates.0.conv_spatial.bias" in plain,
    }
    block = DeltaConvBlock(**layer, device="meta")
    weights = {}
    for key, wanted in block.state_dict().items():
        if key in ("weight", "bias"):
            sources = [f"gates.{i}.conv_spatial.{key}" for i in range(len(factors))]
            shape = wanted.shape[1:]
        else:
            linear, kind = key.split(".")
            sources, shape = [f"{AUTHORS_NAMES[linear]}.{kind}"], wanted.shape
        for source in sources:
            if plain[source].shape != shape:
                raise ValueError(f"{prefix}{source}: expected shape {list(shape)}, got {list(plain[source].shape)}")
        weights[key] = torch.stack([plain[source] for source in sources]).reshape(wanted.shape)
    return {**layer, "gate_scale": block.gate_scale}, weights


def _as_linear(key: str, value: Tensor) -> Tensor:
    """What nn.Conv2d stores as the linear form stores it: [out, in] and [K, K, D]."""
    if not value.is_floating_point():
        raise ValueError(f"{key}: expected floating-point numbers, got {value.dtype}")
    if not key.endswith("conv_spatial.weight"):
        return value.flatten(1) if value.dim() == 4 and value.shape[2:] == (1, 1) else value
    filters = value.squeeze(1).permute(1, 2, 0) if value.dim() == 4 and value.shape[1] == 1 else value
    size = len(filters) if filters.dim() == 3 else 0
    if size == 0 or filters.shape[1] != size or size % 2 == 0 or size > MAX_KERNEL_SIZE:
        expected = f"[K, K, channels] with K odd, 1 to {MAX_KERNEL_SIZE}"
        raise ValueError(f"{key}: expected {expected}, got shape {list(value.shape)}")
    return filters


def _prefix(layer: str) -> str:
    return layer.removesuffix("attn1") + "conv1."


def _shortened(keys: Sequence[str]) -> str:
    """The first of many keys, and how many there are."""
    listed = ", ".join(keys[:LISTED_KEYS])
    return f"{len(keys)} ({listed}{', …' if len(keys) > LISTED_KEYS else ''})"
