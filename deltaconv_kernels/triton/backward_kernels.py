"""Gradients up to x: pooled inputs, through the gate, and back through convolution and pooling. No atomics.

Between the launches two float32 workspaces live in global memory, stage after stage, [pixels of the stage, C] each:
p_a holds the gradient of every convolution's result; p_d the pooled inputs, p_g their gradient, of factors > 1 alone.
"""

import triton
import triton.language as tl

from .convolution import add, convolve, load_points, load_row, zeros
from .forward_kernel import convolve_pair, gate_open
from .grid import (
    Problem,
    Stage,
    TileSize,
    cell_fraction,
    cell_start,
    channel_lanes,
    last_window,
    patch_origins,
    pool_end,
    pool_start,
    tallest_cell,
)


@triton.jit(do_not_specialize=["B", "H", "W"])
def pyramid_backward_pool_kernel(
    p_x, p_d, B, H, W,
    C: tl.constexpr, FACTORS: tl.constexpr, EVEN: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr, RW: tl.constexpr,
):  # fmt: skip
    """Pools x for every factor > 1. Axis 0: tiles of BP runs of RW pixels, stage after stage; axis 1: channels."""
    i_t = tl.program_id(0)
    o_c, m_c = channel_lanes(tl.program_id(1), C, BP, BC)
    first = 0
    pixels = tl.zeros([], tl.int64)
    for i_s in tl.static_range(len(FACTORS)):
        if FACTORS[i_s] > 1:
            h, w = H // FACTORS[i_s], W // FACTORS[i_s]
            n_c = tl.cdiv(w, RW)
            tiles = tl.cdiv(B * h * n_c, BP)
            if (i_t >= first) & (i_t < first + tiles):
                o_b, row, o_n, m_p = patch_origins(i_t - first, B, h, n_c, BP)
                column = o_n * RW
                p_image = p_x + o_b.to(tl.int64) * H * W * C + o_c
                means = load_row(
                    p_image, row, column, m_p & m_c, H, W, h, w, C, RW, FACTORS[i_s], EVEN[i_s], BP, BC
                )  # fmt: skip
                p_row = p_d + (pixels + (o_b.to(tl.int64) * h + row) * w + column) * C + o_c
                for n in tl.static_range(RW):
                    tl.store(p_row + n * C, means[n], mask=m_p & m_c & (column + n < w))
            first += tiles
            pixels += B.to(tl.int64) * h * w


@triton.jit
def cells_around(position, N: tl.constexpr, size, n, FACTOR: tl.constexpr, EVEN: tl.constexpr):
    """The starts of cells position - 1 to position + N: between a reduced row's cell and the next lie its outputs."""
    starts = ()
    for i in tl.static_range(N + 2):
        starts = starts + (cell_start(position + (i - 1), size, n, FACTOR, EVEN),)
    return starts


@triton.jit
def upsampled_from(position, starts, i: tl.constexpr, t, size, n, FACTOR: tl.constexpr, EVEN: tl.constexpr):
    """The t-th output row that reduced row position + i has a share in: its index, that share, and a mask."""
    reduced = position + i
    row = starts[i] + t
    rising = row < starts[i + 1]
    fraction = cell_fraction(row, tl.where(rising, reduced - 1, reduced), size, n, FACTOR, EVEN)
    # Before the first reduced row and after the last, both neighbours are that row.
    whole = tl.where(rising, reduced == 0, reduced == n - 1)
    share = tl.where(whole, 1.0, tl.where(rising, fraction, 1 - fraction))
    return row, share, (row < starts[i + 2]) & (reduced < n)


@triton.jit
def load_patch(
    p_image, row, column, m_lane, H, W, Y: tl.constexpr, RH: tl.constexpr, RW: tl.constexpr
):  # fmt: skip
    """RH x RW pixels of an H x W image of Y channels: RH * RW of [BP, BC]."""
    values = ()
    for i in tl.static_range(RH):
        p_row = p_image + ((row + i).to(tl.int64) * W + column) * Y
        values = values + load_points(p_row, m_lane & (row + i < H), column, W, RW, Y)
    return values


