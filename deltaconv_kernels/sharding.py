"""Distributed tensors (DTensor): how the operator is computed on shards, and tensor parallelism of a block.

A stage pairs channel c with c + C/2, so a shard of channels is a share of each half: `_StridedShard(-1, 2)`. In a
result it is a share of each stage's C/2 channels: `_StridedShard(-1, S)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.experimental import register_sharding
from torch.distributed.tensor.parallel import ParallelStyle
from torch.distributed.tensor.placement_types import _StridedShard

from .block import DeltaConvBlock
from .namespace import operators

Strategy = tuple[list[Placement], list[Placement | None]]


def share(dim: int, parts: int) -> Placement:
    """Of each of so many equal parts of an axis, one shard."""
    return Shard(dim) if parts == 1 else _StridedShard(dim, split_factor=parts)


@cache
def register() -> None:
    """Teach DTensor the operator: whole, by images, and by channel pairs."""
    register_sharding(operators.pyramid.default)(_forward_strategies)
    register_sharding(operators.pyramid_backward.default)(_backward_strategies)


def _forward_strategies(x: Any, weight: Any, bias: Any, factors: Sequence[int], *options: Any) -> list[Strategy]:
    residual = options[2] if len(options) == 3 else None

    def strategy(image: Placement, filters: Placement, biases: Placement, result: Placement) -> Strategy:
        others = [result if option is residual and residual is not None else None for option in options]
        return [result], [image, filters, None if bias is None else biases, None, *others]

    return [strategy(*placements) for placements in _placements(x, factors)]


def _backward_strategies(
    grad: Any,
    x: Any,
    weight: Any,
    bias: Any,
    factors: Sequence[int],
    gate: str,
    gate_scale: float,
    output_mask: Sequence[bool],
) -> list[Strategy]:
    wanted = (*output_mask[:2], output_mask[2] and bias is not None)

    def strategy(image: Placement, filters: Placement, biases: Placement, result: Placement) -> Strategy:
        is_by_images = image == Shard(0)
        gradients = [image, Partial() if is_by_images else filters, Partial() if is_by_images else biases]
        outputs = [g if wants else Replicate() for g, wants in zip(gradients, wanted, strict=True)]  # else empty
        return outputs, [result, image, filters, None if bias is None else biases, None, None, None, None]

    return [strategy(*placements) for placements in _placements(x, factors)]


def _placements(x: Any, factors: Sequence[int]) -> list[tuple[Placement, Placement, Placement, Placement]]:
    """Of x, weight, bias and the result: whole, by images, and, where each rank gets as many, by channel pairs."""
    whole = Replicate()
    ways: list[tuple[Placement, Placement, Placement, Placement]] = [
        (whole, whole, whole, whole),
        (Shard(0), whole, whole, Shard(0)),
    ]
    if x.shape[-1] // 2 % x.mesh.size() == 0:
        ways.append((share(3, 2), share(3, 2), share(1, 2), share(3, len(factors))))
    return ways


class PairParallel(ParallelStyle):
    """Tensor parallelism of a DeltaConvBlock, for `torch.distributed.tensor.parallel.parallelize_module`.

    Every rank computes a share of the channel pairs: in_proj by columns, out_proj by rows, one sum over the ranks of
    [B, H, W, dim] at the end. x and residual are whole on every rank, and so is the result.
    """

    def _apply(self, module: nn.Module, device_mesh: DeviceMesh) -> nn.Module:
        if not isinstance(module, DeltaConvBlock):
            raise ValueError(f"module: expected a DeltaConvBlock, got {type(module).__qualname__}")
        pairs = module.weight.shape[-1] // 2
        if pairs % device_mesh.size():
            raise ValueError(f"module: expected channel pairs that {device_mesh.size()} ranks share, got {pairs}")
        register()
        return distribute_module(module, device_mesh, partial(_distribute, module), _as_whole, _as_local)


def _distribute(block: DeltaConvBlock, name: str, module: nn.Module, mesh: DeviceMesh) -> None:
    stages = len(block.factors)
    placements = {
        "weight": share(3, 2),
        "bias": share(1, 2),
        "in_proj.weight": share(0, 2),
        "in_proj.bias": share(0, 2),
        "out_proj.weight": share(1, stages),
    }
    for key, parameter in list(module.named_parameters(recurse=False)):
        placement = placements.get(f"{name}.{key}" if name else key, Replicate())
        value = nn.Parameter(distribute_tensor(parameter, mesh, [placement]), parameter.requires_grad)
        module.register_parameter(key, value)


def _as_whole(module: nn.Module, inputs: tuple[Tensor | None, ...], mesh: DeviceMesh) -> Any:
    return tuple(None if t is None else DTensor.from_local(t, mesh, [Replicate()], run_check=False) for t in inputs)


def _as_local(module: nn.Module, output: DTensor, mesh: DeviceMesh) -> Any:
    return output.redistribute(mesh, [Replicate()]).to_local()
