"""Outside of Python, or of this library: ONNX by decomposition, AOTInductor packages."""

import onnxruntime
import pytest
import torch

import deltaconv_kernels as dk
from deltaconv_kernels import reference
from deltaconv_kernels.testing import ERROR_BUDGET, relative_error

ANY_SIZE = {0: torch.export.Dim("B"), 1: torch.export.Dim("H", min=3), 2: torch.export.Dim("W", min=3)}


class Pyramid(torch.nn.Module):
    def __init__(self, gate):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.nn.Parameter(torch.randn(3, 5, 5, 8, generator=generator) / 5)
        self.bias = torch.nn.Parameter(torch.randn(3, 8, generator=generator))
        self.gate = gate

    def forward(self, x, residual):
        return dk.pyramid(x, self.weight, self.bias, (1, 2, 3), self.gate, 1.5, residual)


def images(batch, height, width, *channels):
    generator = torch.Generator().manual_seed(batch + height + width)
    return tuple(torch.randn(batch, height, width, c, generator=generator) for c in channels)


def in_pytorchs_operators(model, inputs, dynamic_shapes=None):
    program = torch.export.export(model, inputs, dynamic_shapes=dynamic_shapes)
    program = program.run_decompositions(dk.decompositions())
    assert not [node for node in program.graph.nodes if "deltaconv" in str(node.target)]
    return program


def assert_equal_in_onnxruntime(program, model, *problems):
    exported = torch.onnx.export(program, dynamo=True, verbose=False).model_proto
    session = onnxruntime.InferenceSession(exported.SerializeToString())
    names = [node.name for node in session.get_inputs()]
    for inputs in problems:
        (result,) = session.run(None, {n: t.numpy() for n, t in zip(names, inputs, strict=True)})
        with torch.no_grad():
            assert relative_error(torch.from_numpy(result), model(*inputs)) <= ERROR_BUDGET[torch.float32]


@pytest.mark.parametrize("gate", reference.GATES)
def test_a_pyramid_in_onnxruntime(gate):
    """Of one size whose windows overlap, and of any size."""
    model, inputs = Pyramid(gate), images(2, 13, 11, 8, 12)
    assert_equal_in_onnxruntime(in_pytorchs_operators(model, inputs), model, inputs)
    of_any_size = in_pytorchs_operators(model, inputs, (ANY_SIZE, ANY_SIZE))
    assert_equal_in_onnxruntime(of_any_size, model, inputs, images(1, 3, 40, 8, 12), images(3, 67, 18, 8, 12))


def test_a_block_in_onnxruntime():
    torch.manual_seed(0)
    model, inputs = dk.DeltaConvBlock(16, kernel_size=5), images(2, 13, 11, 16, 16)
    program = in_pytorchs_operators(model, inputs, (ANY_SIZE, ANY_SIZE))
    assert_equal_in_onnxruntime(program, model, inputs, images(3, 9, 7, 16, 16))


def test_a_block_packaged_by_aotinductor(tmp_path):
    """Compiled ahead, loaded again: what runs is deltaconv::pyramid, so the backend in use computes."""
    torch.manual_seed(0)
    block, inputs = dk.DeltaConvBlock(16, kernel_size=5).requires_grad_(False), images(2, 13, 11, 16, 16)
    program = torch.export.export(block, inputs, dynamic_shapes=(ANY_SIZE, ANY_SIZE))
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "block.pt2"))
    compiled = torch._inductor.aoti_load_package(path)
    for problem in (inputs, images(1, 3, 40, 16, 16)):
        assert relative_error(compiled(*problem), block(*problem)) <= ERROR_BUDGET[torch.float32]
    with dk.use_backend("cuda"), pytest.raises(RuntimeError):
        compiled(*inputs)
