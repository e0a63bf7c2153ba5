"""What a call of the triton backend costs the host before the driver gets the launch, measured without a GPU.

Triton's driver and its compiled kernels are replaced by ones that do nothing, so that everything else runs as it would:
torch's dispatcher, the checks, the configuration, Triton's own binding of arguments and look-up of the kernel. The
launch itself (packing arguments for the driver, and the driver) is not in the figures.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache, partial
from importlib import import_module
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

import deltaconv_kernels as dk
from deltaconv_kernels.testing import Case, Shape, make_case, run_with_gradients
from deltaconv_kernels.triton import launch
from deltaconv_kernels.triton.configurations import Configuration, Key, configuration

backends = import_module("deltaconv_kernels.backends")  # the package has a function of this name
SHAPE = Shape(1, 8, 8, 32, 3)
CALLS = 200


class NoDriver:
    """A driver of one GPU that takes every launch and does nothing."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


class NoKernel:
    """Stands for a compiled kernel."""

    function = packed_metadata = None

    def launch_metadata(self, *arguments: Any) -> None:
        return None

    def run(self, *arguments: Any) -> None:
        return None


def keep_no_kernel(function: JITFunction, key: str, signature: Any, device: int, *rest: Any) -> NoKernel:
    kernel = function.device_caches[device][0][key] = NoKernel()
    return kernel


@lru_cache
def tiles_for(C: int, H: int, W: int, K: int, dtype: torch.dtype, device: torch.device) -> Configuration:
    return configuration(Key(C, H, W, K, dtype, "sm90"))


@contextmanager
def without_gpu() -> Iterator[None]:
    """Inside, CPU tensors go through the triton backend as a GPU's would."""
    driver.set_active(NoDriver())
    anywhere = replace(backends._BACKENDS["triton"], device_types=None, why_not_here=lambda: None)
    with (
        mock.patch.object(JITFunction, "_do_compile", keep_no_kernel),
        mock.patch.object(launch, "tiles_for", tiles_for),
        mock.patch.dict(backends._BACKENDS, triton=anywhere),
        dk.use_backend("triton"),
    ):
        yield


def microseconds(function: Callable[[], object], number: int) -> float:
    """The lowest mean of several rounds: what interrupts a round can only lengthen it."""
    function()
    rounds = []
    for _ in range(number):
        start = time.perf_counter()
        for _ in range(CALLS):
            function()
        rounds.append((time.perf_counter() - start) / CALLS)
    return 1e6 * min(rounds)


@torch.library.triton_op("deltaconv_trial::pyramid", mutates_args=())
def pyramid_as_triton_op(x: Tensor, weight: Tensor, bias: Tensor, factors: Sequence[int], gate_scale: float) -> Tensor:
    """The launcher behind torch's other way to make an operator of Triton kernels, without our checks or autograd."""
    return launch.pyramid_forward(x, weight, bias, factors, "scaled", gate_scale, None)


def calls(case: Case) -> dict[str, Callable[[], object]]:
    return {
        "the launcher, forward": partial(launch.pyramid_forward, *case.arguments),
        "the launcher, all gradients": partial(launch.pyramid_backward, *case.backward_arguments, (True, True, True)),
        "the operator, forward": torch.no_grad()(partial(dk.pyramid, *case.arguments)),
        "a triton_op instead, forward": torch.no_grad()(
            partial(pyramid_as_triton_op, case.x, case.weight, case.bias, case.factors, case.gate_scale)
        ),
        "the operator, forward and all gradients": partial(run_with_gradients, dk.pyramid, case),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help=f"of {CALLS} calls each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with without_gpu():
        for name, function in calls(make_case(SHAPE)).items():
            print(f"{name:<42} {microseconds(function, options.rounds):7.1f} µs")
    print(f"Triton {triton.__version__}, torch {torch.__version__}, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
