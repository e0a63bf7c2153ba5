"""The CPU kernels built for ARM NEON, run in an emulator: right there too, though nothing is said of their speed."""

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
import torch

from deltaconv_kernels import reference
from deltaconv_kernels.testing import ERROR_BUDGET, Shape, make_case, oracle, relative_error

CSRC = Path(__file__).parents[2] / "csrc"
DRIVER = Path(__file__).parent / "neon" / "driver.cpp"
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)  # in the driver's order

CASES = [(Shape(1, 9, 13, 34, k, (1, 2)), torch.float32, "scaled") for k in (1, 3, 5, 7, 9, 11, 13, 17, 31)]
CASES += [(Shape(2, 5, 3, 6, 5, (1, 3)), dtype, "sigmoid") for dtype in DTYPES]
CASES += [(Shape(1, 12, 20, 40, 7, (2, 4)), dtype, "scaled") for dtype in DTYPES]


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    for tool in (COMPILER, EMULATOR):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool} (Debian: apt install g++-aarch64-linux-gnu qemu-user)")
    folder = tmp_path_factory.mktemp("neon")
    names = ("convolve", "accumulate", "forward", "backward", "kernels", "resampling")
    sources = [DRIVER, *(CSRC / "cpu" / f"{name}.cpp" for name in names)]
    flags = ["-std=c++20", "-O1", "-ffp-contract=fast", "-Wno-psabi", "-DDELTACONV_ISA=baseline", f"-I{CSRC}"]
    program = folder / "driver"
    subprocess.run([COMPILER, *flags, "-static", *sources, "-o", program], check=True)
    return program


def test_kernels_on_neon(driver, tmp_path):
    cases = [make_case(shape, dtype, gate=gate, residual=True) for shape, dtype, gate in CASES]
    with open(tmp_path / "in", "wb") as file:
        for (shape, dtype, gate), case in zip(CASES, cases, strict=True):
            sizes = (shape.batch, shape.height, shape.width, shape.inter, len(shape.factors), shape.kernel_size)
            header = (*sizes, DTYPES.index(dtype), reference.GATES.index(gate), *shape.factors)
            file.write(struct.pack(f"={len(header)}q", *header))
            for tensor in (case.x, case.weight, case.bias, case.residual, case.grad):
                assert tensor is not None
                file.write(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    subprocess.run([EMULATOR, driver, tmp_path / "in", tmp_path / "out"], check=True)
    results = (tmp_path / "out").read_bytes()
    start = 0
    for (shape, dtype, _), case in zip(CASES, cases, strict=True):
        expected = oracle(case)
        for name in ("y", "grad_x", "grad_weight", "grad_bias"):
            count = expected[name].numel()
            result = torch.frombuffer(bytearray(results), dtype=dtype, count=count, offset=start)
            start += count * dtype.itemsize
            error = relative_error(result.view(expected[name].shape), expected[name])
            assert error <= ERROR_BUDGET[dtype], f"{name} of {shape} in {dtype}: relative error {error:.2e}"
    assert start == len(results)