@triton.jit
def load_upsample_adjoint(
    p_image, row, column, m_lane, H, W, h, w,
    Y: tl.constexpr, FACTOR: tl.constexpr, EVEN: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """The gradient of the patch of gated values at (row, column), gathered from the result's: RH * RW of [BP, BC]."""
    RH: tl.constexpr = tile.RH
    RW: tl.constexpr = tile.RW
    tops = cells_around(row, RH, H, h, FACTOR, EVEN)
    lefts = cells_around(column, RW, W, w, FACTOR, EVEN)
    sums = zeros(RH * RW, tile.BP, tile.BC)
    for i_y in range(2 * tallest_cell(H, h, FACTOR, EVEN)):
        for i_x in range(2 * tallest_cell(W, w, FACTOR, EVEN)):
            across = ()
            for n in tl.static_range(RW):
                across = across + (upsampled_from(column, lefts, n, i_x, W, w, FACTOR, EVEN),)
            values = ()
            for i in tl.static_range(RH):
                y, b_down, m_y = upsampled_from(row, tops, i, i_y, H, h, FACTOR, EVEN)
                p_row = p_image + y.to(tl.int64) * W * Y
                for n in tl.static_range(RW):
                    x, b_right, m_x = across[n]
                    b_g = tl.load(p_row + x.to(tl.int64) * Y, mask=m_lane & m_y & m_x, other=0).to(tl.float32)
                    values = values + (b_g * (b_down * b_right),)
            sums = add(sums, values, RH * RW)
    return sums


@triton.jit
def gate_backward(b_g, b_u, b_v, gate_scale, SIGMOID: tl.constexpr):
    """The gradients of u and v where b_g is that of the gated value."""
    opened = gate_open(b_v, gate_scale, SIGMOID)
    slope = gate_scale * (opened * (1 - opened)) if SIGMOID else gate_scale
    return b_g * opened, b_g * b_u * slope


@triton.jit
def gate_stage(
    p_plane, p_w, p_b, p_grad, p_a, i_t, n_r, n_c, B, H, W, h, w, gate_scale,
    problem: tl.constexpr, stage: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """One tile of one stage; p_plane holds the stage's inputs and p_a takes the gradients, both [B, h, w, C]."""
    C: tl.constexpr = problem.C
    RH: tl.constexpr = tile.RH
    RW: tl.constexpr = tile.RW
    o_b, o_r, o_n, m_p = patch_origins(i_t, B, n_r, n_c, tile.BP)
    o_c, m_c = channel_lanes(tl.program_id(1), C // 2, tile.BP, tile.BC)
    row, column = o_r * RH, o_n * RW
    Y: tl.constexpr = problem.S * (C // 2)
    p_grad_image = p_grad + o_b.to(tl.int64) * H * W * Y + stage.i_s * (C // 2) + o_c
    if stage.FACTOR == 1:
        b_g = load_patch(p_grad_image, row, column, m_p & m_c, H, W, Y, RH, RW)
    else:
        b_g = load_upsample_adjoint(
            p_grad_image, row, column, m_p & m_c, H, W, h, w, Y, stage.FACTOR, stage.EVEN, tile
        )  # fmt: skip
    b_u, b_v = convolve_pair(
        p_plane, p_w, p_b, o_b, row, column, m_p, o_c, m_c, h, w, h, w, problem, Stage(stage.i_s, 1, True), tile
    )  # fmt: skip
    for n in tl.static_range(RH * RW):
        y, x = row + n // RW, column + n % RW
        p_pixel = p_a + ((o_b.to(tl.int64) * h + y) * w + x) * C + o_c
        grad_u, grad_v = gate_backward(b_g[n], b_u[n], b_v[n], gate_scale, problem.SIGMOID)
        m_a = m_p & m_c & (y < h) & (x < w)
        tl.store(p_pixel, grad_u, mask=m_a)
        tl.store(p_pixel + C // 2, grad_v, mask=m_a)


@triton.jit(do_not_specialize=["B", "H", "W"])
def pyramid_backward_gate_kernel(
    p_x, p_d, p_w, p_b, p_grad, p_a, B, H, W, gate_scale,
    C: tl.constexpr, K: tl.constexpr, FACTORS: tl.constexpr, EVEN: tl.constexpr,
    SIGMOID: tl.constexpr, HAS_BIAS: tl.constexpr,
    BP: tl.constexpr, BC: tl.constexpr, RH: tl.constexpr, RW: tl.constexpr,
):  # fmt: skip
    """The gradient of every convolution's result. Axis 0: tiles, stage after stage; axis 1: channel pairs."""
    problem: tl.constexpr = Problem(C, K, len(FACTORS), SIGMOID, HAS_BIAS, False)
    tile: tl.constexpr = TileSize(BP, BC, RH, RW)
    i_t = tl.program_id(0)
    first = 0
    pixels = tl.zeros([], tl.int64)
    reduced = tl.zeros([], tl.int64)
    for i_s in tl.static_range(len(FACTORS)):
        h, w = H // FACTORS[i_s], W // FACTORS[i_s]
        n_r, n_c = tl.cdiv(h, RH), tl.cdiv(w, RW)
        tiles = tl.cdiv(B * n_r * n_c, BP)
        if (i_t >= first) & (i_t < first + tiles):
            p_plane = p_x if FACTORS[i_s] == 1 else p_d + reduced * C
            gate_stage(
                p_plane, p_w, p_b, p_grad, p_a + pixels * C, i_t - first, n_r, n_c, B, H, W, h, w, gate_scale,
                problem, Stage(i_s, FACTORS[i_s], EVEN[i_s]), tile,
            )  # fmt: skip
        first += tiles
        pixels += B.to(tl.int64) * h * w
        if FACTORS[i_s] > 1:
            reduced += B.to(tl.int64) * h * w


@triton.jit(do_not_specialize=["B", "H", "W"])
def pyramid_backward_pooled_input_kernel(
    p_a, p_w, p_g, B, H, W,
    C: tl.constexpr, K: tl.constexpr, FACTORS: tl.constexpr, EVEN: tl.constexpr,
    BP: tl.constexpr, BC: tl.constexpr, RH: tl.constexpr, RW: tl.constexpr,
):  # fmt: skip
    """The gradient of every pooled input over the size of its window. Axes as in the gate kernel, all C channels."""
    i_t = tl.program_id(0)
    o_c, m_c = channel_lanes(tl.program_id(1), C, BP, BC)
    first = 0
    pixels = tl.zeros([], tl.int64)
    reduced = tl.zeros([], tl.int64)
    for i_s in tl.static_range(len(FACTORS)):
        h, w = H // FACTORS[i_s], W // FACTORS[i_s]
        if FACTORS[i_s] > 1:
            n_r, n_c = tl.cdiv(h, RH), tl.cdiv(w, RW)
            tiles = tl.cdiv(B * n_r * n_c, BP)
            if (i_t >= first) & (i_t < first + tiles):
                o_b, o_r, o_n, m_p = patch_origins(i_t - first, B, n_r, n_c, BP)
                row, column = o_r * RH, o_n * RW
                b_g = convolve(
                    zeros(RH * RW, BP, BC), p_a + (pixels + o_b.to(tl.int64) * h * w) * C + o_c,
                    p_w + i_s * (K * K * C) + o_c, row, column, m_p, m_c, h, w, h, w,
                    C, K, 1, True, True, TileSize(BP, BC, RH, RW),
                )  # fmt: skip
                for n in tl.static_range(RH * RW):
                    y, x = row + n // RW, column + n % RW
                    height = pool_end(y, H, h, FACTORS[i_s], EVEN[i_s]) - pool_start(y, H, h, FACTORS[i_s], EVEN[i_s])
                    width = pool_end(x, W, w, FACTORS[i_s], EVEN[i_s]) - pool_start(x, W, w, FACTORS[i_s], EVEN[i_s])
                    p_pixel = p_g + (reduced + (o_b.to(tl.int64) * h + y) * w + x) * C + o_c
                    b_mean = b_g[n] / (height * width).to(tl.float32)
                    tl.store(p_pixel, b_mean, mask=m_p & m_c & (y < h) & (x < w))
            first += tiles
            reduced += B.to(tl.int64) * h * w
        pixels += B.to(tl.int64) * h * w


@triton.jit
def window_of(position, t, size, n, FACTOR: tl.constexpr, EVEN: tl.constexpr):
    """The t-th pooling window from the last that holds a row: its index, and whether it does hold it."""
    window = last_window(position, size, n, FACTOR, EVEN) - t
    holds = (position < size) & (window >= 0)
    if not EVEN:
        holds = holds & (pool_end(window, size, n, FACTOR, EVEN) > position)
    return window, holds


@triton.jit
def add_pool_adjoint(
    sums, p_image, row, column, m_lane, H, W, h, w,
    C: tl.constexpr, FACTOR: tl.constexpr, EVEN: tl.constexpr, RH: tl.constexpr, RW: tl.constexpr,
):  # fmt: skip
    """Adds to each pixel the gradients of the pooling windows that hold it: one, or up to two each way."""
    windows: tl.constexpr = 1 if EVEN else 2
    for i_y in range(windows):
        for i_x in range(windows):
            across = ()
            for n in tl.static_range(RW):
                across = across + (window_of(column + n, i_x, W, w, FACTOR, EVEN),)
            values = ()
            for i in tl.static_range(RH):
                y, m_y = window_of(row + i, i_y, H, h, FACTOR, EVEN)
                p_row = p_image + y.to(tl.int64) * w * C
                for n in tl.static_range(RW):
                    x, m_x = across[n]
                    b_g = tl.load(p_row + x.to(tl.int64) * C, mask=m_lane & m_y & m_x, other=0)
                    values = values + (b_g,)
            sums = add(sums, values, RH * RW)
    return sums


@triton.jit(do_not_specialize=["B", "H", "W"])
def pyramid_backward_input_kernel(
    p_a, p_g, p_w, p_dx, B, H, W,
    C: tl.constexpr, K: tl.constexpr, FACTORS: tl.constexpr, EVEN: tl.constexpr,
    BP: tl.constexpr, BC: tl.constexpr, RH: tl.constexpr, RW: tl.constexpr,
):  # fmt: skip
    """The gradient of x, every stage summed in order. Axis 0: tiles of x; axis 1: blocks of all C channels."""
    n_r, n_c = tl.cdiv(H, RH), tl.cdiv(W, RW)
    o_b, o_r, o_n, m_p = patch_origins(tl.program_id(0), B, n_r, n_c, BP)
    o_c, m_c = channel_lanes(tl.program_id(1), C, BP, BC)
    row, column = o_r * RH, o_n * RW
    sums = zeros(RH * RW, BP, BC)
    pixels = tl.zeros([], tl.int64)
    reduced = tl.zeros([], tl.int64)
    for i_s in tl.static_range(len(FACTORS)):
        h, w = H // FACTORS[i_s], W // FACTORS[i_s]
        offset = o_b.to(tl.int64) * h * w
        if FACTORS[i_s] == 1:
            sums = convolve(
                sums, p_a + (pixels + offset) * C + o_c, p_w + i_s * (K * K * C) + o_c, row, column, m_p, m_c,
                h, w, h, w, C, K, 1, True, True, TileSize(BP, BC, RH, RW),
            )  # fmt: skip
        else:
            sums = add_pool_adjoint(
                sums, p_g + (reduced + offset) * C + o_c, row, column, m_p & m_c, H, W, h, w,
                C, FACTORS[i_s], EVEN[i_s], RH, RW,
            )  # fmt: skip
            reduced += B.to(tl.int64) * h * w
        pixels += B.to(tl.int64) * h * w
    for n in tl.static_range(RH * RW):
        y, x = row + n // RW, column + n % RW
        p_pixel = p_dx + ((o_b.to(tl.int64) * H + y) * W + x) * C + o_c
        tl.store(p_pixel, sums[n], mask=m_p & m_c & (y < H) & (x < W))
