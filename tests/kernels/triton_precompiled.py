"""Run by test_triton_precompile.py in a process of its own, which takes Triton's driver away.

Compiles a problem ahead, for a GPU that is not here, and prints the kernels that its calls then still compile.
"""

from unittest import mock

import torch
from measure_triton_host import NoDriver, keep_no_kernel, tiles_for
from triton.compiler import CompiledKernel
from triton.runtime import driver
from triton.runtime.jit import JITFunction

import deltaconv_kernels.triton as backend
from deltaconv_kernels.testing import Shape, make_case
from deltaconv_kernels.triton import launch

PROBLEM = backend.PyramidProblem(4, 6, 8, 1, (1, 2), torch.float32, residual=True)
COMPILED: list[str] = []


def compile_late(kernel, *arguments):
    COMPILED.append(kernel.__name__)
    return keep_no_kernel(kernel, *arguments)


def calls(batch: int, height: int, width: int) -> list[str]:
    """The names of the kernels that a forward and a backward pass of such an image compile."""
    COMPILED.clear()
    case = make_case(Shape(batch, height, width, PROBLEM.channels, PROBLEM.kernel_size, PROBLEM.factors), residual=True)
    launch.pyramid_forward(*case.arguments)
    launch.pyramid_backward(*case.backward_arguments, (True, True, True))
    return COMPILED


if __name__ == "__main__":
    driver.set_active(NoDriver())
    with (
        mock.patch.object(launch, "tiles_for", tiles_for),
        mock.patch.object(backend, "why_not_here", return_value=None),
        mock.patch.object(CompiledKernel, "run", return_value=None),
        mock.patch.object(CompiledKernel, "launch_metadata", return_value=None),
    ):
        backend.precompile([PROBLEM], gradients=True, device="cpu")
        with mock.patch.object(JITFunction, "_do_compile", compile_late):
            for batch, height, width in ((1, 4, 6), (3, 8, 2), (1, 5, 6)):
                print(batch, height, width, *calls(batch, height, width))
