"""What a side-car remembers of the model that its blocks were made for: configuration, and a trace of the weights."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from torch import Tensor, nn

from .routing import BLOCK

logger = logging.getLogger(__name__)

SAMPLED_TENSORS = 32
TRACED_PLACES = (0.25, 0.5, 0.75)  # of each tensor's elements, in their order in memory
SIZE = "sample_size"  # a default for pipelines: the same weights are published with several
SMALLEST_STEP = 1e-7  # numbers below are rounded further in 16 bits
NOT_TEACHERS = (f".{BLOCK}.", ".lora_", ".to_qkv.", ".to_kv.")  # blocks, adapters, fused copies of other weights

Fingerprint = dict[str, float]


@dataclass(frozen=True)
class Differences:
    """Between a denoiser and a record: settings with both values; names of tensors, of so many that were compared."""

    config: list[str]
    weights: list[str]
    compared: int

    def __str__(self) -> str:
        if self.config:
            return "; ".join(self.config)
        if not self.weights:
            return "none"
        return f"of {self.compared} weights that were compared {len(self.weights)} differ ({self.weights[0]}, …)"


def describe_teacher(denoiser: ModelMixin) -> dict[str, Any]:
    """The record of a denoiser, as JSON keeps it.

    config:      its configuration.
    fingerprint: of 32 of its matrices and filters, by name, the middle element.
    trace:       three elements of every one of them, as float32 numbers in base64, ordered by the tensors' names, and
                 a digest of these names. Weights on the meta device leave no trace.
    precision:   the relative step of the coarsest type among them.
    """
    tensors = _tensors(denoiser)
    return {
        "config": _structure(denoiser),
        "fingerprint": _numbers(_sample(tensors)),
        "trace": _trace(tensors),
        "precision": _precision(tensors),
    }


def record_teacher(fusion: ConfigMixin, denoiser: ModelMixin) -> None:
    """Let a fusion remember this denoiser as the one that its blocks are made for."""
    fusion.register_to_config(teacher=describe_teacher(denoiser))


def check_teacher(denoiser: ModelMixin, record: Mapping[str, Any] | None) -> None:
    """Refuse a denoiser of another configuration than the one in `record`, and warn of other weights.

    Raises:
        ValueError: entries of its configuration differ, named with both values.
    """
    differences = differences_from(denoiser, record)
    kind = type(denoiser).__name__
    if differences.config:
        raise ValueError(f"pipe_or_denoiser: the blocks were made for a {kind} of another configuration: {differences}")
    if differences.weights:
        logger.warning(
            f"the blocks were made for a {kind} with other weights: {differences}; "
            "distil again for this model, or expect worse images"
        )


def differences_from(denoiser: ModelMixin, record: Mapping[str, Any] | None) -> Differences:
    """In what a denoiser is another one than in `record`; weights are compared as exactly as both types allow.

    All are compared where the record has a trace of the same tensors; else, as with the records of earlier releases
    and for a model that is offloaded in part, those of the fingerprint that are in reach.
    """
    if not record:
        return Differences([], [], 0)
    here, tensors = _structure(denoiser), _tensors(denoiser)
    config = [
        f"{key} is {here[key]!r}, was {value!r}"
        for key, value in record["config"].items()
        if key in here and here[key] != value
    ]
    known, trace = record["fingerprint"], record.get("trace")
    if trace and trace["names"] == _digest(tensors):
        names, places = sorted(tensors), len(TRACED_PLACES)
        now, then = _values(_trace(tensors)["values"]), _values(trace["values"])
    else:
        names, places = [name for name in tensors if name in known], 1
        tensors = {name: tensors[name] for name in names}
        now, then = np.array([list(_numbers(tensors).values()), [known[name] for name in names]])
    distant = ~_close(now, then, max(record["precision"], _precision(tensors)))
    changed = [names[row] for row in distant.reshape(-1, places).any(axis=1).nonzero()[0]]
    return Differences(config, changed, len(names))


def _structure(denoiser: ModelMixin) -> dict[str, Any]:
    """The configuration as JSON gives it back, without what says nothing of the weights' shapes and meaning."""
    config = {key: value for key, value in denoiser.config.items() if not key.startswith("_") and key != SIZE}
    return json.loads(json.dumps(config, default=str))


def _tensors(denoiser: ModelMixin) -> dict[str, Tensor]:
    """The teacher's own matrices and filters that are in reach, under the names that they have without adapters."""
    return {
        name.replace(".base_layer.", "."): parameter.detach()
        for name, parameter in nn.Module.named_parameters(denoiser)
        if parameter.dim() > 1
        and parameter.is_floating_point()
        and not parameter.is_meta
        and not any(part in name for part in NOT_TEACHERS)
    }


def _sample(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Some of them, evenly over the sorted names."""
    names = sorted(tensors)
    chosen = sorted({round(place * (len(names) - 1) / (SAMPLED_TENSORS - 1)) for place in range(SAMPLED_TENSORS)})
    return {names[index]: tensors[names[index]] for index in chosen if names}


def _numbers(tensors: Mapping[str, Tensor]) -> Fingerprint:
    """The middle element of each."""
    middle = {name: tensor.reshape(-1)[tensor.numel() // 2] for name, tensor in tensors.items()}
    return {name: number.float().item() for name, number in middle.items()}


def _trace(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    values = [
        torch.stack([tensor.reshape(-1)[int(place * tensor.numel())] for place in TRACED_PLACES]).float()
        for tensor in (tensors[name] for name in sorted(tensors))
    ]
    numbers = [value.cpu().numpy() for value in values]
    raw = np.concatenate(numbers).astype("<f4").tobytes() if numbers else b""
    return {"names": _digest(tensors), "values": base64.b64encode(raw).decode()}


def _values(encoded: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(encoded), "<f4").astype(np.float64)


def _digest(tensors: Mapping[str, Tensor]) -> str:
    return hashlib.blake2b("\n".join(sorted(tensors)).encode(), digest_size=8).hexdigest()


def _precision(tensors: Mapping[str, Tensor]) -> float:
    return max((torch.finfo(tensor.dtype).eps for tensor in tensors.values()), default=0.0)


def _close(numbers: np.ndarray, others: np.ndarray, precision: float) -> np.ndarray:
    """Whether they may be one number that was rounded, each."""
    return np.abs(numbers - others) <= precision * np.maximum(np.abs(numbers), np.abs(others)) + SMALLEST_STEP
