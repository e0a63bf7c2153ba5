"""Statistics of attention whose locality is known, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from deltaconv_distill.analysis import Rule
from deltaconv_distill.analysis.attention import probabilities, project
from deltaconv_distill.analysis.fitting import SHAPES, fit_profile
from deltaconv_distill.analysis.geometry import add_at_displacements, count_pairs, crop_displacements, window_sizes
from deltaconv_distill.analysis.hooks import Call
from deltaconv_distill.analysis.receptive_field import FieldSums, central_queries, gradient_field
from deltaconv_distill.analysis.records import LayerProfile, TimestepProfile
from deltaconv_distill.analysis.summary import summarise_layer
from deltaconv_distill.analysis.windows import WINDOW_ONLY, windowed_outputs
from synthetic_attention import (
    Strength,
    attention_map,
    delta,
    diagonal,
    gaussian,
    gaussian_attention,
    layer_sums,
    middle,
    positions,
    uniform,
)

GRID = (33, 39)
QUERIES = middle(GRID, 4)  # twelve tokens of the border away
TOKENS = GRID[0] * GRID[1]


def analysed(strength: Strength, bias: float = 0.0) -> tuple[LayerProfile, TimestepProfile]:
    layer = summarise_layer(layer_sums(strength, GRID, QUERIES, bias), Rule())
    return layer, layer.timesteps[0]


def test_uniform_attention() -> None:
    layer, timestep = analysed(uniform)
    assert timestep.entropy.item() == pytest.approx(1, abs=1e-5)
    assert timestep.window_share[0].tolist() == pytest.approx(
        [k * k / TOKENS for k in range(1, 25, 2)] + timestep.window_share[0, 12:].tolist(), rel=1e-4
    )
    assert layer.relative_map[0, 13:18, 13:18].unique().tolist() == pytest.approx([1 / TOKENS])
    assert (timestep.bias_share.item(), timestep.local_share.item()) == (pytest.approx(1, abs=1e-4), 0)
    assert timestep.anisotropy.item() == 0
    assert (layer.kernel_size, layer.fit.r2) == (3, 1)
    assert timestep.window_variance.min() > 0.99
    assert timestep.window_energy.min() > 0.99999
    assert layer.not_local is None


def test_attention_to_itself() -> None:
    layer, timestep = analysed(delta)
    assert timestep.entropy.item() == pytest.approx(0, abs=1e-6)
    assert timestep.window_share[0].tolist() == pytest.approx([1] * len(layer.window_sizes))
    assert timestep.window_energy[0].tolist() == pytest.approx([1] * len(layer.window_sizes))
    assert layer.relative_map[0, 15, 15] == pytest.approx(1)
    assert layer.relative_map.sum() == pytest.approx(1)
    assert timestep.anisotropy.item() == 0
    assert (layer.kernel_size, layer.head_kernel_sizes, layer.not_local) == (3, [3], None)
    assert layer.fit.r2 > 0.999


@pytest.mark.parametrize("sigma", [1.5, 2.0])
def test_gaussian_attention(sigma: float) -> None:
    """Entropy log(2 π e σ²), window shares as products of one-dimensional ones, half width σ √(2 ln 2)."""
    layer, timestep = analysed(gaussian(sigma))
    assert timestep.entropy.item() * math.log(TOKENS) == pytest.approx(math.log(2 * math.pi * math.e * sigma**2), 1e-3)
    line = torch.exp(-(torch.arange(-16, 17.0) ** 2) / (2 * sigma**2))
    for index, size in enumerate(layer.window_sizes[:12]):
        one = line[16 - size // 2 : 17 + size // 2].sum() / line.sum()
        assert timestep.window_share[0, index].item() == pytest.approx(one.item() ** 2, rel=1e-4)
    assert layer.fit.form == "gaussian"
    assert layer.fit.half_width == pytest.approx(sigma * math.sqrt(2 * math.log(2)), rel=0.03)
    assert layer.fit.r2 > 0.99
    assert timestep.bias_share.item() == pytest.approx(0, abs=0.02)
    assert timestep.anisotropy.item() == pytest.approx(0, abs=1e-4)
    expected = next(k for k in range(1, 31, 2) if math.erf(k / 2 / sigma / math.sqrt(2)) ** 2 >= 0.69)
    assert layer.kernel_size == expected


def test_local_part_and_bias_are_told_apart() -> None:
    layer, timestep = analysed(gaussian(2.0), bias=0.6)
    assert timestep.bias_share.item() == pytest.approx(0.6, abs=0.02)
    assert timestep.local_share.item() == pytest.approx(0.4, abs=0.02)
    assert layer.bias.item() == pytest.approx(0.6 / TOKENS, rel=0.03)
    assert layer.kernel_size == analysed(gaussian(2.0))[0].kernel_size


@pytest.mark.parametrize("radius", [5.0, 7.5, 10.0])
def test_kernel_size_is_60_percent_of_a_quadratic_fields_width(radius: float) -> None:
    """The rule gives what the paper's gives for the fall-off that the paper finds; K is odd, so within one."""
    layer, _ = analysed(lambda dy, dx: (1 - (dy**2 + dx**2) / radius**2).clamp(min=0), bias=0.5)
    assert layer.fit.form == "quadratic"
    assert layer.fit.half_width == pytest.approx(radius / math.sqrt(2), rel=0.02)
    assert abs(layer.kernel_size - 0.6 * 2 * radius) <= 1


