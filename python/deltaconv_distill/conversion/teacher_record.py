"""What a side-car remembers of the model that its blocks were made for: configuration, and a trace of the weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import ModelMixin
from torch import Tensor, nn

from .routing import BLOCK

logger = logging.getLogger(__name__)

SAMPLED_TENSORS = 32
SIZE = "sample_size"  # a default for pipelines: the same weights are published with several
SMALLEST_STEP = 1e-7  # numbers below are rounded further in 16 bits
NOT_TEACHERS = (f".{BLOCK}.", ".lora_", ".to_qkv.", ".to_kv.")  # blocks, adapters, fused copies of other weights

Fingerprint = dict[str, float]


def describe_teacher(denoiser: ModelMixin) -> dict[str, Any]:
    """The record of a denoiser: "config", and of some tensors by name one number each, with the precision of these.

    Weights on the meta device leave no trace.
    """
    sampled = _sample(denoiser)
    return {
        "config": _structure(denoiser),
        "fingerprint": _numbers(sampled),
        "precision": max((torch.finfo(tensor.dtype).eps for tensor in sampled.values()), default=0.0),
    }


def check_teacher(denoiser: ModelMixin, record: Mapping[str, Any] | None) -> None:
    """Refuse a denoiser of another configuration than the one in `record`, and warn of other weights.

    Raises:
        ValueError: entries of its configuration differ, named with both values.
    """
    if not record:
        return
    here = _structure(denoiser)
    differing = [
        f"{key} is {here[key]!r}, was {value!r}"
        for key, value in record["config"].items()
        if key in here and here[key] != value
    ]
    if differing:
        raise ValueError(
            f"pipe_or_denoiser: the blocks were made for a {type(denoiser).__name__} of another configuration: "
            f"{'; '.join(differing)}"
        )
    known = record["fingerprint"]
    present = {name: tensor for name, tensor in _tensors(denoiser).items() if name in known and not tensor.is_meta}
    precision = max([record["precision"], *(torch.finfo(tensor.dtype).eps for tensor in present.values())])
    changed = [name for name, number in _numbers(present).items() if not _close(number, known[name], precision)]
    if changed:
        logger.warning(
            f"the blocks were made for a {type(denoiser).__name__} with other weights: of {len(present)} that were "
            f"compared {len(changed)} differ ({changed[0]}, …); distil again for this model, or expect worse images"
        )


def _structure(denoiser: ModelMixin) -> dict[str, Any]:
    """The configuration as JSON gives it back, without what says nothing of the weights' shapes and meaning."""
    config = {key: value for key, value in denoiser.config.items() if not key.startswith("_") and key != SIZE}
    return json.loads(json.dumps(config, default=str))


def _tensors(denoiser: ModelMixin) -> dict[str, Tensor]:
    """The teacher's own matrices and filters under the names that they have without adapters."""
    return {
        name.replace(".base_layer.", "."): parameter.detach()
        for name, parameter in nn.Module.named_parameters(denoiser)
        if parameter.dim() > 1 and parameter.is_floating_point() and not any(part in name for part in NOT_TEACHERS)
    }


def _sample(denoiser: ModelMixin) -> dict[str, Tensor]:
    """Some of them, evenly over the sorted names."""
    tensors = _tensors(denoiser)
    names = sorted(name for name, tensor in tensors.items() if not tensor.is_meta)
    chosen = sorted({round(place * (len(names) - 1) / (SAMPLED_TENSORS - 1)) for place in range(SAMPLED_TENSORS)})
    return {names[index]: tensors[names[index]] for index in chosen if names}


def _numbers(tensors: Mapping[str, Tensor]) -> Fingerprint:
    """The middle element of each."""
    middle = {name: tensor.reshape(-1)[tensor.numel() // 2] for name, tensor in tensors.items()}
    return {name: number.float().item() for name, number in middle.items()}


def _close(number: float, other: float, precision: float) -> bool:
    return abs(number - other) <= precision * max(abs(number), abs(other)) + SMALLEST_STEP
