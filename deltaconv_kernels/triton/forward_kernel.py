"""The whole pyramid in one launch: pooling, convolutions, gate, upsampling, residual, slice of the result."""

import triton
import triton.language as tl

from .convolution import convolve, zeros
from .grid import Problem, Stage, TileSize, cell_fraction, cell_start, channel_lanes, patch_origins, tallest_cell


@triton.jit
def gate_open(b_v, gate_scale, SIGMOID: tl.constexpr):
    """The factor with which channel c + C/2 opens the gate for channel c."""
    opened = gate_scale * b_v
    if SIGMOID:
        opened = tl.sigmoid(opened)
    return opened


@triton.jit
def convolve_pair(
    p_x, p_w, p_b, o_b, row, column, m_p, o_c, m_c, H, W, h, w,
    problem: tl.constexpr, stage: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """Convolution and bias of channels c and c + C/2 at one patch: two tuples of RH * RW [BP, BC]."""
    C: tl.constexpr = problem.C
    K: tl.constexpr = problem.K
    p_image = p_x + o_b.to(tl.int64) * H * W * C + o_c
    p_filter = p_w + stage.i_s * (K * K * C) + o_c
    u, v = zeros(tile.RH * tile.RW, tile.BP, tile.BC), zeros(tile.RH * tile.RW, tile.BP, tile.BC)
    for half in range(2):
        shift = half * (C // 2)
        u = v
        if problem.HAS_BIAS:
            b_bias = tl.load(p_b + stage.i_s * C + o_c + shift, mask=m_c, other=0).to(tl.float32)
        else:
            b_bias = tl.zeros([tile.BP, tile.BC], tl.float32)
        sums = ()
        for _ in tl.static_range(tile.RH * tile.RW):
            sums = sums + (b_bias,)
        v = convolve(
            sums, p_image + shift, p_filter + shift, row, column, m_p, m_c, H, W, h, w,
            C, K, stage.FACTOR, stage.EVEN, False, tile,
        )  # fmt: skip
    return u, v


@triton.jit
def store_result(p_y, p_r, offset, m_y, b_y, HAS_RESIDUAL: tl.constexpr):
    if HAS_RESIDUAL:
        b_y += tl.load(p_r + offset, mask=m_y, other=0).to(tl.float32)
    tl.store(p_y + offset, b_y, mask=m_y)


@triton.jit
def clamped(gated, row, column, h, w, RH: tl.constexpr, RW: tl.constexpr):
    """The patch with every value outside h x w replaced by the nearest inside: upsampling clamps its neighbours."""
    in_rows = ()
    for i in tl.static_range(RH):
        for n in tl.static_range(RW):
            if i == 0:
                b_g = tl.where(row < 0, gated[RW + n], gated[n])
            else:
                b_g = tl.where(row + i >= h, in_rows[(i - 1) * RW + n], gated[i * RW + n])
            in_rows = in_rows + (b_g,)
    inside = ()
    for i in tl.static_range(RH):
        for n in tl.static_range(RW):
            if n == 0:
                b_g = tl.where(column < 0, in_rows[i * RW + 1], in_rows[i * RW])
            else:
                b_g = tl.where(column + n >= w, inside[i * RW + n - 1], in_rows[i * RW + n])
            inside = inside + (b_g,)
    return inside


@triton.jit
def store_upsampled(
    p_y, p_r, gated, o_b, row, column, m_p, o_y, m_c, H, W, h, w,
    Y: tl.constexpr, FACTOR: tl.constexpr, EVEN: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    RH: tl.constexpr, RW: tl.constexpr,
):  # fmt: skip
    """Stores the output pixels of the (RH - 1) x (RW - 1) cells between gated values; a pixel has Y channels."""
    left = ()
    for n in tl.static_range(RW):
        left = left + (cell_start(column + n, W, w, FACTOR, EVEN),)
    for i in tl.static_range(RH - 1):
        top = cell_start(row + i, H, h, FACTOR, EVEN)
        bottom = cell_start(row + i + 1, H, h, FACTOR, EVEN)
        for i_y in range(tallest_cell(H, h, FACTOR, EVEN)):
            y = top + i_y
            down = cell_fraction(y, row + i, H, h, FACTOR, EVEN)
            m_row = m_p & m_c & (y < bottom)
            o_row = (o_b.to(tl.int64) * H + y) * W * Y + o_y
            blended = ()
            for n in tl.static_range(RW):
                blended = blended + (gated[i * RW + n] * (1 - down) + gated[(i + 1) * RW + n] * down,)
            for i_x in range(tallest_cell(W, w, FACTOR, EVEN)):
                for n in tl.static_range(RW - 1):
                    x = left[n] + i_x
                    right = cell_fraction(x, column + n, W, w, FACTOR, EVEN)
                    b_y = blended[n] * (1 - right) + blended[n + 1] * right
                    store_result(p_y, p_r, o_row + x.to(tl.int64) * Y, m_row & (x < left[n + 1]), b_y, HAS_RESIDUAL)


@triton.jit
def forward_stage(
    p_x, p_w, p_b, p_r, p_y, i_t, n_r, n_c, B, H, W, h, w, gate_scale,
    problem: tl.constexpr, stage: tl.constexpr, tile: tl.constexpr,
):  # fmt: skip
    """One tile of one stage: BP patches of BC channel pairs."""
    C: tl.constexpr = problem.C
    RH: tl.constexpr = tile.RH
    RW: tl.constexpr = tile.RW
    o_b, o_r, o_n, m_p = patch_origins(i_t, B, n_r, n_c, tile.BP)
    o_c, m_c = channel_lanes(tl.program_id(1), C // 2, tile.BP, tile.BC)
    if stage.FACTOR == 1:
        row, column = o_r * RH, o_n * RW
    else:  # patches share a border, so that each holds all four neighbours of the pixels it stores
        row, column = o_r * (RH - 1) - 1, o_n * (RW - 1) - 1
    b_u, b_v = convolve_pair(
        p_x, p_w, p_b, o_b, row, column, m_p, o_c, m_c, H, W, h, w, problem, stage, tile
    )  # fmt: skip
    gated = ()
    for n in tl.static_range(RH * RW):
        gated = gated + (b_u[n] * gate_open(b_v[n], gate_scale, problem.SIGMOID),)
    Y: tl.constexpr = problem.S * (C // 2)
    o_y = stage.i_s * (C // 2) + o_c
    if stage.FACTOR == 1:
        o_patch = ((o_b.to(tl.int64) * H + row) * W + column) * Y + o_y
        for i in tl.static_range(RH):
            o_row = o_patch + i * W.to(tl.int64) * Y
            m_row = m_p & m_c & (row + i < H)
            for n in tl.static_range(RW):
                store_result(p_y, p_r, o_row + n * Y, m_row & (column + n < W), gated[i * RW + n], problem.HAS_RESIDUAL)
    else:
        gated = clamped(gated, row, column, h, w, RH, RW)
        store_upsampled(
            p_y, p_r, gated, o_b, row, column, m_p, o_y, m_c, H, W, h, w,
            Y, stage.FACTOR, stage.EVEN, problem.HAS_RESIDUAL, RH, RW,
        )  # fmt: skip


@triton.jit(do_not_specialize=["B", "H", "W"])
def pyramid_forward_kernel(
    p_x, p_w, p_b, p_r, p_y, B, H, W, gate_scale,
    C: tl.constexpr, K: tl.constexpr, FACTORS: tl.constexpr, EVEN: tl.constexpr,
    SIGMOID: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    BP: tl.constexpr, BC: tl.constexpr, RH: tl.constexpr, RW: tl.constexpr,
):  # fmt: skip
    """Axis 0: the tiles of every stage, one stage after the other; axis 1: blocks of BC channel pairs."""
    problem: tl.constexpr = Problem(C, K, len(FACTORS), SIGMOID, HAS_BIAS, HAS_RESIDUAL)
    tile: tl.constexpr = TileSize(BP, BC, RH, RW)
    i_t = tl.program_id(0)
    first = 0
    for i_s in tl.static_range(len(FACTORS)):
        h, w = H // FACTORS[i_s], W // FACTORS[i_s]
        if FACTORS[i_s] == 1:
            n_r, n_c = tl.cdiv(h, RH), tl.cdiv(w, RW)
        else:
            n_r, n_c = tl.cdiv(h + 1, RH - 1), tl.cdiv(w + 1, RW - 1)
        tiles = tl.cdiv(B * n_r * n_c, BP)
        if (i_t >= first) & (i_t < first + tiles):
            forward_stage(
                p_x, p_w, p_b, p_r, p_y, i_t - first, n_r, n_c, B, H, W, h, w, gate_scale,
                problem, Stage(i_s, FACTORS[i_s], EVEN[i_s]), tile,
            )  # fmt: skip
        first += tiles
