"""The triton backend in Triton's interpreter, against the float64 reference. test_triton.py runs this file in a process
of its own: Triton decides on its interpreter when it is imported, and the other tests import it compiled.
"""

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
import tune_triton

import deltaconv_kernels as dk
from deltaconv_kernels.backends import choose_backend
from deltaconv_kernels.testing import (
    Shape,
    assert_matches_oracle,
    make_case,
    oracle,
    poisoned_outputs,
    relative_error,
    run_with_gradients,
)
from deltaconv_kernels.triton import grid, launch
from deltaconv_kernels.triton.configurations import Configuration, Key, Tile, configuration, rule
from deltaconv_kernels.triton.forward_kernel import forward_stage

pytestmark = pytest.mark.skipif(not dk.triton.interpreted(), reason="needs TRITON_INTERPRET=1, see test_triton.py")

SINGLE, HALF, BRAIN = torch.float32, torch.float16, torch.bfloat16


@pytest.fixture(autouse=True)
def triton_in_use():
    with dk.use_backend("triton"), poisoned_outputs():
        yield


@pytest.mark.parametrize(
    ("shape", "dtype", "options"),
    [
        (Shape(1, 1, 1, 2, 1, (1,)), SINGLE, {}),
        (Shape(2, 8, 9, 6, 3, (1,)), SINGLE, {"residual": True}),
        (Shape(2, 5, 4, 34, 3, (1,)), BRAIN, {"gate": "sigmoid"}),  # C/2 = 17: a channel beyond one block
        (Shape(1, 3, 4, 4, 13, (1,)), HALF, {"residual": True}),  # H and W far below K
        (Shape(1, 4, 3, 4, 7, (1,)), BRAIN, {"bias": False}),
        (Shape(3, 16, 24, 4, 1, (1,)), HALF, {"gate": "sigmoid", "bias": False}),  # several tiles
        (Shape(2, 8, 8, 6, 3), BRAIN, {"gate": "sigmoid", "residual": True}),
        (Shape(1, 2, 2, 4, 5), SINGLE, {}),  # the reduced stage is one pixel
        (Shape(1, 5, 6, 4, 3), HALF, {"residual": True}),  # factor 2 divides W alone
        (Shape(1, 6, 9, 4, 1, (3, 1)), SINGLE, {"gate": "sigmoid"}),
        (Shape(1, 5, 4, 4, 1, (3,)), BRAIN, {"residual": True}),
        (Shape(1, 8, 4, 4, 3, (4,)), SINGLE, {"gate": "sigmoid", "bias": False}),
        (Shape(1, 5, 7, 4, 1, (1, 2, 4)), SINGLE, {"residual": True}),
        (Shape(1, 67, 2, 2, 1, (2,)), SINGLE, {}),  # where float16 pool windows go wrong, 67 → 33 …
        (Shape(1, 2, 384, 2, 1, (2,)), SINGLE, {}),  # … and infinite
    ],
    ids=str,
)
def test_matches_the_float64_reference(shape, dtype, options):
    assert_matches_oracle(make_case(shape, dtype, **options))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        (Shape(1, 9, 19, 6, 5), SINGLE),  # tails of rows, columns and channels; windows that differ
        (Shape(1, 6, 24, 4, 3, (1, 2, 3)), HALF),
    ],
    ids=str,
)
def test_tiles_of_a_gpu(shape, dtype):
    """The interpreter's own tiles are small; these are what a GPU takes without a measurement."""
    on_gpu = rule(Key(shape.inter, shape.height, shape.width, shape.kernel_size, dtype, "sm90"))
    assert on_gpu.forward.RW == 8
    with tune_triton.tiles(on_gpu):
        assert_matches_oracle(make_case(shape, dtype, residual=True))


