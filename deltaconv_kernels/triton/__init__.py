"""The `triton` backend: what it needs, and its entry points. Triton itself is imported at the first call."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..validation import check_arguments

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on any tensor and slowly: for tests, without a GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def device_types() -> tuple[str, ...]:
    """Where the backend computes; torch calls AMD's GPUs cuda as well."""
    return ("cuda", "cpu") if interpreted() else ("cuda",)


@cache
def why_not_here() -> str | None:
    """None if the backend can run on this machine, else the reason."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed (pip install 'deltaconv-kernels[triton]')"
    if interpreted() or torch.cuda.is_available():
        return None
    return "no CUDA or ROCm device was found (TRITON_INTERPRET=1 runs it on the CPU, for tests)"


class PyramidProblem(NamedTuple):
    """What the kernels compile for. The batch is not among it; of H and W only whether the factors divide them."""

    height: int
    width: int
    channels: int
    kernel_size: int
    factors: tuple[int, ...] = (1, 2)
    dtype: torch.dtype = torch.bfloat16
    gate: str = "scaled"
    bias: bool = True
    residual: bool = False


def precompile(
    problems: Iterable[PyramidProblem],
    *,
    gradients: bool = False,
    device: torch.device | str | int = "cuda",
    threads: int | None = None,
) -> None:
    """Compile what `deltaconv::pyramid` launches for these problems, and with `gradients` for their gradients, before
    a first call has to wait for it.

    Kernels are compiled at once in `threads` threads, by default as many as the process may use cores, and kept where
    Triton keeps what a first call compiles: in the process and on disk. Nothing is allocated or run. What is compiled
    for: bias (a block's pyramid has one, and no residual) and tensors that begin at multiples of 16 bytes.

    Raises ValueError for arguments that the operator would refuse, RuntimeError where the backend does not run.
    """
    reason = why_not_here()
    if reason is not None:
        raise RuntimeError(f"the triton backend cannot compile here: {reason}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads: expected at least 1, got {threads}")
    from . import launch
    from .collected import collect

    calls = [call for problem in problems for call in _calls(problem, gradients, launch)]
    collect(_device(device), calls).compile(threads)


def pyramid_forward(*args: Any) -> Tensor:
    """The arguments of deltaconv::pyramid, every one given."""
    from . import launch

    return launch.pyramid_forward(*args)


def pyramid_backward(*args: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The arguments of deltaconv::pyramid_backward."""
    from . import launch

    return launch.pyramid_backward(*args)


def _calls(problem: PyramidProblem, gradients: bool, launch: Any) -> Iterable[Any]:
    """The operator's calls on tensors without memory, checked as the operator checks them."""
    H, W, C, K, factors, dtype, gate, has_bias, has_residual = problem
    empty = partial(torch.empty, dtype=dtype, device="meta")
    x, weight = empty(1, H, W, C), empty(len(factors), K, K, C)
    bias = empty(len(factors), C) if has_bias else None
    result = empty(1, H, W, len(factors) * C // 2)
    check_arguments(x, weight, bias, factors, gate, result if has_residual else None)
    yield partial(launch.pyramid_forward, x, weight, bias, factors, gate, 1.0, result if has_residual else None)
    if gradients:
        yield partial(launch.pyramid_backward, result, x, weight, bias, factors, gate, 1.0, (True, True, has_bias))


def _device(device: torch.device | str | int) -> torch.device:
    """With its index: "cuda" is the current one."""
    found = torch.device(device)
    if found.type == "cuda" and found.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return found
