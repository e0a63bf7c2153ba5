"""The triton backend without a GPU: right in the interpreter, and clean machine code for GPUs that are not here."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import deltaconv_kernels as dk
from deltaconv_kernels.testing import NAMED_SHAPES, Shape

pytest.importorskip("triton", reason="triton is not installed")

import triton
from compile_triton import compile_launch, launches_of, recorded_launches, resources
from count_pooled import row_of_inputs

from deltaconv_kernels.triton import launch


def version(module):
    return tuple(map(int, module.__version__.split(".")[:2]))


@pytest.mark.skipif(
    version(triton) < (3, 9) and version(np) >= (2, 4),
    reason="the interpreter of Triton 3.6 makes numbers of arrays in a way that NumPy 2.4 refuses",
)
def test_under_the_interpreter():
    file = Path(__file__).with_name("triton_interpreted.py")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", str(file)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks why it cannot run where no GPU is")
def test_why_it_cannot_run_without_a_gpu():
    assert "no CUDA or ROCm device" in dk.backends()["triton"].reason


@pytest.mark.parametrize(
    ("name", "dtype", "architecture"),
    [
        ("sd15-8-k3", torch.float16, 80),
        ("sd15-64-k7", torch.float32, 90),
        ("sd15-16-k5", torch.bfloat16, 100),
    ],
)
def test_machine_code(name, dtype, architecture):
    """No spills, nothing staged through shared memory but the sums across lanes, no TF32, no atomics."""
    for launched in launches_of(NAMED_SHAPES[name], dtype, architecture):
        used = resources(compile_launch(launched, architecture))
        assert used.spilled_bytes == 0, launched.name
        assert used.registers < 255, launched.name
        assert used.tensor_core_instructions == 0, launched.name
        assert used.atomics == 0, launched.name
        if launched.name != "backward_weight":
            assert used.shared_bytes == 0, launched.name


def test_one_launch_forward_six_backward():
    names = [launched.name for launched in launches_of(Shape(2, 16, 16, 32, 3, (1, 2, 3)), torch.float32, 90)]
    assert names == [
        "forward",
        "backward_pool",
        "backward_gate",
        "backward_pooled_input",
        "backward_input",
        "backward_weight",
        "backward_weight_sum",
    ]


def test_loads_grow_with_k_not_with_its_square():
    """A kernel that reads x again for every tap holds, or runs, K * K loads of it for each output."""
    loads = {}
    for kernel_size in (3, 9):
        shape = Shape(1, 16, 16, 32, kernel_size, (1,))
        forward = launches_of(shape, torch.float32, 90)[0]
        tile = forward.arguments
        used = resources(compile_launch(forward, 90))
        loads[kernel_size] = used.loads
        columns, taps = tile["RW"] + kernel_size - 1, tile["RH"] * kernel_size
        assert used.loads <= columns + taps + 1 + tile["RH"] * tile["RW"]  # u and v by one loop, bias, residual
    assert loads[9] < 3 * loads[3]


def test_a_window_is_summed_once():
    """LLVM's vectoriser would do it for every vector of neighbouring inputs that holds the window."""
    row, tile = row_of_inputs(Shape(1, 64, 64, 32, 7, (2,)), "float32")
    pooled, taps = tile["RW"] + 7 - 1, tile["RH"] * 7
    assert row["FADD"] == 4 * pooled
    assert row["LDG"] == 4 * pooled + taps


FACTORS = (1, 2, 3)
EVEN_KERNELS = {"forward", "backward_pool", "backward_gate", "backward_pooled_input", "backward_input"}


def compiled_anew(height, width, batch=2):
    """The kernels that images of this size still need after those of 12 x 12, which every one of FACTORS divides."""
    launches = [
        launches_of(shape, torch.float16, 90)
        for shape in (Shape(2, 12, 12, 32, 3, FACTORS), Shape(batch, height, width, 32, 3, FACTORS))
    ]
    return {first.name for first, second in zip(*launches, strict=True) if kernel_of(first) != kernel_of(second)}