def test_repeats_its_bits():
    case = make_case(Shape(1, 20, 60, 4, 1, (1, 2)))
    assert launch.partitions(1, 20, 60) > 1
    first, again = (run_with_gradients(dk.pyramid, case) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_expanded_gradient():
    case = make_case(Shape(1, 3, 4, 4, 3, (1,)))
    leaves = [t.detach().requires_grad_() for t in (case.x, case.weight, case.bias)]
    dk.pyramid(*leaves, case.factors, case.gate, case.gate_scale).sum().backward()  # grad is one element, expanded
    case.grad.fill_(1)
    expected = oracle(case)
    for name, leaf in zip(("x", "weight", "bias"), leaves, strict=True):
        assert relative_error(leaf.grad, expected[f"grad_{name}"]) <= 1e-5, name


def test_strided_inputs():
    case = make_case(Shape(1, 3, 4, 4, 3, (1,)))
    x = torch.stack([case.x, case.x + 1], dim=-1)[..., 0]
    planes = case.x.permute(0, 3, 1, 2).contiguous()
    expected = oracle(case)["y"]
    for strided in (x, planes.permute(0, 2, 3, 1)):
        assert not strided.is_contiguous()
        assert relative_error(dk.pyramid(strided, *case.arguments[1:]), expected) <= 1e-5


@pytest.mark.parametrize("wanted", ["x", "weight", "bias", "residual"])
def test_one_gradient_alone(wanted):
    case = make_case(Shape(1, 3, 4, 4, 1, (1,)), residual=True)
    tensors = {"x": case.x, "weight": case.weight, "bias": case.bias, "residual": case.residual}
    leaf = tensors[wanted] = tensors[wanted].detach().requires_grad_()
    y = dk.pyramid(*list(tensors.values())[:3], case.factors, case.gate, case.gate_scale, tensors["residual"])
    (grad,) = torch.autograd.grad(y, leaf, case.grad)
    assert relative_error(grad, oracle(case)[f"grad_{wanted}"]) <= 1e-5


def test_compiles_without_graph_breaks():
    case = make_case(Shape(1, 3, 4, 4, 3, (1,)))
    compiled = torch.compile(dk.pyramid, fullgraph=True, backend="aot_eager")
    expected = run_with_gradients(dk.pyramid, case)
    for name, result in run_with_gradients(compiled, case).items():
        assert torch.equal(result, expected[name]), name


def test_empty_batch():
    case = make_case(Shape(0, 6, 5, 8, 3), residual=True)
    results = run_with_gradients(dk.pyramid, case)
    assert results["y"].shape == (0, 6, 5, 8)
    assert results["grad_x"].shape == case.x.shape
    assert torch.equal(results["grad_weight"], torch.zeros_like(case.weight))
    assert torch.equal(results["grad_bias"], torch.zeros_like(case.bias))


def test_float64_is_refused():
    case = make_case(Shape(1, 3, 4, 4, 1, (1,)), torch.float64)
    with pytest.raises(RuntimeError, match="'triton' was requested but cannot run: it computes in"):
        dk.pyramid(*case.arguments)


def test_auto_does_not_take_the_interpreter():
    with dk.use_backend("auto"):
        assert choose_backend(torch.zeros(1)).name == "cpu"


def test_a_configuration_knows_no_batch():
    assert "batch" not in Key.__dataclass_fields__
    key = Key(160, 64, 64, 7, torch.float32, "sm90")
    assert configuration(key) is configuration(key)


def test_tuning_keeps_the_fastest(monkeypatch):
    wide = Tile(64, 16, 2, 3, 4)
    key = Key(4, 3, 4, 1, torch.float32, "interpreter")
    for tiles in ("convolution_tiles", "weight_tiles"):
        monkeypatch.setattr(tune_triton, tiles, lambda lanes: [wide])
    milliseconds = iter([2.0, 1.0, 1.0, 2.0, 2.0, 1.0])  # of the rule's tile and the wide one, for three kernels
    monkeypatch.setattr(tune_triton, "do_bench", lambda run, **_: next(milliseconds))
    ahead = {}
    best = tune_triton.tune(make_case(Shape(1, 3, 4, 4, 1, (1,))), key, ahead.__setitem__)
    assert best == Configuration(wide, rule(key).backward, wide)
    assert [candidate.weight for candidate in ahead["weight"]] == [rule(key).weight, wide]


def test_tiles_compile_ahead_in_other_processes():
    shape, candidate = Shape(1, 3, 4, 4, 1, (1,)), rule(Key(4, 3, 4, 1, torch.float32, "interpreter"))
    tune_triton.compile_on_all_cores(shape, torch.float32, "cpu", "forward", [candidate])


def test_tiles_tuned_elsewhere(tmp_path):
    best = rule(Key(160, 64, 64, 7, torch.bfloat16, "sm90"))
    record = {"tuned": "sm90/64x64x160-k7-bfloat16", "configuration": asdict(best)}
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"parts": {"triton-tune": {"records": [record]}}}))
    assert tune_triton.recorded(file) == {"sm90/64x64x160-k7-bfloat16": best}


