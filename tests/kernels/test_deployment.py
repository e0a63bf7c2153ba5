"""Outside of Python, or of this library: ONNX by decomposition, AOTInductor packages."""

import os
import subprocess
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch.utils import cpp_extension

import deltaconv_kernels as dk
from deltaconv_kernels import backends, fusing, native, reference
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
    """``program`` is what torch.onnx.export gives, or an exported program for it."""
    if not isinstance(program, torch.onnx.ONNXProgram):
        program = torch.onnx.export(program, dynamo=True, verbose=False)
    exported = program.model_proto
    assert not [node.op_type for node in exported.graph.node if "deltaconv" in node.domain + node.op_type]
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


def test_a_model_in_onnxruntime_without_a_table():
    """`torch.onnx.export` of a model itself, a block, and one as a function. While it traces, neither is recorded."""

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = (dk.DeltaConvBlock(16, kernel_size=5) for _ in range(2))

        def forward(self, x, residual):
            return dk.delta_block(*self.second.arguments(self.first(x, residual), x))

    torch.manual_seed(0)
    model, inputs = Model().eval(), images(2, 13, 11, 16, 16)
    program = torch.onnx.export(model, inputs, dynamo=True, verbose=False, dynamic_shapes=(ANY_SIZE, ANY_SIZE))
    assert_equal_in_onnxruntime(program, model, inputs, images(3, 9, 7, 16, 16))
    program = torch.export.export(model, inputs)
    assert [node for node in program.graph.nodes if "deltaconv" in str(node.target)]  # not so in any other graph


def test_a_block_that_a_gpu_would_fuse_goes_to_onnx_in_parts(monkeypatch):
    monkeypatch.setattr(fusing, "FUSED_ON", ("cpu",))
    block = dk.DeltaConvBlock(16, kernel_size=3, dtype=torch.float16).requires_grad_(False).eval()
    x = torch.zeros(1, 6, 5, 16, dtype=torch.float16)
    nodes = torch.export.export(block, (x,)).graph.nodes
    assert "deltaconv.block.default" in [str(node.target) for node in nodes]
    exported = torch.onnx.export(block, (x,), dynamo=True, verbose=False).model_proto
    assert not [node.op_type for node in exported.graph.node if "deltaconv" in node.domain + node.op_type]


def test_onnx_export_names_what_it_does_not_know():
    class Raw(torch.nn.Module):
        def forward(self, x, weight):
            return torch.ops.deltaconv.pyramid(x, weight, None, [1, 2])

    inputs = torch.randn(1, 6, 5, 8), torch.randn(2, 3, 3, 8)
    with pytest.raises(torch.onnx.errors.OnnxExporterError) as error:
        torch.onnx.export(Raw(), inputs, dynamo=True, verbose=False)
    assert "deltaconv.pyramid" in str(error.value)


@pytest.fixture(scope="module")
def packaged(tmp_path_factory):
    """A block, and the path of what AOTInductor made of it, at sizes left open."""
    torch.manual_seed(0)
    block = dk.DeltaConvBlock(16, kernel_size=5, gate="sigmoid").requires_grad_(False)
    program = torch.export.export(block, images(2, 13, 11, 16, 16), dynamic_shapes=(ANY_SIZE, ANY_SIZE))
    path = str(tmp_path_factory.mktemp("package") / "block.pt2")
    return block, torch._inductor.aoti_compile_and_package(program, package_path=path)


PROBLEMS = (images(2, 13, 11, 16, 16), images(1, 3, 40, 16, 16))


def test_a_block_packaged_by_aotinductor(packaged):
    """Compiled ahead, loaded again: what runs is deltaconv::pyramid, so the backend in use computes."""
    block, path = packaged
    compiled = torch._inductor.aoti_load_package(path)
    for problem in PROBLEMS:
        assert relative_error(compiled(*problem), block(*problem)) <= ERROR_BUDGET[torch.float32]
    with dk.use_backend("cuda"), pytest.raises(RuntimeError):
        compiled(*PROBLEMS[0])


def test_a_packaged_block_in_a_process_without_python(packaged, tmp_path):
    """The library declares deltaconv::pyramid there, from the schema that Python has."""
    block, path = packaged
    program = tmp_path / "run_package"
    source = Path(__file__).with_name("run_package.cpp")
    includes = [f"-I{folder}" for folder in cpp_extension.include_paths()]
    (libraries,) = cpp_extension.library_paths()
    links = [f"-L{libraries}", f"-Wl,-rpath,{libraries},--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10", "-ldl"]
    compiler = os.environ.get("CXX", "g++")
    subprocess.run([compiler, "-std=c++20", *includes, str(source), "-o", str(program), *links], check=True)
    assert backends()["cpu"].available
    for problem in PROBLEMS:
        files = [tmp_path / name for name in ("x", "residual")]
        for file, tensor in zip(files, problem, strict=True):
            tensor.numpy().tofile(file)
        shape = "x".join(map(str, problem[0].shape))
        library = native.DIRECTORY / "libdeltaconv_cpu.so"
        subprocess.run([program, library, path, tmp_path / "result", shape, *files], check=True)
        result = torch.from_file(str(tmp_path / "result"), size=problem[0].numel()).view(problem[0].shape)
        assert relative_error(result, block(*problem)) <= ERROR_BUDGET[torch.float32]