def kernel_of(launched):
    """What Triton compiles a kernel for: constants and options. No integer is specialised on its value."""
    free = [p for p in launched.kernel.params if not p.is_constexpr and isinstance(launched.arguments[p.name], int)]
    assert all(p.do_not_specialize for p in free)
    return [launched.arguments[p.name] for p in launched.kernel.params if p.is_constexpr], launched.options


@pytest.mark.parametrize(
    ("height", "width", "batch", "expected"),
    [
        (12, 12, 3, set()),
        (18, 24, 2, set()),  # 2 and 3 divide these as well
        (16, 24, 2, EVEN_KERNELS),  # 3 does not divide 16
        (12, 13, 2, EVEN_KERNELS),
    ],
    ids=lambda value: "+".join(sorted(value)) if isinstance(value, set) else str(value),  # sets have no order
)
def test_what_compiles_anew(height, width, batch, expected):
    """Neither the batch nor H and W compile anew, unless other factors divide them: then five kernels of seven."""
    assert compiled_anew(height, width, batch) == expected


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (Shape(1, 1, 1, 2 * 1048560 + 2, 1, (1,)), "at most 2097120 channels .* got C = 2097122"),
        (Shape(1, 1, 1, 1048562, 1, (1,)), "at most 1048560 channels .* got C = 1048562"),  # the backward's
        (Shape(2**31, 1, 1, 2, 1, (1,)), "at most 2147483639 patches .* got 2147483648"),
    ],
    ids=str,
)
def test_what_no_grid_holds_is_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        launches_of(shape, torch.float16, 90)


def test_a_gradient_of_too_many_weights_is_refused():
    C, factors = 1048560, (1, 1, 1)
    x, weight, grad = (
        torch.empty(size, device="meta") for size in ([1, 1, 1, C], [3, 31, 31, C], [1, 1, 1, 3 * C // 2])
    )
    message = r"weight: expected S\*K\*\(K \+ 1\)\*C of at most 2147483391 .* got 3120514560"
    with recorded_launches("sm90"), pytest.raises(ValueError, match=message):
        launch.pyramid_backward(grad, x, weight, None, factors, "scaled", 1.0, (False, True, False))


def test_the_most_channels():
    grids = [launched.grid for launched in launches_of(Shape(1, 1, 1, 1048560, 1, (1,)), torch.float16, 90)]
    assert max(grid[1] for grid in grids if len(grid) > 1) == launch.MAX_CHANNEL_BLOCKS


def test_host_overhead_is_measured_without_a_gpu():
    """In a process of its own: the tool takes Triton's driver away."""
    tool = Path(__file__).parents[2] / "tools" / "triton_kernels" / "measure_triton_host.py"
    printed = subprocess.run([sys.executable, tool, "--rounds", "1"], capture_output=True, text=True, check=True).stdout
    figures = [line.split()[-2:] for line in printed.splitlines()[:5]]
    assert all(float(figure) > 0 and unit == "µs" for figure, unit in figures), printed


@pytest.mark.parametrize("shape", [Shape(1, 1, 1, 2, 1, (1,)), Shape(1, 2, 3, 6, 1, (2,))], ids=str)
def test_the_smallest_sizes_compile(shape):
    for launched in launches_of(shape, torch.float16, 90):
        assert resources(compile_launch(launched, 90)).spilled_bytes == 0, launched.name


def test_compiles_for_amd():
    """Nothing spills, and no lane of a wave of 64 does what another does."""
    for launched in launches_of(Shape(1, 8, 8, 32, 3, (2,)), torch.bfloat16, "gfx942"):
        tile = launched.arguments
        items = tile["BP"] * tile["BC"] if "BP" in tile else tile["BLOCK"]
        assert 64 * launched.options["num_warps"] == items, launched.name
        assembly = compile_launch(launched, "gfx942").asm["amdgcn"]
        assert re.findall(r"\.vgpr_spill_count:\s+(\d+)", assembly) == ["0"], launched.name
