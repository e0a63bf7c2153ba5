"""What the CUDA backend would launch for a problem on a GPU: its plan, explained on any machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from . import native
from .fusing import ALIGNMENT, FUSED_DTYPES
from .namespace import operators

DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # in the order of ElementType in csrc/cuda/plan/plan.h


class Gpu(NamedTuple):
    """What the plan asks of a GPU: compute capability (90 for 9.0), multiprocessors, bytes of shared memory."""

    compute_capability: int
    multiprocessors: int
    shared_per_block: int
    shared_per_multiprocessor: int


# From the vendor's tables of compute capabilities and products.
GPUS = {
    "a100": Gpu(80, 108, 166912, 167936),
    "rtx4090": Gpu(89, 128, 101376, 102400),
    "h100": Gpu(90, 132, 232448, 233472),
    "h200": Gpu(90, 132, 232448, 233472),
    "b200": Gpu(100, 148, 232448, 233472),
    "rtx5090": Gpu(120, 170, 101376, 102400),
}


def this_gpu() -> Gpu | None:
    """The current CUDA device, or None without one."""
    if not torch.cuda.is_available():
        return None
    facts: Any = torch.cuda.get_device_properties(torch.cuda.current_device())  # the stub lacks attributes
    return Gpu(
        10 * facts.major + facts.minor,
        facts.multi_processor_count,
        facts.shared_memory_per_block_optin,
        facts.shared_memory_per_multiprocessor,
    )


def explain_cuda_plan(
    shape: Sequence[int],
    kernel_size: int,
    factors: Sequence[int] = (1, 2),
    dtype: torch.dtype = torch.float32,
    gpu: str | Gpu = "h200",
) -> str:
    """The launches of forward and backward: path, tiles, blocks, threads, shared memory, workspace.

    Args:
        shape: [B, H, W, C] of x, C even.
        kernel_size: K, odd, 1 to 31.
        factors: of the stages, each from 1 to min(H, W).
        dtype: float32, float16 or bfloat16.
        gpu: a name in ``GPUS`` or a GPU's properties; `this_gpu` has those of the current device.

    Raises:
        ValueError: an argument is none of these.
        RuntimeError: the CPU library, which holds the plan, could not be loaded, or no plan fits the GPU.
    """
    _check(shape, 2, kernel_size, factors, dtype, DTYPES)
    sizes = [*shape, kernel_size]
    return operators.cuda_plan(sizes, list(factors), DTYPES.index(dtype), list(_properties(gpu)))


def explain_block_plan(
    shape: Sequence[int],
    kernel_size: int,
    factors: Sequence[int] = (1, 2),
    dtype: torch.dtype = torch.bfloat16,
    gpu: str | Gpu = "h200",
) -> str:
    """The launches of a whole `DeltaConvBlock` of expansion 1/2 at inference, as `explain_cuda_plan`.

    Args:
        shape: [B, H, W, dim] of x, dim a multiple of 32.
        dtype: float16 or bfloat16; in float32 a block is composed of PyTorch's operators.
    """
    _check(shape, 4 * ALIGNMENT, kernel_size, factors, dtype, FUSED_DTYPES)
    sizes = [*shape[:3], shape[3] // 2, kernel_size, shape[3]]
    return operators.cuda_block_plan(sizes, list(factors), DTYPES.index(dtype), list(_properties(gpu)))


def _check(
    shape: Sequence[int],
    multiple: int,
    kernel_size: int,
    factors: Sequence[int],
    dtype: torch.dtype,
    dtypes: Sequence[torch.dtype],
) -> None:
    if len(shape) != 4 or min(shape) < 1 or shape[3] % multiple:
        channels = "C even" if multiple == 2 else f"C a multiple of {multiple}"
        raise ValueError(f"shape: expected four positive sizes B, H, W, C with {channels}, got {list(shape)}")
    if kernel_size % 2 == 0 or not 1 <= kernel_size <= 31:
        raise ValueError(f"kernel_size: expected an odd number from 1 to 31, got {kernel_size}")
    if not factors or not all(1 <= factor <= min(shape[1:3]) for factor in factors):
        raise ValueError(f"factors: expected numbers from 1 to min(H, W) = {min(shape[1:3])}, got {list(factors)}")
    if dtype not in dtypes:
        raise ValueError(f"dtype: expected one of {', '.join(map(str, dtypes))}, got {dtype}")


def _properties(gpu: str | Gpu) -> Gpu:
    if isinstance(gpu, str) and gpu not in GPUS:
        raise ValueError(f"gpu: expected one of {', '.join(GPUS)}, got {gpu!r}")
    reason = native.why_not_loaded("cpu")
    if reason is not None:
        raise RuntimeError(f"the launch plan cannot be shown: {reason}")
    return GPUS[gpu] if isinstance(gpu, str) else gpu