@triton.jit
def last_tile_kernel(
    p_x, p_w, p_b, p_y, B, H, W, gate_scale,
    C: tl.constexpr, K: tl.constexpr, FACTOR: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr, R: tl.constexpr,
):  # fmt: skip
    """The forward kernel's last program: patches of R x R, one stage whose factor divides H and W."""
    h, w = H // FACTOR, W // FACTOR
    if FACTOR == 1:
        n_r, n_c = tl.cdiv(h, R), tl.cdiv(w, R)
    else:
        n_r, n_c = tl.cdiv(h + 1, R - 1), tl.cdiv(w + 1, R - 1)
    last = tl.cdiv(B * n_r * n_c, BP) - 1
    forward_stage(
        p_x, p_w, p_b, None, p_y, last, n_r, n_c, B, H, W, h, w, gate_scale,
        grid.Problem(C, K, 1, False, True, False), grid.Stage(0, FACTOR, True), grid.TileSize(BP, BC, R, R),
    )  # fmt: skip


@pytest.mark.parametrize("factor", [1, 2])
def test_tensors_beyond_32_bits(factor):
    """The last pixels of 2^31 elements and more, whose memory is asked for but not touched."""
    batch, height, width, channels, rows, columns = 9, 4096, 1024, 64, 8, 32
    case = make_case(Shape(1, rows, width, channels, 3, (factor,)), HALF)
    x, y = (torch.from_numpy(np.zeros((batch, height, width, c), np.float16)) for c in (channels, channels // 2))
    assert x.numel() > 2**31
    x[-1, -rows:] = case.x[0]
    last_tile_kernel[(1, 2)](
        x, case.weight, case.bias, y, batch, height, width, case.gate_scale,
        C=channels, K=3, FACTOR=factor, BP=64, BC=16, R=3 if factor == 2 else 2,
    )  # fmt: skip
    expected = oracle(case)["y"]
    assert relative_error(y[-1:, -1:, -columns:], expected[:, -1:, -columns:]) <= 2e-3


@triton.jit
def positions_kernel(p_out, p_fraction, start, row, size, FACTOR: tl.constexpr, N: tl.constexpr):
    n = size // FACTOR
    i = start + tl.arange(0, N)
    o_i = tl.arange(0, N)
    tl.store(p_out + o_i, grid.pool_start(i, size, n, FACTOR, False))
    tl.store(p_out + N + o_i, grid.pool_end(i, size, n, FACTOR, False))
    tl.store(p_out + 2 * N + o_i, grid.cell_start(i - 1, size, n, FACTOR, False))
    rows = row + tl.arange(0, N)
    tl.store(p_out + 3 * N + o_i, grid.last_window(rows, size, n, FACTOR, False))
    tl.store(p_fraction + o_i, grid.cell_fraction(rows, i - 1, size, n, FACTOR, False))
    tl.store(p_out + 4 * N + o_i, tl.zeros([N], tl.int32) + grid.longest_window(size, n, FACTOR, False))


@pytest.mark.parametrize("factor", [2, 3, 5])
@pytest.mark.parametrize("size", [8, 67, 384, 46349, 2**29 + 3])
def test_positions_are_exact_integers(size, factor):
    """Against Python's integers, at the last windows of images whose products leave float16 and 32 bits behind."""
    count, n = 4, size // factor
    start = max(n - count, 0)
    cells = [min(max(-((n - (2 * m + 1) * size) // (2 * n)), 0), size) for m in range(start - 1, start - 1 + count)]
    row = cells[0]
    out, fraction = torch.empty(5 * count, dtype=torch.int32), torch.empty(count)
    positions_kernel[(1,)](out, fraction, start, row, size, FACTOR=factor, N=count)
    starts, ends, cell_starts, last, longest = out.view(5, count).tolist()
    for j in range(min(count, n)):
        i = start + j
        assert starts[j] == i * size // n
        assert ends[j] == -(-(i + 1) * size // n)
        assert ends[j] - starts[j] <= longest[j]
        assert last[j] == max(k for k in range(max(start - 2, 0), n) if k * size // n <= row + j) or row + j >= size
    assert cell_starts == cells
    exact = ((2 * row + 1) * n - (2 * (start - 1) + 1) * size) / (2 * size)
    assert math.isclose(fraction[0].item(), exact, rel_tol=1e-6)
