"""The operators in PyTorch's own, for deployment where `deltaconv::` does not exist: ONNX, other runtimes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from . import reference
from .block_ops import _composed
from .namespace import operators


def decompositions() -> dict[torch._ops.OperatorBase, Callable[..., Any]]:
    """A table for `ExportedProgram.run_decompositions`: PyTorch's default one, and the two operators of a forward pass.

    The program then holds PyTorch's operators alone, at any size that it was exported for, and computes what the
    backend `reference` does:

        program = torch.export.export(model, inputs).run_decompositions(deltaconv_kernels.decompositions())
        torch.onnx.export(program, f="model.onnx", dynamo=True)
    """
    table = torch.export.default_decompositions()
    table[operators.pyramid.default] = _pyramid
    table[operators.block.default] = _composed
    return table


def _pyramid(x, weight, bias, factors, gate="scaled", gate_scale=1.0, residual=None):
    return reference.pyramid_forward(x, weight, bias, factors, gate, gate_scale, residual)