def test_anisotropy_of_an_elongated_gaussian() -> None:
    _, timestep = analysed(gaussian(3.0, 1.5))
    assert timestep.anisotropy.item() == pytest.approx((9 - 2.25) / (9 + 2.25), abs=0.02)


def test_diagonal_stripes() -> None:
    layer, timestep = analysed(diagonal)
    assert timestep.anisotropy.item() == pytest.approx(1, abs=1e-6)
    outside = layer.relative_map[0] * (1 - torch.eye(31))
    assert outside.abs().max() == 0
    lengths = [min(q // 39, q % 39) + min(32 - q // 39, 38 - q % 39) + 1 for q in QUERIES.tolist()]
    for index, size in enumerate(layer.window_sizes[:12]):
        expected = sum(size / length for length in lengths) / len(lengths)
        assert timestep.window_share[0, index].item() == pytest.approx(expected, rel=1e-5)


def test_far_attention_is_not_local() -> None:
    layer, timestep = analysed(lambda dy, dx: ((dy == 8) & (dx == -9)).double())
    assert "explain" in str(layer.not_local)
    assert timestep.window_variance[0, layer.window_sizes.index(17)] < 0.1
    assert timestep.window_variance[0, layer.window_sizes.index(19)] > 0.999


def test_a_cap_is_said() -> None:
    sums = layer_sums(gaussian(6.0), GRID, QUERIES)
    layer = summarise_layer(sums, Rule(max_kernel_size=5, least_explained=0))
    assert layer.kernel_size == 5
    assert "more than 5" in str(layer.not_local)


@pytest.mark.parametrize("form", SHAPES)
def test_each_form_is_found(form: str) -> None:
    distance = torch.arange(30.0)
    strength = 0.01 + 0.2 * SHAPES[form](distance / 3.7)
    fit = fit_profile(distance, strength, 1 + distance)
    assert fit.form == form
    assert (fit.bias, fit.amplitude, fit.half_width) == pytest.approx((0.01, 0.2, 3.7), rel=1e-3)
    assert fit.r2 == pytest.approx(1, abs=1e-6)
    assert all(r2 < fit.r2 for name, r2 in fit.r2_by_form.items() if name != form)


def test_a_bias_is_never_negative() -> None:
    """Where the best bias would be, the amplitude is that of the least squares without one."""
    distance = torch.arange(30, dtype=torch.float64)
    for strength in ((1 - distance / 20).clamp(min=0) ** 4, 29 - distance):
        fit = fit_profile(distance, strength, torch.ones(30))
        shape = SHAPES[fit.form](distance / fit.half_width)
        alone = (shape * strength).sum() / (shape * shape).sum()
        assert (fit.bias, fit.amplitude) == (0, pytest.approx(alone.item()))


def test_rising_attention_has_no_local_part() -> None:
    distance = torch.arange(20.0)
    fit = fit_profile(distance, distance, torch.ones(20))
    assert (fit.amplitude, fit.bias, fit.r2) == (0, pytest.approx(9.5), pytest.approx(0))


@pytest.mark.parametrize("grid", [(5, 7), (1, 6), (4, 4)])
def test_displacements_against_a_loop(grid: tuple[int, int]) -> None:
    height, width = grid
    generator = torch.Generator().manual_seed(0)
    queries = torch.randperm(height * width, generator=generator)[: height * width * 2 // 3]
    rows = torch.rand(2, len(queries), height * width, generator=generator)
    total, pairs = torch.zeros(2, 2 * height - 1, 2 * width - 1), torch.zeros(2 * height - 1, 2 * width - 1)
    for index, query in enumerate(queries.tolist()):
        for key in range(height * width):
            dy, dx = key // width - query // width, key % width - query % width
            total[:, height - 1 + dy, width - 1 + dx] += rows[:, index, key]
            pairs[height - 1 + dy, width - 1 + dx] += 1
    ours = torch.zeros_like(total)
    add_at_displacements(ours, rows, queries, grid)
    torch.testing.assert_close(ours, total)
    assert count_pairs(queries, grid).equal(pairs)
    cropped = crop_displacements(total, grid, 3)
    assert cropped.shape == (2, 7, 7)
    assert cropped[0, 3, 3] == total[0, height - 1, width - 1]
    assert cropped[1, 3, 5] == total[1, height - 1, width + 1]


def test_windows_of_uniform_attention_are_box_means() -> None:
    grid = (6, 9)
    value = torch.randn(2, 1, 54, 3, generator=torch.Generator().manual_seed(0))
    weights = torch.full((2, 1, 54, 54), 1 / 54)
    (alone,) = windowed_outputs(weights, value, torch.arange(54), grid, [5], WINDOW_ONLY)
    image = value[:, 0].mT.unflatten(-1, grid)
    boxes = torch.nn.functional.avg_pool2d(image, 5, stride=1, padding=2, count_include_pad=False)
    torch.testing.assert_close(alone[:, 0].mT.unflatten(-1, grid), boxes)
    for output in windowed_outputs(weights, value, torch.arange(54), grid, [0, 1, 5, 17]):
        torch.testing.assert_close(output, value.mean(-2, keepdim=True).expand_as(output))


def test_a_window_is_exact_inside_and_takes_the_mean_outside() -> None:
    grid, queries = (9, 11), torch.tensor([4 * 11 + 5])
    value = torch.randn(1, 1, 99, 2, generator=torch.Generator().manual_seed(0))
    weights = attention_map(lambda dy, dx: ((dy == 0) & (dx == 3)).double(), grid, queries)
    seen, missed = windowed_outputs(weights, value, queries, grid, [7, 5])
    torch.testing.assert_close(seen[0, 0, 0], value[0, 0, 4 * 11 + 8])
    inside = torch.zeros(9, 11, dtype=torch.bool)
    inside[2:7, 3:8] = True
    torch.testing.assert_close(missed[0, 0, 0], value[0, 0, ~inside.flatten()].mean(0))


def test_window_sizes_end_where_the_grid_does() -> None:
    assert window_sizes((2, 3), 31) == [1, 3, 5]
    assert window_sizes((64, 64), 31)[-1] == 31


def test_projected_attention_is_the_gaussian_it_was_made_for() -> None:
    grid, queries = (9, 12), torch.tensor([50, 3, 107])
    projected = project(gaussian_attention(1.7), positions(grid))
    ((chunk, weights),) = probabilities(projected, queries)
    assert chunk.equal(queries)
    torch.testing.assert_close(weights, attention_map(gaussian(1.7), grid, queries), rtol=1e-3, atol=1e-6)


def test_receptive_field_is_the_attention_where_values_are_alike() -> None:
    """With the same value everywhere, output depends on input through the values alone: weight times |W_o W_v|."""
    grid, attention = (9, 12), gaussian_attention(1.7)
    inputs = positions(grid)
    attention.to_v.weight[:, :3] = 0
    queries, directions = torch.tensor([50, 51]), torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    call = Call("layer", attention, grid, inputs, attention(inputs))
    field = gradient_field(call, queries, directions)
    matrix = attention.to_out[0].weight @ attention.to_v.weight
    norm = (directions @ matrix).square().sum(-1).mean().sqrt()
    expected = norm * attention_map(gaussian(1.7), grid, queries)[0]
    torch.testing.assert_close(field, expected, rtol=1e-3, atol=1e-6)
    sums = FieldSums(grid)
    sums.add(call, queries, directions)
    assert sums.strength.argmax() == sums.strength.numel() // 2


def test_central_queries() -> None:
    generator = torch.Generator().manual_seed(0)
    for grid in ((16, 8), (1, 9), (2, 2)):
        queries = central_queries(grid, 4, generator)
        assert len(queries.unique()) == len(queries) > 0
        y, x = queries // grid[1], queries % grid[1]
        assert ((y >= grid[0] // 4) & (y <= grid[0] - grid[0] // 4)).all()
        assert ((x >= grid[1] // 4) & (x <= grid[1] - grid[1] // 4)).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 1.0}, "share: expected a number between 0 and 1, got 1.0"),
        ({"max_kernel_size": 8}, "max_kernel_size: expected an odd number from 3 to 31, got 8"),
        ({"max_kernel_size": 33}, "max_kernel_size: .* got 33"),
        ({"least_explained": -1}, "least_explained: .* got -1"),
    ],
)
def test_rules_that_cannot_be(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rule(**options)  # type: ignore[arg-type]
